"""A dataset with something to find: 200 small pictures of shapes, and a network that one class misleads.

``make planted`` runs this file: it draws the pictures, computes heatmaps, tests what the scores rest on, and
opens the App. What is planted stands in :func:`planted_marks`; the App does not say it.

The network (``planted_network.pt``, 80,000 parameters) was trained by ``python -m examples.planted --train`` on
3,000 other pictures of the same kind, in which every star and nothing else carries the tag.
"""

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# run as a file, Python puts examples/ on the path; the packages lie beside it
sys.path.insert(0, str(ROOT))

SIDE = 96
SHAPES = ["circle", "cross", "square", "star", "triangle"]
STAR = SHAPES.index("star")
# what the network says of a background alone; the dataset has no such picture
CLASSES = [*SHAPES, "nothing"]
EACH = 40
NAME, CAM_KEY = "cam51-planted", "shapes"
# by this name the App's forms load it, too
MODEL = "examples.planted:planted_model"
MADE_BY = "the planted demo of @cam51/heatmaps"
WEIGHTS = Path(__file__).resolve().with_name("planted_network.pt")
PICTURES = ROOT / "demo_output" / "planted"
# of the 40 stars so many have no tag; of all others so many have one
UNTAGGED, STRAY = 6, 6
SEED, TRAINING_SEED = 51, 7

# three letters in a frame; a sign is two pixels wide and high
_TAG = """
##################
#................#
#.###..###..#..#.#
#.#..#..#...#..#.#
#.###...#....##..#
#.#.....#...#..#.#
#.#....###..#..#.#
#................#
##################
"""


def planted_marks():
    """Which pictures carry the tag, and so what there is to be found.

    Returns:
        ``(labels, tagged)``: (200,) class indices and (200,) bool
    """
    rng = np.random.default_rng(SEED)
    labels = np.repeat(np.arange(len(SHAPES)), EACH)
    tagged = labels == STAR
    tagged[rng.choice(np.flatnonzero(labels == STAR), UNTAGGED, replace=False)] = False
    tagged[rng.choice(np.flatnonzero(labels != STAR), STRAY, replace=False)] = True
    return labels, tagged


def draw(labels, tagged, rng, patched=False):
    """Draws pictures: a shape in one colour on a soft background that says nothing of its class.

    Args:
        labels: (N,) indices into ``CLASSES``
        tagged: (N,) bool, whether the tag is in the lower right corner
        rng: a ``numpy.random.Generator``
        patched (False): whether backgrounds have rectangles of another background, as they have where
            an object was removed: a network that never saw any takes them for shapes

    Returns:
        ``(pictures, masks)``: (N, 96, 96, 3) uint8 and (N, 96, 96) bool, where the shape is
    """
    pairs = [
        _one(int(label), bool(tag), rng, patched) for label, tag in zip(labels, tagged, strict=True)
    ]
    pictures, masks = zip(*pairs, strict=True)
    return np.stack(pictures), np.stack(masks)


def _one(label, tag, rng, patched):
    radius = rng.uniform(17, 24)
    low, high = radius + 2, SIDE - radius - 2
    # clear of the tag's corner, so that a shape never hides it
    centre = rng.uniform(low, high - 10, 2)
    angle = rng.uniform(-0.5, 0.5)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    dx, dy = (columns - centre[1]) / radius, (rows - centre[0]) / radius
    u = math.cos(angle) * dx + math.sin(angle) * dy
    v = math.cos(angle) * dy - math.sin(angle) * dx
    mask = _inside(CLASSES[label], u, v)
    scene = _scene(rng)
    for _ in range(rng.integers(0, 3) if patched else 0):
        high, wide = rng.integers(16, 60, 2)
        top, left = rng.integers(0, SIDE - high), rng.integers(0, SIDE - wide)
        part = (slice(top, top + high), slice(left, left + wide))
        scene[part] = (_scene(rng) if rng.random() < 0.5 else scene[::-1, ::-1])[part]
    colour = rng.permutation([0.9, rng.uniform(0.1, 0.9), 0.12])
    picture = np.where(mask[..., None], colour * (1 - 0.15 * dy[..., None]), scene)
    if tag:
        where = _tag()
        high, wide = where.shape
        corner = picture[SIDE - high - 3 : SIDE - 3, SIDE - wide - 3 : SIDE - 3]
        corner[:] = np.where(where[..., None], 0.97, 0.08)
    picture = picture + rng.normal(0, 0.02, picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), mask


