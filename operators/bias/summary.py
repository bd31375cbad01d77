"""What a run of ``find_background_bias`` found, as numbers and in plain words."""

import collections
import dataclasses

from ..runs.plain_data import PlainData
from ..text import counted, number, percent, with_interval
from .findings import CLASS_MIN


@dataclasses.dataclass
class BiasSummary(PlainData):
    """What a run found.

    Attributes:
        cam_key: the CAM run's key
        samples: how many were looked at
        tested: on how many samples, or objects, the swap was run
        classes: dicts ``label, n, bg_gap`` (``mean, low, high, n``), ``bg_support, dependence, q,
            flagged, note, ...``, the most dependent first
        model: the model line: ``accuracy, mixed_rand, mixed_same, bg_gap, only_bg`` with intervals,
            ``chance, majority, against, evidence``, ``null_rate`` (share that would be flagged if
            backgrounds did not matter), ``sensitivity`` (relative foreground sensitivity: ``value, low,
            high, noisy_background, noisy_object, n``); None where nothing was tested
        calibration: ``auroc, usable, reason, n, positives`` of heat against the swap
        objects: ``fields, how, classes, labels``: what was used as object and how it was chosen
        verdicts: count per verdict
        skipped: count per reason why samples were not tested
        heat: mean heat on the objects beside its baselines, or None
        regions: dicts ``name, effect, region_drop, control_drop, flip, p, n, ...``: of the border and
            the hottest place where there are no objects, of what is named context where there is
        clusters: of heatmaps, small tight ones off the object first
        telltales: statistics of whole images that tell classes apart
        portraits: mean heat within the objects' boxes, per class and group
        groups: what ``group_by`` has to do with the answers, or None
        labels: ``field, known, unknown``: samples whose label the model has, and has not
        views: names of the saved views
        fields: the fields written
        report: the path of the HTML report, or None
        failed: list of dicts ``id, filepath, reason``
        seconds: wall time
        settings: what was used
        notes: sentences that a user should read
        error: what went wrong while storing, or None
        unit: ``"samples"``, or ``"objects"`` for a detector: what verdicts, classes and skipped count
        units: how many objects there are; None for a classifier
        undecided: of what was tested, count per reason why it "cannot say"; None where that was not
            recorded
    """

    kind = "bias_analysis"

    cam_key: str
    samples: int
    tested: int
    classes: list
    model: dict
    calibration: dict
    objects: dict
    verdicts: dict
    skipped: dict
    heat: dict
    regions: list
    clusters: list
    telltales: list
    portraits: list
    groups: dict
    labels: dict
    views: list
    fields: list
    report: str
    failed: list
    seconds: float
    settings: dict
    notes: list
    error: str = None
    unit: str = "samples"
    units: int = None
    undecided: dict = None

    @property
    def flagged(self):
        """The classes that are flagged."""
        return [row for row in self.classes if row["flagged"]]

    def __str__(self):
        """A paragraph for people."""
        return "\n".join(self.lines())

    def lines(self):
        """The sentences of the summary, one topic each."""
        parts = [
            _headline(self), _classes(self), _model(self), _noise(self), _null(self), _heat(self),
            _verdicts(self),
            *(_region(r) for r in self.regions), _telltales(self), _groups(self), *self.notes,
            _skipped(self), _labels(self), _views(self), _failed(self),
        ]  # fmt: skip
        return [part for part in parts if part]


def undecided_of(verdicts):
    """Why nothing can be said of what was tested.

    Args:
        verdicts: :class:`~cam_core.bias.verdicts.Verdict` of each, any iterable

    Returns:
        a dict of reason -> count, in the order of ``cam_core.bias.verdicts.UNDECIDED``
    """
    from ...cam_core.bias.verdicts import UNDECIDED

    counts = collections.Counter(v.why for v in verdicts)
    return {why: counts[why] for why in UNDECIDED if counts[why]}


def _headline(s):
    relies = _relying(s)
    if not s.tested:
        return f"{s.cam_key}: not tested. No background of {counted(_total(s), s.unit)} could be swapped."
    return (
        f"{s.cam_key}: the score of {relies:,} of {counted(s.tested, f'tested {s.unit}')} depends on the "
        f"background ({counted(_total(s), s.unit)} in all)."
    )


def _total(s):
    return s.samples if s.units is None else s.units


def _relying(s):
    from ...cam_core.bias.verdicts import HIDDEN, RELIES

    return s.verdicts.get(RELIES, 0) + s.verdicts.get(HIDDEN, 0)


