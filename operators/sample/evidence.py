"""Trials that are kept on their sample: the region as a label, with the scores before and after."""

import fiftyone as fo

from ..runs import label_attributes
from ..runs.locking import change_schema
from ..runs.schema import declare_fields

#: the field that trials are kept in; it belongs to no run
FIELD = "explain_evidence"
_F, _S = fo.FloatField, fo.StringField
ATTRIBUTES = {
    "probability_before": (_F, "Probability of the class on the picture as it is, 0 to 1"),
    "probability_after": (_F, "Its probability with the region replaced"),
    "probability_control": (
        _F,
        "Its mean probability with random places of the same size replaced",
    ),
    "prediction_after": (_S, "The class that is predicted with the region replaced"),
    "region": (_S, "What was replaced"),
    "filled_with": (_S, "What took its place"),
    "model": (_S, "The model that was asked"),
}
_ABOUT = (
    "What-if trials: each label is a region that was replaced, its class the one whose score was watched, "
    "its confidence that class's probability afterwards"
)


def keep(dataset, trial, region, filled_with, model):
    """Stores a trial as a label of :data:`FIELD` on its sample.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        trial: the :class:`~operators.sample.trial.Trial`
        region: what was replaced, in words
        filled_with: what took its place, in words
        model: the model's name

    Raises:
        ValueError: if the sample is gone, or the field is of another type
    """
    declared = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Detections}
    change_schema(
        dataset, lambda: declare_fields(dataset, {FIELD: {**declared, "description": _ABOUT}})
    )
    label_attributes.declare(dataset, f"{FIELD}.detections", ATTRIBUTES)
    control = sum(trial.controls) / len(trial.controls) if trial.controls else None
    values = {
        "probability_before": trial.old, "probability_after": trial.new, "probability_control": control,
        "prediction_after": trial.after[0][0], "region": region, "filled_with": filled_with,
        "model": model,
    }  # fmt: skip
    # with a confidence it counts as a model's statement, and never as an annotated object
    label = fo.Detection.from_mask(trial.mask, trial.target, confidence=trial.new, **values)
    try:
        sample = dataset[trial.id]
    except KeyError:
        raise ValueError(f"sample: the dataset has no sample {trial.id!r}") from None
    kept = sample[FIELD] or fo.Detections()
    kept.detections.append(label)
    sample[FIELD] = kept
    sample.save()
