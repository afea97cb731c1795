"""How far a run is, seen from anywhere that shares its workspace.

    now = progress(plan, plan.steps, estimate(plan, recipe), Path("runs"))
    now.counts, now.running, now.hours_left    -> {"done": 12, ...}, [Doing("train/ta", "step 3/8", 7.0)], 0.1

The time left is the plan's estimate times what finished steps took beyond theirs.
"""

import time
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

from ..plan.costs import Cost
from ..plan.plan import Plan, Step
from ..plan.schedule import wall_hours
from ..stages import stage
from .step import DONE, FAILED, RUNNING, finished, state


class Doing(NamedTuple):
    """A step at work: its slot, how far it is in its engine's words, seconds since it began."""

    step: str
    words: str
    seconds: float


class Progress(NamedTuple):
    """Steps by state; those at work; hours left, unknown (None) if an estimate is; what these were times."""

    counts: dict[str, int]
    running: list[Doing]
    failed: list[str]
    hours_left: float | None
    measured: float


def progress(plan: Plan, asked: Container[str], costs: Mapping[str, Cost], workspace: Path) -> Progress:
    """Look at the asked steps (their ids) of a plan with these estimates."""
    running, taken, expected = [], 0.0, 0.0
    steps = [step for step in plan.steps.values() if step.id in asked]
    now = {step.id: state(workspace / step.directory) for step in steps}
    for step in steps:
        home = workspace / step.directory
        if now[step.id] == RUNNING:
            begun = (home / "step.json").stat().st_mtime
            running.append(Doing(plan.slots_of(step.id)[0], doing(step, workspace), time.time() - begun))
        elif now[step.id] == DONE and (cost := costs[step.id].hours):
            taken, expected = taken + (finished(home) or {})["seconds"] / 3600, expected + cost
    measured = taken / expected if expected else 1.0
    left = {step_id: costs[step_id].hours for step_id, known in now.items() if known != DONE}
    hours = {step_id: cost * measured for step_id, cost in left.items() if cost is not None}
    whole = wall_hours(plan, hours) if len(hours) == len(left) else None
    failed = [plan.slots_of(step_id)[0] for step_id, known in now.items() if known == FAILED]
    return Progress(dict(Counter(now.values())), running, failed, whole, measured)


def doing(step: Step, workspace: Path) -> str:
    """How far a running step is, in its engine's words."""
    return stage(step.kind).progress(workspace / step.directory) or RUNNING
