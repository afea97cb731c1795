"""The project's own files: what a fresh clone relies on."""

import re
import subprocess
import tomllib

from conftest import ROOT

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


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-all", "check", "clean", "tiny-family"):
        assert f"make {target} " in done.stdout
