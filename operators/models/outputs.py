"""What is found out about a network's outputs before a run, for its record and for the user."""


def read_outputs(model, images):
    """Finds out how a network's scores end, and says it.

    Args:
        model: the :class:`LoadedModel`, on its device
        images: (N, C, h, w) of its transforms

    Returns:
        a list of sentences, empty where there is nothing to say

    Raises:
        ValueError: if an option contradicts what was found, or the network fails for one image
    """
    adapted = model.adapted
    read = getattr(adapted, "read_outputs", None)
    if read is None:
        return []
    like = next(model.module.parameters(), None)
    if like is not None:
        images = images.to(device=model.device, dtype=like.dtype)
    read(images)
    ending = adapted.ending
    said = None if ending is None else ending.told(adapted.multi_label)
    return [said] if said else []


def describe_outputs(model):
    """Returns how a network's scores were understood, for a run's record; None where nothing is known.

    Args:
        model: the :class:`LoadedModel`, after :func:`read_outputs`
    """
    adapted = model.adapted
    ending = getattr(adapted, "ending", None)
    found = {}
    if ending is not None and ending.row_shape is not None and ending.refusal is None:
        found = {"ends_in": ending.kind, "how": ending.how, "explained": ending.explained}
        found["multi_label"] = bool(adapted.multi_label)
    if "segmentation" in (model.kind or ""):
        index = getattr(adapted, "background", None)
        found["background"] = None if index is None else model.label(index)
    return found or None
