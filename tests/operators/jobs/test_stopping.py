"""Comparisons and analyses that are stopped, fail or die: nothing half is left, and people are told."""

import os
import signal
import threading
import time

import pytest
from bias_common import BACKGROUND, Cues, agreeing, find, inner
from bias_common import to_tensor as to_tensor_of_cues
from compare_common import CLASSES, Planted, cams, compare, inverse, perfect, planted, to_tensor
from operators_common import leases_of, operator, prepared, stop_and_wait

from tools.app_driver import wait_for

pytestmark = pytest.mark.usefixtures("plugin")


def work_of(dataset, key, part):
    run = inner("runs.run").Run.open(dataset, key)
    return inner("panel.job_status").work_of(run, part)


@pytest.fixture(autouse=True)
def looking_often(plugin, monkeypatch):
    monkeypatch.setattr(inner("runs.lease"), "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(inner("jobs.batch_progress"), "_SECONDS", 0)


@pytest.fixture
def compared(make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 8))
    cams(dataset, [perfect, inverse])
    return dataset


def comparison(dataset, network=None, **arguments):
    settings = inner("compare.params").CompareSettings(
        metrics=["deletion"], batch_size=4, num_workers=0, **arguments
    )
    return prepared(
        inner("compare.methods_job").MethodComparison,
        dataset,
        settings,
        network or Planted(),
        to_tensor,
        CLASSES,
        "app",
    )


def comparison_of_models(dataset):
    settings = inner("compare.params").CompareSettings(["run", "late"], num_workers=0)
    networks = {"run": Planted(), "late": Planted(weight=3.0)}
    return prepared(
        inner("compare.models_job").ModelComparison, dataset, settings, networks, to_tensor, CLASSES
    )


def analysis(dataset):
    settings = inner("bias.params").BiasSettings(cam_key="run", num_workers=0)
    network = Cues(**BACKGROUND)
    return prepared(
        inner("bias.job").BiasJob, dataset, settings, network, to_tensor_of_cues, CLASSES
    )


def left(dataset):
    """Everything that a comparison or an analysis could leave behind."""
    dataset.reload()
    config = inner("runs.record").config_of(dataset, "run")
    return (
        sorted(dataset.get_field_schema(flat=True)), dataset.list_saved_views(), config.saved_views,
        list(dataset._sample_collection.find({}, {"last_modified_at": False}).sort("_id")),
        sorted(k for k, v in inner("runs.results").load_results(dataset, "run").items() if v),
    )  # fmt: skip


def stopped(job, phase):
    """Runs a job up to a phase, asks it to stop from another thread, and waits until it has heard."""
    steps = job.run()
    for state in steps:
        if state.name.startswith(phase):
            break
    assert state.name.startswith(phase)
    asked = threading.Thread(target=operator("stop_cam_run"), args=(job.dataset, "run"))
    asked.start()
    asked.join()
    held = job.held
    wait_for(lambda: held._stop, 90, "it has heard")
    with pytest.raises(
        inner("runs.lease").Stopped, match="'run' was asked to stop; nothing of it is"
    ):
        next(steps)
    assert list(steps) == []
    assert job.summary is None


@pytest.mark.parametrize("phase", ["measuring", "writing"])
def test_a_comparison_is_stopped(compared, phase, monkeypatch):
    dataset = compared
    before = left(dataset)
    monkeypatch.setattr(inner("compare.methods_job"), "_WRITTEN_AT_ONCE", 4)
    stopped(comparison(dataset), phase)
    assert left(dataset) == before
    work = work_of(dataset, "run", "compare")
    assert not work["running"]
    assert work["label"].startswith("The last comparison was stopped after ")
    assert work["text"] == "Nothing of it was kept."
    assert compare(dataset, metrics=["deletion"]).samples == 8, "and nothing is in the way"
    assert work_of(dataset, "run", "compare") is None


def test_a_comparison_of_models_is_stopped(compared):
    dataset = compared
    cams(dataset, [perfect], "late", Planted(weight=3.0))
    dataset.delete_sample_field("run_inverse")
    before = left(dataset)
    stopped(comparison_of_models(dataset), "comparing")
    assert left(dataset) == before
    assert "was stopped" in work_of(dataset, "late", "compare")["label"]


@pytest.mark.parametrize("phase", ["measuring heat", "swapping backgrounds", "writing"])
def test_an_analysis_is_stopped(make_dataset, tmp_path, phase, monkeypatch):
    dataset = make_dataset(*agreeing(tmp_path, 12))
    monkeypatch.setattr(inner("bias.job"), "_WRITTEN_AT_ONCE", 4)
    find(dataset)
    inner("bias.schema").RECORDS.clear(dataset, "run")
    before = left(dataset)
    stopped(analysis(dataset), phase)
    assert left(dataset) == before
    work = work_of(dataset, "run", "bias")
    assert work["label"].startswith("The last analysis was stopped after ")
    assert find(dataset).tested == 12


def test_heatmaps_that_are_computed_first_are_stopped_with_the_analysis(
    make_dataset, tmp_path, monkeypatch
):
    leases = leases_of(monkeypatch)
    dataset = make_dataset(*agreeing(tmp_path, 12))
    settings = inner("bias.params").BiasSettings(
        cam_key="run", num_workers=0, batch_size=2, layers="features", methods="hirescam"
    )
    network = Cues(**BACKGROUND)
    job = prepared(
        inner("bias.job").BiasJob, dataset, settings, network, to_tensor_of_cues, CLASSES
    )
    with pytest.raises(inner("runs.lease").Stopped, match="resume=True to resume"):
        for state in job.run():
            assert state.name == "computing heatmaps"
            if state.done == 2:
                stop_and_wait(dataset, leases[0])
    assert inner("bias.schema").RECORDS.record_of(dataset, "run") is None
    assert 0 < dataset.count("run_hirescam.map") < 12


