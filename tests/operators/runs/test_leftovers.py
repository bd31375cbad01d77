"""What killed processes leave behind is found and deleted, and nothing else."""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fiftyone as fo
import fiftyone.core.odm as fod
import pytest
from bias_common import BACKGROUND, CLASSES, Cues, agreeing, find, inner, to_tensor
from operators_common import operator
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


def compute(dataset, key="run", **arguments):
    return operator()(
        dataset, Cues(**BACKGROUND), "hirescam", key, layers="features", **GIVEN, **arguments
    )


def new_file():
    """A file of results that is not stored yet."""
    return fod.runs.RunDocument().results


@pytest.fixture
def dataset(make_dataset, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # of processes that are started
    clear_all_leftovers()
    dataset = make_dataset(*agreeing(tmp_path, 8))
    dataset.persistent = True
    dataset.save_view("run: mine", dataset.limit(1))
    dataset.register_run("theirs", dataset.init_run(method="theirs"))
    dataset.save_run_results("theirs", dataset.init_run_results("theirs", number=1))
    return dataset


@pytest.fixture
def nobody():
    """A process that has ended."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); " + (
        "import importlib.util as u, json; "
        f"spec = u.spec_from_file_location('process', {inner('runs.process').__file__!r}); "
        "module = u.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(json.dumps(module.here()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def test_every_kind_of_a_process_that_is_gone(dataset, nobody, tmp_path):
    folder = tmp_path / "maps"
    compute(dataset, storage="disk", output_dir=str(folder))
    dataset = forget(dataset)
    before = everything(dataset, folder)
    db, record = fod.get_db_conn(), inner("runs.record")
    stored = db.runs.find_one({"_id": record.document_id(dataset, "run")})
    # a record that was never listed, with results of its own
    file = new_file()
    mark = inner("runs.results").MARK
    file.put(b"{}", metadata={mark: nobody})
    config = {**stored["config"], **nobody, "status": "running", "token": "theirs"}
    row = {k: v for k, v in stored.items() if k != "_id"}
    db.runs.insert_one({**row, "config": config, "results": file.grid_id})
    # results and a part of some, to which nothing points
    for whole in (True, False):
        file = new_file()
        text = json.dumps({mark: nobody, "cls": "x"}).encode()
        file.put(text, metadata={mark: nobody})
        if not whole:
            db["fs.files"].delete_one({"_id": file.grid_id})
    db["cam51_locks"].insert_one(
        {"_id": dataset._doc.id, "token": "theirs", **nobody, "since": record.clock()}
    )
    record.change(dataset, "run", add={"saved_views": ["run: best"]})
    view = {"_dataset_id": dataset._doc.id, "name": "run: best", "slug": "run-best"}
    db.views.insert_one({**view, "view_stages": []})
    stamp = stored["config"]["stamps"][0]
    for end in ("", ".part"):
        (folder / "run" / "run_hirescam" / f"{dataset.first().id}-{stamp}.png{end}").touch()
    stray = folder / "run" / "run_hirescam" / f"{dataset.last().id}-{stamp}.png"
    shown = {label.map_path for label in dataset.values("run_hirescam")}
    left = Path(tempfile.mkdtemp(prefix="cam51-"))
    (left / ".cam51").write_text(json.dumps(nobody))
    assert str(stray) in shown, "the samples' own files stay"
    assert set(leftovers(dataset)) == {"runs", "views", "results", "chunks", "locks"}

    found = operator("clear_leftovers")(dataset)
    # the file of the record goes with it; that of the first sample is its own
    assert found.values() == {
        "locks": 1, "records": 1, "results": 2, "views": 1, "files": 1, "folders": 1,
    }  # fmt: skip
    assert str(found) == (
        "deleted what was left behind: 1 lock, 1 record, 2 result files, 1 saved view, 1 map file, "
        "1 temporary folder"
    ), found
    assert not leftovers(dataset)
    assert not left.exists()
    after = everything(forget(dataset), folder)
    before["runs"]["run"]["config"]["saved_views"] = ["run: best"]
    assert not difference(before, after)
    assert str(operator("clear_leftovers")(dataset)) == "nothing is left"
    assert dataset.load_run_results("theirs").number == 1


def test_what_another_thread_is_writing_stays(dataset, monkeypatch):
    """The App's server runs operators in threads of one process."""
    compute(dataset)
    runs, found = inner("runs.results"), []
    real = runs.record.db

    def looking():  # between a file's writing and the record that points to it
        if runs.BEING_WRITTEN:
            monkeypatch.setattr(runs.record, "db", real)
            found.append(operator("clear_leftovers")(dataset).values())
        return real()

    monkeypatch.setattr(runs.record, "db", looking)
    runs.save_results(dataset, "run", more=1)
    assert found
    assert (found[0]["results"], found[0]["records"]) == (0, 0)
    assert runs.load_results(dataset, "run")["more"] == 1


def test_what_may_be_of_somebody_who_lives_stays(dataset, nobody):
    compute(dataset)
    db, record = fod.get_db_conn(), inner("runs.record")
    elsewhere = {**nobody, "space": "another container"}
    stored = db.runs.find_one({"_id": record.document_id(dataset, "run")})
    file = new_file()
    file.put(b"{}", metadata={inner("runs.results").MARK: elsewhere})
    config = {
        **stored["config"], **elsewhere, "status": "running", "token": "theirs",
        "heartbeat": record.clock(),
    }  # fmt: skip
    row = {k: v for k, v in stored.items() if k not in ("_id", "results")}
    number = db.runs.insert_one({**row, "config": config}).inserted_id
    # FiftyOne's own copy of a record, before the dataset lists it
    other = {**stored["config"], "dataset_id": "of the original", "status": "finished"}
    copy = db.runs.insert_one({**row, "config": other}).inserted_id
    lock = {"_id": dataset._doc.id, "token": "theirs", **elsewhere, "since": record.clock()}
    db["cam51_locks"].insert_one(lock)
    folder = Path(tempfile.mkdtemp(prefix="cam51-"))
    (folder / ".cam51").write_text(json.dumps(elsewhere))
    own = Path(tempfile.mkdtemp(prefix="cam51-"))
    try:
        assert str(operator("clear_leftovers")(dataset)) == "nothing is left"
        assert folder.exists()
        assert own.exists()
        assert db.runs.count_documents({"_id": {"$in": [number, copy]}}) == 2
        assert db["cam51_locks"].count_documents({"token": "theirs"}) == 1
        # as its last heartbeat grows old
        old = record.clock() - datetime.timedelta(seconds=200)
        db.runs.update_one({"_id": number}, {"$set": {"config.heartbeat": old}})
        db["cam51_locks"].update_one({"token": "theirs"}, {"$set": {"since": old}})
        found = operator("clear_leftovers")(dataset)
        assert (found.locks, found.records, found.results) == (1, 1, 0)
    finally:
        os.remove(folder / ".cam51")
        folder.rmdir()
        own.rmdir()
        db.runs.delete_one({"_id": copy})
        file.delete()


def test_the_next_run_clears_what_the_last_one_left(dataset, tmp_path):
    """After every write at which a first run can die."""
    folder = tmp_path / "maps"
    state, wrong = State(forget(dataset), folder), {}

    def run(dataset, **arguments):
        compute(dataset.limit(2), storage="disk", output_dir=str(folder), **arguments)

    count = count_steps(run, state.restore())
    for step in range(1, count + 1, 4):
        name = kill_after(step, run, state.restore())
        wait_for_threads()
        dataset = forget(dataset)
        # its process lives on here, and is gone for whoever looks
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inner("runs.process"), "here", lambda: {"host": "x", "pid": 1})
            for room in ("leftovers", "record", "locking"):
                patch.setattr(inner(f"runs.{room}"), "is_gone", lambda whose: whose["pid"] != 1)
            run(dataset, resume=True)
        dataset = forget(dataset)
        shown = {label.map_path for label in dataset.limit(2).values("run_hirescam")}
        files = {str(p) for p in folder.rglob("*") if p.is_file()}
        found = {k: n for k, n in leftovers(dataset).items() if k != "chunks"}
        if found or files != shown:
            wrong[step, name] = (found, files - shown)
    assert not wrong


def test_a_killed_analysis_leaves_a_folder_that_is_cleared(dataset):
    compute(dataset)
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from operators_common import operator; operator()\n"
        "from bias_common import inner\n"
        "with inner('runs.leftovers').temporary_folder() as folder:\n"
        "    print(folder, flush=True); os._exit(1)\n"
    )
    tests = str(Path(__file__).parents[2])
    said = subprocess.run([sys.executable, "-c", code, tests], capture_output=True, text=True)
    folder = Path(said.stdout.split()[-1])
    assert folder.exists()
    find(dataset)
    assert operator("clear_leftovers")(dataset).folders >= 1
    assert not folder.exists()
    assert fo.load_dataset(dataset.name).list_saved_views()
