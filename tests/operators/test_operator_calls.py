"""The operator called as the App, a queue and a notebook call it; zoo models by name."""

from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
import torchvision
from operators_common import operator
from processes_common import TESTS

pytestmark = pytest.mark.usefixtures("plugin")
ZOO_MODEL = "resnet18-imagenet-torch"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Random weights under the names that the zoo looks for, in temporary folders."""
    hub = tmp_path_factory.mktemp("hub")
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCH_HOME", str(hub))
    (hub / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, hub / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    folder = Path(fo.config.model_zoo_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resnet18-5c106cde.pth").write_text("only its existence is looked at")
    yield
    (folder / "resnet18-5c106cde.pth").unlink()
    patch.undo()


def test_zoo_model_by_name(photo_dataset, zoo):
    import fiftyone.zoo as foz

    shared = foz.load_zoo_model(ZOO_MODEL)
    training = [m.training for m in shared._model.modules()]
    hooks = [len(m._forward_hooks) for m in shared._model.modules()]
    dataset = photo_dataset(4)
    summary = operator()(dataset, model=ZOO_MODEL, progress=False)
    assert summary.cam_key == "resnet18"
    assert summary.done == 4
    label = dataset.first().resnet18_gradcam
    # The zoo's transform keeps the native size: a 512 x 384 photo has a grid of 16 x 12 cells.
    assert label.layer == "layer4"
    assert label.target in shared.classes
    assert [m.training for m in shared._model.modules()] == training
    assert [len(m._forward_hooks) for m in shared._model.modules()] == hooks


def test_loaded_fiftyone_model(photo_dataset, zoo):
    import fiftyone.zoo as foz

    summary = operator()(
        photo_dataset(2), model=foz.load_zoo_model(ZOO_MODEL), cam_key="loaded", progress=False
    )
    assert summary.done == 2
    assert summary.settings["model_source"] == "fiftyone"


def test_as_the_app_calls_it(photo_dataset, zoo):
    dataset = photo_dataset(3)
    params = {"model": ZOO_MODEL, "methods": ["gradcam", "eigencam"], "targets": "classes"}
    params.update(class_names="goldfish; tench", cam_key="app", batch_size=0, advanced=True)
    foo.execute_operator(
        "@cam51/heatmaps/compute_cams", ctx={"view": dataset.limit(2), "params": params}
    )
    assert len(dataset.exists("app_eigencam")) == 2
    assert dataset.get_run_info("app").config.settings["origin"] == "app"


def test_wrong_input_of_the_form_is_an_error(photo_dataset, zoo):
    dataset = photo_dataset(1)
    params = {
        "model": ZOO_MODEL,
        "methods": ["gradcam"],
        "layers": ["nowhere"],
        "cam_key": "bad",
        "targets": "predicted",
    }
    with pytest.raises(foo.executor.ExecutionError):
        foo.execute_operator(
            "@cam51/heatmaps/compute_cams", ctx={"dataset": dataset, "params": params}
        )
    assert not dataset.list_runs()


def test_delegated(photo_dataset, zoo):
    from fiftyone.operators.delegated import DelegatedOperationService

    dataset = photo_dataset(3)
    methods, targets = ["gradcam", ("eigencam", {"component": 2})], ["tench", "goldfish"]
    given = dict(methods=methods, targets=targets, layers="layer3", seed=7)
    queued = operator()(dataset.limit(2), model=ZOO_MODEL, cam_key="later", delegate=True, **given)
    assert queued.delegated
    assert not dataset.list_runs()
    service = DelegatedOperationService()
    service.execute_queued_operations(operator="@cam51/heatmaps/compute_cams", limit=1)
    run = service.get(queued.result["id"] if isinstance(queued.result, dict) else queued.result.id)
    assert run.run_state == "completed", run.result and run.result.error
    assert len(dataset.exists("later_gradcam_tench")) == 2
    used = dataset.get_run_info("later").config.settings
    assert (used["origin"], used["layers"], used["seed"]) == ("delegated", ["layer3"], 7)
    assert used["methods"] == ["gradcam", ["eigencam", {"component": 2}]]


def test_what_cannot_be_delegated_is_said(photo_dataset):
    with pytest.raises(ValueError, match="model cannot be sent to another process"):
        operator()(photo_dataset(1), model=torch.nn.Conv2d(3, 3, 1), delegate=True)


NOTEBOOK = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
import asyncio; assert asyncio.get_running_loop()
import fiftyone as fo
from operators_common import compute, operator
dataset = fo.load_dataset({name!r})
summary = compute(dataset)
print("summary:", summary.done, summary.fields)
operator("show_heatmaps")(dataset, "run", n=2)
"""


def test_in_a_notebook(photo_dataset):
    """A kernel has a running loop: the call still returns a finished summary, and the figure shows."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    dataset = photo_dataset(2)
    dataset.persistent = True  # another process opens it
    tests = TESTS
    source = NOTEBOOK.format(tests=str(tests), root=str(tests.parent), name=dataset.name)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=240).execute()
    outputs = notebook.cells[0].outputs
    text = "".join(o.get("text", "") for o in outputs)
    assert "summary: 2 ['run_gradcam', 'run_prediction']" in text
    assert any("image/png" in o.get("data", {}) for o in outputs)


@pytest.mark.parametrize("targets", ["top_5", [3], lambda out: out[:, 0]])
def test_targets_that_the_queue_has_no_word_for(photo_dataset, targets):
    with pytest.raises(ValueError, match="targets cannot be sent to another process"):
        operator()(photo_dataset(1), model=ZOO_MODEL, targets=targets, delegate=True)
