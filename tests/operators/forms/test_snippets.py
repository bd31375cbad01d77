"""*The same from Python*: the code that a form shows, run as it is pasted into a fresh process."""

import json
import os
import subprocess
import sys

import fiftyone as fo
import fiftyone.operators.executor as executor
import pytest
from fiftyone import ViewField as F
from operators_common import operator
from processes_common import ROOT

from examples import planted

pytestmark = pytest.mark.usefixtures("plugin")
OURS = ("PYTHONPATH", "CAM51_ALLOWED_MODELS", "CAM51_CHECKOUT")


@pytest.fixture
def demo(make_dataset, tmp_path, monkeypatch):
    """The planted demo's dataset, and this process as the one that a demo starts the App in."""
    name = make_dataset().name
    fo.delete_dataset(name)
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", planted.MODEL)
    monkeypatch.setenv("CAM51_CHECKOUT", str(ROOT))
    dataset = planted.planted_dataset(name, tmp_path / "pictures", persistent=False)
    yield dataset
    dataset.delete()


def code_of(view, name, **params):
    """The code that a form shows of a view."""
    request = {"dataset_name": view._dataset.name, "params": params}
    if isinstance(view, fo.DatasetView):
        request["view"] = view._serialize()
    ctx = executor.ExecutionContext(request, executor=executor.Executor())
    form = operator(name).resolve_input(ctx).type.properties
    wrong = [p.error_message for p in form.values() if p.invalid]
    assert not wrong
    text = next(p.default for key, p in form.items() if key.startswith("python_"))
    before, code, after = text.split("```")
    assert (before, after) == ("The same from Python:\n", "")
    return code.removeprefix("python\n")


def pasted(tmp_path, *codes):
    """Runs code in a process of somebody who never heard of the checkout; returns what it prints."""
    (tmp_path / "no_plugins").mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    env["FIFTYONE_PLUGINS_DIR"] = str(tmp_path / "no_plugins")
    each = f"import json, sys\nfor code in json.loads({json.dumps(codes)!r}): exec(code, {{}})"
    done = subprocess.run(
        [sys.executable, "-c", codes[0] if len(codes) == 1 else each],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pasted_code_does_what_the_forms_do(demo, tmp_path):
    view = demo.match(F("ground_truth.label").is_in(["star", "circle"])).limit(16)
    code = code_of(view, "compute_cams", model=planted.MODEL, cam_key="pasted")
    out = pasted(tmp_path, code)
    assert "pasted: 16 samples explained" in out
    demo.reload()
    assert demo.exists("pasted_gradcam").values("id") == view.values("id")

    codes = [
        code_of(view, "find_background_bias", objects="objects", probe=4),
        code_of(view, "test_region", region="border", probe=4),
        code_of(view, "compare_cams", probe=2, metrics=["deletion"]),
    ]
    out = pasted(tmp_path, *codes)
    assert "4 tested samples" in out
    demo.reload()
    assert len(demo.exists("pasted_verdict")) == 16
    assert operator("get_cam_run_info")(demo, "pasted").results["compare"]


def test_code_of_a_plain_installation_is_short(demo, monkeypatch):
    for name in ("CAM51_ALLOWED_MODELS", "CAM51_CHECKOUT"):
        monkeypatch.delenv(name)
    code = code_of(demo, "compute_cams", model="resnet18-imagenet-torch", cam_key="run")
    assert code.splitlines() == [
        "import fiftyone as fo",
        "import fiftyone.operators as foo",
        "",
        f"dataset = fo.load_dataset({demo.name!r})",
        'compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")',
        "print(compute_cams(",
        "    dataset,",
        "    model='resnet18-imagenet-torch',",
        "    methods=['gradcam'],",
        "    cam_key='run',",
        "))",
    ]


def test_a_view_of_hundreds_of_samples_is_named_not_listed(demo):
    few, many = demo.take(3, seed=51), demo.select(demo.values("id"))
    for view, said in ((few, "fo.Take(size=3, seed=51)"), (many, "save the view in the App first")):
        assert said in code_of(view, "compute_cams", model=planted.MODEL, cam_key="run")
