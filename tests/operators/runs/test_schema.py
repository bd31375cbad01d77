"""Many fields declared at once: what the database holds is what one call for each would have left."""

import importlib

import fiftyone as fo
import fiftyone.core.odm as fod
import pytest
from operators_common import PLUGIN

FIELDS = {
    "score": {"ftype": fo.FloatField, "description": "a number"},
    "kept": {"ftype": fo.ListField, "subfield": fo.StringField},
    "heat": {
        "ftype": fo.EmbeddedDocumentField,
        "embedded_doc_type": fo.Heatmap,
        "fields": [{"name": "peak", "ftype": fo.FloatField, "description": "raw maximum"}],
    },
    "found": {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Detections},
    "found.detections.in_box": {"ftype": fo.FloatField, "description": "a share"},
}


@pytest.fixture(scope="module")
def schema(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.schema")


def stored(dataset):
    """The dataset's document in MongoDB, without what no two datasets share."""
    document = fod.get_db_conn().datasets.find_one({"_id": dataset._doc.id})
    return without_moments(document["sample_fields"]), document["app_config"]


def without_moments(value):
    if isinstance(value, list):
        return [without_moments(v) for v in value]
    if isinstance(value, dict):
        return {k: without_moments(v) for k, v in value.items() if k != "created_at"}
    return value


def counted_writes(dataset, monkeypatch):
    """A list that grows with every write of a dataset's document."""
    writes, save = [], type(dataset._doc).save
    monkeypatch.setattr(
        type(dataset._doc), "save", lambda doc, *a, **k: writes.append(doc) or save(doc, *a, **k)
    )
    return writes


def test_one_write_leaves_what_many_would(schema, make_dataset, monkeypatch):
    one_by_one, at_once = make_dataset(), make_dataset()
    for path, given in FIELDS.items():
        one_by_one.add_sample_field(path, **given)
    writes = counted_writes(at_once, monkeypatch)
    schema.declare_fields(at_once, FIELDS)
    assert len(writes) == 2  # the attribute of a field that the first of them made is the second
    assert stored(at_once) == stored(one_by_one)
    assert stored(at_once)[0][-1]["db_field"] == "found"
    schema.declare_fields(at_once, FIELDS)  # nothing is new
    assert len(writes) == 2
    flat = {path: str(field) for path, field in at_once.get_field_schema(flat=True).items()}
    assert flat == {p: str(f) for p, f in one_by_one.get_field_schema(flat=True).items()}


def test_many_fields_are_one_write(schema, make_dataset, monkeypatch):
    dataset = make_dataset()
    writes = counted_writes(dataset, monkeypatch)
    heatmaps = importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")
    names = [f"run_layercam_{i}" for i in range(36)]
    heatmaps.declare_schema(dataset, names, "run_prediction")
    assert len(writes) == 1
    assert set(names) < set(dataset.get_field_schema())


def test_attributes_are_added_to_a_field_that_is_there(schema, make_dataset):
    dataset = make_dataset()
    dataset.add_sample_field(
        "heat", fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap, description="mine"
    )
    schema.declare_fields(dataset, FIELDS)
    dataset.reload()
    assert dataset.get_field("heat").description == "mine"
    assert isinstance(dataset.get_field("heat.peak"), fo.FloatField)
    assert isinstance(dataset.get_field("found.detections.in_box"), fo.FloatField)


def test_field_of_another_type_is_refused_and_nothing_is_declared(schema, make_dataset):
    dataset = make_dataset()
    dataset.add_sample_field("heat", fo.StringField)
    before = set(dataset.get_field_schema(flat=True))
    with pytest.raises(ValueError, match="heat"):
        schema.declare_fields(dataset, FIELDS)
    dataset.reload()
    assert set(dataset.get_field_schema(flat=True)) == before


def test_fields_of_another_process_are_kept(schema, make_dataset):
    """What was added to the stored schema since this copy was loaded is still there afterwards."""
    dataset = make_dataset()
    elsewhere = fod.DatasetDocument._get_collection()
    entry = elsewhere.find_one({"_id": dataset._doc.id})["sample_fields"][-1]
    theirs = {**entry, "name": "theirs", "db_field": "theirs"}
    elsewhere.update_one({"_id": dataset._doc.id}, {"$push": {"sample_fields": theirs}})
    schema.declare_fields(dataset, FIELDS)
    names = [f["name"] for f in elsewhere.find_one({"_id": dataset._doc.id})["sample_fields"]]
    assert "theirs" in names
    assert "heat" in names
