"""The method for one student of the paper's recipe, by the real engines and a hub on this machine."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.long


def test_the_papers_recipe_runs_from_the_hub_to_two_filled_rows_of_table_2(tmp_path):
    argv = [sys.executable, "tools/rehearsal/rehearse.py", "--short", "--out", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "table2: 12 of 12 cells are filled" in done.stdout  # of what was asked for
