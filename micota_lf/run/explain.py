"""Why a step is fresh, stale or missing: which value changed, from what to what.

    explain(plan, step_id, workspace)   -> ["stale: ...", "train.learning_rate: 0.001 -> 0.002"]

A step has no stored notion of staleness: a changed recipe names another directory. So the step is compared
with the finished one that the workspace holds for the same place in the recipe (or else the most similar
one of its kind), and a changed input is followed to its own change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MicotaError
from ..plan.compile import Plan, Step, step_directory
from ..system.files import read_json
from .step import FAILED, RUNNING, finished, state

ABSENT = "(absent)"


def explain(plan: Plan, step_id: str, workspace: Path) -> list[str]:
    """Lines for people: the step's state first, then each changed value."""
    step = plan["steps"][step_id]
    directory = workspace / step_directory(step)
    now = state(directory)
    done = finished(directory, "started", "seconds", "host")
    if done is not None:
        made = f"made {done['started']} in {done['seconds']:g} s on {done['host']}"
        return [f"fresh: {directory} holds exactly this config and these inputs; {made}"]
    if now == RUNNING:
        return [f"running: see {directory / 'log.txt'}"]
    if now == FAILED:
        return [f"failed: {read_json(directory / 'failed.json')['error']}; see {directory / 'log.txt'}"]
    slots = {slot for slot, made in plan["slots"].items() if made == step_id}
    earlier = _nearest_finished(step, slots, workspace)
    if earlier is None:
        return [f"missing: never made in {workspace}, nor anything like it"]
    changes = _changes(earlier, step, plan, workspace)
    old = f"{step_directory(earlier)}"
    if not changes:
        return [f"missing: {directory} was there and is gone"]
    return [f"stale: {old} is finished, but since then:", *(f"  {change}" for change in changes)]


def flatten(data: Any, at: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted paths to values."""
    if not isinstance(data, dict):
        return {at: data}
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= flatten(value, f"{at}.{key}" if at else str(key))
    return out


def _changes(earlier: Step, step: Step, plan: Plan, workspace: Path) -> list[str]:
    """`path: old -> new` for each differing value; a differing input step is followed."""
    lines = _differences(earlier["config"], step["config"])
    for role, given in step["inputs"].items():
        before = earlier["inputs"].get(role)
        if before is None:
            lines.append(f"{role}: a new input")
        elif "step" not in given or "step" not in before:
            lines += _differences(before.get("identity"), given.get("identity"), role)
        elif before["step"] != given["step"]:
            old, new = _stored(before["step"], workspace), plan["steps"][given["step"]]
            inner = _changes(old, new, plan, workspace) if old else ["made from a step that is gone"]
            lines += [f"{role} <- {new['kind']} {new['label']}: {line}" for line in inner]
    lines += [f"{role}: no longer an input" for role in earlier["inputs"] if role not in step["inputs"]]
    return lines


def _differences(old: Any, new: Any, at: str = "") -> list[str]:
    before, after = flatten(old, at), flatten(new, at)
    return [
        f"{key}: {before.get(key, ABSENT)!r} -> {after.get(key, ABSENT)!r}"
        for key in [*before, *(k for k in after if k not in before)]
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def _nearest_finished(step: Step, slots: set[str], workspace: Path) -> Step | None:
    """The finished step of the same kind that shares a slot, or else has the fewest differing values."""
    found: list[tuple[bool, int, float, Step]] = []
    for done in workspace.glob(f"{step['kind']}/*/done.json"):
        try:
            other = read_json(done.with_name("step.json"))
        except MicotaError:
            continue
        differing = len(_differences(_whole(other), _whole(step)))
        same_place = bool(slots & set(other.get("slots", ())))
        found.append((not same_place, differing, -done.stat().st_mtime, other))
    return min(found, key=lambda entry: entry[:3])[3] if found else None


def _whole(step: Step) -> dict[str, Any]:
    return {"config": step["config"], "inputs": step["inputs"]}


def _stored(step_id: str, workspace: Path) -> Step | None:
    for file in workspace.glob(f"*/*-{step_id}/step.json"):
        stored: Step = read_json(file)
        return stored
    return None
