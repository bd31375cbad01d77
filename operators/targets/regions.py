"""Where a class is looked for: objects of a label field or a box, carried onto the model's input."""

#: the grid over the whole image that objects are drawn on
_GRID = (256, 256)


class FieldRegion:
    """The objects of a class in a label field.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        field: a field of boxes, masks, polygons, segmentations or heatmaps
        names: what the class may be called there; labels without a name count, too
        values (None): of masks, pixel value -> class name, where the dataset does not say it
    """

    def __init__(self, samples, field, names, values=None):
        from ..data.object_reader import ObjectReader

        self._name = names[0]
        try:
            self._reader = ObjectReader(
                samples,
                field,
                "explained",
                size=_GRID,
                aliases={names[0]: names},
                mask_targets={field: values},
            )
        except ValueError as error:
            raise ValueError(f"targets: mask: {error}") from error

    def __call__(self, items, size):
        """Returns (N, h, w) masks on the model's input, and N statuses, None where there is one."""
        import torch

        ids = [item.id for item in items]
        found = self._reader.read(list(dict.fromkeys(ids)), dict.fromkeys(ids, self._name))
        masks = [torch.from_numpy(found[i].object) for i in ids]
        statuses = {"ok": None, "object_absent": "target_absent", "no_object": "no_label"}
        missing = [statuses.get(found[i].status, "unreadable") for i in ids]
        return _on_input(masks, missing, items, size)


class BoxRegion:
    """A box, the same for every image.

    Args:
        box: [left, top, width, height] as shares of the image, as FiftyOne's are

    Raises:
        ValueError: if it is no such box
    """

    def __init__(self, box):
        numbers = isinstance(box, (list, tuple)) and len(box) == 4
        numbers = numbers and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in box
        )
        inside = numbers and min(box[:2]) >= 0 and min(box[2:]) > 0
        if not inside or box[0] + box[2] > 1 + 1e-6 or box[1] + box[3] > 1 + 1e-6:
            raise ValueError(
                "targets: box must be [left, top, width, height] as shares of the image, within it, "
                f"got {box!r}"
            )
        self._box = [float(v) for v in box]

    def __call__(self, items, size):
        """Returns (N, h, w) masks on the model's input, and N statuses, None where there is one."""
        import torch

        from ...cam_core.spatial.masks import box_masks

        left, top, width, height = self._box
        edges = torch.tensor([left, top, left + width, top + height], dtype=torch.float64)
        mask = box_masks(edges, _GRID).float()
        return _on_input([mask] * len(items), [None] * len(items), items, size)


def _on_input(masks, missing, items, size):
    """Carries masks of whole images onto the model's input; one that it does not see is absent."""
    import torch

    carried = torch.stack(
        [carry(mask, item.window, size) for mask, item in zip(masks, items, strict=True)]
    )
    seen = carried.flatten(1).any(1).tolist()
    missing = [m if m or s else "target_absent" for m, s in zip(missing, seen, strict=True)]
    return carried, missing


def carry(mask, window, size):
    """Carries a mask from the whole original image onto the model's input.

    Args:
        mask: (H, W) tensor whose grid tiles the original image
        window: the ``cam_core.spatial.geometry.Window`` that the model sees
        size: (h, w) of the model's input

    Returns:
        (h, w), bilinear; 0 where the input is padding
    """
    from ...cam_core.spatial.geometry import axis_weights

    height, width = window.image
    down, across = window.upright_size(size)
    rows = axis_weights(
        mask.shape[0], -window.top, height - window.top, window.bottom - window.top, down
    )
    columns = axis_weights(
        mask.shape[1], -window.left, width - window.left, window.right - window.left, across
    )
    return window.as_seen(rows.to(mask) @ mask @ columns.to(mask).T)
