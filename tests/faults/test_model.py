"""Networks and transforms that fail: what is recorded, and what goes on."""

import fiftyone as fo
import pytest
import torch
from faults_common import LAYER, compute_tiny, picture_transforms, tiny_network, write_pictures

pytestmark = pytest.mark.usefixtures("plugin")

COUNT = 8


class Moody(torch.nn.Module):
    """Does something else to the pictures that a rule picks; its layer is in ``net``."""

    def __init__(self, rule, act):
        super().__init__()
        self.net = tiny_network()
        self.rule, self.act = rule, act

    def forward(self, images):
        picked = self.rule(images)
        if not picked.any():
            return self.net(images)
        return self.act(self, images, picked)


@pytest.fixture
def dataset(make_dataset, tmp_path):
    return make_dataset(*(fo.Sample(filepath=p) for p in write_pictures(tmp_path, COUNT)))


@pytest.fixture
def fifth(dataset):
    """Picks the fifth picture out of a batch by its pixels."""
    from PIL import Image

    wanted = picture_transforms()(Image.open(dataset.skip(4).first().filepath).convert("RGB"))
    return lambda images: (images - wanted.to(images)).abs().amax((1, 2, 3)) < 1e-6


def run(dataset, rule, act, **arguments):
    return compute_tiny(
        dataset, model=Moody(rule, act), layers=f"net.{LAYER}", batch_size=4, **arguments
    )


def test_model_that_raises_on_one_picture(dataset, fifth):
    def act(self, images, picked):
        raise RuntimeError("cannot\nlook at this")

    summary = run(dataset, fifth, act)
    assert (summary.status, summary.done) == ("finished", COUNT - 1)
    assert [(f["id"], f["reason"]) for f in summary.failed] == [
        (dataset.skip(4).first().id, "RuntimeError: cannot look at this")
    ]


def test_model_that_raises_on_one_batch_once(dataset):
    """What a repetition does not show again costs nobody anything."""
    calls = []

    def rule(images):
        calls.append(len(images))
        # the second batch of the run: before it fewer images are tried
        return torch.full((len(images),), len(images) == 4 and calls.count(4) == 2)

    def act(self, images, picked):
        raise RuntimeError("a hiccup")

    summary = run(dataset, rule, act)
    assert (summary.done, summary.failed) == (COUNT, [])


class Draws(torch.nn.Module):
    """Leaves its dropout on, whatever mode it is in."""

    def __init__(self):
        super().__init__()
        self.net = tiny_network()

    def forward(self, images):
        return self.net(torch.nn.functional.dropout(images, 0.3, training=True))


@pytest.mark.parametrize("network", [Draws, tiny_network])
def test_a_model_that_answers_differently_twice_is_noted(dataset, network):
    layer = f"net.{LAYER}" if network is Draws else LAYER
    summary = compute_tiny(dataset, model=network(), layers=layer)
    noted = any("answers differently when it is asked twice" in note for note in summary.notes)
    assert noted is (network is Draws)
    assert summary.settings["repeatable"] is (network is not Draws)


class Breaks(torch.nn.Module):
    """Raises for good from some call on, as a device does after an assertion inside it."""

    def __init__(self, calls):
        super().__init__()
        self.net, self.calls = tiny_network(), calls

    def forward(self, images):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("device-side assert triggered")
        return self.net(images)


def test_a_model_that_fails_for_good_ends_the_run(make_dataset, tmp_path):
    paths = write_pictures(tmp_path, COUNT)
    dataset = make_dataset(*(fo.Sample(filepath=p) for p in paths * 10))
    counting = Breaks(10**9)
    compute_tiny(dataset.limit(COUNT), model=counting, layers=f"net.{LAYER}", batch_size=4)
    before = 10**9 - counting.calls  # the calls of the trial and of two batches
    summary = compute_tiny(
        dataset, model=Breaks(before), layers=f"net.{LAYER}", batch_size=4, overwrite=True
    )
    assert (summary.status, summary.done) == ("failed", COUNT)
    assert len(summary.failed) == 16, "of 72 that were left"
    why = "16 images in a row failed, and so does the one that worked before the run: RuntimeError"
    assert why in summary.error
    assert f"failed: {why}" in str(summary)
    assert str(summary).endswith("pass resume=True to resume")
    again = compute_tiny(
        dataset, model=Breaks(10**9), layers=f"net.{LAYER}", batch_size=4, resume=True
    )
    assert (again.status, again.done, again.resumed) == ("finished", len(dataset), COUNT)


