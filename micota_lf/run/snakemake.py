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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError
from ..plan.plan import Plan, Step
from ..stages import stage, train
from ..system.files import digest, write_json
from ..system.locks import holder, lease
from ..system.processes import die_with_parent, engine_argv
from . import slurm
from .step import DONE, FAILED, LEASE, MISSING, RUN_LEASE, RUNNING, failure_report, finished, state, states

SNAKEFILE = Path(__file__).with_name("Snakefile")
POLL_SECONDS = 0.5
STATUS_SECONDS = 15.0
STOP_SECONDS = 30.0  # for Snakemake to end its jobs when we are interrupted
Say = Callable[[str], None]


def pending_steps(plan: Plan, workspace: Path, targets: Iterable[str] = ()) -> list[str]:
    """The unfinished steps that the targets need (all steps if there are none), each after its inputs.

    The preflight is among them wherever there are any.
    """
    undone = {step_id for step_id, now in states(plan, workspace).items() if now != DONE}
    needed = set(plan.select(targets)) or set(plan.steps)
    for step in reversed(plan.steps.values()):
        if step.id in needed & undone:
            needed |= set(step.needs)
    if needed & undone:
        needed |= plan.gates
    return [step_id for step_id in plan.steps if step_id in needed & undone]


def check_engines(plan: Plan, pending: list[str]) -> None:
    """Raise UserError if an engine or what it needs is missing, or a step asks for too many GPUs."""
    for step in (plan.steps[step_id] for step_id in pending):
        program = engine_argv(step.how["engine"])[0] if "engine" in step.how else ""
        if step.kind == "train":
            train.launch_env(step.how, program)
        if step.gpus > plan.gpus:  # Snakemake would silently lower the request to the limit
            raise UserError(f"hardware.gpus: {plan.gpus}, but {step.label} needs {step.gpus}")


def run_plan(
    plan: Plan,
    workspace: Path,
    pending: list[str],
    *,
    jobs: int | None = None,
    say: Say = print,
    on_slurm: Mapping[str, Any] | None = None,
) -> None:
    """Run the pending steps; independent branches go on after a failure.

    With `on_slurm`, each step but the quick ones is a Slurm job with these options (`hardware.slurm`), and
    `jobs` limits how many are in Slurm's hands. Raises StepFailed naming every failed step with its log and
    command, StepLocked if another run is at work in the workspace, UserError as `check_engines` does.
    """
    check_engines(plan, pending)
    with lease(workspace / RUN_LEASE, f"another run is at work in {workspace}"):
        frozen = freeze(plan, workspace, pending, on_slurm)
        if on_slurm is None:
            where = ["--cores", str(jobs or plan.cores), "--resources", f"gpu={plan.gpus}"]
        else:
            where = ["--local-cores", str(plan.cores), *slurm.options(workspace, jobs or len(pending))]
        with (workspace / ".micota" / "snakemake.log").open("ab") as log:
            child = subprocess.Popen(
                _snakemake(frozen, workspace, where), cwd=workspace, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
            try:
                _watch(plan, workspace, pending, child, say)
            finally:
                if child.poll() is None:
                    _stop(child, workspace, on_slurm is not None)
    _raise_failures(plan, workspace, pending, child.returncode)


def freeze(
    plan: Plan, workspace: Path, pending: list[str], on_slurm: Mapping[str, Any] | None = None
) -> Path:
    """Write the plan and what Snakemake must do to the workspace; return the file's path.

    On Slurm, queued jobs that a killed run has left are cancelled; a step waits for the one that is at it.
    """
    left = {} if on_slurm is None else slurm.leftovers(workspace)
    slurm.cancel([job for job, now in left.items() if now == "PENDING"])
    steps = [plan.steps[step_id] for step_id in pending]
    # Steps that most others wait for go first: the method's chain is long, its side branches are short.
    waiting: dict[str, set[str]] = {step_id: set() for step_id in pending}
    for step in reversed(steps):
        for before in set(step.needs) & set(pending):
            waiting[before] |= {step.id, *waiting[step.id]}
    todo: dict[str, Any] = {}
    for step in steps:
        resources: dict[str, Any] = {"gpu": step.gpus}
        here = on_slurm is None or stage(step.kind).quick
        if not here:
            at_work = holder(workspace / step.directory / LEASE).get("job")
            resources = slurm.resources(step.gpus, on_slurm or {}, at_work if at_work in left else None)
        todo[step.id] = {
            "kind": step.kind,
            "ended": f".micota/ended/{step.id}",
            "after": [f".micota/ended/{before}" for before in _after(plan, step) if before in pending],
            "threads": step.threads,
            "here": here,
            "resources": resources,
            "priority": len(waiting[step.id]),
        }
        (workspace / todo[step.id]["ended"]).unlink(missing_ok=True)
    content = asdict(plan)
    path = workspace / ".micota" / f"{plan.recipe}-{digest([content, pending])}.json"
    write_json(path, {**content, "pending": todo})
    return path


def _after(plan: Plan, step: Step) -> list[str]:
    """Ids of the steps that must be done before a step."""
    return [] if step.id in plan.gates else [*plan.gates, *step.needs]


def _snakemake(frozen: Path, workspace: Path, where: list[str]) -> list[str]:
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
    seen = dict.fromkeys(pending, MISSING)

    def tell(words: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        say(f"[{minutes:3d}:{seconds:02d}] {words}")

    over = False
    while not over:
        over = child.poll() is not None
        running: list[Step] = []
        for step in (plan.steps[step_id] for step_id in pending if seen[step_id] != DONE):
            before, now = seen[step.id], state(workspace / step.directory)
            if now == RUNNING:
                running.append(step)
            left_by_an_earlier_run = now == FAILED and before == MISSING and not over
            if now in (before, MISSING) or left_by_an_earlier_run:
                continue
            seen[step.id] = now
            ended = sum(then in (DONE, FAILED) for then in seen.values())
            tell(f"{ended}/{len(pending)} {'started' if now == RUNNING else now:7} {step.name}")
            if now == DONE and step.id in plan.gates:
                results = (finished(workspace / step.directory) or {})["results"]
                for line in results["warnings"]:
                    say(f"warning: {line}")
        if running and time.monotonic() - last_status > STATUS_SECONDS:
            last_status = time.monotonic()
            for step in running:
                words = stage(step.kind).progress(workspace / step.directory) or "running"
                tell(f"    ... {step.name}: {words}")
        if not over:
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)


def _raise_failures(plan: Plan, workspace: Path, pending: list[str], code: int) -> None:
    """Raise StepFailed with a report of each failed step if some are not done."""
    after = states(plan, workspace)
    left = {step_id: plan.steps[step_id] for step_id in pending if after[step_id] != DONE}
    if not left:
        return

    def killed(step: Step) -> bool:
        """Whether a step ended without a word: it was begun, and had all that it needs."""
        begun = code > 0 and (workspace / step.directory / "step.json").is_file()
        return begun and after[step.id] == MISSING and not left.keys() & set(_after(plan, step))

    failed = [step for step in left.values() if after[step.id] == FAILED or killed(step)]
    lines = [f"step {step.name} failed: {failure_report(workspace / step.directory)}" for step in failed]
    if len(failed) < len(left):
        lines.append(f"{len(left) - len(failed)} steps that need others could not run")
    if not failed:
        lines.append(f"snakemake ended with exit code {code}; see {workspace / '.micota' / 'snakemake.log'}")
    raise StepFailed("\n".join(lines) + "\nRun the same command again to go on from here.")
