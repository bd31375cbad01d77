"""What the values of a mask field without ``mask_targets`` stand for, measured on the model's own predictions."""

import numpy as np

from ..data.geometry import TransformGeometry
from ..data.loader import load_item
from ..data.object_masks import Unreadable, named_values, read_mask, values_in
from .regions import carry

# Masks that are looked at, and those of them that are compared with what the model predicts.
_LOOKED_AT, _COMPARED = 50, 4
# Share of the marked pixels where the model predicts the class of the mask's value. Another numbering
# agrees on next to none.
_AGREES = 0.5
_VOID = 255


def names_of_values(samples, field, model, pixels):
    """Says what the values of a field of masks stand for where the dataset does not.

    The model's own output, as ``apply_model`` stores it, has its class indices; of wrappers without a
    background class, the indices and one more.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        field: its name
        model: the :class:`LoadedModel` of a segmentation network, on its device
        pixels: outputs -> (N, C, h, w) scores

    Returns:
        ``({value: class name}, a sentence about it)``; (None, None) where the dataset has mask targets,
        the field holds no masks, or they mark one thing by one value

    Raises:
        ValueError: if the values are not known; the message says what to set
    """
    label = getattr(samples.get_field(field), "document_type", None)
    if getattr(label, "__name__", None) != "Segmentation" or samples.get_mask_targets(field):
        return None, None
    marked, present, predicted = 0, set(), {0: 0.0, 1: 0.0}
    count = 0
    compared = 0
    for sample in samples.exists(field).select_fields(field).limit(_LOOKED_AT):
        mask = _read(sample[field], field)
        if mask is None:
            continue
        values = [v for v in values_in(mask) if v not in (0, _VOID)]
        present |= {v for v in values_in(mask) if v != 0}
        if values and compared < _COMPARED:
            compared += 1
            classes = _predicted(sample, model, pixels)
            if classes is None:
                continue
            indices, window, count = classes
            for value in values:
                where = carry(_region(mask, value), window, tuple(indices.shape)) > 0.5
                marked += int(where.sum())
                for shift in predicted:
                    predicted[shift] += int((indices[where] == value - shift).sum())
    shares = {shift: hits / max(marked, 1) for shift, hits in predicted.items()}
    best = max(shares, key=shares.get)
    if shares[best] >= _AGREES:
        names = {index + best: model.label(index) for index in range(count)}
        names.setdefault(0, "background")
        plus = " plus 1" if best else ""
        return names, (
            f"{field!r} has no mask_targets: its values are the model's class indices{plus}, which it predicts "
            f"on {shares[best]:.0%} of their pixels"
        )
    if len(present) <= 1:
        return None, None
    some = ", ".join(map(str, sorted(present)[:6]))
    first = sorted(present)[0]
    raise ValueError(
        f"targets: the masks of {field!r} have the values {some} and the dataset no mask_targets for them; they "
        f"are not the model's class indices, which it predicts on {shares[best]:.0%} of their pixels. Say what "
        f"they stand for: dataset.mask_targets = {{{field!r}: {{{first}: 'name', ...}}}}; dataset.save()"
    )


def _read(label, field):
    """The mask of one label as whole numbers; None where there is none, or it cannot be read."""
    if label is None or (label.mask is None and not label.mask_path):
        return None
    try:
        mask = read_mask(label.get_mask, label.mask_path)
    except Unreadable:
        return None  # recorded when the run comes to it
    try:
        return named_values(mask, None)[0]
    except Unreadable as error:
        raise ValueError(
            f"targets: the masks of {field!r} cannot be told apart: {error}; set them, for example "
            f"dataset.mask_targets = {{{field!r}: {{'#ff0000': 'name', ...}}}}; dataset.save()"
        ) from error


def _region(mask, value):
    import torch

    return torch.from_numpy((mask == value).astype(np.float32))


def _predicted(sample, model, pixels):
    """((h, w) class indices, the window, how many classes) of an image; None where it cannot be read."""
    import torch

    try:
        item = load_item(
            sample.id, sample.filepath, model.transforms, TransformGeometry(model.transforms)
        )
    except Exception:  # recorded when the run comes to it
        return None
    from ...cam_core.capture.taps import exclusive, unchanged

    module = model.adapted.module
    like = next(module.parameters(), None)
    batch = item.image[None]
    if like is not None:
        batch = batch.to(device=model.device, dtype=like.dtype)
    with exclusive(module), torch.no_grad(), unchanged(module):
        scores = pixels(model.adapted.forward(batch))
    if scores.shape[1] < 2:
        return None
    return scores[0].argmax(0).cpu(), item.window, scores.shape[1]
