"""The model of a run, built again from the run's record: what a run was told holds in every follow-up.

Names, numbers and class names are taken from the record. Modules and functions cannot be recorded:
they are given again, and what is given again may not contradict the record.
"""

import dataclasses
import inspect

from ..models import load as model_load
from ..models import zoo
from ..models.unwrap import PathTransforms, given_transforms
from ..runs import provenance
from ..targets.spec import texts_of
from .params import MODEL, MODEL_OPTIONS, describe

# More names than these are not recorded: a record is read whenever runs are listed.
_MOST_NAMES = 5_000


@dataclasses.dataclass
class GivenModel:
    """What a call says about the model; None is taken from the run's record, where there is a run.

    Attributes:
        model: see ``model_load.load_model``
        transforms: maps a PIL image to a tensor
        preprocess: instead of transforms: maps an image's path to a tensor
        classes: class names
        device: a torch device
        options: of ``cam_core.adapt``, see :data:`operators.compute.params.MODEL_OPTIONS`
        texts: prompts that the run explains, the classes of a zero-shot model that has none
    """

    model: object = None
    transforms: object = None
    preprocess: object = None
    classes: object = None
    device: object = None
    options: dict = dataclasses.field(default_factory=dict)
    texts: tuple = ()

    @classmethod
    def split(cls, arguments):
        """Splits the arguments of an operator into what they say about the model, and the rest.

        Args:
            arguments: a dict

        Returns:
            a :class:`GivenModel` and a dict, which has the device too
        """
        rest = dict(arguments)
        own = {param.name: rest.pop(param.name, None) for param in MODEL}
        options = {name: rest.pop(name) for name in MODEL_OPTIONS if name in rest}
        options = {name: value for name, value in options.items() if value is not None}
        return cls(**own, device=rest.get("device"), options=options), rest

    def load(self):
        """Loads the model without a run; raises a ValueError where that cannot be."""
        return model_load.load_model(
            self.model, self.transforms, self.classes, self.device, self.preprocess, self.texts,
            **self.options,
        )  # fmt: skip


def describe_given(model, transforms, classes, options):
    """What a run's record says of the arguments that were given beside the model.

    Args:
        model: the :class:`LoadedModel`
        transforms: as given, or None
        classes: as given, or None
        options: of the model, as given

    Returns:
        a dict: ``given``, the arguments that have to be given again, because a record cannot hold
        them; ``class_names``; ``option_code``, what identifies options that are functions; and what
        the model says of its outputs where nobody was asked
    """
    functions = {name: value for name, value in options.items() if is_function(describe(value))}
    given, used = [], {}
    if functions:
        used["option_code"] = {name: _code(value) for name, value in functions.items()}
    if transforms is not None:
        given.append("preprocess" if _takes_path(transforms) else "transforms")
    if classes is not None and len(classes) <= _MOST_NAMES:
        used["class_names"] = _recorded_names(model, classes)
    elif classes is not None:
        given.append("classes")
    used["given"] = given
    adapted = model.adapted
    if getattr(adapted, "multi_label", False):
        used.update(multi_label=True, threshold=adapted.threshold)
    return used


def _recorded_names(model, classes):
    if model.kind == zoo.ZERO_SHOT and isinstance(classes, dict):
        # pairs: a key of a document may not hold a dot
        return {"prompts": [[str(name), describe(texts)] for name, texts in classes.items()]}
    names = (model.classes or classes) if isinstance(classes, dict) else classes
    return [str(name) for name in names]


def recorded_classes(used):
    """The classes that a run was given, or None.

    Args:
        used: the settings in a run's record
    """
    names = used.get("class_names")
    if isinstance(names, dict):
        return dict(names["prompts"])
    return names


