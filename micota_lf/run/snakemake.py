"""Running a plan's pending steps through Snakemake, with our own progress.

In: a plan and a workspace. Out: each step's directory, and the list of steps that failed.

The frozen plan lists only steps without `done.json`; a finished step is no input to Snakemake, so making one
anew never makes its dependants look old. Snakemake's own lock is off: a killed run would leave it behind, and
ours (`.micota/run.lease`) is a lease. What Snakemake waits for, and deletes as it sees fit, is a marker in
`.micota/ended/`, never `done.json`: a Slurm job of a killed run may finish the step meanwhile.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError
from ..plan.plan import Plan
from ..plan.schedule import priorities
from ..stages import stage, train
from ..system.files import digest, read_json, write_json
from ..system.locks import holder, lease
from ..system.processes import engine_argv, started
from . import slurm
from .progress import doing
from .step import DONE, FAILED, LEASE, MISSING, RUN_LEASE, RUNNING, failure_report, state, states

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG = Path(".micota") / "snakemake.log"  # below the workspace
POLL_SECONDS = 0.5
STATUS_SECONDS = 15.0
STOP_SECONDS = 30.0  # for Snakemake to end its jobs when we are interrupted
Say = Callable[[str], None]
AT_WORK = "    ..."  # in the lines that say how far running steps are


def pending_steps(plan: Plan, workspace: Path, targets: Iterable[str] = ()) -> list[str]:
    """The unfinished steps that the targets wait for (all steps if there are none), each after its inputs."""
    return plan.needed(targets, {made for made, now in states(plan, workspace).items() if now == DONE})


def check_engines(plan: Plan, pending: list[str]) -> None:
    """Raise UserError if an engine or what it needs is missing, or a step asks for too many GPUs."""
    for step in (plan.steps[step_id] for step_id in pending):
        if step.gpus > plan.gpus:  # Snakemake would silently lower the request to the limit
            raise UserError(f"hardware.gpus: {plan.gpus}, but {step.label} needs {step.gpus}")
        engines = [engine_argv(step.how[key])[0] for key in ("engine", "server") if key in step.how]
        if step.kind in train.TRAININGS:
            train.launch_env(step.how, *engines)


def run_plan(
    plan: Plan,
    workspace: Path,
    pending: list[str],
    *,
    jobs: int | None = None,
    say: Say = print,
    on_slurm: slurm.Settings | None = None,
) -> None:
    """Run the pending steps; independent branches go on after a failure.

    With `on_slurm`, each step but the quick ones is a Slurm job with these options (`hardware.slurm`), and
    `jobs` limits how many are in Slurm's hands. Raises StepFailed naming every failed step with its log and
    command, StepLocked if another run is at work in the workspace. `check_engines` is to be asked before.
    """
    with lease(workspace / RUN_LEASE, f"another run is at work in {workspace}"):
        frozen = freeze(plan, workspace, pending, on_slurm)
        where = ["--cores", str(jobs or plan.cores), "--resources", f"gpu={plan.gpus}"]
        if on_slurm is not None:
            where = ["--local-cores", str(plan.cores), *slurm.options(workspace, jobs or len(pending))]
        child = started(snakemake_argv(frozen, workspace, where), workspace, workspace / LOG)
        try:
            _watch(plan, workspace, pending, child, say)
        finally:
            if child.poll() is None:
                _stop(child, workspace, on_slurm is not None)
    _raise_failures(plan, workspace, pending, child.returncode)


def freeze(plan: Plan, workspace: Path, pending: list[str], on_slurm: slurm.Settings | None = None) -> Path:
    """Write the plan and what Snakemake must do to the workspace; return the file's path.

    On Slurm, queued jobs that a killed run has left are cancelled; a step waits for the one that is at it.
    """
    left = {} if on_slurm is None else slurm.leftovers(workspace)
    slurm.cancel([job for job, now in left.items() if now == "PENDING"])
    todo, first = dict[str, Any](), priorities(plan, pending)
    for step in (plan.steps[step_id] for step_id in pending):
        here, asked = True, {"gpu": step.gpus}
        if on_slurm is not None and not stage(step.kind).quick:
            job = holder(workspace / step.directory / LEASE).get("job")
            here, asked = False, slurm.resources(step.gpus, on_slurm, job if job in left else None)
        after = [before for before in plan.waits_for(step) if before in first]
        todo[step.id] = {"after": after, "here": here, "resources": asked, "priority": first[step.id]}
        (workspace / ".micota" / "ended" / step.id).unlink(missing_ok=True)
    content = asdict(plan)
    path = workspace / ".micota" / f"{plan.recipe}-{digest([content, pending])}.json"
    write_json(path, {**content, "pending": todo})
    return path


def snakemake_argv(frozen: Path, workspace: Path, where: list[str]) -> list[str]:
    """Snakemake's command line for a frozen plan; `where`: how much may run here, or on what else."""
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(workspace),
        "--config", f"plan={frozen}", "--latency-wait", "10", *where,
        "--keep-going", "--rerun-incomplete", "--rerun-triggers", "input", "mtime", "--nolock",
        "--scheduler", "greedy", "--nocolor",
    ]  # fmt: skip


