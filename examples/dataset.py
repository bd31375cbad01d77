"""The demo's dataset: 24 free animal photos with hand-drawn boxes."""

import json
from pathlib import Path

MADE_BY = "the demo of @cam51/heatmaps"
PHOTOS = Path(__file__).resolve().parent / "photos"

BOXES = "Object boxes drawn by hand and by eye for this project, about ±0.03 of a side"
ABOUT = (
    "24 animal photos, public domain or CC0; author, licence and source are fields of each sample. "
    + BOXES
    + "."
)

# field -> what it is, shown by the App beside the field's name
DESCRIPTIONS = {
    "ground_truth": BOXES,
    "subject": "What the photo shows",
    "imagenet_names": "The ImageNet-1k names that count as right; empty where none fits",
    "author": "Who took the photo",
    "license": "The licence that the photo is under",
    "source": "Where the photo is from",
}


def load_photos():
    """Reads what is known of the photos.

    Returns:
        a list of dicts with ``file, subject, imagenet_names, boxes_xyxy, author, license, source``,
        and ``path``
    """
    photos = json.loads((PHOTOS / "photos.json").read_text(encoding="utf-8"))
    return [{**photo, "path": str(PHOTOS / photo["file"])} for photo in photos]


def demo_dataset(name="cam51-demo", persistent=True):
    """Builds the dataset, again if it exists: its photos may lie elsewhere than the last time.

    Args:
        name ("cam51-demo"): the dataset's name. An existing dataset of that name is replaced if
            this function made it, and refused otherwise
        persistent (True): whether the dataset outlives the session

    Returns:
        a ``fiftyone.core.dataset.Dataset``
    """
    import fiftyone as fo

    if fo.dataset_exists(name):
        if fo.load_dataset(name).info.get("made_by") != MADE_BY:
            raise ValueError(f"name {name!r} is a dataset of yours already; choose another name")

        fo.delete_dataset(name)

    dataset = fo.Dataset(name, persistent=persistent)
    dataset.info = {"description": ABOUT, "made_by": MADE_BY}
    dataset.add_samples([photo_sample(photo) for photo in load_photos()], progress=False)
    _describe(dataset)
    dataset.compute_metadata(progress=False)
    return dataset


def photo_sample(photo):
    """Makes a sample of a photo, its boxes in ``ground_truth``.

    Args:
        photo: one of :func:`load_photos`

    Returns:
        a ``fiftyone.core.sample.Sample``
    """
    import fiftyone as fo

    boxes = [
        fo.Detection(label=photo["subject"], bounding_box=[x0, y0, x1 - x0, y1 - y0])
        for x0, y0, x1, y1 in photo["boxes_xyxy"]
    ]
    return fo.Sample(
        filepath=photo["path"],
        ground_truth=fo.Detections(detections=boxes),
        subject=photo["subject"],
        imagenet_names=photo["imagenet_names"],
        author=photo["author"],
        license=photo["license"],
        source=photo["source"],
    )


def _describe(dataset):
    for path, description in DESCRIPTIONS.items():
        field = dataset.get_field(path)
        field.description = description
        field.save()
