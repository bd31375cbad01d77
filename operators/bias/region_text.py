"""What replacing a region did, in words: one sentence, then the numbers that it rests on."""

from ..text import change, number, percent
from .findings import CLASS_MIN, LOSABLE

_PLACES = {"hottest": "the hottest tenth of each image", "border": "the border of each image"}
#: of one-sided tests
LEVEL = 0.05
# Below CLASS_MIN samples an interval says little, but random signs test exactly: from so many on a
# large loss that nearly all of them share is a finding. That there is none is not said of so few.
FEWEST, _FEW_LEVEL, _FEW_EFFECT = 12, 0.001, 0.25
# "No sign" is said only where the interval leaves no room for a larger effect.
_MOST_LEFT = 0.1


def lines(region):
    """The sentence, the numbers, one a line, and what was left out.

    Args:
        region: a ``RegionSummary`` as a dict

    Returns:
        a list of strings
    """
    numbers = [f"  {row['what']}: {_value(row)}" for row in rows(region)]
    return [said(region), *numbers, *notes(region)]


def said(region):
    """What was found, in one sentence."""
    r, where = region, _place(region["name"])
    if not r["n"]:
        return f"Not tested: no sample could be tested on {where}."
    of = f" of {r['target']!r}" if r.get("target") else ""
    costs = change(r["region_drop"]["mean"], f" of the score{of} on average")
    lost = f"Replacing {where} {costs}"
    if not r["controlled"]:
        return f"{lost}. No control: {_why_no_control(r)}."
    beside = f"replacing {_control(r)} {change(r['control_drop']['mean'])}"
    effect, resting = r["effect"], [c for c in r["classes"] if c.get("rests")]
    if effect["n"] < CLASS_MIN:
        if clear_although_few(r):
            return (
                f"The score rests on {where}: replacing it {costs}, {beside} "
                f"({effect['n']} samples, too few for an interval, and p {r['p']:.2g})."
            )
        return f"{lost}, {beside}. Too few samples to judge ({effect['n']} of {CLASS_MIN})."
    named = ", ".join(f"{c['label']} ({number(c['effect']['mean'])} beyond)" for c in resting[:5])
    if effect["low"] > 0 and r["p"] < LEVEL:
        most = f"; most clearly that of {named}" if resting and not of else ""
        return f"The score rests on {where}: replacing it {costs}, {beside}{most}."
    if resting:
        return (
            f"The score rests on {where} for some classes: {named}; over all of them replacing it {costs}, "
            f"{beside}."
        )
    able = r.get("able")
    if able is not None and able < CLASS_MIN:
        return (
            f"{lost}, {beside}. Too few samples to judge: {able:,} of {effect['n']:,} have a score of {LOSABLE} or "
            f"more that could be lost, {CLASS_MIN} are needed."
        )
    if effect["high"] > _MOST_LEFT:
        return (
            f"Unclear whether the score rests on {where}: replacing it {costs}, {beside}; the "
            f"difference lies between {number(effect['low'])} and {number(effect['high'])}."
        )
    chance = "; the difference may be chance" if effect["mean"] > 0 else ""
    return f"No sign that the score rests on {where}: replacing it {costs}, {beside}{chance}."


def clear_although_few(region):
    """Whether fewer samples than an interval takes all lose so much that this is no chance.

    Args:
        region: a ``RegionSummary`` as a dict
    """
    r, n = region, region["effect"]["n"]
    enough = FEWEST <= n < CLASS_MIN and r["effect"]["mean"] >= _FEW_EFFECT
    return bool(enough and r["p"] is not None and r["p"] <= _FEW_LEVEL)


def rows(region):
    """The numbers of the sentence.

    Returns:
        a list of dicts ``what, value, interval, n``, texts, and ``tip``: how it is measured
    """
    r = region
    if not r["n"]:
        return []
    found = [
        _row("Score lost, region replaced", r["region_drop"],
             "region_drop: fall of the explained probability when the region is replaced by that of "
             "samples without the class; mean, 95 % bootstrap interval"),
    ]  # fmt: skip
    if r["controlled"]:
        kind = "region of the same class" if r["control"] == "same class" else "random regions"
        found += [
            _row(f"Score lost, {kind} instead", r["control_drop"], f"control_drop: {_TIPS[kind]}"),
            _row("Difference of the two", r["effect"],
                 "effect: region_drop less control_drop, of samples that have a control; mean, 95 % "
                 "bootstrap interval"),
        ]  # fmt: skip
    if r["controlled"] and (r["effect"]["n"] >= CLASS_MIN or clear_although_few(r)):
        tip = "p: one-sided permutation test that flips the signs of the samples' differences at random"
        found.append(
            _cells("Probability of such a difference by chance (p)", f"{r['p']:.2g}", tip=tip)
        )
    tip = "flip: share of the replacements after which the class is no longer predicted"
    found.append(_cells("Predictions that change", percent(r["flip"]), n=r["n"], tip=tip))
    tip = f"effect of the class; only classes with at least {CLASS_MIN} samples"
    return found + [_row(f"Difference, {c['label']}", c["effect"], tip) for c in r["classes"]]


_TIPS = {
    "random regions": "the same for random regions of the same size and shape elsewhere in the image",
    "region of the same class": "the same region replaced by that of samples with the same class",
}


_WHY = {
    "no region": "the region is empty",
    "no donors": "no image of another predicted class to take the replacement from",
}


def notes(region):
    """What was left out, in sentences."""
    r, found = region, list(region.get("notes") or ())
    if r["skipped"]:
        why = [f"{count:,} ({_WHY.get(reason, reason)})" for reason, count in r["skipped"].items()]
        found.append(f"Not tested: {', '.join(why)}.")
    if 0 < r["controlled"] < r["n"]:
        found.append(
            f"{r['controlled']:,} of {r['n']:,} samples have a control; the difference is of these."
        )
    if r["failed"]:
        first = r["failed"][0]
        found.append(
            f"{len(r['failed']):,} samples failed, first {first['filepath']}: {first['reason']}."
        )
    return found


def _row(what, interval, tip):
    n = interval["n"]
    known = n >= CLASS_MIN and interval["low"] is not None
    between = f"{number(interval['low'])} to {number(interval['high'])}" if known else ""
    return _cells(what, number(interval["mean"]), between, n, tip)


def _cells(what, value, interval="", n=None, tip=""):
    return {
        "what": what, "value": value, "interval": interval, "n": "" if n is None else f"{n:,}",
        "tip": tip,
    }  # fmt: skip


def _value(row):
    """A row's numbers as text."""
    n = row["n"] and f"n = {row['n']}"
    around = ", ".join(filter(None, (row["interval"], n)))
    return f"{row['value']} ({around})" if around else row["value"]


def _place(name):
    if name in _PLACES:
        return _PLACES[name]
    if name.startswith("in "):
        return f"what {name[3:]} marks"
    return f"the box {name}" if name.startswith("[") else f"the place {name}"


def _control(r):
    if r["control"] == "same class":
        return "it by that of the same class"
    return "random regions of the same size"


def _why_no_control(r):
    if r["control"] == "same class":
        return "no two samples share a predicted class"
    return "it is so large that random regions of its size overlap it"
