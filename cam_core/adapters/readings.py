"""What a user's ``read`` returns of a detector's outputs, checked and made candidates."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layers.layer import describe
from .candidates import Candidates

#: what ``read`` returns, in one sentence for messages
CONTRACT = (
    "read must return a list with (boxes, scores, classes) for each image: boxes (Q, 4) left, top, right, "
    "bottom in the input's pixels; scores (Q,) confidences in [0, 1] that carry the graph, with classes (Q,) "
    "indices; or (boxes, scores) with scores (Q, C), one per class"
)
# Boxes that all end before this many pixels are shares of the image.
_SHARE = 1.5


def call_reader(read: Callable, outputs: Any, images: Tensor) -> Any:
    """Calls ``read(outputs)``, or ``read(outputs, images)`` where it takes two arguments."""
    try:
        inspect.signature(read).bind(outputs, images)
    except TypeError:
        return read(outputs)
    except ValueError:  # a built-in without a signature
        return read(outputs)
    return read(outputs, images)


def candidates_of(found: Any, images: Tensor, classes: int = 0) -> list[Candidates]:
    """Makes candidates of what ``read`` returned for a batch.

    Args:
        found: a list of N entries: (boxes, scores, classes), (boxes, scores), a mapping with ``boxes``,
            ``scores`` and ``labels`` or ``classes``, or :class:`Candidates`; or a pair of batched
            tensors (N, Q, 4) and (N, Q, C)
        images: (N, C, H, W)
        classes (0): how many classes are known at least, where entries name the class of each box

    Returns:
        N :class:`Candidates`

    Raises:
        ValueError: if it is something else; the message says what of which image
    """
    entries = _entries(found, len(images))
    size = int(images.shape[-2]), int(images.shape[-1])
    rows = [_parts(entry, i) for i, entry in enumerate(entries)]
    named = [r[2] for r in rows if isinstance(r, tuple) and r[2] is not None and len(r[2])]
    count = max([1, classes, *(int(n.max()) + 1 for n in named)])
    return [
        _one(*row, image=i, size=size, classes=count) if isinstance(row, tuple) else row
        for i, row in enumerate(rows)
    ]


def rooted(found: Sequence[Candidates], raw: Any) -> list[Candidates]:
    """Gives images without a candidate the graph of the outputs, in which their scores would be.

    Args:
        found: one :class:`Candidates` per image
        raw: what the module returned
    """
    anchor = sum((t.float().sum() for t in tensors_in(raw) if t.requires_grad), torch.zeros(()))
    return [
        c if len(c.logits) else dataclasses.replace(c, logits=c.logits + anchor.to(c.logits))
        for c in found
    ]


def check_graph(found: Sequence[Candidates], raw: Any) -> None:
    """Raises a ValueError if scores were cut from the graph that the outputs carry.

    Args:
        found: one :class:`Candidates` per image
        raw: what the module returned
    """
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors_in(raw)):
        return
    cut = [i for i, c in enumerate(found) if len(c.logits) and not c.logits.requires_grad]
    if cut:
        raise ValueError(
            f"read: the scores of image {cut[0]} of the batch carry no graph, though the model's outputs do: "
            "compute them from the outputs with torch, without detach(), item(), numpy() or torch.no_grad()"
        )


def tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The floating-point tensors in what a model returned: sequences, mappings, objects of attributes."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    if depth:
        for part in inner:
            yield from tensors_in(part, depth - 1)


def _entries(found: Any, count: int) -> list[Any]:
    if isinstance(found, tuple) and found and all(isinstance(t, Tensor) for t in found):
        batched = found[0].dim() == 3 and all(len(t) == count for t in found)
        if batched and len(found) in (2, 3):
            return list(zip(*found, strict=True))
    one = isinstance(found, tuple) and any(isinstance(t, Tensor) for t in found)
    if isinstance(found, (list, tuple)) and len(found) == count and not one:
        return list(found)
    raise ValueError(
        f"read: got {describe(found)} for {count} images, and it needs an entry for each; {CONTRACT}"
    )


def _parts(entry: Any, image: int) -> Any:
    """(boxes, scores, classes or None) of one image; :class:`Candidates` as they are."""
    # Not isinstance: the plugin's cam_core is a second copy beside the one that users import.
    if all(hasattr(entry, name) for name in ("boxes", "logits", "probabilities")):
        return entry
    if isinstance(entry, Mapping):
        labels = entry.get("labels", entry.get("classes"))
        if "boxes" in entry and "scores" in entry:
            entry = (entry["boxes"], entry["scores"], labels)
    if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3):
        raise ValueError(f"read: the entry of image {image} is {describe(entry)}; {CONTRACT}")
    boxes, scores, classes = (*entry, None)[:3]
    if not isinstance(scores, Tensor):
        raise ValueError(
            f"read: the scores of image {image} are a {type(scores).__name__}, not a tensor, which is to "
            f"carry the graph; {CONTRACT}"
        )
    boxes = torch.as_tensor(boxes).detach().to(scores.device).float()
    if classes is not None:
        classes = torch.as_tensor(classes).detach().to(scores.device)
    return boxes, scores, classes


def _one(
    boxes: Tensor,
    scores: Tensor,
    named: Tensor | None,
    *,
    image: int,
    size: tuple[int, int],
    classes: int,
) -> Candidates:
    count = len(boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"read: the boxes of image {image} have shape {tuple(boxes.shape)}, not (Q, 4); {CONTRACT}"
        )
    dims = 1 if named is not None else scores.dim()
    if scores.dim() not in (1, 2) or scores.dim() != dims or len(scores) != count:
        raise ValueError(
            f"read: the scores of image {image} have shape {tuple(scores.shape)} beside {count} boxes"
            f"{' and their classes' if named is not None else ''}; {CONTRACT}"
        )
    _check_boxes(boxes, image, size)
    _check_scores(scores.detach(), image)
    if named is None:
        table = scores if scores.dim() == 2 else scores[:, None]
        return Candidates(boxes, _logit(table), table.detach())
    if named.shape != (count,) or named.is_floating_point() or bool((named < 0).any()):
        raise ValueError(
            f"read: the classes of image {image} are {describe(named)}, not {count} indices from 0 on; "
            f"{CONTRACT}"
        )
    column = named.long()[:, None]
    absent = scores.detach().new_full((count, classes), -torch.inf)
    logits = absent.scatter(1, column, _logit(scores)[:, None])
    sure = torch.zeros_like(absent).scatter(1, column, scores.detach()[:, None])
    return Candidates(boxes, logits, sure, complete=False)


def _check_boxes(boxes: Tensor, image: int, size: tuple[int, int]) -> None:
    if len(boxes) == 0:
        return
    height, width = size
    wanted = f"left, top, right, bottom in pixels of the model's input ({width} x {height})"
    broken = (~boxes.isfinite().all(1)).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(
            f"read: {len(broken)} of {len(boxes)} boxes of image {image} are not finite, first box {broken[0]}"
        )
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1).nonzero()[:, 0].tolist()
    if turned:
        raise ValueError(
            f"read: boxes must be {wanted}; box {turned[0]} of image {image}, "
            f"{[round(v, 1) for v in boxes[turned[0]].tolist()]}, ends before it begins: convert from centres or "
            "sizes, for example with torchvision.ops.box_convert"
        )
    if float(boxes.abs().max()) <= _SHARE and min(size) > 2 * _SHARE:
        raise ValueError(
            f"read: boxes must be {wanted}, and all of image {image} lie within {float(boxes.abs().max()):.2f} "
            "pixels: multiply shares by the width and height"
        )
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = ((centres < 0) | (centres > centres.new_tensor([width, height]))).any(1)
    if int(outside.sum()) * 2 > len(boxes):
        raise ValueError(
            f"read: boxes must be {wanted}, and {int(outside.sum())} of {len(boxes)} of image {image} have "
            "their centre outside of it: leave out the step that carries them to the original picture"
        )


def _check_scores(scores: Tensor, image: int) -> None:
    if scores.numel() == 0:
        return
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high <= 1):  # also of a NaN
        raise ValueError(
            f"read: scores must be confidences in [0, 1], and those of image {image} go from {low:.3g} to "
            f"{high:.3g}: apply the detector's own sigmoid or softmax in read"
        )


def _logit(confidence: Tensor) -> Tensor:
    """The logit of confidences: what a sigmoid was applied to, computed back; finite at 0 and 1."""
    value = confidence.float()
    tiny, end = torch.finfo(value.dtype).tiny, 1 - torch.finfo(value.dtype).eps / 2
    value = value.clamp(tiny, end)
    return value.log() - (-value).log1p()
