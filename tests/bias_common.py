"""What the tests of background bias share: pictures whose cue is known, and networks made by hand.

A picture is 32 x 32: the red channel of its background says the class, the blue channel of its object
says it again, and whatever does not is grey. A network weighs the two, so what its score rests on is
known without training.
"""

import importlib
import zlib

import fiftyone as fo
import numpy as np
import torch
from operators_common import PLUGIN, operator
from PIL import Image

SIDE = 32
CLASSES = ["plus", "minus"]
RELIES, ON_OBJECT = "relies on background", "relies on object"


def inner(name):
    """A module of the plugin's own operators."""
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


def picture(background, thing, box=(4, 6, 12, 12), seed=0):
    """Draws a picture.

    Args:
        background: -1, 0 or 1: the red of the background
        thing: -1, 0 or 1: the blue of the object
        box: left, top, width, height of the object in pixels
        seed: of a little noise in the green channel, which no network here reads
    """
    array = np.full((SIDE, SIDE, 3), 128, np.uint8)
    array[..., 0] = 128 + 127 * background
    left, top, width, height = box
    array[top : top + height, left : left + width, 0] = 128
    array[top : top + height, left : left + width, 2] = 128 + 127 * thing
    array[..., 1] = np.random.default_rng(seed).integers(100, 156, (SIDE, SIDE))
    return array


def sample(folder, name, background, thing, box=(4, 6, 12, 12), boxed=True, label=None, **fields):
    """A sample of such a picture, its object boxed in ``ground_truth`` and its class in ``label``."""
    path = folder / f"{name}.png"
    Image.fromarray(picture(background, thing, box, zlib.crc32(name.encode()))).save(path)
    if boxed:
        relative = [v / SIDE for v in box]
        kind = CLASSES[0] if (thing or background) > 0 else CLASSES[1]
        detection = fo.Detection(label=kind, bounding_box=relative)
        fields["ground_truth"] = fo.Detections(detections=[detection])
    if label is not None:
        fields["label"] = fo.Classification(label=label)
    return fo.Sample(filepath=str(path), **fields)


def agreeing(folder, count=48, **fields):
    """Samples whose background and object say the same class, which is their label, in turn."""
    samples = []
    for i in range(count):
        sign = 1 if i % 2 == 0 else -1
        box = (2 + 3 * (i % 5), 3 + 2 * (i % 7), 12, 12)
        kind = CLASSES[0] if sign > 0 else CLASSES[1]
        samples.append(sample(folder, f"agree{i}", sign, sign, box, label=kind, **fields))
    return samples


class Cues(torch.nn.Module):
    """Two classes by the mean red of the picture and its mean blue.

    Args:
        red: weight of the background's cue
        blue: weight of the object's cue
        negative: whether each class has only evidence against it, so that its map has no heat
        corner: the lower right corner, in pixels, that alone is read; None for everything
    """

    def __init__(self, red=0.0, blue=0.0, negative=False, corner=None):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 4, 1, bias=False)
        weight = torch.zeros(4, 3)
        weight[0, 0], weight[1, 0], weight[2, 2], weight[3, 2] = 1, -1, 1, -1
        self.features.weight = torch.nn.Parameter(weight[..., None, None])
        head = torch.tensor([[red, 0, blue, 0], [0, red, 0, blue]], dtype=torch.float32)
        if negative:
            head = -head.flip(0)
        self.fc = torch.nn.Linear(4, 2, bias=False)
        self.fc.weight = torch.nn.Parameter(head)
        self.corner = corner

    def forward(self, images):
        maps = self.features(images).relu()
        if self.corner is not None:
            maps = maps[..., -self.corner :, -self.corner :]
        return self.fc(maps.mean((2, 3)))


def to_tensor(image):
    """The model's transform: values -1 to 1, 128 is 0."""
    array = np.asarray(image.resize((SIDE, SIDE)), np.float32)
    return torch.from_numpy((array.transpose(2, 0, 1) - 128) / 127)


def probability(network, array):
    """What ``Cues`` says of class "plus", without torch: red and blue on average, weighed.

    Args:
        network: keyword arguments of :class:`Cues`
        array: (h, w, 3) uint8
    """
    values = (np.asarray(array, np.float64) - 128) / 127
    margin = network["red"] * values[..., 0].mean() + network["blue"] * values[..., 2].mean()
    return 1 / (1 + np.exp(-margin))


#: half of the softmax's argument per unit of a cue: a background of 86 % gives 17, an object of 14 % 14
BACKGROUND = {"red": 20.0, "blue": 0.0}
OBJECT = {"red": 0.0, "blue": 100.0}


def find(samples, network=None, cam_key="run", **arguments):
    """``find_background_bias`` with a network by hand; its run is computed first if there is none."""
    network = Cues(**(BACKGROUND if network is None else network))
    return operator("find_background_bias")(
        samples, cam_key, network, transforms=to_tensor, classes=CLASSES, progress=False,
        num_workers=0, **{"layers": "features", "methods": "hirescam", **arguments},
    )  # fmt: skip


def background_model():
    """A loader for ``register_model``: a network that reads the background."""
    return Cues(**BACKGROUND), to_tensor, CLASSES