def load_recorded(used, cam_key, given, argument="model"):
    """Loads the model of a run with everything that the run was told about it.

    Args:
        used: the settings in the run's record
        cam_key: the run's key
        given: the :class:`GivenModel` of the call
        argument ("model"): what the model is called in messages

    Returns:
        a :class:`LoadedModel`

    Raises:
        ValueError: if something has to be given again, or contradicts the record
    """
    check_whole(used, cam_key)
    complete = completed(used, cam_key, given, argument)
    loaded = complete.load()
    check_same(used, cam_key, loaded)
    return loaded


def check_whole(used, cam_key):
    """Raises a ValueError where a run explains crops of objects, which are no samples.

    Args:
        used: the settings in the run's record
        cam_key: the run's key
    """
    field = used.get("patches_field")
    if field is not None:
        raise ValueError(
            f"cam_key: the run {cam_key!r} explains crops of the objects in {field!r}, and this takes runs of whole "
            "images; compute one"
        )


def completed(used, cam_key, given, argument="model"):
    """What a call says about a run's model, with the rest from the record.

    Args:
        used: the settings in the run's record
        cam_key: the run's key
        given: the :class:`GivenModel` of the call
        argument ("model"): what the model is called in messages

    Returns:
        a :class:`GivenModel`

    Raises:
        ValueError: if something has to be given again, or contradicts the record
    """
    model = _model(used, cam_key, given, argument)
    options = options_of_run(used, cam_key, given.options)
    transforms = _transforms(used, cam_key, given)
    classes = given.classes
    if classes is None:
        classes = recorded_classes(used)
        if classes is None and "classes" in (used.get("given") or ()):
            raise ValueError(
                f"classes: the run {cam_key!r} was computed with {used.get('classes')}, too many to be "
                "recorded; give classes= again"
            )
    texts = tuple(texts_of(used.get("targets") or "predicted"))
    return GivenModel(model, transforms, None, classes, given.device, options, texts)


def _model(used, cam_key, given, argument):
    if given.model is not None:
        return given.model
    reason = model_load.unregistered_name(used)
    if reason is None:
        return used["model"]
    more = [n for n in to_give(used)[1:] if getattr(given, n, given.options.get(n)) is None]
    beside = f", with {' and '.join(f'{name}=' for name in more)}" if more else ""
    raise ValueError(f"{argument}: of the run {cam_key!r}, {reason}; pass model= again{beside}")


def to_give(used):
    """The arguments that a follow-up of a run has to be given, because the record cannot hold them.

    Args:
        used: the settings in the run's record

    Returns:
        a list of names, empty where the App can load the model by itself
    """
    given = used.get("given")
    names = sorted(name for name in MODEL_OPTIONS if is_function(used.get(name)))
    if model_load.unregistered_name(used) is not None:
        # of a record from before this was noted: a plain module needs both
        more = ["transforms", "classes"] if given is None else given
        return ["model", *more, *names]
    return [*(given or []), *names]


def is_function(recorded):
    """Whether a recorded value is the description of what a record cannot hold."""
    return isinstance(recorded, str) and recorded.startswith("<") and recorded.endswith(">")


def options_of_run(used, cam_key, given):
    """The options that a run's model is loaded with.

    Args:
        used: the settings in the run's record
        cam_key: the run's key
        given: options that the call gave

    Returns:
        a dict for ``load_model``

    Raises:
        ValueError: if one has to be given again, or is another than the run's
    """
    found = {}
    for name in MODEL_OPTIONS:
        then, now = used.get(name), given.get(name)
        if now is None and is_function(then):
            raise ValueError(
                f"{name}: the run {cam_key!r} was computed with {name}={then}, which its record cannot "
                f"hold; give {name}= again"
            )
        if now is not None:
            said = _standard(name) if then is None else then
            if not _alike(used, name, said, now):
                raise ValueError(
                    f"{name}: the run {cam_key!r} was computed with {said!r}, and this call says "
                    f"{describe(now)!r}; leave {name}= out, or compute a run with it"
                )
        if then is not None:
            found[name] = then if now is None else now
    return found


