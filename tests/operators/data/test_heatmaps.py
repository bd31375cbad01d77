"""Quantising and labelling of heatmaps."""

import importlib
import io
import zlib

import fiftyone as fo
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operators_common import PLUGIN


@pytest.fixture(scope="module")
def heatmaps(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")


def test_quantise_by_hand(heatmaps):
    heat = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])
    assert heatmaps.quantise(heat, levels=5).tolist() == [[0, 64, 128, 191, 255]]
    assert heatmaps.quantise(heat, levels=2).tolist() == [[0, 0, 0, 255, 255]]


def test_quantise_clamps_and_keeps_the_error_small(heatmaps):
    assert heatmaps.quantise([[-0.5, 1.5]]).tolist() == [[0, 255]]
    heat = np.linspace(0, 1, 1001)[None]
    error = np.abs(heatmaps.quantise(heat) / 255 - heat).max()
    assert error <= 0.5 / (heatmaps.LEVELS - 1) + 0.5 / 255
    assert len(np.unique(heatmaps.quantise(heat))) == heatmaps.LEVELS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_quantise_refuses_what_is_no_picture(heatmaps, bad):
    with pytest.raises(ValueError, match="not finite"):
        heatmaps.quantise([[0.5, bad]])


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(640, 480, (144, 192)), (480, 640, (192, 144)), (10, 10, (192, 192)), (5000, 3, (2, 192))],
)
def test_size_keeps_the_aspect(heatmaps, width, height, size):
    assert heatmaps.heatmap_size(width, height) == size


def source(**changes):
    values = dict(
        method="gradcam", layer="layer4", target="cat", target_index=3, score=2.5, peak=0.5
    )
    return {**values, "status": "ok", "cam_key": "run", **changes}


def test_label_carries_its_provenance(heatmaps):
    label = heatmaps.make_label(np.eye(4), **source())
    assert label.range == [0, 255]
    assert label.map.tolist() == (np.eye(4) * 255).tolist()
    assert {k: label[k] for k in source()} == source()


@pytest.mark.parametrize("status", ["zero", "flat", "nan"])
def test_label_without_a_picture(heatmaps, status):
    label = heatmaps.make_label(np.full((2, 2), np.nan), **source(status=status, peak=float("nan")))
    assert label.map is None
    assert label.peak is None
    assert label.status == status


def test_median_size_is_below_8_kb(heatmaps):
    """Maps of 7 x 7 and 14 x 14 cells as CAMs look: smooth, most of them partly zero."""
    generator = torch.Generator().manual_seed(0)
    for cells in (7, 14):
        raw = torch.randn(40, 1, cells, cells, generator=generator)
        raw = F.avg_pool2d(F.pad(raw, (1,) * 4, mode="reflect"), 3, 1).relu()
        heat = F.interpolate(raw, (192, 192), mode="bilinear")[:, 0]
        heat = heat / heat.amax((1, 2), keepdim=True)
        assert np.median([stored_bytes(heatmaps.quantise(h.numpy())) for h in heat]) < 8000


def stored_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(zlib.compress(buffer.getvalue()))


def test_field_of_another_type_is_refused(heatmaps, dataset):
    dataset.add_sample_field("taken", fo.StringField)
    with pytest.raises(ValueError, match="'taken' exists and is no Heatmap"):
        heatmaps.declare_schema(dataset, ["taken"])


@pytest.mark.parametrize(
    ("heat", "status"),
    [
        (np.zeros((4, 4)), "zero"),
        (np.full((4, 4), 0.7), "flat"),
        (np.full((4, 4), 0.003), "zero"),  # rounds to nothing
        (np.array([[0.5, np.nan]]), "nan"),
    ],
)
def test_heat_that_is_no_picture_is_found_here_too(heatmaps, heat, status):
    label = heatmaps.make_label(heat, **source())
    assert label.map is None
    assert label.range is None
    assert label.status == status


# the schema


def test_schema_has_every_type_and_is_declared_twice_without_harm(heatmaps, dataset):
    for _ in range(2):
        heatmaps.declare_schema(dataset, ["run_a", "run_b"], "run_prediction")
    schema = dataset.get_field_schema(flat=True)
    for name, kind in heatmaps.ATTRIBUTES.items():
        assert type(schema[f"run_a.{name}"]) is kind
    assert schema["run_prediction"].document_type is fo.Classification
    assert isinstance(schema["run_prediction.confidence"], fo.FloatField)


def test_writing_expands_no_schema(heatmaps, dataset):
    dataset.add_samples([fo.Sample(filepath="a.jpg")], progress=False)
    heatmaps.declare_schema(dataset, ["run_a"])
    before = set(dataset.get_field_schema(flat=True))
    with heatmaps.Writer(dataset) as writer:
        writer.put({dataset.first().id: {"run_a": heatmaps.make_label(np.eye(4), **source())}})
    dataset.reload()
    assert set(dataset.get_field_schema(flat=True)) == before
    assert not dataset.get_dynamic_field_schema()


def test_attribute_of_another_type_is_refused(heatmaps, dataset):
    dataset.add_sample_field(
        "run_a",
        fo.EmbeddedDocumentField,
        embedded_doc_type=fo.Heatmap,
        fields=[heatmaps._named(fo.IntField(), "score")],
    )
    with pytest.raises(ValueError, match="score"):
        heatmaps.declare_schema(dataset, ["run_a"])


def test_a_file_that_is_gone_is_no_empty_map(plugin, tmp_path):
    heat_of = importlib.import_module(f"{PLUGIN}.operators.data.heatmap_reader").heat_of
    assert heat_of(None) is None
    assert heat_of(fo.Heatmap()) is None
    with pytest.raises(FileNotFoundError, match="gone or is no picture: .*nothing.png"):
        heat_of(fo.Heatmap(map_path=str(tmp_path / "nothing.png")))
