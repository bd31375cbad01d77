"""Does a map depend on what the network learned? Its weights are redrawn layer by layer.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..adapters.adapt import adapt
from ..adapters.base import ExplainableModel
from ..batching import Chunks
from ..capture.taps import exclusive, unchanged
from ..engine.explain import explain
from ..network.forward_call import is_scripted
from ..spatial.maps import rectify
from .ranking import spearman

Stages = Sequence[tuple[str, Sequence[nn.Module]]]

# Images that batch norms see at once.
_SHOWN = 32

MODES = ("cascading", "independent")

# What of a map is compared.
_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "shown": rectify,
    "absolute": torch.abs,
    "signed": lambda maps: maps,
}


@dataclasses.dataclass
class Randomisation:
    """The result of :func:`randomisation`.

    Attributes:
        steps: S names of what was redrawn, from the head to the stem
        correlations: ``{(method, layer): (S, N)}`` rank correlation of each map with the intact
            network's, NaN where one of them does not vary
        mode: ``"cascading"`` or ``"independent"``
    """

    steps: list[str]
    correlations: dict[tuple[str, str], Tensor]
    mode: str

    def means(self) -> dict[tuple[str, str], list[float]]:
        """The mean over images, per step."""
        return {key: rows.nanmean(1).tolist() for key, rows in self.correlations.items()}


def randomisation(
    model: nn.Module | ExplainableModel,
    images: Tensor,
    methods: Any = "gradcam",
    targets: Any = "predicted",
    layers: Any = None,
    *,
    mode: str = "cascading",
    stages: Stages | None = None,
    compare: str = "shown",
    batch_size: int = 8,
    seed: int = 51,
    precision: str | None = None,
) -> Randomisation:
    """Correlates maps with those of the network with weights redrawn.

    A map that still correlates when the whole network is random shows the image or the architecture,
    not what was learned. Weights are drawn as for a new network; batch norms among them get the
    statistics of the images, so that the signal passes on. They are drawn in the model itself, which
    nobody else may use meanwhile (:func:`~cam_core.capture.taps.exclusive`), and put back bit for bit.

    Args:
        model: a module or an :class:`ExplainableModel`
        images: (N, 3, H, W), already preprocessed, on the model's device
        methods ("gradcam"): as in :func:`~cam_core.explain`
        targets ("predicted"): likewise, one per image; the class the *intact* network predicts
        layers (None): likewise
        mode ("cascading"): keeps what was drawn before, from the head down; ``"independent"`` draws
            each stage alone
        stages (None): ``[(name, modules)]`` from the head down, each with everything in it; by
            default the head, and what comes before it in nine parts
        compare ("shown"): the positive part of the maps, which is what people see; ``"absolute"``
            their magnitude or ``"signed"`` the raw maps, as the paper has both
        batch_size (8): images explained at once; halved where the memory does not suffice
        seed (51): of the weights; the global generators are left as they were
        precision (None): as in :func:`~cam_core.explain`

    Returns:
        a :class:`Randomisation`

    Raises:
        ValueError: if an argument is not understood
        TypeError: if the model is not a module
    """
    model = adapt(model)
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is unknown; choose from {', '.join(MODES)}")
    if compare not in _FORMS:
        raise ValueError(f"compare: {compare!r} is unknown; choose from {', '.join(_FORMS)}")
    chunks = Chunks(batch_size)
    module = model.module
    with exclusive(module), _restored(module):
        classes = _first_targets(model, images, targets, layers, precision)
        look = _Look(model, images, methods, classes, layers, compare, precision, seed, chunks)
        parts = default_stages(model, images) if stages is None else _whole(stages)
        before = look.maps()
        rows: dict[tuple[str, str], list[Tensor]] = {key: [] for key in before}
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for _, drawn in parts:
                with _restored(module) if mode == "independent" else contextlib.nullcontext():
                    redraw(drawn, look.forward)
                    for key, maps in look.maps().items():
                        rows[key].append(spearman(before[key].flatten(1), maps.flatten(1)))
    found = {key: torch.stack(row) for key, row in rows.items()}
    return Randomisation([name for name, _ in parts], found, mode)


@dataclasses.dataclass
class _Look:
    """How the network is looked at, intact and redrawn."""

    model: ExplainableModel
    images: Tensor
    methods: Any
    targets: Any
    layers: Any
    compare: str
    precision: str | None
    seed: int
    chunks: Chunks

    def maps(self) -> dict[tuple[str, str], Tensor]:
        """{(method, layer): (N, h, w)} in the form that is compared."""
        parts = list(self.chunks.run(len(self.images), self._explain))
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _explain(self, start: int, stop: int) -> dict[tuple[str, str], Tensor]:
        rows = slice(start, stop)
        targets = self.targets[rows] if isinstance(self.targets, Tensor) else self.targets
        result = explain(
            self.model,
            self.images[rows],
            self.methods,
            targets,
            self.layers,
            precision=self.precision,
            seed=self.seed,
        )
        return {key: _FORMS[self.compare](maps[:, 0]) for key, maps in result.maps.items()}

    def forward(self) -> None:
        """Shows the network the images, for its batch norms."""
        for part in self.images.split(_SHOWN):
            self.model.forward(part.clone())


def _first_targets(
    model: ExplainableModel, images: Tensor, targets: Any, layers: Any, precision: str | None
) -> Any:
    """What the intact network has explained: classes (N,), or a callable as it is."""
    found = explain(model, images, "randomcam", targets, layers, precision=precision).targets
    if isinstance(targets, str) and targets == "predicted":
        return found[:, 0]
    if found.shape[1] != 1:
        raise ValueError(f"targets: {found.shape[1]} per image, but a map is compared for one")
    return found[:, 0] if bool((found >= 0).any()) else targets


def _whole(stages: Stages) -> list[tuple[str, list[nn.Module]]]:
    """Stages with everything in their modules."""
    return [(name, [layer for m in modules for layer in m.modules()]) for name, modules in stages]


def redraw(layers: Sequence[nn.Module], forward: Callable[[], object]) -> None:
    """Draws the own weights of layers, from the global generator.

    By their ``reset_parameters``; parameters of modules without get normal numbers of the mean and
    standard deviation they had. Batch norms among them are fitted to what they get to see.

    Args:
        layers: what is drawn; what lies inside of them is not
        forward: runs the network on images, for the statistics of batch norms
    """
    with torch.no_grad():
        for layer in layers:
            _redraw_layer(layer)
        norms = [n for n in layers if isinstance(n, _BatchNorm) and n.track_running_stats]
        _fit(norms, forward)


def _redraw_layer(layer: nn.Module) -> None:
    own = [p for p in layer._parameters.values() if p is not None]
    before = [p.clone() for p in own]
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    if reset is not None:
        reset()
    for parameter, old in zip(own, before, strict=True):
        # no rule of its own, or one that sets what parametrisations compute again
        if parameter.numel() > 1 and torch.equal(parameter, old) and float(old.float().std()) > 0:
            parameter.normal_(float(old.float().mean()), float(old.float().std()))


def _fit(norms: list[_BatchNorm], forward: Callable[[], object]) -> None:
    if not norms:
        return
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over what is shown
            norm.training = True
        forward()
    finally:
        for norm, momentum, training in before:
            norm.momentum, norm.training = momentum, training


@contextlib.contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Puts parameters and buffers back, bit for bit, also when something raises."""
    with torch.inference_mode(False), unchanged(module):
        copies = [(p, p.detach().clone()) for p in module.parameters()]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, copy in copies:
                    parameter.copy_(copy)


