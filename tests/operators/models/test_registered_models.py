"""A user's own models by name, and what a name may not do."""

import http.server
import importlib
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import models_common as nets
import numpy as np
import pytest
import torch
import torchvision
from operators_common import CLASSES, PLUGIN, operator, small_network, transforms
from PIL import Image
from processes_common import TESTS, run_python

save_file = pytest.importorskip("safetensors.torch").save_file
pytestmark = pytest.mark.usefixtures("plugin")
DISC = """
import sys; sys.path.insert(0, {tests!r})
from operators_common import CLASSES, small_network, transforms

TIMES = []

def best():
    TIMES.append(1)
    return small_network()

def whole():
    return small_network(), transforms(), CLASSES

def see(picture):
    return transforms()(picture)

def wrong():
    raise RuntimeError("no weights here")

NUMBER = 3
"""


def part(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture
def own():
    """The file of registered models, empty before and after."""
    module = part("models.registered")
    Path(module.path()).unlink(missing_ok=True)
    yield module
    Path(module.path()).unlink(missing_ok=True)


@pytest.fixture
def disc(tmp_path, monkeypatch):
    """A package of somebody's: ``disc.models``."""
    folder = tmp_path / "disc"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(DISC.format(tests=str(TESTS)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("disc.models")
    for name in [n for n in sys.modules if n.split(".")[0] == "disc"]:
        del sys.modules[name]


def new(name):
    """An operator as its class makes it."""
    return getattr(part("register_model"), name)()


def test_registered_once_loaded_by_name(own, disc, photo_dataset):
    new("RegisterModel")(
        "my disc", "disc.models:best", transforms="disc.models:see", classes=CLASSES
    )
    assert part("models.load").own_models() == ["my disc"]
    dataset = photo_dataset(2)
    summary = operator()(dataset, "my disc", progress=False)
    assert (summary.cam_key, summary.done) == ("my_disc", 2)
    assert (summary.settings["model"], summary.settings["model_source"]) == ("my disc", "name")
    plain = operator()(
        dataset,
        small_network(),
        transforms=transforms(),
        classes=CLASSES,
        cam_key="b",
        progress=False,
    )
    assert plain.done == 2
    for sample in dataset:
        # The window of a function is found by probing it, to a fraction of a pixel; 8 is one level.
        away = np.abs(sample.my_disc_gradcam.map.astype(int) - sample.b_gradcam.map)
        assert away.max() <= 9
        assert away.mean() < 0.2
        assert sample.my_disc_prediction.label == sample.b_prediction.label


def test_classes_as_a_dict_and_what_the_outputs_are(own, disc):
    register = new("RegisterModel")
    by_name = {name: i for i, name in reversed(list(enumerate(CLASSES)))}
    for classes in (dict(enumerate(CLASSES)), by_name):
        register(
            "a", "disc.models:best", transforms="disc.models:see", classes=classes, ends_in="logits",
            overwrite=True,
        )  # fmt: skip
        assert own.registered()["a"].classes == CLASSES
        assert own.registered()["a"].options == {"ends_in": "logits"}
        loaded = part("models.load").load_model("a")
        assert (loaded.classes, loaded.adapted.ends_in) == (CLASSES, "logits")
    with pytest.raises(ValueError, match="classes: .*index 0 has no name"):
        register("b", "disc.models:best", transforms="disc.models:see", classes={1: "x"})
    with pytest.raises(ValueError, match="background: is for segmentation networks"):
        register("b", "disc.models:best", transforms="disc.models:see", background=0)
    assert list(own.registered()) == ["a"]


def test_as_the_app_and_the_queue_name_it(own, disc, photo_dataset):
    new("RegisterModel")("disc", disc.whole)
    dataset = photo_dataset(1)
    params = {"model": "disc", "cam_key": "app"}
    foo.execute_operator("@cam51/heatmaps/compute_cams", ctx={"dataset": dataset, "params": params})
    assert len(dataset.exists("app_gradcam")) == 1
    choices = (
        part("forms.compute")
        .compute_cams_form(_context(dataset, {}))
        .type.properties["model"]
        .view.choices
    )
    assert choices[0].value == "disc"
    assert choices[0].label == "disc  (My models)"
    assert part("forms.compute").params_of({"model": "disc"})["model"] == "disc"


def test_forms_offer_what_the_server_allows(own, photo_dataset, monkeypatch):
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", "examples.lite0:lite0_model")
    form = part("forms.compute").compute_cams_form(_context(photo_dataset(1), {})).type
    first = form.properties["model"].view.choices[0]
    assert first.value == "examples.lite0:lite0_model"
    assert first.label == "examples.lite0:lite0_model  (allowed on this server)"


def _context(dataset, params):
    from fiftyone.operators.executor import ExecutionContext

    return ExecutionContext(request_params={"dataset_name": dataset.name, "params": params})


def test_nothing_of_it_runs_from_the_app(own, disc, photo_dataset):
    for name in ("RegisterModel", "RemoveModel"):
        with pytest.raises(ValueError, match="from Python on the server's machine only"):
            new(name).execute(
                _context(photo_dataset(1), {"name": "x", "loader": "disc.models:best"})
            )
    assert own.registered() == {}
    assert disc.TIMES == []


def test_removed_and_replaced(own, disc):
    register, remove = new("RegisterModel"), new("RemoveModel")
    register("disc", "disc.models:whole")
    with pytest.raises(ValueError, match="registered already; pass overwrite=True"):
        register("disc", "disc.models:whole")
    register("disc", "disc.models:best", transforms=disc.see, overwrite=True)
    assert own.registered()["disc"].transforms == "disc.models:see"
    rows = [row for row in new("ListModels")() if row["source"] == "registered"]
    assert rows == [{"name": "disc", "source": "registered", "yields": None, "refused": None}]
    remove("disc")
    assert own.registered() == {}
    with pytest.raises(ValueError, match="no model 'disc' is registered; there are: none"):
        remove("disc")


def test_file_is_its_owners_alone(own, disc):
    new("RegisterModel")("disc", "disc.models:whole")
    assert stat.S_IMODE(os.stat(own.path()).st_mode) == 0o600
    assert Path(own.path()).parent == Path(os.environ["FIFTYONE_CONFIG_PATH"]).parent
    assert json.loads(Path(own.path()).read_text()) == {
        "models": {"disc": {"loader": "disc.models:whole"}}
    }
    os.chmod(own.path(), 0o666)
    with pytest.raises(ValueError, match="others can write it and so run code here"):
        part("models.load").load_model("disc")
    os.chmod(own.path(), 0o600)
    Path(own.path()).write_text("[")
    with pytest.raises(ValueError, match="mend or delete it"):
        own.registered()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loader": "disc.models:none"}, "loader|model: 'disc.models:none' cannot be imported here"),
        ({"loader": "discs.models:best"}, "'discs.models:best' cannot be imported here: No module"),
        ({"loader": "disc.models:NUMBER"}, "is a int, not a function"),
        ({"loader": "disc.models:wrong"}, "RuntimeError: no weights here"),
        ({"loader": "disc.models:best"}, "transforms is required"),
        ({"loader": "no entry point"}, "give 'package.module:function'"),
        ({"loader": lambda: None}, "put the function into a module"),
        ({}, "give either loader="),
        ({"loader": "disc.models:whole", "architecture": "timm:resnet18"}, "give either loader="),
        ({"loader": "disc.models:whole", "checkpoint": "x.pt"}, "goes with an architecture"),
        ({"architecture": "resnet18"}, "architecture: 'resnet18' is not understood"),
        ({"architecture": "timm:resnet18", "checkpoint": "/no/where.pt"}, "there is no file '/no/where.pt'"),
        ({"loader": "disc.models:whole", "transforms": {"resize": 4}}, "transforms: .* a dict has resize"),
        ({"loader": "disc.models:whole", "classes": "cat"}, "classes: str is not understood; give a list of names"),
        ({"loader": "disc.models:whole", "task": "cooking"}, "task: 'cooking' is unknown"),
        ({"name": "../x", "loader": "disc.models:whole"}, "name: '../x' is no name"),
        ({"name": "resnet18-imagenet-torch", "loader": "disc.models:whole"}, "is a model of FiftyOne's zoo"),
    ],
)  # fmt: skip
def test_what_is_wrong_shows_when_it_is_registered(own, disc, arguments, message):
    with pytest.raises(ValueError, match=message):
        new("RegisterModel")(**{"name": "mine", **arguments})
    assert own.registered() == {}


def checkpoint(path, count=3, wrap=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = torchvision.models.resnet18(num_classes=count).eval()
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(wrap(state) if wrap else state, path)
    return network


@pytest.fixture
def picture(photos):
    return Image.open(photos[0]["path"]).convert("RGB")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_checkpoint_of_plain_tensors(own, tmp_path, name, picture):
    network = checkpoint(tmp_path / name)
    loaded = part("models.load").load_model(f"torchvision:resnet18@{tmp_path / name}")
    images = loaded.transforms(picture)[None]
    assert images.shape == (1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), network(images))
    new("RegisterModel")(
        "kept", architecture="torchvision:resnet18", checkpoint=tmp_path / name,
        classes=["a", "b", "c"], transforms={"resize": [48, 64], "mean": [0.5] * 3, "std": [0.25] * 3},
    )  # fmt: skip
    kept = part("models.load").load_model("kept")
    assert kept.classes == ["a", "b", "c"]
    assert kept.transforms(picture).shape == (3, 48, 64)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
    ],
)
def test_training_checkpoints_are_unwrapped(tmp_path, wrap):
    network = checkpoint(tmp_path / "w.pt", wrap=wrap)
    loaded = part("models.load").load_model(f"torchvision:resnet18@{tmp_path / 'w.pt'}")
    assert torch.equal(loaded.module.fc.weight, network.fc.weight)