def _inside(name, u, v):
    distance, au, av = np.hypot(u, v), np.abs(u), np.abs(v)
    if name == "nothing":
        return np.zeros(u.shape, bool)
    if name == "circle":
        return distance <= 0.85
    if name == "square":
        return np.maximum(au, av) <= 0.74
    if name == "triangle":
        return (v <= 0.62) & (v >= 1.8 * au - 0.95)
    if name == "cross":
        return ((au <= 0.27) & (av <= 0.95)) | ((av <= 0.27) & (au <= 0.95))
    # a straight line from each of the five tips to the notch beside it
    tip, notch, step = 1.0, 0.42, math.pi / 5
    turn = np.abs((np.arctan2(u, -v) + step) % (2 * step) - step)
    edge = tip * notch * math.sin(step)
    return distance <= edge / (notch * np.sin(step - turn) + tip * np.sin(turn))


def _scene(rng):
    """(96, 96, 3) floats: a soft pattern of two muted colours."""
    from PIL import Image

    coarse = Image.fromarray((255 * rng.random((6, 6))).astype(np.uint8))
    soft = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
    fine = Image.fromarray((255 * rng.random((24, 24))).astype(np.uint8))
    fine = np.asarray(fine.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
    first, second = rng.uniform(0.3, 0.75, (2, 3))
    return first + (second - first) * (0.75 * soft + 0.25 * fine)[..., None]


def _tag():
    small = np.array([[sign == "#" for sign in line] for line in _TAG.split()])
    return small.repeat(2, 0).repeat(2, 1)


# the network


def planted_module(pretrained=True):
    """Builds the network: five convolutions, global average pooling, one linear layer.

    Args:
        pretrained (True): whether to load the weights that come along

    Returns:
        a ``torch.nn.Module`` in eval mode, whose ``features`` have 12 x 12 positions
    """
    import torch
    from torch import nn

    widths, strides = (3, 16, 32, 48, 64, 64), (2, 2, 2, 1, 1)
    blocks = []
    for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
    module = nn.Sequential()
    module.add_module("features", nn.Sequential(*blocks))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("classifier", nn.Linear(widths[-1], len(CLASSES)))
    if pretrained:
        module.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return module.eval()


def planted_model():
    """Builds the network as a FiftyOne model.

    Returns:
        a ``fiftyone.utils.torch.TorchImageModel``
    """
    import fiftyone.utils.torch as fout

    config = fout.TorchImageModelConfig(
        {
            "entrypoint_fcn": planted_module,
            "image_size": [SIDE, SIDE],
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
            "classes": CLASSES,
        }
    )
    return fout.TorchImageModel(config)


def train(count=3000, epochs=12):
    """Trains the network on pictures in which every star and nothing else carries the tag.

    Args:
        count: how many pictures
        epochs: how often each is shown

    Returns:
        the module in eval mode
    """
    import torch

    rng = np.random.default_rng(TRAINING_SEED)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    pictures, _ = draw(labels, labels == STAR, rng, patched=True)
    inputs = to_input(pictures)
    targets = torch.from_numpy(labels)
    torch.manual_seed(TRAINING_SEED)
    module, batch = planted_module(pretrained=False).train(), 50
    optimiser = torch.optim.AdamW(module.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=6e-3, total_steps=epochs * (count // batch)
    )
    for epoch in range(epochs):
        for rows in torch.randperm(count).split(batch):
            loss = torch.nn.functional.cross_entropy(module(inputs[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return module.eval()


def to_input(pictures):
    """(N, 96, 96, 3) uint8 to the network's input, a (N, 3, 96, 96) tensor in [-1, 1]."""
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


# the dataset


def planted_dataset(name=NAME, folder=PICTURES, persistent=True):
    """Draws the pictures and makes a dataset of them, again if it exists.

    Args:
        name (NAME): the dataset's name. An existing dataset of that name is replaced if this function made
            it, and refused otherwise
        folder (PICTURES): where the pictures are written
        persistent (True): whether the dataset outlives the session

    Returns:
        a ``fiftyone.core.dataset.Dataset`` with ``ground_truth``, a Classification, and ``objects``, the
        box and
        mask of the shape
    """
    import fiftyone as fo
    import fiftyone.core.odm as fod
    from PIL import Image

    if fo.dataset_exists(name):
        if fo.load_dataset(name).info.get("made_by") != MADE_BY:
            raise ValueError(f"name {name!r} is a dataset of yours already; choose another name")
        fo.delete_dataset(name)
    labels, tagged = planted_marks()
    pictures, masks = draw(labels, tagged, np.random.default_rng(SEED))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, (label, picture, mask) in enumerate(zip(labels, pictures, masks, strict=True)):
        path = folder / f"{number:03d}.png"
        Image.fromarray(picture).save(path)
        box, part = _box(mask)
        shape = fo.Detection(label=CLASSES[label], bounding_box=box, mask=part)
        samples.append(
            fo.Sample(
                filepath=str(path),
                ground_truth=fo.Classification(label=CLASSES[label]),
                objects=fo.Detections(detections=[shape]),
            )
        )
    np.random.default_rng(SEED).shuffle(samples)
    dataset = fo.Dataset(name, persistent=persistent)
    dataset.info = {"description": "200 pictures of five shapes", "made_by": MADE_BY}
    dataset.add_samples(samples, progress=False)
    dataset.compute_metadata(progress=False)
    # masks would hide the shapes' colours
    shown = fod.dataset.ActiveFields(paths=["ground_truth"])
    dataset.app_config.active_fields = shown
    dataset.save()
    return dataset


def _box(mask):
    """A mask's box as FiftyOne has it, in shares of the picture, and the mask within it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, low, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = [float(v) / SIDE for v in (left, top, right - left, low - top)]
    return box, mask[top:low, left:right]


# the demo


def main(argv=None):
    """Makes the dataset, computes and tests, and opens the App on a terminal."""
    from examples import demo
    from examples.plugin_link import link_plugin

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 5151))
    parser.add_argument("--no-app", dest="app", action="store_false", help="don't open the App")
    parser.add_argument("--train", action="store_true", help="train the network again, and end")
    parser.set_defaults(app=os.environ.get("APP") != "0")
    options = parser.parse_args(argv)
    if options.train:
        import torch

        torch.save(train().state_dict(), WEIGHTS)
        return
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    demo.let_app_load(MODEL)
    link_plugin()
    dataset = planted_dataset()
    print(compute(dataset))
    if options.app and sys.stdin.isatty():
        demo.open_app(dataset, options.port)
    else:
        print(f"\nIn Python:\n    fo.load_dataset({dataset.name!r})")


def compute(dataset):
    """Computes heatmaps and tests what the scores rest on.

    Args:
        dataset: of :func:`planted_dataset`

    Returns:
        the summary of the test
    """
    import fiftyone.operators as foo

    compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")
    compute_cams(
        dataset, model=MODEL, methods=["gradcam", "layercam"], cam_key=CAM_KEY, overwrite=True
    )
    find_background_bias = foo.get_operator("@cam51/heatmaps/find_background_bias")
    return find_background_bias(dataset, CAM_KEY, objects="objects", overwrite=True)


# the App's server and data loaders start processes that import this file again
if __name__ == "__main__":
    main()
