"""How much of the heat lies inside the boxes, beside what needs no network to say.

Photographers centre their subjects, so a blob in the middle of the picture scores well too. A share
of heat means something only beside such baselines.
"""

import contextlib
import itertools

# A centred Gaussian this wide covers about what a subject does.
SIGMA = 1 / 4.5
GRID = 224


def heat_shares(samples, module, transforms, methods, batch_size=8):
    """Measures every method's raw maps of the predicted class, cut off below zero.

    The transforms must show the network the whole image: then boxes in relative coordinates lie on
    the layer's grid as they are. A cell that a box covers half counts half.

    Args:
        samples: a list of ``(filepath, boxes)``, boxes as relative ``[x, y, width, height]``
        module: the network
        transforms: its preprocessing, a callable of a PIL image
        methods: a list of method names
        batch_size (8): images of equal size are explained together, this many at a time

    Returns:
        a dict: method -> list of shares in [0, 1], NaN where the map has no heat
    """
    import torch

    from cam_core import explain

    shares = {method: [] for method in methods}
    for batch in _batches(samples, transforms, batch_size):
        images = torch.stack([image for image, _ in batch])
        result = explain(module, images, methods=methods, targets="predicted")
        for (method, _), maps in result.maps.items():
            heat = maps[:, 0].relu()
            covered = torch.stack([box_cover(boxes, heat.shape[-2:]) for _, boxes in batch])
            inside = (heat * covered.to(heat)).sum((1, 2)) / heat.sum((1, 2))
            shares[method] += inside.tolist()

    return shares


def box_cover(boxes, size):
    """The part of each cell that the union of the boxes covers.

    Args:
        boxes: relative ``[x, y, width, height]``
        size: ``(h, w)`` of the grid

    Returns:
        a (h, w) tensor in [0, 1]
    """
    import torch
    import torch.nn.functional as F

    mask = torch.zeros(GRID, GRID)
    for x, y, width, height in boxes:
        left, top, right, bottom = (round(edge * GRID) for edge in (x, y, x + width, y + height))
        mask[top:bottom, left:right] = 1

    return F.adaptive_avg_pool2d(mask[None, None], size)[0, 0]


def uniform_share(boxes):
    """The share of heat that lies in the boxes if it is the same everywhere: their area.

    Args:
        boxes: relative ``[x, y, width, height]``

    Returns:
        a float
    """
    return float(box_cover(boxes, (GRID, GRID)).mean())


def gaussian_share(boxes):
    """The share of a Gaussian in the middle of the image, as wide as :data:`SIGMA` of each side.

    Args:
        boxes: relative ``[x, y, width, height]``

    Returns:
        a float
    """
    import torch

    axis = (torch.arange(GRID) + 0.5) / GRID - 0.5
    line = torch.exp(-(axis**2) / (2 * SIGMA**2))
    heat = line[:, None] * line[None, :]
    return float((heat * box_cover(boxes, (GRID, GRID))).sum() / heat.sum())


@contextlib.contextmanager
def untrained(module, seed=51):
    """The network as it was before it saw anything, for as long as the context lasts.

    In place rather than on a copy: FiftyOne's models carry hooks that cannot be copied.

    Args:
        module: the network; its weights and buffers are given back at the end
        seed (51): what the weights are drawn with; the global generator stays as it is
    """
    import torch

    trained = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()

        yield module
    finally:
        module.load_state_dict(trained)


def load_image(path):
    """Reads an image as the network should see it: upright and in RGB.

    Args:
        path: the file

    Returns:
        a ``PIL.Image.Image``
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _batches(samples, transforms, batch_size):
    """Transformed images with their boxes, neighbours of equal size together."""
    loaded = ((transforms(load_image(path)), boxes) for path, boxes in samples)
    for _, run in itertools.groupby(loaded, key=lambda item: item[0].shape):
        while batch := list(itertools.islice(run, batch_size)):
            yield batch
