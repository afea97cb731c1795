"""Machines that fail: each fault is one clear message, nothing is lost, the same command goes on."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import TINY
from test_runs import QUICK

from micota_lf import StepFailed, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.problems import Prompts, load_problems
from micota_lf.run.snakemake import pending_steps, run_plan
from micota_lf.run.step import failure_report, state
from micota_lf.system import processes
from micota_lf.system.files import read_json, read_jsonl, write_jsonl


class Disk:
    """A file system of its own, as small as one wants."""

    def __init__(self, path):
        self.path = path
        self.path.mkdir()
        self.mounted = not self._mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")

    def _mount(self, *words):
        return subprocess.run(["mount", *words, str(self.path)], capture_output=True).returncode

    def become(self, options):
        assert self._mount("-o", f"remount,{options}") == 0

    def fill(self, but):
        """Leave so many bytes free."""
        with (self.path / "ballast").open("wb") as ballast:
            ballast.write(b"-" * max(0, shutil.disk_usage(self.path).free - but))

    def close(self):
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    if not made.mounted:
        pytest.skip("no right to mount a file system")
    yield made
    made.close()


def one_line(capsys, *words):
    """The one line that was said, without a traceback."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line


def generate(out):
    words = ["generation.backend=fake", "prompts.limit=1200", "prompts.template=Solve {problem}" + "." * 2000]
    return main(["generate", "--model", "tiny:student-s", "--prompts", "tiny:train", "-o", str(out), *words])


def test_generation_on_a_full_disk_goes_on_when_there_is_room(disk, capsys):
    out = disk.path / "out"
    assert generate(out) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device; free some space and run the same command again" in said[-1]
    before = (out / "responses.jsonl").read_bytes().count(b"\n")
    assert 0 < before < 1200
    disk.become("size=100m")
    assert generate(out) == 0
    ids = [row["id"] for row in read_jsonl(out / "responses.jsonl")]
    assert sorted(ids) == sorted(row["id"] for row in load_problems(Prompts("tiny:train")))


@pytest.mark.parametrize("free", [0, 5_000, 200_000])
def test_a_file_that_finds_no_room_keeps_its_old_content_and_leaves_nothing(disk, free):
    """At opening, while writing, and at the end: the old one stays until the new one is whole."""
    path = disk.path / "corpus.jsonl"
    write_jsonl(path, [{"id": "old"}])
    disk.fill(free)
    with pytest.raises(OSError, match="No space left"):
        write_jsonl(path, ({"id": str(n), "text": "x" * 1000} for n in range(300)))
    assert read_jsonl(path) == [{"id": "old"}]
    assert sorted(p.name for p in disk.path.iterdir()) == ["ballast", "corpus.jsonl"]


@pytest.mark.slow
def test_a_training_on_a_full_disk_fails_with_its_reason_and_goes_on_when_there_is_room(disk, capsys):
    corpus = disk.path.parent / "corpus.jsonl"
    write_jsonl(corpus, [{"prompt": f"{n}+1?", "response": f"{n + 1}"} for n in range(8)])
    words = ["per_device_train_batch_size=1", "global_batch_size=1", "num_train_epochs=1", "save_steps=2"]
    words += ["bf16=false", "use_cpu=true", "check_template=false", "save_strategy=steps"]
    out = disk.path / "out"
    command = ["train", "--model", "tiny:student-s", "--corpus", str(corpus), "-o", str(out)]
    command += [f"train.{word}" for word in words]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"the disk of {out} is full; free some space and run the same command again" in said
    assert list(out.glob("model/checkpoint-*"))
    disk.become("size=100m")
    assert main(command) == 0
    assert read_json(out / "done.json")["results"]["steps"] == 8
    assert not list(out.glob("model/checkpoint-*"))


@pytest.mark.slow
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(disk):
    plan, workspace = compile_plan(load_recipe(TINY, [*QUICK, "prompts.limit=1200"])), disk.path / "runs"

    def run():
        run_plan(plan, workspace, pending_steps(plan, workspace, ["filter/strong"]), say=lambda _: None)

    disk.fill(250_000)  # room for the plan, not for the steps
    with pytest.raises(StepFailed, match=r"failed: .*\n.*disk of .* is full; free some space and run"):
        run()
    (disk.path / "ballast").unlink()
    disk.become("size=100m")
    run()
    assert not pending_steps(plan, workspace, ["filter/strong"])


def test_too_small_a_disk_is_refused_before_anything_starts(disk, capsys):
    assert main(["run", str(TINY), "--workspace", str(disk.path / "runs"), *QUICK]) == 2
    assert "GiB are free in" in capsys.readouterr().err
    assert not list(disk.path.iterdir())


def test_a_read_only_workspace_is_one_line(disk, capsys):
    disk.become("size=20g")
    disk.become("ro")
    assert main(["run", str(TINY), "--workspace", str(disk.path / "runs"), *QUICK]) == 2
    one_line(capsys, "micota: ", str(disk.path), "Read-only file system")


