"""A model's signature: the same while nothing was changed, another one after every edit."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from cam_core import explain
from cam_core.network.signature import ModelCache, signature


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def _step(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()


EDITS = {
    "a layer replaced": lambda net: net.__setitem__(5, nn.Linear(4, 3)),
    "a layer added": lambda net: net.append(nn.Softmax(1)),
    "a layer replaced by None": lambda net: net._modules.__setitem__("2", None),
    "two layers swapped": lambda net: net._modules.update({"2": net[3], "3": net[2]}),
    "an attribute of a layer": lambda net: setattr(net[0], "stride", (2, 2)),
    "a function in the place of forward": lambda net: setattr(net, "forward", lambda x: x),
    "a flag": lambda net: setattr(net, "checkpointed", True),
    "a parameter replaced": lambda net: setattr(net[5], "weight", nn.Parameter(torch.ones(3, 4))),
    "a parameter's data replaced": lambda net: setattr(net[5].weight, "data", torch.ones(3, 4)),
    "weights loaded": lambda net: net.load_state_dict(copy.deepcopy(net.state_dict())),
    "one step of training": _step,
    "pruned": lambda net: nn.utils.prune.l1_unstructured(net[5], "weight", 0.5),
    "running statistics": lambda net: net[1].running_mean.fill_(3),
    "frozen": lambda net: net.requires_grad_(False),
    "one parameter frozen": lambda net: net[5].bias.requires_grad_(False),
    "train mode": lambda net: net.eval(),
    "another precision": lambda net: net.half(),
    "a hook": lambda net: net[2].register_forward_hook(lambda m, a, out: out * 0),
    "compiled in place": lambda net: net.compile(backend="eager"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_model_is_another_one(edit):
    net = network()
    before = signature(net)
    assert before == signature(net)
    edit(net)
    assert before != signature(net)


def test_a_forward_in_eval_mode_changes_nothing():
    net = network().eval()
    before = signature(net)
    with torch.no_grad():
        net(torch.rand(1, 3, 8, 8))
    assert signature(net) == before
    net.train()(torch.rand(2, 3, 8, 8))
    assert signature(net.eval()) != before  # the running statistics are others


def test_a_hook_that_is_gone_leaves_no_trace():
    net = network()
    before = signature(net)
    net[0].register_forward_hook(lambda *args: None).remove()
    assert signature(net) == before


def test_a_hugging_face_like_configuration_is_part_of_it():
    class Config:
        attention = "sdpa"

        def __init__(self):
            self.layers = 3

    net = network()
    net.config = Config()
    before = signature(net)
    net.config.attention = "eager"
    assert signature(net) != before


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(network()),
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()),
        lambda: network().to("meta"),
        lambda: torch.fx.symbolic_trace(network()),
        lambda: torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, torch.qint8),
    ],
    ids=["scripted", "lazy", "meta", "fx", "quantised"],
)
def test_models_of_any_kind_have_one(make):
    net = make()
    assert signature(net) == signature(net)


def test_of_weights_made_in_inference_mode():
    with torch.inference_mode():
        net = network()
    assert signature(net) == signature(net)


def test_a_cache_forgets_a_model_that_was_edited_and_one_that_is_gone():
    cache, net, other = ModelCache(), network(), network()
    cache.of(net)["layer"], cache.of(other)["layer"] = "2", "0"
    assert cache.of(net) == {"layer": "2"}
    net[0] = nn.Conv2d(3, 4, 3)
    assert cache.of(net) == {}
    assert cache.of(other) == {"layer": "0"}
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_weights_that_come_and_go_at_one_address_are_not_taken_for_each_other():
    net = network()
    seen = []
    for _ in range(20):
        net[5].weight = nn.Parameter(torch.ones(3, 4))
        seen.append(signature(net))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_what_a_model_does_to_itself_when_it_runs_is_no_edit(monkeypatch):
    from cam_core.places import place

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head, self.calls = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 2), 0

        def forward(self, x):
            self.calls += 1
            return self.head(self.conv(x).mean((2, 3)))

    counted = []
    trace = place.Trace
    monkeypatch.setattr(place, "Trace", lambda *a: counted.append(1) or trace(*a))
    net = Counting().eval()
    for _ in range(3):
        explain(net, torch.rand(2, 3, 16, 16), targets=0, layers="conv")
    assert len(counted) == 2  # two images of noise, once
    net.conv.stride = (2, 2)
    explain(net, torch.rand(2, 3, 16, 16), targets=0, layers="conv")
    assert len(counted) == 4
