"""A run whose processes are killed while it works, and what must be left of it.

    storm = Storm(["run", "recipes/tiny.yaml", "--workspace", "runs"], Path("runs"))
    storm.start()
    storm.kill("engine")             # or "step", "snakemake", "runner"; False if there is none just now
    storm.stop()                     # runner and all that it started are gone, or AssertionError
    differences(Path("undisturbed"), Path("runs"))

`Storm` looks at the workspace whenever a run has ended: no checkpoint that was whole may have gone before its
training is done, and no response.
"""

import csv
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

# What steps leave that may not depend on how often they were killed. Others hold times, paths or versions.
SAME = (
    "corpus.jsonl", "rejected.jsonl", "counts.json", "problems.jsonl", "samples.jsonl", "scores.json",
    "bpc.json", "texts.jsonl", "pairs.jsonl", "answers.jsonl", "responses.jsonl", "model/*.safetensors",
)  # fmt: skip
GONE_SECONDS = 40.0


class Storm:
    """Runs of one command in one workspace, each until it ends or is killed."""

    def __init__(self, words: list[str], workspace: Path) -> None:
        self.argv, self.workspace = [sys.executable, "-m", "micota_lf", *words], workspace
        self.log = workspace.with_name(f"{workspace.name}.log")
        self.checkpoints: dict[Path, int] = {}
        self.responses: dict[Path, int] = {}
        self.family: set[psutil.Process] = set()

    def start(self, *more: str) -> None:
        with self.log.open("a") as log:
            self.runner = subprocess.Popen(
                [*self.argv, *more], stdout=log, stderr=log, start_new_session=True
            )

    def processes(self, kind: str) -> list[psutil.Process]:
        """The living processes of a kind; a step's children are its engine and the guard."""
        try:
            runner = psutil.Process(self.runner.pid)
            below = runner.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.family |= {runner, *below}
        steps = [process for process in below if re.search(r"micota_lf step ", words(process))]
        engines = [child for step in steps for child in children(step) if "read -r line" not in words(child)]
        snakemake = [process for process in below if re.search(r"-m snakemake ", words(process))][:1]
        return {"runner": [runner], "snakemake": snakemake, "step": steps, "engine": engines}[kind]

    def kill(self, kind: str, n: int = 0) -> str:
        """SIGKILL the n-th process of a kind; return its command, or nothing if there is none."""
        found = self.processes(kind)
        if not found or self.runner.poll() is not None:
            return ""
        victim = found[n % len(found)]
        command = words(victim)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return ""
        return command or "-"

    def stop(self) -> int:
        """Wait for the run's end and for all its processes to go; return its exit code."""
        while True:
            self.processes("engine")
            try:
                code = self.runner.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                continue
        _, left = psutil.wait_procs(self.family, GONE_SECONDS)
        left = [
            process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]
        assert not left, f"processes outlived the run: {left}"
        self.family.clear()
        self.look()
        return code

    def look(self) -> None:
        """Nothing that was there may have gone."""
        for step in self.workspace.glob("train/*/"):
            newest, over = (
                max(whole_checkpoints(step), default=0),
                (step / "model" / "trainer_state.json").exists(),
            )
            assert over or newest >= self.checkpoints.get(step, 0), f"{step} lost a checkpoint"
            self.checkpoints[step] = newest
        for path in self.workspace.glob("generate/*/responses.jsonl"):
            ids = [
                json.loads(line)["id"]
                for line in path.read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
            assert len(ids) == len(set(ids)), f"{path}: responses doubled"
            assert len(ids) >= self.responses.get(path, 0), f"{path}: responses lost"
            self.responses[path] = len(ids)

    def wait_for(self, condition) -> None:
        """Wait until something has happened to the run, which must not end before."""
        deadline = time.monotonic() + 240
        while not condition():
            assert self.runner.poll() is None and time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.02)


def whole_checkpoints(step: Path) -> list[int]:
    """Numbers of a training's checkpoints that were written to their end, a trainer_state.json."""
    found = []
    for state in step.glob("model/checkpoint-*/trainer_state.json"):
        with suppress(ValueError, FileNotFoundError):
            json.loads(state.read_text())
            found.append(int(state.parent.name.split("-")[1]))
    return found


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def differences(one: Path, other: Path) -> list[str]:
    """How two workspaces differ in the finished steps and tables of the first, a line each."""
    found = []
    for done in sorted(one.glob("*/*/done.json")):
        step, twin = done.parent, other / done.parent.relative_to(one)
        if not (twin / "done.json").exists():
            found.append(f"{twin}: not done")
            continue
        names = {path.relative_to(at) for at in (step, twin) for name in SAME for path in at.glob(name)}
        for name in sorted(names):
            if content(step / name) != content(twin / name):
                found.append(f"{twin / name}: differs")
        steps = [json.loads((at / "done.json").read_text())["results"].get("steps") for at in (step, twin)]
        if step.parent.name == "train" and steps[0] != steps[1]:
            found.append(f"{twin}: {steps[1]} steps of training, not {steps[0]}")
    for table in sorted(one.glob("reports/*/*.csv")):
        if list(csv.reader(table.open())) != list(csv.reader((other / table.relative_to(one)).open())):
            found.append(f"{other / table.relative_to(one)}: differs")
    return found


def content(path: Path) -> object:
    """A file's content; of responses, the set of rows, as resuming changes their order."""
    if not path.exists():
        return None
    return sorted(path.read_text().splitlines()) if path.name == "responses.jsonl" else path.read_bytes()
