"""One step of a plan, from lock to `done.json`.

    execute(context, record)      runs it, or returns at once if it is done
    state(directory)              "done", "running", "failed" or "missing"
    finished(directory)           what its done.json says, or None

Files of a step's directory besides its outputs: `step.json` (what it is), `log.txt` (the engine's words),
`.lease` and `.lease.json` (who is at work), `failed.json` (why it failed), `done.json` (what was
made: results, versions, times, sizes and hashes). `done.json` appears by rename after all outputs are
checked; a step is done if and only if it exists. One that cannot be read is an error, not a step to do
again: what damaged it may have damaged the outputs too, and a training with weights there would be taken for
complete.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import FREE_SOME, StepFailed, UserError
from ..plan.compile import Plan, resolved_inputs, step_directory
from ..stages.kinds import KINDS, Context
from ..system.files import PARTIAL, read_json, sha256_file, write_json
from ..system.gpus import assigned_gpus
from ..system.locks import holder, lease
from ..system.processes import Job, ending, log_tail, run_logged, versions

SILENT = "ended without a word: killed from outside, or at a limit of time, memory or disk"
FULL_BYTES = 2**20  # less is as good as none
LEASE = ".lease"
RUN_LEASE = Path(".micota") / "run.lease"  # below the workspace
DONE, FAILED, RUNNING, MISSING = "done", "failed", "running", "missing"
BOOKKEEPING = {
    "step.json", "done.json", "failed.json", "log.txt", "trainer_log.jsonl",
    "responses.server.log",
}  # fmt: skip
Record = dict[str, Any]


def step_context(plan: Plan, step_id: str, workspace: Path) -> Context:
    """The context of a plan's step in a workspace."""
    step = plan["steps"][step_id]
    revisions = {
        role: given["identity"]["revision"]
        for role, given in step["inputs"].items()
        if given.get("identity", {}).get("revision")
    }
    inputs = resolved_inputs(plan, step, workspace)
    return Context(workspace / step_directory(step), step["config"], inputs, step["how"], revisions)


def step_record(plan: Plan, step_id: str) -> Record:
    """What `step.json` says: the step and the names that the recipe gives it."""
    slots = sorted(slot for slot, made in plan["slots"].items() if made == step_id)
    return {**plan["steps"][step_id], "recipe": plan["recipe"], "slots": slots}


def execute(kind: str, context: Context, record: Record) -> dict[str, Any]:
    """Do one step and return its results; a finished one is left alone.

    Raises StepLocked if another process is at it (in a Slurm job: waits for it), StepFailed (and leaves
    `failed.json`) if the engine did not deliver.
    """
    directory = context.directory
    directory.mkdir(parents=True, exist_ok=True)
    # Under Slurm, a job that a killed run has left may be at it: it is waited for, and its work taken over.
    busy = f"{directory} is being worked on"
    with lease(directory / LEASE, busy, wait="SLURM_JOB_ID" in os.environ):
        done = finished(directory)
        if done is not None:
            return dict(done["results"])
        for left in (directory / "failed.json", *directory.glob(PARTIAL)):
            left.unlink(missing_ok=True)
        resumed = (directory / "log.txt").is_file()
        write_json(directory / "step.json", record)
        started, began = time.time(), time.monotonic()
        jobs: list[Job] = []
        engines = 0.0
        try:
            with _gpus_of(context) as env:
                for stage in (KINDS[kind].prepare, KINDS[kind].follow):
                    job = stage(context)
                    if job is None:
                        continue
                    jobs.append(replace(job, env={**job.env, **env}))
                    start = time.monotonic()
                    code = run_logged(jobs[-1], directory, directory / "log.txt")
                    engines += time.monotonic() - start
                    if code:
                        raise StepFailed(f"{Path(job.argv[0]).name} {ending(code)}")
            results = KINDS[kind].finish(context)
        except Exception as error:
            command = jobs[-1].by_hand(directory) if jobs else ""
            with suppress(OSError):  # a full disk, mostly: the first error says more
                failed = {"error": str(error) or repr(error), "command": command}
                write_json(directory / "failed.json", failed)
            raise
        done = {
            **{key: record[key] for key in ("id", "kind", "label") if key in record},
            "results": results,
            "command": jobs[0].argv if jobs else [],
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 2),
            "engine_seconds": round(engines, 2),  # of its processes
            "resumed": resumed,  # then all seconds are those of the last attempt
            "versions": versions(),
            "python": platform.python_version(),
            "host": platform.node(),
            "how": context.how,
            "outputs": _outputs(directory),
        }
        write_json(directory / "done.json", done)
        return results


def finished(directory: Path, *keys: str) -> Record | None:
    """The `done.json` of a step, with `results` and the other `keys` in it; None if the step is not done.

    Raises UserError, naming the file and what to do, for one that is damaged.
    """
    path, cure = directory / "done.json", f"delete {directory}, and a run makes the step again"
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {cure}") from error
    facts: Record = record if isinstance(record, dict) else {}
    missing = [key for key in ("results", *keys) if key not in facts]
    if missing or not isinstance(facts["results"], dict):
        raise UserError(f"{path}: damaged, it has no {', '.join(missing) or 'mapping of results'}; {cure}")
    return facts


def state(directory: Path) -> str:
    """What a step's directory says of it. Raises UserError as `finished` does."""
    if finished(directory) is not None:
        return DONE
    if held(directory):
        return RUNNING
    return FAILED if (directory / "failed.json").is_file() else MISSING


def states(plan: Plan, workspace: Path) -> dict[str, str]:
    """The state of each step of a plan."""
    return {step_id: state(workspace / step_directory(step)) for step_id, step in plan["steps"].items()}


def failure_report(directory: Path) -> str:
    """Why a step failed: its error, the last lines of its log, and how to run its engine by hand.

    Of a step that could not write it down, what is known.
    """
    failed = read_json(directory / "failed.json") if (directory / "failed.json").is_file() else {}
    lines = [failed.get("error", SILENT)]
    if shutil.disk_usage(directory).free < FULL_BYTES:
        lines.append(f"the disk of {directory} is full; {FREE_SOME}")
    tail = log_tail(directory / "log.txt").splitlines()
    if tail:
        lines += [f"last lines of {directory / 'log.txt'}:", *(f"    {line}" for line in tail)]
    if failed.get("command"):
        lines += ["to run its engine by hand:", f"    {failed['command']}"]
    return "\n".join(lines)


def _gpus_of(context: Context) -> AbstractContextManager[dict[str, str]]:
    """GPUs for this step alone, out of those that the recipe counts."""
    how = context.how
    locks = context.directory.parent.parent / ".micota" / "gpus"
    return assigned_gpus(how["gpus"], how.get("gpus_of", how["gpus"]), locks)


def _outputs(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each output, two levels deep; logs, checkpoints, raw lm-eval files are not outputs.

    Weights are read whole, at 1 to 2 GB/s and seldom from the disk, because they were just written.
    """
    files = [*directory.glob("*"), *directory.glob("model/*")]
    return {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(files)
        if path.is_file() and path.name not in BOOKKEEPING and not path.name.startswith(".")
    }


def held(directory: Path) -> bool:
    """Whether a process that may live is at work in a step's directory."""
    return bool(holder(directory / LEASE))
