"""Faithfulness: does the model rest on what a heatmap shows? Measured by asking the model.

Pixels are changed in the model's *input*, after its transform. Probabilities are what the adapter
calls so: softmax, or sigmoid for a single logit and for labels that do not exclude each other; of a
target that is a callable its score is taken as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.adapt import adapt
from ..adapters.base import ExplainableModel
from ..batching import Chunks, check_count
from ..capture.taps import exclusive, unchanged
from ..engine.explain import autocast, check_images
from ..targets.base import Target, resolve_targets
from .catalogue import DEFAULT_METRICS, validated_metrics
from .fills import Baseline, check_baseline
from .registry import REGISTERED
from .trial import ExplainAgain, Options, Trial, probability


@dataclasses.dataclass
class Faithfulness:
    """The result of :func:`faithfulness`.

    Attributes:
        values: ``{metric: (N, M)}`` float32, NaN where it is undefined or there is no map
        scores: (N,) probability of the explained class in the unperturbed image; NaN without a target
        forwards: ``{metric: images}`` pushed through the model; what metrics share counts for the
            first of them in the order of :data:`~cam_core.metrics.catalogue.METRICS`, the unperturbed images under
            ``"unperturbed"``
        curves: probabilities the values are made of, with the unperturbed one: ``"deletion"`` and
            ``"insertion"`` (N, M, steps + 1) over equal shares of pixels; ``"road_morf"`` and
            ``"road_lerf"`` (N, M, 1 + percentiles), the unperturbed image first
    """

    values: dict[str, Tensor]
    scores: Tensor
    forwards: dict[str, int]
    curves: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def faithfulness(
    model: nn.Module | ExplainableModel,
    images: Tensor,
    heats: Tensor,
    targets: Any = "predicted",
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    steps: int = 20,
    baseline: Baseline | None = None,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    noise: float = 0.01,
    samples: int = 50,
    repeats: int = 10,
    radius: float = 0.02,
    batch_size: int = 32,
    seed: int = 51,
    precision: str | None = None,
    explain_again: ExplainAgain | None = None,
    on_forwards: Callable[[int], None] | None = None,
) -> Faithfulness:
    """Measures how faithful several maps of each image are to the model.

    Example::

        result = explain(model, images, ["gradcam", "layercam"])
        heats = torch.cat(list(result.heatmaps().values()), 1)           # (N, 2, H, W)
        found = faithfulness(model, images, heats, result.targets[:, 0])
        found.values["deletion"]                                         # (N, 2)

    Pixels of equal heat are changed in a random order, one and the same for all maps: see
    :func:`~cam_core.metrics.ranking.ranks_from_top`. All random numbers depend on the seed and the
    image's size only, so that a map's value does not depend on the images and maps beside it. The
    model is measured in eval mode, without gradients, and left as it came.

    Args:
        model: a module that returns class scores, or an :class:`ExplainableModel`
        images: (N, 3, H, W), already preprocessed, on the model's device
        heats: (N, M, H, W) maps of M methods on the pixels of the images, non-negative or signed. NaN
            anywhere in a map says that there is none, and all its values are NaN. Ranking reads the
            map as it is (what speaks against the class is least relevant), masking its positive
            part over its maximum, sparseness and complexity its magnitude
        targets ("predicted"): as in :func:`~cam_core.explain`, one per image; of several predicted
            labels the first
        metrics (DEFAULT_METRICS): names out of :data:`~cam_core.metrics.catalogue.METRICS`
        steps (20): of deletion and insertion
        baseline (None): what replaces pixels: ``"mean"`` (of each image's channels), ``"blur"``,
            ``"zero"`` or a callable images -> images; None is each metric's own: the mean for
            deletion and infidelity, the blurred image for insertion, zero behind masks. ROAD imputes
        percentiles ((20, 40, 60, 80)): of pixels that ROAD removes
        noise (0.01): standard deviation of ROAD's noise on imputed pixels, in the input's unit
        samples (50): random squares of infidelity
        repeats (10): noisy images of max-sensitivity
        radius (0.02): of that noise, in standard deviations of the image
        batch_size (32): changed images run at once; halved where the memory does not suffice
        seed (51): of all random numbers
        precision (None): ``"bfloat16"`` or ``"float16"`` runs the model under autocast
        explain_again (None): ``(images (B, 3, H, W), rows) -> (B, M, H, W)`` makes the same M maps of
            changed images for the targets of rows, the B indices out of N that they come from;
            needed by ``max_sensitivity``, ``coherency`` and ``adcc``
        on_forwards (None): called after each of these batches with the number of its images: what it
            raises ends the call

    Returns:
        a :class:`Faithfulness`

    Raises:
        ValueError: if an argument is not understood; the message says what to do
        TypeError: if the model is not a module
    """
    model = adapt(model)
    check_images(images, model.module)
    _check_heats(heats, images)
    chosen = validated_metrics(metrics, explain_again is not None)
    shares = tuple(percentiles)
    options = Options(steps, baseline, shares, noise, samples, repeats, radius, seed)
    _check_options(options)
    chunks = Chunks(batch_size)
    with (
        exclusive(model.module),
        torch.inference_mode(False),
        torch.no_grad(),
        unchanged(model.module),
    ):
        if images.is_inference():
            images = images.clone()
        with autocast(images, precision):
            if hasattr(model, "read_outputs"):
                model.read_outputs(images)
            outputs = model.forward(images.clone())
            target = _one_target(model, outputs, targets, len(images))
            scores = _scores(model, target, outputs, len(images))
        maps = heats.to(images.device).float()
        if maps.is_inference():
            maps = maps.clone()
        usable = maps.isfinite().flatten(2).all(-1) & scores.isfinite()[:, None]
        trial = Trial(
            model, target, images, maps, scores, usable, chunks, options, precision, explain_again,
            on_forwards,
        )  # fmt: skip
        trial.forwards["unperturbed"] = len(images)
        trial.tell(len(images))
        values = {}
        for name in chosen:
            trial.metric = name
            trial.forwards[name] = 0
            values[name] = REGISTERED[name].function(trial)
    return Faithfulness(
        {name: values[name] for name in dict.fromkeys(metrics)},
        scores,
        trial.forwards,
        trial.curves,
    )


def _check_heats(heats: Any, images: Tensor) -> None:
    wanted = (len(images), *images.shape[-2:])
    shape = tuple(heats.shape) if isinstance(heats, Tensor) else type(heats).__name__
    fits = isinstance(heats, Tensor) and heats.dim() == 4 and heats.shape[1] > 0
    if not fits or (shape[0], *shape[2:]) != wanted:
        raise ValueError(
            f"heats must be a tensor of shape ({wanted[0]}, M, {wanted[1]}, {wanted[2]}), on the "
            f"pixels of the images, got {shape}; maps.upsample brings maps of a layer there"
        )


def _check_options(options: Options) -> None:
    for name in ("steps", "samples", "repeats"):
        check_count(name, getattr(options, name))
    check_baseline(options.baseline)
    shares = options.percentiles
    if not shares or not all(0 < share < 100 for share in shares):
        raise ValueError(f"percentiles must be numbers between 0 and 100, got {list(shares)}")
    for name in ("noise", "radius"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(options, name)}")


def _one_target(model: ExplainableModel, outputs: Any, spec: Any, count: int) -> Target:
    """The one target of each image; of several predicted labels the first."""
    if isinstance(spec, Target):
        spec = [spec]
    if isinstance(spec, list) and spec and isinstance(spec[0], Target):
        found = spec
    else:
        if isinstance(spec, str) and spec == "predicted" and hasattr(model, "predicted"):
            spec = model.predicted(outputs)[:, :1]
        found = resolve_targets(spec, lambda: model.candidates(outputs), count)
    if len(found) != 1:
        raise ValueError(
            f"targets: {len(found)} per image, but a map is measured for one; call once for each"
        )
    return found[0]


def _scores(model: ExplainableModel, target: Target, outputs: Any, count: int) -> Tensor:
    scores = probability(model, target, outputs, range(count))
    return scores.masked_fill(~target.valid(count, outputs).to(scores.device), torch.nan)
