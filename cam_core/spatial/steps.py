"""What known transforms do to places, read off their attributes: nothing is run.

A rule maps a step and the (height, width) that comes in to an :data:`Effect`. Rules are found by the
name of a class and the library that it comes from, so that no library is imported for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .geometry import Window

Size = tuple[int, int]
# (new size, zoom, shift): pixel p of the result shows pixel p * zoom + shift of what came in.
Effect = tuple[Size, tuple[float, float], tuple[float, float]]
Rule = Callable[[Any, Size], "Effect | None"]


def trace(transforms: Any, height: int, width: int, guess: bool = False) -> Window | None:
    """Reads the window off a pipeline of known transforms, without running it.

    Args:
        transforms: a transform, or a ``Compose``-like object with ``.transforms``
        height: of the original image
        width: of the original image
        guess (False): whether a step that is not known is taken for one that leaves places alone;
            what is returned then has to be measured

    Returns:
        a :class:`Window`, or None if a step is not known, or is random
    """
    scale, offset, size = (1.0, 1.0), (0.0, 0.0), (height, width)
    for effect in _effects(transforms, size):
        if effect is None:
            if not guess:
                return None
            continue
        size, zoom, shift = effect
        offset = (offset[0] + scale[0] * shift[0], offset[1] + scale[1] * shift[1])
        scale = (scale[0] * zoom[0], scale[1] * zoom[1])
    if min(size) < 1:
        return None
    top, left = offset
    return Window((height, width), left, top, left + size[1] * scale[1], top + size[0] * scale[0])


def _effects(transforms: Any, size: Size) -> Iterator[Effect | None]:
    """The effect of each step, None of one that is not known, which is taken to keep the size."""
    for step in steps_of(transforms):
        rule = rule_of(step)
        effect = rule(step, size) if rule else None
        size = size if effect is None else effect[0]
        yield effect


def largest_size(transforms: Any, height: int, width: int) -> Size:
    """The largest picture that a pipeline makes on its way, as far as its steps are known.

    Args:
        transforms: as in :func:`trace`
        height: of the original image
        width: of the original image

    Returns:
        (height, width), at least that of the image
    """
    effects = _effects(transforms, (height, width))
    sizes = [(height, width), *(effect[0] for effect in effects if effect is not None)]
    return max(sizes, key=lambda size: size[0] * size[1])


def steps_of(transforms: Any) -> list:
    """Returns the single steps of a ``Compose``-like transform, nested ones included."""
    kind = type(transforms).__name__
    inner = list(transforms) if kind == "Sequential" else getattr(transforms, "transforms", None)
    if not isinstance(inner, (list, tuple)) or kind.startswith(("Random", "OneOf", "SomeOf")):
        return [transforms]  # one step, or some that are not all run
    return [step for t in inner for step in steps_of(t)]


def rule_of(step: Any) -> Rule | None:
    """Returns the rule for a step; None if it is not known."""
    kind = type(step)
    # Somebody's own Resize may do something else than torchvision's: it is measured.
    library = kind.__module__.partition(".")[0]
    return _RULES.get(library, {}).get(kind.__name__)


def unmoved(step: Any, size: Size) -> Effect:
    """The effect of a step that changes values, not places."""
    return size, (1.0, 1.0), (0.0, 0.0)


def resized(size: Size, new: Size) -> Effect:
    """The effect of a resize of the whole picture."""
    new = (max(1, int(new[0])), max(1, int(new[1])))
    return new, (size[0] / new[0], size[1] / new[1]), (0.0, 0.0)


def shifted(size: Size, new: Size, top: float, left: float) -> Effect:
    """The effect of a crop (or a padding) whose first pixel shows the pixel (top, left)."""
    return new, (1.0, 1.0), (float(top), float(left))


def centre_cropped(size: Size, new: Size) -> Effect:
    """The effect of torchvision's centre crop; a picture that is too small is padded first."""
    top, left = (
        -((want - have) // 2) if want > have else round((have - want) / 2.0)
        for have, want in zip(size, new, strict=True)
    )
    return shifted(size, new, top, left)


def short_side(size: Size, short: int, limit: int | None = None) -> Size:
    """Torchvision's rule for one number: it is the short side, and the long side is truncated."""
    low, high = min(size), max(size)
    new_short, new_long = short, int(short * high / low)
    if limit is not None and new_long > limit:
        new_short, new_long = int(limit * new_short / new_long), limit
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def pair(value: Any) -> Size:
    """Returns (height, width) of one number, of one in a list, or of two."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


# torchvision ------------------------------------------------------------------------------------


def _resize(step: Any, size: Size) -> Effect:
    wanted = step.size
    if isinstance(wanted, Sequence) and len(wanted) == 2:
        return resized(size, (int(wanted[0]), int(wanted[1])))
    limit = getattr(step, "max_size", None)
    if wanted is None and limit is not None:  # only the long side is given
        low, high = min(size), max(size)
        short = int(limit * low / high)
        return resized(size, (short, limit) if size[0] <= size[1] else (limit, short))
    short = int(wanted[0] if isinstance(wanted, Sequence) else wanted)
    return resized(size, short_side(size, short, limit))


def _crop(step: Any, size: Size) -> Effect:
    return centre_cropped(size, pair(step.size))


def _pad(step: Any, size: Size) -> Effect | None:
    padding = step.padding
    if isinstance(padding, int):
        padding = [padding]
    if not isinstance(padding, Sequence) or len(padding) not in (1, 2, 4):
        return None
    left, top, right, bottom = (list(padding) * 4)[:4] if len(padding) < 4 else padding
    new = (size[0] + top + bottom, size[1] + left + right)
    return shifted(size, new, -top, -left)


def _classification_preset(step: Any, size: Size) -> Effect:
    """``weights.transforms()`` of torchvision's classifiers: resize, centre crop, normalise."""
    middle, zoom, _ = resized(size, short_side(size, pair(step.resize_size)[0]))
    new, _, shift = centre_cropped(middle, pair(step.crop_size))
    return new, zoom, (shift[0] * zoom[0], shift[1] * zoom[1])


def _segmentation_preset(step: Any, size: Size) -> Effect:
    if not step.resize_size:
        return unmoved(step, size)
    return resized(size, short_side(size, pair(list(step.resize_size))[0]))


_TORCHVISION: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "ToTensor", "PILToTensor", "ToPILImage", "ToImage", "ToDtype", "ConvertImageDtype",
            "Normalize", "Grayscale", "ToPureTensor", "Identity", "RGB",
        ),
        unmoved,
    ),
    "Resize": _resize,
    "CenterCrop": _crop,
    "Pad": _pad,
    "ImageClassification": _classification_preset,
    "SemanticSegmentation": _segmentation_preset,
    "ObjectDetection": unmoved,
}  # fmt: skip

