"""Images with planted cues: objects with exact masks on textured backgrounds, and networks for them.

The generator keeps an image's parts, so the same object can be drawn again on other backgrounds:
that is the truth which the causal checks and the heat are compared with.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 8
SIDE = 48

#: name -> what is planted: the share of a class's images that carry the class's own cue
GRADED = (0.0, 0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
VARIANTS = {
    "clean": "backgrounds independent of the class",
    "graded": "background families correlate with the class, by class from 0 to .95",
    "biased": "background families nearly determine the class (.97)",
    "patch": "three classes carry a watermark in a corner (.9)",
    "centre": "backgrounds independent, objects always in the centre",
    "tint": "a global tint nearly determines the class (.95)",
}
PATCHED = (0, 3, 6)
_CUE = {"graded": GRADED, "biased": (0.97,) * CLASSES}


@dataclasses.dataclass
class Planted:
    """Images and their parts.

    Attributes:
        images: (N, SIDE, SIDE, 3) uint8
        masks: (N, SIDE, SIDE) bool, the object
        labels: (N,) class, the object's shape
        families: (N,) the background's family
        marked: (N,) bool, whether the watermark is there
        objects: (N, SIDE, SIDE, 3) float, the object's own colours
        variant: which cue is planted
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    families: np.ndarray
    marked: np.ndarray
    objects: np.ndarray
    variant: str

    def rerender(self, rng: np.random.Generator) -> np.ndarray:
        """Draws the same objects on backgrounds of other families, without watermark and tint."""
        families = (self.families + rng.integers(1, CLASSES, len(self.labels))) % CLASSES
        return _compose(self.objects, self.masks, backgrounds(families, rng), rng)

    def only_backgrounds(self, rng: np.random.Generator) -> np.ndarray:
        """Draws fresh backgrounds of the same families, with the cues and without objects."""
        scene = backgrounds(self.families, rng)
        scene[self.marked] = watermark(scene[self.marked], self.labels[self.marked])
        tint = tints(self.labels) if self.variant == "tint" else None
        return _compose(self.objects, np.zeros_like(self.masks), scene, rng, tint)


