"""From one label to the regions it draws: boxes, instance masks, polygons, class masks, heatmaps.

Coordinates are shares of the upright image. Everything is drawn by area: a pixel holds the share of it
that is covered, so that a tiny box on a coarse grid does not vanish.
"""

import dataclasses

import cv2
import numpy as np

from .images import check_file

KINDS = {
    "Detections": "box",
    "Detection": "box",
    "Polylines": "polygon",
    "Polyline": "polygon",
    "Segmentation": "mask",
    "Heatmap": "heatmap",
    "Keypoints": "keypoints",
    "Keypoint": "keypoints",
}
_LISTS = {"Detections": "detections", "Polylines": "polylines", "Keypoints": "keypoints"}

_VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "dontcare", "dont care", "crowd"}
_BACKGROUND = {"background", "bg"}

# Of a polygon: the longest side of the canvas it is drawn on, and how much finer that is at most.
_CANVAS, _FINEST = 2048, 64


class Unreadable(Exception):
    """A label cannot be turned into regions; the message says why."""


@dataclasses.dataclass
class Part:
    """A region that a label draws.

    Attributes:
        role: ``"object"``, ``"other"``, ``"context"`` or ``"ignore"``
        shape: ``"box"``, ``"mask"``, ``"polygon"``, ``"keypoints"`` or ``"heatmap"``
        box: (left, top, right, bottom) as shares of the image, within it
        draw: ``(height, width) -> `` (height, width) float32 array of covered shares
        instance: whether it is one object, not a class's region
    """

    role: str
    shape: str
    box: tuple
    draw: object
    instance: bool = True


def plain(name):
    """A class name as names are compared: case, underscores and hyphens do not matter."""
    return " ".join(str(name).replace("_", " ").replace("-", " ").split()).casefold()


def is_void(name):
    """Whether a class name means "counted nowhere"."""
    return plain(name).replace("'", "") in _VOID


def parts_of(label, role_of, targets=None, numbered=True, threshold=0.5):
    """Finds the regions that a label draws.

    Args:
        label: a FiftyOne label, or None
        role_of: class name, or None for a label without one, -> role; crowds and void are seen to here
        targets (None): of a segmentation, pixel value (or ``"#rrggbb"``) -> class name
        numbered (True): whether the values of a segmentation without targets are names; else it can
            only tell foreground from background
        threshold (0.5): of a heatmap, as a share of the top of its range

    Returns:
        a tuple of

        - a list of :class:`Part`
        - a list of one-line reasons why labels were left out

    Raises:
        Unreadable: if what the label draws cannot be known, such as when its file is missing
    """
    if label is None:
        return [], []
    kind = type(label).__name__
    if kind == "Segmentation":
        return _segments(label, role_of, targets, numbered)
    if kind == "Heatmap":
        return _heat(label, role_of, threshold)
    rows = label[_LISTS[kind]] if kind in _LISTS else [label]
    make = {"box": _detection, "polygon": _polyline, "keypoints": _hull}[KINDS[kind]]
    parts, reasons = [], []
    for row in rows or []:
        crowd = bool(row.get_attribute_value("iscrowd", False))
        role = "ignore" if crowd or (row.label and is_void(row.label)) else role_of(row.label)
        made = make(row, role)
        if isinstance(made, Part):
            parts.append(made)
        else:
            reasons.append(f"{kind.removesuffix('s').lower()} {row.label!r} {made}")
    return parts, reasons


def _detection(row, role):
    try:
        x, y, width, height = (float(v) for v in row.bounding_box)
    except (TypeError, ValueError):
        return "has no box of four numbers"
    if not np.isfinite([x, y, width, height]).all():
        return "has a box that is not finite"
    box = _clipped(x, y, x + width, y + height)
    if box is None:
        return "has a box without area on the image"
    if row.mask is None and not row.mask_path:
        return Part(role, "box", box, lambda size: _draw_box(box, size))
    mask = read_mask(row.get_mask, row.mask_path)
    mask = mask if mask.ndim == 2 else mask.any(-1)
    if not mask.any():
        return "has an empty mask"
    mask, full = mask > 0, (x, y, x + width, y + height)
    return Part(role, "mask", box, lambda size: _draw_in_box(mask, full, size))


