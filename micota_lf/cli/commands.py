"""What the `micota` commands do, one function each.

In: the words of the command line, parsed by `main.py`. Out: text on the terminal and what the command is for.
"""

import argparse
import json
import shlex
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import StepFailed, UserError
from ..plan.costs import estimate
from ..plan.sweep import Sweep
from ..plan.sweep import sweep as compiled
from ..recipe.load import load_layers, source_rows
from ..recipe.load import schema as recipe_schema
from ..recipe.shipped import recipe_file
from ..reports.export import CORPORA, export_step
from ..reports.outcomes import LAST_RUN, Outcomes
from ..reports.pilot import measured
from ..reports.results import run_pending
from ..reports.write import report_path, write_report
from ..run import slurm
from ..run.doctor import examine
from ..run.progress import progress
from ..run.shortages import shortages
from ..run.snakemake import check_engines, pending_steps
from ..run.step import RUN_LEASE, run_step, states
from ..run.workspace import damage, finished_steps, remove, size_of, unreferred
from ..run.workspace import explain as reasons
from ..stages.evaluate import tasks_folder
from ..system.files import read_json, write_json
from ..system.machines import join as take_part
from .show import (
    as_json,
    live_view,
    plan_records,
    show_diagnosis,
    show_plan,
    show_sources,
    show_tables,
    status_lines,
)

MARKS = {True: "ok", None: "-", False: "AMISS"}  # of what `micota doctor` found


def _load(args: argparse.Namespace) -> tuple[Sweep, Path]:
    """The recipe (null: the one that ran last) with its variants, and the workspace."""
    if args.recipe is None:
        last = read_json(Path(args.workspace) / LAST_RUN)
        args.recipe, args.overrides = last["recipe"], [*last["overrides"], *args.overrides]
    return compiled(args.recipe, overrides=args.overrides), Path(args.workspace).absolute()


def plan(args: argparse.Namespace) -> None:
    """Steps, their state and what they need; or where values come from."""
    if args.pilot:
        words = measured(_existing(args.pilot, "--pilot"))
        told = f"measured in {args.pilot}: {' '.join(words) or 'no finished step'}"
        print(told, file=sys.stderr if args.json else sys.stdout)
        args.overrides = [*words, *args.overrides]
    if args.sources:
        rows = source_rows(*load_layers(args.recipe, args.overrides))
        if not as_json(args, [row._asdict() for row in rows]):
            show_sources(rows)
        return
    (recipe, plan, *_), workspace = _load(args)
    chosen = plan.needed(args.target)
    if args.json:  # else show_plan looks at states and costs itself
        as_json(args, plan_records(plan, chosen, states(plan, workspace), estimate(plan, recipe)))
    else:
        show_plan(recipe, plan, workspace, chosen)


def run(args: argparse.Namespace) -> None:
    """A recipe's unfinished steps, then its report."""
    started = time.monotonic()
    swept, workspace = _load(args)
    recipe, plan, *_ = swept
    pending = pending_steps(plan, workspace, args.target)
    report = report_path(swept, workspace)
    if not pending:
        what = "the targets are" if args.target else f"all {len(plan.steps)} steps are"
        path = report if report.is_file() else write_report(swept, workspace)
        if args.target:
            show_tables(swept, workspace, args.target)
        print(f"{recipe.name}: {what} done already, nothing to do; report: {path}")
        return
    on_slurm = recipe.hardware.slurm if args.executor == "slurm" else None
    if on_slurm is not None:
        slurm.check(on_slurm, recipe.hardware.nodes)
    if lacks := shortages(recipe, plan, workspace, pending, here=on_slurm is None):
        show_plan(recipe, plan, workspace, pending)
        words = "nothing was started; run where there is enough, or lower these values"
        raise UserError("\n".join([*lacks, words]))
    check_engines(plan, pending)
    where = str(recipe_file(args.recipe).absolute())
    last = {"recipe": where, "overrides": args.overrides, "name": recipe.name, "targets": args.target}
    write_json(workspace / LAST_RUN, last)
    with live_view(swept, pending, workspace) as say:
        path = run_pending(swept, workspace, pending, jobs=args.jobs, say=say, on_slurm=on_slurm)
    show_tables(swept, workspace, args.target or ["table2"])
    print(f"report: {path} ({len(pending)} steps in {time.monotonic() - started:.0f} s)")


def sweep(args: argparse.Namespace) -> None:
    """A run of a recipe with every combination of the values of keys that are given several."""
    for n, word in enumerate(args.overrides):
        key, mark, values = word.partition("=")
        if mark and "," in values and values[0] not in "[{":
            args.overrides[n] = f"seeds=[{values}]" if key == "seed" else f"variants.{key}=[{values}]"
    run(args)


def join(args: argparse.Namespace) -> None:
    """This machine's part in the trainings of a run on another one."""
    workspace = Path(args.workspace).absolute()
    print(f"waiting for the trainings of a run in {workspace}", flush=True)
    take_part(workspace, RUN_LEASE, partial(print, flush=True))


def explain(args: argparse.Namespace) -> None:
    """Why steps are fresh, stale or missing."""
    args.recipe = None
    if args.step.endswith((".yaml", ".yml")):
        args.recipe = args.step
        args.step = args.overrides.pop(0) if args.overrides else ""
    (_, plan, *_), workspace = _load(args)
    chosen = {step_id: reasons(plan, step_id, workspace) for step_id in plan.select([args.step], "STEP")}
    told = [{"id": one, "step": plan.steps[one].name, "reasons": lines} for one, lines in chosen.items()]
    for one in () if as_json(args, told) else told:
        print("\n  ".join([f"{one['step']} ({one['id']})", *one["reasons"]]))


