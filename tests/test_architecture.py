"""The rooms of DESIGN and the arrows between them, read off the imports of every file.

An import counts wherever it stands: at the top, inside a function, under ``TYPE_CHECKING``.
"""

import ast

import pytest
from processes_common import ROOT, run_python
from sources_common import imports, sources

# A room imports itself and rooms further down; of rooms in one row none knows another.
OPERATORS = [
    ["operators"],
    ["operators.forms"],
    ["operators.sample_panel"],
    ["operators.panel"],
    ["operators.sample"],
    ["operators.bias", "operators.compare", "operators.drafts", "operators.fo_model"],
    ["operators.compute"],
    ["operators.jobs"],
    ["operators.targets"],
    ["operators.models"],
    ["operators.data"],
    ["operators.runs"],
    ["operators.text"],
]
CAM_CORE = [
    ["cam_core"],
    ["cam_core.detection"],
    ["cam_core.metrics"],
    ["cam_core.engine"],
    ["cam_core.methods"],
    ["cam_core.bias"],
    ["cam_core.adapters"],
    ["cam_core.places"],
    ["cam_core.capture"],
    ["cam_core.network"],
    ["cam_core.layers", "cam_core.targets"],
    ["cam_core.spatial", "cam_core.stats", "cam_core.linalg", "cam_core.batching"],
]
RANKS = {room: rank for rank, row in enumerate([*OPERATORS, *CAM_CORE]) for room in row}
# What does not follow the plan yet: (file, what it imports).
EXCEPTIONS: set[tuple[str, str]] = set()


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_name(path): path
    for room in ("cam_core", "operators")
    for path in (ROOT / room).rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def room_of(module):
    folder = ".".join(module.split(".")[:2])
    return folder if folder in RANKS else module.split(".")[0]


def imported(module):
    """Every name that a file of the plugin imports from the plugin: (module, name or None, local name)."""
    parts = module.split(".")
    package = parts if FILES[module].name == "__init__.py" else parts[:-1]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                local = alias.asname or alias.name
                yield (whole, None, local) if whole in FILES else (base, alias.name, local)


def arrows():
    for module in FILES:
        for target in sorted({target for target, _, _ in imported(module)}):
            # the plugin's own folder and package name, which are above everything
            if target != module and target != "operators":
                yield module, target


def goes_up(module, target):
    one, other = room_of(module), room_of(target)
    return one != other and RANKS[one] >= RANKS[other]


def test_every_file_has_a_room():
    for module, path in FILES.items():
        folder = path.parent.relative_to(ROOT).parts
        assert len(folder) == 1 or ".".join(folder[:2]) in RANKS, path
        assert (
            path.name == "__init__.py" or not path.name.startswith("_") or folder[0] == "cam_core"
        ), path
        assert module


def test_every_import_names_a_file_of_the_plugin():
    for module in FILES:
        for target, _, _ in imported(module):
            assert target in FILES, (module, target)


def test_no_arrow_goes_up():
    up = {pair for pair in arrows() if goes_up(*pair)}
    assert up - EXCEPTIONS == set()
    assert EXCEPTIONS - up == set(), "no exceptions any more: take them out of the list"


def circles(graph):
    """The sets of files that import each other (Tarjan, SIAM J. Comput. 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def graph_of_imports():
    graph = {}
    for module, target in arrows():
        graph.setdefault(module, []).append(target)
    return graph


def test_no_circle():
    assert circles(graph_of_imports()) == []


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["d2"]}) == [["b", "c"]]
    assert circles({"a": ["b", "c"], "b": ["c"]}) == []


def is_private(name):
    return name is not None and name.startswith("_") and not name.startswith("__")


def test_nothing_private_crosses_a_folder():
    crossed = []
    for module, tree in TREES.items():
        modules = {}
        for target, name, local in imported(module):
            if room_of(target) == room_of(module):
                continue
            if name is None:
                modules[local] = target
            elif is_private(name):
                crossed.append((module, f"{target}.{name}"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and is_private(node.attr)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                crossed.append((module, f"{modules[node.value.id]}.{node.attr}"))
    assert crossed == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("operators.data.loader", "operators.compute.plan"),
        ("operators.bias.job", "operators.compare.schema"),
        ("cam_core.spatial.maps", "cam_core.engine.explain"),
        ("cam_core.engine.explain", "operators.text"),
    ],
)
def test_the_guard_knows_an_arrow_that_goes_up(module, target):
    assert goes_up(module, target)
    assert not goes_up("operators.compute.plan", "cam_core.engine.explain")


def test_cam_core_works_without_fiftyone():
    run_python("import sys; sys.modules['fiftyone'] = None; from cam_core import *; list_methods()")


def test_what_needs_no_torch_loads_none():
    rooms = ", ".join(
        f"cam_core.{name}"
        for name in ("bias.assessment", "bias.effects", "bias.verdicts", "stats.resampling")
    )
    run_python(f"import sys; sys.modules['torch'] = None; import {rooms}")


def test_cam_core_finds_its_names_where_type_checkers_do():
    import cam_core

    tree = ast.parse((ROOT / "cam_core" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    told = {f".{node.module}": {n.name for n in node.names} for node in guarded.body}
    assert told == {room: set(names) for room, names in cam_core._PUBLIC.items()}
    assert sorted(set().union(*told.values())) == cam_core.__all__
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        _ = cam_core.explian


def test_cam_core_never_mentions_fiftyone_in_an_import():
    guilty = [
        (path.name, name)
        for path in sources("cam_core")
        for name in imports(path)
        if name.partition(".")[0] in ("fiftyone", "eta", "operators")
    ]
    assert not guilty


def test_the_plugin_imports_itself_relatively():
    # FiftyOne loads it as a package of another name: an absolute import would be a second copy,
    # or none
    own = {"cam_core", "operators", "examples", "tests", "tools", "benchmarks"}
    guilty = [
        (path.name, name)
        for path in sources("cam_core", "operators")
        for name in imports(path)
        if name.partition(".")[0] in own
    ]
    assert not guilty


def test_root_imports_nothing_at_its_top():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    docstring, *others = [type(node) for node in tree.body]
    assert docstring is ast.Expr
    assert set(others) == {ast.FunctionDef}
