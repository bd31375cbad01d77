"""The README and the docs: links resolve, tables of arguments are the signatures', snippets run."""

import inspect
import json
import re
from pathlib import Path

import pytest
from processes_common import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->\n\Z")
MOST_README_LINES = 220
SIDE = 64  # of the photos that snippets get, in pixels
ZOO_MODEL = "resnet18-imagenet-torch"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def of_pages(pages):
    return pytest.mark.parametrize("page", pages, ids=name_of)


# links


def prose(page):
    """A page without its code, in which brackets are not links."""
    return re.sub(r"`[^`\n]+`", "code", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    found = {}
    for heading in re.findall(
        r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    ):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        if found[anchor]:
            found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


@of_pages(LINKED)
def test_links_and_anchors_resolve(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


def test_anchors_are_made_as_github_makes_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# `list_layers`\n## What's *new*: a, b\n## Twice\n## Twice\n```\n# code\n```\n"
    )
    assert anchors(page) == {"list_layers", "whats-new-a-b", "twice", "twice-1"}


@of_pages(PAGES)
def test_tests_that_a_page_names_exist(page):
    missing = []
    for file, function in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8")):
        path = ROOT / file
        if not path.is_file() or (function and f"def {function}(" not in path.read_text("utf-8")):
            missing.append(f"{file}::{function}")
    assert not missing


def test_every_page_is_in_the_readmes_index():
    index = (ROOT / "README.md").read_text("utf-8").partition("## Documentation")[2]
    assert not [page.name for page in DOCS if f"(docs/{page.name})" not in index]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= MOST_README_LINES


# tables


def test_methods_table_of_the_docs_is_the_registrys():
    from tools.methods_table import PAGE, updated

    text = PAGE.read_text()
    assert updated(text) == text, "run tools/methods_table.py"


ARGUMENT = re.compile(r"^\| `([*\w]+)` \| (?:`(.+?)`|(required)|) \|", re.MULTILINE)


def test_operators_page_has_every_argument_with_its_default(plugin):
    text = (ROOT / "docs" / "operators.md").read_text("utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    operators = {op.name: op for op in plugin.instances if callable(op)}
    for name, operator in operators.items():
        written = {
            argument: None if required else default
            for argument, default, required in ARGUMENT.findall(sections[name])
        }
        assert written == expected_arguments(operator), name
    # what has a section is an operator; two of the App's own are called by nobody else
    others = {op.name for op in plugin.instances} - set(operators)
    assert set(sections) - set(operators) <= others


def expected_arguments(operator):
    """Argument -> its default as code, None for a required one, '' for ``**options``."""
    expected = {}
    for name, parameter in inspect.signature(operator).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            expected[f"**{name}"] = ""
        elif parameter.default is parameter.empty:
            expected[name] = None
        else:
            expected[name] = repr(parameter.default).replace("'", '"')
    return expected


# snippets


class Snippet:
    """A Python snippet of a page; ``not_run`` is the reason that its mark gives, or None."""

    def __init__(self, page, match):
        text = match.string
        mark = NOT_RUN.search(text[: match.start()])
        self.not_run = mark and mark[1]
        # as many lines before it as on the page: a traceback shows the page's own line
        lines = text[: match.start(2)].count("\n")
        self.code = compile("\n" * lines + match[2], name_of(page), "exec")


def snippets(page):
    found = list(FENCE.finditer(page.read_text("utf-8")))
    assert {match[1] for match in found} <= {"python", "bash", "shell", "text"}, (
        "an unknown language"
    )
    return [Snippet(page, match) for match in found if match[1] == "python"]


@of_pages(LINKED)
def test_snippets_compile(page):
    snippets(page)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder with a zoo of one model with random weights, which takes small photos as they are."""
    import fiftyone.zoo.models as fozm

    from tools.app_driver import plant_resnet18

    folder = tmp_path_factory.mktemp("zoo")
    plant_resnet18(folder)
    manifest = json.loads((Path(fozm.__file__).parent / "manifest-torch.json").read_text())
    entry = next(row for row in manifest["models"] if row["base_name"] == ZOO_MODEL)
    entry["default_deployment_config_dict"]["config"]["image_min_dim"] = SIDE
    (folder / "manifest.json").write_text(json.dumps({"models": [entry]}))
    return folder


@pytest.fixture
def names(plugin, zoo, make_dataset, photos, tmp_path, monkeypatch):
    """What snippets take for granted: a few photos, small networks with random weights, operators."""
    import fiftyone as fo
    import fiftyone.operators as foo
    import fiftyone.zoo.models as fozm
    import numpy as np
    import torch
    from operators_common import CLASSES, operator, small_network, transforms
    from PIL import Image
    from videos_common import video_samples

    from examples.dataset import photo_sample

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(zoo / "torch"))
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(zoo))
    monkeypatch.setattr(fozm, "_BUILTIN_MODELS_MANIFEST_PATT", str(zoo / "manifest.json"))
    (tmp_path / "films").mkdir()
    noise = np.random.default_rng(0).integers(0, 2**16, (4, 40, 40), dtype=np.uint16)
    for i, film in enumerate(noise):
        Image.fromarray(film).save(tmp_path / "films" / f"{i}.png")

    video_samples(tmp_path / "videos", 12, 6)

    samples = [photo_sample(photo) for photo in photos[:4]]
    for sample in samples:
        small = tmp_path / Path(sample.filepath).name
        Image.open(sample.filepath).convert("RGB").resize((SIDE, SIDE)).save(small)
        sample.filepath = str(small)
    dataset = make_dataset(*samples, name="cam51-demo")
    classes = ["tabby", "tiger cat", *CLASSES[2:]]
    names = {op.name: operator(op.name) for op in plugin.instances if callable(op)}
    yield {
        **names,
        "fo": fo,
        "foo": foo,
        "torch": torch,
        "dataset": dataset,
        "view": dataset.view(),
        "model": ZOO_MODEL,
        "my_module": small_network(),
        "my_transforms": transforms(),
        "my_classes": classes,
        "epoch_3": small_network(3),
        "epoch_9": small_network(9),
        "net": small_network(),
        "names": classes,
        "read": lambda path: transforms()(Image.open(path).convert("RGB")),
        "box": [0.8, 0.9, 0.2, 0.1],
    }
    for name in {row["name"] for row in operator("list_models")() if row["source"] == "registered"}:
        operator("remove_model")(name)
    operator("free_model")()


@of_pages(PAGES)
def test_snippets_run(page, request):
    to_run = [snippet for snippet in snippets(page) if not snippet.not_run]
    if to_run:
        names = request.getfixturevalue("names")
        for snippet in to_run:  # of one page, each goes on where the one before ended
            exec(snippet.code, names)