def test_many_bad_pictures_in_a_row_are_not_taken_for_a_broken_model(make_dataset, tmp_path):
    paths = write_pictures(tmp_path, COUNT)
    dataset = make_dataset(*(fo.Sample(filepath=p) for p in [paths[0], *[paths[4]] * 40, paths[1]]))
    from PIL import Image

    bad = picture_transforms()(Image.open(paths[4]).convert("RGB"))

    def act(self, images, picked):
        raise RuntimeError("cannot look at this")

    summary = run(dataset, lambda images: (images - bad).abs().amax((1, 2, 3)) < 1e-6, act)
    assert (summary.status, summary.done, len(summary.failed)) == ("finished", 2, 40)


def test_nan_scores_are_a_finding(dataset, fifth):
    def act(self, images, picked):
        return self.net(images) * torch.where(picked, torch.nan, 1.0)[:, None]

    summary = run(dataset, fifth, act)
    assert (summary.done, summary.failed) == (COUNT, [])
    assert summary.statuses["run_gradcam"] == {"ok": COUNT - 1, "nan": 1}
    label = dataset.skip(4).first().run_gradcam
    assert (label.status, label.map, label.score, label.peak) == ("nan", None, None, None)
    others = [m is not None for m in dataset.values("run_gradcam.map")]
    assert sum(others) == COUNT - 1
    # a confidence that is no number would break filters; the sample is done all the same
    assert (
        compute_tiny(
            dataset, model=Moody(fifth, act), layers=f"net.{LAYER}", batch_size=4, resume=True
        ).resumed
        == COUNT
    )


def test_memory_of_the_device_runs_out(dataset):
    sizes = []

    def rule(images):
        sizes.append(len(images))
        return torch.full((len(images),), len(images) > 2)

    def act(self, images, picked):
        raise torch.OutOfMemoryError("CUDA out of memory")

    summary = run(dataset, rule, act)
    assert (summary.done, summary.failed) == (COUNT, [])
    assert sizes.count(4) == 1  # halved, and remembered
    assert summary.settings["batch_size_left"] == 2
    assert dataset.get_run_info("run").config.progress["batch_size"] == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_of_the_machine_runs_out(dataset, error):
    def act(self, images, picked):
        raise error

    summary = run(dataset, lambda images: torch.full((len(images),), len(images) > 2), act)
    assert (summary.done, summary.failed) == (COUNT, [])
    assert summary.settings["batch_size_left"] == 2


def test_memory_is_too_small_for_one_picture(dataset, fifth):
    def act(self, images, picked):
        raise torch.OutOfMemoryError("CUDA out of memory")

    summary = run(dataset, fifth, act)
    assert summary.done == COUNT - 1
    assert "OutOfMemoryError: CUDA out of memory" in summary.failed[0]["reason"]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_transform_that_raises_in_a_worker(dataset, workers):
    plain, calls = picture_transforms(), []

    def transforms(image):
        calls.append(1)
        if image.getpixel((0, 0)) == first:
            raise RuntimeError("not this one")
        return plain(image)

    from PIL import Image

    first = Image.open(dataset.skip(2).first().filepath).convert("RGB").getpixel((0, 0))
    summary = compute_tiny(dataset, transforms=transforms, num_workers=workers)
    assert summary.done == COUNT - 1
    assert [f["id"] for f in summary.failed] == [dataset.skip(2).first().id]
    assert "RuntimeError: not this one" in summary.failed[0]["reason"]


def test_model_that_always_raises_is_refused_at_once(dataset):
    def act(self, images, picked):
        raise RuntimeError("never")

    with pytest.raises(RuntimeError, match="never"):
        run(dataset, lambda images: torch.full((len(images),), True), act)
    assert not dataset.list_runs()
    assert not dataset.has_field("run_gradcam")
