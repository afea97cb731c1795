"""The project's own files: what a fresh clone relies on."""

import doctest
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import micota_lf
from micota_lf import compile_plan, load_recipe

LOCKS = {
    name: (ROOT / name).read_text().splitlines() for name in ("requirements.txt", "requirements-gpu.txt")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(lines):
    return {re.split(r"[\[=<>]", line)[0] for line in lines}


@pytest.mark.parametrize("lines", LOCKS.values(), ids=LOCKS)
def test_a_lock_names_exact_versions_and_no_index(lines):
    assert all(re.fullmatch(r"[a-z0-9._-]+==[\w.]+", line) for line in lines), lines
    locked = dict(line.split("==") for line in lines)
    assert locked["llamafactory"] == "0.9.5" and locked["mergekit"] == "0.1.5"
    assert locked["lm-eval"] == "0.4.13" and locked["torch"] == "2.11.0"


def test_the_locks_hold_what_the_package_requires_in_the_same_versions():
    small, large = map(set, LOCKS.values())
    extras = PROJECT["optional-dependencies"]
    gpu = names_of([*extras["gpu"], *extras["vllm"]])
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert gpu == {"deepspeed", "liger-kernel", "vllm"}
    assert names_of(PROJECT["dependencies"]) <= names_of(small) < names_of(large)
    assert small < large and gpu <= names_of(large - small)


# Packages without a wheel, which are Python alone (MarkupSafe does without its compiled part where it must).
BUILT = {"connection-pool", "deepspeed", "rouge-score", "sqlitedict", "word2number"}
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))


@pytest.mark.slow  # asks the package index
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_whole_and_without_conflicts_on_each_python_and_nothing_needs_a_compiler(lock, python):
    if not shutil.which(UV):
        pytest.skip("no uv")
    built = BUILT | ({"markupsafe"} if python == "3.13" else set())
    words = [UV, "pip", "compile", lock, "--python-version", python, "--only-binary", ":all:", "--no-header"]
    words += [
        "--no-annotate",
        "--no-emit-index-url",
        *(word for one in built for word in ("--no-binary", one)),
    ]
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode and re.search(r"error sending request|Failed to fetch|offline", done.stderr):
        pytest.skip(f"no package index: {done.stderr[-200:]}")
    assert done.stdout.splitlines() == LOCKS[lock], done.stderr[-2000:]


@pytest.fixture
def make(tmp_path):
    """`make setup` of an environment in an empty folder, with a made-up nvidia-smi and uv."""
    tools = tmp_path / "tools"
    tools.mkdir()
    started = tmp_path / "started"
    started.touch()

    def program(name, text):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)

    program("uv", f'echo "$@" >> {started}\n[ "$1" != venv ] || mkdir -p {tmp_path}/venv/bin')

    def run(driver=None, **variables):
        if driver is not None:
            program("nvidia-smi", driver)
        given = {"VENV": f"{tmp_path}/venv", "PYTHON": sys.executable, **variables}
        words = ["make", "setup", *(f"{key}={value}" for key, value in given.items())]
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        env["PATH"] = f"{tools}:/usr/bin:/bin"
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        return done, started.read_text()

    return run


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ("echo 570.133.20; echo 570.133.20", "the GPU's driver is '570.133.20', but 580 or newer is needed"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "the GPU's driver is 'NVIDIA-SMI has failed', but 580"),
        ("exit 0", "the GPU's driver is '', but 580"),
    ],
)
def test_a_driver_that_is_too_old_is_one_line_before_anything_is_installed(make, driver, said):
    done, started = make(driver)
    line = done.stderr.splitlines()[0]
    assert done.returncode == 2 and line.startswith(said) and started == ""
    assert "sudo apt-get install nvidia-driver-580-server" in line and "make GPU= setup" in line


@pytest.mark.parametrize(
    ("driver", "variables", "lock"),
    [
        ("echo 580.65.06", {}, "requirements-gpu.txt"),
        ("echo 610.10", {}, "requirements-gpu.txt"),
        (None, {}, "requirements.txt"),
        ("echo 470.10", {"GPU": ""}, "requirements.txt"),
        (None, {"GPU": "1"}, "requirements-gpu.txt"),
    ],
)
def test_setup_installs_the_lock_of_its_machine(make, driver, variables, lock):
    if driver is None and shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has a GPU")
    done, started = make(driver, **variables)
    assert done.returncode == 0, done.stderr
    assert f"-r {lock}" in started.splitlines()[-2].partition("--compile-bytecode")[2]
    assert started.splitlines()[-1].endswith("-e .")


def test_setup_refuses_a_python_that_the_locks_are_not_for(make):
    done, started = make(PYTHON="false")
    assert done.stderr.startswith("Python 3.11, 3.12 or 3.13 is needed") and started == ""


def test_every_recipe_loads_and_its_header_says_how_to_run_it(gap_seeds):
    for path in [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes" / "experiments").glob("*.yaml")]:
        load_recipe(path)
        for word in ("Paper row:", "Hardware:", "Command:", "Override:"):
            assert word in path.read_text()[:900], (path, word)
    for path in (ROOT / "recipes" / "families").glob("*.yaml"):
        assert max(map(len, path.read_text().splitlines())) < 120
        assert compile_plan(load_recipe(path)).needed(["table2"])
    for path in (ROOT / "recipes" / "examples").glob("*.yaml"):
        compile_plan(load_recipe(path))
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert len(lines) <= 13 and f"micota run recipes/examples/{path.name}" in path.read_text()


def test_the_version_is_one():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert micota_lf.__version__ == cited["version"] == newest[1] == metadata.version("micota_lf")


def test_hooks_and_the_forges_workflow_call_what_a_person_types():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    for entry in (hook["entry"].replace(".venv/bin/", "").removesuffix(" --fix") for hook in hooks):
        assert entry in checks.replace("$(BIN)/", "").replace(" --check", "")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    run = workflow["jobs"]["ci"]["steps"][-1]["run"]
    assert run == ".ci/run ${{ github.event_name == 'schedule' && 'all' || '' }}"


PUBLIC = (
    "MicotaError Recipe RecipeError Results StepFailed UserError compile_plan dataset_info deepspeed_config "
    "evaluate_command load_recipe merge_config results run_recipe sweep train_config"
)


def test_the_public_names_are_there_under_their_own_names():
    assert sorted(micota_lf.__all__) == PUBLIC.split()
    assert [getattr(micota_lf, name).__name__ for name in PUBLIC.split()] == PUBLIC.split()
    assert not hasattr(micota_lf, "yaml")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "run_recipe")) for name in PUBLIC.split()]
)
def test_help_of_every_public_name_shows_an_example_that_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # recipes by their names alone
    (examples,) = doctest.DocTestFinder(recurse=False).find(getattr(micota_lf, name), name, globs={})
    said = []
    found = doctest.DocTestRunner().run(examples, out=said.append)
    assert found.attempted > 0 and not found.failed, "".join(said)


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
