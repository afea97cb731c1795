"""Runs that are killed in the middle of an engine's work end as undisturbed ones."""

import shutil

import pytest
from chaos import Storm, differences, whole_checkpoints
from conftest import TINY

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main

pytestmark = pytest.mark.long
SLOTS = ("train/student-s/strong", "generate/teacher", "evaluate/student-s/Strong Teacher CoT")
SMALL = ["prompts.limit=64", "evaluation.limit=16"]
# Small pieces, so that there is a middle of each engine's work.
OFTEN = ["generation.batch_size=16", "train.save_strategy=steps", "train.save_steps=1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("undisturbed")
    assert main(["run", str(TINY), "--workspace", str(workspace), "--target", SLOTS[2], *SMALL]) == 0
    return workspace


def test_killed_while_it_trains_generates_and_evaluates_it_ends_as_undisturbed(undisturbed, tmp_path):
    """The short form of `make chaos`: three kills, each in the middle of an engine's work."""
    plan = compile_plan(load_recipe(TINY, SMALL))
    train, generate, evaluate = (plan.steps[plan.slots[slot]].directory for slot in SLOTS)
    workspace = tmp_path / "runs"
    shutil.copytree(undisturbed, workspace, ignore=shutil.ignore_patterns(".micota", "reports"))
    for step in (train, generate, evaluate):
        shutil.rmtree(workspace / step)
    words = ["run", str(TINY), "--workspace", str(workspace), *SMALL, *OFTEN]
    storm = Storm(words, workspace)

    def kill(victim, slot, condition, again=False):
        storm.start("--target", slot)
        storm.wait_for(condition)
        assert storm.kill(victim)
        assert (storm.stop() == 0) == again

    kill("runner", SLOTS[0], lambda: whole_checkpoints(workspace / train))
    responses = workspace / generate / "responses.jsonl"
    kill("step", SLOTS[1], lambda: responses.exists() and responses.stat().st_size)
    assert 0 < len(responses.read_bytes().splitlines()) < 64
    log = workspace / evaluate / "log.txt"
    kill("engine", SLOTS[2], lambda: log.exists() and "Running generate_until" in log.read_text(), again=True)
    assert "the step is tried once more" in log.read_text()
    storm.start("--target", SLOTS[1], "--target", SLOTS[2])
    assert storm.stop() == 0, storm.log.read_text()[-5000:]
    assert "Resuming training from" in (workspace / train / "log.txt").read_text()
    assert differences(undisturbed, workspace) == []
    assert main(["verify", "--workspace", str(workspace)]) == 0
