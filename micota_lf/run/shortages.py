"""What a machine lacks for the steps of a plan: GPUs, their memory, disk.

shortages(recipe, plan, Path("runs"), pending)      -> ["hardware.gpus: 8 GPUs are asked for, ...", ...]
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..plan.costs import downloads, estimate
from ..plan.memory import READY
from ..plan.plan import Plan
from ..recipe.sections import Recipe
from ..system.files import read_beside
from ..system.machines import gpu_shortage, present_gpus

WORDS = read_beside(__file__)


def shortages(
    recipe: Recipe, plan: Plan, workspace: Path, pending: Sequence[str], here: bool = True
) -> list[str]:
    """What this machine lacks for the pending steps, each after its key: GPUs, their memory, disk.

    Memory and disk are estimates; what is unknown is not held against it. This machine's GPUs do not matter
    if the steps do not run `here` but on a cluster.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    hardware, costs, cache = recipe.hardware, estimate(plan, recipe), Path(HF_HUB_CACHE)
    found, uses_gpus = [], here and any(plan.steps[step_id].gpus for step_id in pending)
    if uses_gpus and (lack := gpu_shortage(hardware.gpus, hardware.gpu_memory_gib, present_gpus())):
        found.append(f"hardware.gpus: {lack}")
    for step, cost in ((plan.steps[step_id], costs[step_id]) for step_id in pending):
        most, needed = hardware.gpu_memory_gib, cost.gpu_memory_gib or 0.0
        if needed > READY * most:
            largest = sorted(cost.parts.items(), key=lambda part: -part[1])[:3]
            words = {"parts": ", ".join(f"{name} {size:.0f}" for name, size in largest), "name": step.name}
            words["knobs"] = WORDS["knobs"].get(step.kind, WORDS["knobs"]["ask"])
            found.append(WORDS["too_large"].format(most=most, ready=READY, needed=needed, **words))
    kept = sum(costs[step_id].disk_gib or 0.0 for step_id in pending)
    kept += max((costs[step_id].scratch_gib or 0.0 for step_id in pending), default=0.0)
    taken: dict[int, float] = {}  # GiB of a disk
    needs = [("--workspace", workspace, kept), ("HF_HUB_CACHE", cache, downloads(plan, pending))]
    for key, path, more in needs:
        home = next(path for path in (path, *path.parents) if path.is_dir())
        disk, free = home.stat().st_dev, hardware.disk_gib or shutil.disk_usage(home).free / 2**30
        taken[disk] = needed = taken.get(disk, 0.0) + more
        if more and needed > free:
            told = "may be taken (hardware.disk_gib)" if hardware.disk_gib else f"are free in {home}"
            found.append(f"{key}: {free:.3g} GiB {told}, about {needed:.3g} GiB are needed")
    return found
