"""What a batch takes of the machine's memory, measured, and what is refused."""

import importlib

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
from operators_common import CLASSES, PLUGIN, compute, operator
from PIL import Image
from torch import nn
from torchvision.transforms import functional as F

pytestmark = pytest.mark.usefixtures("plugin")
SIDE = 512


@pytest.fixture
def memory():
    foo.get_operator("@cam51/heatmaps/compute_cams")
    return importlib.import_module(f"{PLUGIN}.operators.jobs.memory")


class Wide(nn.Module):
    """Of each image 64 channels of its own size: 64 x 512 x 512 floats, 67 MB."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 1)
        self.pooled = nn.AvgPool2d(32)
        self.last = nn.Conv2d(64, 8, 1)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, images):
        return self.fc(self.last(self.pooled(self.wide(images))).mean((2, 3)))


@pytest.fixture
def photos_of_one_size(make_dataset, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.effect_noise((64, 64), 30 + i).convert("RGB").save(path)
    return make_dataset(*(fo.Sample(filepath=str(path)) for path in paths))


def network():
    torch.manual_seed(0)
    return Wide().eval()


def wide(dataset, **arguments):
    return compute(
        dataset, model=network(), layers="last", methods="gradcam", overwrite=True,
        transforms=lambda picture: F.to_tensor(picture.resize((SIDE, SIDE))), **arguments,
    )  # fmt: skip


def test_what_one_image_takes_is_measured(memory):
    """By hand: what the first layer makes, and what the second makes of it while the first is alive."""
    net, images = Wide().eval(), torch.rand(2, 3, SIDE, SIDE)
    channel = 4 * SIDE * SIDE

    def forward(batch):
        with torch.no_grad():
            net(batch)

    expected = 64 * channel + 64 * channel // 32**2
    assert memory.peak_bytes(forward, images[:1]) == pytest.approx(expected, rel=0.01)
    assert memory.peak_bytes(forward, images) == pytest.approx(2 * expected, rel=0.01)
    # with a graph the first layer's output is kept for the backward
    kept = memory.peak_bytes(lambda batch: net(batch * 2).sum().backward(), images[:1])
    assert kept >= expected + 3 * channel


def test_memory_that_is_free_is_what_the_machine_says(memory):
    import psutil

    assert 0 < memory.free_bytes() <= psutil.virtual_memory().total


def test_a_batch_that_the_memory_does_not_hold_is_refused(photos_of_one_size, memory):
    """4,096 images of 70 MB are 290 GB: Linux would hand them out and kill the process."""
    needed = 4096 * 64 * 4 * SIDE * SIDE
    if memory.free_bytes() > needed:
        pytest.skip("this machine has the memory")
    dataset = photos_of_one_size
    with pytest.raises(
        ValueError, match=r"batch_size: 4096 images at once take about \d+.* GB here"
    ):
        wide(dataset, batch_size=4096)
    assert not dataset.list_runs()
    assert wide(dataset, batch_size=33).status == "finished"
    with pytest.raises(ValueError, match="batch_size: 4096 images at once take about"):
        operator("compare_cams")(
            dataset, "run", model=network(), batch_size=4096, progress=False, metrics=["deletion"],
            transforms=lambda picture: F.to_tensor(picture.resize((SIDE, SIDE))), classes=CLASSES,
        )  # fmt: skip


def test_small_batches_and_other_devices_are_not_measured(memory):
    class Model:
        device = torch.device("cpu")

    memory.check_batch("auto", Model, torch.zeros(1), None)
    memory.check_batch(32, Model, torch.zeros(1), None)
    Model.device = torch.device("cuda")
    memory.check_batch(4096, Model, torch.zeros(1), None)
