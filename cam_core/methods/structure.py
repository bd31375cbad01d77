"""What is in a layer, shown without asking what it is for: channels, and concepts made of them.

None of these maps has a class: they are the same for every target. Notation: A activations
(N, C, h, w).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg import factorise
from .registry import Components, cam_method, numbered

_structure = functools.partial(
    cam_method,
    family="structure",
    class_discriminative=False,
    signed=False,
    sums_channels=False,
    register=True,
)


def _concepts(*, concepts: int, **others: object) -> list[str]:
    return numbered("concepts", concepts, "concept_")


@_structure(
    paper="Collins et al., Deep Feature Factorization for Concept Discovery, ECCV 2018",
    cost="1F, and a factorisation of positions x channels",
    times=2.0,
    aliases=("dff",),
    component_names=_concepts,
)
def deep_feature_factorization(activations, head, *, concepts=5, shared=False, iterations=200):
    """The layer split into a few concepts, one map each; no class, though the scores have one.

    ``A = H F`` with ``M = H_j`` (hw) the places of concept j and F_j (C) its channels, both
    non-negative with the least squared error, ``|F_j| = 1``. Maps are named concept_1, concept_2, ...
    by the energy ``|H_j|^2``, the largest first. A concept is no class: naming another class leaves
    the maps as they were. Where the layer has negative activations, each channel's minimum is
    subtracted first, as pytorch-grad-cam does; a layer without is factorised as it is, as in the
    paper.

    The component scores say how much a concept is worth. Before global average pooling and one
    linear layer, and with a class as target, it is what the concept adds to the target's score,
    ``mean(H_j) W[c] . F_j``: these and the bias add up to the score as far as the factors reproduce
    the layer. Elsewhere it is the concept's share of the energy, which adds up to 1.

    Options: ``concepts`` how many, at most as many as the layer has channels or positions;
    ``shared`` factorises all images of the batch as one matrix, as the paper does to find what a
    set of images has in common: then concept_1 is the same concept in every image, and an image's
    maps depend on what else is in the batch; ``iterations`` rounds.

    Raises:
        ValueError: if ``concepts`` or ``iterations`` is no whole number of at least 1
    """
    count, channels, height, width = activations.shape
    _whole("iterations", iterations, 1, None)
    positions = height * width * (count if shared else 1)
    concepts = min(_whole("concepts", concepts, 1, None), positions, channels)
    matrix = activations.permute(0, 2, 3, 1).reshape(1 if shared else count, positions, channels)
    finite = matrix.isfinite().all(-1).all(-1)[:, None, None]
    low = torch.where(finite, matrix, 0).amin(1, keepdim=True).clamp_max(0)
    places, features = factorise(torch.where(finite, matrix - low, 0), concepts, iterations)
    places = torch.where(finite, places, torch.nan)
    if shared:
        places = places.reshape(count, height * width, concepts)
        features = features.expand(count, -1, -1)
    if head is not None:
        scores = places.mean(1) * torch.einsum("nc,njc->nj", head.weights, features)
    else:
        # Relative to the largest first, so that nothing overflows.
        size = places / places.amax((1, 2), keepdim=True).clamp_min(torch.finfo(places.dtype).tiny)
        energy = size.square().sum(1)
        scores = energy / energy.sum(1, keepdim=True).clamp_min(torch.finfo(places.dtype).tiny)
    maps = places.mT.reshape(count, concepts, height, width)
    return Components(maps, _concepts(concepts=concepts), scores)


def _sheet(
    *, top: int | None, channels: Sequence[int] | None, **others: object
) -> list[str] | None:
    if channels is not None:
        return [str(number) for number in channels]
    return None if top is None else numbered("top", top)


@_structure(
    paper="Yosinski et al., Understanding Neural Networks Through Deep Visualization, ICML DLW 2015",
    cost="1F",
    aliases=("activation_map",),
    component_names=_sheet,
)
def activations(activations, *, reduce="mean", channel=None, top=None, channels=None):
    """How active the layer is at each position; it has no class and is the same for every target.

    ``M = mean_k A_k``: what the layer responds to, whatever it is used for afterwards.

    Options: ``reduce`` ``"mean"``, ``"max"`` or ``"norm"`` (Euclidean) over the channels; ``channel``
    shows one channel instead; ``top`` n gives a sheet of the n channels with the largest mean in
    each image, named by rank from 1, their component scores being the channels' numbers;
    ``channels`` gives a sheet of these channels, named by their numbers.

    Raises:
        ValueError: if an option is unknown or out of range, or two of ``channel``, ``top`` and
            ``channels`` are given
    """
    count = activations.shape[1]
    given = {"channel": channel, "top": top, "channels": channels}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)}: give one of them")
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce: {reduce!r} is unknown; choose from {', '.join(_REDUCTIONS)}")
    if channel is not None:
        return activations[:, _whole("channel", channel, 0, count - 1)]
    if channels is not None:
        numbers = _channels(channels, count)
        return Components(activations[:, numbers], [str(number) for number in numbers])
    if top is not None:
        strength = activations.mean((2, 3))
        strongest = strength.topk(_whole("top", top, 1, count), dim=1).indices  # (N, J)
        maps = activations.gather(
            1, strongest[..., None, None].expand(-1, -1, *activations.shape[2:])
        )
        return Components(maps, numbered("top", top), strongest.float())
    return _REDUCTIONS[reduce](activations)


def _norm(values: Tensor) -> Tensor:
    """The length over channels, without overflow in between."""
    scale = values.abs().amax((1, 2, 3), keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    return (values / scale).norm(dim=1) * scale[:, 0]


_REDUCTIONS = {"mean": lambda a: a.mean(1), "max": lambda a: a.amax(1), "norm": _norm}


def _channels(channels: Sequence[int], count: int) -> list[int]:
    if (
        isinstance(channels, (str, bytes, int))
        or not isinstance(channels, Sequence)
        or not channels
    ):
        raise ValueError(f"channels must be a list of channel numbers, got {channels!r}")
    numbers = [_whole("channels", number, 0, count - 1) for number in channels]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"channels: {channels!r} names a channel twice")
    return numbers


def _whole(name: str, value: int, least: int, most: int | None) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and least <= value and (most is None or value <= most):
        return value
    limits = f"from {least} on" if most is None else f"from {least} to {most} at this layer"
    raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")
