"""What is looked at before a comparison: the model, the runs, how many samples the budget allows."""

import difflib

from ..jobs.inference import probabilities_of
from ..models import zoo
from ..models.classes import check_count
from ..runs import keys as run_keys
from ..runs import provenance
from ..text import duration
from .params import FEWEST, PROBE, SECONDS, parse_budget


def choose_count(settings, usable, forwards, seconds, left=None):
    """How many samples are measured, and why so many.

    Args:
        settings: the :class:`CompareSettings`
        usable: samples with a map
        forwards: that one sample takes
        seconds: that one sample takes, by a trial
        left (None): seconds of a budget's time in which samples can be measured

    Returns:
        a number, and words that say how it came about

    Raises:
        ValueError: if the budget does not allow two samples
    """
    budget, asked = parse_budget(settings.budget), settings.probe
    spread = f"seed {settings.seed}, spread over the classes"
    if budget.forwards is None and budget.seconds is None:
        if asked != "auto":
            return min(usable, asked), f"as many as asked for, {spread}"
        quick = max(FEWEST, int(SECONDS / max(seconds, 1e-9)))
        if quick < min(usable, PROBE):
            return (
                quick,
                f"as many as take about {duration(max(SECONDS, FEWEST * seconds))}, {spread}",
            )
        return (usable, "all of them") if usable <= PROBE else (PROBE, spread)
    if budget.forwards is not None:
        allowed, each = budget.forwards // forwards, f"{forwards:,} forwards"
    else:
        left = max(0.0, budget.seconds if left is None else left)
        allowed = int(left / max(seconds, 1e-9))
        each = f"about {duration(seconds)} and {duration(left)} are left for measuring"
    if allowed < min(2, usable):
        raise ValueError(
            f"budget: one sample takes {each}, so {settings.budget!r} does not allow the two that a "
            "comparison needs; allow more, or compare fewer methods or metrics"
        )
    most = usable if asked == "auto" else min(usable, asked)
    if most == usable <= allowed:
        return usable, "all of them"
    return min(most, allowed), f"what the budget allows, {spread}"


def check_same_model(dataset, cam_keys):
    """Raises a ValueError if runs are of different models, or of different inputs of one."""
    used = {key: run_keys.config_of(dataset, key).settings for key in cam_keys}
    first = cam_keys[0]
    for key in cam_keys[1:]:
        for name, what in (("weights", "another model"), ("transforms_check", "other transforms")):
            one, other = used[first].get(name), used[key].get(name)
            if one is not None and other is not None and one != other:
                keys = ", ".join(repr(k) for k in (first, key))
                raise ValueError(
                    f"cam_keys: {key!r} is of {what} than {first!r} ({used[key].get('model')}, "
                    f"{used[first].get('model')}), and one model's score says nothing of the other's "
                    f"heatmaps; compare the models: compare_cams(samples, [{keys}], models={{{first!r}: "
                    f"..., {key!r}: ...}})"
                )


def check_model(dataset, cam_key, model, argument="model"):
    """Raises a ValueError unless a model is a classifier, and that of a run."""
    if model.kind in (zoo.DETECTOR, zoo.SEGMENTER):
        raise ValueError(
            f"{argument}: compare_cams measures classifiers, whose outputs are class scores of the whole "
            f"image; a {model.kind} is not supported"
        )
    then = run_keys.config_of(dataset, cam_key).settings.get("weights")
    now = provenance.fingerprint(model.module)
    if then is not None and then != now:
        raise ValueError(
            f"{argument}: the heatmaps of {cam_key!r} are of other weights ({then}) than those of this "
            f"model ({now}); give the model as it was when they were computed"
        )


def check_classifier(model, image, precision, argument="model"):
    """Returns the (1, classes) probabilities of an image.

    Raises:
        ValueError: if the model gives no class scores for whole images, or as many as there are no
            class names
    """
    try:
        probabilities = probabilities_of(model, image, precision)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{argument}: compare_cams measures classifiers, whose outputs are class scores of the whole "
            f"image ({' '.join(str(error).split())[:200]})"
        ) from error
    check_count(model, probabilities.shape[1])
    return probabilities


def check_models(models, keys):
    """Raises a ValueError if a model is given for a run that is not compared."""
    for key in models:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"models: {key!r} is none of the runs that are compared{hint}: {', '.join(keys)}"
            )


def one_each(columns):
    """Per run the heatmap field that is compared: of the first method that all of them have.

    Raises:
        ValueError: if there is only one run, or no method in common
    """
    keys = list(dict.fromkeys(c.cam_key for c in columns))
    if len(keys) < 2:
        raise ValueError(
            f"cam_keys: comparing models takes the runs of two or more, got {keys[0]!r} alone; without "
            "models= the methods of one run are compared"
        )
    usable = [c for c in columns if c.class_discriminative]
    for column in usable:
        same = {}
        for other in usable:
            if other.method == column.method:
                same.setdefault(other.cam_key, other)
        if len(same) == len(keys):
            return [same[key] for key in keys]
    methods = {key: [c.method for c in usable if c.cam_key == key] for key in keys}
    raise ValueError(
        f"cam_keys: the runs have no class-discriminative method in common ({methods}); compute one for "
        "all of them"
    )
