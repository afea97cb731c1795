"""What the command line prints: a plan with its costs, a recipe's sources, the tables.

In: a recipe, its plan, a workspace. Out: text on the terminal; nothing is written.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..plan.costs import Cost, downloads, estimate, total
from ..plan.plan import Plan
from ..plan.schedule import wall_hours
from ..plan.sweep import Sweep
from ..recipe.load import Sourced
from ..recipe.sections import Recipe
from ..reports.diagnose import diagnosis
from ..reports.outcomes import Outcomes
from ..reports.sheets import document
from ..reports.write import sheets
from ..run.progress import Progress, progress
from ..run.shortages import shortages
from ..run.snakemake import AT_WORK, Say
from ..run.step import DONE, states
from ..system.files import read_beside

WORDS = read_beside(__file__)


def as_json(args: argparse.Namespace, found: Any) -> bool:
    """Print what was found as one line of JSON if that was asked for, and say whether it was."""
    if args.json:
        print(json.dumps(found))
    return bool(args.json)


def show_plan(recipe: Recipe, plan: Plan, workspace: Path, chosen: Sequence[str]) -> None:
    """The chosen steps, their state and estimated cost, and what the unfinished ones need together."""
    now, costs = states(plan, workspace), estimate(plan, recipe)
    records = plan_records(plan, chosen, now, costs)
    rows = [[n if isinstance(n, str) else _number(n) for n in row.values()][:-1] for row in records]
    _print(140, ("id", "kind", "step", "state", "GPUs", "GPU-h", "GPU GiB", "disk GiB"), rows)
    pending = [step_id for step_id in chosen if now[step_id] != DONE]
    done = f"{len(chosen) - len(pending)} done, {len(pending)} to do"
    print(f"{len(chosen)} steps, {done}; workspace {workspace}")
    if pending:
        whole = total(costs[step_id] for step_id in pending)
        known = {step_id: costs[step_id].hours or 0.0 for step_id in pending}
        wall = math.nan if whole.hours is None else wall_hours(plan, known)
        words = {**whole._asdict(), "parts": None, "fetched": downloads(plan, pending)}
        words |= {"gpus": plan.gpus, "cores": plan.cores, "wall": wall, "minutes": wall * 60}
        shown = {name: _number(value) for name, value in words.items()}
        # Of the time on GPUs, start-ups and waiting are no work.
        share = (whole.gpu_hours or 0.0) / max(1, plan.gpus) / (wall or math.inf)
        for line in ("estimated", *(("on_gpus", "figures") if plan.gpus else ("on_cores",))):
            print(WORDS[line].format(**shown, **vars(recipe.estimates), share=share))
    for lack in shortages(recipe, plan, workspace, pending):
        print(f"missing: {lack}")


def plan_records(
    plan: Plan, chosen: Sequence[str], now: Mapping[str, str], costs: Mapping[str, Cost]
) -> list[dict[str, Any]]:
    """The chosen steps, their state and estimated cost; None is unknown."""
    shown = []
    for step, cost in ((plan.steps[step_id], costs[step_id]) for step_id in chosen):
        names = {"id": step.id, "kind": step.kind, "step": plan.slots_of(step.id)[0], "state": now[step.id]}
        numbers = {key: getattr(cost, key) for key in ("gpu_hours", "gpu_memory_gib", "disk_gib", "hours")}
        shown.append({**names, "gpus": step.gpus, **numbers})
    return shown


def status_lines(now: Progress) -> Iterator[str]:
    """How far a run is: steps by state, what runs and what failed, and the time left."""
    counts = ", ".join(f"{count} {state}" for state, count in now.counts.items())
    yield f"  {counts} of {sum(now.counts.values())} steps"
    for step, words, seconds in now.running:
        yield f"  running {step}: {words} ({seconds / 60:.1f} minutes)"
    for step in now.failed:
        yield f"  failed  {step}: micota explain {step}"
    if now.hours_left:
        told = f"the estimates times {now.measured:.2g}, as measured"
        yield f"  about {60 * now.hours_left:.0f} minutes left ({told})"


@contextmanager
def live_view(swept: Sweep, pending: Sequence[str], workspace: Path) -> Iterator[Say]:
    """A way to print lines; on a terminal, what a run of pending steps does stands below until it ends."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        yield partial(print, flush=True)
        return
    costs, screen = estimate(swept.plan, swept.recipe), Console(markup=False, highlight=False)

    def now() -> Text:
        return Text("\n".join(status_lines(progress(swept.plan, set(pending), costs, workspace))))

    def say(words: str) -> None:
        if AT_WORK not in words:  # the lines below say so all the time
            screen.print(words)

    with Live(get_renderable=now, console=screen, refresh_per_second=0.25, transient=True):
        yield say


def show_sources(rows: Sequence[Sourced]) -> None:
    """Where each value of a recipe comes from."""
    lines = [(r.key, str(r.value).replace("\n", "\\n"), r.source or "none given", r.set_in) for r in rows]
    _print(200, ("key", "value", "source", "set in"), lines)


def show_tables(swept: Sweep, workspace: Path, names: Sequence[str]) -> None:
    """The named tables with their comparisons, `figures` as numbers (everything if there are no names).

    Of several variants, their comparison.
    """
    for sheet in sheets(swept, workspace):
        kind = "figures" if sheet.name.startswith("figure") else sheet.name.removesuffix("-differences")
        if not names or kind in (*names, "variants"):
            _print(180, sheet.head, sheet.lines, f"{swept.recipe.name}: {sheet.title}")


def show_diagnosis(swept: Sweep, workspace: Path) -> None:
    """Each signature of a failure that a run bears, with its evidence and what to try."""
    for name, (_, recipe, plan) in swept.variants.items():
        told = {"name": name or recipe.name, "sheet": diagnosis(Outcomes(recipe, plan, workspace))}
        done = [*states(plan, workspace).values()]
        print(document("diagnosis.txt", done=done.count(DONE), steps=len(done), **told))


def _print(width: int, head: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """A table as wide as the terminal, or `width` in a file."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False).print(table)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "?"
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
