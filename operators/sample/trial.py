"""What if a part of one picture were different? A region is replaced, and the model is asked again."""

import dataclasses
import functools
import os

import numpy as np

from ..bias.pictures import working_side
from ..bias.region_job import validated_region
from ..bias.regions import box_region, hottest_region
from ..compute.recorded_plan import check_scores
from ..data.images import decode_image
from ..data.loader import load_item
from ..jobs.inference import Predictor
from ..models import load as model_load
from ..runs.predictions import predicts
from ..text import one_line
from .explain import path_of
from .swaps import MARGIN, SampleObjects, pictures_of

#: regions that need no box, each as it is read
REGIONS = {
    "hottest": "the hottest tenth",
    "object": "the object",
    "background": "all but the object",
    "border": "the border",
}
#: what takes a region's place, each as it is read
FILLS = {
    "other": "another photo",
    "blur": "a blur",
    "mean": "the mean colour",
    "inpaint": "what is around it",
}
#: random places at which the same is done, to compare with; none for regions that leave no other place
CONTROLS = 4
_LARGEST_MOVED = 0.4
#: other photos that are tried until one is predicted otherwise
_LENDERS = 6
#: classes that are listed of an answer
LISTED = 3


@dataclasses.dataclass
class Trial:
    """One question to the model about one picture.

    Attributes:
        id: of the sample
        region: as it was asked for: a key of :data:`REGIONS`, or a box of four shares
        fill: a key of :data:`FILLS`
        target: the class that is predicted for the picture as it is, whose score is watched
        old, new: its probability, 0 to 1, before and after
        before, after: the strongest classes, ``[(name, probability), ...]``
        controls: the probability after the same at random places of the same size; empty where the
            region leaves no other place
        share: of the picture that was replaced, 0 to 1
        donor: the file name of the photo that took its place, or None
        picture: (h, w, 3) uint8, what the model was asked about
        mask: (h, w) bool, where it was changed
    """

    id: str
    region: object
    fill: str
    target: str
    old: float
    new: float
    before: list
    after: list
    controls: list
    share: float
    donor: str
    picture: np.ndarray
    mask: np.ndarray


def ask(dataset, sample_id, model, cam_key, region, fill, heat=None, seed=51):
    """Replaces a region of a picture and asks the model before and after, and at random places.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the sample
        model: the :class:`LoadedModel`
        cam_key: the CAM run whose objects and predictions are used, or None
        region: a key of :data:`REGIONS`, or a box ``[left, top, width, height]`` as shares of the image
        fill: a key of :data:`FILLS`
        heat (None): (h, w) map over the image, which ``"hottest"`` needs
        seed (51): of the other photo and the random places

    Returns:
        a :class:`Trial`

    Raises:
        ValueError: if the picture cannot be read, has no such region, or the model is no classifier
    """
    if fill not in FILLS:
        raise ValueError(f"fill: {fill!r} is unknown; choose from {', '.join(FILLS)}")
    path = path_of(dataset, sample_id)
    try:
        item = load_item(sample_id, path, model.transforms, model.geometry)
        picture = decode_image(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"sample: {path} cannot be read: {one_line(error)}") from error
    # both answers are about the picture at this size, so that only the region differs
    side = working_side(item.window, tuple(item.image.shape[1:]))
    picture.thumbnail((side, side))
    picture = np.asarray(picture)
    with model_load.on_device(model):
        check_scores(model, item.image[None])
        predict = Predictor(model, 0)
        old = predict([picture])[0]
        best = int(old.argmax())
        name = model.label(best)
        objects = functools.partial(_objects, dataset, cam_key, name)
        mask = region_of(dataset, sample_id, region, picture.shape[:2], heat, objects)
        replaced, donor = _filler(
            dataset,
            cam_key,
            sample_id,
            name,
            fill,
            side,
            seed,
            objects,
            lambda other: model.label(int(predict([other])[0].argmax())),
        )
        pictures = [replaced(picture, mask, region == "background")]
        pictures += [replaced(picture, other, False) for other in _elsewhere(mask, seed)]
        scores = predict(pictures)
    return Trial(
        id=sample_id, region=region, fill=fill, target=name, old=float(old[best]),
        new=float(scores[0, best]), before=_strongest(model, old), after=_strongest(model, scores[0]),
        controls=[float(row[best]) for row in scores[1:]], share=float(mask.mean()), donor=donor,
        picture=pictures[0], mask=mask,
    )  # fmt: skip


