"""Folders that a call names: what the App may write to, what Python may, and links on the way."""

import importlib
import os

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.operators.executor as executor
import pytest
from bias_common import agreeing, find
from faults_common import compute_tiny, write_pictures
from fiftyone.operators.executor import ExecutionError
from operators_common import PLUGIN, operator

pytestmark = pytest.mark.usefixtures("plugin")
NAMED = "bias_common:background_model"


def part(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture
def paths(plugin):
    return part("data.written_paths")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """FiftyOne's default dataset folder, for this test."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setattr(fo.config, "default_dataset_dir", str(folder))
    monkeypatch.delenv("CAM51_OUTPUT_ROOT", raising=False)
    return folder


@pytest.fixture
def two(make_dataset, tmp_path):
    return make_dataset(*(fo.Sample(filepath=p) for p in write_pictures(tmp_path / "pictures", 2)))


@pytest.fixture
def analysed(make_dataset, tmp_path):
    """A dataset with a run of a model that the server allows by name."""
    (tmp_path / "photos").mkdir()
    return make_dataset(*agreeing(tmp_path / "photos"))


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", NAMED)
    return {"model": NAMED, "cam_key": "a new run", "new_key": "run"}


def resolve(dataset, name, **params):
    request = {"dataset_name": dataset.name, "params": params}
    ctx = executor.ExecutionContext(request, executor=executor.Executor())
    return operator(name).resolve_input(ctx).type.properties


def run(dataset, name, **params):
    uri = f"@cam51/heatmaps/{name}"
    return foo.execute_operator(uri, {"dataset": dataset}, params=params)


@pytest.mark.parametrize("origin", ["app", "delegated"])
def test_the_app_writes_below_one_folder(paths, root, tmp_path, origin):
    (root / "inside").mkdir()
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "here").symlink_to(root / "inside")
    for path in ("maps", "here/maps", str(root), str(root / "a" / ".." / "b")):
        found = paths.confined("output_dir", path, origin)
        assert os.path.realpath(found).startswith(str(root))
    refused = [
        "/", "..", "../datasets-2", str(tmp_path), "~", "away", "away/maps", str(root / ".." / "x"),
        f"{root}-2", "here/../../x",
    ]  # fmt: skip
    for path in refused:
        with pytest.raises(ValueError, match="output_dir: from the App files are written below"):
            paths.confined("output_dir", path, origin)
    for path in ("", 7, None, "a\0b"):
        with pytest.raises(ValueError, match="output_dir must be the path of a folder"):
            paths.confined("output_dir", path, origin)


def test_python_writes_anywhere_unless_a_folder_is_set(paths, root, tmp_path, monkeypatch):
    outside = str(tmp_path / "outside")
    assert paths.confined("report", outside, "python") == outside
    assert paths.confined("report", "x", None) == os.path.abspath("x")
    monkeypatch.setenv("CAM51_OUTPUT_ROOT", str(tmp_path / "root"))
    for origin in ("python", "app"):
        with pytest.raises(
            ValueError, match=f"report: files are written below '{tmp_path}/root' only"
        ):
            paths.confined("report", outside, origin)
        assert paths.confined("report", "x", origin) == str(tmp_path / "root" / "x")


def test_the_setting_is_where_maps_go(two, root, tmp_path, monkeypatch):
    monkeypatch.setenv("CAM51_OUTPUT_ROOT", str(tmp_path / "root"))
    with pytest.raises(ValueError, match="output_dir: files are written below"):
        compute_tiny(two, storage="disk", output_dir=str(tmp_path / "maps"))
    compute_tiny(two, storage="disk")
    for path in two.values("run_gradcam.map_path"):
        assert path.startswith(str(tmp_path / "root" / "cam51"))
    assert not (tmp_path / "maps").exists()


def test_the_app_is_refused_before_the_run_and_in_the_form(two, root, tmp_path, allowed):
    params = {
        "model": NAMED, "cam_key": "run", "storage": "disk", "advanced": True,
        "output_dir": str(tmp_path / "maps"),
    }  # fmt: skip
    field = resolve(two, "compute_cams", **params)["output_dir"]
    assert field.invalid
    assert field.error_message.startswith("Folder: from the App files are written below")
    assert not resolve(two, "compute_cams", **{**params, "output_dir": "maps"})[
        "output_dir"
    ].invalid
    with pytest.raises(ExecutionError, match="from the App files are written below"):
        run(two, "compute_cams", **params)
    assert not (tmp_path / "maps").exists()
    assert not two.list_runs()
    # also where Python schedules it: the queue cannot tell who did
    with pytest.raises(ValueError, match="output_dir: from the App files are written below"):
        operator()(
            two,
            NAMED,
            cam_key="run",
            storage="disk",
            output_dir=str(tmp_path / "maps"),
            delegate=True,
        )
    run(two, "compute_cams", **{**params, "output_dir": "maps"})
    assert len(list((root / "maps" / "run" / "run_gradcam").iterdir())) == 2


def test_a_link_in_the_way_is_not_followed(two, root, tmp_path, allowed):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "cam51").symlink_to(outside)
    with pytest.raises(ExecutionError, match="which leads to"):
        run(two, "compute_cams", model=NAMED, cam_key="run", storage="disk")
    assert not list(outside.iterdir())
    # of a field inside the run's folder, also from Python
    (tmp_path / "maps" / "run").mkdir(parents=True)
    (tmp_path / "maps" / "run" / "run_gradcam").symlink_to(outside)
    with pytest.raises(OSError, match="it is a link, and links are not followed"):
        compute_tiny(two, storage="disk", output_dir=str(tmp_path / "maps"))
    assert not list(outside.iterdir())


def test_a_run_that_python_wrote_elsewhere_is_not_resumed_from_the_app(
    two, root, tmp_path, allowed
):
    """Its record may have come with a dataset, and name any folder."""
    arguments = {"storage": "disk", "output_dir": str(tmp_path / "maps"), "model": NAMED}
    operator()(two.limit(1), cam_key="run", progress=False, **arguments)
    before = sorted(p for p in (tmp_path / "maps").rglob("*"))
    with pytest.raises(ExecutionError, match="from the App files are written below"):
        run(two, "rerun_cams", cam_key="run", resume=True)
    with pytest.raises(ExecutionError, match="from the App files are written below"):
        run(two, "compute_cams", model=NAMED, cam_key="run", storage="disk", resume=True,
            output_dir=str(tmp_path / "maps"))  # fmt: skip
    assert sorted(p for p in (tmp_path / "maps").rglob("*")) == before
    operator("rerun_cams")(two, "run", resume=True, progress=False)
    assert len(list((tmp_path / "maps" / "run" / "run_gradcam").iterdir())) == 2


def test_a_report_from_the_app(analysed, root, tmp_path, allowed):
    form = resolve(analysed, "find_background_bias", **allowed, report="/etc")
    assert form["report"].invalid
    assert form["report"].error_message.startswith("Report folder: from the App files are")
    with pytest.raises(ExecutionError, match="from the App files are written below"):
        run(analysed, "find_background_bias", **allowed, report=str(tmp_path / "out"))
    assert not analysed.list_runs()
    assert not (tmp_path / "out").exists()

    theirs = root / "out" / "run_bias.html"
    theirs.parent.mkdir()
    theirs.write_text("somebody's")
    form = resolve(analysed, "find_background_bias", **allowed, report="out")
    assert form["report"].invalid
    assert 'run_bias.html\' exists; give another report folder, or switch on "Overwrite"' in (
        form["report"].error_message
    )
    with pytest.raises(ExecutionError, match=r"run_bias.html' exists; give another report folder"):
        run(analysed, "find_background_bias", **allowed, report="out")
    assert not analysed.list_runs()
    assert theirs.read_text() == "somebody's"

    victim = tmp_path / "victim.json"
    victim.write_text("somebody's")
    (root / "out" / "run_bias.json").symlink_to(victim)
    run(analysed, "find_background_bias", **allowed, report="out", overwrite=True)
    assert "<html" in theirs.read_text()
    assert victim.read_text() == "somebody's"
    assert not (root / "out" / "run_bias.json").is_symlink()
    assert not [p for p in (root / "out").iterdir() if p.name.endswith(".part")]


def test_a_report_of_python_writes_through_no_link(analysed, tmp_path):
    folder, victim = tmp_path / "report", tmp_path / "victim.csv"
    folder.mkdir()
    victim.write_text("somebody's")
    (folder / "run_bias_classes.csv").symlink_to(victim)
    find(analysed, report=str(folder))
    assert victim.read_text() == "somebody's"
    assert (folder / "run_bias_classes.csv").read_text().startswith("label,")
    (folder / "run_bias.html").unlink()
    (folder / "run_bias.html").mkdir()
    with pytest.raises(ValueError, match=r"report: '.*run_bias.html' is a folder"):
        find(analysed, report=str(folder), overwrite=True)
