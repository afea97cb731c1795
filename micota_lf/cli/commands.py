"""What the `micota` commands do, one function each.

In: the words of the command line, parsed by `main.py`. Out: text on the terminal and what the command is for.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import MicotaError, StepFailed, UserError
from ..plan.compile import compile_plan
from ..plan.plan import PLAN, Plan
from ..recipe.sections import Recipe
from ..run import slurm
from ..run.snakemake import check_engines, pending_steps, run_plan
from ..run.step import run_step
from ..system.files import read_json, write_json
from ..system.processes import die_with_parent, untested_versions

LAST_RUN = Path(".micota") / "last.json"  # the recipe that `micota explain STEP` looks at


def _load(args: argparse.Namespace) -> tuple[Recipe, Plan, Path]:
    """The recipe (null: the one that ran last), its plan and the workspace."""
    if args.recipe is None:
        last = read_json(Path(args.workspace) / LAST_RUN)
        args.recipe, args.overrides = last["recipe"], [*last["overrides"], *args.overrides]
    from ..recipe.load import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    return recipe, compile_plan(recipe), Path(args.workspace).absolute()


def plan(args: argparse.Namespace) -> None:
    """Steps, their state and what they need; or where values come from."""
    from ..recipe.load import load_layers
    from ..recipe.sources import source_rows
    from ..reports.pilot import measured
    from .show import show_plan, show_sources

    if args.pilot:
        words = measured(Path(args.pilot))
        print(f"measured in {args.pilot}: {' '.join(words) or 'no finished step'}")
        args.overrides = [*words, *args.overrides]
    if args.sources:
        show_sources(source_rows(*load_layers(args.recipe, args.overrides)))
        return
    recipe, plan, workspace = _load(args)
    needed = plan.gates | set(plan.needed(args.target))
    show_plan(recipe, plan, workspace, [step_id for step_id in plan.steps if step_id in needed])


def _need_hardware(recipe: Recipe, plan: Plan, workspace: Path, pending: list[str], here: bool) -> None:
    """Show the plan and raise UserError if this machine, or one of a cluster, lacks what the steps need."""
    from .show import shortages, show_plan

    lacks = shortages(recipe, plan, workspace, pending, here)
    if lacks:
        show_plan(recipe, plan, workspace, pending)
        words = "nothing was started; run where there is enough, or lower these values"
        raise UserError("\n".join([*lacks, words]))


def run(args: argparse.Namespace) -> None:
    """A recipe's unfinished steps, then its report."""
    from ..reports.write import write_report
    from .show import show_tables

    started = time.monotonic()
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs: {args.jobs} must be above 0")
    recipe, plan, workspace = _load(args)
    pending = pending_steps(plan, workspace, args.target)
    report = workspace / "reports" / recipe.name / "report.md"
    if not pending:
        what = "the targets are" if args.target else f"all {len(plan.steps)} steps are"
        path = report if report.is_file() else write_report(recipe, plan, workspace)
        if args.target:
            show_tables(recipe, plan, workspace, args.target)
        print(f"{recipe.name}: {what} done already, nothing to do; report: {path}")
        return
    on_slurm = recipe.hardware.slurm if args.executor == "slurm" else None
    if on_slurm is not None:
        slurm.check(on_slurm, recipe.hardware.nodes)
    _need_hardware(recipe, plan, workspace, pending, here=on_slurm is None)
    check_engines(plan, pending)
    for line in untested_versions():
        print(f"warning: {line}", flush=True)
    print(f"{recipe.name}: {len(pending)} of {len(plan.steps)} steps to do in {workspace}", flush=True)
    last = {"recipe": str(Path(args.recipe).absolute()), "overrides": args.overrides}
    write_json(workspace / LAST_RUN, last)
    try:
        run_plan(plan, workspace, pending, jobs=args.jobs, say=_say, on_slurm=on_slurm)
    except BaseException:
        with contextlib.suppress(OSError):  # a half run has a report too, if there is room for it
            write_report(recipe, plan, workspace)
        raise
    path = write_report(recipe, plan, workspace)
    show_tables(recipe, plan, workspace, args.target or ["table2"])
    print(f"report: {path} ({len(pending)} steps in {time.monotonic() - started:.0f} s)")


