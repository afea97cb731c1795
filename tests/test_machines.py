"""Trainings over several machines: one command on each other machine, before the run, joins them all."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, TINY

from micota_lf import StepFailed
from micota_lf.run.step import RUN_LEASE
from micota_lf.system import machines
from micota_lf.system.files import read_json
from micota_lf.system.machines import MEETING, join, meeting

SAID = [sys.executable, "-c", "import os; print(os.environ['NODE_RANK'], os.environ['MASTER_PORT'])"]


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / RUN_LEASE).parent.mkdir()
    (tmp_path / RUN_LEASE).touch()
    return tmp_path


def joiners(workspace, number):
    said = []
    threads = [threading.Thread(target=join, args=(workspace, RUN_LEASE, said.append)) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads, said


def test_each_machine_takes_one_rank_of_each_meeting_and_leaves_when_the_run_ends(workspace):
    threads, said = joiners(workspace, 2)
    here = workspace / "train" / "a"
    for _ in range(2):  # two trainings, one after the other
        with meeting(here, 3, 0, SAID, {"WORD": "x"}) as env:
            assert env["NODE_RANK"] == "0" and env["WORD"] == "x" and env["MASTER_ADDR"]
            deadline = time.monotonic() + 60
            while len([line for line in said if "done" in line]) % 2 or not said:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(2)
        assert not (here / MEETING).exists() and not list(here.glob(".*"))
        for rank in (1, 2):
            words = (here / f"log-machine{rank}.txt").read_text().splitlines()[-1]
            assert words == f"{rank} {env['MASTER_PORT']}"
    (workspace / RUN_LEASE).unlink()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(line for line in said if "joined" in line) == [
        f"a: joined as machine {rank} of 2" for rank in (1, 1, 2, 2)
    ]


def test_too_few_machines_are_one_clear_error(workspace, monkeypatch):
    monkeypatch.setattr(machines, "JOIN_SECONDS", 0.1)
    words = r"hardware.nodes: 3, but 0 of 2 other machines have joined within 0 s; start `micota join .*`"
    with pytest.raises(StepFailed, match=words), meeting(workspace / "train" / "a", 3, 0, SAID, {}):
        pass
    assert not (workspace / "train" / "a" / MEETING).exists()


def test_a_part_ends_with_its_meeting_and_what_a_killed_run_left_holds_nobody(workspace, monkeypatch):
    monkeypatch.setattr(machines, "END_SECONDS", 0.1)
    threads, said = joiners(workspace, 1)
    for _ in range(2):
        with meeting(workspace / "train" / "a", 2, 0, ["sleep", "600"], {}):
            pass
    (workspace / RUN_LEASE).unlink()
    threads[0].join(60)
    assert not threads[0].is_alive() and "was ended by SIGTERM" in said[-1]


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def two_machines():
    """Two network namespaces with a wire between them: two machines as far as sockets can tell."""
    names = [f"micota{os.getpid()}{end}" for end in "ab"]
    if not shutil.which("ip") or os.geteuid() or ip("netns", "add", names[0]).returncode:
        pytest.skip("no right to make network namespaces, or no iproute2")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "wire0", "netns", names[0], "type", "veth", "peer", "wire0", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "wire0")
            for device in ("lo", "wire0"):
                ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "route", "add", "default", "via", f"10.77.0.{3 - number}")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name)


@pytest.mark.long
def test_a_run_trains_on_two_machines_after_one_command_on_the_other(two_machines, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "wire0", "OMP_NUM_THREADS": "1"}
    workspace = tmp_path / "runs"

    def on(machine, *words):
        argv = ["ip", "netns", "exec", machine, sys.executable, "-m", "micota_lf", *words]
        log = (tmp_path / f"{words[0]}.txt").open("w")
        return subprocess.Popen(argv, env=env, stdout=log, stderr=log, cwd=tmp_path)

    other = on(two_machines[1], "join", str(workspace))
    words = [
        "hardware.nodes=2",
        "train.per_device_train_batch_size=4",
        "prompts.limit=32",
        "train.max_steps=3",
    ]
    targets = ["--target", "train/student-s/strong", "--target", "train/assistant/strong"]
    run = on(two_machines[0], "run", str(TINY), "--workspace", str(workspace), *targets, *words)
    try:
        assert run.wait(900) == 0, (tmp_path / "run.txt").read_text()[-5000:]
        assert other.wait(60) == 0
    finally:
        for process in (run, other):
            process.terminate()
    said = (tmp_path / "join.txt").read_text()
    assert said.count("joined as machine 1 of 1") == said.count(": done") == 2
    for done in workspace.glob("train/*/done.json"):
        assert read_json(done)["results"]["steps"] == 3
        log = (done.parent / "log.txt").read_text()
        assert "batch size (w. parallel, distributed & accumulation) = 16" in log
        assert (
            "Multi-node training enabled: num nodes: 2, node rank: 1"
            in (done.parent / "log-machine1.txt").read_text()
        )
        assert "MASTER_ADDR=10.77.0.1" in read_json(done)["commands"][0]