def _classes(s):
    unsure = sum(row["note"] == "unsure" for row in s.classes)
    few = sum(row["note"] == "too few" for row in s.classes)
    enough = [row for row in s.classes if row["note"] not in ("too few", "unsure")]
    if not s.tested:
        return None
    if not enough and unsure:
        return f"Classes: {_low_scores(unsure)}{_left(few, s.unit)}."
    if not enough:
        return f"Classes: none of {few} judged: each has fewer than {CLASS_MIN} tested {s.unit}."
    left = f"; {_low_scores(unsure)}" if unsure else ""
    left += _left(few, s.unit)
    if not s.flagged:
        return (
            f"Classes: no sign of background dependence in {_these(enough)} "
            f"({sum(row['n'] for row in enough):,} {s.unit}). These checks can miss cues{left}."
        )
    named = ", ".join(
        f"{row['label']} (gap {with_interval(row['bg_gap'], number)}, q {row['q']:.2g})"
        for row in s.flagged[:8]
    )
    more = f" and {len(s.flagged) - 8} more" if len(s.flagged) > 8 else ""
    return (
        f"Classes: {len(s.flagged)} of {len(enough)} depend{'s' * (len(s.flagged) == 1)} on the background: "
        f"{named}{more}{left}."
    )


def _low_scores(count):
    """Of classes whose test could not have seen anything."""
    return f"{count} not judged, as scores are too low"


def _left(few, unit):
    return f"; {few} not judged, with fewer than {CLASS_MIN} tested {unit}" if few else ""


def _these(rows):
    return f"the class {rows[0]['label']}" if len(rows) == 1 else f"the {len(rows)} classes judged"


def _model(s):
    if s.model is None or not s.tested:
        return None
    m = s.model
    if m["against"] == "objects":
        return _found_objects(m)
    what = (
        "Accuracy" if m["against"] == "labels" else "Agreement with its own predictions (no labels)"
    )
    n = m["mixed_same"]["n"]
    control = _too_few(n) or (
        f"{with_interval(m['mixed_same'])} on backgrounds of its own class (the control)"
        if n
        else "same-class control: none, as no two tested samples share a predicted class"
    )
    few = (
        f" (the control only on {n} of them)" if CLASS_MIN <= n < 0.5 * m["mixed_rand"]["n"] else ""
    )
    return (
        f"Model: {what.lower()} {with_interval(m['accuracy'])}; {with_interval(m['mixed_rand'])} on "
        f"backgrounds of other classes; {control}{few}; {with_interval(m['only_bg'])} on backgrounds "
        f"alone (chance {percent(m['chance'])}, always the most frequent class {percent(m['majority'])})."
    )


def _too_few(n, unit="samples"):
    """What is said of a control that has next to no samples; None where it has none, or enough."""
    return f"same-class control: too few {unit} ({n} of {CLASS_MIN})" if 0 < n < CLASS_MIN else None


def _found_objects(m):
    control = _too_few(m["mixed_same"]["n"], "objects") or (
        f"{with_interval(m['mixed_same'])} in those of its own class (the control)"
        if m["mixed_same"]["n"]
        else "same-class control: none, as no two images hold the same class"
    )
    return (
        f"Model: {with_interval(m['accuracy'])} of the tested objects are found and named right; "
        f"{with_interval(m['mixed_rand'])} in surroundings of other classes; {control}; "
        f"{with_interval(m['only_bg'])} with the object removed."
    )


def _noise(s):
    m = s.model and s.model.get("sensitivity")
    if not m:
        return None
    more = "the object" if m["value"] > 0 else "the background"
    sure = m["low"] is not None and (m["low"] > 0 or m["high"] < 0)
    said = f"noise on {more} costs more" if sure else "neither clearly costs more"
    bounds = f"{m['low']:.2f} to {m['high']:.2f}, " if m["low"] is not None else ""
    return (
        f"Noise: accuracy {percent(m['noisy_background'])} with noise on the background, "
        f"{percent(m['noisy_object'])} with noise on the object; relative foreground sensitivity "
        f"{m['value']:.2f} ({bounds}n = {m['n']}): {said}."
    )


def _null(s):
    rate = s.model and s.model.get("null_rate")
    if rate is None or not s.tested:
        return None
    return (
        f"False alarms: {percent(rate)} of the {s.unit} would be called dependent if backgrounds of other classes "
        "and of the own class were exchanged at random."
    )


