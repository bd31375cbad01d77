"""Stored heatmaps as arrays, and the maps that they have to beat."""

import os
import zlib

import numpy as np

from .samples import read_values

#: maps that are made up where no randomcam is stored: what a map is worth that knows nothing
RANDOM_MAP, GAUSSIAN = "random_map", "centred_gaussian"
BASELINES = {RANDOM_MAP: "random map", GAUSSIAN: "centred Gaussian"}
# cells per side of the random map: those of a CAM of a 224-pixel input
_CELLS = 7


def read_maps(dataset, ids, fields):
    """Reads heatmaps from the database or from disk.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        ids: of samples
        fields: names of M heatmap fields

    Returns:
        ``{id: M arrays (h, w) float32 in [0, 1]}``, None for each that has no map

    Raises:
        OSError: if the file of a map is gone
    """
    found_ids, *columns = read_values(dataset.select(ids), ["id", *fields])
    found = {i: [None] * len(fields) for i in ids}
    for m, labels in enumerate(columns):
        for sample_id, label in zip(found_ids, labels, strict=True):
            if label is not None and getattr(label, "status", "ok") == "ok" and label.has_map:
                found[sample_id][m] = _array(label)
    return found


def _array(label):
    """The heat of a label that this plugin wrote; its range only says how the App draws it."""
    if label.map is None and not os.path.isfile(label.map_path):
        raise FileNotFoundError(f"the heatmap {label.map_path!r} is gone")
    picture = label.get_map()
    if picture is None:
        raise OSError(f"the heatmap {label.map_path!r} cannot be read")
    # of a PNG that was read in colour all channels are the same
    return np.asarray(picture if picture.ndim == 2 else picture[..., 0], np.float32) / 255


def on_input(maps, window, size):
    """Lays one sample's heatmaps on the pixels of the model's input.

    Args:
        maps: M arrays (h, w), or None
        window: what the model saw of the image
        size: (H, W) of the model's input

    Returns:
        (M, H, W) float32 tensor, NaN where there is no map
    """
    import torch

    from ...cam_core.spatial.geometry import to_input

    out = torch.full((len(maps), *size), torch.nan)
    for m, heat in enumerate(maps):
        if heat is not None:
            out[m] = to_input(torch.from_numpy(np.ascontiguousarray(heat)), window, size)
    return out


def random_maps(ids, size, seed):
    """Smooth random maps, one per sample.

    Args:
        ids: of N samples, which with the seed decide what is drawn
        size: (H, W)
        seed: an integer

    Returns:
        (N, H, W) float32 tensor in [0, 1]
    """
    import torch

    from ...cam_core.spatial.maps import upsample

    cells = [
        np.random.default_rng([seed, zlib.crc32(i.encode())]).random((_CELLS, _CELLS)) for i in ids
    ]
    return upsample(torch.from_numpy(np.stack(cells)).float()[:, None], size)[:, 0]


def baseline_maps(names, ids, size, seed):
    """(N, B, H, W) tensor of the baselines of N samples, see :data:`BASELINES`."""
    import torch

    from ...cam_core.metrics.baselines import centred_gaussian

    made = {
        RANDOM_MAP: lambda: random_maps(ids, size, seed),
        GAUSSIAN: lambda: centred_gaussian(size).expand(len(ids), -1, -1),
    }
    return torch.stack([made[name]() for name in names], 1)


def heat_of(label):
    """The heat of a label in [0, 1], from the database or its file; None if it has no map.

    Raises:
        FileNotFoundError: if its file is gone, or is no picture
    """
    import cv2

    if label is None:
        return None
    values = label.map
    if values is None and label.map_path is not None:
        values = cv2.imread(label.map_path, cv2.IMREAD_GRAYSCALE)
        if values is None:
            raise FileNotFoundError(
                f"the file of a heatmap is gone or is no picture: {label.map_path}"
            )
    return None if values is None else values / 255.0
