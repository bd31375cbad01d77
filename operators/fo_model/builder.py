"""Makes a :class:`CamModel` of the arguments of its operator: everything wrong is refused here."""

import os

import numpy as np

from ..compute.params import Settings
from ..compute.plan import first_image, plan_model
from ..compute.recorded_model import GivenModel
from ..data.samples import check_samples
from ..models import load
from ..runs.leftovers import temporary_folder
from ..targets.spec import items_of, texts_of
from .cam_model import CamModel
from .no_samples import NoSamples

# Begins the names of the fields that are planned; a caller of apply_model names them himself.
_KEY = "cam"
# Samples of which the first readable one is tried, and the sides of the picture where there are none.
_TRIED, _WIDTH, _HEIGHT = 50, 320, 240


def make_cam_model(arguments, samples=None):
    """Makes a FiftyOne model that explains.

    Args:
        arguments: those of ``compute_cams`` that say what a heatmap is
        samples (None): a dataset or view of images whose first one is tried and whose labels may be
            explained

    Returns:
        a :class:`~operators.fo_model.cam_model.CamModel`

    Raises:
        ValueError: if an argument is wrong, or the model cannot be explained
    """
    given, rest = GivenModel.split(arguments)
    settings = Settings(**rest, **given.options)
    given.texts = texts_of(settings.targets)
    if samples is not None:
        check_samples(samples)
    model = given.load()
    known = NoSamples() if samples is None else samples
    try:
        with load.on_device(model):
            item = _trial_item(model, samples)
            plan, _, _ = plan_model(model, settings, known, _KEY, item)
    except ValueError as error:
        if samples is not None or not known.asked or not str(error).startswith("targets"):
            raise
        raise ValueError(
            f"{error}. Fields are known where the dataset is: give samples=, all that the model will be "
            "applied to, or use compute_cams"
        ) from error
    if plan.objects and plan.objects.targets.field is not None:
        raise ValueError(
            f"targets: what is found out about the objects of {plan.objects.targets.field!r} is stored on "
            "their labels, which apply_model cannot write to; use compute_cams, or targets='predicted'"
        )
    ids = (
        set(samples.values("id")) if samples is not None and _reads_labels(plan, settings) else None
    )
    plan.cam_key = None  # no run's
    return CamModel(model, plan, f"{_KEY}_", ids)


def _reads_labels(plan, settings):
    """Whether what is explained of an image depends on its sample."""
    items = [item for item in items_of(settings.targets) if isinstance(item, dict)]
    masks = (
        "mask" in item or item.get("over", "all") not in ("predicted", "all") for item in items
    )
    return bool(plan.labels) or any(masks)


def _trial_item(model, samples):
    """The loader's item of the image that is tried: the first of the samples, or a picture of shapes."""
    if samples is not None:
        first = samples.limit(_TRIED)
        rows = list(zip(*first.values(["id", "filepath"]), strict=True))
        return first_image(rows, model.transforms, model.geometry)
    if getattr(model.transforms, "takes_path", False):
        raise ValueError(
            "samples: preprocess= reads files itself, and where it shows them to the model is measured with a "
            "file like theirs; give samples=, all that the model will be applied to"
        )
    with temporary_folder() as folder:
        path = os.path.join(folder, "trial.png")
        _shapes().save(path)
        return first_image([(None, path)], model.transforms, model.geometry)


def _shapes():
    """A picture with edges, colours and textures, the same each time; no side is like the other."""
    from PIL import Image

    rng = np.random.default_rng(51)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    picture += rng.integers(-24, 25, picture.shape)
    picture[60:150, 90:210] = rng.integers(0, 256, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
