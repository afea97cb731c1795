"""Leases: of two processes one works, the other is told who; a dead one's lease is free."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from micota_lf import locks
from micota_lf.errors import StepLocked
from micota_lf.locks import holder, lease

HOLD = """
import sys, time
from pathlib import Path
from micota_lf.locks import lease
with lease(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
ELSEWHERE = {"host": "elsewhere", "pid": 1, "job": None, "since": "2025-01-01T00:00:00+00:00", "started": "1"}


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lease of `tmp_path / ".lock"` until its input is closed."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


@pytest.fixture
def quick(monkeypatch):
    """Heartbeats and patience in fractions of a second."""
    for name, seconds in {"BEAT_SECONDS": 0.05, "PATIENCE_SECONDS": 0.5, "POLL_SECONDS": 0.01}.items():
        monkeypatch.setattr(locks, name, seconds)


def _say(path, **who):
    path.write_text(json.dumps({**ELSEWHERE, **who}))
    return path


def _squeue(folder, monkeypatch, says):
    """A `squeue` that answers for every job."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_second_process_is_refused_and_told_the_first_ones_host_and_number(tmp_path, other):
    words = rf"busy \(process {other.pid} on {platform.node()} since 20\d\d-"
    with pytest.raises(StepLocked, match=words), lease(tmp_path / ".lock", "busy"):
        pass
    assert holder(tmp_path / "holder.json")["pid"] == other.pid


def test_one_that_waits_starts_when_the_first_has_ended(tmp_path, other, quick):
    threading.Timer(0.3, other.stdin.close).start()
    with lease(tmp_path / ".lock", "busy", wait=True):
        assert other.wait() == 0
        assert holder(tmp_path / "holder.json")["pid"] == os.getpid()
    assert not (tmp_path / "holder.json").exists()


def test_a_killed_holders_lease_is_free_at_once(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / "holder.json").exists() and holder(tmp_path / "holder.json") == {}
    with lease(tmp_path / ".lock", "busy"):
        assert holder(tmp_path / "holder.json")["pid"] == os.getpid()


def test_a_process_number_that_was_given_to_another_process_is_no_holder(tmp_path):
    path = _say(tmp_path / "holder.json", host=platform.node(), pid=os.getpid(), started="1")
    assert holder(path) == {}
    with lease(tmp_path / ".lock", "busy"):
        pass


@pytest.mark.parametrize("clock", [-1e8, 0, 1e8])
def test_a_heartbeat_elsewhere_counts_whatever_its_clock_says(tmp_path, quick, monkeypatch, clock):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", float("inf"))
    path, over = _say(tmp_path / "holder.json", job="17"), threading.Event()

    def beat():
        at = time.time() + clock
        while not over.wait(0.05):
            at += 1
            os.utime(path, (at, at))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        words = "busy .Slurm job 17, process 1 on elsewhere since 2025"
        with pytest.raises(StepLocked, match=words), lease(tmp_path / ".lock", "busy"):
            pass
    finally:
        over.set()
        beating.join()


@pytest.mark.parametrize("text", [json.dumps(ELSEWHERE), ""], ids=["elsewhere", "died before it wrote"])
def test_a_holder_elsewhere_that_stays_silent_is_dead(tmp_path, quick, text):
    (tmp_path / "holder.json").write_text(text)
    with lease(tmp_path / ".lock", "busy"):
        assert holder(tmp_path / "holder.json")["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("says", "ended"),
    [("echo COMPLETED", True), ("echo NODE_FAIL", True), ("echo RUNNING", False), ("echo PENDING", False),
     ("exit 1", False), ("true", False)],
)  # fmt: skip
def test_only_what_slurm_knows_to_have_ended_is_dead(tmp_path, monkeypatch, says, ended):
    _squeue(tmp_path, monkeypatch, says)
    assert locks._slurm_ended({**ELSEWHERE, "job": "17"}) is ended


def test_the_lease_of_a_job_that_has_ended_is_free_without_waiting(tmp_path, monkeypatch):
    _squeue(tmp_path, monkeypatch, "echo FAILED")
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", float("inf"))
    _say(tmp_path / "holder.json", job="17")
    with lease(tmp_path / ".lock", "busy"):
        pass


def test_a_job_that_was_requeued_takes_over_from_its_earlier_self(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", float("inf"))
    _say(tmp_path / "holder.json", job="17")
    with lease(tmp_path / ".lock", "busy"):
        pass


def test_without_kernel_locks_the_holder_file_keeps_others_out(tmp_path, monkeypatch, quick):
    def missing(*_):
        raise OSError(errno.ENOSYS, "no locks on this file system")

    monkeypatch.setattr("fcntl.flock", missing)
    with lease(tmp_path / ".lock", "busy"):
        with pytest.raises(StepLocked, match=f"process {os.getpid()}"), lease(tmp_path / ".lock", "busy"):
            pass
        assert (tmp_path / "holder.json").exists()
    with lease(tmp_path / ".lock", "busy"):
        pass


def test_who_lost_the_lease_is_stopped_and_leaves_the_new_holder_alone(tmp_path, quick):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), lease(tmp_path / ".lock", "busy"):
            _say(tmp_path / "holder.json")
            threading.Event().wait(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert holder(tmp_path / "holder.json") == ELSEWHERE


def test_a_living_holder_that_came_in_between_gets_its_file_back(tmp_path):
    path = _say(tmp_path / "holder.json")
    locks._bury(path, "what the dead one had written")
    assert holder(path) == ELSEWHERE and list(tmp_path.iterdir()) == [path]
    locks._bury(path, path.read_text())
    assert list(tmp_path.iterdir()) == []
