"""What a run was made with: the same for the same, another for another."""

import copy
import functools
import importlib
import subprocess
import sys

import pytest
import torch
import torchvision.transforms as T
from operators_common import PLUGIN, small_network, transforms


@pytest.fixture(scope="module")
def provenance(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.provenance")


@pytest.fixture(scope="module")
def decisive(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.compute.params").DECISIVE


def test_what_decides_stands_in_the_order_of_the_message(decisive):
    assert decisive == (
        "model", "weights", "classes", "transforms", "transforms_check", "methods", "code", "targets",
        "class_map", "output", "task", "multi_label", "threshold", "ends_in", "background", "window", "read",
        "layers", "fuse", "keep_layers", "store_prediction", "heatmap_size", "precision", "memory_format",
        "measure_places", "storage", "output_dir", "seed", "batch_size", "device", "patches_field", "plugin",
    )  # fmt: skip


def test_fingerprint_is_the_weights(provenance):
    first = provenance.fingerprint(small_network())
    assert first == provenance.fingerprint(small_network())
    assert len(first) == 16
    assert first != provenance.fingerprint(small_network(1))


def test_fingerprint_does_not_depend_on_mode_or_memory_format(provenance):
    network = small_network()
    first = provenance.fingerprint(network)
    network.train().requires_grad_(False)
    assert provenance.fingerprint(network.to(memory_format=torch.channels_last)) == first


def changed_weight(network):
    network.layer2[0].conv1.weight.data[0] += 1


def changed_buffer(network):
    network.bn1.running_mean[3] = 9


def other_activation(network):
    network.relu = torch.nn.GELU()


def other_type(network):
    network.double()


@pytest.mark.parametrize("change", [changed_weight, changed_buffer, other_activation, other_type])
def test_fingerprint_sees_a_change(provenance, change):
    network = small_network()
    other = copy.deepcopy(network)
    change(other)
    assert provenance.fingerprint(network) != provenance.fingerprint(other)


def test_fingerprint_of_odd_modules(provenance):
    assert provenance.fingerprint(torch.nn.Identity())
    empty = torch.nn.Module()
    empty.register_buffer("nothing", torch.zeros(0))
    empty.register_buffer("flags", torch.tensor([True, False]))
    empty.register_buffer("brief", torch.ones(3, dtype=torch.bfloat16))
    assert provenance.fingerprint(empty) != provenance.fingerprint(torch.nn.Identity())


def test_transforms_are_told_apart_by_what_they_do(provenance):
    def scaled(factor):
        return lambda image: T.ToTensor()(image) * factor

    one, same, two = (provenance.describe_transforms(scaled(f)) for f in (1, 1, 2))
    assert one == same
    assert one["transforms"] == two["transforms"]  # lambdas look alike
    assert one["transforms_check"] != two["transforms_check"]
    assert "0x" not in one["transforms"]
    assert "Resize(size=(64, 64)" in provenance.describe_transforms(transforms())["transforms"]


def test_transforms_that_refuse_the_picture_are_described_by_their_text(provenance):
    def picky(image):
        raise ValueError("too small")

    described = provenance.describe_transforms(picky)
    assert described["transforms_check"] is None
    assert "picky" in described["transforms"]


def test_code_of_functions(provenance):
    def method(power, names=("a",)):
        def mine(activations, *, scale=1):
            return activations.sum(1) ** power if "x" in {"x", "y"} else names

        return mine

    one, same, two = (provenance.describe_code([method(p)]) for p in (2, 2, 3))
    assert one == same != two
    assert one[0].startswith("mine ")
    assert provenance.describe_code([method(2, ("b",))]) != one
    partial = functools.partial(method(2), scale=3)
    assert provenance.describe_code([partial]) != provenance.describe_code(
        [functools.partial(method(2), scale=4)]
    )


CODE = """
import sys; sys.path[:0] = [{root!r}]
import importlib.util, types
package = types.ModuleType("house"); package.__path__ = [{root!r}]
sys.modules["house"] = package
from house.operators.runs.provenance import describe_code
def mine(activations):
    return activations in {{"a", "b", "c"}}
print(describe_code([mine]))
"""


def test_code_is_the_same_in_another_process(provenance, request):
    """Sets of strings have another order in every process."""
    code = CODE.format(root=str(request.config.rootpath))
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_differences_name_what_differs(provenance, decisive):
    then = {"seed": 51, "device": "cuda:0", "versions": {"plugin": "0.1.0", "torch": "1"}, "x": 1}
    assert provenance.differences(then, {**then, "x": 2, "device": "cuda:1"}, decisive) == []
    now = {"seed": 5, "device": "cpu", "versions": {"plugin": "0.2.0", "torch": "2"}}
    assert provenance.differences(then, now, decisive) == [
        "seed: 51 then, 5 now", "device: cuda then, cpu now", "plugin: 0.1.0 then, 0.2.0 now",
    ]  # fmt: skip


def test_differences_of_transforms_are_said_once(provenance, decisive):
    then, now = (
        {"transforms": t, "transforms_check": c} for t, c in (("Compose(a)", "1"), ("b", "2"))
    )
    assert provenance.differences(then, now, decisive) == ["transforms: Compose(a) then, b now"]
    now["transforms"] = then["transforms"]
    assert provenance.differences(then, now, decisive) == ["transforms_check: 1 then, 2 now"]


def test_versions(provenance):
    found = provenance.versions()
    assert found["torch"] == torch.__version__
    assert found["plugin"] == "0.1.0"
    assert found["threads"] == torch.get_num_threads()
