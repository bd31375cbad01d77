"""What the tests of comparisons share: a network whose evidence is known pixel by pixel, and its maps."""

import fiftyone as fo
import numpy as np
import torch
import torchvision.transforms as T
from operators_common import operator
from PIL import Image

SIDE = 32
CLASSES = ["plus", "minus"]
#: rows and columns that the network reads as evidence; what is around it speaks against
TOP, LEFT, SIZE = 6, 14, 10


def evidence():
    """(SIDE, SIDE) 1 where the evidence is."""
    mask = torch.zeros(SIDE, SIDE)
    mask[TOP : TOP + SIZE, LEFT : LEFT + SIZE] = 1
    return mask


class Planted(torch.nn.Module):
    """Two classes by the mean of one region of the red channel; a little of the rest speaks against.

    Args:
        weight: how strongly
        sign: -1 predicts the other class
        moved: pixels that the region is shifted down by
    """

    def __init__(self, weight=8.0, sign=1.0, moved=0):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 2, 1, bias=False)
        red = torch.zeros(2, 3)
        red[0, 0], red[1, 0] = 1, -1
        self.features.weight = torch.nn.Parameter(red[..., None, None])
        mask = evidence().roll(moved, 0)
        plane = weight * mask / mask.sum() - 0.25 * weight * (1 - mask) / (1 - mask).sum()
        self.plane = torch.nn.Parameter(sign * plane)

    def forward(self, images):
        maps = self.features(images)
        return (maps * self.plane).sum((2, 3))  # of red, and of its negative


def picture(sign, seed):
    """The region is of one sign, strongly; the rest is of the same sign, weakly."""
    rng = np.random.default_rng(seed)
    red = 0.2 * sign + 0.1 * rng.standard_normal((SIDE, SIDE))
    red = np.where(evidence().numpy() > 0, 0.7 * sign + 0.1 * rng.standard_normal(red.shape), red)
    array = rng.integers(100, 156, (SIDE, SIDE, 3))
    array[..., 0] = 128 + 127 * red.clip(-1, 1)
    return array.astype(np.uint8)


def planted(folder, count=16, labels=True):
    """Samples of both classes in turn, their class in ``label``."""
    samples = []
    for i in range(count):
        sign = 1 if i % 2 == 0 else -1
        path = folder / f"planted{i}.png"
        Image.fromarray(picture(sign, i)).save(path)
        label = CLASSES[0] if sign > 0 else CLASSES[1]
        fields = {"label": fo.Classification(label=label)} if labels else {}
        samples.append(fo.Sample(filepath=str(path), **fields))
    return samples


#: the model's transform: values -1 to 1, 128 is 0
to_tensor = T.Compose(
    [T.Resize((SIDE, SIDE)), T.ToTensor(), T.Normalize([128 / 255] * 3, [127 / 255] * 3)]
)


def perfect(activations):
    """The evidence itself."""
    return evidence().to(activations).expand(len(activations), -1, -1)


def partial(activations):
    """The evidence, and half as much heat elsewhere, without any order."""
    noise = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    return (0.4 * evidence() + 0.6 * noise).to(activations).expand(len(activations), -1, -1)


def inverse(activations):
    """Everything but the evidence."""
    return (1 - evidence()).to(activations).expand(len(activations), -1, -1)


def cams(samples, methods=(perfect, partial, inverse), cam_key="run", network=None, **arguments):
    """``compute_cams`` with the planted network."""
    return operator()(
        samples, network or Planted(), transforms=to_tensor, classes=CLASSES, methods=list(methods),
        layers="features", cam_key=cam_key, progress=False, num_workers=0,
        **{"heatmap_size": SIDE, **arguments},
    )  # fmt: skip


def compare(samples, cam_keys=None, network=None, **arguments):
    """``compare_cams`` with the planted network, or with the models that are given."""
    given = {"transforms": to_tensor, "classes": CLASSES, "progress": False, "num_workers": 0}
    if "models" not in arguments:
        given["model"] = network or Planted()
    return operator("compare_cams")(samples, cam_keys, **{**given, **arguments})


def whole():
    """What a registered model's loader returns."""
    return Planted(), to_tensor, CLASSES
