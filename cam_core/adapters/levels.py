"""Finding the layers that hold the feature levels of a detector nobody here knows, by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.taps import Taps, gradients_of, unchanged
from .base import Candidate, ExplainableModel
from .candidates import Candidates, DetectorOutputs

# The last layers that are looked at; each tap keeps one activation alive.
_DEPTH = 160
# Positions that the score of a candidate depends on at a level, at least. Behind a last 3 x 3 convolution
# only its own cell is left, and a map would be one point.
_SPREAD = 2
_FIRST, _NEXT, _ROUNDS = 8, 4, 4
_NOISE = 0.01


def measured_levels(model: ExplainableModel, images: Tensor) -> list[str]:
    """Returns the layers that every candidate's score depends on one of.

    Of some candidates, evenly spread over all, the gradient is looked at: a level is the last layer
    where it reaches more than a candidate's own cell. Then the levels are changed, and of the
    candidates whose scores stay the same some are looked at as well, until all depend on a level.

    Args:
        model: the detector
        images: (N, C, H, W), of which the first is used

    Returns:
        names in the order of the forward; empty where there is no candidate to look at
    """
    images = images[:1]
    with torch.inference_mode(False), torch.no_grad(), unchanged(model.module):
        images = images.clone() if images.is_inference() else images
        rows = model.probe_candidates(images)[-_DEPTH:]
        taps = Taps([row.layer for row in rows])
        with taps:
            outputs = model.forward(images)
        found = outputs.candidates[0]
        if not rows or not len(found.logits) or not found.logits.requires_grad:
            return []
        looked = _spread(torch.arange(len(found.logits)), _FIRST)
        looked.append(int(found.probabilities.amax(1).argmax()))
        levels: set[str] = set()
        for _ in range(_ROUNDS):
            levels |= {name for name in _of_candidates(found, looked, rows, taps) if name}
            chosen = [row for row in rows if row.name in levels]
            rest = _unchanged_by(model, images, chosen, found)
            if not len(rest):
                break
            looked = _spread(rest, _NEXT)
    return [row.name for row in rows if row.name in levels]


def _spread(indices: Tensor, count: int) -> list[int]:
    places = torch.linspace(0, len(indices) - 1, min(count, len(indices))).round().long()
    return indices[places].tolist()


def _of_candidates(
    found: Candidates, places: Sequence[int], rows: Sequence[Candidate], taps: Taps
) -> list[str | None]:
    """The level of each candidate: the last layer where its gradient spreads."""
    names: list[str | None] = []
    tensors = [taps.outputs[row.name] for row in rows]
    for place in dict.fromkeys(places):
        label = int(found.probabilities[place].argmax())
        with torch.enable_grad():
            score = found.logits[place, label]
        gradients = gradients_of(score, tensors, retain=True)
        names.append(_last_spread(rows, gradients))
    return names


def _last_spread(rows: Sequence[Candidate], gradients: Sequence[Tensor | None]) -> str | None:
    for row, gradient in zip(reversed(rows), reversed(gradients), strict=True):
        cells = 0 if row.grid is None else row.grid.height * row.grid.width
        if gradient is None or row.grid is None or cells == 1:
            continue
        reached = int((row.grid.to_maps(gradient) != 0).any(1).sum())
        if reached >= min(_SPREAD, cells):
            return row.name
    return None


def _unchanged_by(
    model: ExplainableModel, images: Tensor, levels: Sequence[Candidate], before: Candidates
) -> Tensor:
    """(M,) candidates whose scores stay as they were when the levels change; none if it cannot be seen."""
    handles = []
    try:
        for row in levels:
            handles.append(row.module.register_forward_hook(_noisy(row)))
        after: DetectorOutputs = model.forward(images)
    finally:
        for handle in handles:
            handle.remove()
    now = after.candidates[0].probabilities
    if now.shape != before.probabilities.shape:
        return torch.zeros(0, dtype=torch.long)  # what survives a suppression is another set
    return (now == before.probabilities).all(1).nonzero()[:, 0].cpu()


def _noisy(row: Candidate) -> Callable:
    def change(module: nn.Module, args: tuple, output: Any) -> Any:
        value = row.layer.pick(output)
        generator = torch.Generator(value.device).manual_seed(0)
        noise = torch.randn(value.shape, generator=generator, device=value.device)
        # Little of it, so that boxes stay what they are.
        return row.layer.put(output, value + (_NOISE * value.float().std() * noise).to(value.dtype))

    return change
