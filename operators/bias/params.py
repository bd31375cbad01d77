"""What ``find_background_bias`` is told to do: every argument checked before the first sample."""

import dataclasses
import os
import tempfile

import fiftyone as fo

from ..compute.params import PRECISIONS, describe
from ..jobs.params import check_choice, check_positive

#: samples that are tested unless more are asked for
PROBE = 2000
#: of which so many get noise on object and background, spread over the classes
NOISY = 200


@dataclasses.dataclass
class RegionSettings:
    """The arguments of ``test_region``, checked; see there for their meaning."""

    region: object = "hottest"
    cam_key: str = None
    targets: object = "predicted"
    labels: str = "auto"
    probe: object = "auto"
    donors: int = 4
    feather: float = 2
    scenes: str = None
    batch_size: object = "auto"
    num_workers: int = None
    device: str = None
    precision: str = "float32"
    seed: int = 51

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        _check_shared(self)


@dataclasses.dataclass
class BiasSettings:
    """The arguments of ``find_background_bias``, checked; see there for their meaning."""

    cam_key: str = None
    methods: object = None
    targets: object = "predicted"
    layers: object = None
    objects: object = "auto"
    object_classes: object = "auto"
    aliases: dict = None
    labels: str = "auto"
    probe: object = "auto"
    donors: int = 4
    most_donors: int = 32
    control: bool = True
    noise: bool = True
    feather: float = 2
    group_by: str = None
    scenes: str = None
    views: bool = True
    tags: bool = False
    report: str = None
    batch_size: object = "auto"
    num_workers: int = None
    device: str = None
    precision: str = "auto"
    overwrite: bool = False
    seed: int = 51

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        _check_shared(self)
        check_positive("most_donors", self.most_donors, high=64)
        for name in ("control", "noise", "views", "tags", "overwrite"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.aliases is not None and not isinstance(self.aliases, dict):
            raise ValueError(
                "aliases must be a dict {class of the model: label or labels of the dataset}, got "
                f"{type(self.aliases).__name__}"
            )
        if self.report is not None:
            self.report = checked_folder("report", self.report)

    def describe(self):
        """Returns the settings as JSON-able values, for the run record."""
        return {f.name: describe(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _check_shared(settings):
    """What both operators have: how many, and how they are computed."""
    check_positive("donors", settings.donors, high=64)
    if settings.probe != "auto":
        check_positive("probe", settings.probe, low=2)
    if settings.batch_size != "auto":
        check_positive("batch_size", settings.batch_size)
    if settings.num_workers is not None:
        check_positive("num_workers", settings.num_workers, low=0)
    check_choice("precision", settings.precision, PRECISIONS)
    feather = settings.feather
    if isinstance(feather, bool) or not isinstance(feather, (int, float)) or not 0 <= feather <= 64:
        raise ValueError(f"feather must be a number of pixels between 0 and 64, got {feather!r}")
    if not isinstance(settings.seed, int) or isinstance(settings.seed, bool) or settings.seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {settings.seed!r}")


def checked_folder(name, folder):
    """Returns the absolute path of a folder that exists or can be made; makes nothing.

    Raises:
        ValueError: if it cannot
    """
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise ValueError(f"{name} must be the path of a folder, got {folder!r}")
    path = above = os.path.abspath(os.path.expanduser(os.fspath(folder)))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
        raise ValueError(f"{name}: nothing can be written to {path!r}: {above!r} does not allow it")
    return path


def make_folder(name, path):
    """Makes a folder and tries to write into it.

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