# timm ---------------------------------------------------------------------------------------------


def _keep_ratio(step: Any, size: Size) -> Effect | None:
    if (
        step.random_scale_prob
        or step.random_aspect_prob
        or isinstance(step.interpolation, (tuple, list))
    ):
        return None
    ratios = [have / want for have, want in zip(size, step.size, strict=True)]
    ratio = max(ratios) * step.longest + min(ratios) * (1.0 - step.longest)
    return resized(size, (round(size[0] / ratio), round(size[1] / ratio)))


def _trim(step: Any, size: Size) -> Effect | None:
    border = step.border_size
    new = (size[0] - 2 * border, size[1] - 2 * border)
    return shifted(size, new, border, border) if min(new) > 0 else None


_TIMM: dict[str, Rule] = {
    **dict.fromkeys(("ToNumpy", "ToTensor", "MaybeToTensor", "MaybePILToTensor"), unmoved),
    "ResizeKeepRatio": _keep_ratio,
    "CenterCropOrPad": _crop,
    "TrimBorder": _trim,
}

# FiftyOne -----------------------------------------------------------------------------------------


def _scaled(size: Size, alpha: float) -> Effect:
    return resized(size, (round(alpha * size[0]), round(alpha * size[1])))


def _at_least(step: Any, size: Size) -> Effect:
    alpha = max(m / s for m, s in zip(step.min_output_size, size, strict=True))
    return _scaled(size, alpha) if alpha > 1 else unmoved(step, size)


def _at_most(step: Any, size: Size) -> Effect:
    alpha = min(m / s for m, s in zip(step.max_output_size, size, strict=True))
    return _scaled(size, alpha) if alpha < 1 else unmoved(step, size)


def _multiple(step: Any, size: Size) -> Effect:
    high, wide = (s // step.patch_size * step.patch_size for s in size)
    return centre_cropped(size, (high, wide))


_FIFTYONE: dict[str, Rule] = {
    "ToPILImage": unmoved,
    "MinResize": _at_least,
    "MaxResize": _at_most,
    "PatchSize": _multiple,
}

# albumentations -----------------------------------------------------------------------------------


def _always(rule: Rule) -> Rule:
    """The rule of a step that is applied with probability one; any other is random."""
    return lambda step, size: rule(step, size) if getattr(step, "p", None) == 1 else None


def _scaled_side(pick: Callable[..., int]) -> Rule:
    def rule(step: Any, size: Size) -> Effect | None:
        if not isinstance(step.max_size, int) or getattr(step, "max_size_hw", None):
            return None  # one of several at random, or by both sides
        scale = step.max_size / pick(size)
        return resized(size, (round(size[0] * scale), round(size[1] * scale)))

    return rule


def _centre(step: Any, size: Size) -> Effect | None:
    new = (step.height, step.width)
    if any(want > have for want, have in zip(new, size, strict=True)):
        return None  # padded or refused, by its options
    return shifted(size, new, (size[0] - new[0]) // 2, (size[1] - new[1]) // 2)


def _pad_if_needed(step: Any, size: Size) -> Effect | None:
    least = (step.min_height, step.min_width)
    divisors = (step.pad_height_divisor, step.pad_width_divisor)
    position = getattr(step.position, "value", step.position)
    if None in least or any(divisors) or position not in ("center", "top_left"):
        return None
    missing = [max(0, want - have) for want, have in zip(least, size, strict=True)]
    before = [m // 2 if position == "center" else 0 for m in missing]
    new = (size[0] + missing[0], size[1] + missing[1])
    return shifted(size, new, -before[0], -before[1])


_ALBUMENTATIONS: dict[str, Rule] = {
    name: _always(rule)
    for name, rule in {
        "Normalize": unmoved,
        "ToFloat": unmoved,
        "ToTensorV2": unmoved,
        "Resize": lambda step, size: resized(size, (step.height, step.width)),
        "SmallestMaxSize": _scaled_side(min),
        "LongestMaxSize": _scaled_side(max),
        "CenterCrop": _centre,
        "PadIfNeeded": _pad_if_needed,
    }.items()
}

_RULES: dict[str, dict[str, Rule]] = {
    "torchvision": _TORCHVISION,
    "timm": _TIMM,
    "fiftyone": _FIFTYONE,
    "albumentations": _ALBUMENTATIONS,
}
