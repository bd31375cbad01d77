"""What programs are told: by FiftyOne's SDK, by its queue, by its server; the same as in Python."""

import asyncio
import dataclasses
import importlib
import json
import re
import time
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from operators_common import PLUGIN, operator
from PIL import Image
from processes_common import ROOT

from examples.dataset import photo_sample

URI = "@cam51/heatmaps/"
MODEL = "small"
LOADER = """
from operators_common import CLASSES, small_network, transforms

def load():
    return small_network(), transforms(), CLASSES
"""
#: what differs between two calls that do the same
OF_THE_CALL = {"seconds", "images_per_second", "cost", "settings", "fields", "views", "cam_key"}


@pytest.fixture(scope="module", autouse=True)
def small_model(plugin, tmp_path_factory):
    """A small network that has a name, as programs need one."""
    folder, patch = tmp_path_factory.mktemp("models"), pytest.MonkeyPatch()
    (folder / "models_for_answers.py").write_text(LOADER)
    patch.syspath_prepend(str(folder))
    operator("register_model")(MODEL, loader="models_for_answers:load")
    yield
    operator("remove_model")(MODEL)
    patch.undo()


@pytest.fixture
def small_photos(photos, make_dataset, tmp_path):
    """A function that makes a dataset of photos of 64 pixels."""

    def make(count):
        samples = [photo_sample(photo) for photo in photos[:count]]
        for sample in samples:
            small = tmp_path / Path(sample.filepath).name
            Image.open(sample.filepath).convert("RGB").resize((64, 64)).save(small)
            sample.filepath = str(small)
        return make_dataset(*samples)

    return make


def sdk(name, samples, **params):
    """As FiftyOne's MCP server calls an operator."""
    context = {"dataset": samples} if isinstance(samples, fo.Dataset) else {"view": samples}
    return foo.execute_operator(f"{URI}{name}", {**context, "params": params}).result


def queued(name, samples, **params):
    """What a queue keeps of an operation that its worker did."""
    from fiftyone.operators.delegated import DelegatedOperationService

    context = {"view": samples.view(), "params": params}
    scheduled = foo.execute_operator(f"{URI}{name}", context, request_delegation=True)
    service, number = DelegatedOperationService(), scheduled.result["id"]
    service.execute_queued_operations(operator=f"{URI}{name}", limit=1)
    operation = service.get(number)
    assert operation.run_state == "completed", operation.result and operation.result.error
    return operation.result.result


