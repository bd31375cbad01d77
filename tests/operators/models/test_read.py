"""Detectors that are not recognised, in ``compute_cams`` and by name: told by ``read=``."""

from pathlib import Path

import pytest
import torch
import torchvision.transforms as T
from detectors_common import CELLS, CLASSES, PATCH, SIDE, Grid
from operators_common import compute, operator, small_network
from PIL import Image
from processes_common import TESTS

pytestmark = pytest.mark.usefixtures("plugin")

PACKAGE = """
import sys; sys.path[:0] = {tests!r}
from test_read import load, read, transforms
"""


def transforms(picture):
    return T.Compose([T.Resize((SIDE, SIDE)), T.ToTensor()])(picture)


def read(outputs):
    """(N, 2, 4, 4) logits -> a box for each patch, a score for each class."""
    corners = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS)).flip(1) * float(PATCH)
    boxes = torch.cat([corners, corners + PATCH], 1)
    return [(boxes, row.flatten(1).T.sigmoid()) for row in outputs]


def load():
    return Grid(-3.2).eval(), transforms, CLASSES


def run(dataset, **arguments):
    given = {"model": Grid(-3.2).eval(), "transforms": transforms, "classes": CLASSES}
    # every score of this network depends on its own patch alone, so that no level can be measured
    return compute(dataset, **{**given, "layers": "patches", "methods": "layercam", **arguments})


def test_a_network_that_nobody_knows(photo_dataset):
    dataset = photo_dataset(2)
    summary = run(dataset, read=read, threshold=0.1)
    assert summary.fields == ["run_layercam", "run_detections"]
    assert summary.settings["read"] == f"<{__name__}.read>"
    assert any(entry.startswith("read ") for entry in summary.settings["code"])
    for sample in dataset:
        picture = transforms(Image.open(sample.filepath).convert("RGB"))
        sure = Grid(-3.2)(picture[None])[0].sigmoid().amax(0).flatten()
        found = sample.run_detections.detections
        assert [d.confidence for d in found] == pytest.approx(
            [s for s in sure.sort(descending=True).values.tolist() if s >= 0.1][:20], abs=1e-4
        )
        assert {d.label for d in found} <= set(CLASSES)
        assert all(d.status == "ok" and 0 <= d.in_box <= 1 for d in found)


def test_only_the_same_reader_goes_on(photo_dataset):
    def other(outputs):
        return read(outputs.mul(2))

    dataset = photo_dataset(2)
    run(dataset[:1], read=read)
    assert run(dataset, read=read, resume=True).resumed == 1
    with pytest.raises(ValueError, match="has other settings.*code: .*read"):
        run(dataset, read=other, resume=True)


def centres(outputs):
    return [(boxes[:, [2, 3, 0, 1]], scores) for boxes, scores in read(outputs)]


def logits(outputs):
    return [(read(outputs)[0][0], row.flatten(1).T) for row in outputs]


def cut_off(outputs):
    return [(boxes, scores.detach()) for boxes, scores in read(outputs)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "of a detector pass read=a callable that returns boxes, scores and classes"),
        ({"task": "detection"}, "for one of your own pass read=a callable: read must return a list"),
        ({"read": "read"}, "read: 'read' is not callable"),
        ({"read": centres}, "read: boxes must be left, top, right, bottom in pixels"),
        ({"read": logits}, r"read: scores must be confidences in \[0, 1\]"),
        ({"read": cut_off}, "read: the scores of image 0 of the batch carry no graph"),
        ({"read": lambda outputs: None}, "read: got a NoneType for 1 images"),
        ({"read": read, "classes": ["dark"]}, "classes has 1 name, the model has 2 outputs"),
        ({"read": read, "task": "segmentation"}, "read: is of detectors, and task='segmentation'"),
        ({"read": read, "multi_label": True}, "multi_label: is for classifiers"),
        ({"read": read, "output": 0}, "output: a detector has boxes beside its scores"),
    ],
)  # fmt: skip
def test_what_is_wrong_shows_before_the_first_sample(photo_dataset, arguments, message):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match=message):
        run(dataset, **arguments)
    assert not operator("list_cam_runs")(dataset)


def test_read_of_a_model_that_needs_none_is_refused(photo_dataset):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match="read: "):
        compute(
            dataset,
            model=small_network(),
            transforms=transforms,
            classes=None,
            read=lambda outputs: [],
        )


def test_by_name(photo_dataset, tmp_path, monkeypatch):
    package = tmp_path / "eyes"
    package.mkdir()
    (package / "__init__.py").write_text(
        PACKAGE.format(tests=[str(Path(__file__).parent), str(TESTS)])
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    register = operator("register_model")
    with pytest.raises(ValueError, match="read: 'eyes.read' is not understood"):
        register("eyes", "eyes:load", read="eyes.read")
    with pytest.raises(ValueError, match="another process cannot import.*lambda"):
        register("eyes", "eyes:load", read=lambda outputs: outputs)
    try:
        stored = register("eyes", "eyes:load", read="eyes:read", threshold=0.1)
        assert stored["options"] == {"threshold": 0.1, "read": "eyes:read"}
        dataset = photo_dataset(1)
        named = compute(dataset, model="eyes", layers="patches", methods="layercam", cam_key="name")
        run(dataset, read=read, threshold=0.1, cam_key="given")
        assert named.fields == ["name_layercam", "name_detections"]
        first = dataset.first()
        boxes = [
            [d.bounding_box for d in first[f"{k}_detections"].detections] for k in ("name", "given")
        ]
        assert boxes[0] == boxes[1] != []
        assert (first.name_layercam.map == first.given_layercam.map).all()
    finally:
        operator("remove_model")("eyes")
