"""One step of a plan, from its lease to `done.json`.

    run_step(plan, id, workspace)         runs it, or returns at once if it is done
    state(directory)                      "done", "running", "failed" or "missing"
    finished(directory)                   what its done.json says, or None

Files of a step's directory besides its outputs: `step.json` (what it is), `log.txt` (the engine's words),
`.lease` and `.lease.json` (who is at work), `failed.json` (why it failed), `done.json` (what was made:
results, versions, times, sizes and hashes). `done.json` appears by rename after all outputs are checked; a
step is done if and only if it exists. One that cannot be read is an error, not a step to do again: what
damaged it may have damaged the outputs too, and a training with weights there would be taken for complete.
"""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import FREE_SOME, EngineDied, OutOfMemory, UserError
from ..inputs.references import ModelRef
from ..plan.plan import Plan, Step
from ..stages import LOG, Context, Results, Stage, stage
from ..system.files import PARTIAL, read_json, sha256_file, write_json
from ..system.locks import holder, lease
from ..system.machines import assigned_gpus
from ..system.processes import last_errors, versions

SILENT = "ended without a word: killed from outside, or at a limit of time, memory or disk"
FULL_BYTES = 2**20  # less is as good as none
LEASE = ".lease"
RUN_LEASE = Path(".micota") / "run.lease"  # below the workspace
DONE, FAILED, RUNNING, MISSING = "done", "failed", "running", "missing"
BOOKKEEPING = {"step.json", "done.json", "failed.json", LOG, "trainer_log.jsonl"}


def run_step(plan: Plan, step_id: str, workspace: Path, quiet: bool = False) -> Results:
    """Do one step of a plan; with `quiet`, what this process prints goes to the step's log."""
    step = plan.steps[step_id]
    facts = {"recipe": plan.recipe, "slots": sorted(plan.slots_of(step_id)), "gpus_of": plan.gpus}
    return execute(step, plan.inputs_of(step, workspace), workspace / step.directory, facts, quiet)


def execute(
    step: Step, inputs: dict[str, ModelRef], directory: Path, facts: dict[str, Any], quiet: bool = False
) -> Results:
    """Do one step in a directory and return its results; a finished one is left alone.

    `facts` go to `step.json` too; `gpus_of` among them is how many GPUs the machine has. Raises StepLocked if
    another process is at it (in a Slurm job: waits for it), StepFailed or UserError (and leaves
    `failed.json`) if the engine did not deliver or an input is refused.
    """
    context = Context(directory, step.config, inputs, step.how, step.gpus, step.threads)
    # Under Slurm, a job that a killed run has left may be at it: it is waited for, and its work taken over.
    with lease(directory / LEASE, f"{directory} is being worked on", wait="SLURM_JOB_ID" in os.environ):
        if done := finished(directory):
            return dict(done["results"])
        for left in (directory / "failed.json", *directory.glob(PARTIAL)):
            left.unlink(missing_ok=True)
        resumed = (directory / LOG).is_file()
        write_json(directory / "step.json", {**asdict(step), **facts})
        started, began = datetime.now(UTC), time.monotonic()
        try:
            with _printing_to(directory / LOG) if quiet else nullcontext():
                results = _work(context, stage(step.kind), facts.get("gpus_of", step.gpus))
        except Exception as error:
            with suppress(OSError):  # a full disk, mostly: the first error says more
                failed = {"error": str(error) or repr(error), "command": "".join(context.commands[-1:])}
                write_json(directory / "failed.json", failed)
            raise
        done = {
            **{key: getattr(step, key) for key in ("id", "kind", "label", "how", "gpus")},
            "results": results,
            "commands": context.commands,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 2),
            "engine_seconds": round(context.engine_seconds, 2),
            "died": context.died,  # how the engine ended at first, if it was tried again
            "resumed": resumed or bool(context.died),  # then all seconds are those of the last attempt
            "versions": versions(),
            "python": platform.python_version(),
            "host": platform.node(),
            "outputs": _outputs(directory),
        }
        write_json(directory / "done.json", done)
        return results


def _work(context: Context, kind: Stage, machine_gpus: int) -> Results:
    """The stage's work, with GPUs for this step alone out of those that the recipe counts.

    After an engine that died it is done once more, from what it has written.
    """
    from unittest.mock import patch  # not at the top: it takes longer than all of this module

    offline = not kind.hub and all(given.local for given in context.inputs.values())
    env = {"HF_HUB_OFFLINE": "1"} if offline else {}  # nothing to look up: do not wait for a hub
    if not context.gpus:  # unlimited, every engine starts a thread a core, and two at a time fight for them
        env |= {"OMP_NUM_THREADS": str(context.threads), "TOKENIZERS_PARALLELISM": "false"}
    locks = context.directory.parent.parent / ".micota" / "gpus"
    # In this process too, as some stages load a model here.
    with assigned_gpus(context.gpus, machine_gpus, locks) as gpus, patch.dict(os.environ, env | gpus):
        context.env |= env | gpus
        while True:
            try:
                return kind.run(context)
            except OutOfMemory as error:
                raise OutOfMemory(f"{error}; what helps: {kind.relief}") from error
            except EngineDied as died:
                if context.died or shutil.disk_usage(context.directory).free < FULL_BYTES:
                    raise
                context.died = str(died)
            with (context.directory / LOG).open("a", encoding="utf-8") as log:
                log.write(f"micota: {context.died}; the step is tried once more\n")


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send what this process and its children print to a log."""
    sys.stdout.flush()
    with log.open("ab") as handle, open(os.dup(1), "wb") as output, open(os.dup(2), "wb") as errors:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)


def finished(directory: Path, *keys: str) -> dict[str, Any] | None:
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
    facts: dict[str, Any] = record if isinstance(record, dict) else {}
    missing = [key for key in ("results", *keys) if key not in facts]
    if missing or not isinstance(facts["results"], dict):
        raise UserError(f"{path}: damaged, it has no {', '.join(missing) or 'mapping of results'}; {cure}")
    return facts


def state(directory: Path) -> str:
    """What a step's directory says of it. Raises UserError as `finished` does."""
    if finished(directory) is not None:
        return DONE
    if holder(directory / LEASE):
        return RUNNING
    return FAILED if (directory / "failed.json").is_file() else MISSING


def states(plan: Plan, workspace: Path) -> dict[str, str]:
    """The state of each step of a plan."""
    return {step.id: state(workspace / step.directory) for step in plan.steps.values()}


def failure_report(directory: Path) -> str:
    """Why a step failed: its error, what its log says of it, and how to run its engine by hand.

    Of a step that could not write it down, what is known.
    """
    failed = read_json(directory / "failed.json") if (directory / "failed.json").is_file() else {}
    lines = [failed.get("error", SILENT)]
    if shutil.disk_usage(directory).free < FULL_BYTES:
        lines.append(f"the disk of {directory} is full; {FREE_SOME}")
    if words := last_errors(directory / LOG):
        lines += [f"last lines of {directory / LOG}:", *(f"    {line}" for line in words)]
    if failed.get("command"):
        lines += ["to run its engine by hand:", f"    {failed['command']}"]
    return "\n".join(lines)


def _outputs(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each output, two levels deep; logs, checkpoints, raw lm-eval files are not outputs.

    Weights are read whole, at 1 to 2 GB/s and seldom from the disk, because they were just written.
    """
    files = [*directory.glob("*"), *directory.glob("model/*")]
    return {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(files)
        if path.is_file() and not (path.name in BOOKKEEPING or path.name[0] == "." or path.suffix == ".log")
    }
