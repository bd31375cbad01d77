"""Small networks and helpers shared by the tests of cam_core."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class GapNet(nn.Module):
    """conv, ReLU, conv, ReLU, global average pooling, linear: here every equivalence holds."""

    def __init__(self, channels: int = 6, classes: int = 5, inplace: bool = False):
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(inplace))
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.relu = nn.ReLU(inplace)
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(self.early(images))).mean((2, 3)))


class DeepNet(nn.Module):
    """Curved: what follows `features` is no linear head, so that methods differ."""

    def __init__(self, channels: int = 6, classes: int = 5, inplace: bool = False):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, 2, 1)
        self.features = nn.Sequential(
            nn.ReLU(inplace), nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(inplace)
        )
        self.tail = nn.Conv2d(channels, channels, 3, 2, 1)
        self.fc1 = nn.Linear(channels, 8)
        self.fc2 = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.tail(self.features(self.stem(images)))).amax((2, 3))
        return self.fc2(torch.tanh(self.fc1(x)))


def small_resnet(classes: int = 10) -> ResNet:
    """A ResNet with one block per stage and batch norms that do something."""
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def awake(net: nn.Module, size: int = 64) -> nn.Module:
    """Makes a randomly initialised network pass its signal on: else every score is the last bias.

    Batch norms get their inputs' statistics, layer scales become 1, zero heads are drawn again.
    """
    net.eval()
    for module in net.modules():
        scale = getattr(module, "layer_scale", None)
        if isinstance(scale, nn.Parameter):
            nn.init.ones_(scale)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches seen
            module.train()
    with torch.no_grad():
        net(torch.randn(8, 3, size, size))
    return net.eval()


def state_of(module: nn.Module) -> dict:
    """Everything about a module that explaining it must not change."""
    return {
        "training": [m.training for m in module.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in module.modules()
        ],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [p.grad is None for p in module.parameters()],
        "ids": [id(t) for t in (*module.parameters(), *module.buffers())],
        "values": [t.detach().clone() for t in (*module.parameters(), *module.buffers())],
        "forward": ["forward" in m.__dict__ for m in module.modules()],
    }


def assert_same_state(module: nn.Module, before: dict) -> None:
    after = state_of(module)
    for key, value in before.items():
        if key == "values":
            assert all(torch.equal(a, b) for a, b in zip(value, after[key], strict=True)), (
                "a tensor has changed"
            )
        else:
            assert value == after[key], f"{key} has changed"


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small networks run ten times faster on one thread of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(51)


@pytest.fixture(scope="session")
def toys():
    """The small networks, by name."""
    return types.SimpleNamespace(GapNet=GapNet, DeepNet=DeepNet, resnet=small_resnet, awake=awake)


@pytest.fixture
def protect():
    """Protects a module: `with`-less; call with a module, then call what it returned to check."""

    def remember(module: nn.Module):
        before = state_of(module)
        return lambda: assert_same_state(module, before)

    return remember


@pytest.fixture(scope="session")
def corr():
    return correlation