def _clipped(left, top, right, bottom):
    left, top, right, bottom = (float(min(max(v, 0.0), 1.0)) for v in (left, top, right, bottom))
    return (left, top, right, bottom) if right > left and bottom > top else None


def read_mask(get, path):
    """Reads a mask; whatever goes wrong with one file is told with its name."""
    try:
        if path:
            check_file(path)
        mask = get()
    except Exception as error:  # decoders raise all kinds
        raise Unreadable(f"{path or 'a mask'}: {type(error).__name__}: {error}"[:300]) from error
    if mask is None:
        raise Unreadable(f"{path}: the file is missing or no image")
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or not mask.size:
        raise Unreadable(f"{path or 'a mask'}: it has shape {mask.shape}, no picture")
    return mask


def _draw_box(box, size):
    import torch

    from ...cam_core.spatial.masks import box_masks

    return box_masks(torch.tensor(box, dtype=torch.float64), size).numpy().astype(np.float32)


def _draw_in_box(mask, box, size):
    """Lays a mask that fills a box onto the image's grid."""
    rows = _cells(box[1] * size[0], box[3] * size[0], mask.shape[0], size[0])
    columns = _cells(box[0] * size[1], box[2] * size[1], mask.shape[1], size[1])
    return rows.T @ mask.astype(np.float32) @ columns


def _cells(low, high, count, pixels):
    """(count, pixels): how much of each pixel each of ``count`` equal parts of an interval covers."""
    import torch

    from ...cam_core.spatial.masks import coverage

    edges = low + (high - low) / count * torch.arange(count + 1, dtype=torch.float64)
    return coverage(edges[:-1], edges[1:], pixels).float().numpy()


def _polyline(row, role):
    if not (row.filled or row.closed):
        return "is an open line, which has no area"
    return _polygon(row.points, role, "polygon")


def _hull(row, role):
    try:
        points = np.asarray(row.points, np.float32).reshape(-1, 2)
    except (TypeError, ValueError):
        return "has points that are no pairs of numbers"
    points = points[np.isfinite(points).all(1)]
    if len(points) < 3:
        return "has fewer than three visible points, so no hull"
    return _polygon([cv2.convexHull(points)[:, 0]], role, "keypoints")


def _polygon(shapes, role, shape):
    try:
        shapes = [np.asarray(s, np.float64).reshape(-1, 2) for s in shapes or []]
    except (TypeError, ValueError):
        return "has points that are no pairs of numbers"
    # far outside is as good as outside, and the drawing counts in 32 bits
    shapes = [s[np.isfinite(s).all(1)].clip(-8, 9) for s in shapes]
    shapes = [s for s in shapes if len(s) >= 3]
    if not shapes:
        return "has no shape of three points"
    points = np.concatenate(shapes)
    box = _clipped(*points.min(0), *points.max(0))
    if box is None:
        return "has no area on the image"
    return Part(role, shape, box, lambda size: _draw_polygon(shapes, box, size))


