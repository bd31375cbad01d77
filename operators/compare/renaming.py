"""A comparison when a run that it read gets another key: what it says is made again from its numbers."""

from . import models_trend, ranking
from .advice import recommendation
from .columns import Column
from .schema import agreement_field


def renamed(found, key):
    """Gives the runs of a comparison their new keys.

    Args:
        found: its record or its results, whose fields, views and ``cam_keys`` are renamed already; it is
            changed
        key: maps a run's key to its key now

    Returns:
        the same
    """
    used = found.get("settings") or {}
    if isinstance(used.get("models"), dict):
        used["models"] = {key(k): name for k, name in used["models"].items()}
    if found.get("models"):
        _rename_models(found, key)
    elif len(found.get("cam_keys") or ()) > 1 and _has_numbers(found.get("leaderboard")):
        _rename_methods(found)
    return found


def _has_numbers(rows):
    """Whether rows of a leaderboard, which may come from elsewhere, have what its words are made from."""
    return bool(rows) and all({"wins", "mean_rank", "baseline"} <= set(row) for row in rows)


def _rename_models(found, key):
    models, before = found["models"], _predicted(found["models"])
    models["keys"] = found["agreement"]["labels"] = [key(k) for k in models["keys"]]
    for step in models["successive"]:
        step["from"], step["to"] = key(step["from"]), key(step["to"])
    if models["target"] == before:
        models["target"] = _predicted(models)
    found["notes"] = [note.replace(before, _predicted(models)) for note in found["notes"]]
    first, *rest = models_trend.sentences_of(
        models["keys"][0], models["keys"][-1], models["first_last"],
        found["agreement"]["noise_floor"]["spearman"],
        models["predictions"], models["background"], models["trend"],
    )  # fmt: skip
    found["recommendation"]["sentence"], models["sentences"] = first, rest


def _predicted(models):
    """The class that is compared where it is the first model's."""
    return f"what {models['keys'][0]} predicts"


def _rename_methods(found):
    rows = {row["field"]: row for row in found["leaderboard"]}
    names = ("field", "cam_key", "method", "layer", "class_discriminative")
    columns = [
        Column(**{n: rows[field][n] for n in names}) for field in found["agreement"]["fields"]
    ]
    labels = [ranking.label_of(column, columns) for column in columns]
    found["agreement"]["labels"] = labels
    for column, label in zip(columns, labels, strict=True):
        rows[column.field]["label"] = label
    ranked = [name for name, metric in found["metrics"].items() if metric["ranked"]]
    found["recommendation"] = recommendation(found["leaderboard"], ranked)


def descriptions(found):
    """What the field and the views of a comparison of models say: ``{name: description}``.

    Args:
        found: its results, after :func:`renamed`
    """
    models = found.get("models")
    if not models:
        return {}
    first, last = models["keys"][0], models["keys"][-1]
    views = models_trend.views_of(first, last, models["predictions"], models["background"])
    said = {name: description for name, (_, description) in views.items()}
    return {**said, agreement_field(first, last): models_trend.described(first, last)}
