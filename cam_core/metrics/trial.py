"""Images, maps and a model while they are measured: what is run, once each, and how often."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..adapters.base import ExplainableModel
from ..batching import Chunks, in_format_of
from ..engine.explain import autocast
from ..spatial.maps import normalise, rectify
from ..targets.base import Target
from .fills import Baseline, fill
from .ranking import ranks_from_top

Found = TypeVar("Found")
ExplainAgain = Callable[[Tensor, list[int]], Tensor]


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of :func:`~cam_core.metrics.faithfulness.faithfulness`, described there."""

    steps: int = 20
    baseline: Baseline | None = None
    percentiles: tuple[float, ...] = (20, 40, 60, 80)
    noise: float = 0.01
    samples: int = 50
    repeats: int = 10
    radius: float = 0.02
    seed: int = 51


@dataclasses.dataclass
class Trial:
    """What every metric works on.

    Attributes:
        model: the model, in eval mode while it is measured
        target: the one target of each image
        images: (N, C, H, W) as the model gets them
        heats: (N, M, H, W) float32
        scores: (N,) probability of the explained class in the unperturbed image
        usable: (N, M) which maps can be measured
        chunks: what runs at once
        options: of the metrics
        precision: that the model runs in, None for the caller's settings
        explain_again: ``(images (B, C, H, W), rows) -> (B, M, H, W)`` maps of changed images
        on_forwards: called after each chunk with the number of its images
        metric: which metric is being computed; what is run counts as its cost
        forwards: images run, per metric
        curves: probabilities along a curve, per metric
    """

    model: ExplainableModel
    target: Target
    images: Tensor
    heats: Tensor
    scores: Tensor
    usable: Tensor
    chunks: Chunks
    options: Options
    precision: str | None = None
    explain_again: ExplainAgain | None = None
    on_forwards: Callable[[int], None] | None = None
    metric: str = ""
    forwards: dict[str, int] = dataclasses.field(default_factory=dict)
    curves: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    _known: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """What was computed under a key before, or is now: metrics share it."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @functools.cached_property
    def ranks(self) -> Tensor:
        """(N, M, H W) ranks of the pixels, 0 for the hottest; int32, undefined for unusable maps."""
        heats = self.heats.nan_to_num().flatten(2)
        return torch.stack([ranks_from_top(h, self.options.seed).int() for h in heats])

    @functools.cached_property
    def masks(self) -> Tensor:
        """(N, M, H, W) what is shown: rectified maps over their maxima, in [0, 1]."""
        return normalise(rectify(self.heats))

    def filled(self, default: str) -> Tensor:
        """(N, C, H, W) what replaces pixels: the user's baseline, or a metric's own."""
        baseline = self.options.baseline or default
        return self.once(("fill", baseline), lambda: fill(self.images, baseline))

    def emptied(self, default: str) -> Tensor:
        """(N,) probabilities of the images with every pixel replaced; once for all maps."""
        empty = self.filled(default)
        key = ("emptied", self.options.baseline or default)
        return self.once(key, lambda: self.per_image(1, lambda n, step: empty[n])[:, 0])

    def per_map(self, each: int, make: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Runs several changed images for every map.

        Args:
            each: how many for each map
            make: ``(image, map, step)``, indices (B,) -> (B, C, H, W) changed images

        Returns:
            (N, M, each) probabilities of the target; NaN for maps that cannot be measured
        """
        pairs = self.usable.nonzero()

        def changed(index: Tensor) -> tuple[Tensor, Tensor]:
            images, maps = pairs[index // each].unbind(1)
            return make(images, maps, index % each), images

        found = self.scores.new_full((*self.usable.shape, each), torch.nan)
        found[self.usable] = self._run(len(pairs) * each, changed).view(-1, each)
        return found

    def per_image(self, each: int, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Likewise for changes that do not depend on the map.

        Args:
            each: how many for each image
            make: ``(image, step)``, indices (B,) -> (B, C, H, W) changed images

        Returns:
            (N, each) probabilities; NaN for images without a map that can be measured
        """
        rows = self.usable.any(1).nonzero()[:, 0]

        def changed(index: Tensor) -> tuple[Tensor, Tensor]:
            images = rows[index // each]
            return make(images, index % each), images

        found = self.scores.new_full((len(self.images), each), torch.nan)
        found[rows] = self._run(len(rows) * each, changed).view(-1, each)
        return found

    def _run(self, count: int, changed: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        def run(start: int, stop: int) -> Tensor:
            index = torch.arange(start, stop, device=self.images.device)
            batch, rows = changed(index)
            # only the model runs in less precision, not what changes the images
            with autocast(self.images, self.precision):
                outputs = self.model.forward(in_format_of(self.images, batch))
                return probability(self.model, self.target, outputs, rows.tolist())

        parts = self._parts(count, run)
        return torch.cat(parts) if parts else self.scores.new_zeros(0)

    def maps_again(
        self,
        count: int,
        changed: Callable[[Tensor], tuple[Tensor, Tensor]],
        keep: Callable[[Tensor, Tensor], Tensor] = lambda maps, index: maps,
    ) -> Tensor:
        """Explains changed images.

        Args:
            count: how many
            changed: ``index (B,) -> (B, C, H, W) images, (B,) which of the N they come from``
            keep (all): ``(B, M, H, W) maps, index (B,) -> (B, ...)`` what is kept of them

        Returns:
            (count, ...) float32

        Raises:
            ValueError: if the callable returns something else
        """
        again = self.explain_again
        assert again is not None  # checked before anything was run

        def run(start: int, stop: int) -> Tensor:
            index = torch.arange(start, stop, device=self.images.device)
            batch, rows = changed(index)
            with torch.enable_grad():
                found = again(in_format_of(self.images, batch), rows.tolist())
            wanted = (stop - start, *self.heats.shape[1:])
            if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(
                    f"explain_again must return maps of shape {wanted}, one per map in heats, got {got}"
                )
            return keep(found.detach().to(self.heats), index)

        parts = self._parts(count, run)
        # of nothing the same form as of something
        return (
            torch.cat(parts)
            if parts
            else keep(self.heats[:0], torch.arange(0, device=self.heats.device))
        )

    def _parts(self, count: int, run: Callable[[int, int], Tensor]) -> list[Tensor]:
        """What is returned for one chunk after the other; counted as the metric's cost."""
        self.forwards[self.metric] = self.forwards.get(self.metric, 0) + count
        parts: list[Tensor] = []
        for part in self.chunks.run(count, run):
            parts.append(part)
            self.tell(len(part))
        return parts

    def tell(self, count: int) -> None:
        """Says that so many more images were run."""
        if self.on_forwards is not None:
            self.on_forwards(count)


def probability(
    model: ExplainableModel, target: Target, outputs: Any, rows: Sequence[int]
) -> Tensor:
    """(B,) float32 probabilities of the target's class; a callable's score as it is."""
    return target.probability(outputs, model.probabilities, rows).detach().float()
