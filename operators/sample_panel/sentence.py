"""What the score of a sample rests on, and how sure that is: only of what was measured."""

from ..text import counted, percent

_RESTS = {
    "relies on background": "rests on the background",
    "relies on background, not visible in heat": "rests on the background, although the heat does not show it",
    "heat outside, harmless": "rests on the object; heat outside it did nothing",
    "relies on object": "rests on the object",
    "unstable when pasted": "changes with any paste, so its background was not judged",
}
_UNKNOWN = "What the score of {name} rests on is not known"


def of_sample(stored, explained=None, shares=None, target=None):
    """The sentence, and how sure it is.

    A test with a control says more than backgrounds that were tried without one: where the run's analysis
    tested the sample, what was tried is only added to it.

    Args:
        stored: a :class:`~operators.sample_panel.stored.Stored`
        explained (None): what *Explain this sample* found with the model that is meant: a dict ``prediction,
            probability, kept, tried, model``
        shares (None): a dict ``heat, uniform`` of a map; empty or None where not measured
        target (None): the class that this map explains; None for what was predicted

    Returns:
        (sentence, how sure) in plain text
    """
    name, score = _prediction(stored, explained)
    if name is None:
        return "What was predicted here is not stored, so nothing is said of its score.", ""
    head = f"{name} ({percent(score)})" if score is not None else name
    heat = _heat(shares, None if target == name else target)
    tried = explained["tried"] if explained else 0
    if stored.verdict is not None and stored.bias_number("tested") and not _of_another(explained):
        said, sure = _analysed(head, stored)
        if tried:
            changed = tried - explained["kept"]
            sure += f" Explained again: it changed on {changed} of {counted(tried, 'backgrounds')}."
    elif tried:
        said, sure = _tried(head, explained["kept"], tried)
    elif stored.verdict is not None and not _of_another(explained):
        reason = stored.bias_number("reason") or "it was not tested"
        said, sure = f"{_UNKNOWN.format(name=head)}: {reason}", ""
    else:
        said = f"{_UNKNOWN.format(name=head)}: no other background was tried"
        sure = "Heat alone proves nothing. Explain this sample tries other backgrounds."
    return f"{said}. {heat}".strip(), sure


def _of_another(explained):
    """Whether it was explained with another model than the run's, of which the run's verdict says nothing."""
    return bool(explained and explained.get("model"))


def _prediction(stored, explained):
    if explained:
        return explained["prediction"], explained["probability"]
    if stored.bias_number("explained") is not None:
        return stored.bias_number("explained"), stored.probability
    if getattr(stored.prediction, "label", None) is not None:
        return stored.prediction.label, stored.prediction.confidence
    several = getattr(stored.prediction, "classifications", None)
    if several:
        best = max(several, key=lambda one: one.confidence or 0)
        return best.label, best.confidence
    return None, None


def _heat(shares, target):
    if not shares or shares.get("heat") is None:
        return "The heat was not measured against an object."
    return (
        f"{percent(shares['heat'])} of the heat{f' of {target}' if target else ''} is on the object, which "
        f"fills {percent(shares['uniform'])} of the image."
    )


def _tried(head, kept, tried):
    """Of the backgrounds that were tried just now, without a control."""
    changed = tried - kept
    if not changed:
        said = f"The prediction {head} held on all {counted(tried, 'other backgrounds')} tried"
        if tried == 1:
            said = f"The prediction {head} held on the one other background tried"
    else:
        said = (
            f"The prediction {head} changed on {changed} of {counted(tried, 'other backgrounds')}"
        )
    low, high = _interval(changed, tried)
    return said, (
        f"{counted(tried, 'backgrounds')}, no control: on others like them it changes in {percent(low)} to "
        f"{percent(high)} (95 % interval), and pasting alone may change it. Find background bias tests that."
    )


def _interval(changed, tried):
    """Clopper and Pearson's 95 % interval of a share."""
    from scipy.stats import beta

    low = beta.ppf(0.025, changed, tried - changed + 1) if changed else 0.0
    high = beta.ppf(0.975, changed + 1, tried - changed) if changed < tried else 1.0
    return float(low), float(high)


def _analysed(head, stored):
    """Of the bias analysis of the run."""
    said, reason = _RESTS.get(stored.verdict), _capital(stored.bias_number("reason"))
    if said is None:
        return f"{_UNKNOWN.format(name=head)}, although other backgrounds were tried", reason
    text = f"The score of {head} {said}"
    loss, control = stored.bias_number("swap_drop"), stored.bias_number("same_drop")
    if loss is not None:
        text += f": on backgrounds of other classes it {_moves(loss)}"
        text += "" if control is None else f", on those of its own class it {_moves(control)}"
    tried = len(stored.bias_number("donors") or [])
    return text, f"{counted(tried, 'backgrounds')} tried. {reason}" if tried else reason


def _capital(text):
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _moves(loss):
    """A change of a probability in points, whichever way it goes."""
    points = round(100 * abs(loss))
    if points == 0:
        return "stays the same"
    return f"{'loses' if loss > 0 else 'gains'} {counted(points, 'points')}"
