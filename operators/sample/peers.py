"""Samples like one: of the same class, rightly predicted, nearest in the model's own features."""

import numpy as np
from fiftyone import ViewField as F

from ..bias.schema import RECORDS, field_names
from ..data.loader import load_item
from ..jobs.inference import probabilities_of
from ..models import load
from ..runs.predictions import predicts
from ..targets.true_labels import Labels

#: samples that are compared; the features of each take a forward
CANDIDATES = 48


def peers_of(dataset, sample_id, model, cam_key, name, layer=None, count=8, seed=51):
    """Finds the samples that a right answer can be learned from.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the sample
        model: the :class:`LoadedModel`
        cam_key: the CAM run whose predictions are used, or None
        name: the class
        layer (None): whose features say what is near: their mean over the image, by cosine
        count (8): how many at most
        seed (51): of which samples are compared, where there are many

    Returns:
        ids of rightly predicted samples of this class, the nearest first; ``[]`` if none is known
    """
    rows, _ = candidates(dataset, sample_id, model, cam_key, name, seed)
    if not rows:
        return []
    path = dataset.select([sample_id]).values("filepath")[0]
    with load.on_device(model):
        vectors = _features(model, [(sample_id, path), *rows], layer)
    own = vectors.pop(sample_id, None)
    if own is None:
        return []
    near = {i: float(v @ own) for i, v in vectors.items()}
    return sorted(near, key=near.get, reverse=True)[:count]


def candidates(dataset, sample_id, model, cam_key, name, seed=51):
    """The samples that may be peers; the arguments are those of :func:`peers_of`.

    Returns:
        (id, filepath) of other samples whose label and prediction are this class; and where there are
        none the reason, in a sentence
    """
    field = f"{cam_key}_prediction"
    if cam_key is None or dataset.get_field(field) is None:
        whose = (
            "no run is named" if cam_key is None else f"the run {cam_key!r} stores no predictions"
        )
        return [], f"No peers: {whose}."
    labels = labels_of(dataset, cam_key, model)
    if labels.field is None:
        return [], "No peers: the dataset has no true labels."
    view = dataset.exclude([sample_id]).match(predicts(dataset, field, name))
    several, bias = labels.several, field_names(cam_key)[2]
    if dataset.get_field(bias) is not None and not several:  # else it says that of another class
        view = view.match(F(f"{bias}.correct") != False)  # noqa: E712 - a query
    rows = list(zip(*view.take(4 * CANDIDATES, seed=seed).values(["id", "filepath"]), strict=True))
    classes = list(model.classes or [])
    number = classes.index(name) if name in classes else -1
    shown = labels.members([i for i, _ in rows])
    right = [row for row, m in zip(rows, shown, strict=True) if m and number in m][:CANDIDATES]
    if right:
        return right, None
    return (
        [],
        f"No peers: no other sample of class {name!r} is predicted right.",
    )


def labels_of(dataset, cam_key, model):
    """The true labels: those that the run was analysed with, else the one field that can be meant."""
    used = (RECORDS.record_of(dataset, cam_key) or {}).get("settings") if cam_key else None
    field = (used or {}).get("labels")
    known = field is not None and dataset.get_field(field) is not None
    several = bool(getattr(model.adapted, "multi_label", False))
    return Labels(dataset, field if known else "auto", model.classes, several=several)


def _features(model, rows, layer):
    """``{id: unit vector}`` of the samples that can be read."""
    found = {}
    for sample_id, path in rows:
        try:
            item = load_item(sample_id, path, model.transforms, model.geometry)
        except (OSError, ValueError):
            continue  # one peer less
        found[sample_id] = _unit(features_of(model, item.image[None], layer)[0])
    return found


def features_of(model, images, layer=None):
    """The mean features of a layer.

    Args:
        model: the :class:`LoadedModel`
        images: (N, C, h, w) of the model's transforms
        layer (None): the name of a module; without it, or where it gives no grid of features, the
            class probabilities are taken

    Returns:
        (N, D) float32 array
    """
    module = dict(model.module.named_modules()).get(layer) if layer else None
    seen = []
    handle = module.register_forward_hook(lambda *args: seen.append(args[2])) if module else None
    try:
        probabilities = probabilities_of(model, images)
    finally:
        if handle is not None:
            handle.remove()
    values = seen[-1] if seen else None
    if getattr(values, "ndim", 0) == 4 and len(values) == len(images):
        # channels first or last: the grid's sides are equal or near it, the features are many
        last = values.shape[3] > max(values.shape[1:3]) and values.shape[1] <= values.shape[2] + 1
        return values.mean((1, 2) if last else (2, 3)).float().cpu().numpy()
    if getattr(values, "ndim", 0) == 3 and len(values) == len(images):
        return values.mean(1).float().cpu().numpy()
    return probabilities.numpy()


def _unit(vector):
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