def _alike(used, name, then, now):
    """Whether an option is that of the run; functions are compared by what they do."""
    code = (used.get("option_code") or {}).get(name)
    if code is not None and callable(now):
        return code == _code(now)
    return describe(now) == describe(then)


def _code(function):
    return " ".join(provenance.describe_code([function])) or describe(function)


def _standard(name):
    """What an option is where nobody gives it."""
    from ...cam_core import adapt

    own = inspect.signature(adapt).parameters.get(name)
    return None if own is None else own.default


def _takes_path(transforms):
    return bool(getattr(transforms, "takes_path", False))


def _transforms(used, cam_key, given):
    """The transforms to load the model with; a run's preprocess= may be given as transforms=, too."""
    transforms = given_transforms(given.transforms, given.preprocess)
    asked = [n for n in used.get("given") or () if n in ("transforms", "preprocess")]
    if transforms is None:
        if asked:
            raise ValueError(
                f"{asked[0]}: the run {cam_key!r} was computed with {asked[0]}={_named(used)}, which its "
                f"record cannot hold; give {asked[0]}= again"
            )
        return None
    if asked == ["preprocess"] and not _takes_path(transforms):
        read = PathTransforms(transforms)
        if _text(read) != used.get("transforms"):
            raise ValueError(
                f"transforms: the run {cam_key!r} was computed with preprocess={_named(used)}, which reads "
                f"the files itself, and this call gives transforms={_short(transforms)}; give preprocess="
            )
        return read
    return transforms


def _text(transforms):
    return provenance.describe_transforms(transforms)["transforms"]


def _named(used):
    """The recorded transforms in a few words."""
    text = (used.get("transforms") or "").removeprefix("PathTransforms(")
    cut = text[:-1] if text != used.get("transforms") else text
    return _short(cut)


def _short(value):
    text = " ".join(provenance.without_addresses(str(value)).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_same(used, cam_key, model):
    """Raises a ValueError unless a loaded model has the transforms and class names of a run.

    Args:
        used: the settings in the run's record
        cam_key: the run's key
        model: the :class:`LoadedModel`
    """
    then, now = used.get("classes"), provenance.describe_classes(model.classes)
    if then is not None and now is not None and then != now:
        had = recorded_classes(used)
        said = then if had is None else f"{len(had)} names ({_short(', '.join(map(str, had)))})"
        raise ValueError(
            f"classes: the run {cam_key!r} was computed with {said}, and this model has "
            f"{len(model.classes)} ({_short(', '.join(map(str, model.classes)))}); "
            + ("leave classes= out" if had is not None else "give classes= as then")
        )
    if "transforms" not in used:
        return  # a record from before they were described
    described = provenance.describe_transforms(model.transforms)
    checks = used.get("transforms_check"), described["transforms_check"]
    alike = checks[0] == checks[1] if None not in checks else None
    if alike is None:
        alike = used["transforms"] == described["transforms"]
    if not alike:
        raise ValueError(
            f"transforms: the run {cam_key!r} was computed with {_short(used['transforms'])}, and this call "
            f"has {_short(described['transforms'])}, which makes something else of a picture; give those of "
            "the run, or compute a run with these"
        )


def is_reloadable(settings):
    """Whether the model of a run can be loaded again by the name in the run's record.

    Args:
        settings: the settings in the record, with ``model`` and ``model_source``
    """
    return unregistered(settings) is None


def unregistered(settings):
    """Says why the model of a run cannot be built from the run's record, where the App needs it.

    Args:
        settings: the settings in a run's record, with ``model`` and ``model_source``

    Returns:
        a string that says what to do, or None if it can
    """
    reason, name = model_load.unregistered_name(settings), settings.get("model")
    if reason is not None:
        return reason
    lost = to_give(settings)
    if not lost:
        return None
    listed = " and ".join(f"{argument}=" for argument in lost)
    return (
        f"the run was computed with {listed} from Python, which its record cannot hold, so the model "
        f"{name!r} cannot be used here as it was then"
    )
