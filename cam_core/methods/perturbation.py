"""Methods that take something away, from the activations or the image, and look at the score."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batching import Chunks, check_count, in_format_of
from .channels import channel_sum
from .registry import cam_method

_perturbation = functools.partial(
    cam_method, family="perturbation", sums_channels=False, register=True
)


@_perturbation(
    paper="Desai & Ramaswamy, Ablation-CAM, WACV 2020",
    cost="1F+C T (1F before a linear head)",
    sums_channels=True,
)
def ablationcam(activations, score, head, tail, *, batch_size=64):
    """Channels weighted by the score that is lost without them.

    ``w_k = (y - y_k) / |y|`` with ``y_k`` the score after ``A_k`` is set to zero, ``M = sum_k w_k
    A_k``. The paper divides by y; |y| is the same for y > 0 and keeps a loss a loss for y < 0. Before
    global average pooling and one linear layer the weights are a closed form, ``W[c, k] mean(A_k) /
    |y|``; elsewhere the tail is replayed for each channel that is not silent.

    Options: ``batch_size`` how many ablations run through the tail at once; halved where the memory
    does not suffice.
    """
    check_count("batch_size", batch_size)
    if head is not None:
        lost = head.weights * head.features.mean((2, 3))
    else:
        # One row of each batch is not ablated.
        chunks = Chunks(max(1, batch_size - 1))
        lost = torch.stack([_losses(a, tail, row, chunks) for row, a in enumerate(activations)])
    size = score.abs()
    weights = lost / torch.where(size > 0, size, 1)[:, None]
    return channel_sum(weights, activations)


def _losses(activations: Tensor, tail: Callable[..., Tensor], row: int, chunks: Chunks) -> Tensor:
    """(C,) the score lost by ablating each channel of one image; silent channels lose nothing."""
    lost = activations.new_zeros(activations.shape[0])
    live = activations.flatten(1).any(1).nonzero()[:, 0]

    def losses(start: int, stop: int) -> Tensor:
        # The first row is not ablated: the loss is a small difference, and kernels round differently
        # for other batch sizes.
        batch = activations.expand(stop - start + 1, *activations.shape).clone()
        batch[torch.arange(1, len(batch), device=batch.device), live[start:stop]] = 0
        scores = tail(batch, [row] * len(batch))
        return scores[0] - scores[1:]

    if len(live):
        lost[live] = torch.cat(list(chunks.run(len(live), losses)))
    return lost


@_perturbation(
    paper="Byun & Lee, Recipro-CAM, arXiv 2209.14074 (ReciproCAM, CVPRW 2024)",
    cost="1F+P T (1F before a linear head)",
    signed=False,
    aliases=("recipro-cam",),
)
def reciprocam(activations, head, tail, *, gaussian=False, batch_size=64):
    """The score that each position of the layer reaches on its own, all others set to zero.

    ``M = Y - min Y`` with ``Y_ij = y(A * m_ij)``, the mask m_ij one at a position and zero elsewhere,
    for all channels. The paper's min-max is this map divided by its maximum; its code takes the
    class's probability for y, here y is the score that is explained, which does not saturate. Before
    global average pooling and one linear layer it is CAM less its minimum, without any forward.

    Options: ``gaussian`` masks of 3 x 3 positions, 1/4 in the centre, 1/8 beside and 1/16 at the
    corners, cut off at the border; ``batch_size`` how many positions run through the tail at once;
    halved where the memory does not suffice.
    """
    chunks = Chunks(batch_size)
    if head is not None and not gaussian:
        # What is pooled may be a curve of the activations, but one through zero.
        alone = torch.einsum("nc,nchw->nhw", head.weights, head.features)
        return _above_minimum(alone / math.prod(alone.shape[1:]))
    masks = _position_masks(activations, gaussian)
    scores = [_alone(a, masks, tail, row, chunks) for row, a in enumerate(activations)]
    return _above_minimum(torch.stack(scores).reshape(-1, *activations.shape[2:]))


def _position_masks(activations: Tensor, gaussian: bool) -> Tensor:
    """(h w, 1, h, w) one mask for every position."""
    height, width = activations.shape[2:]
    eye = torch.eye(height * width, dtype=activations.dtype, device=activations.device)
    masks = eye.reshape(-1, 1, height, width)
    if not gaussian:
        return masks
    line = masks.new_tensor([1.0, 2.0, 1.0]) / 4
    return F.conv2d(masks, torch.outer(line, line)[None, None], padding=1)


def _alone(
    activations: Tensor, masks: Tensor, tail: Callable[..., Tensor], row: int, chunks: Chunks
) -> Tensor:
    """(h w,) the scores of one image's activations behind each mask."""

    def scores(start: int, stop: int) -> Tensor:
        return tail(activations * masks[start:stop], [row] * (stop - start))

    return torch.cat(list(chunks.run(len(masks), scores)))


