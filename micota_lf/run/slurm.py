"""Slurm under Snakemake: what a step's job asks for, and which jobs a run that died has left behind.

    options(workspace, jobs=100)                     -> Snakemake's arguments for its Slurm executor
    resources(8, {"partition": "a100", "time": "2d"})
    leftovers(workspace)                             -> {"17": "RUNNING", "18": "PENDING"}

A workspace's jobs are known by the start of their name. Each asks for its GPUs and CPUs (`threads`) on one
machine, and takes the cluster's defaults for what `hardware.slurm` leaves out.
"""

import re
import shlex
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..system.files import digest
from ..system.processes import output_of

# sbatch's options that the executor (snakemake-executor-plugin-slurm) wants as resources; others go through.
RESOURCES = {"account": "slurm_account", "partition": "slurm_partition", "time": "runtime", "mem": "mem",
             "constraint": "constraint", "qos": "qos"}  # fmt: skip
Settings = Mapping[str, Any]
"""`hardware.slurm` of a recipe."""


def check(settings: Settings, nodes: int) -> None:
    """Raise UserError for several `nodes`, for a `time` that is not like 90m or 2d, or if Slurm is absent."""
    if find_spec("snakemake_executor_plugin_slurm") is None:
        raise UserError("--executor slurm: its package is not installed; pip install 'micota_lf[slurm]'")
    if not all(shutil.which(program) for program in ("sbatch", "squeue", "scancel")):
        raise UserError("--executor slurm: sbatch, squeue and scancel are not all on PATH")
    if nodes > 1:
        words = "trainings over several machines are not started as Slurm jobs; set it to 1"
        raise UserError(f"hardware.nodes: {nodes}: {words}")
    limit = settings.get("time", "1d")
    if not re.fullmatch(r"\d+[mhd]", str(limit)):  # YAML reads 12:00:00 as a number
        raise UserError(f"hardware.slurm.time: {limit} must be minutes, hours or days, like 90m, 12h or 2d")


def options(workspace: Path, jobs: int) -> list[str]:
    """Snakemake's arguments: at most `jobs` jobs at a time in Slurm's hands."""
    # Without accounting sacct answers nothing, and the executor would ask it for ever.
    accounting = output_of("sacct", "--allocations", "--noheader", "--starttime=now") is not None
    return [
        "--executor", "slurm", "--jobs", str(jobs), "--latency-wait", "120",
        "--slurm-status-command", "sacct" if accounting else "squeue",
        "--slurm-init-seconds-before-status-checks", "5",
        "--slurm-jobname-prefix", _prefix(workspace), "--slurm-logdir", str(workspace / ".micota" / "slurm"),
    ]  # fmt: skip


def resources(gpus: int, settings: Settings, after: str | None = None) -> dict[str, Any]:
    """Snakemake's resources for a step's job, which starts after the job with the id `after` has ended."""
    given = {RESOURCES[key]: value for key, value in settings.items() if key in RESOURCES}
    others = {key: value for key, value in settings.items() if key not in RESOURCES}
    extra = [f"--{key}" if value is True else f"--{key}={value}" for key, value in others.items()]
    extra += [f"--dependency=afterany:{after}"] if after else []
    # One task, whose engine starts its own processes. Snakemake would ask for 1 GB if nothing were said.
    on_gpus = {"gpu": gpus, "tasks_per_gpu": 0, "nodes": 1} if gpus else {}
    return {"mem": 0, **given, **on_gpus, **({"slurm_extra": shlex.join(extra)} if extra else {})}


def leftovers(workspace: Path) -> dict[str, str]:
    """Ids and states of the workspace's jobs that are queued or running."""
    lines = (output_of("squeue", "--me", "--noheader", "--format=%i %T %j") or "").splitlines()
    jobs = [line.split(maxsplit=2) for line in lines]
    return {made: state for made, state, name in jobs if name.startswith(_prefix(workspace))}


def cancel(jobs: list[str]) -> None:
    """Cancel jobs; those that have ended are no error."""
    if jobs:
        output_of("scancel", *jobs)


def _prefix(workspace: Path) -> str:
    return f"micota-{digest(str(workspace))}"
