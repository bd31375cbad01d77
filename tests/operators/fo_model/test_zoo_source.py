"""The repository as a remote source of FiftyOne's model zoo: registered, applied by form, from a queue."""

import functools
import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.zoo as foz
import numpy as np
import pytest
from operators_common import CLASSES, operator
from PIL import Image
from processes_common import ROOT, run_python
from zoo_source_common import BASE, NAME, pack, plant_operator

from tools.app_driver import plant_resnet18


@pytest.fixture(scope="module")
def source(plugin, tmp_path_factory):
    """The URL of a source that is registered, in a zoo that has a ResNet-18 of random weights."""
    folder, patch = tmp_path_factory.mktemp("zoo"), pytest.MonkeyPatch()
    plant_resnet18(folder / "models")
    pack(folder)
    patch.setenv("TORCH_HOME", str(folder / "models" / "torch"))
    patch.setenv("FIFTYONE_MODEL_ZOO_DIR", str(folder / "models"))
    patch.setattr(fo.config, "model_zoo_dir", str(folder / "models"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/heatmaps.zip"
        foz.register_zoo_model_source(url)
        yield url
        server.shutdown()
    patch.undo()


@pytest.fixture
def pictures(make_dataset, tmp_path):
    samples = []
    for number, size in enumerate([(224, 300), (240, 230), (300, 224)]):
        path = tmp_path / f"{number}.png"
        values = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
        label = fo.Classification(label=["goldfish", "tench", CLASSES[0]][number])
        samples.append(fo.Sample(filepath=str(path), ground_truth=label))
    return make_dataset(*samples)


def same_maps(dataset, one, other):
    pairs = zip(dataset.values(f"{one}.map"), dataset.values(f"{other}.map"), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_source_has_a_model_that_explains_others(source, pictures):
    assert foz.list_zoo_models(source=source) == [NAME]
    # FiftyOne makes a module's name of it, and of one with a dot the outer package is imported, which is none
    assert not set("/.") & set(json.loads((ROOT / "manifest.json").read_text())["name"])
    with pytest.raises(ValueError, match="base: say which model is explained"):
        foz.load_zoo_model(NAME)
    with pytest.raises(ValueError, match="did you mean gradcam"):
        foz.load_zoo_model(NAME, base=BASE, methods="gradcamm")
    with pytest.raises(TypeError, match="colour"):
        foz.load_zoo_model(NAME, base=BASE, colour="red")
    model = foz.load_zoo_model(NAME, base=BASE, methods=["gradcam", "eigencam"])
    assert isinstance(model, fo.Model)
    pictures.apply_model(model, label_field="heat", batch_size=1)
    arguments = {"methods": ["gradcam", "eigencam"], "batch_size": 1, "progress": False}
    operator()(pictures, model=BASE, cam_key="run", **arguments)
    assert same_maps(pictures, "heat_gradcam", "run_gradcam")
    assert same_maps(pictures, "heat_eigencam", "run_eigencam")


def test_a_loader_finds_the_source_in_another_process(source, pictures, tmp_path):
    reader = foz.load_zoo_model(NAME, base=BASE).build_get_item()
    (tmp_path / "reader.pickle").write_bytes(pickle.dumps(reader))
    path = pictures.first().filepath
    code = (
        "import pickle, sys; read = pickle.load(open(sys.argv[1], 'rb'));"
        "print(tuple(read({'id': 'a', 'filepath': sys.argv[2]}).image.shape))"
    )
    out = run_python(code, str(tmp_path / "reader.pickle"), path)
    assert out.splitlines()[-1] == str(tuple(reader({"id": "a", "filepath": path}).image.shape))


@pytest.fixture(scope="module")
def apply_zoo_model(source):
    """The URI of an operator that does what FiftyOne's own form does."""
    folder = Path(fo.config.plugins_dir) / "apply"
    shutil.rmtree(folder, ignore_errors=True)
    plant_operator(folder)
    yield "@tests/zoo/apply_zoo_model"
    shutil.rmtree(folder)


def entered(**remote):
    return {"model": NAME, "label_field": "heat", "remote_params": {"base": BASE, **remote}}


def test_the_form_has_its_inputs(apply_zoo_model, pictures):
    context = foo.executor.ExecutionContext(
        {
            "dataset_name": pictures.name,
            "params": entered(targets="named", base="resnet18-imagenet"),
        }
    )
    form = foo.get_operator(apply_zoo_model).resolve_input(context).type
    own = form.properties["remote_params"].type.properties
    assert list(own) == ["base", "methods", "targets", "names", "layers"]
    assert own["base"].invalid
    assert "did you mean resnet18-imagenet-torch" in own["base"].error_message
    other = {"base": "another_model", "other_base": " timm:resnet18 "}
    context.params["remote_params"] = other
    form = foo.get_operator(apply_zoo_model).resolve_input(context).type
    named = form.properties["remote_params"].type.properties["other_base"]
    assert not named.invalid
    foz.get_zoo_model(NAME).parse_parameters(context, other)
    assert other.pop("samples").values("id") == pictures.values("id")
    assert other == {"base": "timm:resnet18"}
    context.params["remote_params"] = {"base": BASE}
    form = foo.get_operator(apply_zoo_model).resolve_input(context).type
    own = form.properties["remote_params"].type.properties
    assert list(own) == ["base", "methods", "targets", "layers"]
    assert not own["base"].invalid
    assert {"gradcam", "layercam"} <= {c.value for c in own["methods"].view.choices}
    assert BASE in [choice.value for choice in own["base"].view.choices]


def test_it_is_applied_by_the_form_and_from_a_queue(apply_zoo_model, pictures):
    from fiftyone.operators.delegated import DelegatedOperationService

    params = entered(methods=["gradcam"], targets="named", names="goldfish", layers=["layer3"])
    foo.execute_operator(apply_zoo_model, {"dataset": pictures, "params": params})
    assert pictures.values("heat.layer") == ["layer3"] * 3
    assert pictures.values("heat.target") == ["goldfish"] * 3
    labels = {**entered(targets="named", names="ground_truth"), "label_field": "label"}
    foo.execute_operator(
        apply_zoo_model, {"view": pictures.view(), "params": labels}, request_delegation=True
    )
    service = DelegatedOperationService()
    service.execute_queued_operations(operator=apply_zoo_model, limit=1)
    operation = service.list_operations(operator=apply_zoo_model)[-1]
    assert operation.run_state == "completed", operation.result and operation.result.error
    pictures.reload()
    assert pictures.values("label.status") == ["ok", "ok", "label_unknown"]
    assert pictures.values("label.target")[:2] == ["goldfish", "tench"]