def _above_minimum(maps: Tensor) -> Tensor:
    """Maps (N, h, w) less their minimum; where all differences are rounding they are zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= 1e-6 * torch.maximum(high.abs(), low.abs())
    return torch.where(flat, 0, maps - low)


@_perturbation(
    paper="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
    cost="(1+n)F, n windows",
    times=170.0,
    place="input",
)
def occlusion(images, score, forward, *, window=None, stride=None, baseline=0.0, batch_size=32):
    """The score that is lost when a window that slides over the image is covered.

    ``M = sum_w (y - y_w) m_w / sum_w m_w`` with ``y_w`` the score with window w covered and m_w one
    inside of it: each pixel has the mean loss of the windows that cover it, as in captum. The last
    windows of a row or column are cut off at the border.

    Options: ``window`` its size in pixels of the model's input, a number or (height, width), by
    default a seventh of the image; ``stride`` from window to window, by default half a window;
    ``baseline`` what covers, a number or one per channel, in the units of the preprocessed image,
    where 0 usually is the mean colour; ``batch_size`` how many windows run at once; halved where the
    memory does not suffice.
    """
    chunks = Chunks(batch_size)
    height, width = images.shape[2:]
    # A window is chosen by its rows and its columns, (R, H) and (K, W).
    size = _pair("window", window, [max(1, round(side / 7)) for side in (height, width)])
    step = _pair("stride", stride, [max(1, side // 2) for side in size])
    rows = _spans("height", height, size[0], step[0], images.device)
    columns = _spans("width", width, size[1], step[1], images.device)
    cover = _cover(images, baseline)

    def scores(row: int) -> Tensor:
        def covered(start: int, stop: int) -> Tensor:
            index = torch.arange(start, stop, device=images.device)
            down, across = rows[index // len(columns)], columns[index % len(columns)]
            inside = (down[:, :, None] & across[:, None, :])[:, None]
            batch = torch.where(inside, cover, images[row])
            return forward(in_format_of(images, batch), [row] * len(batch))

        return torch.cat(list(chunks.run(len(rows) * len(columns), covered)))

    lost = score[:, None] - torch.stack([scores(row) for row in range(len(images))])
    down, across = rows.to(lost.dtype), columns.to(lost.dtype)
    total = torch.einsum("nrk,rh,kw->nhw", lost.unflatten(1, (len(rows), -1)), down, across)
    return total / torch.outer(down.sum(0), across.sum(0))


def _pair(name: str, value: Any, default: Sequence[int]) -> list[int]:
    """(height, width) from an option that is one number, two, or None."""
    if value is None:
        return list(default)
    pair = (
        list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * 2
    )
    if len(pair) != 2:
        raise ValueError(f"{name} must be a whole number or (height, width), got {value!r}")
    for side in pair:
        check_count(name, side)
    return pair


def _spans(side: str, length: int, window: int, stride: int, device: torch.device) -> Tensor:
    """(R, length) bool, where each of the windows lies along one side."""
    if window > length:
        raise ValueError(f"window must not exceed the image's {side} of {length}, got {window}")
    if stride > window and window < length:
        raise ValueError(
            f"stride must not exceed the window's {side} of {window}, got {stride}: pixels between "
            "the windows would have no value"
        )
    starts = (
        torch.arange(math.ceil((length - window) / stride) + 1, device=device)[:, None] * stride
    )
    position = torch.arange(length, device=device)
    return (position >= starts) & (position < starts + window)


def _cover(images: Tensor, baseline: Any) -> Tensor:
    """(1 or C, 1, 1) what is put in a window's place."""
    cover = torch.as_tensor(baseline, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
    if cover.shape[0] not in (1, images.shape[1]):
        raise ValueError(
            f"baseline must be a number or one for each of the {images.shape[1]} channels, "
            f"got {baseline!r}"
        )
    return cover


@_perturbation(
    paper="Petsiuk et al., RISE, BMVC 2018",
    cost="(1+n)F",
    times=2000.0,
    place="input",
)
def rise(images, forward, rng, *, samples=2000, grid=7, keep=0.5, center=True, batch_size=32):
    """The class's probability behind random masks, averaged over the masks that show a pixel.

    ``M = sum_i (p_i - mean p) m_i / sum_i m_i`` with ``p_i`` the probability of the image times mask
    m_i: what seeing a pixel adds on average. A mask is a random grid of ones and zeros, enlarged
    bilinearly and shifted by a random part of a cell. The paper has p_i alone, and p1 for the mean of
    each pixel's m_i: every pixel then has about the mean probability, which hides where it is
    higher. Masks are seeded and the same for every image. A target that is no class has its score.

    Options: ``samples`` masks (the paper: 4,000 to 8,000); ``grid`` cells along each side; ``keep``
    the probability that a cell is shown; ``center`` whether the mean is subtracted; ``batch_size``
    how many masked images run at once; halved where the memory does not suffice.
    """
    for name, value in (("samples", samples), ("grid", grid), ("batch_size", batch_size)):
        check_count(name, value)
    if not 0 < keep < 1:
        raise ValueError(f"keep must lie between 0 and 1, got {keep}")
    count, size = len(images), images.shape[2:]
    cells = (torch.rand(samples, 1, grid, grid, generator=rng, device=images.device) < keep).float()
    shifts = torch.rand(samples, 2, generator=rng, device=images.device)
    chunks = Chunks(max(1, batch_size // count))

    def probabilities(start: int, stop: int) -> Tensor:
        masks = _shifted_masks(cells[start:stop], shifts[start:stop], size)
        batch = (images * masks[:, None, None]).flatten(0, 1)
        rows = list(range(count)) * len(masks)
        found = forward(in_format_of(images, batch), rows, probability=True)
        return found.reshape(-1, count)

    weights = torch.cat(list(chunks.run(samples, probabilities)))
    if center:
        weights = weights - weights.mean(0)

    def sums(start: int, stop: int) -> tuple[Tensor, Tensor]:
        masks = _shifted_masks(cells[start:stop], shifts[start:stop], size)
        return torch.einsum("mn,mhw->nhw", weights[start:stop], masks), masks.sum(0)

    shown, seen = (sum(parts) for parts in zip(*chunks.run(samples, sums), strict=True))
    return torch.where(seen > 0, shown / torch.where(seen > 0, seen, 1), 0)


def _shifted_masks(cells: Tensor, shifts: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (m, H, W) in [0, 1] of grids (m, 1, s, s), shifted by (m, 2) parts of a cell."""
    grid = cells.shape[-1]
    cell = [math.ceil(side / grid) for side in size]
    large = F.interpolate(
        cells, size=[(grid + 1) * side for side in cell], mode="bilinear", align_corners=False
    )
    offsets = (shifts * shifts.new_tensor(cell)).long()
    down = offsets[:, :1] + torch.arange(size[0], device=cells.device)
    across = offsets[:, 1:] + torch.arange(size[1], device=cells.device)
    mask = torch.arange(len(cells), device=cells.device)[:, None, None]
    return large[mask, 0, down[:, :, None], across[:, None, :]]
