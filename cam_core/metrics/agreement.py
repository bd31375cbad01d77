"""Do the maps of several methods show the same? Per image and pair of methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batching import check_count
from ..spatial.maps import normalise, rectify, upsample
from .fills import count_of, gaussian
from .ranking import pearson, ranks_from_top, seeded, standing

MEASURES = ("spearman", "top_iou", "ssim")

# Wang et al.: a Gaussian window of 11 x 11 pixels, sigma 1.5, and the constants for a range of 1.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2
# Smaller maps are enlarged before their structure is compared, as a screen would.
_SMALLEST = 32
# Pixels of pictures that are prepared at once: a map of 28 x 28 takes 0.3 MB in all its forms, so that
# all maps of a large scan would not fit into memory together. These are 512 of them, some 200 MB.
_PIXELS = 512 * 56 * 56


@dataclasses.dataclass
class Agreement:
    """The result of :func:`agreement`; NaN where a map is missing or the measure undefined.

    Attributes:
        spearman: (N, M, M) rank correlation, -1..1
        top_iou: (N, M, M) intersection over union of the hottest pixels, 0..1
        ssim: (N, M, M) structural similarity, -1..1
    """

    spearman: Tensor
    top_iou: Tensor
    ssim: Tensor

    def matrix(self, measure: str = "spearman") -> tuple[Tensor, Tensor]:
        """The mean over images.

        Args:
            measure ("spearman"): or ``"top_iou"`` or ``"ssim"``

        Returns:
            (M, M) means of the images where it is known, NaN where there is none; (M, M) how many

        Raises:
            ValueError: if the measure is unknown
        """
        if measure not in MEASURES:
            raise ValueError(f"measure: {measure!r} is unknown; choose from {', '.join(MEASURES)}")
        values = getattr(self, measure)
        return values.nanmean(0), values.isfinite().sum(0)


def agreement(
    heats: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    top: float = 0.2,
    seed: int = 51,
    batch_size: int | None = None,
) -> Agreement:
    """Compares the maps of every pair of methods.

    Only positive heat counts, as it is shown. Rank correlation says whether the maps order places
    alike, wherever these are; the overlap whether they are hottest at the same place; structural
    similarity (Wang et al., IEEE TIP 2004) whether the pictures look alike.

    Args:
        heats: (N, M, h, w) maps of M methods, NaN for a map that is missing. Neighbours on a grid
            finer than the layer's say the same again; pass maps on the layer's grid, or ``grid``
        grid (None): (h, w) that maps are averaged onto before their ranks are compared
        top (0.2): share of the pixels that are hot; what has no heat never is. Equal heat is ordered
            at random, alike in both maps
        seed (51): of that order
        batch_size (None): images that are compared at once, by default as many as 200 MB take;
            memory does not grow with the images beyond the result's

    Returns:
        an :class:`Agreement`; a map that is the same everywhere has no ranks and nothing hottest, so
        NaN for ``spearman`` and ``top_iou``

    Raises:
        ValueError: if an argument does not fit
    """
    _check(heats, top)
    found = _empty(heats, len(heats), heats.shape[1], heats.shape[1])
    for rows in _slices(heats, batch_size):
        maps = _prepared(heats[rows], grid, top, seed)
        for i in range(heats.shape[1]):
            for j in range(i, heats.shape[1]):
                for name, value in _compare(maps, maps, i, j).items():
                    found[name][rows, i, j] = found[name][rows, j, i] = value
    return Agreement(**found)


def noise_floor(
    heats: Tensor,
    others: Tensor | None = None,
    *,
    grid: tuple[int, int] | None = None,
    top: float = 0.2,
    seed: int = 51,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """The agreement that a method's map has with a map that says nothing of this image.

    By default another image's map of the same method, by a random permutation that leaves no image
    in its place. Agreement of two methods that is no higher is the common habit of maps (a centre,
    a border), not a common finding.

    Args:
        heats: (N, M, h, w)
        others (None): (N, M, h', w') maps to compare with instead, such as those of a network with
            random weights
        grid (None): see :func:`agreement`
        top (0.2): see :func:`agreement`
        seed (51): of the permutation and of the order of equal heat
        batch_size (None): see :func:`agreement`; the permutation is one of all images whatever it is

    Returns:
        ``{"spearman", "top_iou", "ssim": (N, M)}``; NaN for a single image without others

    Raises:
        ValueError: if an argument does not fit
    """
    _check(heats, top)
    if others is not None and others.shape != heats.shape:
        raise ValueError(
            f"others must have the shape of heats {tuple(heats.shape)}, got {tuple(others.shape)}"
        )
    found = _empty(heats, *heats.shape[:2])
    if others is None and len(heats) == 1:
        return found  # there is no other image
    order = derangement(len(heats), seed).to(heats.device)
    for rows in _slices(heats, batch_size):
        second = heats[order[rows]] if others is None else others[rows]
        one, two = _prepared(heats[rows], grid, top, seed), _prepared(second, grid, top, seed)
        for m in range(heats.shape[1]):
            for name, value in _compare(one, two, m, m).items():
                found[name][rows, m] = value
    return found


def disagreement(found: Agreement, which: Sequence[int] | None = None) -> Tensor:
    """How much methods disagree about each image: 1 minus their mean rank correlation.

    Args:
        found: of :func:`agreement`
        which (None): columns, for example of the class-discriminative methods; all by default

    Returns:
        (N,) in [0, 2]; NaN where no two of them have a map

    Raises:
        ValueError: if there are fewer than two columns
    """
    columns = list(range(found.spearman.shape[1]) if which is None else dict.fromkeys(which))
    if len(columns) < 2:
        raise ValueError(f"which: at least two methods can disagree, got {columns}")
    first, second = torch.triu_indices(len(columns), len(columns), 1)
    order = torch.tensor(columns)
    return 1 - found.spearman[:, order[first], order[second]].nanmean(1)


def derangement(count: int, seed: int) -> Tensor:
    """(count,) a random permutation in which nobody stays in place, if there are two or more."""
    order = torch.randperm(count, generator=seeded(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


@dataclasses.dataclass
class _Maps:
    """Maps in the forms that are compared, (N, M, ...)."""

    standing: Tensor
    hot: Tensor
    constant: Tensor
    picture: Tensor
    mean: Tensor
    variance: Tensor


def _check(heats: Tensor, top: float) -> None:
    if not isinstance(heats, Tensor) or heats.dim() != 4 or not heats.is_floating_point():
        got = tuple(heats.shape) if isinstance(heats, Tensor) else type(heats).__name__
        raise ValueError(f"heats must be a float tensor of shape (N, M, h, w), got {got}")
    if not 0 < top < 1:
        raise ValueError(f"top must be a share between 0 and 1, got {top}")


def _empty(heats: Tensor, *shape: int) -> dict[str, Tensor]:
    """Per measure a result that nothing is known of yet."""
    return {
        name: torch.full(shape, torch.nan, dtype=torch.float32, device=heats.device)
        for name in MEASURES
    }


def _slices(heats: Tensor, batch_size: int | None) -> list[slice]:
    """The images that are compared at once."""
    if batch_size is None:
        sides = heats.shape[-2:]
        pixels = heats.shape[1] * math.prod(sides) * _times(sides) ** 2
        batch_size = max(1, _PIXELS // max(1, pixels))
    check_count("batch_size", batch_size)
    return [slice(start, start + batch_size) for start in range(0, len(heats), batch_size)]


def _prepared(heats: Tensor, grid: tuple[int, int] | None, top: float, seed: int) -> _Maps:
    missing = ~heats.isfinite().flatten(2).all(-1)
    # maps that are missing stay out of every computation, and are NaN in its result
    maps = rectify(heats.float()).masked_fill(missing[..., None, None], 0)
    small = maps if grid is None else F.adaptive_avg_pool2d(maps, grid)
    flat = maps.flatten(2)
    ranks = ranks_from_top(flat, seed)
    hot = (ranks < max(1, count_of(top, flat.shape[-1]))) & (flat > 0)
    picture = _picture(maps)
    mean = _windows(picture)
    return _Maps(
        standing(small.flatten(2).flatten(0, 1)).unflatten(0, maps.shape[:2]),
        hot,
        (flat.amax(-1) == flat.amin(-1)) | missing,
        picture.masked_fill(missing[..., None, None], torch.nan),
        mean,
        _windows(picture.square()) - mean.square(),
    )


def _picture(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    times = _times(maps.shape[-2:])
    if times > 1:
        maps = upsample(maps, (times * height, times * width))
    # variances are differences of squares
    return normalise(maps).double()


def _times(sides: Sequence[int]) -> int:
    """How many times a map is enlarged before its structure is compared."""
    return -(-_SMALLEST // min(sides))


def _windows(pictures: Tensor) -> Tensor:
    return gaussian(pictures, _SIGMA, _RADIUS, padded=False)


def _compare(one: _Maps, two: _Maps, i: int, j: int) -> dict[str, Tensor]:
    """(N,) per measure for column i of one and column j of two."""
    measures: dict[str, Callable[[_Maps, _Maps, int, int], Tensor]] = {
        "spearman": _spearman,
        "top_iou": _top_iou,
        "ssim": _ssim,
    }
    void = torch.isnan(one.picture[:, i, 0, 0]) | torch.isnan(two.picture[:, j, 0, 0])
    return {
        name: measure(one, two, i, j).float().masked_fill(void, torch.nan)
        for name, measure in measures.items()
    }


def _spearman(one: _Maps, two: _Maps, i: int, j: int) -> Tensor:
    return pearson(one.standing[:, i], two.standing[:, j])


def _top_iou(one: _Maps, two: _Maps, i: int, j: int) -> Tensor:
    shared = (one.hot[:, i] & two.hot[:, j]).sum(-1)
    either = (one.hot[:, i] | two.hot[:, j]).sum(-1)
    return (shared / either).masked_fill(one.constant[:, i] | two.constant[:, j], torch.nan)


def _ssim(one: _Maps, two: _Maps, i: int, j: int) -> Tensor:
    a, b = one.mean[:, i], two.mean[:, j]
    together = _windows(one.picture[:, i] * two.picture[:, j]) - a * b
    light = (2 * a * b + _C1) / (a.square() + b.square() + _C1)
    rest = (2 * together + _C2) / (one.variance[:, i] + two.variance[:, j] + _C2)
    return (light * rest).mean((-2, -1))