def region_of(dataset, sample_id, region, size, heat, objects):
    """The pixels of a region.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the sample
        region: see :func:`ask`
        size: (h, w) of the picture
        heat: see :func:`ask`
        objects: maps ``{id: (h, w)}`` to ``{id: mask or None}``

    Returns:
        (h, w) bool with at least one pixel inside and one outside

    Raises:
        ValueError: if the picture has no such region
    """
    from ...cam_core.bias.composites import border_ring

    if region == "hottest":
        if heat is None or not np.max(heat) > 0:
            raise ValueError("region: this sample has no heat here; explain it, or choose another")
        return hottest_region(heat, size)
    if region == "border":
        return border_ring(size)
    if isinstance(region, str) and region in ("object", "background"):
        mask = objects({sample_id: size})[sample_id]
        if mask is None or not mask.any():
            raise ValueError(
                "region: no object is annotated here; draw a box, or choose another region"
            )
        mask = np.asarray(mask) >= 0.5
        if mask.all():
            raise ValueError("region: the object fills the picture; choose another region")
        return ~mask if region == "background" else mask
    if isinstance(region, str):
        raise ValueError(
            f"region: {region!r} is unknown; choose from {', '.join(REGIONS)}, or a box"
        )
    box, _ = validated_region(dataset, list(region))
    return box_region(box, size)


def _objects(dataset, cam_key, name, sizes, explained=True):
    """Masks of the objects of samples, of one class or of all."""
    names = dict.fromkeys(sizes, name if explained else None)
    return SampleObjects(dataset, cam_key, "auto", []).masks(list(sizes), names, sizes)


def _filler(dataset, cam_key, sample_id, name, fill, side, seed, objects, predicted):
    """A function (picture, mask, whether it is the background) -> picture, and who lent a part."""
    from ...cam_core.bias.composites import remove_objects

    if fill != "other":

        def filled(picture, mask, background):
            return _pasted(picture, mask, _filled(picture, mask, fill), background)

        return filled, None
    donor_id, donor, file = _donor(dataset, cam_key, sample_id, name, side, seed, predicted)

    def bare():
        mask = objects({donor_id: donor.shape[:2]}, explained=False)[donor_id]
        if mask is None:
            return donor
        removal = remove_objects(donor, np.asarray(mask) >= 0.5, MARGIN)
        return donor if removal.image is None else removal.image

    def replaced(picture, mask, background):
        return _pasted(picture, mask, bare() if background else donor, background)

    return replaced, file


def _donor(dataset, cam_key, sample_id, name, side, seed, predicted):
    """Another sample that the model predicts otherwise: its id, picture and file; any, if all look alike."""
    view, field = dataset.exclude([sample_id]), f"{cam_key}_prediction"
    if cam_key is not None and dataset.get_field(field) is not None:
        view = view.match(~predicts(dataset, field, name))
    columns = view.take(_LENDERS, seed=seed).values(["id", "filepath"])
    first = None
    for row in zip(*columns, strict=True):
        found = pictures_of([row], side)
        for donor_id, picture in found.items():
            donor = donor_id, picture, os.path.basename(row[1])
            if predicted(picture) != name:
                return donor
            first = first or donor
    if first is None:
        raise ValueError(
            "fill: there is no other photo that can be read; choose another replacement"
        )
    return first


def _pasted(picture, mask, other, background):
    """A picture with another one in a region; the edge of an object on a new background lies outside it."""
    from ...cam_core.bias.composites import replace_region, swap_background

    if background:
        return swap_background(picture, ~mask, other)
    return replace_region(picture, mask, other)


def _filled(picture, mask, fill):
    """A picture (h, w, 3) uint8 of what takes the region's place."""
    import torch

    from ...cam_core.metrics import fills
    from ...cam_core.metrics.road import impute

    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    if fill == "inpaint":
        out = impute(image, torch.from_numpy(np.ascontiguousarray(mask))[None])
    else:
        out = fills.fill(image, fill)
    return out[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def _elsewhere(mask, seed):
    """The same region at random other places."""
    from ...cam_core.bias.composites import random_regions

    return random_regions(mask, CONTROLS, seed) if mask.mean() <= _LARGEST_MOVED else []


def _strongest(model, scores):
    order = np.argsort(-scores, kind="stable")[:LISTED]
    return [(model.label(int(i)), float(scores[i])) for i in order]