def report(args: argparse.Namespace) -> None:
    """The tables from the steps that are done."""
    swept, workspace = _load(args)
    path = write_report(swept, workspace)
    show_tables(swept, workspace, ())
    print(f"report: {path}")


def diagnose(args: argparse.Namespace) -> None:
    """What went wrong, and what to try."""
    swept, workspace = _load(args)
    show_diagnosis(swept, workspace)


def preflight(args: argparse.Namespace) -> None:
    """What can be known before the first GPU hour; in a workspace it is the run's own first step."""
    with TemporaryDirectory() as scratch:
        args.workspace = args.workspace or scratch
        (_, plan, *_), workspace = _load(args)
        found: dict[str, dict[str, None]] = {"facts": {}, "warnings": {}, "problems": {}}
        for gate in (step for step in plan.steps if step in plan.gates):  # variants may have several
            with suppress(UserError):  # its lines are the report's
                run_step(plan, gate, workspace, quiet=True)
            report = read_json(workspace / plan.steps[gate].directory / "report.json")
            for kind, lines in found.items():
                lines.update(dict.fromkeys(report[kind]))
        for step_id in plan.steps:  # what a run would refuse here; the recipe may be meant for elsewhere
            try:
                check_engines(plan, [step_id])
            except UserError as error:
                found["warnings"][f"on this machine a run ends at once: {error}"] = None
    for line in [*found["facts"], *(f"warning: {line}" for line in found["warnings"])]:
        print(line)
    if found["problems"]:
        raise UserError("\n".join(found["problems"]))
    print("no problems")


def status(args: argparse.Namespace) -> None:
    """How far a run is, from another shell or machine."""
    swept, workspace = _load(args)
    recipe, plan, *_ = swept
    asked = Outcomes(recipe, plan, workspace).asked
    now = progress(plan, asked, estimate(plan, recipe), workspace)
    if not as_json(args, {**now._asdict(), "running": [one._asdict() for one in now.running]}):
        print("\n".join([f"{recipe.name} in {workspace}", *status_lines(now)]))


def doctor(args: argparse.Namespace) -> None:
    """What this machine has for a run."""
    found = list(examine(Path(args.workspace).absolute()))
    for what, ok, told, cure in () if as_json(args, [finding._asdict() for finding in found]) else found:
        print(f"{MARKS[ok]:5} {what}: {told}{f'; to mend it: {cure}' if cure and not ok else ''}")
    if amiss := [finding.what for finding in found if finding.ok is False]:
        raise StepFailed(f"{len(amiss)} of {len(found)} things are amiss: {', '.join(amiss)}")


def _existing(workspace: str, flag: str = "--workspace") -> Path:
    """A workspace with its links followed. Raises UserError if it is not there."""
    path = Path(workspace).resolve()
    if not path.is_dir():
        raise UserError(f"{flag}: no such directory: {workspace}")
    return path


def verify(args: argparse.Namespace) -> None:
    """Whether finished steps are still what they were."""
    workspace = _existing(args.workspace)
    directories = finished_steps(workspace)
    if args.recipe:
        known = {workspace / step.directory for step in _load(args)[0].plan.steps.values()}
        directories = [directory for directory in directories if directory in known]
    found = dict[str, list[str]]()
    for directory in directories:
        name = str(directory.relative_to(workspace))
        try:
            found[name] = damage(directory, args.quick)
        except UserError as error:
            found[name] = [str(error)]
        if not args.json:
            print(f"{name}: {'; '.join(found[name]) or 'ok'}", flush=True)
    as_json(args, found)
    damaged = [workspace / name for name, problems in found.items() if problems]
    if damaged:
        words = shlex.join(["rm", "-r", *map(str, damaged)])
        cure = f"delete them, and the next run makes them again:\n  {words}"
        raise StepFailed(f"{len(damaged)} of {len(directories)} finished steps are damaged; {cure}")
    if not args.json:
        print(f"{len(directories)} finished steps, none is damaged")


def gc(args: argparse.Namespace) -> None:
    """Steps that none of the recipes refers to."""
    workspace = _existing(args.workspace)
    found = unreferred([compiled(path).plan for path in args.recipes], workspace)
    sizes = {directory: size_of(directory) for directory in found}
    if args.delete:
        remove(found, workspace)
    if as_json(args, {str(step.relative_to(workspace)): size for step, size in sizes.items()}):
        return
    for directory, size in sizes.items():
        print(f"{size / 1e6:12.1f} MB  {directory.relative_to(workspace)}")
    what = "deleted" if args.delete else "to delete with --delete"
    print(f"{sum(sizes.values()) / 1e6:12.1f} MB  in {len(found)} steps, {what}")


def export(args: argparse.Namespace) -> None:
    """A checkpoint or a corpus as a hub folder."""
    swept, workspace = _load(args)
    steps = swept.plan.select([args.step], "STEP")
    if len(steps) > 1:
        raise UserError(f"STEP: {args.step!r} names {len(steps)} steps; name one")
    output = Path(args.output).absolute()
    _, recipe, plan = next(one for one in swept.variants.values() if steps[0] in one.plan.steps)
    export_step(Outcomes(recipe, plan, workspace), steps[0], output)
    data = plan.steps[steps[0]].kind in CORPORA
    print(f"{output}: the {'corpus' if data else 'model'} of {args.step} with its README.md")
    words = f"NAME/{'CORPUS' if data else 'MODEL'} {output} --private{' --repo-type dataset' if data else ''}"
    print(f"to upload it, once you have read that: hf upload {words}")


def schema(args: argparse.Namespace) -> None:
    """The JSON Schema of recipe files."""
    print(json.dumps(recipe_schema(), indent=2))


def tasks(args: argparse.Namespace) -> None:
    """The folder of lm-eval task files."""
    print(tasks_folder())