KILLER = """
import os, signal
os.kill(os.getppid() if "student-m" in os.getcwd() else os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_an_engine_or_a_step_that_was_killed_is_named_and_the_other_branches_go_on(tmp_path):
    """As the kernel kills for want of memory, and a batch system at a limit: then no failed.json is left."""
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    plan = compile_plan(load_recipe(TINY, [*QUICK[:3], f"engines.llamafactory={sys.executable} {killer}"]))
    targets = ["train/student-s/strong", "train/student-m/strong", "mix/mix-long"]
    with pytest.raises(StepFailed) as caught:
        run_plan(plan, tmp_path, pending_steps(plan, tmp_path, targets), say=lambda _: None)
    said = str(caught.value)
    assert re.search(
        r"train/student-s/strong failed: python\S* was killed \(exit code -9\), .* want of memory", said
    )
    assert "train/student-m/strong failed: ended without a word: killed from outside" in said
    assert "Run the same command again" in said
    assert state(tmp_path / plan.steps[plan.slots["mix/mix-long"]].directory) == "done"


SKEWED = """
import itertools, os, time
now, sign = os.utime, itertools.cycle([1, -1])
def utime(path, times=None, **more):
    there = time.time() + next(sign) * 3 * 365 * 86400
    now(path, (there, there) if times is None else times, **more)
os.utime = utime
"""


@pytest.mark.slow
def test_a_clock_that_jumps_by_years_during_a_run_fails_no_step(tmp_path, monkeypatch):
    """Every second time of a file that Snakemake sets lies three years ahead, every other one as far back."""
    (tmp_path / "sitecustomize.py").write_text(SKEWED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    plan, workspace, said = compile_plan(load_recipe(TINY, QUICK)), tmp_path / "runs", []
    todo = [made for made in pending_steps(plan, workspace, ["mix/mix-long"]) if made not in plan.gates]
    run_plan(plan, workspace, todo, say=said.append)
    started, done = ([line for line in said if word in line] for word in ("started ", "done "))
    assert len(todo) == len(done) == 5 >= len(started) == len(set(started))  # some are too quick to be seen
    assert not [line for line in said if "failed " in line]
    ages = [time.time() - path.stat().st_mtime for path in (workspace / ".micota" / "ended").iterdir()]
    assert min(ages) < -(10**7) or max(ages) > 10**7  # clocks did jump
    assert not pending_steps(plan, workspace, ["mix/mix-long"])


@pytest.mark.parametrize(("code", "words"), [
    (-9, "was killed"), (137, "want of memory"), (-11, "was ended by SIGSEGV"), (2, "ended with exit code 2"),
])  # fmt: skip
def test_exit_codes_are_told_in_words(code, words):
    assert words in processes.ending(code)


def test_an_engine_of_another_version_is_warned_of(monkeypatch):
    assert processes.untested_versions() == []
    monkeypatch.setattr(processes.metadata, "version", lambda name: "0.1" if name == "mergekit" else "9+cpu")
    lines = processes.untested_versions()
    assert "mergekit 0.1 is installed; micota_lf was tested with 0.1.5" in lines


def test_a_damaged_failed_json_hides_no_log(tmp_path):
    (tmp_path / "failed.json").write_text("{}")
    (tmp_path / "log.txt").write_text("the engine's words\n")
    assert "the engine's words" in failure_report(tmp_path)


@pytest.mark.parametrize("before", ["", "(Worker pid=7) ERROR 11-11 12:00:00 [core.py:708] ", "[rank3]: "])
def test_a_failure_names_the_error_that_stands_far_above_the_end_of_the_log(tmp_path, before):
    cause = "torch.OutOfMemoryError: CUDA out of memory."
    bar = "\r".join(f"{n}%|###|" for n in range(100))
    words = [
        bar,
        "Traceback (most recent call last):",
        f"{before}{cause}",
        *["noise " * 200] * 999,
        "the end",
    ]
    log = tmp_path / "log.txt"
    log.write_text("\n".join(words))
    lines = processes.last_errors(log)
    assert (
        lines[0] == ("rank 3: " * ("rank3" in before)) + cause
        and lines[-1] == "the end"
        and max(map(len, lines)) == 400
    )
    assert len(lines) == 9 and cause in failure_report(tmp_path)


def test_an_error_at_the_end_of_a_log_is_said_once_and_an_empty_log_says_nothing(tmp_path):
    log = tmp_path / "log.txt"
    assert processes.last_errors(log) == []
    log.write_text("")
    assert processes.last_errors(log) == []
    log.write_text("ValueError: no\n" * 20)
    assert processes.last_errors(log, 2) == ["ValueError: no"] * 2


def test_a_command_by_hand_runs_in_its_directory_with_its_environment(tmp_path):
    here = tmp_path / "it's here"
    here.mkdir()
    line = processes.by_hand(["sh", "-c", 'echo "$WORD" "$PWD"'], {"WORD": "a b; $c"}, here)
    said = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert said == f"a b; $c {here}\n"