def _heat(s):
    if s.heat is None and s.unit == "objects":
        return None
    if s.heat is None:
        return f"Heat: {s.calibration['reason']}." if s.tested else None
    h = s.heat
    return (
        f"Heat: {percent(h['obj_energy'])} of it is on the objects (n = {h['n']}; a uniform map "
        f"{percent(h['uniform'])}, other samples' maps {percent(h['shuffled'])}, a centred Gaussian "
        f"{percent(h['gaussian'])}). {s.calibration['reason'][0].upper()}{s.calibration['reason'][1:]}."
        + (f" {counted(h['zero'], 'maps')} without heat." if h["zero"] else "")
    )


def _verdicts(s):
    from ...cam_core.bias.verdicts import VERDICTS

    counts = [f"{s.verdicts[v]:,} {v}" for v in VERDICTS if s.verdicts.get(v)]
    why = ", ".join(f"{count:,} {reason}" for reason, count in (s.undecided or {}).items())
    tested = f" (of the tested: {why})" if why else ""  # "cannot say" is the last one
    return f"Verdicts: {', '.join(counts)}{tested}."


def region_sentence(region):
    """What replacing a region did, in one sentence."""
    r = region
    if not r["n"]:
        why = ", ".join(f"{count} {reason}" for reason, count in r["skipped"].items())
        return f"Region {r['name']}: could not be tested ({why or 'no samples'})."
    what = (
        f"Region {r['name']}: the score loses {with_interval(r['region_drop'], number)} when other classes' "
        "replaces it"
    )
    flips = f"{percent(r['flip'])} of the predictions change"
    if r.get("control") == "same class":
        if not r["controlled"]:
            return f"{what}; {flips}. No control: no two samples share a predicted class."
        return (
            f"{what}, {number(r['control_drop']['mean'])} when that of its own class does; {_effect(r)}; "
            f"{flips}."
        )
    if not r["controlled"]:
        return f"{what}; {flips}. No control: it is so large that random regions of its size overlap it."
    return f"{what}, {number(r['control_drop']['mean'])} for random regions of its size; {_effect(r)}; {flips}."


def _effect(r):
    """What a region costs beyond its control; no interval and no test of a few samples."""
    if r["controlled"] < CLASS_MIN:
        return (
            f"difference {number(r['effect']['mean'])}, too few samples for an interval or a test "
            f"({r['controlled']} of {CLASS_MIN})"
        )
    few = f" on the {r['controlled']} where it is small enough" if r["controlled"] < r["n"] else ""
    return f"difference {with_interval(r['effect'], number)}{few}, p {r['p']:.2g}"


_region = region_sentence


def _telltales(s):
    if not s.telltales:
        return None
    named = ", ".join(
        f"{t['label']}: {t['statistic']} (AUROC {t['auroc']:.2f})" for t in s.telltales[:5]
    )
    return f"Cues of the whole image that tell classes apart, which no heatmap shows: {named}."


def _groups(s):
    if s.groups is None:
        return None
    g = s.groups
    named = "; ".join(
        f"{row['value']}: accuracy {percent(row['accuracy']['mean'])}, effect {number(row['effect']['mean'])}"
        f", n = {row['n']}"
        for row in g["groups"][:6]
    )
    share = (
        f"it explains {percent(max(0.0, g['explained']))} of the score within a class (p {g['p']:.2g})"
        if g["explained"] is not None
        else "how much of the score it explains is unknown"
    )
    return f"Groups by {g['field']}: {share}; {named}."


def _skipped(s):
    if not s.skipped:
        return None
    total = sum(s.skipped.values())
    named = ", ".join(f"{count:,} {reason}" for reason, count in s.skipped.items())
    return f"Not tested: {total:,} of {_total(s):,} {s.unit} ({named})."


def _labels(s):
    if not s.labels.get("unknown"):
        return None
    names = ", ".join(s.labels["names"][:5])
    if s.unit == "objects":
        return f"Label unknown to the model: {counted(s.labels['unknown'], 'objects')} ({names})."
    return (
        f"Label unknown to the model: {counted(s.labels['unknown'], 'samples')} ({names}). Their predictions "
        "count as wrong; the accuracies leave them out."
    )


def _views(s):
    return f"Views: {'; '.join(s.views)}." if s.views else None


def _failed(s):
    if not s.failed:
        return None
    first = s.failed[0]
    return f"Failed: {counted(len(s.failed), 'samples')}, first {first['filepath']}: {first['reason']}."
