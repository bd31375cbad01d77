"""What is killed after any of its steps and done again is as if it had never been killed."""

import tempfile

import fiftyone as fo
import pytest
from bias_common import BACKGROUND, CLASSES, Cues, agreeing, find, inner, to_tensor
from operators_common import operator, prepared
from redo_common import (
    State,
    clear_all_leftovers,
    count_steps,
    difference,
    everything,
    forget,
    kill_after,
    leftovers,
    wait_for_threads,
)

pytestmark = pytest.mark.usefixtures("plugin")

GIVEN = {"transforms": to_tensor, "classes": CLASSES, "progress": False, "num_workers": 0}


def of_the_user(dataset):
    """What is the user's, some of it called as a run's things are."""
    dataset.save_view("mine", dataset.limit(2))
    dataset.save_view("run: mine", dataset.limit(1))
    dataset.limit(1).tag_samples("run: mine")
    dataset.add_sample_field("runs_of_mine", fo.StringField)
    dataset.create_index("runs_of_mine")
    dataset.persistent = True
    dataset.save()


def compute(dataset, key="run", **arguments):
    return operator()(
        dataset, Cues(**BACKGROUND), ["hirescam", "gradcam"], key, layers="features", **GIVEN, **arguments
    )  # fmt: skip


def compare(dataset, keys, **arguments):
    return operator("compare_cams")(
        dataset, keys, model=Cues(**BACKGROUND), metrics=["deletion"], **GIVEN, **arguments
    )


@pytest.fixture(params=[9, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def each(request):
    """Every step, or every ninth."""
    return request.param


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """What is killed leaves its temporary folder behind: not in that of the machine."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "maps"


@pytest.fixture
def fresh(make_dataset, tmp_path):
    """A dataset of the user's with one run on it."""
    clear_all_leftovers()
    dataset = make_dataset(*agreeing(tmp_path, 8))
    of_the_user(dataset)
    compute(dataset, "earlier")
    return forget(dataset)


@pytest.fixture
def analysed(fresh, folder):
    """The same with a second run that was analysed and compared, with the first one too."""
    compute(fresh, storage="disk", output_dir=str(folder))
    find(fresh, tags=True)
    compare(fresh, ["run"])
    compare(fresh, ["earlier", "run"])
    return forget(fresh)


def check_every_step(state, folder, operation, wanted=None, each=1, again=None):
    """Kills an operation after each of its steps, does it again, and compares with one let alone."""
    dataset = state.restore()
    count = count_steps(operation, dataset)
    wait_for_threads()
    whole = everything(forget(dataset), folder)
    assert wanted is None or not difference(wanted, whole), "what one that is let alone leaves"
    assert not leftovers(dataset)
    assert count > 5
    wrong = {}
    for step in range(1, count + 1, each):
        dataset = state.restore()
        name = kill_after(step, operation, dataset)
        wait_for_threads()
        dataset = forget(dataset)
        try:
            if difference(whole, everything(dataset, folder)):
                (again or operation)(dataset)
        except Exception as error:
            wrong[step, name] = repr(error)
            continue
        found = difference(whole, everything(forget(dataset), folder))
        if found:
            wrong[step, name] = found
    print(count, "steps", len(wrong), "wrong")
    assert not wrong


def delete(dataset):
    operator("delete_cam_run")(dataset, "run")


def test_deletion(fresh, folder, each):
    before = everything(fresh, folder)
    compute(fresh, storage="disk", output_dir=str(folder))
    find(fresh, tags=True)
    compare(fresh, ["run"])
    state = State(forget(fresh), folder)
    check_every_step(state, folder, delete, wanted=before, each=each)


def test_renaming(analysed, folder, each):
    def rename(dataset):
        operator("rename_cam_run")(dataset, "run", "new")

    check_every_step(State(analysed, folder), folder, rename, each=each)


def test_an_analysis_that_replaces_another(analysed, folder, each):
    def again(dataset):
        find(dataset, tags=True, overwrite=True)

    again(analysed)
    groups = {g.name: g.paths for g in analysed.app_config.sidebar_groups}
    assert {"run_verdict", "run_dependence"} <= set(groups["run_heatmaps"])
    before = everything(analysed, folder)
    check_every_step(State(analysed, folder), folder, again, wanted=before, each=each)


def test_a_comparison_that_replaces_another(analysed, folder, each):
    before = everything(analysed, folder)

    def again(dataset):
        compare(dataset, ["run"], overwrite=True)

    check_every_step(State(analysed, folder), folder, again, wanted=before, each=each)


def test_a_run_that_replaces_another(fresh, folder, each):
    def again(dataset):
        compute(dataset.limit(2), storage="disk", output_dir=str(folder), overwrite=True)

    again(fresh)
    before = everything(fresh, folder)
    check_every_step(State(forget(fresh), folder), folder, again, wanted=before, each=each)


def test_a_comparison_that_is_stopped_while_it_writes(fresh, folder, each):
    compute(fresh)

    def stopped(dataset):
        settings = inner("compare.params").CompareSettings("run", ["deletion"], num_workers=0)
        model = Cues(**BACKGROUND)
        job = inner("compare.methods_job").MethodComparison
        steps = prepared(job, dataset, settings, model, to_tensor, CLASSES).run()
        while next(steps).name != "writing":
            pass
        steps.close()

    stopped(fresh)
    before = everything(fresh)
    assert not fresh.has_field("run_disagreement")
    check_every_step(State(forget(fresh), folder), folder, stopped, wanted=before, each=each)


def test_drafted_boxes(fresh, folder, each):
    def draft(dataset, **arguments):
        operator("heat_to_detections")(
            dataset, field="earlier_hirescam", progress=False, **arguments
        )

    def again(dataset):
        draft(dataset, overwrite=True)

    check_every_step(State(fresh, folder), folder, draft, each=each, again=again)


OPERATIONS = {
    "run": lambda dataset, folder: compute(
        dataset.limit(2), storage="disk", output_dir=str(folder)
    ),
    "analysis": lambda dataset, folder: find(dataset, tags=True),
    "comparison": lambda dataset, folder: compare(dataset, ["run"]),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_deletion_of_what_was_killed(fresh, folder, each, kind):
    """Nothing is done again: whatever a killed job had written goes with its run."""
    before = everything(fresh, folder)
    if kind != "run":
        compute(fresh, storage="disk", output_dir=str(folder))
    state, operation = State(forget(fresh), folder), OPERATIONS[kind]
    count, wrong = count_steps(lambda dataset: operation(dataset, folder), state.restore()), {}
    wait_for_threads()
    for step in range(1, count + 1, each):
        name = kill_after(step, lambda dataset: operation(dataset, folder), state.restore())
        wait_for_threads()
        dataset = forget(fresh)
        if "run" in dataset.list_runs():
            delete(dataset)
        found = difference(before, everything(forget(dataset), folder))
        if found:
            wrong[step, name] = found
    print(count, "steps", len(wrong), "wrong")
    assert not wrong
