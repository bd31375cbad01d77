"""A detector whose candidates, scores and maps can be worked out by hand, and pictures for it."""

import fiftyone as fo
import numpy as np
import torch
import torchvision.transforms.functional as TF
from operators_common import compute
from PIL import Image
from torch import nn

from cam_core import Candidates, DetectionModel

SIDE, PATCH, CELLS = 64, 16, 4
CLASSES = ["dark", "light"]


class Grid(nn.Module):
    """One candidate box per patch; its score for both classes is how bright the patch is.

    The score of class 1 is ``4 * mean + bias``, and that of class 0 too unless it is made constant.
    """

    def __init__(self, bias=0.0, dark=None):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, PATCH, PATCH)
        nn.init.constant_(self.patches.weight, 4 / (3 * PATCH * PATCH))
        nn.init.constant_(self.patches.bias, 0)
        self.head = nn.Conv2d(4, 2, 1)
        nn.init.constant_(self.head.weight, 0.25)
        nn.init.constant_(self.head.bias, bias)
        if dark is not None:
            with torch.no_grad():
                self.head.weight[0] = 0
                self.head.bias[0] = dark

    def forward(self, images):
        return self.head(self.patches(images).relu())


def read(outputs, images):
    corners = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS)).flip(1) * float(PATCH)
    boxes = torch.cat([corners, corners + PATCH], 1)
    rows = outputs.flatten(2).transpose(1, 2)
    return [Candidates(boxes, row, row.detach().sigmoid()) for row in rows]


def detector(bias=0.0, dark=None, confidence=0.25):
    net = Grid(bias, dark).eval()
    return DetectionModel(net, read=read, levels=["patches"], confidence=confidence)


class Letterbox:
    """The picture's long side becomes 64, the rest is black: of one of 128 x 64 the middle rows."""

    def __call__(self, picture):
        scale = SIDE / max(picture.size)
        small = picture.resize([round(s * scale) for s in picture.size], Image.Resampling.BOX)
        left, top = ((SIDE - s) // 2 for s in small.size)
        padding = [left, top, SIDE - small.width - left, SIDE - small.height - top]
        return TF.to_tensor(TF.pad(small, padding))


#: shares of the width and height of a picture of 128 x 64 whose letterboxed form is one patch
def cell(row, column):
    """The box of a patch: two rows of four lie on the picture."""
    return [column / 4, row / 2, 1 / 4, 1 / 2]


def picture(path, cells, rest=0.1):
    """Saves a picture of 128 x 64 with patches of the given brightness.

    Args:
        path: of the file
        cells: ``{(row, column): brightness}`` in [0, 1]
        rest (0.1): of the others
    """
    grey = np.full((64, 128), rest)
    for (row, column), value in cells.items():
        grey[32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)] = value
    rgb = np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, 2)
    Image.fromarray(rgb).save(path)
    return str(path)


def labels(*rows, **values):
    """Detections of (label, box), the last entries of a row being attributes."""
    made = []
    for label, box, *more in rows:
        extra = {**values, **(more[0] if more else {})}
        made.append(fo.Detection(label=label, bounding_box=box, **extra))
    return fo.Detections(detections=made)


def run(dataset, model, **arguments):
    """``compute_cams`` with a letterbox, unless other transforms are given."""
    arguments = {"transforms": Letterbox(), "classes": CLASSES, "batch_size": 2, **arguments}
    return compute(dataset, model=model, **arguments)


def registered():
    """A loader for ``register_model``."""
    return detector(-2.0, dark=-3.0), Letterbox(), CLASSES
