"""Each notebook runs from its first cell to its last and prints what it promises."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


def run(name, folder, seconds=120):
    """What a notebook prints and shows as text, run beside the project's recipes."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in outputs)


@pytest.fixture(scope="module")
def printed():
    return run("recipes", ROOT / "notebooks")


@pytest.fixture
def folder(tmp_path):
    """A place for a notebook that runs something: recipes as beside it, a workspace of its own."""
    for name in ("recipes", "data_info"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.mark.long
def test_a_run_is_read_as_frames(folder):
    said = run("results", folder, 600)
    assert (
        "Strong Teacher CoT" in said
        and "problems are right untrained and wrong after the long chains" in said
    )
    assert "symbolic  response_tokens  truncated" in said


@pytest.mark.long
def test_a_sweep_shares_its_steps_and_compares_its_merges(folder):
    said = run("sweep", folder, 600)
    assert "steps; weight=0.3 weight=0.6" in said and "weight=0.6" in said.split("value")[-1]


@pytest.mark.long
def test_ones_own_files_go_through_the_method(folder):
    said = run("own_data", folder, 600)
    assert "filter filter/strong" in said and "own-data: 4 of" in said
    assert "has no 'problem'; known: question, gold" in said


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


def test_notebooks_are_stored_without_outputs():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells), path
