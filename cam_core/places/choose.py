"""Which calls of the chosen layers are explained, and how the maps of several become one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..layers.layer import Layer
from ..spatial.extent import WHOLE
from ..spatial.geometry import Window, project
from .place import CallPlace, Measurement, Place, PlaceableModel


@dataclasses.dataclass(frozen=True)
class PlacedLayers:
    """Layers to tap, with the places of their cells.

    Attributes:
        layers: the layers, each a single call
        places: of each layer, by name; those of a family whose adapter knows them are left out
        sums: of a layer as it was asked for, the layers whose maps are added up to its map
        measured: whether places are measured
    """

    layers: list[Layer]
    places: dict[str, Place]
    sums: dict[str, list[str]]
    measured: bool


def place_layers(
    model: PlaceableModel, layers: Sequence[Layer], images: Tensor, measure: bool = True
) -> PlacedLayers:
    """Finds out where the cells of layers lie on the input.

    Args:
        model: an :class:`cam_core.ExplainableModel`
        layers: the layers asked for
        images: (N, C, H, W) of the run
        measure (True): whether to measure it; else a layer is taken to lie as its shape suggests

    Raises:
        ValueError: if the cells of a layer lie nowhere; the message says what was measured
    """
    measure = measure and not getattr(model, "knows_places", True)
    if not measure or not layers:
        return PlacedLayers(list(layers), {}, {}, measure)
    found = Measurement(model, images).calls(layers)
    chosen: list[Layer] = []
    places: dict[str, Place] = {}
    sums: dict[str, list[str]] = {}
    for layer in layers:
        if not found[layer.name]:  # never called, or no tensor of real numbers: the tap says which
            chosen.append(layer)
            continue
        calls = usable_calls(layer, found[layer.name])
        single = len(calls) == 1 and calls[0].last
        if not single and layer.entry is not None:
            raise ValueError(
                _unknown(
                    layer.name, "its module is called several times and returns several tensors"
                )
                + "; choose another layer, list_layers(model) shows them"
            )
        names = [layer.name if single else f"{layer.name}:{call.number}" for call in calls]
        for name, call in zip(names, calls, strict=True):
            entry = layer.entry if single else str(call.number)
            chosen.append(Layer(name, layer.module, entry))
            assert call.place is not None
            places[name] = call.place
        if not single:
            sums[layer.name] = names
    return PlacedLayers(chosen, places, sums, True)


def usable_calls(layer: Layer, calls: Sequence[CallPlace]) -> list[CallPlace]:
    """Returns the calls whose maps make up a layer's map.

    Args:
        layer: the layer
        calls: what was measured of it

    Raises:
        ValueError: if there are none
    """
    placed = [call for call in calls if call.place is not None]
    if len(placed) == len(calls):
        return list(placed)
    # A part of the calls looks at something else (a fixed reference) or at the image in no clear order.
    upright = [call for call in placed if call.place is not None and call.place.in_place]
    if len(upright) == 1:
        return upright
    if all(call.no_grid for call in calls):
        raise ValueError(
            f"layer {layer.name!r} has no spatial grid: {calls[-1].reason}; list_layers(model) shows the "
            "layers that have one"
        )
    reason = next(call.reason for call in reversed(calls) if call.place is None)
    if placed:
        reason = f"{len(placed)} of its {len(calls)} calls see the image, of the others {reason}"
        names = ", ".join(repr(f"{layer.name}:{call.number}") for call in placed)
        raise ValueError(f"{_unknown(layer.name, reason)}; name one of its calls: {names}")
    raise ValueError(
        f"{_unknown(layer.name, reason)}; choose another layer, list_layers(model) shows them; or pass "
        "measure_places=False to take the place that its shape suggests"
    )


def _unknown(name: str, reason: str) -> str:
    return f"layers: the cells of {name!r} cannot be laid on the image: {reason}"


def add_maps(maps: Sequence[Tensor], places: Sequence[Place]) -> tuple[Tensor, Place]:
    """Adds up maps of one image that several calls of a layer saw.

    Args:
        maps: (..., h, w) each
        places: of each

    Returns:
        (..., h, w) their sum, and its place
    """
    if len({(place.extent, tuple(m.shape)) for place, m in zip(places, maps, strict=True)}) == 1:
        return torch.stack(list(maps)).sum(0), places[0]
    size = max(((m.shape[-2], m.shape[-1]) for m in maps), key=lambda s: s[0] * s[1])
    whole = [on_input(m, place, size) for m, place in zip(maps, places, strict=True)]
    return torch.stack(whole).sum(0), dataclasses.replace(places[0], extent=WHOLE)


def on_input(maps: Tensor, place: Place, size: tuple[int, int]) -> Tensor:
    """Lays maps on a grid that tiles the model's input.

    Args:
        maps: (..., h, w)
        place: of their cells
        size: (h, w) of the result
    """
    if place.extent == WHOLE and tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return project(maps, place.extent.on_image(Window.whole(*size)), size)
