"""Finding the target layer of an unknown network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..capture import Taps, gradients_of, unchanged
from ..forward_call import run_forward
from ..gradient_path import why_no_gradient
from ..places.place import Measurement

if TYPE_CHECKING:
    from .base import Candidate, ExplainableModel

# Enough to get past the layers behind a last attention; each tap keeps one activation alive.
_DEPTH = 24


def last_layer_with_gradient(model: ExplainableModel, images: Tensor) -> str:
    """Returns the last layer with a spatial grid whose positions the prediction depends on.

    Args:
        model: an :class:`cam_core.adapters.ExplainableModel`
        images: (N, 3, H, W)

    Raises:
        ValueError: if the network has no such layer
    """
    module: nn.Module = model.module
    with torch.inference_mode(False), torch.no_grad(), unchanged(module):
        images = images.clone() if images.is_inference() else images
        rows = _last(model.probe_candidates(images))
        if not rows:
            raise ValueError(_none_found(f"no layer of it returns a spatial grid{_flat(module)}"))
        taps = Taps([row.layer for row in rows], early=module)
        with taps:
            outputs = run_forward(model, images)
        with torch.enable_grad():
            score = _score(model, outputs)
        gradients: list[Tensor | None] = [None] * len(rows)
        if score.requires_grad:
            gradients = gradients_of(score, [taps.outputs[row.name] for row in rows], retain=False)
        reasons: list[str] = []
        measurement = None if model.knows_places else Measurement(model, images)
        if measurement is not None:
            measurement.watch([row.layer for row in rows])
        for row, gradient in zip(reversed(rows), reversed(gradients), strict=True):
            if gradient is None or not bool(gradient.any()):
                continue
            if row.grid is not None and not bool(row.grid.to_maps(gradient).any()):
                continue  # only the tokens beside the grid count, such as a class token
            if measurement is None:
                return row.name
            calls = measurement.calls([row.layer])[row.name]
            if not calls:
                continue
            reasons.append(f"{row.name!r}: {calls[-1].reason}")
            if any(c.place and bool(c.place.grid.to_maps(gradient).any()) for c in calls):
                return row.name
        if reasons:
            raise ValueError(
                _none_found(
                    "of none of its layers can the cells be laid on the image: " + reasons[0]
                )
            )
        if all(gradient is None for gradient in gradients):
            why = why_no_gradient(model, images, rows[-1].layer, model.probe_score)
            raise ValueError(_none_found(f"no layer of it has a gradient: {why}"))
    raise ValueError(
        _none_found("the gradient of its score is zero at every layer with a spatial grid")
    )


def _last(rows: list[Candidate]) -> list[Candidate]:
    """The last candidates: so many that seem to have a grid, and what lies between them."""
    seeming = [k for k, row in enumerate(rows) if row.grid is not None][-_DEPTH:]
    return rows[min([*seeming[:1], max(0, len(rows) - _DEPTH)]) :]


def _score(model: ExplainableModel, outputs: Any) -> Tensor:
    try:
        return model.probe_score(outputs)
    except ValueError as error:
        raise ValueError(
            f"layers: {error}; and there is no default layer then: name one (list_layers(model) shows what there is)"
        ) from None


def _flat(module: nn.Module) -> str:
    """What is said of an exported network, whose operations are in no modules any more."""
    if not isinstance(module, torch.fx.GraphModule):
        return ""
    if not any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes):
        return ""
    return ", as it is a graph of operations (torch.export) without modules: give the module it was made from"


def _none_found(reason: str) -> str:
    return (
        "layers: no layer with a spatial grid was found whose gradient is not zero: "
        f"{reason}; name one (list_layers(model) shows what there is)"
    )
