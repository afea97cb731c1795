"""Which GPUs of a machine a step uses, and an engine on several machines that share a file system.

    with assigned_gpus(4, of=8, locks=Path("runs/.micota/gpus")) as env:
        ...                                             # env == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}

Snakemake counts GPUs but does not say which; without a choice every engine would take the first, and
LLaMA-Factory would train on all visible ones, which multiplies the global batch. There is one lock file a GPU
and host, freed by the kernel if the step is killed. GPUs that Slurm gave to this step alone are left to it;
of a larger allocation, in which a whole run may live, it takes its share like anywhere else.

Machines meet in a step's directory: that of the run offers a meeting and goes on when all have come; the
others, each with one `micota join WORKSPACE`, take part in every meeting until the run ends.

    with meeting(directory, 2, 8, argv, env) as env:    # rendezvous.json: what to run and where to call
        run_logged(argv, directory, log, **env)         # env has NODE_RANK, MASTER_ADDR and MASTER_PORT
    join(workspace, Path(".micota/run.lease"), print)   # elsewhere: files `.TOKEN.RANK`, created exclusively
"""

import os
import platform
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import StepFailed
from .files import read_note, write_json
from .processes import ending, output_of, running

MEETING = "rendezvous.json"
GPU_POLL_SECONDS, POLL_SECONDS = 1.0, 0.5
JOIN_SECONDS = 300.0  # for all to come; a file server may show new files late
END_SECONDS = 60.0  # for an engine's part to end by itself when the first machine's has


def present_gpus() -> list[float]:
    """Memory in GiB of each GPU of this machine that may be used, as `nvidia-smi` tells; none without it."""
    asked = "--query-gpu=memory.total", "--format=csv,noheader,nounits"
    # It fails for a mere warning too, as of a corrupted infoROM, and names the GPUs all the same.
    lines = (output_of("nvidia-smi", *asked, check=False) or "").split()
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
        time.sleep(GPU_POLL_SECONDS)


@contextmanager
def meeting(
    here: Path, nodes: int, gpus: int, argv: list[str], env: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Wait until `nodes` - 1 machines have joined; yield the environment of the engine's part on this one.

    With one node, or NODE_RANK in `env`, nobody is waited for. MASTER_ADDR and MASTER_PORT may be set;
    without, they are this machine's address and a free port. Raises StepFailed if too few join within
    JOIN_SECONDS.
    """
    if nodes == 1 or "NODE_RANK" in env:
        yield env
        return
    free = {"MASTER_ADDR": _address(), "MASTER_PORT": str(free_port())}
    env = {**env, **{name: os.environ.get(name) or value for name, value in free.items()}}
    token, deadline = os.urandom(8).hex(), time.monotonic() + JOIN_SECONDS
    try:
        write_json(here / MEETING, {"token": token, "nodes": nodes, "gpus": gpus, "argv": argv, "env": env})
        while (came := len([*here.glob(f".{token}.*")])) < nodes - 1:
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"hardware.nodes: {nodes}, but {came} of {nodes - 1} other machines have joined within "
                    f"{JOIN_SECONDS:.0f} s; start `micota join {here.parent.parent}` on each of them"
                )
            time.sleep(POLL_SECONDS)
        yield {**env, "NODE_RANK": "0"}
    finally:
        for left in (here / MEETING, *here.glob(f".{token}.*")):
            left.unlink(missing_ok=True)


def join(workspace: Path, lease: Path, say: Callable[[str], None]) -> None:
    """Take part in the workspace's meetings until the run that holds `lease` has ended.

    A run that has not begun is waited for. Parts end with us.
    """
    begun, parts = False, dict[str, threading.Thread]()
    while (now := (workspace / lease).exists()) or not begun:
        begun = begun or now
        for place in workspace.glob(f"*/*/{MEETING}"):
            offer = read_note(place)  # empty once it is over
            for rank in range(1, offer.get("nodes", 0)) if offer.get("token") not in parts else ():
                with suppress(FileExistsError):
                    place.with_name(f".{offer['token']}.{rank}").touch(exist_ok=False)
                    given = (place, offer, rank, say)
                    parts[offer["token"]] = threading.Thread(target=_take_part, args=given, daemon=True)
                    parts[offer["token"]].start()
                    break
        time.sleep(POLL_SECONDS)
    for part in parts.values():
        part.join()


def _take_part(place: Path, offer: dict[str, Any], rank: int, say: Callable[[str], None]) -> None:
    """Run this machine's part of an engine, no longer than the meeting is open."""
    say(f"{place.parent.name}: joined as machine {rank} of {offer['nodes'] - 1}")
    log, locks = place.with_name(f"log-machine{rank}.txt"), place.parents[2] / ".micota" / "gpus"
    with assigned_gpus(offer["gpus"], max(offer["gpus"], len(present_gpus())), locks) as gpus:
        env = {**offer["env"], **gpus, "NODE_RANK": str(rank)}
        with running(offer["argv"], place.parent, log, **env) as child:
            while child.poll() is None and read_note(place).get("token") == offer["token"]:
                time.sleep(POLL_SECONDS)
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_SECONDS)
    say(f"{place.parent.name}: {ending(child.returncode) if child.returncode else 'done'}")


def free_port(host: str = "") -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _address() -> str:
    """This machine's address on the way to others; its name where no route leads out."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of RFC 5737, reserved; nothing is sent
        return str(probe.getsockname()[0])
    return platform.node()