def _draw_polygon(shapes, box, size):
    """Draws a polygon much finer than the grid, on the part of it that it needs, and averages."""
    height, width = size
    top, left = int(box[1] * height), int(box[0] * width)
    rows = min(height, int(np.ceil(box[3] * height))) - top
    columns = min(width, int(np.ceil(box[2] * width))) - left
    fine = max(1, min(_FINEST, _CANVAS // max(rows, columns)))
    canvas = np.zeros((rows * fine, columns * fine), np.uint8)
    scale, origin = np.array([width, height]) * fine, np.array([left, top]) * fine
    # eight bits after the point; OpenCV's pixels have their centres at whole numbers
    corners = [np.rint((s * scale - origin - 0.5) * 256).astype(np.int32) for s in shapes]
    # several shapes are filled as one: where two overlap is a hole
    cv2.fillPoly(canvas, corners, 1, lineType=cv2.LINE_8, shift=8)
    drawn = np.zeros(size, np.float32)
    averaged = canvas.reshape(rows, fine, columns, fine).mean((1, 3), dtype=np.float32)
    drawn[top : top + rows, left : left + columns] = averaged
    return drawn


def _segments(label, role_of, targets, numbered):
    if label.mask is None and not label.mask_path:
        return [], []
    mask, names = named_values(read_mask(label.get_mask, label.mask_path), targets)
    present = values_in(mask)
    if names is None:
        names = _unnamed(present, numbered)
    chosen = {}
    for value in present:
        role = _segment_role(value, names, role_of)
        if role is not None:
            chosen.setdefault(role, []).append(value)
    return [_region(np.isin(mask, values), role) for role, values in chosen.items()], []


def named_values(mask, targets):
    """Brings a mask to whole numbers, and the names to them."""
    hexed = bool(targets) and all(isinstance(k, str) and k.startswith("#") for k in targets)
    if mask.ndim == 3 and not hexed:
        if mask.shape[-1] >= 3 and (mask[..., :1] != mask[..., 1:3]).any():
            raise Unreadable("the mask is coloured, and the dataset has no '#rrggbb' mask_targets")
        mask = mask[..., 0]
    if mask.ndim == 3:
        mask = mask[..., :3].astype(np.int64) @ np.array([65536, 256, 1])
        return mask, {int(k[1:], 16): v for k, v in targets.items()}
    if mask.dtype.kind == "f":
        mask = np.rint(mask).astype(np.int64)
    return mask, {int(k): v for k, v in targets.items()} if targets and not hexed else None


def values_in(mask):
    """Returns the different values of a mask, in order."""
    if mask.dtype == np.uint8 or mask.dtype == bool:
        return np.flatnonzero(np.bincount(mask.ravel())).tolist()
    return np.unique(mask).tolist()


def _unnamed(present, numbered):
    """Names for the values of a mask without mask targets; None for foreground."""
    marked = [v for v in present if v != 0]
    if numbered:
        return {v: "void" if v == 255 and len(marked) > 1 else str(v) for v in marked}
    if len(marked) > 1:
        some = ", ".join(map(str, marked[:5]))
        raise Unreadable(
            f"the mask has the values {some}, and the dataset no mask_targets that name them"
        )
    return dict.fromkeys(marked)


def _segment_role(value, names, role_of):
    if value not in names:
        # 0 is the background; of another value that the mask targets leave out nothing is known
        role = role_of(None)
        return None if value == 0 else "ignore" if role == "object" else role
    name = names[value]
    if name is None:
        return role_of(None)
    if plain(str(name).strip("_")) in _BACKGROUND:
        return None
    return "ignore" if is_void(name) else role_of(str(name))


def _region(mask, role, shape="mask"):
    """A region of the whole image's grid; its box bounds it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (
        columns[0] / mask.shape[1],
        rows[0] / mask.shape[0],
        (columns[-1] + 1) / mask.shape[1],
        (rows[-1] + 1) / mask.shape[0],
    )
    return Part(role, shape, box, lambda size: _resized(mask, size), instance=False)


def _resized(mask, size):
    values = mask.astype(np.float32)
    if mask.shape[0] >= size[0] and mask.shape[1] >= size[1]:
        # exact where it shrinks, and much faster than the product of matrices
        return cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA).clip(0, 1)
    import torch

    from ...cam_core.spatial.masks import resize_masks

    return resize_masks(torch.from_numpy(values), size).numpy()


def _heat(label, role_of, threshold):
    if label.map is None and not label.map_path:
        return [], []
    heat = read_mask(label.get_map, label.map_path)
    heat = heat if heat.ndim == 2 else heat[..., 0]
    if label.range is not None:
        top = float(label.range[1])
    else:
        top = 1.0 if heat.dtype.kind == "f" else float(np.iinfo(heat.dtype).max)
    hot = heat >= threshold * top
    return ([_region(hot, role_of(None), "heatmap")] if hot.any() else []), []
