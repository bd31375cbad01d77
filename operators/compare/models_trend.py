"""What became of the evidence from one model to the next: agreement, predictions, background, trend."""

import dataclasses

import numpy as np

from ..data.samples import read_values
from ..targets.true_labels import Labels
from ..text import number, percent

_AUTO, _TRUTH, _FIRST = "auto", "ground_truth", "first"


def check_target(samples, target, several=False):
    """Finds out which class of each sample is compared.

    Args:
        samples: a dataset or view
        target: ``"auto"``, ``"ground_truth"``, ``"first"``, a label field, or a class
        several (False): whether a sample may have several labels

    Returns:
        a tuple of the label field or None, and what else is meant: ``"first"``, a class, or None

    Raises:
        ValueError: if ``"ground_truth"`` is not one field, or a field holds no labels
    """
    if target == _FIRST or isinstance(target, int):
        return None, target
    named = target if samples.get_field(target) is not None else None
    if target not in (_AUTO, _TRUTH) and named is None:
        return None, target  # a class, which the model's names are searched for
    try:
        found = Labels(samples, named or "auto", None, several=several)
    except ValueError as error:
        if target in (_AUTO, _TRUTH):  # boxes of that name, say; the one label field is meant
            found = Labels(samples, "auto", None, several=several)
        else:
            raise ValueError(f"target: {str(error).removeprefix('labels: ')}") from error
    if found.field is None and target != _AUTO:
        raise ValueError(
            f"target: {found.note} Give a label field, or 'first' for what the first model predicts"
        )
    return found.field, None if found.field is not None else _FIRST


def class_of(target, classes):
    """The index of the class that is meant by a name or an index.

    Raises:
        ValueError: if the models have no such class; near names are listed
    """
    from ...cam_core import class_index

    if isinstance(target, int):
        return target
    if target.isdigit() and target not in (classes or []):
        return int(target)  # a form and a queue have texts
    if classes is None:
        raise ValueError(
            f"target: {target!r} is no field of the dataset, and the models have no class names; pass "
            "classes="
        )
    try:
        return class_index(target, classes)
    except ValueError as error:
        raise ValueError(f"target: {target!r} is neither a field nor a class: {error}") from error


@dataclasses.dataclass
class ModelScores:
    """Numbers of n samples under K models.

    Attributes:
        ids: n sample ids
        keys: K run keys
        columns: K :class:`~operators.compare.columns.Column`
        maps: (n, K, side, side) heat over the image, NaN where there is none
        targets: (n,) the class that is compared, -1 where a model failed
        predicted: (n, K) predicted classes, -1 likewise
        score: (n, K) probability of the compared class
        correct: (n, K) 1, 0, or NaN where the true class is not known
        done: (n,) bool, whether every model has seen the sample
    """

    ids: list
    keys: list
    columns: list
    maps: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    correct: np.ndarray
    done: np.ndarray


def class_rows(found, spearman, label, seed):
    """How far the maps of first and last model agree, per compared class, those that moved most first.

    Args:
        found: :class:`ModelScores`
        spearman: (n,) agreement of first and last
        label: class index -> name
        seed: of the bootstrap

    Returns:
        dicts ``label, n, agreement`` (``mean, low, high, n``)
    """
    from ...cam_core.stats.resampling import bootstrap_mean

    rows = []
    for index in np.unique(found.targets[found.done]):
        mine = found.done & (found.targets == index)
        interval = bootstrap_mean(spearman[mine], seed=seed)
        rows.append({
            "label": label(int(index)), "n": int(mine.sum()),
            "agreement": dataclasses.asdict(interval),
        })  # fmt: skip
    return sorted(
        rows, key=lambda row: (np.isnan(row["agreement"]["mean"]), row["agreement"]["mean"])
    )


def predictions_of(found):
    """What became of the predictions from the first model to the last.

    Returns:
        a dict ``changed, fixed, broken``, ids each; the latter two None where no true class is known
    """
    first, last = found.predicted[:, 0], found.predicted[:, -1]
    ids = np.array(found.ids)
    one, other = found.correct[:, 0], found.correct[:, -1]
    known = found.done & np.isfinite(one) & np.isfinite(other)
    labelled = bool(known.any())
    return {
        "changed": ids[found.done & (first != last)].tolist(),
        "fixed": ids[known & (one == 0) & (other == 1)].tolist() if labelled else None,
        "broken": ids[known & (one == 1) & (other == 0)].tolist() if labelled else None,
        "labelled": int(known.sum()),
    }


