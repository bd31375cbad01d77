"""Boxes drafted from heat that was drawn by hand."""

import asyncio

import fiftyone as fo
import numpy as np
import pytest
from operators_common import compute, operator

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def heated(photo_dataset):
    """A run on three photos whose maps are replaced: two spots, one on disk, none."""
    dataset = photo_dataset(3)
    compute(dataset, methods="gradcam")
    heat = np.zeros((10, 20), np.uint8)
    heat[2:5, 4:8] = 255
    heat[7:9, 15:20] = 128
    heat[0, 0] = 255
    first, second, third = dataset
    first["run_gradcam"] = fo.Heatmap(
        map=heat, range=[0, 255], target="cat", status="ok", cam_key="run"
    )
    second["run_gradcam"] = fo.Heatmap(
        map=heat[:, ::-1].copy(), range=[0, 255], target=None, method="eigencam"
    )
    third["run_gradcam"] = fo.Heatmap(status="zero", target="cat", cam_key="run")
    for sample in (first, second, third):
        sample.save()
    return dataset


def draft(*args, **kwargs):
    return operator("heat_to_detections")(*args, progress=False, **kwargs)


def boxes(sample, field="run_gradcam_boxes"):
    return [pytest.approx(d.bounding_box) for d in sample[field].detections]


def test_a_box_around_every_part(heated):
    drafts = draft(heated, "run", threshold=0.4, min_area=0.01)
    assert (drafts.field, drafts.samples, drafts.detections) == ("run_gradcam_boxes", 2, 4)
    assert drafts.without_map == 1
    first, second, third = heated
    # 1 pixel of 200 is below one hundredth
    assert boxes(first) == [[0.2, 0.2, 0.2, 0.3], [0.75, 0.7, 0.25, 0.2]]
    assert boxes(second) == [[0.6, 0.2, 0.2, 0.3], [0.0, 0.7, 0.25, 0.2]]
    assert third.run_gradcam_boxes is None
    strong, weak = first.run_gradcam_boxes.detections
    assert (strong.label, strong.confidence, strong.tags) == ("cat", 1.0, ["draft"])
    assert weak.confidence == pytest.approx(128 / 255)
    assert second.run_gradcam_boxes.detections[0].label == "eigencam"


def test_threshold_area_tags_and_field(heated):
    draft(
        heated[:1], field="run_gradcam", threshold=0.6, min_area=0, tags=["a", "b"], out="run_own"
    )
    first = heated.first()
    assert boxes(first, "run_own") == [[0.2, 0.2, 0.2, 0.3], [0.0, 0.0, 0.05, 0.1]]
    assert first.run_own.detections[0].tags == ["a", "b"]
    assert heated.last().run_own is None


def test_drafts_of_other_samples_stay(heated):
    """What a user corrected elsewhere is not lost to a second batch."""
    first, second = heated[:1], heated[1:2]
    draft(first, "run")
    corrected = first.first()
    corrected.run_gradcam_boxes.detections[0].label = "dog"
    corrected.save()
    draft(second, "run")
    draft(second, "run", threshold=0.6, overwrite=True)
    assert heated.first().run_gradcam_boxes.detections[0].label == "dog"
    assert second.first().run_gradcam_boxes.detections
    with pytest.raises(ValueError, match="has drafts of these samples already"):
        draft(heated, "run")


def test_drafts_belong_to_the_run(heated):
    draft(heated, "run")
    with pytest.raises(
        ValueError, match="has drafts of these samples already; pass overwrite=True"
    ):
        draft(heated, "run")
    assert draft(heated, "run", threshold=0.6, overwrite=True).detections == 4
    operator("rename_cam_run")(heated, "run", "new")
    assert heated.first().new_gradcam_boxes.detections
    assert draft(heated, "new", overwrite=True).field == "new_gradcam_boxes"
    operator("delete_cam_run")(heated, "new")
    assert not [name for name in heated.get_field_schema() if name.startswith(("run_", "new_"))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name a CAM run, or a heatmap field"),
        ({"cam_key": "ran"}, "no CAM run 'ran'"),
        ({"field": "ground_truth"}, "is no heatmap field of a CAM run; there are: run_gradcam"),
        ({"cam_key": "run", "field": "x"}, "has no heatmap field 'x'"),
        ({"cam_key": "run", "threshold": 0}, "threshold must be a share above 0"),
        ({"cam_key": "run", "threshold": 1}, "threshold must be a share"),
        ({"cam_key": "run", "min_area": -1}, "min_area must be a share"),
        ({"cam_key": "run", "tags": "draft"}, "tags must be a list"),
        ({"cam_key": "run", "out": "ground_truth"}, "begins with 'run_'"),
        ({"cam_key": "run", "out": "run_prediction"}, "holds no drafts"),
    ],
)
def test_bad_arguments(heated, arguments, message):
    before = set(heated.get_field_schema())
    with pytest.raises(ValueError, match=message):
        draft(heated, **arguments)
    assert set(heated.get_field_schema()) == before


def test_a_run_with_several_fields_needs_one_named(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset, methods=["gradcam", "layercam"])
    with pytest.raises(
        ValueError, match="has 2 heatmap fields; name one: run_gradcam, run_layercam"
    ):
        draft(dataset, "run")


def context(dataset, **params):
    import fiftyone.operators.executor as foe

    request = {"dataset_name": dataset.name, "params": {"view_target": "DATASET", **params}}
    return foe.ExecutionContext(request_params=request, executor=foe.Executor())


def test_the_form(heated):
    op = operator("heat_to_detections")
    inputs = op.resolve_input(context(heated)).type
    assert {"cam_key", "field", "threshold", "min_area", "tags", "out"} <= set(inputs.properties)
    assert not any(prop.invalid for prop in inputs.properties.values())
    draft(heated, "run")
    inputs = op.resolve_input(context(heated, cam_key="run")).type
    assert "has drafts of these samples already" in inputs.properties["out"].error_message
    inputs = op.resolve_input(context(heated, threshold=0.0, overwrite=True)).type
    assert inputs.properties["threshold"].invalid


def test_from_the_app(heated):
    op = operator("heat_to_detections")

    async def collect():
        ctx = context(heated, cam_key="run", field="run_gradcam", threshold=0.4, tags=["draft"])
        ctx.request_params.update(operator_uri=op.uri, prompt_id="1")  # as the App asks
        return [message async for message in await op.execute(ctx)]

    asyncio.run(collect())
    assert len(heated.first().run_gradcam_boxes.detections) >= 2