def test_what_is_asked_to_stop(compared):
    dataset, ask = compared, operator("stop_cam_run")
    cams(dataset, [inverse], "other")
    with pytest.raises(ValueError, match="'run' is not running, it is finished"):
        ask(dataset, "run")
    with pytest.raises(ValueError, match="no comparison of the run 'run' is running"):
        ask(dataset, "run", "comparison")
    with pytest.raises(ValueError, match="what: 'bias' is unknown; choose from computation, comp"):
        ask(dataset, "run", "bias")
    steps = comparison(dataset, cam_keys=["run", "other"]).run()
    next(steps)
    assert inner("runs.lease").running_on(dataset, "other") == [("comparison", "run")]
    with pytest.raises(ValueError, match="no analysis of the run 'other' is running"):
        ask(dataset, "other", "analysis")
    assert not inner("compare.schema").RECORDS.record_of(dataset, "run").get("stop")
    ask(dataset, "other", "comparison")
    assert inner("compare.schema").RECORDS.record_of(dataset, "run")["stop"]
    steps.close()
    compare(dataset, "run", metrics=["deletion"])
    assert "stop" not in inner("compare.schema").RECORDS.record_of(dataset, "run"), (
        "of the one before"
    )


def test_the_form_of_stopping_names_what_is_at_work(compared):
    import fiftyone.operators as foo

    def form():
        ctx = foo.executor.ExecutionContext({"dataset_name": compared.name, "params": {}})
        return operator("stop_cam_run").resolve_input(ctx).to_json()["type"]["properties"]

    assert form()["problem"]["invalid"]
    steps = comparison(compared).run()
    next(steps)
    assert form()["cam_key"]["default"] == "run"
    assert form()["what"]["default"] == "comparison"
    ctx = {"dataset": compared, "params": {"cam_key": "run", "what": "comparison"}}
    foo.execute_operator("@cam51/heatmaps/stop_cam_run", ctx=ctx)
    assert inner("compare.schema").RECORDS.record_of(compared, "run")["stop"]
    steps.close()


def test_closing_while_it_writes_takes_back_what_a_comparison_wrote(compared, monkeypatch):
    dataset = compared
    before = left(dataset)
    monkeypatch.setattr(inner("compare.methods_job"), "_WRITTEN_AT_ONCE", 4)
    steps = comparison(dataset).run()
    for state in steps:
        if state.name == "writing":
            break
    assert dataset.count("run_perfect.deletion") == 4
    steps.close()
    assert left(dataset) == before
    assert inner("compare.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"


@pytest.fixture
def ctrl_c_raises():
    """A shell starts what it runs in the background with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="sends a thread a signal")
@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_inside_a_batch(compared):
    network, sent = Planted(), []

    def interrupt(*_):
        if threading.current_thread() is threading.main_thread():
            return  # the trial
        if not sent:
            sent.append(signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
        time.sleep(0.1)

    network.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare(compared, network=network, metrics=["deletion", "road"], batch_size=2)
    assert sent
    assert inner("compare.schema").RECORDS.record_of(compared, "run")["status"] == "interrupted"
    assert "run_disagreement" not in compared.get_field_schema()


def test_a_comparison_that_fails_says_why(compared, monkeypatch):
    dataset = compared
    before = left(dataset)

    def fails(*_):
        raise RuntimeError("the disk is full")

    store = inner("compare.schema")
    monkeypatch.setattr(store, "save_disagreement_view", fails)
    with pytest.raises(RuntimeError, match="the disk is full"):
        compare(dataset, metrics=["deletion"])
    record = store.RECORDS.record_of(dataset, "run")
    assert (record["status"], record["error"]) == ("failed", "RuntimeError: the disk is full")
    assert left(dataset) == before
    work = work_of(dataset, "run", "compare")
    assert work["label"].startswith("The last comparison failed after ")
    assert work["text"] == "RuntimeError: the disk is full. Nothing of it was kept."


def test_what_the_panel_says_of_one_at_work_and_of_one_whose_process_died(compared):
    dataset = compared
    assert work_of(dataset, "run", "compare") is None
    steps = comparison(dataset).run()
    next(steps)
    store = inner("compare.schema")
    said = work_of(dataset, "run", "compare")
    clock = store.RECORDS.record_of(dataset, "run")["started"][11:16]
    assert (said["running"], said["stopping"]) == (True, False)
    assert said["label"] == f"Being compared, started {clock} UTC"
    assert said["text"].startswith("8 samples, by process ")
    inner("runs.lease").ask_to_stop(dataset, "run", "comparison")
    said = work_of(dataset, "run", "compare")
    assert said["stopping"]
    assert "asked to stop" in said["label"]
    # its process is killed
    inner("runs.record").ACTIVE.discard(store.RECORDS.record_of(dataset, "run")["token"])
    store.RECORDS.update(dataset, "run", pid=2**22 + 12345, stop=False)
    said = work_of(dataset, "run", "compare")
    assert not said["running"]
    assert said["label"].startswith("The last comparison was interrupted after ")
    assert "Its process is gone" in said["text"]
    steps.close()
    said = work_of(dataset, "run", "compare")
    assert "Its tab was closed or reloaded" in said["text"]
    assert said["text"].endswith("Nothing of it was kept.")