def test_timm_checkpoint_with_its_own_number_of_classes(tmp_path, picture):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", num_classes=4).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    loaded = part("models.load").load_model(f"timm:resnet18@{tmp_path / 'w.safetensors'}")
    images = loaded.transforms(picture)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), network(images))
    assert loaded.kind == "classifier"


def test_segmentation_checkpoint(tmp_path, picture):
    build = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(weights=None, weights_backbone=None, num_classes=4).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    name = f"torchvision:lraspp_mobilenet_v3_large@{tmp_path / 'w.safetensors'}"
    loaded = part("models.load").load_model(name, classes=["background", "a", "b", "c"])
    assert loaded.kind == "segmentation network"
    images = loaded.transforms(picture)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images)["out"], network(images)["out"])


class Trap:
    """What a pickle can do: it leaves a file where it was opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_pickled_code_never_runs(own, tmp_path, form):
    sprung, path = tmp_path / "sprung", tmp_path / "w.pt"
    if form == "torch":
        torch.save({"fc.weight": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    for name in (f"torchvision:resnet18@{path}", f"timm:resnet18@{path}", f"torch:{path}"):
        with pytest.raises(ValueError, match="plain tensors|pickled model"):
            part("models.load").load_model(name)
    with pytest.raises(ValueError, match="more than plain tensors"):
        new("RegisterModel")("x", architecture="timm:resnet18", checkpoint=path)
    assert not sprung.exists()


def test_code_and_pickles_only_where_the_server_allows_that_very_name(
    own, disc, tmp_path, monkeypatch
):
    models = part("models.load")
    torch.save(small_network(), tmp_path / "whole.pt")
    pickled = f"torch:{tmp_path / 'whole.pt'}"
    for name in ("disc.models:whole", pickled):
        monkeypatch.setenv("CAM51_ALLOWED_MODELS", "disc.models, disc.models:wholes")
        with pytest.raises(ValueError, match="refused: .*CAM51_ALLOWED_MODELS='"):
            models.load_model(name, transforms=transforms())
        monkeypatch.setenv("CAM51_ALLOWED_MODELS", f"something:else, {name}")
        loaded = models.load_model(name, transforms=transforms())
        assert torch.equal(loaded.module.fc.weight, small_network().fc.weight)
        assert models.refusal(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "it names code"),
        ("torch:/etc/passwd", "it is a pickled model"),
        ("timm:hf-hub:somebody/net", "a repository is named hf:somebody/net"),
        ("timm:local-dir:/tmp/net", "only names of timm's own list"),
        ("timm:", "a name follows timm:, for example timm:resnet50"),
        ("hf:", "a name follows hf:"),
        (
            "torchvision:resnet18@/no/where.pt",
            "there is no checkpoint '/no/where.pt' on the server",
        ),
        ("hf:http://127.0.0.1:9/net", "no id of Hugging Face.*addresses are not fetched"),
        ("hf:https://evil.example/net", "addresses are not fetched"),
        ("hf:file:///etc", "addresses are not fetched"),
        ("hf:a/b/c", "no folder on this machine"),
        ("hf:../../no/where", "no folder on this machine"),
        ("hf:google/vit--base", "no id of Hugging Face"),
        ("timm:../resnet50", "is no name of an architecture"),
        ("timm:http://evil.example/net", "only names of timm's own list"),
        ("torchvision:resnet18/../x", "is no name of an architecture"),
        ("torchvision:resnet18@http://evil.example/w.pt", "there is no checkpoint 'http:"),
        ("hf:google/vit\nbase", "all of them printable"),
    ],
)
def test_refused_names(name, message):
    with pytest.raises(ValueError, match=f"model: {re.escape(repr(name))} is refused: .*{message}"):
        part("models.load").check_name(name)
    with pytest.raises(ValueError, match=message):
        part("models.load").load_model(name)


def test_no_address_is_fetched_for_a_name(plugin, monkeypatch):
    """A server that notes who comes: transformers 4 fetched what a name like this pointed at."""
    came = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/secret"
        for name in (
            f"hf:{address}",
            f"timm:{address}",
            f"torchvision:resnet18@{address}",
            address,
        ):
            with pytest.raises(ValueError, match="model: "):
                part("models.load").load_model(name)
            with pytest.raises(ValueError, match="model: "):
                part("models.load").check_name(name)
            part("models.preview").default_method(name)
            with pytest.raises(ValueError, match=r"model: |architecture: "):
                operator("register_model")("mine", architecture=name)
        server.shutdown()
    assert not came


def test_from_the_app_a_name_leads_to_no_other_folder(plugin, tmp_path, monkeypatch):
    models = part("models.load")
    zoo_dir = tmp_path / "zoo"
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(zoo_dir))
    inside, outside = nets.vit(zoo_dir / "net"), nets.vit(tmp_path / "net")
    checkpoint(zoo_dir / "w.pt")
    checkpoint(tmp_path / "w.pt")
    (zoo_dir / "link").symlink_to(outside)
    refused = [
        f"hf:{outside}", f"hf:{zoo_dir / 'link'}", f"hf:{zoo_dir}/../net", "hf:.", "hf:/",
        f"torchvision:resnet18@{tmp_path / 'w.pt'}", f"timm:resnet18@{zoo_dir}/../w.pt",
    ]  # fmt: skip
    for name in refused:
        with pytest.raises(
            ValueError, match="from the App only files in FiftyOne's folder of models"
        ):
            models.check_from_app(name)
        with pytest.raises(ValueError, match="from the App only"):
            models.check_from_app({"run": name})
    for name in (f"hf:{inside}", f"torchvision:resnet18@{zoo_dir / 'w.pt'}", "hf:google/vit", None):
        models.check_from_app(name)
    models.check_name(f"hf:{outside}")  # from Python
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", f"hf:{outside}")
    models.check_from_app(f"hf:{outside}")


def test_the_list_of_allowed_models_holds_for_every_scheme(plugin, tmp_path, monkeypatch):
    models = part("models.load")
    checkpoint(tmp_path / "w.pt")
    given = f"torchvision:resnet18@{tmp_path / 'w.pt'}"
    names = ["timm:resnet18", "torchvision:resnet18", "hf:google/vit-base-patch16-224", given]
    for name in names:
        models.check_name(name)
    monkeypatch.setenv("FIFTYONE_ZOO_ALLOWED_MODEL_NAMES", "resnet18-imagenet-torch, timm:resnet18")
    models.check_name("timm:resnet18")
    for name in names[1:]:
        with pytest.raises(
            ValueError, match="FIFTYONE_ZOO_ALLOWED_MODEL_NAMES lists; add it there"
        ):
            models.load_model(name)
    assert part("models.by_name").listed() == ["timm:resnet18"]
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", given)
    models.check_name(given)
    operator("register_model")(
        "mine", architecture="torchvision:resnet18", checkpoint=str(tmp_path / "w.pt")
    )
    assert models.load_model("mine").name == "mine"
    monkeypatch.delenv("FIFTYONE_ZOO_ALLOWED_MODEL_NAMES")
    monkeypatch.setenv("FIFTYONE_ZOO_ALLOWED_MODEL_LICENSES", "MIT")
    with pytest.raises(ValueError, match="its license is not known and is not among those"):
        models.check_name("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet19", "timm has no model 'resnet19'; resnet18"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; resnet"),
    ],
)
def test_misspelt_architectures(name, message):
    with pytest.raises(ValueError, match=message):
        part("models.load").load_model(name)


def test_tensors_of_another_architecture(tmp_path):
    checkpoint(tmp_path / "w.pt")
    with pytest.raises(ValueError, match="checkpoint: its tensors do not fit this architecture"):
        part("models.load").load_model(f"torchvision:resnet34@{tmp_path / 'w.pt'}")
    with pytest.raises(ValueError, match="with 2 outputs"):
        part("models.load").load_model(
            f"torchvision:resnet18@{tmp_path / 'w.pt'}", classes=["one", "two"]
        )


def test_repository_code_is_not_run(tmp_path, monkeypatch):
    """A folder as a hub serves it, with code of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sprung = tmp_path / "sprung"
    folder = Path(nets.vit(tmp_path / "net"))
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="trap", auto_map={"AutoConfig": "trap.TrapConfig"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(sprung)!r}, 'w')")
    with pytest.raises(ValueError, match="could not be loaded"):
        part("models.load").load_model(f"hf:{folder}")
    assert not sprung.exists()


