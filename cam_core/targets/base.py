"""What is explained: each target turns the model's output into one scalar per sample, the score."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_TOP = re.compile(r"top[_-]?(\d+)$")
# each is explained by a backward of its own, and stored as a map of its own
_MOST_RANKS = 1000


@dataclasses.dataclass(frozen=True)
class Target:
    """One explained quantity per image: a class, or a callable of the model's output.

    Attributes:
        indices: (N,) class indices on the CPU, -1 where there is nothing to explain; None for a
            callable
        function: ``outputs -> (B,)`` scores; None for a class
    """

    indices: Tensor | None = None
    function: Callable[..., Tensor] | None = None

    def valid(self, count: int, outputs: Any = None) -> Tensor:
        """(N,) which images have this target; a callable may say so with a method ``valid(outputs)``."""
        if self.indices is not None:
            return self.indices >= 0
        known = getattr(self.function, "valid", None)
        if known is None:
            return torch.ones(count, dtype=torch.bool)
        return known(_given_to(self.function, outputs))

    def class_indices(self, count: int) -> Tensor:
        """(N,) class indices, -1 where the target is no class; see :meth:`valid` for callables."""
        if self.indices is not None:
            return self.indices
        known = getattr(self.function, "class_indices", None)
        return torch.full((count,), -1) if known is None else known(count)

    def details(self, outputs: Any) -> Any:
        """What a callable's method ``details(outputs)`` says of it; None without one."""
        known = getattr(self.function, "details", None)
        return None if known is None else known(_given_to(self.function, outputs))

    def moved(self, flipped: bool, old: tuple[int, int], new: tuple[int, int]) -> Target:
        """This target in images that were mirrored or resized, for a callable that is at a place.

        Args:
            flipped: whether they were mirrored, left to right
            old: (H, W) they had
            new: (H, W) they have
        """
        move = getattr(self.function, "moved", None)
        return self if move is None else dataclasses.replace(self, function=move(flipped, old, new))

    def score(self, outputs: Any, logits: Callable[[Any], Tensor], rows: Sequence[int]) -> Tensor:
        """Returns the (B,) scores of this target.

        Args:
            outputs: the model's outputs for B images
            logits: brings outputs to (B, classes)
            rows: which of the N images these are
        """
        if self.function is not None:
            # Per-image masks and the like have to know which images these are.
            own = {"rows": rows} if getattr(self.function, "per_image", False) else {}
            return _checked(self.function(_given_to(self.function, outputs), **own), len(rows))
        values = logits(outputs)
        assert self.indices is not None
        index = self.indices[list(rows)].clamp_min(0).to(values.device)
        return values.gather(1, index[:, None])[:, 0]

    def probability(
        self, outputs: Any, probabilities: Callable[[Any], Tensor], rows: Sequence[int]
    ) -> Tensor:
        """Returns the (B,) probabilities of this target's class; a callable's score as it is."""
        if self.function is not None:
            return self.score(outputs, probabilities, rows)
        return self._pick(probabilities(outputs).float(), rows)

    def _pick(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        return values.gather(1, self._index(values, rows)[:, None])[:, 0]

    def _index(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        assert self.indices is not None
        return self.indices[list(rows)].clamp_min(0).to(values.device)


@dataclasses.dataclass(frozen=True)
class TransformedTarget(Target):
    """Another scalar made of the class scores, for methods that differentiate something else.

    Attributes:
        transform: logits (B, classes), class indices (B,) -> (B,)
        method: whose transform it is, for the message
    """

    transform: Callable[[Tensor, Tensor], Tensor] | None = None
    method: str = ""

    def score(self, outputs: Any, logits: Callable[[Any], Tensor], rows: Sequence[int]) -> Tensor:
        """Returns the (B,) transformed scores.

        Raises:
            ValueError: if the target is no class
        """
        if self.indices is None:
            raise ValueError(
                f"targets: method {self.method!r} compares classes, so its target must be a class, "
                "not a callable"
            )
        values = logits(outputs)
        assert self.transform is not None
        return self.transform(values, self._index(values, rows))


def _given_to(function: Any, outputs: Any) -> Any:
    """What a callable is given: what the module returned, with the logits beside it if it reads them."""
    # Not by isinstance: the plugin's cam_core is a second copy beside the one that users import.
    if getattr(function, "reads_scores", False):
        return outputs
    return getattr(outputs, "module_outputs", outputs)


def _checked(score: Any, count: int) -> Tensor:
    if not isinstance(score, Tensor) or tuple(score.shape) != (count,):
        got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(
            f"targets: the callable must return a tensor of shape ({count},), got {got}"
        )
    return score


def resolve_targets(spec: Any, logits: Callable[[], Tensor], count: int) -> list[Target]:
    """Turns a target specification into K targets per image.

    Args:
        spec: ``"predicted"``; ``"top_3"``; a class index; a tensor (N,) or (N, K) of class indices
            with -1 for none; a callable outputs -> (N,); what :func:`classes_target` and
            :func:`contrast_target` return; a list of class indices, callables and these, one per K
        logits: returns the (N, classes) scores that "predicted" and "top_k" are read from
        count: the number of images N

    Returns:
        a list of K :class:`Target`

    Raises:
        ValueError: if the specification is not understood or does not fit the model
    """
    if isinstance(spec, Tensor):
        return _per_image(spec, logits, count)
    if hasattr(spec, "resolve"):
        return list(spec.resolve(logits, count))
    if callable(spec):
        return [Target(function=spec)]
    if isinstance(spec, str):
        return _ranked(spec, logits)
    items = list(spec) if isinstance(spec, Sequence) else [spec]
    if not items:
        raise ValueError("targets is empty; leave it out to explain the predicted class")
    found: list[Target] = []
    for item in items:
        own = hasattr(item, "resolve")
        found += item.resolve(logits, count) if own else [_one(item, logits, count)]
    return found


def top_ranks(spec: str) -> int | None:
    """Returns K of a target ``"top_K"``; None if it is another. Raises a ValueError above 1000."""
    match = _TOP.match(spec)
    if match is None:
        return None
    digits = match.group(1).lstrip("0")
    if len(digits) > 4 or int(digits or 0) > _MOST_RANKS:
        raise ValueError(
            f"targets: {spec!r:.80} asks for too many classes; top_1 to top_{_MOST_RANKS} are possible"
        )
    return int(digits or 0)


def _ranked(spec: str, logits: Callable[[], Tensor]) -> list[Target]:
    ranks = 1 if spec == "predicted" else top_ranks(spec)
    if ranks is None:
        raise ValueError(
            f"targets: {spec!r} is unknown; choose 'predicted', 'top_K' (for example 'top_3'), "
            "a class index, a tensor of class indices or a callable"
        )
    scores = logits()
    if not 1 <= ranks <= scores.shape[1]:
        raise ValueError(
            f"targets: {spec!r} asks for {ranks} classes, the model has {scores.shape[1]}"
        )
    top = scores.detach().float().topk(ranks, dim=1).indices.cpu()
    return [Target(indices=column) for column in top.unbind(1)]


def _per_image(spec: Tensor, logits: Callable[[], Tensor], count: int) -> list[Target]:
    if spec.dim() not in (1, 2) or spec.shape[0] != count or spec.is_floating_point():
        raise ValueError(
            f"targets: a tensor must hold integers and have shape ({count},) or ({count}, K), "
            f"got {spec.dtype} {tuple(spec.shape)}"
        )
    columns = spec.cpu().long().reshape(count, -1)
    _check_range(columns, logits())
    return [Target(indices=column) for column in columns.unbind(1)]


def _one(item: Any, logits: Callable[[], Tensor], count: int) -> Target:
    if callable(item):
        return Target(function=item)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(f"targets: {item!r} is neither a class index nor a callable")
    indices = torch.full((count,), item)
    _check_range(indices, logits(), lowest=0)
    return Target(indices=indices)


def _check_range(indices: Tensor, logits: Tensor, lowest: int = -1) -> None:
    classes = logits.shape[1]
    wrong = indices[(indices < lowest) | (indices >= classes)]
    if wrong.numel():
        raise ValueError(
            f"targets: class index {int(wrong[0])} is out of range; the model has {classes} classes"
        )


class ClassNames:
    """A model's class names, to look classes up by.

    Case, underscores and hyphens do not matter, and ``"tabby, tabby cat"`` goes by either of its
    names, whether it is the model's or the one that is looked for. Of two classes of one name each
    goes by the name with its index, ``"crane (134)"``.

    Args:
        classes: the model's class names, in the order of its outputs

    Attributes:
        classes: these names
        labels: names that no two classes share, see :func:`distinct_names`
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = [str(name) for name in classes]
        self.labels = distinct_names(self.classes)
        self._exact: dict[str, list[int]] = {}
        self._whole: dict[str, list[int]] = {}
        self._parts: dict[str, list[int]] = {}
        for number, name in enumerate(self.classes):
            self._exact.setdefault(name, []).append(number)
            self._whole.setdefault(_plain(name), []).append(number)
            for part in _names_in(name):
                self._parts.setdefault(part, []).append(number)

    def find(self, name: str) -> list[int]:
        """Returns the indices of the classes of a name: the exact one, else by any of its names."""
        hits = self._exact.get(name) or self._whole.get(_plain(name))
        if hits:
            return list(hits)
        found = {i for part in _names_in(name) for i in self._parts.get(part, ())}
        return sorted(found) or self._numbered(name)

    def _numbered(self, name: str) -> list[int]:
        """The class of a name with its index, such as ``"crane (134)"``."""
        match = _NUMBERED.fullmatch(str(name).strip())
        if match is None or int(match[2]) >= len(self.classes):
            return []
        index = int(match[2])
        return [index] if index in self.find(match[1]) else []

    def several(self, name: str) -> str | None:
        """Says which classes share a name; None if they are not several."""
        hits = self.find(name)
        if len(hits) < 2:
            return None
        some = ", ".join(repr(self.labels[i]) for i in hits[:4])
        more = f" and {len(hits) - 4} more" if len(hits) > 4 else ""
        count = "two" if len(hits) == 2 else str(len(hits))
        return f"{count} classes are called {name!r}: {some}{more}"

    def near(self, name: str, most: int = 3) -> list[str]:
        """Returns the names of classes that are spelt much alike, the nearest first."""
        close = difflib.get_close_matches(_plain(name), list(self._parts), n=most, cutoff=0.6)
        found = [self.labels[i] for part in close for i in self._parts[part]]
        return list(dict.fromkeys(found))[:most]


def distinct_names(classes: Sequence[str]) -> list[str]:
    """Names that no two classes share: of the same ones each gets its index, ``"crane (134)"``.

    Args:
        classes: class names in the order of the outputs
    """
    counts = collections.Counter(classes)
    return [n if counts[n] == 1 else _with_index(n, i) for i, n in enumerate(classes)]


def _with_index(name: str, index: int) -> str:
    return f"{name} ({index})"


_NUMBERED = re.compile(r"(.*\S)\s*\((\d+)\)")


def _names_in(name: str) -> list[str]:
    """The plain names that a name is made of: itself, and what commas part."""
    parts = (_plain(part) for part in (name, *str(name).split(",")))
    return [part for part in dict.fromkeys(parts) if part]


def class_index(name: str, classes: Sequence[str] | ClassNames) -> int:
    """Finds a class by name.

    Case, underscores and hyphens do not matter, and any of the names that commas part will do:
    ``"tabby"`` finds ``"tabby, tabby cat"``.

    Args:
        name: a class name
        classes: the model's class names, in the order of its outputs, or :class:`ClassNames`

    Returns:
        the index of the class

    Raises:
        ValueError: if no class, or more than one, has this name; near names are listed
    """
    names = classes if isinstance(classes, ClassNames) else ClassNames(classes)
    hits = names.find(name)
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise ValueError(f"targets: {names.several(name)}; give one of these, or the index")
    near = names.near(name)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise ValueError(f"targets: the model has no class {name!r}{hint}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()
