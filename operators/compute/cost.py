"""What heatmaps cost: methods as a multiple of a prediction, and what a prediction took on this machine."""

import functools
import socket

from ..models import preview, zoo
from ..runs import record

#: how often smoothing repeats a method; larger images cost more than their number
_AROUND = {"aug": 6, "noise": 8, "multiscale": 6}
# A network is tried without its weights: as long as it needs so few parameters and has a usual input.
_MOST_PARAMETERS = 100_000_000
_SIDE = 224


def times_of(methods, targets=1, layers=1):
    """What methods cost together as a multiple of a prediction.

    Args:
        methods: as ``cam_core.methods.catalogue.resolve_methods`` returns them
        targets (1): classes that are explained of an image
        layers (1): target layers

    Returns:
        a float, 1 where the one pass is all
    """
    return 1.0 + targets * sum(extra_of(method, layers) for method in methods)


def extra_of(method, layers=1):
    """What one method costs beside the pass that all share, as a multiple of a prediction."""
    around = 1
    for name in method.smooth:
        around *= _AROUND.get(name, 1)
    if around > 1:
        return method.info.times * around * layers
    return (method.info.times - 1) * layers


def measured(seconds, images, plan):
    """Seconds that a prediction of one image took in a run.

    Args:
        seconds: of the run
        images: explained in it
        plan: the run's :class:`~operators.compute.plan.Plan`

    Returns:
        a float; None where nothing was explained
    """
    from ...cam_core.methods.catalogue import resolve_methods

    if not images or not seconds:
        return None
    times = times_of(resolve_methods(plan.methods), len(plan.tags) or 1, len(plan.layers or [1]))
    return seconds / images / times


def seconds_per_prediction(model, device=None):
    """Seconds that a prediction of one image takes on this machine, as it was measured.

    Of the newest CAM run of the model on this machine, whatever its dataset. Without one its network is
    tried without weights, on one image of 224 x 224 pixels.

    Args:
        model: its name; None where the record has none
        device (None): a device's name; by default whichever it ran on

    Returns:
        a float, or None where neither is possible
    """
    if model is None:
        return None
    query = {
        "config.method": record.METHOD,
        "config.settings.model": model,
        "config.host": socket.gethostname(),
        "config.progress.prediction_seconds": {"$gt": 0},
    }
    if device:
        query["config.settings.device"] = str(device)
    newest = record.db().runs.find_one(query, {"config.progress": True}, sort=[("_id", -1)])
    if newest is not None:
        return newest["config"]["progress"]["prediction_seconds"]
    return _tried(model, str(device) if device else None)


@functools.lru_cache(maxsize=64)
def _tried(model, device):
    """Seconds of a forward of a network without its weights; None where it cannot be tried."""
    import copy
    import time

    import torch

    adapted = preview.build_without_weights(model)
    if adapted is None or preview.kind_of_name(model) not in (zoo.CLASSIFIER, zoo.SEGMENTER):
        return None
    if sum(p.numel() for p in adapted.module.parameters()) > _MOST_PARAMETERS:
        return None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        module = copy.deepcopy(adapted.module).to_empty(device=device).eval()
        with torch.inference_mode():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.zero_()
            image = torch.zeros(1, 3, _SIDE, _SIDE, device=device)
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                module(image)
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
    except Exception:  # an architecture of others with another input: its cost is not known then
        return None
    return seconds
