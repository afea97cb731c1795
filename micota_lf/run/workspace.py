"""What a workspace holds: steps that are fresh, stale or missing, whole or damaged, or of no recipe.

    explain(plan, step_id, Path("runs"))             -> ["stale: ...", "train.learning_rate: 0.001 -> 0.002"]
    damage(Path("runs/train/s-on-t-0123456789ab"))   -> ["changed model/model.safetensors: 9 bytes, was 12"]
    unreferred([plan], Path("runs"))                 -> directories that `remove` may delete

A step has no stored notion of staleness: a changed recipe names another directory. So the step is compared
with the finished one that the workspace holds for the same place in the recipe (or else the most similar
one of its kind), and a changed input is followed to its own change. Nothing outside the workspace's step
directories is read or removed, and no symbolic link is followed.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

from ..errors import MicotaError, UserError
from ..plan.plan import STEP, Plan, Step
from ..stages import LOG
from ..system.files import differences, read_json, sha256_file
from ..system.locks import holder, lease
from .step import FAILED, LEASE, RUN_LEASE, RUNNING, finished, state

IDS = "-" + 12 * "[0-9a-f]"  # how the name of a step's directory ends


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
    if not (earlier := _nearest_finished(step, set(plan.slots_of(step_id)), workspace)):
        return [f"missing: never made in {workspace}, nor anything like it"]
    if not (changes := _changes(earlier, step, plan, workspace)):
        return [f"missing: {directory} was there and is gone"]
    return [f"stale: {earlier.directory} is finished, but since then:", *(f"  {line}" for line in changes)]


def _changes(earlier: Step, step: Step, plan: Plan, workspace: Path) -> list[str]:
    """`path: old -> new` for each differing value; a differing input step is followed."""
    lines = differences(earlier.config, step.config)
    for role, given in step.inputs.items():
        before = earlier.inputs.get(role)
        if before is None:
            lines.append(f"{role}: a new input")
        elif not (given.step and before.step):
            lines += differences(before.identity, given.identity, role)
        elif before.step != given.step:
            stored, new = next(workspace.glob(f"*/*-{before.step}/step.json"), None), plan.steps[given.step]
            old = stored and STEP.validate_python(read_json(stored))
            inner = _changes(old, new, plan, workspace) if old else ["made from a step that is gone"]
            lines += [f"{role} <- {new.name}: {line}" for line in inner]
    return lines + [f"{role}: no longer an input" for role in earlier.inputs if role not in step.inputs]


def _nearest_finished(step: Step, slots: set[str], workspace: Path) -> Step | None:
    """The finished step of the same kind that shares a slot, or else has the fewest differing values."""
    found: list[tuple[tuple[bool, int, float], Step]] = []
    for done in workspace.glob(f"{step.kind}/*/done.json"):
        with suppress(MicotaError, LookupError, TypeError, ValueError):  # damaged, or another program's
            raw = read_json(done.with_name("step.json"))
            other = STEP.validate_python(raw)
            differing = len(differences(asdict(other), asdict(step)))
            found.append(((slots.isdisjoint(raw["slots"]), differing, -done.stat().st_mtime), other))
    return min(found, key=itemgetter(0))[1] if found else None


def finished_steps(workspace: Path) -> list[Path]:
    """Directories of the workspace's steps that have a `done.json`, damaged or not."""
    return sorted(path.parent for path in workspace.glob(f"*/*{IDS}/done.json"))


def damage(directory: Path, quick: bool = False) -> list[str]:
    """How the outputs of a finished step differ from what its `done.json` says; empty if they do not.

    Sizes are compared first, then SHA-256 over whole files (1 to 2 GB/s, or what the disk gives); `quick`
    leaves that out. Raises UserError for a damaged `done.json`.
    """
    found: list[str] = []
    record = finished(directory, "outputs") or {"outputs": {}}
    try:
        outputs = {name: (int(was["bytes"]), str(was["sha256"])) for name, was in record["outputs"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{directory / 'done.json'}: damaged, `outputs` are not sizes and hashes") from None
    for name, (size, sha) in outputs.items():
        path = directory / name
        try:
            now = path.stat().st_size
            if now != size:
                found.append(f"changed {name}: {now} bytes, was {size}")
            elif not quick and (again := sha256_file(path)) != sha:
                found.append(f"changed {name}: SHA-256 {again[:12]}..., was {sha[:12]}...")
        except FileNotFoundError:
            found.append(f"missing {name}")
        except OSError as error:
            found.append(f"unreadable {name}: {error.strerror}")
    return found


def unreferred(plans: Iterable[Plan], workspace: Path) -> list[Path]:
    """Directories of steps that none of the plans has, and at which nobody is at work.

    A directory is a step's if its name ends like an id and it holds a `step.json`.
    """
    known = {workspace / step.directory for plan in plans for step in plan.steps.values()}
    found = sorted(path.parent for path in workspace.glob(f"*/*{IDS}/step.json"))
    ours = [path for path in found if not (path.is_symlink() or path.parent.is_symlink())]
    return [path for path in ours if path not in known and not holder(path / LEASE)]


def size_of(directory: Path) -> int:
    """Bytes of the files below a directory; links count as themselves."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def remove(directories: Iterable[Path], workspace: Path) -> None:
    """Delete step directories. Raises StepLocked while a run is at work in the workspace."""
    with lease(workspace / RUN_LEASE, f"nothing was deleted: a run is at work in {workspace}"):
        for directory in directories:
            (directory / "done.json").unlink(missing_ok=True)  # first: half a step is not a finished one
            shutil.rmtree(directory)
