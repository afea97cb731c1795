"""Slurm without a Slurm: what jobs ask for, what is refused, which jobs are ours (tests/slurm: the rest)."""

import json
import os

import pytest
from conftest import TINY

from micota_lf import UserError, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.run import slurm
from micota_lf.run.shortages import shortages
from micota_lf.run.snakemake import freeze

ON_GPUS = ["hardware.gpus=8", "hardware.train_gpus=4", "train.per_device_train_batch_size=2"]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that puts a shell script on PATH under a name; returns the folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    return put


def test_a_job_asks_for_its_gpus_on_one_machine_and_takes_sbatchs_options():
    given = {"partition": "a100", "time": "2d", "exclusive": True, "nice": 7, "exclude": "n1 ; ls"}
    assert slurm.resources(4, given, after="17") == {
        "mem": 0, "slurm_partition": "a100", "runtime": "2d", "gpu": 4, "tasks_per_gpu": 0, "nodes": 1,
        "slurm_extra": "--exclusive --nice=7 '--exclude=n1 ; ls' --dependency=afterany:17",
    }  # fmt: skip
    assert slurm.resources(0, {"mem": "64G"}) == {"mem": "64G"}


def test_slurms_options_change_no_steps_identity():
    plain, given = (compile_plan(load_recipe(TINY, words)) for words in ([], ["hardware.slurm.mem=9G"]))
    assert list(plain.steps) == list(given.steps)


def test_quick_steps_run_here_and_the_others_as_jobs(tmp_path, programs):
    programs("squeue", "true")
    plan = compile_plan(load_recipe(TINY, ON_GPUS))
    frozen = json.loads(freeze(plan, tmp_path, list(plan.steps), {}).read_text())
    todo = [{**frozen["steps"][made], **step} for made, step in frozen["pending"].items()]
    assert {step["kind"] for step in todo if step["here"]} == {"preflight", "overlap", "filter", "mix"}
    assert {step["resources"]["gpu"] for step in todo if step["kind"] == "train"} == {4}
    todo = json.loads(freeze(plan, tmp_path, list(plan.steps)).read_text())["pending"].values()
    assert all(step["here"] for step in todo)


def test_a_login_node_without_gpus_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.run.shortages.present_gpus", list)
    recipe = load_recipe(TINY, ON_GPUS)
    plan = compile_plan(recipe)
    assert any("GPUs" in lack for lack in shortages(recipe, plan, tmp_path, list(plan.steps)))
    assert shortages(recipe, plan, tmp_path, list(plan.steps), here=False) == []


def test_a_quota_counts_in_place_of_what_the_file_system_has_free(tmp_path):
    for gib, refused in ((0.001, True), (10**6, False)):
        recipe = load_recipe(TINY, [f"hardware.disk_gib={gib}"])
        plan = compile_plan(recipe)
        lacks = shortages(recipe, plan, tmp_path, list(plan.steps))
        assert any("hardware.disk_gib" in lack for lack in lacks) is refused, lacks


LIKE = "must be minutes, hours or days, like 90m, 12h or 2d"


@pytest.mark.parametrize(("setting", "words"), [
    ("slurm.time=12:00:00", LIKE), ("slurm.time=2-0", LIKE), ("slurm.time=soon", LIKE),
    ("nodes=2", "hardware.nodes: 2: trainings over several machines are not started as Slurm jobs"),
])  # fmt: skip
def test_what_slurm_would_misread_or_is_not_asked_for_is_refused(tmp_path, programs, capsys, setting, words):
    for name in ("sbatch", "squeue", "scancel"):
        programs(name, "true")
    place = ["--workspace", str(tmp_path / "runs"), "--executor", "slurm"]
    assert main(["run", str(TINY), *place, *ON_GPUS[2:], f"hardware.{setting}"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_slurm_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="not all on PATH"):
        slurm.check({}, nodes=1)


@pytest.mark.parametrize(("answers", "chosen"), [("true", "sacct"), ("exit 1", "squeue")])
def test_states_come_from_accounting_where_there_is_some(tmp_path, programs, answers, chosen):
    programs("sacct", answers)
    words = slurm.options(tmp_path, jobs=3)
    assert words[words.index("--slurm-status-command") + 1] == chosen
    assert words[words.index("--jobs") + 1] == "3"


def test_only_jobs_of_this_workspace_are_ours_and_only_queued_ones_are_cancelled(tmp_path, programs):
    name = slurm.options(tmp_path, 1)[slurm.options(tmp_path, 1).index("--slurm-jobname-prefix") + 1]
    lines = [
        f"1 RUNNING {name}_a",
        f"2 PENDING {name}_b",
        "3 PENDING micota-0123_a",
        "4 RUNNING a job of mine",
    ]
    programs("squeue", "cat <<'END'\n" + "\n".join(lines) + "\nEND")
    programs("scancel", f'echo "$@" > {tmp_path}/cancelled')
    assert slurm.leftovers(tmp_path) == {"1": "RUNNING", "2": "PENDING"}
    plan = compile_plan(load_recipe(TINY))
    freeze(plan, tmp_path, list(plan.steps), {})
    assert (tmp_path / "cancelled").read_text() == "2\n"
