"""What ``find_background_bias`` is told to do: every argument checked before the first sample."""

import os
import tempfile

import fiftyone as fo

from ..compute.params import MODEL, OPTIONS
from ..jobs import params
from ..jobs.params import Boolean, Choice, Field, Integer, Number, Param, anything

#: samples that are tested unless more are asked for
PROBE = 2000
#: of which so many get noise on object and background, spread over the classes
NOISY = 200
#: other backgrounds of a sample, at first
DONORS = 4


def _checked_report(folder):
    """A path; where it may lie depends on who asks, which the job knows."""
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise ValueError(f"report must be the path of a folder, got {folder!r}")
    return os.fspath(folder)


def _checked_aliases(aliases):
    if not isinstance(aliases, dict):
        raise ValueError(
            "aliases must be a dict {class of the model: label or labels of the dataset}, got "
            f"{type(aliases).__name__}"
        )
    return aliases


# what both operators have
_CAM_KEY = Param("cam_key", field=Field("Run", "Its model is tested"))
_TARGETS = Param("targets", "predicted")
_LABELS = Param("labels", "auto", none="none")
_PROBE = params.PROBE.but(
    field=Field("Samples to test", f"Spread over the classes. 0: all, up to {PROBE:,}")
)
_DONORS = Param("donors", DONORS, Integer(1, 64))
_FEATHER = Param("feather", 2, Number(0, 64, "number of pixels"))
_SCENES = Param("scenes")

REGION_PARAMS = (
    Param("region", "hottest", field=Field("Region")),
    _CAM_KEY,
    _TARGETS,
    _LABELS,
    _PROBE,
    _DONORS.but(field=Field("Replacements per sample")),
    _FEATHER,
    _SCENES,
    params.BATCH_SIZE,
    params.NUM_WORKERS,
    params.DEVICE,
    params.PRECISION.but(default="float32"),
    params.SEED,
)
PARAMS = (
    _CAM_KEY,
    Param("methods"),
    _TARGETS,
    Param("layers"),
    Param(
        "objects", "auto", none="none",
        field=Field("Objects", "Where the objects are. Everything else is background"),
    ),
    Param(
        "object_classes", "auto", check=anything,
        kind=Choice({
            "auto": "Of the explained class, else all", "explained": "Of the explained class", "all": "All",
        }),
        field=Field("Which objects"),
    ),
    Param("aliases", check=_checked_aliases),
    _LABELS.but(
        field=Field(
            "Labels", "The field with the true class. Empty: the only one that is no prediction"
        ),
    ),
    _PROBE,
    _DONORS.but(
        field=Field(
            "Other backgrounds per sample", "Plus as many of its own class, as control"
        ),
    ),
    Param("most_donors", 32, Integer(1, 64)),
    Param("control", True, Boolean()),
    Param("noise", True, Boolean()),
    _FEATHER,
    Param(
        "group_by", field=Field("Compare by", "A field such as hospital, whose values are compared")
    ),
    _SCENES,
    Param("views", True, Boolean()),
    Param("tags", False, Boolean(), Field("Tag samples with their verdicts", plain=True)),
    Param(
        "report", check=_checked_report,
        field=Field(
            "Report folder",
            "For an HTML page, CSV and JSON files, on the machine that runs this. Empty: no report", plain=True,
        ),
    ),
    params.BATCH_SIZE,
    params.NUM_WORKERS,
    params.DEVICE,
    params.PRECISION,
    Param(
        "overwrite", False, Boolean(),
        Field("Overwrite", "Deletes the earlier analysis of this run, then starts again"),
    ),
    params.SEED,
)  # fmt: skip
#: all that the operators are given beside the samples
ARGUMENTS = (*MODEL, *PARAMS, *OPTIONS)
REGION_ARGUMENTS = (*MODEL, *REGION_PARAMS, *OPTIONS)


class RegionSettings(params.settings(REGION_PARAMS)):
    """The arguments of ``test_region``, checked; see there for their meaning."""


class BiasSettings(params.settings(PARAMS)):
    """The arguments of ``find_background_bias``, checked; see there for their meaning."""


def make_folder(name, path):
    """Makes a folder and tries to write into it.

    Args:
        name: of the argument, for the message
        path: absolute

    Raises:
        ValueError: if that fails
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"{name}: nothing can be written to {path!r}: {error}") from error


def check_plain_field(samples, name, argument):
    """Checks that a field or attribute holds one plain value per sample.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        name: of the field, such as ``"hospital"`` or ``"weather.label"``
        argument: what to call it in the message

    Raises:
        ValueError: if there is no such field, or it holds documents or lists
    """
    plain = (fo.StringField, fo.IntField, fo.FloatField, fo.BooleanField, fo.DateField)
    flat = samples.get_field_schema(flat=True)
    if isinstance(name, str) and isinstance(flat.get(name), (*plain, fo.ObjectIdField)):
        return
    known = [n for n, field in flat.items() if isinstance(field, plain)]
    known = [n for n in known if n not in ("id", "filepath")][:10]
    raise ValueError(
        f"{argument}: {name!r} is no field with one string, number or truth value per sample; "
        f"for example: {', '.join(known) or 'the dataset has none'}"
    )