def test_a_run_says_why_its_model_cannot_be_loaded(own, disc):
    models = part("compute.recorded_model")
    given = {"model": "ResNet", "model_source": "module"}
    assert "is not registered" in models.unregistered(given)
    assert "register_model('ResNet'" in models.unregistered(given)
    assert models.is_reloadable({"model": "resnet18-imagenet-torch", "model_source": "zoo"})
    named = {"model": "disc", "model_source": "name"}
    assert "cannot be loaded here" in models.unregistered(named)
    new("RegisterModel")("disc", "disc.models:whole")
    assert models.is_reloadable(named)


EIGHT = """
import os, sys; sys.path.insert(0, sys.argv[1])
import importlib, time
from operators_common import PLUGIN, operator
operator()
registered = importlib.import_module(PLUGIN + ".operators.models.registered")
registered.registered()
begin = time.time() + 1
children = []
for child in range(8):
    if not (pid := os.fork()):
        time.sleep(max(0, begin - time.time()))
        for number in range(5):
            model = registered.OwnModel(f"model {child} {number}", loader="disc.models:best")
            registered.register(model)
            if number == 4:
                registered.remove(f"model {child} 0")
        os._exit(0)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
"""


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_eight_processes_that_register_at_once_lose_none(own):
    folder = Path(own.path()).parent
    left = folder / f".{own.FILE}.of_one_that_was_killed"
    left.touch()
    assert run_python(EIGHT, str(TESTS)).split("\n")[-2] == str([0] * 8)
    wanted = [f"model {child} {number}" for child in range(8) for number in range(1, 5)]
    assert sorted(own.registered()) == wanted
    assert not [p.name for p in folder.iterdir() if p.name.startswith(f".{own.FILE}")]