def explain(args: argparse.Namespace) -> None:
    """Why steps are fresh, stale or missing."""
    from ..run.explain import explain

    args.recipe = None
    if args.step.endswith((".yaml", ".yml")):
        args.recipe = args.step
        args.step = args.overrides.pop(0) if args.overrides else ""
    _, plan, workspace = _load(args)
    for step_id in plan.select([args.step], "STEP"):
        print(f"{plan.steps[step_id].name} ({step_id})")
        for line in explain(plan, step_id, workspace):
            print(f"  {line}")


def report(args: argparse.Namespace) -> None:
    """The tables from the steps that are done."""
    from ..reports.write import write_report
    from .show import show_tables

    recipe, plan, workspace = _load(args)
    path = write_report(recipe, plan, workspace)
    show_tables(recipe, plan, workspace, ())
    print(f"report: {path}")


def preflight(args: argparse.Namespace) -> None:
    """What can be known before the first GPU hour; in a workspace it is the run's own first step."""
    from ..stages.preflight import Report

    with contextlib.ExitStack() as scratch:
        args.workspace = args.workspace or scratch.enter_context(TemporaryDirectory())
        _, plan, workspace = _load(args)
        step = plan.steps[plan.slots["preflight"]]
        with contextlib.suppress(UserError):  # its lines are the report's
            run_step(plan, step.id, workspace)
        report = Report(**read_json(workspace / step.directory / "report.json"))
    for line in report.lines():
        print(line)
    if report.problems:
        raise UserError("\n".join(report.problems))
    print("no problems")


def _existing(workspace: str) -> Path:
    """A workspace with its links followed. Raises UserError if it is not there."""
    path = Path(workspace).resolve()
    if not path.is_dir():
        raise UserError(f"--workspace: no such directory: {workspace}")
    return path


def verify(args: argparse.Namespace) -> None:
    """Whether finished steps are still what they were."""
    from ..run.upkeep import damage, finished_steps

    workspace = _existing(args.workspace)
    directories = finished_steps(workspace)
    if args.recipe:
        known = {workspace / step.directory for step in _load(args)[1].steps.values()}
        directories = [directory for directory in directories if directory in known]
    damaged = []
    for directory in directories:
        try:
            problems = damage(directory, args.quick)
        except UserError as error:
            problems = [str(error)]
        damaged += [directory] if problems else []
        print(f"{directory.relative_to(workspace)}: {'; '.join(problems) or 'ok'}", flush=True)
    if damaged:
        words = shlex.join(["rm", "-r", *map(str, damaged)])
        raise StepFailed(
            f"{len(damaged)} of {len(directories)} finished steps are damaged; "
            f"delete them, and the next run makes them again:\n  {words}"
        )
    print(f"{len(directories)} finished steps, none is damaged")


def gc(args: argparse.Namespace) -> None:
    """Steps that none of the recipes refers to."""
    from ..recipe.load import load_recipe
    from ..run.upkeep import remove, size_of, unreferred

    workspace = _existing(args.workspace)
    found = unreferred([compile_plan(load_recipe(path)) for path in args.recipes], workspace)
    sizes = {directory: size_of(directory) for directory in found}
    for directory, size in sizes.items():
        print(f"{size / 1e6:12.1f} MB  {directory.relative_to(workspace)}")
    if args.delete:
        remove(found, workspace)
    what = "deleted" if args.delete else "to delete with --delete"
    print(f"{sum(sizes.values()) / 1e6:12.1f} MB  in {len(found)} steps, {what}")


def export(args: argparse.Namespace) -> None:
    """A checkpoint as a hub folder."""
    from ..reports.export import export_model, push_model, refuse_push
    from ..reports.outcomes import Outcomes

    if args.push:
        refuse_push(args.push)
    recipe, plan, workspace = _load(args)
    steps = plan.select([args.step], "STEP")
    if len(steps) > 1:
        raise UserError(f"STEP: {args.step!r} names {len(steps)} steps; name one")
    output = Path(args.output).absolute()
    export_model(Outcomes(recipe, plan, workspace), steps[0], output)
    print(f"{output}: the model of {args.step} with its README.md")
    if args.push:
        push_model(output, args.push)
        print(f"uploaded to {args.push}")


def schema(args: argparse.Namespace) -> None:
    """The JSON Schema of recipe files."""
    from ..recipe.load import schema

    print(json.dumps(schema(), indent=2))


def tasks(args: argparse.Namespace) -> None:
    """The folder of lm-eval task files."""
    from ..stages.evaluate import tasks_folder

    print(tasks_folder())


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


def _say(text: str) -> None:
    print(text, flush=True)
