"""The table of faults names tests that exist, and every fault's test is in it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def functions(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test_that_exists():
    table = TEXT[TEXT.index("| what | what is recorded") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 30
    for row in table:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert name in functions(path), (path, name)


def test_every_other_test_that_is_named_exists():
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT):
        assert name in functions(path), (path, name)
