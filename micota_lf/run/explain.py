"""Why a step is fresh, stale or missing: which value changed, from what to what.

    explain(plan, step_id, workspace)   -> ["stale: ...", "train.learning_rate: 0.001 -> 0.002"]

A step has no stored notion of staleness: a changed recipe names another directory. So the step is compared
with the finished one that the workspace holds for the same place in the recipe (or else the most similar
one of its kind), and a changed input is followed to its own change.
"""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import MicotaError
from ..plan.plan import STEP, Plan, Step
from ..stages import LOG
from ..system.files import read_json
from .step import FAILED, RUNNING, finished, state

ABSENT = "(absent)"


def explain(plan: Plan, step_id: str, workspace: Path) -> list[str]:
    """Lines for people: the step's state first, then each changed value."""
    step = plan.steps[step_id]
    directory = workspace / step.directory
    now = state(directory)
    if done := finished(directory, "started", "seconds", "host"):
        made = f"made {done['started']} in {done['seconds']:g} s on {done['host']}"
        return [f"fresh: {directory} holds exactly this config and these inputs; {made}"]
    if now == RUNNING:
        return [f"running: see {directory / LOG}"]
    if now == FAILED:
        return [f"failed: {read_json(directory / 'failed.json')['error']}; see {directory / LOG}"]
    earlier = _nearest_finished(step, set(plan.slots_of(step_id)), workspace)
    if earlier is None:
        return [f"missing: never made in {workspace}, nor anything like it"]
    changes = _changes(earlier, step, plan, workspace)
    if not changes:
        return [f"missing: {directory} was there and is gone"]
    return [f"stale: {earlier.directory} is finished, but since then:", *(f"  {line}" for line in changes)]


def _changes(earlier: Step, step: Step, plan: Plan, workspace: Path) -> list[str]:
    """`path: old -> new` for each differing value; a differing input step is followed."""
    lines = _differences(earlier.config, step.config)
    for role, given in step.inputs.items():
        before = earlier.inputs.get(role)
        if before is None:
            lines.append(f"{role}: a new input")
        elif not (given.step and before.step):
            lines += _differences(before.identity, given.identity, role)
        elif before.step != given.step:
            old = next((_stored(path)[0] for path in workspace.glob(f"*/*-{before.step}/step.json")), None)
            new = plan.steps[given.step]
            inner = _changes(old, new, plan, workspace) if old else ["made from a step that is gone"]
            lines += [f"{role} <- {new.name}: {line}" for line in inner]
    return lines + [f"{role}: no longer an input" for role in earlier.inputs if role not in step.inputs]


def _differences(old: Any, new: Any, at: str = "") -> list[str]:
    """`path: old -> new` for each value of two mappings that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{at}: {old!r} -> {new!r}"] if old != new else []
    lines = []
    for key in {**old, **new}:
        lines += _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{at}.{key}".lstrip("."))
    return lines


def _nearest_finished(step: Step, slots: set[str], workspace: Path) -> Step | None:
    """The finished step of the same kind that shares a slot, or else has the fewest differing values."""
    found: list[tuple[bool, int, float, Step]] = []
    for done in workspace.glob(f"{step.kind}/*/done.json"):
        with suppress(MicotaError, LookupError, TypeError, ValueError):  # damaged, or another program's
            other, places = _stored(done.with_name("step.json"))
            differing = len(_differences(asdict(other), asdict(step)))
            found.append((not slots & places, differing, -done.stat().st_mtime, other))
    return min(found, key=lambda entry: entry[:3])[3] if found else None


def _stored(path: Path) -> tuple[Step, set[str]]:
    """The step of a `step.json`, and the slots that it had."""
    raw = read_json(path)
    return STEP.validate_python(raw), set(raw["slots"])
