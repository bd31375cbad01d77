"""A run once more, on other samples or to its end, with the settings of its record."""

from ..models import load
from ..runs import keys, provenance
from ..runs import record as run_record
from .params import DECISIVE, PARAMS, Settings
from .recorded_model import GivenModel, completed, is_function, to_give
from .source import OF_GROUPS, OF_VIDEOS

# Of another dataset or machine these may differ, and the numbers stay the same.
_MAY_DIFFER = ("output_dir", "batch_size", "device")


def rerun_job(
    samples, cam_key, new_key=None, *, source=None, resume=False, origin=None, said=None, methods=None,
    targets=None,
):  # fmt: skip
    """Builds the job that does again what a run did.

    Args:
        samples: a dataset or view of images
        cam_key: the key of the run whose settings are used
        new_key (None): the key of the new run; ``cam_key``, counted up
        source (None): the dataset that has the run; by default that of the samples
        resume (False): whether to resume the run itself, under its own key
        origin (None): what the record says about where it was started
        said (None): a :class:`GivenModel`, what the record of the run cannot hold of the model
        methods (None): where the record cannot hold them: functions
        targets (None): likewise

    Returns:
        a :class:`CamJob`, prepared

    Raises:
        ValueError: if there is no such run, if something must be given, or if what is given is not what
            the run had; nothing was written then
    """
    from ..data.samples import check_collection
    from .job import CamJob

    check_collection(samples)
    dataset = samples._root_dataset
    source = source or dataset
    run_record.refresh(source)
    then = run_record.config_of(source, cam_key).settings
    said = said or GivenModel()
    reason = load.unregistered_name(then) if said.model is None else None
    if reason is not None:
        listed = " and ".join(f"{name}=" for name in to_give(then)[1:])
        raise ValueError(f"model: {reason}; or give model= again{listed and f', with {listed}'}")
    model = completed(then, cam_key, said)
    arguments = {**_arguments(then, methods=methods, targets=targets), **model.options}
    # Which frames or slices were chosen is taken over where these samples have such.
    others = {"video": OF_GROUPS, "group": OF_VIDEOS}.get(samples.media_type, OF_VIDEOS + OF_GROUPS)
    arguments = {name: value for name, value in arguments.items() if name not in others}
    if resume:
        if new_key not in (None, cam_key) or source is not dataset:
            raise ValueError("resume: a run is resumed under its own key, on its own dataset")
        arguments.update(cam_key=cam_key, resume=True, output_dir=then.get("output_dir"))
    else:
        arguments["cam_key"] = new_key or keys.next_key(dataset, cam_key)
    job = CamJob(samples, Settings(**arguments), model, origin).prepare()
    names = [name for name in DECISIVE if name not in _MAY_DIFFER]
    different = provenance.differences(then, job.used, names)
    if different:
        raise ValueError(
            f"cam_key: this is not what the run {cam_key!r} did ({'; '.join(different)}); give what it "
            "had, or call compute_cams with settings of your own"
        )
    return job


def _arguments(then, **given):
    arguments = {p.name: then[p.name] for p in PARAMS if p.rerun and p.name in then}
    arguments["memory_format"] = provenance.memory_format(then)
    arguments["layers"] = then.get("layers") or None
    for name, value in given.items():
        arguments[name] = _stored(name, then[name], then) if value is None else value
    # Before there was a choice, places were taken from shapes.
    arguments["measure_places"] = bool(then.get("measure_places"))
    return arguments


def _stored(name, value, then):
    """Methods or targets of a record; raises a ValueError where they were functions."""
    if name == "methods":
        names = {text.rpartition(" ")[0] for text in then.get("code", [])}
        own = [m if isinstance(m, str) else m[0] for m in value]
        functions = [m for m in own if m in names]
        methods = [m if isinstance(m, str) else tuple(m) for m in value]
    else:
        items = value if isinstance(value, list) else [value]
        functions = [t for t in items if is_function(t)]
        methods = value
    if functions:
        raise ValueError(
            f"{name}: the run used the function {functions[0]!r}, which its record cannot hold; "
            f"give {name}="
        )
    return methods
