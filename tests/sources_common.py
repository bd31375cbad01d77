"""The Python files of the repository, and what they import."""

import ast

from processes_common import ROOT


def sources(*rooms):
    """The Python files of rooms, or of the plugin's root."""
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    assert files, f"nothing in {rooms}"
    return files


def imports(path):
    """The absolute modules that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