KILLED = """
import os, sys; sys.path.insert(0, sys.argv[1])
import importlib
from operators_common import PLUGIN, operator
operator()
registered = importlib.import_module(PLUGIN + ".operators.models.registered")
name, step = sys.argv[2], int(sys.argv[3])
done = [0]
for call in ("mkstemp", "fsync", "replace"):
    module = registered.tempfile if call == "mkstemp" else os
    def killed(*arguments, real=getattr(module, call), **options):
        answer = real(*arguments, **options)
        done[0] += 1
        if done[0] == step:
            os._exit(9)
        return answer
    setattr(module, call, killed)
if name == "new":
    registered.register(registered.OwnModel("new", loader="disc.models:best"))
else:
    registered.remove("old")
os._exit(0)
"""


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("name", ["new", "old"])
def test_registering_and_removing_killed_after_any_step(own, name, step):
    own.register(own.OwnModel("old", loader="disc.models:best"))
    command = [sys.executable, "-c", KILLED, str(TESTS), name, str(step)]
    assert subprocess.run(command, capture_output=True).returncode == 9
    before = {"old"} if name == "new" or step < 3 else set()
    assert set(own.registered()) == before | ({"new"} if name == "new" and step == 3 else set())
    if step < 3:
        if name == "new":
            own.register(own.OwnModel("new", loader="disc.models:best"))
        else:
            own.remove("old")
    assert set(own.registered()) == ({"old", "new"} if name == "new" else set())
    folder = Path(own.path()).parent
    assert not [p.name for p in folder.iterdir() if p.name.startswith(f".{own.FILE}")]
