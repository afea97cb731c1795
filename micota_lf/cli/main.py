"""The `micota` command.

    micota plan recipes/tiny.yaml       what would run, in which state it is, and what it costs
    micota run recipes/tiny.yaml        run it, then write the report
    micota explain recipes/tiny.yaml train/student-s/micota
    micota report recipes/tiny.yaml     the tables from what is there
    micota preflight recipes/tiny.yaml  what can be known before the first GPU hour
    micota verify recipes/tiny.yaml     whether finished steps are still what they were
    micota gc recipes/tiny.yaml         steps that no recipe refers to
    micota export merge/assistant out   a checkpoint as a hub folder with its model card
    micota generate|filter|grade|mix|train|merge|evaluate|bpc --help

Exit codes: 0 done, 1 an engine failed or a step is damaged, 2 the user's input is wrong (nothing was
written), 3 another process is at work there, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import FREE_SOME, MicotaError, StepFailed, UserError
from ..plan.compile import Plan, compile_plan, step_directory
from ..recipe.sections import Recipe
from ..run import slurm
from ..run.snakemake import gates, needed_steps, pending_steps, preflight, run_plan, select
from ..run.step import execute, step_context, step_record
from ..system.files import read_json, write_json
from ..system.processes import die_with_parent, untested_versions
from .stages import add_stage_commands, command

LAST_RUN = Path(".micota") / "last.json"  # the recipe that `micota explain STEP` looks at


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print errors as one line each on stderr; return the exit code."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse leaves `key=value` words that follow an option; they belong to the overrides.
    if any(word.startswith("-") or "overrides" not in args for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop engines on SIGTERM as on Ctrl-C
    try:
        args.run(args)
    except MicotaError as error:
        for line in str(error).splitlines():
            print(f"micota: {line}" if error.exit_code == 2 else line, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("micota: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a path that is too long or not ours
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not error.filename and not full:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"micota: {where}{error.strerror}{f'; {FREE_SOME}' if full else ''}", file=sys.stderr)
        return 1 if full else 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micota",
        description="MiCoTA distillation with LLaMA-Factory, mergekit and lm-evaluation-harness.",
        epilog="example:\n  micota run recipes/tiny.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"micota_lf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plan = command(
        commands, "plan", "Show a recipe's steps, their state and what they need; nothing runs.",
        "recipes/tiny.yaml", _plan,
    )  # fmt: skip
    _target_argument(plan)
    plan.add_argument("--sources", action="store_true", help="where each value comes from, instead of steps")
    plan.add_argument("--pilot", metavar="WORKSPACE", help="estimate from what the steps there have measured")
    _recipe_arguments(plan)
    run = command(
        commands, "run", "Run a recipe's unfinished steps and write its report.",
        "recipes/tiny.yaml --target train/student-s train.learning_rate=1e-3", _run,
    )  # fmt: skip
    _target_argument(run)
    words = "steps side by side on the CPU (default: hardware.cores), or jobs in Slurm's hands (default: all)"
    run.add_argument("--jobs", type=int, help=words)
    words = "where steps run: here, or as Slurm jobs with the options in hardware.slurm (default: local)"
    run.add_argument("--executor", choices=("local", "slurm"), default="local", help=words)
    _recipe_arguments(run)
    explain = command(
        commands, "explain", "Say why a step is fresh, stale or missing: which value changed.",
        "recipes/tiny.yaml train/student-s/micota", _explain,
    )  # fmt: skip
    explain.add_argument(
        "step", metavar="[RECIPE] STEP", help="a slot, label or id; without RECIPE, of the one that ran last"
    )
    _common_arguments(explain)
    report = command(
        commands, "report", "Write the tables from the steps that are done.",
        "recipes/tiny.yaml", _report,
    )  # fmt: skip
    _recipe_arguments(report)
    verify = command(
        commands, "verify", "Check that finished steps still have the outputs that they were made with.",
        "recipes/tiny.yaml", _verify,
    )  # fmt: skip
    verify.add_argument("--quick", action="store_true", help="compare sizes alone, no hashes")
    verify.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="its steps (default: all in the workspace)"
    )
    _common_arguments(verify)
    unused = command(
        commands, "gc", "List steps that none of these recipes refers to, or delete them.",
        "recipes/tiny.yaml recipes/mine.yaml --delete", _gc,
    )  # fmt: skip
    unused.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipes whose steps stay")
    unused.add_argument("--workspace", default="runs", help="where the steps are (default: runs)")
    unused.add_argument("--delete", action="store_true", help="delete them; without it they are only listed")
    export = command(
        commands, "export", "Copy a trained or merged model to a folder for the hub, with a model card.",
        "merge/assistant my-assistant --recipe recipes/tiny.yaml", _export,
    )  # fmt: skip
    export.add_argument("step", metavar="STEP", help="slot, label or id of a train or merge step")
    export.add_argument("output", metavar="DIR", help="new or empty directory")
    export.add_argument("--recipe", metavar="RECIPE", help="(default: the one that ran last)")
    export.add_argument("--push", metavar="REPO", help="then upload it, as in me/my-assistant")
    _common_arguments(export)
    add_stage_commands(commands)
    ahead = command(
        commands, "preflight", "Check prompts, templates, models and the merge in seconds; no GPU is needed.",
        "recipes/tiny.yaml", _preflight,
    )  # fmt: skip
    ahead.add_argument("recipe", metavar="RECIPE", help="recipe YAML")
    ahead.add_argument("--workspace", help="keep the result there, as the run's own first step")
    ahead.add_argument("overrides", nargs="*", metavar="key=value", help="values laid over the recipe's")
    command(
        commands, "tasks", "Print the folder of lm-eval task files, for --include_path.",
        '  (as in: lm_eval run --include_path "$(micota tasks)" --tasks micota_tiny)', _tasks,
    )  # fmt: skip
    step = command(
        commands, "step", "Do one step of a frozen plan (what `micota run` has Snakemake call).",
        "runs/.micota/tiny-0123456789ab.json 0123456789ab", _step,
    )  # fmt: skip
    step.add_argument("plan", help="frozen plan, as `micota run` writes it to WORKSPACE/.micota/")
    step.add_argument("id", help="the step's id")
    step.add_argument(
        "--parent", type=int, metavar="PID", help="end when this process, which started it, ends"
    )
    return parser


def _target_argument(parser: argparse.ArgumentParser) -> None:
    words = "only this table (table1 to table4, figures), slot, kind or id, and what it needs"
    parser.add_argument("--target", action="append", default=[], help=words)


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="recipe YAML")
    _common_arguments(parser)


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workspace", default="runs", help="where steps and reports live (default: runs)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values laid over the recipe's")


def _load(args: argparse.Namespace) -> tuple[Recipe, Plan, Path]:
    """The recipe (null: the one that ran last), its plan and the workspace."""
    if args.recipe is None:
        last = read_json(Path(args.workspace) / LAST_RUN)
        args.recipe, args.overrides = last["recipe"], [*last["overrides"], *args.overrides]
    from ..recipe.load import load_recipe  # not at the top: each step's process would pay for OmegaConf

    recipe = load_recipe(args.recipe, args.overrides)
    return recipe, compile_plan(recipe), Path(args.workspace).absolute()


def _plan(args: argparse.Namespace) -> None:
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
    needed = gates(plan) | set(needed_steps(plan, args.target))
    show_plan(recipe, plan, workspace, [step_id for step_id in plan["steps"] if step_id in needed])


def _need_hardware(recipe: Recipe, plan: Plan, workspace: Path, pending: list[str], here: bool) -> None:
    """Show the plan and raise UserError if this machine, or one of a cluster, lacks what the steps need."""
    from .show import shortages, show_plan

    lacks = shortages(recipe, plan, workspace, pending, here)
    if lacks:
        show_plan(recipe, plan, workspace, pending)
        words = (
            "nothing was started; run where there is enough, or lower these values: the global batch stays"
        )
        raise UserError("\n".join([*lacks, words]))


def _run(args: argparse.Namespace) -> None:
    from ..reports.write import write_report
    from .show import show_tables

    started = time.monotonic()
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs: {args.jobs} must be above 0")
    recipe, plan, workspace = _load(args)
    pending = pending_steps(plan, workspace, args.target)
    report = workspace / "reports" / recipe.name / "report.md"
    if not pending:
        what = "the targets are" if args.target else f"all {len(plan['steps'])} steps are"
        path = report if report.is_file() else write_report(recipe, plan, workspace)
        if args.target:
            show_tables(recipe, plan, workspace, args.target)
        print(f"{recipe.name}: {what} done already, nothing to do; report: {path}")
        return
    on_slurm = recipe.hardware.slurm if args.executor == "slurm" else None
    if on_slurm is not None:
        slurm.check(on_slurm, recipe.hardware.nodes)
    _need_hardware(recipe, plan, workspace, pending, here=on_slurm is None)
    preflight(plan, pending)
    for line in untested_versions():
        print(f"warning: {line}", flush=True)
    print(f"{recipe.name}: {len(pending)} of {len(plan['steps'])} steps to do in {workspace}", flush=True)
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


def _explain(args: argparse.Namespace) -> None:
    from ..run.explain import explain

    args.recipe = None
    if args.step.endswith((".yaml", ".yml")):
        args.recipe = args.step
        args.step = args.overrides.pop(0) if args.overrides else ""
    _, plan, workspace = _load(args)
    for step_id in select(plan, [args.step], "STEP"):
        step = plan["steps"][step_id]
        print(f"{step['kind']} {step['label']} ({step_id})")
        for line in explain(plan, step_id, workspace):
            print(f"  {line}")


def _report(args: argparse.Namespace) -> None:
    from ..reports.write import write_report
    from .show import show_tables

    recipe, plan, workspace = _load(args)
    path = write_report(recipe, plan, workspace)
    show_tables(recipe, plan, workspace, ())
    print(f"report: {path}")


def _preflight(args: argparse.Namespace) -> None:
    from ..recipe.load import load_recipe
    from ..stages.preflight import preflight_report
    from ..stages.probe import Report

    if args.workspace:
        _, plan, workspace = _load(args)
        step_id = plan["slots"]["preflight"]
        context = step_context(plan, step_id, workspace)
        with contextlib.suppress(UserError):  # its lines are the report's
            execute("preflight", context, step_record(plan, step_id))
        report = Report(**read_json(context.directory / "report.json"))
    else:
        report = preflight_report(load_recipe(args.recipe, args.overrides))
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


def _verify(args: argparse.Namespace) -> None:
    from ..run.upkeep import damage, finished_steps

    workspace = _existing(args.workspace)
    directories = finished_steps(workspace)
    if args.recipe:
        known = {workspace / step_directory(step) for step in _load(args)[1]["steps"].values()}
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


def _gc(args: argparse.Namespace) -> None:
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


def _export(args: argparse.Namespace) -> None:
    from ..reports.export import export_model, push_model, refuse_push
    from ..reports.outcomes import Outcomes

    if args.push:
        refuse_push(args.push)
    recipe, plan, workspace = _load(args)
    steps = select(plan, [args.step], "STEP")
    if len(steps) > 1:
        raise UserError(f"STEP: {args.step!r} names {len(steps)} steps; name one")
    output = Path(args.output).absolute()
    export_model(Outcomes(recipe, plan, workspace), steps[0], output)
    print(f"{output}: the model of {args.step} with its README.md")
    if args.push:
        push_model(output, args.push)
        print(f"uploaded to {args.push}")


def _tasks(args: argparse.Namespace) -> None:
    from ..stages.evaluate import TASKS_DIR

    print(TASKS_DIR)


def _step(args: argparse.Namespace) -> None:
    plan: Plan = read_json(args.plan)
    if not isinstance(plan, dict) or args.id not in plan.get("steps", ()):
        raise UserError(f"{args.plan}: no step {args.id!r}")
    workspace = Path(args.plan).absolute().parent.parent
    if args.parent:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != args.parent:  # it was gone before we could ask
            raise StepFailed(f"process {args.parent}, which started this step, is gone")
    step = plan["steps"][args.id]
    try:
        execute(step["kind"], step_context(plan, args.id, workspace), step_record(plan, args.id))
    except MicotaError as error:
        raise StepFailed(f"{step_directory(step)}: {error}") from error


def _say(text: str) -> None:
    print(text, flush=True)
