"""Networks whose scores are plain sums over pixels, so that everything can be worked out by hand."""

import fiftyone as fo
import numpy as np
import torch
import torchvision.transforms as T
from operators_common import operator
from PIL import Image
from torch import nn

CLASSES = ["tabby, tabby cat", "tiger cat", "dog", "crane"]
WEIGHTS = torch.tensor([[2.0, 0, 1], [1, 0, 0], [0, 0, 3], [0, 1, 0]])
SIDE = 16


class Mean(nn.Module):
    """Class scores are linear in a picture's mean colour: ``weights @ (red, green, blue)``."""

    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.pixels = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, len(weights), bias=False)
        self.pixels.weight.data = torch.eye(3)[..., None, None]
        self.head.weight.data = torch.as_tensor(weights).float()

    def forward(self, images):
        return self.head(self.pixels(images).mean((2, 3)))


class PerPixel(nn.Module):
    """A segmentation network: class scores of a pixel are linear in its colour."""

    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.pixels = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Conv2d(3, len(weights), 1, bias=False)
        self.pixels.weight.data = torch.eye(3)[..., None, None]
        self.head.weight.data = torch.as_tensor(weights).float()[..., None, None]

    def forward(self, images):
        return {"out": self.head(self.pixels(images))}


def picture(path, red, size=(SIDE, SIDE)):
    """Saves a picture whose left columns, a share of ``red``, are red and whose others are blue."""
    array = np.zeros((size[1], size[0], 3), np.uint8)
    edge = round(red * size[0])
    array[:, :edge, 0] = array[:, edge:, 2] = 255
    Image.fromarray(array).save(path)
    return str(path)


def samples(tmp_path, *rows):
    """Samples of (share of red, fields)."""
    return [
        fo.Sample(filepath=picture(tmp_path / f"{i}.png", red), **fields)
        for i, (red, fields) in enumerate(rows)
    ]


def labelled(*names):
    """Fields of samples whose ``truth`` is a classification of a name, or nothing."""
    return [{"truth": fo.Classification(label=n) if n else None} for n in names]


def explain(dataset, model=None, **arguments):
    """``compute_cams`` of a network of this file."""
    given = {
        "model": Mean() if model is None else model,
        "transforms": T.ToTensor(),
        "classes": CLASSES,
        "methods": "gradcam",
        "layers": "pixels",
        "cam_key": "run",
        "progress": False,
        "batch_size": 2,
        **arguments,
    }
    if given.get("preprocess") is not None:
        given.pop("transforms")
    return operator()(dataset, **given)


def logits(red, weights=WEIGHTS):
    """The scores of a picture, by hand."""
    return weights @ torch.tensor([red, 0, 1 - red])