def generate(variant: str, count: int, seed: int) -> Planted:
    """Draws a dataset.

    Args:
        variant: one of ``VARIANTS``
        count: how many images; the classes are equally frequent
        seed: of everything random
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant: {variant!r} is unknown; choose from {', '.join(VARIANTS)}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    masks = shapes(labels, rng, centred=variant == "centre")
    objects = _object_colours(count, rng)
    strength = np.array(_CUE.get(variant, (0.0,) * CLASSES))
    own = rng.random(count) < strength[labels]
    families = np.where(own, labels, rng.integers(0, CLASSES, count))
    marked = np.zeros(count, bool)
    if variant == "patch":
        share = np.where(np.isin(labels, PATCHED), 0.9, 0.02)
        # the mark says which of the three classes, else it could only tell them from the others
        marked = rng.random(count) < share
    scene = backgrounds(families, rng)
    scene[marked] = watermark(scene[marked], labels[marked])
    tint = None
    if variant == "tint":
        tint = tints(np.where(rng.random(count) < 0.95, labels, rng.integers(0, CLASSES, count)))
    images = _compose(objects, masks, scene, rng, tint)
    return Planted(images, masks, labels, families, marked, objects, variant)


def _compose(
    objects: np.ndarray,
    masks: np.ndarray,
    scene: np.ndarray,
    rng: np.random.Generator,
    tint: np.ndarray | None = None,
) -> np.ndarray:
    image = np.where(masks[..., None], objects, scene)
    if tint is not None:
        image = image * tint[:, None, None]
    image += rng.normal(0, 0.04, image.shape).astype(np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def shapes(labels: np.ndarray, rng: np.random.Generator, centred: bool = False) -> np.ndarray:
    """Returns (N, SIDE, SIDE) bool masks of the classes' shapes, turned, scaled and placed at random."""
    count = len(labels)
    radius = rng.uniform(8.5, 12, count)
    low, high = radius + 1, SIDE - 1 - radius
    centre = rng.uniform(low[:, None], high[:, None], (count, 2))
    if centred:
        centre = SIDE / 2 + rng.uniform(-1, 1, (count, 2))
    angle = rng.uniform(-0.7, 0.7, count)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    dx = (x - centre[:, 0, None, None]) / radius[:, None, None]
    dy = (y - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    masks = np.zeros(u.shape, bool)
    for label in range(CLASSES):
        rows = labels == label
        masks[rows] = _shape(label, u[rows], v[rows])
    return masks


def _shape(label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    r, au, av = np.hypot(u, v), np.abs(u), np.abs(v)
    if label == 0:
        return r <= 0.85
    if label == 1:
        return np.maximum(au, av) <= 0.72
    if label == 2:
        return (v >= -0.5) & (v <= 1 - 1.732 * au)
    if label == 3:
        return ((au <= 0.28) & (av <= 0.95)) | ((av <= 0.28) & (au <= 0.95))
    if label == 4:
        return (r <= 0.95) & (r >= 0.5)
    if label == 5:
        return (au <= 0.38) & (av <= 0.98)
    if label == 6:
        return r <= 0.62 + 0.35 * np.cos(5 * np.arctan2(v, u))
    return (r <= 0.97) & (np.hypot(u - 0.45, v) >= 0.68)


def _object_colours(count: int, rng: np.random.Generator) -> np.ndarray:
    colour = rng.choice([0.1, 0.9], (count, 1, 1, 3)) + rng.uniform(-0.15, 0.15, (count, 1, 1, 3))
    grain = rng.normal(0, 0.06, (count, SIDE, SIDE, 1))
    return (colour + grain).clip(0, 1).astype(np.float32)


def backgrounds(families: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (N, SIDE, SIDE, 3) float scenes; a family is a kind of texture, colours are free."""
    count = len(families)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    pattern = np.empty((count, SIDE, SIDE), np.float32)
    frequency = rng.uniform(0.7, 1.2, (count, 1, 1)).astype(np.float32)
    phase = rng.uniform(0, 2 * math.pi, (2, count, 1, 1)).astype(np.float32)
    for family in range(CLASSES):
        rows = families == family
        pattern[rows] = _texture(family, x, y, frequency[rows], phase[:, rows], rng)
    low, high = rng.uniform(0.2, 0.8, (2, count, 1, 1, 3)).astype(np.float32)
    return low + (high - low) * pattern[..., None]


def _texture(family, x, y, f, p, rng) -> np.ndarray:
    """A texture in [0, 1]; f (n, 1, 1) is its frequency, p (2, n, 1, 1) its phases."""
    if family == 0:
        return 0.5 + 0.5 * np.sin(f * x + p[0])
    if family == 1:
        return 0.5 + 0.5 * np.sin(f * y + p[0])
    if family == 2:
        return 0.5 + 0.5 * np.sin(0.7 * f * (x + y) + p[0])
    if family == 3:
        return (np.sin(0.7 * f * x + p[0]) * np.sin(0.7 * f * y + p[1]) > 0).astype(np.float32)
    if family == 4:
        return (np.sin(f * x + p[0]) + np.sin(f * y + p[1]) > 1.2).astype(np.float32)
    if family == 5:
        coarse = torch.from_numpy(rng.random((len(f), 1, 7, 7), dtype=np.float32))
        return nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")[:, 0].numpy()
    if family == 6:
        return rng.random((len(f), SIDE, SIDE), dtype=np.float32)
    centre = 24 + 14 * np.cos(p)
    return 0.5 + 0.5 * np.sin(f * np.hypot(x - centre[0], y - centre[1]))


def watermark(scene: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Draws a 7 x 7 mark into the lower right corner; its pattern is that of the class."""
    out = scene.copy()
    labels = np.zeros(len(scene), int) if labels is None else labels
    rng = np.random.default_rng(7)
    marks = rng.integers(0, 2, (CLASSES, 7, 7, 3)).astype(np.float32)
    out[:, -9:-2, -9:-2] = marks[labels]
    return out


def tints(labels: np.ndarray) -> np.ndarray:
    """Returns (N, 3) gains of the colour channels."""
    turn = 2 * math.pi * (labels[:, None] / CLASSES + np.arange(3) / 3)
    return (1 + 0.18 * np.cos(turn)).astype(np.float32)


class SmallCnn(nn.Module):
    """Four convolutions, global average pooling, one linear layer: heat's best case."""

    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        blocks = []
        for depth, (before, after) in enumerate(itertools.pairwise(widths)):
            stride, kernel = (2, 5) if depth == 0 else (2 if depth == 1 else 1, 3)
            blocks += [
                nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TinyViT(nn.Module):
    """A vision transformer with a class token: heat's worst case."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4):
        super().__init__()
        # patches of 6 x 6 by two convolutions: from scratch a single one learns too little
        self.patch = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, 2, 2, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, 3, bias=False),
            nn.BatchNorm2d(width),
        )
        tokens = (SIDE // 6) ** 2
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens + 1, width))
        self.blocks = nn.Sequential(*[_Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.fc(self.norm(self.blocks(x))[:, 0])


#: network -> (class, the layer that is explained)
NETWORKS = {"cnn": (SmallCnn, "features"), "vit": (TinyViT, "blocks.2.norm1")}


def to_input(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to the networks' input (N, 3, H, W), about [-2, 2]."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() - 128) / 64


def train(network: str, data: Planted, epochs: int, seed: int, rate: float = 4e-3) -> nn.Module:
    """Trains a network from scratch and returns it in eval mode."""
    torch.manual_seed(seed)
    model = NETWORKS[network][0]()
    inputs, labels = to_input(data.images), torch.from_numpy(data.labels)
    batch = 64
    steps = epochs * (len(labels) // batch)
    rate = rate if network == "cnn" else rate / 4
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(batch):
            if len(rows) < batch:
                continue
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()
