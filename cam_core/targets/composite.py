"""Targets made of several classes or of places: groups, contrasts, regions.

A group of classes is one class to the user ("cat" for a model that knows 5 kinds of cat);
its score is the logarithm of the sum of the exponentials of its classes' scores, whose softmax is the
sum of their probabilities. A contrast is what speaks for one class and not for another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Target

#: a class index; several, which are one group; (N,) of each image; (N, M) groups, padded with -1
Classes = int | Sequence[int] | Tensor


@dataclasses.dataclass(frozen=True)
class GroupTarget(Target):
    """A group of classes per image, scored by the logarithm of the sum of exponentials.

    Attributes:
        members: (N, M) class indices on the CPU, padded with -1; an image of -1 alone has no target
    """

    members: Tensor = dataclasses.field(kw_only=True)

    def valid(self, count: int, outputs: Any = None) -> Tensor:
        """(N,) which images have a class."""
        return (self.members >= 0).any(1)

    def class_indices(self, count: int) -> Tensor:
        """(N,) the class of a group of one, else -1."""
        return _single_member(self.members)

    def score(self, outputs: Any, logits: Callable[[Any], Tensor], rows: Sequence[int]) -> Tensor:
        """Returns the (B,) scores of the groups; class 0 stands in where there is none."""
        return _group_score(logits(outputs), self.members[list(rows)])

    def probability(
        self, outputs: Any, probabilities: Callable[[Any], Tensor], rows: Sequence[int]
    ) -> Tensor:
        """Returns the (B,) sums of the classes' probabilities, at most 1."""
        return _group_sum(probabilities(outputs).float(), self.members[list(rows)]).clamp_max(1)


@dataclasses.dataclass(frozen=True)
class ContrastTarget(Target):
    """What speaks for one class and not for another: the difference of their scores.

    Attributes:
        chosen: (N, M) classes that the score counts for, padded with -1
        against: (N, M) classes that it counts against
        kept: (N,) images that have something to contrast
    """

    chosen: Tensor = dataclasses.field(kw_only=True)
    against: Tensor = dataclasses.field(kw_only=True)
    kept: Tensor = dataclasses.field(kw_only=True)

    def valid(self, count: int, outputs: Any = None) -> Tensor:
        """(N,) which images have something to contrast."""
        return self.kept

    def class_indices(self, count: int) -> Tensor:
        """(N,) the class that the score counts for; -1 where there is nothing to contrast."""
        return _single_member(self.chosen).masked_fill(~self.kept, -1)

    def score(self, outputs: Any, logits: Callable[[Any], Tensor], rows: Sequence[int]) -> Tensor:
        """Returns the (B,) differences; the chosen class alone where there is nothing to contrast."""
        return self._difference(logits(outputs), rows, _group_score)

    def probability(
        self, outputs: Any, probabilities: Callable[[Any], Tensor], rows: Sequence[int]
    ) -> Tensor:
        """Returns the (B,) differences of the probabilities, in [-1, 1]."""
        return self._difference(probabilities(outputs).float(), rows, _group_sum)

    def _difference(
        self, values: Tensor, rows: Sequence[int], combine: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        index = list(rows)
        other = combine(values, self.against[index])
        kept = self.kept[index].to(values.device)
        return combine(values, self.chosen[index]) - other.where(kept, torch.zeros_like(other))


def _single_member(members: Tensor) -> Tensor:
    several = (members >= 0).sum(1) > 1
    return members.amax(1).masked_fill(several, -1)


def _picked(values: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M) the members' values, and which of them count; without any the first one does."""
    members = members.to(values.device)
    there = members >= 0
    there = there | (
        ~there.any(1, keepdim=True) & (torch.arange(members.shape[1], device=values.device) == 0)
    )
    return values.gather(1, members.clamp_min(0)), there


def _group_score(logits: Tensor, members: Tensor) -> Tensor:
    values, there = _picked(logits, members)
    if members.shape[1] == 1:
        return values[:, 0]
    return values.masked_fill(~there, -torch.inf).logsumexp(1)


def _group_sum(probabilities: Tensor, members: Tensor) -> Tensor:
    values, there = _picked(probabilities, members)
    return (values * there).sum(1)


def members_of(classes: Classes, count: int) -> Tensor:
    """Turns classes into (N, M) class indices per image, padded with -1.

    Args:
        classes: a class index; a sequence of them, one group for all images; an integer tensor (N,)
            of one class per image, or (N, M) of a group per image, -1 for none
        count: the number of images N

    Raises:
        ValueError: if they are neither, or a tensor is of another number of images
    """
    if isinstance(classes, Tensor):
        if classes.dim() not in (1, 2) or len(classes) != count or classes.is_floating_point():
            raise ValueError(
                f"targets: classes per image must be integers of shape ({count},) or ({count}, M), got "
                f"{classes.dtype} {tuple(classes.shape)}"
            )
        return classes.cpu().long().reshape(count, -1)
    items = [classes] if isinstance(classes, int) else list(classes)
    if not items or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in items):
        raise ValueError(f"targets: {classes!r} is no class index and no list of class indices")
    return torch.tensor(items).expand(count, -1)


