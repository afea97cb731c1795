"""Running a plan's pending steps through Snakemake, with our own progress.

In: a plan and a workspace. Out: each step's directory, and the list of steps that failed.

The frozen plan lists only steps without `done.json`; a finished step is no input to Snakemake, so making one
anew never makes its dependants look old. Snakemake's own lock is off: a killed run would leave it behind, and
ours (`.micota/run.lease`) is a lease. What Snakemake waits for, and deletes as it sees fit, is a marker in
`.micota/ended/`, never `done.json`: a Slurm job of a killed run may finish the step meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError
from ..plan.compile import Plan, dependencies, step_directory
from ..recipe.check import nearest
from ..stages import launch
from ..stages.kinds import KINDS
from ..system.files import digest, read_json, write_json
from ..system.locks import holder, lease
from ..system.processes import die_with_parent, engine_argv
from . import slurm
from .step import DONE, FAILED, LEASE, MISSING, RUN_LEASE, RUNNING, failure_report, state, states

SNAKEFILE = Path(__file__).with_name("Snakefile")
POLL_SECONDS = 0.5
STATUS_SECONDS = 15.0
STOP_SECONDS = 30.0  # for Snakemake to end its jobs when we are interrupted
# Seconds on a CPU: on Slurm these run where `micota run` does, as a job each would cost more than its work.
QUICK_KINDS = ("preflight", "overlap", "filter", "mix")


def select(plan: Plan, targets: Iterable[str], argument: str = "--target") -> list[str]:
    """Ids of the steps that targets name: a table, an id, a kind, a label, or a slot or the start of one.

    Raises UserError, naming the command line's argument, for a target that names nothing.
    """
    chosen: dict[str, None] = {}
    for target in targets:
        if target in plan["tables"]:
            chosen |= dict.fromkeys(plan["slots"][slot] for slot in plan["tables"][target])
            continue
        by_slot = [made for slot, made in plan["slots"].items() if _names(target, slot)]
        by_step = [
            step_id
            for step_id, step in plan["steps"].items()
            if target in (step_id, step["kind"], step["label"], step_directory(step))
        ]
        if not by_slot and not by_step:
            raise UserError(
                f"{argument}: {target!r} names no step; {nearest(target, [*plan['tables'], *plan['slots']])}"
            )
        chosen |= dict.fromkeys([*by_slot, *by_step])
    return list(chosen)


def needed_steps(plan: Plan, targets: Iterable[str] = ()) -> list[str]:
    """The steps that targets name and those whose outputs they need (all without targets), inputs first."""
    needed = set(select(plan, targets)) if targets else set(plan["steps"])
    for step_id in reversed(plan["steps"]):
        if step_id in needed:
            needed |= set(dependencies(plan["steps"][step_id]))
    return [step_id for step_id in plan["steps"] if step_id in needed]


def pending_steps(plan: Plan, workspace: Path, targets: Iterable[str] = ()) -> list[str]:
    """The unfinished steps that the targets need (all steps if there are none), each after its inputs.

    The preflight is among them wherever there are any.
    """
    now = states(plan, workspace)
    wanted = set(select(plan, targets)) if targets else set(plan["steps"])
    needed: set[str] = set()
    for step_id in reversed(plan["steps"]):
        if now[step_id] != DONE and (step_id in wanted or step_id in needed):
            needed |= {step_id, *dependencies(plan["steps"][step_id])}
    if any(now[step_id] != DONE for step_id in needed):
        needed |= gates(plan)
    return [step_id for step_id in plan["steps"] if step_id in needed and now[step_id] != DONE]


def gates(plan: Plan) -> set[str]:
    """Ids of the steps that all others wait for, without reading them."""
    return {step_id for step_id, step in plan["steps"].items() if step["kind"] == "preflight"}


def preflight(plan: Plan, pending: list[str]) -> None:
    """Raise UserError if an engine or what it needs is missing, or a step asks for too many GPUs."""
    for step in (plan["steps"][step_id] for step_id in pending):
        program = engine_argv(step["how"]["engine"])[0] if "engine" in step["how"] else ""
        if step["kind"] == "train":
            launch.launch_env(step["how"], program)
        wanted = step["how"]["gpus"]
        if wanted > plan["gpus"]:  # Snakemake would silently lower the request to the limit
            raise UserError(f"hardware.gpus: {plan['gpus']}, but {step['label']} needs {wanted}")


def run_plan(
    plan: Plan,
    workspace: Path,
    pending: list[str],
    *,
    jobs: int | None = None,
    say: Callable[[str], None] = print,
    on_slurm: Mapping[str, Any] | None = None,
) -> None:
    """Run the pending steps; independent branches go on after a failure.

    With `on_slurm`, each step but the quick ones is a Slurm job with these options (`hardware.slurm`), and
    `jobs` limits how many are in Slurm's hands. Raises StepFailed naming every failed step with its log and
    command, StepLocked if another run is at work in the workspace, UserError as `preflight` does.
    """
    preflight(plan, pending)
    state_dir = workspace / ".micota"
    state_dir.mkdir(parents=True, exist_ok=True)
    with lease(workspace / RUN_LEASE, f"another run is at work in {workspace}"):
        frozen = freeze(plan, workspace, pending, on_slurm)
        if on_slurm is None:
            how = ["--cores", str(jobs or plan["cores"]), "--resources", f"gpu={plan['gpus']}"]
        else:
            how = ["--local-cores", str(plan["cores"]), *slurm.options(workspace, jobs or len(pending))]
        with (state_dir / "snakemake.log").open("ab") as log:
            child = subprocess.Popen(
                _snakemake(frozen, workspace, how),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=workspace, start_new_session=True,
                preexec_fn=die_with_parent,
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
    todo: dict[str, Any] = {}
    # Steps that most others wait for go first: the method's chain is long, its side branches are short.
    waiting: dict[str, set[str]] = {step_id: set() for step_id in pending}
    for step_id in reversed(pending):
        for before in set(dependencies(plan["steps"][step_id])) & set(pending):
            waiting[before] |= {step_id, *waiting[step_id]}
    for step_id in pending:
        step = plan["steps"][step_id]
        first = [] if step_id in gates(plan) else gates(plan)
        after = [d for d in dict.fromkeys([*first, *dependencies(step)]) if d in pending]
        at_work = holder(workspace / step_directory(step) / LEASE).get("job")
        here = on_slurm is None or step["kind"] in QUICK_KINDS
        todo[step_id] = {
            "kind": step["kind"],
            "ended": f".micota/ended/{step_id}",
            "after": [f".micota/ended/{before}" for before in after],
            "threads": step["how"]["threads"],
            "here": here,
            "resources": {"gpu": step["how"]["gpus"]}
            if here
            else slurm.resources(step["how"], on_slurm or {}, at_work if at_work in left else None),
            "priority": len(waiting[step_id]),
        }
        (workspace / ".micota" / "ended" / step_id).unlink(missing_ok=True)
    path = workspace / ".micota" / f"{plan['recipe']}-{digest([plan, pending])}.json"
    write_json(path, {**plan, "pending": todo})
    return path


def _names(target: str, slot: str) -> bool:
    return slot == target or slot.startswith(target.rstrip("/") + "/")


def _snakemake(frozen: Path, workspace: Path, how: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(workspace),
        "--config", f"plan={frozen}", "--latency-wait", "10", *how,
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


def _watch(
    plan: Plan,
    workspace: Path,
    pending: list[str],
    child: subprocess.Popen[bytes],
    say: Callable[[str], None],
) -> None:
    """Say what starts and ends, and now and then how far the running steps are, until Snakemake ends."""
    begun = time.monotonic()
    last_status = begun
    seen = dict.fromkeys(pending, MISSING)
    ended = 0
    while True:
        over = child.poll() is not None
        running = []
        for step_id in pending:
            step, before = plan["steps"][step_id], seen[step_id]
            if before == DONE:
                continue
            now = state(workspace / step_directory(step))
            name = f"{step['kind']} {step['label']}"
            if now == FAILED and before == MISSING and not over:
                continue  # left by an earlier run
            if now == RUNNING:
                running.append(step_id)
            if now != before and now in (DONE, FAILED, RUNNING):
                ended += now in (DONE, FAILED)
                word = "started" if now == RUNNING else now
                say(f"[{_clock(begun)}] {ended}/{len(pending)} {word:7} {name}")
                seen[step_id] = now
                if now == DONE and step["kind"] == "preflight":
                    results = read_json(workspace / step_directory(step) / "done.json")["results"]
                    for line in results["warnings"]:
                        say(f"warning: {line}")
        if over:
            return
        if running and time.monotonic() - last_status > STATUS_SECONDS:
            last_status = time.monotonic()
            for step_id in running:
                step = plan["steps"][step_id]
                words = KINDS[step["kind"]].progress(workspace / step_directory(step)) or "running"
                say(f"[{_clock(begun)}]     ... {step['kind']} {step['label']}: {words}")
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL_SECONDS)


def _raise_failures(plan: Plan, workspace: Path, pending: list[str], code: int) -> None:
    after = states(plan, workspace)
    left = [step_id for step_id in pending if after[step_id] != DONE]
    if not left:
        return
    # A step that was killed says nothing; it is one that was begun, and had all that it needs.
    silent = {step_id for step_id in left if after[step_id] == MISSING and code > 0}
    failed = [
        step_id
        for step_id in left
        if after[step_id] == FAILED or (step_id in silent and _was_begun(plan, workspace, step_id, left))
    ]
    lines = []
    for step_id in failed:
        step = plan["steps"][step_id]
        lines.append(f"step {step['kind']} {step['label']} failed: ")
        lines[-1] += failure_report(workspace / step_directory(step))
    if len(failed) < len(left):
        lines.append(f"{len(left) - len(failed)} steps that need others could not run")
    if not failed:
        lines.append(f"snakemake ended with exit code {code}; see {workspace / '.micota' / 'snakemake.log'}")
    raise StepFailed("\n".join(lines) + "\nRun the same command again to go on from here.")


def _was_begun(plan: Plan, workspace: Path, step_id: str, left: list[str]) -> bool:
    step = plan["steps"][step_id]
    begun = (workspace / step_directory(step) / "step.json").is_file()
    return begun and not set(left) & {*dependencies(step), *(gates(plan) - {step_id})}


def _clock(begun: float) -> str:
    seconds = int(time.monotonic() - begun)
    return f"{seconds // 60:3d}:{seconds % 60:02d}"
