"""Replay of the tail: what comes after a tap, run again with other activations.

During a forward a :class:`Recorder` writes a script: which modules were called, in which
order, and what those complete before the tap returned. A :class:`Replay` runs the model again on
that script: finished modules answer with what they returned, the tap answers with the perturbed
activations, the rest runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.layer import Layer
from ..network.forward_call import is_scripted
from ..network.signature import ModelCache


class ReplayMismatch(RuntimeError):
    """The model called its modules in another order than when it was recorded."""


@dataclasses.dataclass
class _Step:
    """One call of the script: ``run`` the module, ``answer`` for it, or it is the ``tap``."""

    kind: str
    module: nn.Module
    output: Any = None
    written: bool = False  # a later in-place operation writes into what was returned


class Recorder:
    """Records, for each tapped layer, the script of the forward up to it.

    Args:
        root: the module that is called
        layers: the tapped layers
        rows: the batch size N; only outputs whose dimension 0 is a multiple of N can be answered
    """

    def __init__(self, root: nn.Module, layers: Sequence[Layer], rows: int):
        self.rows = rows
        self.scripts: dict[str, list[_Step]] = {}
        self.outputs: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self.result: Any = None
        self._root = root
        self._names: dict[nn.Module, list[Layer]] = {}
        for layer in layers:
            self._names.setdefault(layer.module, []).append(layer)
        self._stack: list[tuple[nn.Module, list[_Step]]] = []
        self._handles: list = []

    def __enter__(self) -> Recorder:
        for module in filterfalse(is_scripted, self._root.modules()):
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()

    def tap(self, layer: Layer) -> Tensor:
        """The recorded output of a layer, in its own layout."""
        return layer.pick(self.outputs[layer.name])

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self._stack.append((module, []))

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        _, steps = self._stack.pop()
        for layer in self._names.get(module, ()):
            count = self._counts[layer.name] = self._counts.get(layer.name, 0) + 1
            if layer.call_number(output) not in (None, count - 1):
                continue
            self.scripts[layer.name] = self._script(module)
            self.outputs[layer.name] = _each(output, lambda t: t.detach().clone())
            self.calls[layer.name] = count
        if not self._stack:
            return
        siblings = self._stack[-1][1]
        if _answerable(output, self.rows):
            # Cloned at once: an in-place operation may follow. Its own calls need no answer then.
            siblings.append(_Step("answer", module, _each(output, lambda t: t.detach().clone())))
        else:
            siblings.append(_Step("run", module))
            siblings.extend(steps)

    def _script(self, tap: nn.Module) -> list[_Step]:
        script: list[_Step] = []
        for module, steps in self._stack:
            script.append(_Step("run", module))
            script.extend(dataclasses.replace(step) for step in steps)
        return [*script, _Step("tap", tap)]


def _answerable(output: Any, rows: int) -> bool:
    """Tensors, tuples and dicts of tensors with the batch in dimension 0; lists hold images."""
    if isinstance(output, Tensor):
        return output.dim() > 0 and output.shape[0] > 0 and output.shape[0] % rows == 0
    if isinstance(output, Mapping):
        return len(output) > 0 and all(_answerable(v, rows) for v in output.values())
    if isinstance(output, tuple):
        return len(output) > 0 and all(_answerable(v, rows) for v in output)
    return False


def _each(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Applies a function to every tensor of an answer, keeping its structure."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, Mapping):
        mapped = output.copy() if hasattr(output, "copy") else dict(output)
        for key, value in output.items():
            mapped[key] = _each(value, function)
        return mapped
    if not isinstance(output, tuple):
        return output
    values = [_each(v, function) for v in output]
    return type(output)(*values) if hasattr(output, "_fields") else tuple(values)


def take_rows(tensor: Tensor, rows: Sequence[int], total: int, writable: bool = False) -> Tensor:
    """Selects rows of a batch, repeats allowed.

    A folded dimension 0 (``total`` x windows) is repeated image-major. One row repeated is returned
    as a view without memory of its own, unless it must be writable.

    Args:
        tensor: a tensor whose dimension 0 is a multiple of ``total``
        rows: indices into the batch
        total: the batch size N
        writable (False): whether the result will be written to
    """
    if len(rows) == total and list(rows) == list(range(total)):
        return tensor.clone() if writable else tensor
    windows = tensor.shape[0] // total
    single = len(set(rows)) == 1
    if windows == 1 and single and not writable:
        return tensor[rows[0] : rows[0] + 1].expand(len(rows), *tensor.shape[1:])
    folded = tensor.unflatten(0, (total, windows))
    index = torch.as_tensor(rows, device=tensor.device)
    return folded.index_select(0, index).flatten(0, 1)


class Replay:
    """Runs the tail after one tap.

    Args:
        call: runs the model on a batch of images
        images: (N, 3, H, W) the recorded batch
        layer: the tapped layer
        recorder: the finished recording
    """

    def __init__(
        self, call: Callable[[Tensor], Any], images: Tensor, layer: Layer, recorder: Recorder
    ):
        self._call = call
        self._images = images
        self._layer = layer
        self._total = images.shape[0]
        self._script: list[_Step] | None = recorder.scripts[layer.name]
        self._tap_output = recorder.outputs[layer.name]
        self._tap_calls = recorder.calls[layer.name]

    @property
    def full(self) -> bool:
        """Whether this replay runs the whole model, not only its tail."""
        return self._script is None

    def use_full_forward(self) -> None:
        """Gives the script up: the whole model runs, with the tap's output replaced."""
        self._script = None

    def __call__(self, activations: Tensor, rows: Sequence[int]) -> Any:
        """Returns the model's output with the tap's output replaced.

        Args:
            activations: (B, ...) in the layer's own layout
            rows: the B images these belong to
        """
        with torch.no_grad():
            return self._run(activations, rows)

    def differentiable(self, activations: Tensor, rows: Sequence[int]) -> Any:
        """Like a call, with a graph from the activations on, also in a ``no_grad`` of the forward's own."""
        with torch.enable_grad():
            return self._run(activations, rows, graph=True)

    def _run(self, activations: Tensor, rows: Sequence[int], graph: bool = False) -> Any:
        images = take_rows(self._images, rows, self._total)
        if self._script is None:
            with _replaced(self._layer, activations, self._tap_calls, graph):
                return self._call(images)
        script = _Script(
            self._script, self._layer, activations, rows, self._total, self._tap_output, graph=graph
        )
        with script:
            return self._call(images)

    def learn_writes(self) -> Any:
        """Replays the recorded batch and notes which answers are written to in place.

        Returns:
            the model's output, which must equal the recorded one
        """
        tap = self._layer.pick(self._tap_output).detach()
        rows = list(range(self._total))
        with torch.no_grad():
            script = _Script(
                self._script, self._layer, tap, rows, self._total, self._tap_output, learn=True
            )
            with script:
                return self._call(self._images)


