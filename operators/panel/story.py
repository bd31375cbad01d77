"""What a run found, in three sentences, and what to do next."""

from ..bias.findings import CLASS_MIN
from ..runs.level import Level, level_of
from ..text import counted, percent
from .views import BACKGROUND


def tell(run, summary, counts, left_out, compared):
    """Three sentences about a run: what was computed, what was found, what follows.

    Args:
        run: the :class:`~operators.runs.run.Run`
        summary: its :class:`~operators.bias.summary.BiasSummary`, or None
        counts: its samples by verdict, without those that were accepted as context
        left_out: how many were accepted
        compared: whether its methods were compared

    Returns:
        (sentences, step): three strings, and a dict ``label, icon, event, params`` of the one button to
        press next, or None
    """
    first, noun = _computed(run), _noun(run)
    if run.status == "running":
        return [first, *_untested(noun)], None
    if run.status in ("interrupted", "failed"):
        return [first, *_untested(noun)], _step("Resume the run", "replay", "on_run_again")
    if summary is None:
        if type(level_of(run.dataset)) is not Level:  # of videos there is no test
            step = _step("Look at the weakest evidence", "search", "on_tab", tab="samples")
        else:
            step = _step("Test the background", "wallpaper", "on_examine")
        return [first, *_untested(noun)], step
    if not summary.tested:
        sentences = [
            first,
            "Whether the background decides could not be tested: no object could be cut out.",
            "Boxes, polygons or masks in a label field make the test possible.",
        ]
        return sentences, _step("Test a region of the images", "crop_free", "on_region")
    return [first, *_found(summary, counts, left_out)], _next(summary, counts, compared)


def _noun(run):
    return "images" if type(level_of(run.dataset)) is Level else "frames"


def _step(label, icon, event, **params):
    return {"label": label, "icon": icon, "event": event, "params": params}


def _computed(run):
    progress, noun = run.record.progress, _noun(run)
    done, total = progress.get("done", 0), progress.get("total", 0)
    model = run.settings.get("model") or "the model"
    if run.status == "running":
        return f"Heatmaps of {model} are being computed: {done:,} of {counted(total, noun)} so far."
    of = f" of {total:,}" if total > done else ""
    failed = progress.get("failed", 0)
    more = f"; {counted(failed, noun)} failed" if failed else ""
    return f"The heatmaps show where {model} looked on {done:,}{of} {noun}{more}."


def _untested(noun):
    return (
        "Whether the object or the background decides was not tested yet.",
        f"The heat alone does not say: it shows where evidence lies in the {noun}, not what it is worth.",
    )


def relying(summary, counts):
    """How many samples, or objects, rest on the background."""
    verdicts = counts if summary.unit == "samples" else summary.verdicts
    return sum(verdicts.get(name, 0) for name in BACKGROUND)


def _found(summary, counts, left_out):
    unit = "images" if summary.unit == "samples" else summary.unit
    relies = relying(summary, counts)
    tested = summary.tested - (left_out if summary.unit == "samples" else 0)
    accepted = f"; {left_out:,} accepted as context are left out" if left_out else ""
    if not relies:
        return (
            f"On none of the {counted(tested, unit)} tested does the score depend on the background{accepted}.",
            "That is no proof that there is no dependence: the test tries a few backgrounds of this dataset.",
        )
    share = f" ({_whole(percent(relies / tested))})" if tested else ""
    found = (
        f"On {relies:,} of the {counted(tested, unit)} tested the score depends on the "
        f"background{share}{accepted}."
    )
    return found, _classes(summary)


def _classes(summary):
    judged = [row for row in summary.classes if not row["note"]]
    flagged = summary.flagged
    if not judged:
        return (
            f"There are too few {summary.unit} per class to say which classes it concerns: it takes "
            f"{CLASS_MIN} of one."
        )
    if not flagged:
        return "No single class stands out."
    if len(judged) == 1:
        return (
            f"It concerns the class {flagged[0]['label']}, the only one with enough {summary.unit}."
        )
    return (
        f"It concerns {len(flagged)} of the {len(judged)} classes that can be judged, "
        f"{flagged[0]['label']} most."
    )


def _next(summary, counts, compared):
    relies = relying(summary, counts)
    if relies:
        right = ((summary.model or {}).get("evidence") or {}).get("right_background", 0)
        kind, what = ("wrong_reason", "that are right for the wrong reason") if right else (
            "dependent", "that depend on it most"
        )  # fmt: skip
        return _step(f"Look at the images {what}", "photo_library", "on_queue", kind=kind)
    if not compared:
        return _step("Check which method to trust", "leaderboard", "on_compare")
    return _step("Look at the weakest evidence", "photo_library", "on_queue", kind="weakest")


def measures(summary):
    """What was measured of the model, with 95 % intervals, as rows of a table.

    Args:
        summary: a :class:`~operators.bias.summary.BiasSummary`, or None

    Returns:
        a list of dicts ``what, value, interval, n``; empty where nothing was tested
    """
    if summary is None or summary.model is None or not summary.tested:
        return []
    model, objects = summary.model, summary.model["against"] == "objects"
    names = {
        "accuracy": "Objects found and named right" if objects else "Accuracy"
        if model["against"] == "labels" else "Agreement with its own predictions",
        "mixed_rand": "on backgrounds of other classes",
        "mixed_same": "on backgrounds of its own class (control)",
        "only_bg": "on backgrounds alone",
    }  # fmt: skip
    rows = []
    for name, what in names.items():
        found = model[name]
        if found["mean"] is None:
            continue
        low, high = found["low"], found["high"]
        rows.append({
            "what": what, "value": _whole(percent(found["mean"])), "n": f"{found['n']:,}",
            "interval": ""
            if low is None or low == high
            else _whole(f"{percent(low)} to {percent(high)}"),
        })  # fmt: skip
    return rows


def _whole(text):
    """A text that is not broken into lines."""
    return text.replace(" ", "\u00a0")