def background_of(samples, first, last, seed):
    """What became of the verdicts of ``find_background_bias`` on both runs.

    Args:
        samples: a dataset or view
        first: key of a run
        last: key of a run
        seed: of the bootstrap

    Returns:
        a dict: ``fixed, unchanged, new, neither`` each with ``count, share, low, high, n, ids``;
        ``undecided``, a count; ``change``, the change of the share that relies on the background,
        with its interval. None where one of the runs has no bias analysis
    """
    from ...cam_core.bias.verdicts import HARMLESS, HIDDEN, OBJECT, RELIES
    from ...cam_core.stats.ranking import wilson
    from ...cam_core.stats.resampling import bootstrap_mean

    fields = [f"{key}_verdict" for key in (first, last)]
    if any(samples.get_field(field) is None for field in fields):
        return None
    ids, one, other = (np.array(v, object) for v in read_values(samples, ["id", *fields]))
    relies, decided = (RELIES, HIDDEN), (RELIES, HIDDEN, HARMLESS, OBJECT)
    known = np.isin(one, decided) & np.isin(other, decided)
    before, after = np.isin(one, relies), np.isin(other, relies)
    groups = {
        "fixed": before & ~after, "unchanged": before & after, "new": ~before & after,
        "neither": ~before & ~after,
    }  # fmt: skip
    total = int(known.sum())
    found = {}
    for name, mine in groups.items():
        members = ids[known & mine].tolist()
        interval = wilson(len(members), total)
        found[name] = {
            "count": len(members), "share": interval.mean, "low": interval.low,
            "high": interval.high, "n": total, "ids": members,
        }  # fmt: skip
    analysed = (one != None) & (other != None)  # noqa: E711 - elementwise
    found["undecided"] = int((analysed & ~known).sum())
    change = after[known].astype(float) - before[known]
    found["change"] = dataclasses.asdict(bootstrap_mean(change, seed=seed))
    return found


def trend_of(samples, found, agreement, seed):
    """One row per model: agreement with the last one's maps, score, accuracy, heat on the objects.

    Args:
        samples: a dataset or view, read where the runs have a bias analysis
        found: :class:`ModelScores`
        agreement: (n, K, K) rank correlation
        seed: of the bootstrap

    Returns:
        dicts ``cam_key, agreement, score, accuracy, heat_on_objects``, each with ``mean, low, high, n``
        or None
    """
    from ...cam_core.stats.resampling import bootstrap_mean

    def interval(values):
        result = dataclasses.asdict(bootstrap_mean(np.asarray(values, float), seed=seed))
        return result if result["n"] else None

    rows = []
    for k, key in enumerate(found.keys):
        path = f"{key}_bias.obj_energy"
        heat = None
        if samples.get_field(path) is not None:
            heat = interval([np.nan if v is None else v for v in read_values(samples, path)])
        last = k == len(found.keys) - 1
        rows.append({
            "cam_key": key,
            "agreement": None if last else interval(agreement[:, k, -1]),
            "score": interval(found.score[found.done, k]),
            "accuracy": interval(found.correct[:, k]),
            "heat_on_objects": heat,
        })  # fmt: skip
    return rows


def described(first, last):
    """The description of the field with the agreement of two runs."""
    return f"Rank correlation of the maps of {first} and {last} for the same class"


def views_of(first, last, predictions, background):
    """The views that are saved: ``{name: (ids, description)}``."""
    pair = f"{first} vs {last}"
    if predictions["fixed"] is None:
        views = {
            f"{pair}: prediction changed": (predictions["changed"], "Another class is predicted")
        }
    else:
        views = {
            f"{pair}: prediction fixed": (predictions["fixed"], "Wrong then, right now"),
            f"{pair}: prediction broken": (predictions["broken"], "Right then, wrong now"),
        }
    texts = {
        "fixed": f"Relied on the background under {first}, not under {last}",
        "unchanged": "Relies on the background under both",
        "new": f"Relies on the background under {last}, did not under {first}",
    }
    for name, text in texts.items() if background is not None else ():
        views[f"{pair}: background {name}"] = (background[name]["ids"], text)
    return views


def sentences_of(first, last, row, floor, predictions, background, trend):
    """What is said of it, one topic each; the first one is the headline.

    Args:
        first: key of a run
        last: key of a run
        row: the agreement of their maps, ``mean, low, high, n``
        floor: agreement of a model's maps of different samples, or None
        predictions: of :func:`predictions_of`
        background: of :func:`background_of`
        trend: of :func:`trend_of`
    """
    words = f"{first} vs {last}"
    if row["mean"] is None or not np.isfinite(row["mean"]):
        said = [f"{words}: no sample has two maps of the same class that could be compared."]
    else:
        low = "" if row["low"] is None else f", {number(row['low'])} to {number(row['high'])}"
        other = "" if floor is None else f"; maps of two different samples: {number(floor)}"
        said = [
            f"{words}: the maps of the same class agree by {number(row['mean'])} (rank correlation{low}, "
            f"n = {row['n']}{other})."
        ]
    if predictions["fixed"] is None:
        said.append(
            f"Predictions: {len(predictions['changed']):,} changed; no true class is known."
        )
    else:
        said.append(
            f"Predictions: {len(predictions['fixed']):,} fixed and {len(predictions['broken']):,} broken of "
            f"{predictions['labelled']:,} with a true class."
        )
    if background is None:
        said.append(
            "Background: not compared; find_background_bias has to have analysed both runs."
        )
    else:
        said.append(_background(background))
    if len(trend) > 2:
        steps = ", ".join(
            f"{t['cam_key']} {number(t['agreement']['mean'])}" for t in trend if t["agreement"]
        )
        said.append(f"Agreement with the maps of {last}: {steps}.")
    return said


def _background(b):
    parts = [
        f"{b[name]['count']:,} {name} ({percent(b[name]['low'])} to {percent(b[name]['high'])})"
        for name in ("fixed", "unchanged", "new")
        if b[name]["n"]
    ]
    if not parts:
        return f"Background: no sample is decided under both ({b['undecided']:,} undecided)."
    return (
        f"Background dependence: {', '.join(parts)} of {b['fixed']['n']:,} samples decided under both; "
        f"{b['undecided']:,} undecided."
    )
