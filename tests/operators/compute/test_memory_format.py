"""``memory_format``: another layout of the same images, the same maps, and the choice of it."""

import importlib

import numpy as np
import pytest
import torch
import torchvision
from operators_common import CLASSES, PLUGIN, compute, operator, small_network, transforms

pytestmark = pytest.mark.usefixtures("plugin")


def layouts(network):
    return [(n, v.stride(), v.data_ptr()) for n, v in network.state_dict().items()]


def seen_formats(network, **arguments):
    """The formats of the batches that a run's network is given, and the run's dataset."""
    seen = []
    hook = network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    summary = compute(model=network, **given(), **arguments)
    hook.remove()
    batches = [x for x in seen if len(x) > 2]  # fewer images are tried before the run
    assert batches
    last = [x.is_contiguous(memory_format=torch.channels_last) for x in batches]
    assert len(set(last)) == 1
    return ("channels_last" if last[0] else "contiguous"), summary


def given():
    return dict(transforms=transforms(), classes=CLASSES, methods=["gradcam", "layercam"])


def recorded(dataset, key="run"):
    return dataset.load_run_results(key).summary["settings"]["memory_format"]


def test_same_maps_and_an_untouched_model(photo_dataset, one_thread):
    plain, dataset, network = photo_dataset(4), photo_dataset(4), small_network()
    compute(plain, model=small_network(), memory_format="contiguous", **given())
    before = layouts(network)
    found, _ = seen_formats(network, samples=dataset, memory_format="channels_last")
    assert found == "channels_last"
    assert layouts(network) == before
    for field in ("run_gradcam", "run_layercam"):
        scores = np.array([plain.values(f"{field}.score"), dataset.values(f"{field}.score")])
        assert np.allclose(*scores, rtol=1e-5)
        for one, other in zip(
            plain.values(f"{field}.map"), dataset.values(f"{field}.map"), strict=True
        ):
            change = np.abs(one.astype(int) - other.astype(int))
            # one of the 64 levels at most, and only where a value lay between two
            assert change.max() <= 5
            assert (change > 0).mean() < 0.01


def test_convolutional_networks_are_given_channels_last(photo_dataset):
    dataset = photo_dataset(3)
    found, summary = seen_formats(small_network(), samples=dataset)
    assert found == summary.settings["memory_format"] == recorded(dataset) == "channels_last"


class Views(torch.nn.Module):
    """A network that reads its activations by ``view``, which takes contiguous ones only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1)
        )
        self.head = torch.nn.Linear(8 * 8 * 8, len(CLASSES))

    def forward(self, images):
        activations = self.features(images)
        return self.head(activations.view(len(images), -1))


def test_a_network_that_cannot_take_it_is_given_contiguous_images(photo_dataset):
    dataset = photo_dataset(3)
    found, summary = seen_formats(Views().eval(), samples=dataset)
    assert found == recorded(dataset) == "contiguous"
    assert summary.done == 3
    assert any(note.startswith("memory_format: contiguous, as") for note in summary.notes)
    with pytest.raises(ValueError, match="view"):
        compute(photo_dataset(1), model=Views().eval(), memory_format="channels_last", **given())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", "channels_last"), ("squeezenet1_1", "channels_last"), ("vit_b_32", "contiguous")],
)
def test_the_choice_goes_by_the_layers(name, expected):
    module = importlib.import_module(f"{PLUGIN}.operators.compute.memory_format")
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    assert module.faster(network, torch.device("cpu"), "float32") == expected
    assert module.faster(network, torch.device("cuda"), "bfloat16") == expected
    assert module.faster(network, torch.device("cuda"), "float32") == "contiguous"


def test_a_run_is_resumed_in_its_own_format(photo_dataset):
    dataset = photo_dataset(4)
    compute(dataset.limit(2), memory_format="contiguous")
    with pytest.raises(ValueError, match="memory_format: contiguous then, channels_last now"):
        compute(dataset, resume=True, memory_format="channels_last")
    found, _ = seen_formats(small_network(), samples=dataset, cam_key="other")
    assert found == "channels_last"
    network, seen = small_network(), []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    arguments = {**given(), "methods": None}
    summary = compute(dataset, resume=True, model=network, **arguments)
    assert summary.settings["memory_format"] == recorded(dataset) == "contiguous"
    assert all(x.is_contiguous() for x in seen[-1:])


def test_a_run_from_before_there_was_a_choice_is_repeated_as_it_was(photo_dataset):
    dataset = photo_dataset(3)
    compute(dataset, memory_format="contiguous")
    info = dataset.get_run_info("run")
    del info.config.settings["memory_format"]
    dataset.update_run_config("run", info.config)
    operator("rerun_cams")(
        dataset, "run", "again", model=small_network(), transforms=transforms(), progress=False
    )
    assert recorded(dataset, "again") == "contiguous"


def test_refused(photo_dataset):
    with pytest.raises(ValueError, match="memory_format: 'nhwc' is unknown"):
        compute(photo_dataset(1), memory_format="nhwc")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
