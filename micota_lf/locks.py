"""Locks and leases: one process at a time, also where several machines share a directory.

    lock = try_lock("gpus/node1-0.lock")              # None: somebody else on this machine has it
    with lease(Path("train/x/.lock"), "train/x is being worked on"):
        ...                                           # StepLocked names the holder: host, process, Slurm job

`try_lock` is the kernel's: free as soon as its holder dies, but not every file server carries it to other
machines. A lease adds `holder.json` beside it, created exclusively and touched every BEAT_SECONDS. Its holder
is dead if it was a process of this machine that is gone, if Slurm says that its job ended, or if the file
stays untouched for PATIENCE_SECONDS of the waiter's own clock: machines' clocks differ and jump, so a file's
time is compared with itself, never with ours.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import StepLocked

BEAT_SECONDS = 15.0
PATIENCE_SECONDS = 120.0  # above the beat plus the minute for which NFS may show an old time
POLL_SECONDS = 1.0
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# States of a Slurm job without processes (man squeue); others, and an unknown job, prove nothing.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT",
}  # fmt: skip


def try_lock(path: str | Path, soft: bool = True) -> FileLock | None:
    """The held lock of a file, to be released, or None if it is held elsewhere; a killed holder's is free.

    On a file system without locks the file itself is one, unless `soft` is false: then every caller has it.
    """
    lock = FileLock(path, fallback_to_soft=soft)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return lock


@contextmanager
def alone(path: Path, busy: str) -> Iterator[None]:
    """Hold a file's lock, `.NAME.lock` beside it, gone afterwards. Raises StepLocked if it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = try_lock(path.with_name(f".{path.name}.lock"))
    if held is None:
        raise StepLocked(busy)
    try:
        yield
    finally:
        Path(held.lock_file).unlink(missing_ok=True)  # filelock sees that a file it opened is gone
        held.release()


@contextmanager
def lease(lock: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock file and the `holder.json` beside it. A lease that was lost to another ends us by SIGTERM.

    Raises StepLocked, `busy` and the holder's name, if a living process holds it; with `wait`, waits instead.
    Where only the heartbeat can tell, deciding takes up to PATIENCE_SECONDS.
    """
    path = lock.with_name("holder.json")
    since = datetime.now(UTC).isoformat(timespec="seconds")
    me = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "since": since}
    text = json.dumps({**me, "started": _started(os.getpid())}) + "\n"
    kernel = _acquire(lock, path, text, busy, wait)
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, text, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        if _read(path)[0] == text:
            path.unlink(missing_ok=True)
        kernel.release()


def holder(path: Path) -> dict[str, Any]:
    """What a `holder.json` says; empty if there is none, or of a process of this machine that is gone."""
    who = _read(path)[2]
    return {} if _alive(who) is False else who


def _acquire(lock: Path, path: Path, text: str, busy: str, wait: bool) -> FileLock:
    seen, since, pause = ("", -1), 0.0, POLL_SECONDS
    while True:
        kernel = try_lock(lock, soft=False)  # without locks, the holder file alone decides
        with suppress(FileExistsError):
            if kernel:
                with path.open("x", encoding="utf-8") as handle:
                    handle.write(text)
                return kernel
        words, touched, who = _read(path)
        now = (words, touched)
        alive = _alive(who) if kernel else True
        if alive is None and now != seen:
            alive = True if words == seen[0] and seen[1] >= 0 else None  # touched while we looked
            seen, since = now, time.monotonic()
        elif alive is None and time.monotonic() - since > PATIENCE_SECONDS:
            alive = False
        dead = alive is False or (alive is None and _slurm_ended(who))
        if dead:
            _bury(path, words)
        if kernel:
            kernel.release()
        if alive and not wait:
            job = f"Slurm job {who['job']}, " if who.get("job") else ""
            name = "{pid} on {host} since {since}".format(**who) if who else "unknown"
            raise StepLocked(f"{busy} ({job}process {name})")
        if not dead:
            time.sleep(pause)
            pause = min(2 * pause, BEAT_SECONDS)


def _read(path: Path) -> tuple[str, int, dict[str, Any]]:
    """A holder file's text, modification time and content; empty if it is absent or not written yet."""
    text, touched = "", 0
    with suppress(OSError, ValueError):
        text, touched = path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
        return text, touched, dict(json.loads(text))
    return text, touched, {}


def _bury(path: Path, text: str) -> None:
    """Take a dead holder's file away; a living one's, that came in between, is put back."""
    grave = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(grave)
        if _read(grave)[0] != text:
            with suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink()


def _alive(who: dict[str, Any]) -> bool | None:
    """Whether a holder lives, as far as this machine can tell; None if it cannot."""
    if not who:
        return None
    if who["host"] == platform.node() and who["started"]:
        return bool(_started(who["pid"]) == who["started"])
    # The same job on another machine: it was requeued, and Slurm had ended its processes there before.
    return False if who["job"] and who["job"] == os.environ.get("SLURM_JOB_ID") else None


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot (man proc_pid_stat): tells a re-used number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _slurm_ended(who: dict[str, Any]) -> bool:
    if not who.get("job"):
        return False
    argv = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={who['job']}"]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(found) and set(found) <= ENDED


def _beat(path: Path, text: str, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        try:
            if path.read_text(encoding="utf-8") == text:
                os.utime(path)
                continue
        except FileNotFoundError:
            pass
        except OSError:
            continue  # a file server's hiccup: hours of work do not end for it
        os.kill(os.getpid(), signal.SIGTERM)  # we slept too long, and another works here now
