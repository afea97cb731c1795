"""Every script of tools/ and benchmarks/ and every target of the Makefile is started at a small size."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from glob import glob
from pathlib import Path

import pytest
from conftest import BENCHMARKS, ROOT

import micota_lf
from micota_lf.cli.main import main

VLLM = os.environ.get("MICOTA_VLLM_PYTHON", "")
NEEDS_VLLM = pytest.mark.skipif(
    not VLLM, reason="MICOTA_VLLM_PYTHON names no Python with vLLM (make test-vllm)"
)
NEEDS_BENCHMARKS = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"no benchmarks at {BENCHMARKS}")
SLOW = pytest.mark.slow

SCRIPTS = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("tools", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__main__" in path.read_text()  # the others are imported by these
}
"""What a person can start, by its path from the root."""

# By generation.py --vllm, in the Python that has vLLM; by tests that have the runs which they need.
RUN_BY_ANOTHER = {
    "benchmarks/offline.py", "tools/rehearsal/rehearse.py",
    "tools/tiny_family/chains.py", "tools/choose_by_bpc.py", "tools/heatmap.py",
}  # fmt: skip

# A script, its arguments (`{out}` is an empty folder) and marks; a script may have several cases.
CASES = [
    pytest.param("tools/count_lines.py", "--all"),
    pytest.param("tools/recipe_reference.py", "--check"),
    pytest.param("tools/recipe_reference.py", "--check", marks=SLOW),
    pytest.param(
        "tools/tiny_family/train.py",
        "--out {out} --family gap --only student-s --scale 0.005 --limit 4",
        marks=SLOW,
    ),
    pytest.param("tools/tiny_family/problems.py", "--count 1300 --seed 1 --out {out}"),
    pytest.param("benchmarks/balance.py", "--rows 400", marks=SLOW),
    pytest.param("benchmarks/generation.py", "", marks=SLOW),
    pytest.param(
        "benchmarks/generation.py",
        f"--vllm {VLLM} --prompts 8 --rounds 1",
        marks=[pytest.mark.long, NEEDS_VLLM],
    ),
    pytest.param("benchmarks/grading.py", "--rows 40", marks=SLOW),
    pytest.param(
        "benchmarks/grading_accuracy.py", f"{BENCHMARKS} --only legacy", marks=[SLOW, NEEDS_BENCHMARKS]
    ),
    pytest.param("benchmarks/orchestration.py", "--no-run", marks=SLOW),
    pytest.param("benchmarks/unboxed.py", ""),
    pytest.param("benchmarks/schedule.py", "--hour 0.1", marks=SLOW),
    pytest.param("benchmarks/widened.py", "tiny:student-s {out}/wide", marks=SLOW),
]


def name_of(value):
    """A case's name: `vllm` is in the names of those that `make test-vllm` runs."""
    return value if value in SCRIPTS else "vllm" if VLLM and VLLM in value else "small"


