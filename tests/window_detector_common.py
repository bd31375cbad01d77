"""A detector whose reasons are known: its candidates are windows, scored by colours."""

import torch
from bias_common import SIDE, Cues

from cam_core import Candidates, DetectionModel

BOX = 12
# The windows: every place where the pictures' objects are, and more.
LEFT, TOP, ACROSS, DOWN = 2, 3, 3, 2


class Windows(torch.nn.Module):
    """Candidates are windows of 12 x 12, scored by their own blue and the picture's red."""

    def __init__(self, red=0.0, blue=0.0, less=0.0):
        super().__init__()
        self.features = Cues().features
        self.red, self.blue, self.less = red, blue, less

    def forward(self, images):
        maps = self.features(images).relu()
        signs = maps[:, 0::2] - maps[:, 1::2]
        placed = signs[:, 1:, TOP:, LEFT:]
        own = torch.nn.functional.avg_pool2d(placed, BOX, (DOWN, ACROSS))[:, 0]
        whole = signs[:, 0].mean((1, 2))
        evidence = self.blue * own + self.red * whole[:, None, None]
        return (torch.stack([evidence, -evidence], -1) - self.less).flatten(1, 2)


def read(outputs, images):
    down = torch.arange(TOP, SIDE - BOX + 1, DOWN).float()
    across = torch.arange(LEFT, SIDE - BOX + 1, ACROSS).float()
    corners = torch.cartesian_prod(down, across).flip(1)
    boxes = torch.cat([corners, corners + BOX], 1)
    return [Candidates(boxes, row, row.detach().sigmoid()) for row in outputs]


def detector(**weights):
    return DetectionModel(Windows(**weights).eval(), read=read, levels=["features"])


BY_BACKGROUND, BY_OBJECT = {"red": 12.0}, {"blue": 8.0}
