"""What the database holds of one sample and one run, read with one query."""

import dataclasses

from ..bias.attributes import OLD_PROBABILITY, probability_of
from ..bias.schema import RECORDS as BIAS
from ..bias.schema import field_names
from ..compare.schema import RECORDS as COMPARISONS
from ..data.heatmap_reader import heat_of
from ..data.samples import read_values


@dataclasses.dataclass
class Stored:
    """One sample as a run left it.

    Attributes:
        id, path: of the sample
        key: of the run
        labels: ``{heatmap field: fo.Heatmap}`` of those that the sample has, in the run's order
        prediction: the run's label of what is predicted, or None
        verdict: of the bias analysis, or None
        bias: its numbers as a document, or None
        metrics: names of the attributes that a comparison of methods wrote on the labels
    """

    id: str
    path: str
    key: str
    labels: dict
    prediction: object
    verdict: str
    bias: object
    metrics: list

    def bias_number(self, name):
        """A number of the bias analysis, or None."""
        return getattr(self.bias, name, None) if self.bias is not None else None

    @property
    def probability(self):
        """The probability of the class that the bias analysis tested, or None."""
        return probability_of(
            {name: self.bias_number(name) for name in ("probability", OLD_PROBABILITY)}
        )


def read(run, sample_id):
    """Reads a sample.

    Args:
        run: the :class:`~operators.runs.run.Run`
        sample_id: the sample

    Returns:
        a :class:`Stored`, or None if there is no such sample
    """
    dataset, fields = run.dataset, run.heatmap_fields
    verdict, _, bias = field_names(run.key)
    analysed = (BIAS.record_of(dataset, run.key) or {}).get("status") == "finished"
    own = {
        "prediction": f"{run.key}_prediction",
        "verdict": verdict if analysed else None,
        "bias": bias if analysed else None,
    }
    known = {name: path for name, path in own.items() if path and dataset.get_field(path)}
    view = one_sample(dataset, sample_id)
    columns = read_values(view, ["filepath", *fields, *known.values()])
    if not columns[0]:
        return None
    path, *values = [column[0] for column in columns]
    labels = {f: v for f, v in zip(fields, values, strict=False) if v is not None}
    rest = dict.fromkeys(own) | dict(zip(known, values[len(fields) :], strict=True))
    comparison = COMPARISONS.record_of(dataset, run.key) or {}
    return Stored(
        id=sample_id, path=path, key=run.key, labels=labels,
        metrics=list(comparison.get("attributes") or []), **rest,
    )  # fmt: skip


def one_sample(dataset, sample_id):
    """A view of one sample, of any slice of groups."""
    if dataset.media_type == "group":
        return dataset.select_group_slices(_allow_mixed=True).select([sample_id])
    return dataset.select([sample_id])


def heat_in(label):
    """The map of a label, (h, w) in [0, 1]; None where it has none, or its status says so."""
    known = label is not None and getattr(label, "status", "ok") == "ok"
    return heat_of(label) if known else None


def heat_of_sample(dataset, sample_id, field):
    """The map of one heatmap field of a sample, or None."""
    if field is None or dataset.get_field(field) is None:
        return None
    found = read_values(one_sample(dataset, sample_id), field)
    return heat_in(found[0] if found else None)


def objects_on(dataset, sample_id):
    """The boxes on a sample that are no trials: ``[(label id, field, name, [left, top, width, height])]``."""
    import fiftyone as fo

    from ..sample.evidence import FIELD

    schema = dataset.get_field_schema(
        ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections
    )
    fields = [name for name in schema if name != FIELD]
    if not fields:
        return []
    columns = read_values(one_sample(dataset, sample_id), [f"{name}.detections" for name in fields])
    return [
        (str(one.id), name, one.label or "box", [float(v) for v in one.bounding_box])
        for name, column in zip(fields, columns, strict=True)
        for one in (column[0] if column else None) or []
    ]
