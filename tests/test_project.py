"""The project's own files: what a fresh clone relies on."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import ROOT

import micota_lf
from micota_lf import load_recipe


def test_the_lock_names_exact_versions_and_no_index():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+(\[[a-z,]+\])?==[\w.]+", line) for line in lines), lines
    locked = dict(line.split("==") for line in lines)
    assert locked["llamafactory"] == "0.9.5" and locked["mergekit"] == "0.1.5"
    assert locked["lm-eval"] == "0.4.13" and locked["torch"] == "2.11.0"


def test_the_lock_holds_what_the_package_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[=<>]", line)[0] for line in project["dependencies"]}
    locked = {re.split(r"[\[=]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert wanted <= locked
    assert not any(name.startswith("vllm") for name in locked)  # an extra: it needs a GPU


def test_every_recipe_loads_and_its_header_says_how_to_run_it():
    for path in (ROOT / "recipes").glob("*.yaml"):
        load_recipe(path)
        for word in ("Paper row:", "Hardware:", "Command:", "Override:"):
            assert word in path.read_text()[:900], (path, word)


PUBLIC = (
    "MicotaError Recipe RecipeError StepFailed UserError compile_plan dataset_info deepspeed_config "
    "evaluate_command load_recipe merge_config train_config"
)


def test_the_public_names_are_there_under_their_own_names():
    assert sorted(micota_lf.__all__) == PUBLIC.split()
    assert [getattr(micota_lf, name).__name__ for name in PUBLIC.split()] == PUBLIC.split()
    assert not hasattr(micota_lf, "yaml")


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-all", "check", "clean", "tiny-family"):
        assert f"make {target} " in done.stdout


SHARED = """
import os, pathlib, pytest

@pytest.fixture(scope="module")
def run():
    with open(pathlib.Path(__file__).with_name("made"), "a") as made:
        made.write(f"{os.getpid()}\\n")

@pytest.mark.parametrize("n", range(6))
def test_with(run, n): pass
"""


def test_two_workers_make_a_modules_fixture_once(tmp_path):
    """As `make test` distributes them; pytest 9.2 with xdist 3.8 ignores groups without a word."""
    (tmp_path / "test_shared.py").write_text(SHARED)
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    makefile = (ROOT / "Makefile").read_text()
    options = re.search(r"^TWO_AT_A_TIME := (.+)$", makefile, re.MULTILINE)[1].split()
    words = [sys.executable, "-m", "pytest", *options, "-q", "--rootdir", str(tmp_path), str(tmp_path)]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert len((tmp_path / "made").read_text().split()) == 1