class _Script(contextlib.AbstractContextManager):
    """Makes modules follow a script: an instance ``forward`` stands before the class's own."""

    def __init__(
        self, steps, layer, activations, rows, total, tap_output, learn=False, graph=False
    ):
        self._graph = graph
        self._steps, self._layer, self._activations = steps, layer, activations
        self._rows, self._total, self._tap_output, self._learn = rows, total, tap_output, learn
        self._position = 0
        self._given: list[tuple[_Step, Tensor, int]] = []

    def __enter__(self):
        self._patched: dict[nn.Module, Any] = {}
        # Hooked as when it was recorded: PyTorch's transformer layers skip their submodules otherwise.
        self._handle = self._steps[-1].module.register_forward_hook(lambda *args: None)
        try:
            for module in dict.fromkeys(step.module for step in self._steps):
                before = module.__dict__.get("forward")
                module.forward = self._stand_in(module, module.forward)
                self._patched[module] = before
        except BaseException:
            self._take_back()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        self._take_back()
        for step, answer, version in self._given:
            step.written = step.written or answer._version != version
        if kind is None and self._position < len(self._steps):
            raise ReplayMismatch("the tapped layer was not called")

    def _take_back(self) -> None:
        self._handle.remove()
        for module, before in self._patched.items():
            del module.forward
            if before is not None:
                module.forward = before

    def _stand_in(self, module: nn.Module, own: Callable) -> Callable:
        def forward(*args, **kwargs):
            if self._position >= len(self._steps):
                return own(*args, **kwargs)
            step = self._steps[self._position]
            if step.module is not module:
                raise ReplayMismatch(
                    f"{type(module).__name__} was called out of the recorded order"
                )
            self._position += 1
            if step.kind == "run":
                return own(*args, **kwargs)
            if step.kind == "tap":
                return self._tap(step)
            return self._answer(step)

        return forward

    def _tap(self, step: _Step) -> Any:
        activations = self._activations
        if self._graph:
            torch.set_grad_enabled(True)
        if self._learn or step.written:
            activations = activations.clone()  # they belong to the caller
        if self._learn:
            self._given.append((step, activations, activations._version))
        if self._layer.entry is None:
            return activations
        others = _each(
            self._tap_output, lambda t: take_rows(t.detach(), self._rows, self._total, True)
        )
        return self._layer.put(others, activations)

    def _answer(self, step: _Step) -> Any:
        writable = self._learn or step.written
        answer = _each(step.output, lambda t: take_rows(t, self._rows, self._total, writable))
        if self._learn:
            _each(answer, lambda t: self._watch(step, t))
        return answer

    def _watch(self, step: _Step, answer: Tensor) -> Tensor:
        self._given.append((step, answer, answer._version))
        return answer


