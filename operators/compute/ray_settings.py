"""What can be said of a run on Ray's workers before it is planned, and what its record says of them."""

import importlib

_INSTALL = "pip install -r requirements-ray.txt"


def check(settings):
    """Raises a ValueError unless a run can be given to Ray, as far as that shows before its plan.

    Args:
        settings: the :class:`Settings`, with ``backend="ray"``
    """
    library()
    if settings.num_workers == 0:
        raise ValueError("num_workers: backend='ray' needs one worker at least, got 0")
    if _on_gpus(settings):
        if settings.device not in (None, "", "auto") and not settings.device.startswith("cuda"):
            raise ValueError(
                f"device: {settings.device!r}, but resources asks for GPUs; leave one of them out"
            )
        if not _has_gpu() and "auto" in (settings.precision, settings.batch_size):
            raise ValueError(
                "precision: this process has no GPU to choose with; name precision= and batch_size= for "
                "the workers' GPUs, for example precision='bfloat16', batch_size=64"
            )


def planning_device(settings):
    """The device that a run is planned on: with Ray of the workers' kind, if this process has one.

    Args:
        settings: the :class:`Settings`

    Raises:
        ValueError: if a run cannot be given to Ray, see :func:`check`
    """
    if settings.backend != "ray":
        return settings.device
    check(settings)
    if not _on_gpus(settings):
        return settings.device
    return (settings.device or "cuda") if _has_gpu() else "cpu"


def describe(settings, used, model):
    """Says in a run's settings what is the workers', not the driver's.

    Args:
        settings: the :class:`Settings`
        used: what :func:`operators.compute.plan.describe_run` returned; it is changed
        model: the :class:`LoadedModel`

    Raises:
        ValueError: if the model is on a GPU and the workers have none
    """
    if model.device.type == "cuda" and not _on_gpus(settings):
        raise ValueError(
            "resources: the model runs on a GPU here, so give the workers theirs, resources={'GPU': 1}, or "
            "device='cpu'"
        )
    used["device"] = "cuda" if _on_gpus(settings) else str(model.device)
    used["versions"]["threads"] = threads_of(settings)


def _on_gpus(settings):
    return (settings.resources or {}).get("GPU", 0) > 0


def _has_gpu():
    import torch

    return torch.cuda.is_available()


def threads_of(settings):
    """The threads of a worker: as many as the CPUs that it asks for."""
    return max(1, int((settings.resources or {}).get("CPU", 1)))


def library():
    """Returns the module ``ray``, which is optional.

    Raises:
        ValueError: if it is not installed
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(
            f"backend: 'ray' needs Ray, which is not installed here: {_INSTALL}"
        ) from error
