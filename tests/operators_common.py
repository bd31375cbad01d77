"""What the tests of the operators share: the operator through FiftyOne's loader, and a small network."""

import importlib

import torch
import torchvision
import torchvision.transforms as T

from tools.app_driver import wait_for

PLUGIN = "fiftyone.plugins.orgs.cam51.heatmaps"
CLASSES = [f"kind {i}" for i in range(10)]


def operator(name="compute_cams"):
    """An operator as users get it."""
    import fiftyone.operators as foo

    return foo.get_operator(f"@cam51/heatmaps/{name}")


def small_network(seed=0):
    """A ResNet-18 with few classes and random weights, made deterministic by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torchvision.models.resnet18(num_classes=len(CLASSES)).eval()


def transforms(size=64):
    """The whole picture, resized to a square."""
    return T.Compose([T.Resize((size, size)), T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)])


def prepared(job, samples, settings, model, transforms=None, classes=None, origin=None):
    """A job of this class, as its operator would make it of a call that gives a model."""
    given = importlib.import_module(f"{PLUGIN}.operators.compute.recorded_model").GivenModel
    return job(samples, settings, given(model, transforms, classes=classes), origin).prepare()


def compute(samples, **arguments):
    """``compute_cams`` with the small network unless another model is named."""
    arguments = {"model": None, "cam_key": "run", "progress": False, **arguments}
    if arguments["model"] is None:
        arguments.update(model=small_network(), transforms=transforms(), classes=CLASSES)
    return operator()(samples, **arguments)


def groups_of(dataset):
    """The groups of the sidebar that are not FiftyOne's own: ``{name: paths}``."""
    import fiftyone as fo

    default = {group.name for group in fo.DatasetAppConfig.default_sidebar_groups(dataset)}
    groups = dataset.app_config.sidebar_groups or []
    return {group.name: list(group.paths) for group in groups if group.name not in default}


def leases_of(monkeypatch):
    """The leases of the computations that begin from now on."""
    lease = importlib.import_module(f"{PLUGIN}.operators.runs.lease").RunLease
    found, real = [], lease.__enter__
    monkeypatch.setattr(lease, "__enter__", lambda self: found.append(self) or real(self))
    return found


def stop_and_wait(dataset, lease):
    """Asks the run "run" to stop, and waits until the computation has read that."""
    operator("stop_cam_run")(dataset, "run")
    lease.send_now()
    wait_for(lambda: lease._stop, 90, "it has read that it is to stop")