@contextlib.contextmanager
def _replaced(
    layer: Layer, activations: Tensor, number: int, graph: bool = False
) -> Iterator[None]:
    """Replaces a layer's output at one of its calls, counted from 1."""
    calls = 0

    def replace(module, args, output):
        nonlocal calls
        calls += 1
        if calls != number:
            return None
        if graph:
            torch.set_grad_enabled(True)
        return layer.put(output, activations.clone())

    handle = layer.module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


# Layers whose tail cannot be replayed: said once of a model, not at every batch.
_SAID = ModelCache()


def check_replay(
    replay: Replay,
    root: nn.Module,
    layer: Layer,
    tap: Tensor,
    output_score: Callable,
    tolerance: float,
) -> None:
    """Verifies a replay against the recorded forward, else falls back to full forwards, aloud.

    With unperturbed activations the score must be the recorded one at the recorded batch size, and
    stay within tolerance when images are repeated.

    Args:
        replay: the replay to check
        root: the module that is explained
        layer: the tapped layer
        tap: the recorded tap, in the layer's own layout
        output_score: ``(outputs, rows) -> (scores, recorded scores)``
        tolerance: relative tolerance
    """
    reason = _first_flaw(replay, tap, output_score, tolerance)
    if reason is None:
        return
    replay.use_full_forward()
    said = _SAID.of(root)
    if layer.name in said:
        return
    said[layer.name] = True
    result = "they take longer and give the same maps"
    if not _enlarged_fits(replay, tap, output_score, tolerance):
        result = (
            "and there too an image's score depends on the other images of its batch, so that what "
            "perturbation methods compare is not quite the same"
        )
    warnings.warn(
        f"layer {layer.name!r}: only full forwards are possible for perturbation methods ({reason}); {result}",
        stacklevel=2,
    )


def _first_flaw(
    replay: Replay, tap: Tensor, output_score: Callable, tolerance: float
) -> str | None:
    try:
        same = replay.learn_writes()
        if not _close(output_score(same, list(range(tap.shape[0]))), tolerance):
            return "its replayed tail gives another score"
        if not _enlarged_fits(replay, tap, output_score, tolerance):
            return "its tail depends on the batch"
    except torch.OutOfMemoryError:
        raise
    except (
        ReplayMismatch,
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        return f"its tail cannot be replayed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None


def _enlarged_fits(replay: Replay, tap: Tensor, output_score: Callable, tolerance: float) -> bool:
    """Whether scores stay what they were when images are repeated."""
    # Unevenly: a mean over the batch would stay what it was if all images were repeated alike.
    rows = [0, 0, 0, 1] if tap.shape[0] > 1 else [0, 0, 0]
    outputs = replay(take_rows(tap.detach(), rows, tap.shape[0], writable=True), rows)
    return _close(output_score(outputs, rows), tolerance)


def _close(scores: tuple[Tensor, Tensor], tolerance: float) -> bool:
    score, recorded = scores
    scale = recorded.abs().nan_to_num(0).amax().clamp_min(1e-3)
    # An image whose score is not finite says nothing about the tail.
    same = ((score - recorded).abs() <= tolerance * scale) | (score.isnan() & recorded.isnan())
    return bool(same.all())
