"""What Snakemake calls for each step of a run: a process that loads no more than the step needs."""

import argparse
import os
import signal
from pathlib import Path

from ..errors import MicotaError, StepFailed, UserError
from ..plan.plan import PLAN
from ..run.step import run_step
from ..system.files import read_json
from ..system.processes import die_with_parent


def step(args: argparse.Namespace) -> None:
    """One step of a frozen plan."""
    raw = read_json(args.plan)
    if not isinstance(raw, dict) or args.id not in raw.get("steps", ()):
        raise UserError(f"{args.plan}: no step {args.id!r}")
    plan, workspace = PLAN.validate_python(raw), Path(args.plan).absolute().parent.parent
    if args.parent:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != args.parent:  # it was gone before we could ask
            raise StepFailed(f"process {args.parent}, which started this step, is gone")
    try:
        run_step(plan, args.id, workspace, quiet=True)
    except MicotaError as error:
        raise StepFailed(f"{plan.steps[args.id].directory}: {error}") from error
