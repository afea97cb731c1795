"""Leases: of two processes one works, the other is told who; a dead one's lease is free."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from micota_lf.errors import StepLocked
from micota_lf.system import locks
from micota_lf.system.locks import holder, lease

HOLD = """
import signal, sys
from pathlib import Path
from micota_lf.system import locks
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
locks.BEAT_SECONDS, locks.PATIENCE_SECONDS, locks.POLL_SECONDS = 0.1, 2.0, 0.05
with locks.lease(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
# Another host, as far as the kernel lets a process tell: a name, process numbers and a network of its own.
ELSEWHERE = ["unshare", "--uts", "--pid", "--net", "--mount-proc", "--fork", "--kill-child"]
NAMED = ["sh", "-c", 'hostname elsewhere; exec "$@"', "-"]
ABLE = subprocess.run(["env", *ELSEWHERE, "true"], capture_output=True).returncode == 0
PLACES = {
    "here": [],
    "elsewhere": pytest.param(
        [*ELSEWHERE, *NAMED],
        marks=pytest.mark.skipif(not ABLE, reason="no right to make namespaces"),
    ),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Heartbeats and patience in fractions of a second."""
    for name, seconds in {"BEAT_SECONDS": 0.1, "PATIENCE_SECONDS": 2.0, "POLL_SECONDS": 0.05}.items():
        monkeypatch.setattr(locks, name, seconds)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lease"


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def other(request, path):
    """Another process that holds the lease until its input is closed."""
    argv = [*request.param, sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        child.host = "elsewhere" if request.param else platform.node()
        yield child
        child.kill()


def test_a_second_process_is_refused_and_told_the_first_ones_host_number_and_time(path, other):
    words = rf"busy \(process \d+ on {other.host} since 20\d\d-"
    for _ in range(2):
        with pytest.raises(StepLocked, match=words), lease(path, "busy"):
            pass
    assert holder(path)["host"] == other.host


def test_one_that_waits_starts_when_the_first_has_ended(path, other):
    threading.Timer(3, other.stdin.close).start()  # longer than the patience with a dead one
    with lease(path, "busy", wait=True):
        assert other.wait() == 0
        assert holder(path)["pid"] == os.getpid()
    assert not list(path.parent.iterdir())


def test_a_killed_holders_lease_is_taken_over(path, other):
    other.kill()
    other.wait()
    assert path.exists()
    assert holder(path) == {} or other.host == "elsewhere"
    began = time.monotonic()
    with lease(path, "busy"):
        assert holder(path)["pid"] == os.getpid()
    if other.host == platform.node():
        assert time.monotonic() - began < locks.PATIENCE_SECONDS  # at once: its number is gone


def test_a_holder_that_sleeps_too_long_is_dead_and_is_stopped_when_it_wakes(path, other):
    family = [other.pid, *_children(other.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    with lease(path, "busy"):
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        assert other.wait(30) != 0
        assert holder(path)["pid"] == os.getpid()


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _take(path):
    with lease(path, "busy"):
        pass


@pytest.mark.parametrize("clock", [-1e8, 0, 1e8])
def test_a_heartbeat_counts_whatever_its_clock_says(path, other, clock):
    over = threading.Event()

    def set_back():  # what a file server does whose clock is another
        while not over.wait(0.02):
            os.utime(path, (time.time() + clock, time.time() + clock))

    setting = threading.Thread(target=set_back)
    setting.start()
    try:
        with pytest.raises(StepLocked, match="busy"):
            _take(path)
    finally:
        over.set()
        setting.join()


def test_a_process_number_that_was_given_to_another_process_is_no_holder(path):
    path.touch()
    note = path.with_name(".lease.json")
    note.write_text(json.dumps({"host": platform.node(), "pid": os.getpid(), "started": "1"}))
    assert holder(path) == {}


def test_the_note_names_the_slurm_job(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with lease(path, "busy"):
        with pytest.raises(StepLocked, match=r"busy \(Slurm job 17, process"):
            _take(path)
        assert holder(path)["job"] == "17"
    assert holder(path) == {}


def test_who_lost_the_lease_is_stopped_and_leaves_the_new_holder_alone(path):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), lease(path, "busy"):
            path.unlink()
            path.write_text("another's")
            threading.Event().wait(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert path.read_text() == "another's"
