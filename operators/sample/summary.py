"""What was found about one sample, as plain data and in words."""

import dataclasses

from ..runs.plain_data import PlainData
from ..text import counted, percent


@dataclasses.dataclass(repr=False)
class Explained(PlainData):
    """What was found about one sample.

    Attributes:
        id: of the sample
        sentence: the findings in one sentence
        prediction, probability: the predicted class and its probability, 0 to 1
        other, other_probability: the true class where the prediction is wrong, else the second class
        label: the true class as the dataset names it, or None where it does not say it
        right: whether the prediction is the true class; None where there is no label, or the model has
            no such class
        heat, uniform: share of the heat on the object, and of a uniform map; None without an object
        swaps: dicts ``id, prediction, probability, picture`` (PIL image): the object on other backgrounds
        fields: the heatmap fields written
        labels: ``{field: fo.Heatmap}`` of them
        photo: the picture, small, a PIL image
        layer: the layer explained
        notes: sentences that a user should read
        no_peers: why there are no peers to show, or None where there are
        several: whether an image may have several classes, each with its own probability; ``right`` is
            then whether the predicted classes are those labelled
        missed: whether ``other`` is a class that is labelled and not predicted
        labelled: of several, whether ``prediction`` is a labelled class; None where no label is known
    """

    kind = "explanation"
    version = 2  # its probabilities were called scores in the first

    id: str
    sentence: str
    prediction: str
    probability: float
    other: str
    other_probability: float
    label: str
    right: bool
    heat: float
    uniform: float
    swaps: list
    fields: list
    layer: str
    notes: list
    labels: dict = dataclasses.field(default_factory=dict)
    photo: object = None
    no_peers: str = None
    several: bool = False
    missed: bool = False
    labelled: bool = None

    def values(self):
        """The attributes without pictures and heatmaps, which are on the sample."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del plain["photo"], plain["labels"]
        swaps = [{k: v for k, v in swap.items() if k != "picture"} for swap in self.swaps]
        return {**plain, "swaps": swaps}

    def __str__(self):
        """The sentence, and the essentials below it."""
        return "\n".join(self.lines())

    __repr__ = __str__  # it holds pictures and maps, which are no text

    def lines(self):
        """The sentence, then what it rests on, one topic each."""
        parts = [
            self.sentence,
            _classes_line(self),
            _heat_line(self),
            _swaps_line(self),
            *self.notes,
        ]
        return [*filter(None, parts), f"Heatmaps: {', '.join(self.fields)}."]


def sentence(found):
    """The findings in short sentences: prediction, heat, other backgrounds.

    Args:
        found: an :class:`Explained`
    """
    parts = [
        f"Predicted {found.prediction} ({_whole(found.probability)}; {found.other} "
        f"{_whole(found.other_probability)})."
    ]
    if found.heat is not None:
        parts.append(
            f"{_whole(found.heat)} of the heat is on the object, which fills {_whole(found.uniform)} of the "
            "image."
        )
    if found.swaps:
        parts.append(_on_others(found))
    return " ".join(parts)


def _whole(value):
    """A share in whole percents."""
    return "under 1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def _on_others(found):
    count = len(found.swaps)
    where = f"On {counted(count, 'other backgrounds')}"
    others = [s["prediction"] for s in found.swaps if s["prediction"] != found.prediction]
    if not others:
        return f"{where} the prediction stayed."
    names = ", ".join(dict.fromkeys(others))
    times = {1: "once", 2: "twice"}.get(len(others), f"{len(others)} times")
    if len(others) == count:
        times = "every time" if count > 1 else ""
    return f"{where} the prediction changed {times}".rstrip() + f", to {names}."


def _classes_line(found):
    """What was predicted, and whether that is right."""
    text = f"Prediction: {found.prediction} (probability {found.probability:.2f})"
    if found.several:
        known = {None: "; no label", True: ", labelled", False: ", not labelled"}
        missed = ", labelled and missed" if found.missed else ""
        beside = f"second {found.other} ({found.other_probability:.2f}){missed}"
        return f"{text}{known[found.labelled]}; {beside}."
    if found.label is None:
        return f"{text}; no label; second {found.other} ({found.other_probability:.2f})."
    if found.right is None:
        return f"{text}; the model has no class of the label {found.label!r}."
    if found.right:
        return f"{text}, right; second {found.other} ({found.other_probability:.2f})."
    return f"{text}, wrong; true class {found.other} ({found.other_probability:.2f})."


def _heat_line(found):
    """Where the heat is, beside what nothing but the object's size would give."""
    if found.heat is None:
        return None
    return (
        f"Heat on the object: {percent(found.heat)}. A uniform map would have {percent(found.uniform)}, the "
        "object's share of the image."
    )


def _swaps_line(found):
    """What the model says of the object on each other background."""
    if not found.swaps:
        return None
    said = ", ".join(f"{s['prediction']} {s['probability']:.2f}" for s in found.swaps)
    return f"On other backgrounds: {said}."
