"""What the short walk-throughs share: a few photos as a dataset, weights or what stands in for them, a picture."""

import os
from pathlib import Path

from examples.dataset import load_photos, photo_sample
from examples.measure import load_image
from examples.method_pages import draw

OUTPUT = Path(__file__).resolve().parents[1] / "demo_output"


def photos_dataset(names):
    """Makes a dataset of a few of the demo's photos, gone when Python ends.

    Args:
        names: their files, such as ``"dog.jpg"``

    Returns:
        a ``fiftyone.core.dataset.Dataset``
    """
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    import fiftyone as fo

    chosen = {photo["file"]: photo for photo in load_photos()}
    dataset = fo.Dataset()
    dataset.add_samples([photo_sample(chosen[name]) for name in names], progress=False)
    return dataset


def compute_cams():
    """Returns the operator, of this checkout."""
    import fiftyone.operators as foo

    from examples.plugin_link import link_plugin

    link_plugin()
    return foo.get_operator("@cam51/heatmaps/compute_cams")


def with_weights(build, name):
    """Builds a network with its trained weights; without a way to them, with random ones.

    Args:
        build: ``pretrained -> `` a ``torch.nn.Module``
        name: what to call it

    Returns:
        the module in eval mode, and whether its weights are trained ones
    """
    import torch

    try:
        return build(True).eval(), True
    except (OSError, RuntimeError) as error:
        why = str(error).strip().splitlines()
        print(
            f"The weights of {name} cannot be had here ({type(error).__name__}: {why[0][:100] if why else ''})."
        )
        print(
            "RANDOM WEIGHTS are used instead: the maps show how the tool works, not what a network knows."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(51)
        return build(False).eval(), False


def save_pages(dataset, fields, captions, path, title):
    """Saves a picture with a row for each photo: the photo, and its heatmaps over it.

    Args:
        dataset: the dataset
        fields: the names of the heatmap fields
        captions: what stands under each
        path: where to save it
        title: the line at the top of each row
    """
    from PIL import Image

    pages = []
    for sample in dataset:
        labels = [sample[field] for field in fields]
        tiles = [
            (f"{caption}" if label.has_map else f"{caption}: {label.status}", _heat(label))
            for caption, label in zip(captions, labels, strict=True)
        ]
        pages.append(
            draw(load_image(sample.filepath), tiles, f"{title} {Path(sample.filepath).stem}")
        )
    sheet = Image.new("RGB", (pages[0].width, sum(page.height for page in pages)))
    top = 0
    for page in pages:
        sheet.paste(page, (0, top))
        top += page.height
    path.parent.mkdir(exist_ok=True)
    sheet.save(path)
    print(f"The picture: {path.relative_to(OUTPUT.parent)}")


def _heat(label):
    return label.map.astype("float32") / 255 if label.has_map else None
