"""What a workspace holds: finished steps that are still whole, and steps that no recipe refers to.

    damage(Path("runs/train/s-on-t-0123456789ab"))   -> ["changed model/model.safetensors: 9 bytes, was 12"]
    unreferred([plan], Path("runs"))                 -> directories that `remove` may delete

Nothing outside the workspace's step directories is read or removed, and no symbolic link is followed.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from ..plan.plan import Plan
from ..system.files import sha256_file
from ..system.locks import lease
from .step import RUN_LEASE, finished, held

IDS = "-" + 12 * "[0-9a-f]"  # how the name of a step's directory ends


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
    return [path for path in ours if path not in known and not held(path)]


def size_of(directory: Path) -> int:
    """Bytes of the files below a directory; links count as themselves."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def remove(directories: Iterable[Path], workspace: Path) -> None:
    """Delete step directories. Raises StepLocked while a run is at work in the workspace."""
    with lease(workspace / RUN_LEASE, f"nothing was deleted: a run is at work in {workspace}"):
        for directory in directories:
            (directory / "done.json").unlink(missing_ok=True)  # first: half a step is not a finished one
            shutil.rmtree(directory)
