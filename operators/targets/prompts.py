"""Targets in the space of embeddings: a text, or another image ("similar to this one")."""

import copy

from ..models import zoo


def text_parts(model, texts):
    """Makes targets of prompts; the texts are encoded once.

    Args:
        model: the :class:`LoadedModel` of a zero-shot model
        texts: a list of prompts, taken as they are

    Returns:
        a list of (prompt, callable outputs -> (N,) scaled similarities)

    Raises:
        ValueError: if the model compares no images with texts, or cannot encode any
    """
    if model.kind != zoo.ZERO_SHOT:
        kind = model.kind or "model without words"
        raise ValueError(
            f"targets: text is for models that compare images with texts, such as CLIP, and this is a {kind}"
        )
    if model.encode_texts is None:
        raise ValueError(
            "targets: text needs the model's tokeniser, which came with no name; load the model by its "
            "name, or encode the texts yourself: adapt(model, text_features=...) makes them classes"
        )
    import torch.nn.functional as F

    asked = copy.copy(model.adapted)
    asked.text_features = F.normalize(model.encode_texts(texts).detach(), dim=1)
    return [(text, _column(asked, number)) for number, text in enumerate(texts)]


def _column(asked, number):
    def similarity(outputs):
        return asked.logits(outputs)[:, number]

    return similarity


def likeness(model, value, samples):
    """Makes a target of how similar an image is to another one.

    Args:
        model: the :class:`LoadedModel` of a network that gives embeddings
        value: the id of a sample, or an embedding as a list of numbers
        samples: a :class:`fiftyone.core.collections.SampleCollection`

    Returns:
        a callable outputs -> (N,) cosine similarities, and its name

    Raises:
        ValueError: if the model gives no embeddings, or there is no such sample
    """
    import torch

    from ...cam_core import similarity_target

    adapted = model.adapted
    embed = getattr(adapted, "embedding", None)
    if embed is None:
        kind = model.kind or "model"
        raise ValueError(
            f"targets: like compares embeddings, and this is a {kind} with scores of its own; take a backbone "
            "(DINOv2, CLIP), or give a callable outputs -> (N,)"
        )
    output = None if model.kind == zoo.ZERO_SHOT else adapted.output
    if isinstance(value, str):
        with torch.no_grad():
            vector = _embedding_of(model, value, samples)
        return similarity_target(vector, output), f"like_{value}"
    try:
        vector = torch.tensor(value, dtype=torch.float32)
        return similarity_target(vector, output), "like"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"targets: like must be the id of a sample or an embedding (D,): {error}"
        ) from error


def _embedding_of(model, sample_id, samples):
    from ...cam_core.capture.taps import exclusive, unchanged
    from ..data.loader import load_item

    try:
        path = samples._dataset[sample_id].filepath
    except (KeyError, ValueError) as error:
        raise ValueError(f"targets: like: the dataset has no sample {sample_id!r}") from error
    try:
        image = load_item(sample_id, path, model.transforms, model.geometry).image[None]
    except OSError as error:
        raise ValueError(f"targets: like: {path} cannot be read: {error}") from error
    parameter = next(model.module.parameters(), None)
    if parameter is not None:
        image = image.to(device=model.device, dtype=parameter.dtype)
    with exclusive(model.module), unchanged(model.module):
        return model.adapted.embedding(model.adapted.forward(image))
