"""Detectors in a run: each image's own detections, explained one by one, as one map per method."""


def explain_detections(model, images, plan):
    """Explains what a detector finds in a batch.

    Every detection of the model's confidence or more, at most 20 per image, has a map from all
    feature levels; a field gets their maximum, each map divided by its own, so that weak objects are
    seen beside strong ones.

    Args:
        model: the :class:`LoadedModel` of a detector
        images: (N, C, h, w) of the loader, on the model's device
        plan: the :class:`Plan` of the run

    Returns:
        a ``cam_core.Explanation`` with one target, ``valid`` where something was detected; the score
        is that of the strongest detection, before the sigmoid
    """
    import torch

    from ..cam_core import Explanation, explain_objects

    found = explain_objects(
        model.adapted,
        images,
        methods=plan.methods,
        layers=plan.layers,
        precision=plan.precision,
        seed=plan.seed,
    )
    count = images.shape[0]
    valid = (
        found.valid.any(1, keepdim=True)
        if found.valid.shape[1]
        else torch.zeros(count, 1, dtype=bool)
    )
    scores = torch.full((count, 1), torch.nan)
    if found.valid.shape[1]:
        best = found.scores.cpu().nan_to_num(-torch.inf).amax(1, keepdim=True)
        scores = best.masked_fill(~valid.cpu(), torch.nan)
    return Explanation(
        maps={(method, "objects"): found.all_objects(method)[:, None] for method in found.maps},
        scores=scores,
        targets=torch.full((count, 1), -1),
        valid=valid.cpu(),
        logits=None,
        input_size=found.explanation.input_size,
        layers=found.explanation.layers,
    )


def check_detector(settings):
    """Raises a ValueError for arguments that detectors have no use for."""
    if settings.targets != "predicted":
        raise ValueError(
            f"targets: {settings.targets!r} is for classifiers; a detector's own detections are explained, "
            "targets='predicted' (given boxes: cam_core.explain_objects)"
        )
    if settings.fuse is not None:
        raise ValueError("fuse: a detector's feature levels are one map already; leave it out")
