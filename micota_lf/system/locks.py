"""Leases: one process at a time, also where several machines share a directory.

    with lease(Path("train/x/.lease"), "train/x is being worked on"):
        ...                                           # StepLocked names the holder: host, process, Slurm job

The kernel's locks would be free as soon as their holder dies, but not every file server carries them to other
machines. A lease is filelock's SoftFileLease, a file created exclusively and touched every BEAT_SECONDS. Its
holder is dead if it was a process of this machine that is gone, or if the file stays untouched for
PATIENCE_SECONDS of the waiter's own clock: machines' clocks differ and jump. NAME.json beside it says who
the holder is, for people.
"""

import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from ..errors import StepLocked
from .files import read_note, write_json

BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 120.0  # above the beat plus the minute for which NFS may show an old time
POLL_SECONDS = 0.5


@contextmanager
def lease(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold a lease. One that was lost to another (this machine slept too long) ends us by SIGTERM.

    Raises StepLocked, `busy` and the holder's name, once a holder has shown that it lives, which takes up to
    BEAT_SECONDS; with `wait`, waits for its end instead. A dead one elsewhere costs PATIENCE_SECONDS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_name(f"{path.name}.json")
    me = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"),
          "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "started": _started(os.getpid())}  # fmt: skip
    touched: set[int] = set()

    def lives() -> bool:
        with suppress(OSError):
            touched.add(path.stat().st_mtime_ns)
        return len(touched) > 1

    lost = lambda why: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    held = SoftFileLease(
        path, lease_duration=PATIENCE_SECONDS, heartbeat_interval=BEAT_SECONDS, on_compromise=lost
    )
    # Within this time a holder shows that it lives, or it is dead.
    limit, given_up = (-1.0, None) if wait else (2 * PATIENCE_SECONDS, lives)
    try:
        held.acquire(limit, poll_interval=POLL_SECONDS, cancel_check=given_up)
    except Timeout:
        who = read_note(note)
        job = f"Slurm job {who['job']}, " if who.get("job") else ""
        name = "{pid} on {host} since {since}".format(**who) if who else "unknown"
        raise StepLocked(f"{busy} ({job}process {name})") from None
    try:
        write_json(note, me)
        yield
    finally:
        with suppress(OSError):
            if read_note(note) == me:
                note.unlink()
        held.release()


def holder(path: Path) -> dict[str, Any]:
    """Who holds a lease; empty if nobody does, or a process of this machine that is gone."""
    who = read_note(path.with_name(f"{path.name}.json")) if path.exists() else {}
    dead = who and who["host"] == platform.node() and _started(who["pid"]) != who["started"]
    return {} if dead else who


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot (man proc_pid_stat): tells a re-used number."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
