"""Runs on a real Slurm: GPU requests, failures, a coordinator that is killed, leases between jobs."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import ask, cluster, why_not

from micota_lf import compile_plan, load_recipe
from micota_lf.run import slurm
from micota_lf.run.step import states

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

HERE = Path(__file__).parent
TINY = HERE.parent.parent / "recipes" / "tiny-no-gap.yaml"
TRAININGS = ["train/student-s/strong", "train/student-m/strong", "train/assistant/strong"]
# What `micota run --executor slurm` does after its checks; the preflight, which loads models, is left out.
DRIVER = """
import sys
from micota_lf.cli import commands, main
from micota_lf.run.snakemake import pending_steps
def pending(plan, *where):
    return [made for made in pending_steps(plan, *where) if made not in plan.gates]
commands.pending_steps = pending
sys.exit(main.main(["run", "--executor", "slurm", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module", autouse=True)
def slurm_at_work(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")):
        yield


class Run:
    """A workspace, and `micota run` on it in another process, its trainings under our control."""

    def __init__(self, folder: Path):
        self.events, self.workspace = folder / "events", folder / "runs"
        self.events.mkdir(parents=True)
        trainer = [sys.executable, str(HERE / "trainer.py"), str(self.events)]
        self.words = [
            "generation.backend=fake", "prompts.limit=20", "filter.verdict=none", "hardware.gpus=8",
            "hardware.train_gpus=4", "hardware.inference_gpus=2", "train.per_device_train_batch_size=2",
            f"engines.llamafactory={shlex.join(trainer)}",
            "hardware.slurm.time=2h", "hardware.slurm.nice=7",
        ]  # fmt: skip
        self.plan = compile_plan(load_recipe(TINY, self.words))

    def start(self) -> subprocess.Popen:
        targets = [word for slot in TRAININGS for word in ("--target", slot)]
        argv = [str(TINY), *targets, "--workspace", str(self.workspace), *self.words]
        with (self.events / "said").open("ab") as said:
            return subprocess.Popen([sys.executable, "-c", DRIVER, *argv], stdout=said, stderr=said)

    def directory(self, slot: str) -> Path:
        return self.workspace / self.plan.steps[self.plan.slots[slot]].directory

    def state(self, slot: str) -> str:
        return states(self.plan, self.workspace)[self.plan.slots[slot]]

    def happened(self, what: str) -> list[list[str]]:
        """Names and GPUs of the trainings' events of one sort."""
        log = self.events / "log"
        lines = [line.split() for line in (log.read_text() if log.exists() else "").splitlines()]
        return [rest for word, *rest in lines if word == what]

    def wait_for(self, condition, runner: subprocess.Popen | None = None):
        deadline = time.monotonic() + 240
        while not condition():
            over = runner is not None and runner.poll() is not None
            if over or time.monotonic() > deadline:
                logs = [self.events / "said", self.workspace / ".micota" / "snakemake.log"]
                raise AssertionError("\n".join(log.read_text()[-5000:] for log in logs if log.exists()))
            time.sleep(0.2)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three trainings, of which one fails; returns it with what Slurm said of its jobs meanwhile."""
    run = Run(tmp_path_factory.mktemp("work space"))
    (run.events / "fail").write_text("student-m-")
    runner = run.start()
    run.wait_for(lambda: len(run.happened("begin")) == 2, runner)
    run.wait_for(lambda: len(slurm.leftovers(run.workspace)) == 3, runner)
    jobs = {job: ask("scontrol", "show", "job", job) for job in slurm.leftovers(run.workspace)}
    (run.events / "go").touch()
    runner.wait()
    return run, jobs, runner.returncode


def test_each_training_is_a_job_with_its_gpus_and_the_third_waits_for_free_ones(first):
    run, jobs, _ = first
    assert len(jobs) == 3
    assert all(re.search(r"TresPerJob=gres.gpu[:=]4\b", words) for words in jobs.values())
    assert all("TimeLimit=02:00:00" in words and "Nice=7" in words for words in jobs.values())
    assert sorted(words.split("JobState=")[1].split()[0] for words in jobs.values()) == [
        "PENDING", "RUNNING", "RUNNING",
    ]  # fmt: skip
    assert all(len(gpus.split(",")) == 4 for _, gpus in run.happened("begin"))


def test_quick_steps_are_no_jobs(first):
    run, _, _ = first
    assert run.state("filter/strong") == "done"
    log = (run.workspace / ".micota" / "snakemake.log").read_text()
    submitted = [line for line in log.splitlines() if "has been submitted with SLURM jobid" in line]
    assert len(submitted) == 4  # one generation, three trainings


def test_a_job_that_fails_leaves_the_others(first):
    run, _, code = first
    assert code == 1
    now = {slot: run.state(slot) for slot in TRAININGS}
    assert now == dict(zip(TRAININGS, ("done", "failed", "done"), strict=True))
    assert "step train/student-m/strong failed" in (run.events / "said").read_text()


def test_a_killed_coordinator_and_a_second_run_do_each_step_once(first, tmp_path):
    run = Run(tmp_path)
    for kind in ("generate", "filter"):
        shutil.copytree(first[0].workspace / kind, run.workspace / kind)
    runner = run.start()
    run.wait_for(lambda: len(run.happened("begin")) == 2, runner)
    run.wait_for(lambda: len(slurm.leftovers(run.workspace)) == 3, runner)
    before = slurm.leftovers(run.workspace)
    queued = next(job for job, state in before.items() if state == "PENDING")
    runner.kill()
    runner.wait()
    again = run.start()
    run.wait_for(lambda: queued not in slurm.leftovers(run.workspace), again)
    run.wait_for(lambda: len(slurm.leftovers(run.workspace)) == 5, again)  # two wait for the two at work
    words = [ask("scontrol", "show", "job", job) for job in slurm.leftovers(run.workspace).keys() - before]
    assert sum("Dependency=afterany" in text for text in words) == 2
    (run.events / "go").touch()
    run.wait_for(lambda: again.poll() is not None)
    assert again.returncode == 0, (run.events / "said").read_text()
    assert run.happened("overlap") == []
    names = sorted(run.directory(slot).name for slot in TRAININGS)
    assert sorted(name for name, _ in run.happened("begin")) == names
    assert sorted(name for name, _ in run.happened("end")) == names


def test_an_interrupted_run_cancels_its_jobs(first, tmp_path):
    run = Run(tmp_path)
    for kind in ("generate", "filter"):
        shutil.copytree(first[0].workspace / kind, run.workspace / kind)
    runner = run.start()
    run.wait_for(lambda: len(run.happened("begin")) == 2, runner)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(120) == 130
    run.wait_for(lambda: not slurm.leftovers(run.workspace))
    run.wait_for(lambda: all(run.state(slot) == "missing" for slot in TRAININGS))


HOLD = """
import sys, time
from pathlib import Path
from micota_lf.system.locks import lease
folder = Path(sys.argv[1])
with lease(folder / ".lease", "busy", wait=True):
    with (folder / "log").open("a") as log: print("begin", file=log)
    while not (folder / "go").exists(): time.sleep(0.1)
    with (folder / "log").open("a") as log: print("end", file=log)
"""


def _hold(folder: Path) -> str:
    """Submit a job that takes the folder's lease; returns its id."""
    script = folder / "hold.py"
    script.write_text(HOLD)
    wrapped = f'--wrap=exec "{sys.executable}" "{script}" "{folder}"'
    return ask("sbatch", "--parsable", f"--output={folder}/out", wrapped)


def _wait(condition):
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


def test_of_two_jobs_in_one_directory_the_second_waits_for_the_first(tmp_path):
    jobs, log = [_hold(tmp_path), _hold(tmp_path)], tmp_path / "log"
    _wait(lambda: log.exists() and ask("squeue", "-h", "-o", "%T").split() == ["RUNNING"] * 2)
    assert json.loads((tmp_path / ".lease.json").read_text())["job"] in jobs
    (tmp_path / "go").touch()
    _wait(lambda: log.read_text().split() == ["begin", "end"] * 2)