def started(*words, **more):
    """Standard output of a command that must succeed; the message shows what it said."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, **more)
    assert done.returncode == 0, (words, done.stdout[-1500:], done.stderr[-1500:])
    return done.stdout


def test_every_script_has_a_case():
    assert {case.values[0] for case in CASES} | RUN_BY_ANOTHER == set(SCRIPTS)


@pytest.mark.parametrize(("script", "arguments"), CASES, ids=name_of)
def test_a_script_runs_at_a_small_size(script, arguments, tmp_path):
    started(sys.executable, script, *arguments.format(out=tmp_path).split())


@pytest.mark.slow  # some import torch
@pytest.mark.parametrize("script", [name for name, path in SCRIPTS.items() if "argparse" in path.read_text()])
def test_a_script_with_options_explains_them(script):
    assert "usage:" in started(sys.executable, script, "--help")


BIN = Path(sys.executable).parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = " ".join(re.findall(r"^([a-z][a-z0-9 -]*):(?!=)", MAKEFILE, re.MULTILINE)).split()


def commands_of(target):
    """What `make TARGET` would run where the environments are there, as lines of the shell."""
    environments = (".venv/.ready", ".venv-vllm/.ready", "build/rehearsal/.ready")
    ready = [word for file in environments for word in ("-o", file)] + [f"BIN={BIN}", "GPU="]
    lines = started("make", "--no-print-directory", "-n", *ready, target).replace("\\\n", " ").splitlines()
    # Below `make test` it names itself make[1].
    return [line for line in lines if not re.match(r"make(\[\d+\])?: Nothing", line)]


def try_command(line, tmp_path):
    """Start a command so that it changes nothing: a plan for a run, collecting for tests, else --help."""
    words = [name for word in shlex.split(line) for name in sorted(glob(word, root_dir=ROOT)) or [word]]
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, rest = words[0], words[1:]
    assert shutil.which(program, path=os.environ["PATH"]), line
    if Path(program).name == "micota":
        assert rest[0] == "run"
        assert main(["plan", *rest[1:], "--workspace", str(tmp_path)]) == 0, line
    elif rest[:2] == ["-m", "pytest"]:
        assert "::" in started(*words, "--collect-only", "-n", "0", "--override-ini", "addopts=-q")
    elif Path(program).name == "python":
        assert started(program, rest[0], "--help")
    elif Path(program).parent == BIN:
        assert started(program, *rest[: 2 if rest[:1] == ["pip"] else 0], "--help")


@pytest.mark.parametrize("target", TARGETS)
def test_a_targets_commands_are_shell_and_there(target):
    for line in commands_of(target):
        started("bash", "-nc", line)
        program = next(word for word in line.split() if not re.match(r"[A-Z_]+=", word))
        assert shutil.which(program), line


@pytest.mark.slow  # collects all tests several times
@pytest.mark.parametrize("target", TARGETS)
def test_a_targets_commands_start(target, tmp_path, capsys):
    for line in commands_of(target):
        if target not in ("help", "clean"):  # lines of grep and rm
            try_command(line, tmp_path)


def test_what_ci_calls_is_there():
    lines = (ROOT / ".ci/run").read_text()
    started("bash", "-n", ".ci/run")
    done = subprocess.run([".ci/run", "most"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: .ci/run [all]\n")
    assert set(re.findall(r"^make ([a-z-]+)", lines, re.MULTILINE)) <= set(TARGETS)


@pytest.mark.long
def test_a_wheel_made_of_the_sdist_holds_every_file_of_the_package_and_runs_a_shipped_recipe(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("micota_lf", "data_info", "recipes"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for kind, where in (("sdist", tree), ("wheel", tmp_path / f"micota_lf-{micota_lf.__version__}")):
        build = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", build], cwd=where, check=True, capture_output=True)
        if kind == "sdist":
            with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as packed:
                packed.extractall(tmp_path, filter="data")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("micota_lf/")}
        entries = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "micota = micota_lf.cli.main:main" in wheel.read(entries).decode()
    tracked = {
        path.relative_to(tree).as_posix() for path in (tree / "micota_lf").rglob("*") if path.is_file()
    }
    tracked |= {
        f"micota_lf/{path.relative_to(tree)}"
        for name in ("data_info", "recipes")
        for path in (tree / name).rglob("*")
        if path.is_file()
    }
    assert held == tracked
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    words = ["-m", "micota_lf", "run", "recipes/examples/baseline.yaml", "--target", "filter/strong"]
    words += ["prompts.limit=8", "--workspace", str(tmp_path / "runs")]
    where = {"cwd": tmp_path / "installed" / "micota_lf" / "tiny", "capture_output": True, "text": True}
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, *words], env=env, check=False, **where)
    assert "3/3 done    filter/strong" in done.stdout, done.stderr
    words = ["-c", "import micota_lf; print(micota_lf.__file__)"]
    done = subprocess.run([sys.executable, *words], env=env, check=False, **where)
    assert done.stdout.startswith(str(tmp_path / "installed"))