def of_the_server(name, samples, endpoint="", **request):
    """What the App's server answers to a program, or to the App."""
    from fiftyone.operators.server import OperatorRoutes
    from starlette.applications import Starlette
    from starlette.routing import Route
    from starlette.testclient import TestClient

    app = Starlette(routes=[Route(path, cls) for path, cls in OperatorRoutes])
    body = {
        "operator_uri": f"{URI}{name}",
        "dataset_name": samples._dataset.name,
        "view": [],
        **request,
    }
    answer = TestClient(app).post(f"/operators/execute{endpoint}", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def comparable(answer):
    """An answer, which has to be JSON, without what two calls that do the same differ in."""
    assert json.loads(json.dumps(answer)) == answer
    return timeless({k: v for k, v in answer.items() if k not in OF_THE_CALL | {"text"}})


def timeless(value):
    if isinstance(value, list):
        return [timeless(v) for v in value]
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds_per_image"}
    return value


def run_params(key, **more):
    return {
        "model": MODEL,
        "methods": ["gradcam", "eigencam"],
        "targets": "predicted",
        "cam_key": key,
        "batch_size": 2,
        **more,
    }


@pytest.mark.parametrize("call", [sdk, queued], ids=["sdk", "queue"])
def test_compute_cams_answers_with_its_summary(small_photos, call):
    dataset = small_photos(3)
    python = operator()(dataset, **run_params("python"), progress=False)
    told = call("compute_cams", dataset, **run_params("told"))
    dataset.reload()
    assert (told["kind"], told["version"], told["done"]) == ("run", 1, 3)
    assert told["fields"] == ["told_gradcam", "told_eigencam", "told_prediction"]
    assert told["text"].startswith("told: 3 samples explained")
    renamed = json.loads(json.dumps(told["statuses"]).replace("told_", "python_"))
    assert comparable({**told, "statuses": renamed}) == comparable(python.to_dict())
    again = call("rerun_cams", dataset, cam_key="told", new_key="again", resume=False)
    assert (again["kind"], again["cam_key"], again["done"]) == ("run", "again", 3)


@pytest.fixture
def judged(small_photos):
    """Photos with a run, of which jobs can be asked."""
    dataset = small_photos(6)
    operator()(dataset, **run_params("run"), progress=False)
    return dataset


JOBS = {
    "find_background_bias": (
        {"cam_key": "run", "objects": "ground_truth", "donors": 2},
        {"overwrite": True},
    ),
    "compare_cams": (
        {"cam_keys": ["run"], "metrics": ["deletion"], "probe": 4},
        {"overwrite": True},
    ),
    "heat_to_detections": ({"field": "run_gradcam", "cam_key": "run"}, {"overwrite": True}),
    "test_region": ({"cam_key": "run", "region": "border", "donors": 2}, {}),
}


@pytest.mark.parametrize("name", JOBS)
def test_jobs_answer_with_their_summaries(judged, name):
    arguments, again = JOBS[name]
    python = operator(name)(judged, **arguments, progress=False)
    params = {**arguments, **again}
    if name == "compare_cams":
        params = operator(name).params_of(params, judged)
    told = sdk(name, judged, **params)
    assert told["kind"] == python.kind
    assert comparable(told) == comparable(python.to_dict())
    assert told["text"]
    judged.reload()
    assert comparable(queued(name, judged, **params)) == comparable(python.to_dict())


def test_a_run_is_told_with_its_analysis_and_its_comparison(judged):
    bias = operator("find_background_bias")(
        judged, "run", objects="ground_truth", donors=2, progress=False
    )
    compared = operator("compare_cams")(
        judged, "run", metrics=["deletion"], probe=4, progress=False
    )
    told = sdk("get_cam_run_info", judged, cam_key="run")["info"]
    assert (told["kind"], told["summary"]["kind"]) == ("run_info", "run")
    assert told["bias_analysis"] == bias.to_dict()
    assert told["comparison"] == compared.to_dict()
    python = operator("get_cam_run_info")(judged, "run").to_dict()
    assert {k: v for k, v in told.items() if k != "text"} == python
    assert [run["key"] for run in sdk("list_cam_runs", judged)["runs"]] == ["run"]


def test_small_operators_answer(judged):
    first = judged.first().id
    explained = sdk("explain_sample", judged, sample_id=first, cam_key="run")["explained"]
    assert (explained["kind"], explained["id"]) == ("explanation", first)
    assert "photo" not in explained
    assert sdk("show_peers", judged, sample_id=first, cam_key="run")["ids"][0] == first
    shown = sdk("load_cam_view", judged, cam_key="run", part="done")
    assert (shown["samples"], len(shown["ids"])) == (6, 6)
    assert set(sdk("same_scale", judged, cam_key="run")["scales"]) == {
        "run_gradcam",
        "run_eigencam",
    }
    assert sdk("set_heatmap_look", judged, ramp="turbo", hide_below=0.2)["hide_below"] == 0.2
    assert any(row["default"] for row in sdk("list_layers", judged, model=MODEL)["layers"])
    assert {"name", "yields"} <= set(sdk("list_models", judged)["models"][0])
    made = sdk("cam_model", judged, model=MODEL, methods=["gradcam", "layercam"])
    assert made["names"] == ["gradcam", "layercam"]
    assert sdk("show_heatmaps", judged, cam_key="run", n=2)["image"].startswith("data:image/png")
    assert (
        sdk("rename_cam_run", judged, cam_key="run", new_key="new")["fields"]["run_gradcam"]
        == "new_gradcam"
    )
    judged.reload()
    assert sdk("delete_cam_run", judged, cam_key="new")["kind"] == "deletion"
    assert sdk("clear_leftovers", judged)["kind"] == "leftovers"
    assert sdk("free_model", judged) == {"freed": MODEL}


def test_every_operator_is_called_here(plugin):
    """Those left out only open something in the App, run code of the caller's, or stop what is running."""
    text = Path(__file__).read_text()
    left_out = {
        "open_cam_panel",
        "open_sample_panel",
        "reopen_compute_cams",
        "show_heatmap_look",
        "register_model",
        "remove_model",
        "stop_cam_run",
    }
    from fiftyone.operators import Panel

    names = {op.name for op in plugin.instances if not isinstance(op, Panel)}
    assert {name for name in names if f'"{name}"' not in text} == set()
    assert left_out < names


def test_the_server_answers_programs_and_streams_to_the_app(small_photos):
    dataset = small_photos(2)
    program = of_the_server("compute_cams", dataset, params=run_params("program")).json()
    assert program["error"] is None
    assert program["result"]["done"] == 2
    other = of_the_server("compute_cams", dataset, "/generator", params=run_params("other")).json()
    assert other["result"]["fields"][0] == "other_gradcam"
    app = of_the_server(
        "compute_cams",
        dataset,
        "/generator",
        params=run_params("app"),
        selected_samples=[],
        prompt_id="1",
    ).text.splitlines()
    assert len(app) > 3
    assert sum("set_progress" in line for line in app) >= 2
    assert "app_gradcam" in app[-1]


def test_what_goes_wrong_is_an_error_for_programs(small_photos):
    dataset = small_photos(1)
    with pytest.raises(foo.executor.ExecutionError, match="did you mean gradcam"):
        sdk("compute_cams", dataset, **run_params("bad", methods=["gradcamm"]))


def test_long_lists_are_cut_and_said(plugin):
    room = importlib.import_module(f"{PLUGIN}.operators.runs.plain_data")
    summary = importlib.import_module(f"{PLUGIN}.operators.compute.summary").Summary
    failed = [{"id": str(i), "filepath": f"{i}.png", "reason": "broken"} for i in range(1500)]
    found = summary(
        "run",
        3,
        failed,
        ["run_gradcam"],
        1.0,
        float("nan"),
        {"ids": {str(i): i for i in range(2000)}},
        {},
        0,
    )
    assert len(found.to_dict()["failed"]) == 1500
    assert found.to_dict()["images_per_second"] is None
    told = room.answer(found)
    assert len(told["failed"]) == len(told["settings"]["ids"]) == 1000
    assert told["cut"] == {"failed": 1500, "settings.ids": 2000}
    assert "1500 failed" in told["text"]


def test_a_call_that_is_cancelled_ends_the_run(plugin, small_photos):
    """Ctrl-C, and FiftyOne's own time limit, cancel: nothing computes on unseen."""
    base = importlib.import_module(f"{PLUGIN}.operators.base")
    closed = []

    def messages():
        try:
            while True:
                time.sleep(0.15)  # cancelled in the middle of a step
                yield 1
        finally:
            closed.append(True)

    async def main():
        await asyncio.wait_for(base.returned(messages()), timeout=0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert closed == [True]


KINDS = {
    "run": "compute.summary.Summary", "bias_analysis": "bias.summary.BiasSummary",
    "comparison": "compare.summary.CompareSummary", "region_test": "bias.region_job.RegionSummary",
    "drafts": "drafts.job.Drafts", "explanation": "sample.summary.Explained", "run_entry": "runs.info.CamRun",
    "leftovers": "runs.leftovers.Leftovers", "run_info": "runs.info.CamRunInfo", "deletion": "runs.info.Deleted",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_keys_are_documented(plugin, kind):
    page = (ROOT / "docs" / "interfaces.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` |"))
    own = re.sub(r"\[[^]]*\]\([^)]*\)", "", row.split("|")[2])
    told = re.sub(r"\([^()]*\)", "", own)  # what an entry has is in brackets
    module, name = KINDS[kind].rsplit(".", 1)
    found = getattr(importlib.import_module(f"{PLUGIN}.operators.{module}"), name)
    assert found.kind == kind
    keys = (
        {field.name for field in dataclasses.fields(found)} - {"photo", "labels"}
        if kind == "explanation"
        else {field.name for field in dataclasses.fields(found)}
    )
    if kind == "run_info":
        entry = {field.name for field in dataclasses.fields(found.__base__)}
        keys = keys - entry - {"results"} | {"run_entry", "summary", "bias_analysis", "comparison"}
    assert set(re.findall(r"`(\w+)`", told)) == keys
