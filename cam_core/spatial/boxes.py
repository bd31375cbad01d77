"""Boxes: overlap, suppression, matching, and boxes drafted from heat.

A box is left, top, right, bottom in pixels, the frame's corner being (0, 0); one with a NaN overlaps
nothing.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from .geometry import Window


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every box with every other.

    Args:
        first: (A, 4) boxes
        second: (B, 4) boxes

    Returns:
        (A, B) in [0, 1]; 0 where a box has a NaN or no area

    Raises:
        ValueError: if the shapes are no boxes'
    """
    check_boxes("first", first)
    check_boxes("second", second)
    from torchvision.ops import box_iou as overlaps

    return overlaps(first.float(), second.to(first.device).float()).nan_to_num(0)


def check_boxes(name: str, boxes: Tensor) -> None:
    """Checks the shape of boxes.

    Args:
        name: of the argument, for the message
        boxes: (A, 4)

    Raises:
        ValueError: if they are something else
    """
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        got = tuple(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"{name} must be a tensor of shape (A, 4), got {got}")


def corners(boxes: Tensor) -> Tensor:
    """Brings (..., 4) centre x, centre y, width, height to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], -1)


def enclosing(boxes: Tensor, angle: Tensor) -> Tensor:
    """The upright boxes around rotated ones.

    Args:
        boxes: (..., 4) centre x, centre y, width, height
        angle: (...) by which they are turned, in radians

    Returns:
        (..., 4) left, top, right, bottom
    """
    cos, sin = angle.cos().abs(), angle.sin().abs()
    width, height = boxes[..., 2], boxes[..., 3]
    sides = torch.stack([width * cos + height * sin, width * sin + height * cos], -1)
    return corners(torch.cat([boxes[..., :2], sides], -1))


def boxes_to_input(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Carries boxes from an image into a model's input, through resize, crop and letterbox.

    Args:
        boxes: (..., 4) in the original image's pixels
        window: what the model saw of the image
        size: (H, W) of the model's input

    Returns:
        (..., 4) in the input's pixels, cut off at its border; without area where the model saw
        nothing of the box
    """
    height, width = window.upright_size(size)
    corner = boxes.new_tensor([window.left, window.top]).repeat(2)
    scale = boxes.new_tensor(
        [width / (window.right - window.left), height / (window.bottom - window.top)]
    ).repeat(2)
    limit = boxes.new_tensor([width, height]).repeat(2)
    placed = torch.minimum(((boxes - corner) * scale).clamp_min(0), limit)
    placed = _flipped(placed, window, (height, width))
    return placed[..., [1, 0, 3, 2]] if window.transposed else placed


def boxes_to_image(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Carries boxes from a model's input onto the image: the way back of :func:`boxes_to_input`.

    Args:
        boxes: (..., 4) in the input's pixels
        window: what the model saw of the image
        size: (H, W) of the model's input

    Returns:
        (..., 4) in the original image's pixels, cut off at its border
    """
    height, width = window.upright_size(size)
    boxes = boxes[..., [1, 0, 3, 2]] if window.transposed else boxes
    boxes = _flipped(boxes, window, (height, width))
    corner = boxes.new_tensor([window.left, window.top]).repeat(2)
    scale = boxes.new_tensor(
        [(window.right - window.left) / width, (window.bottom - window.top) / height]
    ).repeat(2)
    limit = boxes.new_tensor([window.image[1], window.image[0]]).repeat(2)
    return torch.minimum((boxes * scale + corner).clamp_min(0), limit)


def _flipped(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Boxes in a picture of (h, w) that a window flips; their own inverse."""
    down, across = window.flipped
    left, top, right, bottom = boxes.unbind(-1)
    if across:
        left, right = size[1] - right, size[1] - left
    if down:
        top, bottom = size[0] - bottom, size[0] - top
    return torch.stack([left, top, right, bottom], -1) if down or across else boxes


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression among the boxes of each class.

    Args:
        boxes: (A, 4)
        scores: (A,)
        labels: (A,) classes
        iou: from which overlap on, exclusive, the weaker of two boxes goes

    Returns:
        (K,) indices of the boxes that stay, the strongest first
    """
    order = scores.argsort(descending=True, stable=True)
    same = labels[order][:, None] == labels[order][None]
    over = ((box_iou(boxes[order], boxes[order]) > iou) & same).cpu().numpy()
    keep = np.ones(len(over), bool)
    for i in range(len(over)):
        if keep[i]:
            keep[i + 1 :] &= ~over[i, i + 1 :]
    return order[torch.from_numpy(keep).to(order.device)]


def match_boxes(
    boxes: Tensor,
    labels: Tensor,
    found: Tensor,
    found_labels: Tensor,
    found_scores: Tensor,
    iou: float = 0.5,
) -> Tensor:
    """Matches objects with detections of their class, as COCO's evaluation does.

    The strongest detection chooses first, each takes the object it overlaps most.

    Args:
        boxes: (A, 4) objects
        labels: (A,) their classes
        found: (B, 4) detections
        found_labels: (B,) their classes
        found_scores: (B,) their confidences
        iou (0.5): the least overlap of a match

    Returns:
        (A,) index of each object's detection, -1 where it was missed
    """
    result = torch.full((len(boxes),), -1)
    overlap = box_iou(found, boxes).cpu()
    overlap[found_labels.cpu()[:, None] != labels.cpu()[None]] = -1
    for detection in found_scores.argsort(descending=True, stable=True).tolist():
        free = overlap[detection].masked_fill(result >= 0, -1)
        if len(free) and float(free.max()) >= iou:
            result[int(free.argmax())] = detection
    return result


def heat_to_boxes(heat: Tensor, threshold: float = 0.5, least_area: float = 1.0) -> Tensor:
    """Drafts boxes around the heat of a map: one for every connected part above a threshold.

    Args:
        heat: (H, W) non-negative
        threshold (0.5): share of the map's maximum in (0, 1) from which on a pixel belongs to a part
        least_area (1.0): parts of fewer pixels are left out

    Returns:
        (M, 5) left, top, right, bottom in the map's pixels and the part's maximum as a share of the
        map's, the strongest first, of equal ones the largest; none for a map that is zero or not finite

    Raises:
        ValueError: if the heat is no map or the threshold no share
    """
    if not isinstance(heat, Tensor) or heat.dim() != 2:
        got = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
        raise ValueError(f"heat must be a tensor of shape (H, W), got {got}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a share between 0 and 1, got {threshold}")
    values = heat.detach().float().cpu().numpy()
    peak = values.max(initial=0.0)
    if not np.isfinite(values).all() or peak <= 0:
        return torch.zeros(0, 5)
    above = (values >= threshold * peak).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    rows = []
    for part in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[part])
        if area >= least_area:
            mine = values[parts == part].max() / peak
            rows.append((left, top, left + width, top + height, mine, area))
    rows.sort(key=lambda row: (-row[4], -row[5]))
    return torch.tensor([row[:5] for row in rows], dtype=torch.float32).reshape(-1, 5)