def _checked(members: Tensor, candidates: Tensor) -> Tensor:
    wrong = members[(members >= candidates.shape[1]) | (members < -1)]
    if wrong.numel():
        raise ValueError(
            f"targets: class index {int(wrong[0])} is out of range; the model has "
            f"{candidates.shape[1]} classes"
        )
    return members


def classes_target(
    classes: Classes, present: Callable[[Tensor], Tensor] | None = None
) -> ClassesSpec:
    """A target: a class, or a group of classes that count as one.

    Example::

        explain(net, images, targets=classes_target([281, 282, 285]))  # any of these cats

    Args:
        classes: a class index; a sequence of them, one group; an integer tensor (N,) or, of groups
            per image, (N, M), -1 for none
        present (None): ``candidates (N, C) -> (N, C)`` booleans, which classes an image shows; an image
            that shows no class of its group has no map. By default every image is explained

    Returns:
        a target for ``explain(targets=...)``, alone or in a list
    """
    return ClassesSpec(classes, present)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassesSpec:
    """What :func:`classes_target` returns."""

    classes: Classes
    present: Callable[[Tensor], Tensor] | None = None

    def resolve(self, candidates: Callable[[], Tensor], count: int) -> list[Target]:
        """Returns the one :class:`Target` per image.

        Args:
            candidates: returns the (N, C) scores that "predicted" is read from
            count: the number of images N

        Raises:
            ValueError: if a class is out of range
        """
        values = candidates().detach()
        members = _checked(members_of(self.classes, count), values)
        if self.present is not None:
            shown = self.present(values).cpu().gather(1, members.clamp_min(0)) & (members >= 0)
            members = members.masked_fill(~shown.any(1, keepdim=True), -1)
        if members.shape[1] == 1:
            return [Target(indices=members[:, 0])]
        return [GroupTarget(members=members)]


def contrast_target(
    against: Classes | str = "runner_up", chosen: Classes | str = "predicted"
) -> ContrastSpec:
    """A target: why this class and not that one, the difference of their scores.

    Its maps are signed for signed methods: positive is what speaks for the one, negative for the other.

    Example::

        explain(net, images, targets=contrast_target(labels))  # why the prediction, not the label
        explain(net, images, targets=contrast_target(207, chosen=208))

    Args:
        against ("runner_up"): the class that it counts against, as :func:`classes_target` takes them,
            or the class with the second highest score
        chosen ("predicted"): the class that it counts for

    Returns:
        a target for ``explain(targets=...)``, alone or in a list. An image whose two classes are the
        same, or have one in common, has none: there is nothing to contrast
    """
    for name, value in (("against", against), ("chosen", chosen)):
        if isinstance(value, str) and value not in ("predicted", "runner_up"):
            raise ValueError(
                f"{name}: {value!r} is unknown; choose 'predicted', 'runner_up' or class indices"
            )
    return ContrastSpec(chosen, against)


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastSpec:
    """What :func:`contrast_target` returns."""

    chosen: Classes | str
    against: Classes | str

    def resolve(self, candidates: Callable[[], Tensor], count: int) -> list[Target]:
        """Returns the one :class:`Target` per image; see :meth:`ClassesSpec.resolve`."""
        values = candidates().detach().float()
        if values.shape[1] < 2:
            raise ValueError("targets: a contrast needs a model with two classes or more")
        chosen, against = (
            _ranked(v, values) if isinstance(v, str) else _checked(members_of(v, count), values)
            for v in (self.chosen, self.against)
        )
        same = (chosen[:, :, None] == against[:, None, :]) & (chosen >= 0)[:, :, None]
        kept = (chosen >= 0).any(1) & (against >= 0).any(1) & ~same.flatten(1).any(1)
        return [ContrastTarget(chosen=chosen, against=against, kept=kept)]


