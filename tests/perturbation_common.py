"""Small layers, scores and helpers shared by the tests of perturbation methods."""

from __future__ import annotations

import torch

SCORED = ["scorecam", "sscam", "iscam"]
ON_PIXELS = ["occlusion", "rise"]
PERTURBATION = [*SCORED, "groupcam", "reciprocam", *ON_PIXELS, "ablationcam"]
# Few samples: tests are about what is computed, not how smooth it is.
QUICK = {"sscam": {"samples": 3}, "iscam": {"samples": 4}, "rise": {"samples": 40}}

# A non-negative layer of two channels on the image's own 2x2 grid.
A = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]], [[0.0, 1.0], [4.0, 0.0]]]])
ONES = torch.ones(1, 3, 2, 2)
TARGET = torch.tensor([2, 0, 4])


def quick(names):
    return [(name, QUICK[name]) if name in QUICK else name for name in names]


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=rel, atol=rel * float(b.abs().max()))


def rng(seed=51):
    return torch.Generator().manual_seed(seed)


class Probe:
    """A linear score, that writes down what it was asked."""

    def __init__(self, weights, bias=0.0, fits=10**9):
        self.weights, self.bias, self.fits = weights, bias, fits
        self.seen, self.rows, self.probabilities = [], [], []

    def __call__(self, images, rows=None, probability=False):
        assert len(images) == len(rows)
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.seen.append(images.clone())
        self.rows.extend(rows)
        self.probabilities.append(probability)
        return (images * self.weights).sum((1, 2, 3)) + self.bias


def pixel(row, column, size=(2, 2)):
    weights = torch.zeros(3, *size)
    weights[0, row, column] = 1.0
    return weights


def layer_of(net, images):
    with torch.no_grad():
        return net.features(net.stem(images))


def after_layer(net, activations):
    x = torch.tanh(net.tail(activations)).amax((2, 3))
    return net.fc2(torch.tanh(net.fc1(x)))
