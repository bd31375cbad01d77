"""Where a tail cannot be replayed: full forwards, said aloud once, with the right scores."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from cam_core import explain
from cam_core.capture.replay import take_rows


class Base(nn.Module):
    """A curved network of two stages, `first` and `last`."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.table, self.norm, self.fc = nn.Embedding(8, 4), nn.Identity(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.last(self.first(x).tanh()))

    def head(self, x):
        return self.fc(torch.tanh(x).amax((2, 3)))


class TableOfBatchSize(Base):
    """A table that happens to have as many rows as the batch has images."""

    def forward(self, x):
        scale = self.table(torch.arange(2)).prod(0)
        return self.head(self.last(self.first(x).tanh()) * scale[:, None, None])


class OneByOne(Base):
    """Calls a module once per image."""

    def forward(self, x):
        x = torch.cat([self.first(image[None]) for image in x])
        return self.head(self.last(x.tanh()))


class OrderByBatch(Base):
    """Calls its modules in another order for other batch sizes."""

    def forward(self, x):
        if len(x) == 2:
            self.table(torch.zeros(len(x), dtype=torch.long))
            self.norm(x)
        else:
            self.norm(x)
            self.table(torch.zeros(len(x), dtype=torch.long))
        return super().forward(x)


class Hooked(Base):
    """A user's hook changes what a module returns: applied to the answer it would act twice."""

    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda module, args, output: 2 * output)

    def forward(self, x):
        x = self.first(x).tanh()
        return self.head(self.last(x) + x.mean((2, 3), keepdim=True))


class HookedTap(Base):
    def __init__(self):
        super().__init__()
        self.last.register_forward_hook(lambda module, args, output: 2 * output)


NETS = [TableOfBatchSize, OneByOne, OrderByBatch, Hooked, HookedTap]


def ablation(net, images, layer, target):
    """By full forwards of one image and one channel."""
    result = []
    for image in images:
        hold = []
        with torch.no_grad():
            handle = layer.register_forward_hook(
                lambda m, a, out, hold=hold: hold.append(out.clone())
            )
            score = net(image[None])[0, target]
            handle.remove()
            (tap,) = hold
            total = 0
            for channel in range(tap.shape[1]):
                ablated = tap.clone()
                ablated[:, channel] = 0
                handle = layer.register_forward_hook(lambda m, a, out, v=ablated: v.clone())
                total = (
                    total + (score - net(image[None])[0, target]) / score.abs() * tap[0, channel]
                )
                handle.remove()
        result.append(total)
    return torch.stack(result)


@pytest.mark.parametrize("build", NETS, ids=lambda b: b.__name__)
def test_full_forwards_are_said_aloud_once_and_right(protect, build):
    net, images = build().eval(), torch.randn(2, 3, 16, 16)
    expected = ablation(net, images, net.last, 1)
    check = protect(net)
    with pytest.warns(
        UserWarning, match="layer 'last': only full forwards are possible .* give the same maps"
    ):
        first = explain(net, images, "ablationcam", 1, ["last"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = explain(net, images, "ablationcam", 1, ["last"])
    check()
    torch.testing.assert_close(
        first.maps["ablationcam", "last"][:, 0], expected, rtol=1e-3, atol=1e-5
    )
    assert torch.equal(first.maps["ablationcam", "last"], second.maps["ablationcam", "last"])


def test_scores_that_depend_on_the_batch_are_said_aloud():
    class Centred(Base):
        def head(self, x):
            return super().head(x - x.mean(0) / 2)

    with pytest.warns(UserWarning, match="depends on the other images of its batch"):
        result = explain(Centred().eval(), torch.randn(2, 3, 16, 16), "ablationcam", 1, ["last"])
    assert result.maps["ablationcam", "last"].isfinite().all()


def test_pytorchs_fused_transformer_layer_is_not_taken_during_replay():
    """Without hooks PyTorch skips its encoder layer's submodules, and the tap with them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 4, 4)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            return self.fc(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    net, images = Net().eval(), torch.randn(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = explain(net, images, "ablationcam", 1, ["block.norm1"]).maps[
            "ablationcam", "block.norm1"
        ]
    assert maps.abs().amax((2, 3)).min() > 0


def test_forwards_are_put_back_after_an_exception(toys, protect):
    net, images = toys.resnet().eval(), torch.randn(2, 3, 64, 64)
    own = net.layer1.forward  # a forward of its own, as wrappers set it
    net.layer1.forward = lambda x: own(x)
    mine = net.layer1.forward
    check = protect(net)
    calls = []

    def stop(outputs):
        calls.append(1)
        if len(calls) > 4:
            raise KeyError("stop")
        return outputs[:, 0]

    with pytest.raises(KeyError):
        explain(net, images, "ablationcam", stop, ["layer3"])
    check()
    explain(net, images, "ablationcam", 0, ["layer3"])
    check()
    assert net.layer1.forward is mine


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("rows", [[0, 1, 2], [2], [1, 1], [2, 0, 0, 1], [0] * 7])
@pytest.mark.parametrize("windows", [1, 4])
def test_take_rows(rows, windows, writable):
    tensor = torch.arange(3 * windows * 2).view(3 * windows, 2)
    result = take_rows(tensor, rows, 3, writable)
    expected = torch.cat([tensor[row * windows : (row + 1) * windows] for row in rows])
    assert torch.equal(result, expected)
    if writable:
        before = tensor.clone()
        result.zero_()
        assert torch.equal(tensor, before)


def test_an_image_that_is_not_finite_says_nothing_about_the_tail():
    images = torch.randn(2, 3, 16, 16)
    images[1, 0, 0, 0] = torch.nan
    net = Base().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = explain(net, images, "ablationcam", 1, ["first"]).maps["ablationcam", "first"]
    alone = explain(net, images[:1], "ablationcam", 1, ["first"]).maps["ablationcam", "first"]
    torch.testing.assert_close(maps[:1], alone, rtol=1e-4, atol=1e-6)