def default_stages(
    model: ExplainableModel, images: Tensor, count: int = 10
) -> list[tuple[str, list[nn.Module]]]:
    """A network's layers from the head to the stem, in the order of its forward.

    Args:
        model: the model
        images: (N, 3, H, W), of which one is run
        count (10): of stages: the head, then equal numbers of layers

    Returns:
        a list of names and modules that own parameters
    """
    modules = dict(model.module.named_modules())
    names = _in_order(model, images)[::-1]
    rest = names[1:]
    size = max(1, -(-len(rest) // max(1, count - 1)))
    pieces = [names[:1], *(rest[start : start + size] for start in range(0, len(rest), size))]
    return [(_title(piece), [modules[name] for name in piece]) for piece in pieces if piece]


def _title(names: list[str]) -> str:
    shown = [name or "the model's own" for name in names]
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def _in_order(model: ExplainableModel, images: Tensor) -> list[str]:
    """Names of the modules that own parameters, in the order their forwards begin."""
    # What a container owns itself, such as the class token and position embedding of a transformer,
    # comes before what lies in it.
    times: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def record(*_: object) -> None:
            times.setdefault(name, len(times))

        return record

    named = list(model.module.named_modules())
    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in named
        if not is_scripted(module)
    ]
    try:
        with torch.no_grad(), unchanged(model.module):
            model.forward(images[:1].clone())
    finally:
        for handle in handles:
            handle.remove()

    def time(name: str) -> int:
        # one that is never called itself belongs to the closest around it that is
        while name and name not in times:
            name = name.rpartition(".")[0]
        return times.get(name, 0)

    owners = [n for n, m in named if any(p is not None for p in m._parameters.values())]
    return sorted(owners, key=time)