def _ranked(which: str, values: Tensor) -> Tensor:
    rank = ("predicted", "runner_up").index(which)
    return values.topk(2, dim=1).indices[:, rank : rank + 1].cpu()


def predicted_masks(scores: Tensor, cut: float = 0.0, independent: bool = False) -> Tensor:
    """Returns (N, C, h, w) where each class is predicted, 1 or 0.

    Args:
        scores: (N, C, h, w) logits of the pixels
        cut (0): logit above which a single class, or a class of its own, is there
        independent (False): whether classes do not exclude each other in a pixel
    """
    if scores.shape[1] == 1 or independent:
        return (scores > cut).to(scores.dtype)
    winner = scores.argmax(1, keepdim=True)
    return torch.zeros_like(scores).scatter_(1, winner, 1).detach()


@dataclasses.dataclass(frozen=True, eq=False)
class RegionTarget:
    """A callable target: per image, the scores of a class's pixels summed over a region.

    A group of classes has, in every pixel, the logarithm of the sum of the exponentials.

    Attributes:
        members: (N, M) class indices, padded with -1; an image of -1 alone has no target
        pixels: outputs -> (B, C, h, w) class scores
        masks: (N, H, W) weights >= 0 on the model's input, which are averaged onto the scores' grid;
            None for the pixels where one of the classes is predicted
        predicted: (B, C, h, w) class scores -> where each class is predicted, 1 or 0; by default the
            highest, and a single class where its logit is positive
    """

    members: Tensor
    pixels: Callable[[Any], Tensor]
    masks: Tensor | None = None
    predicted: Callable[[Tensor], Tensor] = predicted_masks
    per_image = True
    #: it is given what is known of the outputs, not only what the module returned
    reads_scores = True

    def valid(self, outputs: Any) -> Tensor:
        """(N,) which images have a class, and pixels to sum it over."""
        known = (self.members >= 0).any(1)
        rows = range(len(self.members))
        return known & self._weights(self.pixels(outputs).detach(), rows).flatten(1).any(1).cpu()

    def class_indices(self, count: int) -> Tensor:
        """(N,) the class of a group of one, else -1."""
        return _single_member(self.members)

    def moved(self, flipped: bool, old: tuple[int, int], new: tuple[int, int]) -> RegionTarget:
        """The same target for mirrored or resized images; masks are resized where they are used."""
        if not flipped or self.masks is None:
            return self
        return dataclasses.replace(self, masks=self.masks.flip(-1))

    def __call__(self, outputs: Any, rows: Sequence[int] | None = None) -> Tensor:
        """Returns the (B,) scores.

        Args:
            outputs: what the model returned for B images
            rows (None): which of the N images these are
        """
        rows = range(len(self.members)) if rows is None else rows
        values = self.pixels(outputs)
        flat = values.flatten(2).transpose(1, 2).flatten(0, 1)
        cells = values.shape[-2] * values.shape[-1]
        members = self.members[list(rows)].repeat_interleave(cells, 0)
        own = (
            _group_score(flat, members)
            .unflatten(0, (len(values), -1))
            .unflatten(1, values.shape[-2:])
        )
        return (own * self._weights(values.detach(), rows)).sum((1, 2))

    def _weights(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """(B, h, w) how much each pixel counts."""
        if self.masks is None:
            members = self.members[list(rows)].to(values.device)
            shown = self.predicted(values)
            index = members.clamp_min(0)[:, :, None, None].expand(-1, -1, *values.shape[-2:])
            hit = (shown.gather(1, index) > 0) & (members >= 0)[:, :, None, None]
            return hit.any(1).to(values.dtype)
        masks = self.masks[list(rows)].to(values)[:, None]
        if masks.shape[-2:] != values.shape[-2:]:
            masks = F.interpolate(masks, values.shape[-2:], mode="area")
        return masks[:, 0]
