"""The notebook runs from its first cell to its last and prints what it promises."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def printed():
    notebook = nbformat.read(ROOT / "notebooks" / "recipes.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT / "notebooks"}}).execute()
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_the_notebook_prints_the_engines_configs(printed):
    for words in (
        "merge_method: dare_ties",
        "formatting: alpaca",
        "lr_scheduler_type: cosine",
        "lm_eval run",
    ):
        assert words in printed
    assert "8 GPUs: accumulate  16 x 1 a device = 128 conversations a step" in printed


def test_the_notebook_shows_errors_and_what_a_change_touches(printed):
    assert "did you mean 'learning_rate'?" in printed and "must be 1 or less" in printed
    assert "train     llama-3.2-3b-instruct-on-" in printed
    assert "hardware.gpus=4                            0 new steps" in printed


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "notebooks" / "recipes.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