def _stop(child: subprocess.Popen[bytes], workspace: Path, jobs: bool) -> None:
    """End an interrupted Snakemake, the steps that it runs here and, with `jobs`, those in Slurm's hands."""
    # On SIGTERM it ends with its local jobs, but waits for those of a cluster; on SIGINT it does not.
    os.killpg(child.pid, signal.SIGINT if jobs else signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS if jobs else None)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if jobs:
        slurm.cancel(list(slurm.leftovers(workspace)))


def _watch(plan: Plan, workspace: Path, pending: list[str], child: subprocess.Popen[bytes], say: Say) -> None:
    """Say what starts and ends, and now and then how far the running steps are, until Snakemake ends."""
    begun = last_status = time.monotonic()
    steps, seen = [plan.steps[step_id] for step_id in pending], dict.fromkeys(pending, MISSING)

    def tell(words: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        say(f"[{minutes:3d}:{seconds:02d}] {words}")

    over = False
    while not over:
        over = child.poll() is not None
        for step in (step for step in steps if seen[step.id] != DONE):
            before, now = seen[step.id], state(workspace / step.directory)
            if now == FAILED and before == MISSING and not over:
                continue  # left by an earlier run
            seen[step.id] = now
            if now in (before, MISSING):
                continue
            ended = sum(then in (DONE, FAILED) for then in seen.values())
            what = "started" if now == RUNNING else now
            tell(f"{ended}/{len(pending)} {what:7} {plan.slots_of(step.id)[0]}")
            if now == DONE and step.id in plan.gates:
                for line in read_json(workspace / step.directory / "done.json")["results"]["warnings"]:
                    say(f"warning: {line}")
        if time.monotonic() - last_status > STATUS_SECONDS:
            last_status = time.monotonic()
            for step in (step for step in steps if seen[step.id] == RUNNING):
                tell(f"{AT_WORK} {plan.slots_of(step.id)[0]}: {doing(step, workspace)}")
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL_SECONDS)


def _raise_failures(plan: Plan, workspace: Path, pending: list[str], code: int) -> None:
    """Raise StepFailed with a report of each failed step if some are not done."""
    after = states(plan, workspace)
    left = {step_id: plan.steps[step_id] for step_id in pending if after[step_id] != DONE}
    if not left:
        return
    failed = []
    for step in left.values():
        begun = code > 0 and (workspace / step.directory / "step.json").is_file()
        # One that was begun, had all that it needs, and ended without a word, was killed.
        killed = begun and after[step.id] == MISSING and not left.keys() & plan.waits_for(step)
        failed += [step] if killed or after[step.id] == FAILED else []
    names = {step.id: plan.slots_of(step.id)[0] for step in failed}
    lines = [f"step {names[step.id]} failed: {failure_report(workspace / step.directory)}" for step in failed]
    if len(failed) < len(left):
        lines.append(f"{len(left) - len(failed)} steps that need others could not run")
    if not failed:
        lines.append(f"snakemake ended with exit code {code}; see {workspace / LOG}")
    raise StepFailed("\n".join(lines) + "\nRun the same command again to go on from here.")
