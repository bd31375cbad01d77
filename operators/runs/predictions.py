"""The predictions that a run stores with its heatmaps, and how they are asked for."""

import fiftyone as fo
from fiftyone import ViewField as F


def prediction_type(model):
    """The label that a model's predictions are stored as.

    Args:
        model: the :class:`LoadedModel`

    Returns:
        ``fo.Classifications`` for a multi-label network, else ``fo.Classification``
    """
    several = getattr(model.adapted, "multi_label", False)
    return fo.Classifications if several else fo.Classification


def prediction_of(model, probabilities):
    """The label of one image's prediction.

    Args:
        model: the :class:`LoadedModel`
        probabilities: list of the probability of each class

    Returns:
        the strongest class with its confidence; of a single output class 1 above the threshold. Of a
        multi-label network all classes from its threshold on, the strongest first, in a label whose own
        ``label`` and ``confidence`` are those of the strongest class whether it reaches the threshold or
        not
    """
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    ending = getattr(model.adapted, "ending", None)
    if len(probabilities) == 2 and ending is not None and ending.width == 1:
        best = int(probabilities[1] > model.adapted.threshold)
    strongest = {"label": model.label(best), "confidence": probabilities[best]}
    if prediction_type(model) is fo.Classification:
        return fo.Classification(**strongest)
    given = [i for i, p in enumerate(probabilities) if p >= model.adapted.threshold]
    given.sort(key=lambda i: -probabilities[i])
    rows = [fo.Classification(label=model.label(i), confidence=probabilities[i]) for i in given]
    return fo.Classifications(classifications=rows, **strongest)


def predicts(samples, field, name):
    """An expression that says which samples a class is predicted for.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        field: of a run's predictions
        name: the class

    Returns:
        a :class:`fiftyone.core.expressions.ViewExpression`
    """
    kind = getattr(samples.get_field(field), "document_type", None)
    if kind is fo.Classifications:
        return F(f"{field}.classifications.label").contains(name)
    return F(f"{field}.label") == name
