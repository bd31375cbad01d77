"""What the one forward leaves behind for methods, and the ways to run the model again as it ran."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..adapters.base import ExplainableModel
from ..capture.replay import Recorder
from ..layers.grid import Grid
from ..layers.layer import Layer
from ..network.signature import ModelCache
from ..places.place import Place
from ..targets.base import Target

T = TypeVar("T")

# Layers known to carry a gradient: the check costs a synchronisation with the device.
_ALIVE = ModelCache()


@dataclasses.dataclass
class ForwardPass:
    """What the one forward left behind."""

    model: ExplainableModel
    images: Tensor
    outputs: Any
    layers: list[Layer]
    taps: dict[str, Tensor]
    targets: list[Target]
    heads: list
    seed: int
    autocast: dict
    writes_images: bool  # the model writes into its input
    places: dict[str, Place]  # of the layers whose cells were traced to the input
    measure_places: bool
    _built: dict[Callable, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def forward(self, images: Tensor) -> Any:
        """Runs the model again, without a graph, under the autocast settings of the one forward."""
        with torch.no_grad():
            return self.call(images)

    def call(self, images: Tensor) -> Any:
        """Like :meth:`forward`, with a graph where the caller wants one."""
        with torch.autocast(**self.autocast):
            return self.model.forward(images.clone() if self.writes_images else images)

    def exact_forward(self, images: Tensor) -> Any:
        """Runs the model again in its own precision: for small differences between scores."""
        with torch.no_grad():
            return self.exact_call(images)

    def exact_call(self, images: Tensor) -> Any:
        """Like :meth:`exact_forward`, with a graph where the caller wants one."""
        device = self.images.device.type
        with torch.autocast(device, enabled=False), full_float32(device):
            return self.model.forward(images.clone() if self.writes_images else images)

    @functools.cached_property
    def recorder(self) -> Recorder:
        """The script of the forward up to each layer.

        Recorded in a forward of its own when a tail is first asked for: perturbation methods need
        many tails, the others none, and recording copies what every module returns.
        """
        recorder = Recorder(self.model.module, self.layers, self.images.shape[0])
        with recorder:
            recorder.result = self.exact_forward(self.images)
        return recorder

    def once(self, build: Callable[[ForwardPass], T]) -> T:
        """Returns what is built from this forward when first asked for, such as its attention.

        Args:
            build: what makes it of this forward
        """
        if build not in self._built:
            self._built[build] = build(self)
        return self._built[build]

    @functools.cached_property
    def grids(self) -> dict[str, Grid]:
        """How each layer's output lies on the image."""
        size = (self.images.shape[-2], self.images.shape[-1])
        grids = {
            name: self.places[name].grid
            if name in self.places
            else self.model.grid(name, tuple(tap.shape), size)
            for name, tap in self.taps.items()
        }
        for name, grid in grids.items():
            rows = self.taps[name].shape[1 if grid.layout == "LNC" else 0]
            if rows != self.images.shape[0]:
                raise ValueError(
                    f"layer {name!r} returns {tuple(self.taps[name].shape)} for {self.images.shape[0]} "
                    "images: it works on windows or crops of them; choose a layer around it, "
                    "list_layers(model) shows them"
                )
        return grids

    @functools.cached_property
    def alive(self) -> dict[str, bool]:
        """The layers of this model as it is now that are known to carry a gradient."""
        return _ALIVE.of(self.model.module)

    @functools.cached_property
    def activations(self) -> dict[str, Tensor]:
        """(N, C, h, w) float32 activations of each layer."""
        return {
            name: self.grids[name].to_maps(tap.detach()).float() for name, tap in self.taps.items()
        }


def full_float32(device: str) -> contextlib.AbstractContextManager:
    """Convolutions without TF32, whose rounding depends on the batch size."""
    if device != "cuda":
        return contextlib.nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
