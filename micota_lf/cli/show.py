"""What the command line prints: a plan with its costs, a recipe's sources, the tables.

In: a recipe, its plan, a workspace. Out: text on the terminal; nothing is written.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..plan.costs import estimate, total
from ..plan.plan import Plan
from ..recipe.sections import Recipe
from ..recipe.sources import Sourced
from ..reports.outcomes import Outcomes
from ..reports.write import sheets
from ..run.step import DONE, states
from ..system.gpus import gpu_shortage, present_gpus

ESTIMATED = (
    "estimated: {gpu_hours} GPU-hours, {disk_gib} GiB of disk and {scratch_gib} GiB for a while "
    "(checkpoints); at most {gpu_memory_gib} GiB a GPU, {host_memory_gib} GiB of memory a step"
)
FIGURES = (
    "(from {tflops:g} TFLOPS at {mfu:g} in training, {decode_tokens_per_second:g} output tokens/s a GPU of "
    "a 1B model, `estimates.response_tokens`; `--pilot WORKSPACE` takes what a pilot measured)"
)


def show_plan(recipe: Recipe, plan: Plan, workspace: Path, chosen: Sequence[str]) -> None:
    """The chosen steps, their state and estimated cost, and what the unfinished ones need together."""
    now, costs = states(plan, workspace), estimate(plan, recipe)
    rows = []
    for step_id in chosen:
        step, cost = plan.steps[step_id], costs[step_id]
        numbers = map(_number, (cost.gpu_hours, cost.gpu_memory_gib, cost.disk_gib))
        rows.append((step_id, step.kind, plan.slots_of(step_id)[0], now[step_id], str(step.gpus), *numbers))
    _print(140, ("id", "kind", "step", "state", "GPUs", "GPU-h", "GPU GiB", "disk GiB"), rows)
    pending = [step_id for step_id in chosen if now[step_id] != DONE]
    done = f"{len(chosen) - len(pending)} done, {len(pending)} to do"
    print(f"{len(chosen)} steps, {done}; workspace {workspace}")
    if pending:
        whole = total(costs[step_id] for step_id in pending)
        print(ESTIMATED.format(**{name: _number(value) for name, value in whole._asdict().items()}))
    if pending and recipe.hardware.gpus:
        print(FIGURES.format(**vars(recipe.estimates)))
    for lack in shortages(recipe, plan, workspace, pending):
        print(f"missing: {lack}")


def shortages(
    recipe: Recipe, plan: Plan, workspace: Path, pending: Sequence[str], here: bool = True
) -> list[str]:
    """What this machine lacks for the pending steps, each after its key: GPUs, their memory, disk.

    Memory and disk are estimates; what is unknown is not held against it. This machine's GPUs do not matter
    if the steps do not run `here` but on a cluster.
    """
    hardware, costs = recipe.hardware, estimate(plan, recipe)
    found, uses_gpus = [], here and any(plan.steps[step_id].gpus for step_id in pending)
    if uses_gpus and (lack := gpu_shortage(hardware.gpus, hardware.gpu_memory_gib, present_gpus())):
        found.append(f"hardware.gpus: {lack}")
    found += [
        f"hardware.gpu_memory_gib: {hardware.gpu_memory_gib:g}, but {plan.steps[step_id].name} "
        f"needs about {memory:.0f} a GPU: raise hardware.inference_gpus, or lower batch sizes"
        for step_id in pending
        if (memory := costs[step_id].gpu_memory_gib or 0.0) > hardware.gpu_memory_gib
    ]
    home = next(path for path in (workspace, *workspace.parents) if path.is_dir())
    free = hardware.disk_gib or shutil.disk_usage(home).free / 2**30
    kept = sum(costs[step_id].disk_gib or 0.0 for step_id in pending)
    needs = kept + max((costs[step_id].scratch_gib or 0.0 for step_id in pending), default=0.0)
    if needs > free:
        told = "may be taken (hardware.disk_gib)" if hardware.disk_gib else f"are free in {home}"
        found.append(f"--workspace: {free:.3g} GiB {told}, about {needs:.3g} GiB are needed")
    return found


def show_sources(rows: Sequence[Sourced]) -> None:
    """Where each value of a recipe comes from."""
    lines = [(r.key, str(r.value).replace("\n", "\\n"), r.source or "none given", r.set_in) for r in rows]
    _print(200, ("key", "value", "source", "set in"), lines)


def show_tables(recipe: Recipe, plan: Plan, workspace: Path, names: Sequence[str]) -> None:
    """The named tables with their comparisons, `figures` as numbers (everything if there are no names)."""
    for sheet in sheets(Outcomes(recipe, plan, workspace)):
        kind = "figures" if sheet.name.startswith("figure") else sheet.name.removesuffix("-differences")
        if not names or kind in names:
            _print(180, sheet.head, sheet.lines, f"{recipe.name}: {sheet.title}")


def _print(width: int, head: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """A table as wide as the terminal, or `width` in a file."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
