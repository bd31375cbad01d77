"""The notebook runs from its first cell to its last, and git has it without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "hunting_background_bias.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 8
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_notebook_runs(notebook, database, plugin):
    client = NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    with client.setup_kernel(env={**os.environ, "MPLBACKEND": "agg"}):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    said = {
        cell.id: "".join(
            o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    text = "\n".join(said.values())
    assert "24 samples explained" in text
    assert "tested samples depends on the background" in text
    assert "lite0: relies on background" in text
    assert "random" in text.lower()
    # the last but one cell shows what is left once the runs are deleted
    assert "lite0" not in list(said.values())[-2]
    assert "why_not" not in list(said.values())[-2]
