"""The engine on a GPU: the same maps as on the CPU, nothing left behind on either."""

from __future__ import annotations

import copy

import pytest
import torch
from method_lists import ON_TENSORS

from cam_core import explain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Random weights are drawn on the device, whose generator is another one.
METHODS = [m for m in ON_TENSORS if m not in ("cam", "randomcam")]


@pytest.fixture(autouse=True)
def _full_float32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def pair(toys):
    """A network on both devices, its scores far apart."""
    net = toys.resnet().eval()
    net.fc.weight.data *= 10
    return net, copy.deepcopy(net).cuda()


def test_maps_are_those_of_the_cpu(pair, protect, corr):
    net, fast = pair
    images, targets = torch.randn(3, 3, 64, 96), torch.tensor([[1, 5], [0, -1], [7, 7]])
    expected = explain(net, images, METHODS, targets, ["layer2", "layer3", "layer4"])
    check = protect(fast)
    result = explain(fast, images.cuda(), METHODS, targets, ["layer2", "layer3", "layer4"])
    check()
    assert torch.equal(result.valid.cpu(), expected.valid)
    for key, maps in expected.maps.items():
        assert result.maps[key].is_cuda
        ours, theirs = result.maps[key].cpu()[expected.valid], maps[expected.valid]
        if theirs.any():
            assert corr(ours, theirs) > 0.999, key


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast(pair, corr, precision):
    _, fast = pair
    images = torch.randn(2, 3, 64, 64).cuda()
    methods = [m for m in METHODS if m != "ablationcam"]
    exact = explain(fast, images, methods, [1, 7], ["layer2", "layer3"])
    half = explain(fast, images, methods, [1, 7], ["layer2", "layer3"], precision=precision)
    for key, maps in exact.maps.items():
        assert half.maps[key].dtype is torch.float32
        assert corr(half.maps[key], maps) >= 0.98, key


def test_images_on_the_wrong_device(pair):
    _, fast = pair
    with pytest.raises(ValueError, match="images are on cpu, the model is on cuda:0"):
        explain(fast, torch.randn(1, 3, 64, 64))


def test_no_memory_is_kept(pair):
    _, fast = pair
    images = torch.randn(2, 3, 64, 64).cuda()
    explain(fast, images, METHODS, [0, 1], ["layer3"])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        explain(fast, images, METHODS, [0, 1], ["layer3"])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**20
