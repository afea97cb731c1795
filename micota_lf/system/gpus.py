"""Which GPUs this machine has, and which of them a step uses when several run side by side.

    with assigned_gpus(4, of=8, locks=Path("runs/.micota/gpus")) as env:
        ...                                  # env == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}

Snakemake counts GPUs but does not say which; without a choice every engine would take the first, and
LLaMA-Factory would train on all visible ones, which multiplies the global batch. There is one lock file a GPU
and host, freed by the kernel if the step is killed. GPUs that Slurm gave to this step alone are left to it;
of a larger allocation, in which a whole run may live, it takes its share like anywhere else.
"""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 1.0


def present_gpus() -> list[float]:
    """Memory in GiB of each GPU of this machine that may be used, as `nvidia-smi` tells; none without it."""
    argv = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if shutil.which(argv[0]) is None:
        return []
    lines = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout.split()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = len(lines) if visible is None else len([name for name in visible.split(",") if name])
    return [int(line) / 1024 for line in lines if line.isdigit()][:usable]


def gpu_shortage(count: int, memory_gib: float, present: list[float]) -> str | None:
    """What this machine lacks for `count` GPUs of that memory, in words, or None."""
    # Vendors sell 80 GB as GB or GiB, and the driver keeps a little: an A800 shows 79.3 GiB, an H100 79.6.
    enough = [memory for memory in present if memory >= 0.9 * memory_gib]
    if len(enough) >= count:
        return None
    has = ", ".join(f"{memory:.0f} GiB" for memory in present) or "none"
    return f"{count} GPUs of {memory_gib:g} GiB are needed; this machine has {has}"


@contextmanager
def assigned_gpus(count: int, of: int, locks: Path) -> Iterator[dict[str, str]]:
    """Hold `count` free GPUs of the machine's `of`; yield the environment that names them to an engine.

    Waits until enough are free. GPUs are those of CUDA_VISIBLE_DEVICES where it is set.
    """
    if not count:
        yield {"CUDA_VISIBLE_DEVICES": ""}  # a step counted on the CPU stays there
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else list(map(str, range(of)))
    if "SLURM_JOB_ID" in os.environ and len(names) == count:
        yield {}
        return
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as held:
            taken: list[str] = []
            for name in names:
                with suppress(Timeout):
                    held.enter_context(FileLock(locks / f"{platform.node()}-{name}.lock", timeout=0))
                    taken.append(name)
                if len(taken) == count:
                    yield {"CUDA_VISIBLE_DEVICES": ",".join(taken)}
                    return
        time.sleep(POLL_SECONDS)
