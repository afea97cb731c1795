"""Locks that the kernel frees when their holder dies.

lock = try_lock("runs/.micota/run.lock")      # None: somebody else has it
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


def try_lock(path: str | Path) -> FileLock | None:
    """The held lock of a file, to be released, or None if it is held elsewhere; a killed holder's is free."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
