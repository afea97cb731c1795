"""The runner through real Snakemake, with quick steps: failures, resume, locks, explain."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import TINY

from micota_lf import StepFailed, UserError, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.errors import StepLocked
from micota_lf.run.snakemake import check_engines, pending_steps, run_plan
from micota_lf.run.step import LEASE, RUN_LEASE, run_step, state, states
from micota_lf.run.workspace import explain
from micota_lf.system.locks import lease
from micota_lf.system.machines import assigned_gpus

QUICK = [
    "generation.backend=fake", "filter.verdict=none", "prompts.limit=20",
    "engines.llamafactory=/bin/false", "engines.lm_eval=/bin/false",
]  # fmt: skip


# A whole recipe: the tests that use it are slow.
@pytest.fixture(scope="module", params=[pytest.param("no engine works", marks=pytest.mark.slow)])
def broken(tmp_path_factory):
    """A run whose trainings and evaluations all fail at once; returns plan, workspace, error, words said."""
    workspace = tmp_path_factory.mktemp("work space")
    plan = compile_plan(load_recipe(TINY, QUICK))
    said = []
    with pytest.raises(StepFailed) as caught:
        run_plan(plan, workspace, pending_steps(plan, workspace), say=said.append)
    return plan, workspace, str(caught.value), said


def test_a_failed_step_leaves_the_other_branches_to_finish(broken):
    plan, workspace, _, said = broken
    now = states(plan, workspace)
    by_slot = {slot: now[made] for slot, made in plan.slots.items()}
    assert by_slot["mix/mix-long"] == by_slot["filter/strong"] == by_slot["generate/teacher"] == "done"
    assert by_slot["train/assistant/strong"] == by_slot["train/student-s/strong"] == "failed"
    assert by_slot["merge/ta"] == by_slot["train/student-s/micota"] == "missing"
    assert any("done    filter/strong" in line for line in said)
    assert any("failed  train/assistant/strong" in line for line in said)


def test_status_from_another_shell_counts_steps_and_names_those_that_run_or_failed(tmp_path, capsys):
    plan = compile_plan(load_recipe(TINY, QUICK))
    for slot in ("preflight", "generate/teacher", "filter/strong"):
        run_step(plan, plan.slots[slot], tmp_path, quiet=True)
    with pytest.raises(StepFailed):
        run_step(plan, plan.slots["train/student-s/strong"], tmp_path, quiet=True)
    at_work = tmp_path / plan.steps[plan.slots["train/student-m/strong"]].directory
    at_work.mkdir(parents=True)
    (at_work / "step.json").write_text("{}")
    (at_work / "model").mkdir()
    log = {"current_steps": 3, "total_steps": 9, "loss": 0.25}
    (at_work / "model" / "trainer_log.jsonl").write_text(json.dumps(log) + "\n")
    words = ["status", str(TINY), "--workspace", str(tmp_path), *QUICK]
    with lease(at_work / LEASE, "at work"):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert main([*words, "--json"]) == 0
        now = json.loads(capsys.readouterr().out)
    assert (
        "3 done" in said and f"of {len(plan.steps)} steps" in said and "minutes left (the estimates" in said
    )
    assert "  running train/student-m/strong: step 3/9 loss 0.250 (0.0 minutes)" in said
    assert "  failed  train/student-s/strong: micota explain train/student-s/strong" in said
    assert now["counts"]["done"] == 3 and now["failed"] == ["train/student-s/strong"]
    assert now["running"][0]["step"] == "train/student-m/strong" and now["hours_left"] > 0


@pytest.mark.parametrize(
    ("words", "key"),
    [(["plan", str(TINY)], "gpu_hours"), (["plan", str(TINY), "--sources"], "set_in"), (["doctor"], "cure")],
)
def test_a_listing_as_json_is_one_line_of_records(words, key, tmp_path, capsys):
    assert main([*words, "--json", "--workspace", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert all(key in row for row in json.loads(line)) and len(json.loads(line)) > 5


def test_a_failure_names_the_step_its_log_and_the_command_to_run_by_hand(broken):
    plan, workspace, error, _ = broken
    directory = workspace / plan.steps[plan.slots["train/student-s/strong"]].directory
    assert "step train/student-s/strong failed: false ended with exit code 1" in error
    assert f"last lines of {directory / 'log.txt'}" not in error  # `false` says nothing
    assert re.search(r"cd '.*student-s-on-teacher-.*' && .*false train train.yaml", error)
    assert "steps that need others could not run" in error


def test_the_report_of_a_half_run_says_the_state_of_each_cell(broken, capsys):
    _, workspace, _, _ = broken
    assert main(["report", str(TINY), "--workspace", str(workspace), *QUICK]) == 0
    text = (workspace / "reports" / "tiny-no-gap" / "report.md").read_text()
    assert "| student-s | Instruct | failed |" in text and "| student-s | MiCoTA | missing |" in text
    assert "report.html" in capsys.readouterr().out


def test_a_rerun_does_only_what_is_not_done(broken):
    plan, workspace, _, _ = broken
    kinds = {plan.steps[step_id].kind for step_id in pending_steps(plan, workspace)}
    assert kinds == {"train", "merge", "generate", "filter", "evaluate", "bpc"}
    pending = pending_steps(plan, workspace, ["mix/mix-long"])
    assert pending == []


def test_deleting_a_finished_step_makes_only_that_step_pending(broken):
    plan, workspace, _, _ = broken
    before = pending_steps(plan, workspace)
    step_id = plan.slots["generate/teacher"]
    done = workspace / plan.steps[step_id].directory / "done.json"
    text = done.read_text()
    done.unlink()
    assert set(pending_steps(plan, workspace)) - set(before) == {step_id}
    done.write_text(text)


def test_done_json_has_versions_times_and_output_hashes(broken):
    plan, workspace, _, _ = broken
    directory = workspace / plan.steps[plan.slots["filter/strong"]].directory
    done = json.loads((directory / "done.json").read_text())
    assert done["results"]["reasons"] == {"kept": 20}
    assert {"corpus.jsonl", "counts.json", "rejected.jsonl"} <= set(done["outputs"])
    assert done["outputs"]["corpus.jsonl"]["bytes"] == (directory / "corpus.jsonl").stat().st_size
    assert done["versions"]["llamafactory"] == "0.9.5" and done["seconds"] > 0


def test_explain_says_which_value_changed_from_what_to_what(broken):
    _, workspace, _, _ = broken

    def words(*overrides, step="filter/strong"):
        plan = compile_plan(load_recipe(TINY, [*QUICK, *overrides]))
        return explain(plan, plan.slots[step], workspace)

    assert words()[0].startswith("fresh: ")
    assert words("filter.max_tokens=99")[1] == "  filter.max_tokens: 320 -> 99"
    changed = words("generation.top_p=0.5")
    assert changed[0].startswith("stale: filter/teacher-")
    assert changed[1] == "  responses <- generate teacher: generation.top_p: 1.0 -> 0.5"
    assert words(step="merge/ta")[0].startswith("missing: never made")
    assert words(step="train/student-s/strong")[0].startswith("failed: ")


def test_explain_takes_a_recipe_or_the_one_that_ran_last(broken, capsys, tmp_path):
    _, workspace, _, _ = broken
    place = ["--workspace", str(workspace)]
    assert main(["explain", str(TINY), "filter/strong", *place, *QUICK, "generation.top_p=0.5"]) == 0
    assert "responses <- generate teacher: generation.top_p: 1.0 -> 0.5" in capsys.readouterr().out
    assert main(["run", str(TINY), *place, *QUICK, "--target", "merge/ta"]) == 1
    capsys.readouterr()
    assert main(["explain", "filter/strong", *place]) == 0
    assert "fresh: " in capsys.readouterr().out
    assert main(["explain", "filter/strong", "--workspace", str(tmp_path)]) == 2


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_no_lock(tmp_path):
    """SIGKILL of the runner: Snakemake, the step and its engine end, and the step can be run again."""
    tools = ["engines.llamafactory=/bin/sh -c 'exec sleep 601'", "engines.lm_eval=/bin/false"]
    words = [*QUICK[:3], *tools, "--workspace", str(tmp_path), "--target", "train/student-s/strong"]
    runner = subprocess.Popen(
        [sys.executable, "-m", "micota_lf", "run", str(TINY), *words], stdout=subprocess.DEVNULL
    )

    def engines():
        family = psutil.Process(runner.pid).children(recursive=True)
        return [process for process in family if process.name() == "sleep"]

    def wait_for(condition):
        deadline = time.monotonic() + 180
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)
        return condition()

    (engine,) = wait_for(engines)
    plan = compile_plan(load_recipe(TINY, [*QUICK[:3], *tools]))
    directory = tmp_path / plan.steps[plan.slots["train/student-s/strong"]].directory
    assert state(directory) == "running"
    runner.kill()
    runner.wait()
    assert wait_for(lambda: not engine.is_running())
    assert wait_for(lambda: state(directory) == "missing")


@pytest.mark.slow
def test_a_killed_step_leaves_none_of_its_engines_processes(tmp_path):
    """A trainer's workers would otherwise go on writing where the next run trains."""
    sleep = ["/bin/sh", "-c", "setsid sleep 602 & sleep 602 & sleep 602; true"]  # as torchrun's are
    code = f"""
from pathlib import Path
from micota_lf.system.processes import run_logged
run_logged({sleep!r}, Path({str(tmp_path)!r}), Path({str(tmp_path / "log")!r}))
"""
    step = subprocess.Popen([sys.executable, "-c", code])
    deadline, family = time.monotonic() + 60, []
    while [process.name() for process in family].count("sleep") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
        family = psutil.Process(step.pid).children(recursive=True)
    assert sorted(process.name() for process in family) == ["sh", "sh", "sleep", "sleep", "sleep"]
    step.kill()
    step.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    words = ["run", str(TINY), *QUICK, "--target", "filter/strong", "--workspace", str(tmp_path / "runs")]
    with (tmp_path / "run.log").open("wb") as log:
        run = subprocess.Popen(
            ["nohup", sys.executable, "-m", "micota_lf", *words],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while "started" not in (tmp_path / "run.log").read_text():
        assert run.poll() is None
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGHUP)  # what the kernel sends when the terminal goes
    assert run.wait() == 0 and "report:" in (tmp_path / "run.log").read_text()


def test_the_plan_command_shows_every_step_with_its_state(broken, capsys):
    plan, workspace, _, _ = broken
    assert main(["plan", str(TINY), "--workspace", str(workspace), *QUICK]) == 0
    out = capsys.readouterr().out
    assert all(step_id in out for step_id in plan.steps)
    assert "failed" in out and "missing" in out and "done" in out


def test_the_plan_of_a_target_shows_just_what_a_run_of_it_would_do(capsys, tmp_path):
    words = [str(TINY), "--workspace", str(tmp_path), "--target", "filter/strong", *QUICK]
    assert main(["plan", *words]) == 0
    out = capsys.readouterr().out
    plan = compile_plan(load_recipe(TINY, QUICK))
    shown = [made for made in plan.steps if made in out]
    assert shown == pending_steps(plan, tmp_path, ["filter/strong"])
    assert [plan.steps[made].kind for made in shown] == ["preflight", "generate", "filter"]


def test_a_second_run_in_the_workspace_is_refused_while_one_is_at_work(broken):
    plan, workspace, _, _ = broken
    with lease(workspace / RUN_LEASE, "busy"), pytest.raises(StepLocked, match="another run"):
        run_plan(plan, workspace, pending_steps(plan, workspace), say=lambda _: None)


def test_a_step_that_is_being_worked_on_is_not_started_twice(broken):
    plan, workspace, _, _ = broken
    step = plan.steps[plan.slots["merge/ta"]]
    busy = lease(workspace / step.directory / LEASE, "busy")
    with busy, pytest.raises(StepLocked, match="is being worked on"):
        run_step(plan, step.id, workspace)


def test_steps_side_by_side_use_different_gpus_and_a_training_sees_only_its_own(tmp_path, monkeypatch):
    """LLaMA-Factory trains on every visible GPU: more than the recipe counted would grow the global batch."""
    words = ["hardware.gpus=8", "hardware.train_gpus=4", "train.per_device_train_batch_size=2"]
    plan = compile_plan(load_recipe(TINY, [*QUICK[:3], *words]))
    step = plan.steps[plan.slots["train/student-s/strong"]]
    assert step.gpus == 4 and step.how["gradient_accumulation_steps"] == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with assigned_gpus(4, 8, tmp_path) as first, assigned_gpus(4, 8, tmp_path) as second:
        assert first == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
        assert second == {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with assigned_gpus(1, 8, tmp_path) as one, assigned_gpus(1, 8, tmp_path) as other:
        assert {one["CUDA_VISIBLE_DEVICES"], other["CUDA_VISIBLE_DEVICES"]} == {"2", "5"}
    monkeypatch.setenv("SLURM_JOB_ID", "17")  # the run lives in an allocation of two
    with assigned_gpus(1, 8, tmp_path) as one, assigned_gpus(1, 8, tmp_path) as other:
        assert {one["CUDA_VISIBLE_DEVICES"], other["CUDA_VISIBLE_DEVICES"]} == {"2", "5"}
    with assigned_gpus(2, 8, tmp_path) as one, assigned_gpus(2, 8, tmp_path) as other:
        assert one == other == {}  # the step's own job
    with assigned_gpus(0, 0, tmp_path / "none") as env:
        assert env == {"CUDA_VISIBLE_DEVICES": ""} and not (tmp_path / "none").exists()


def test_more_gpus_than_there_are_is_an_error_before_any_step(tmp_path):
    plan = compile_plan(load_recipe(TINY, ["hardware.train_gpus=8", "hardware.gpus=4",
                                           "train.per_device_train_batch_size=2"]))  # fmt: skip
    with pytest.raises(UserError, match=r"hardware.gpus: 4, but .* needs 8"):
        check_engines(plan, pending_steps(plan, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_engine_is_one_line_and_code_2_before_any_step(tmp_path, capsys):
    place = ["--workspace", str(tmp_path / "runs")]
    assert main(["run", str(TINY), *place, "engines.mergekit=mergekit-yml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("micota: engines: 'mergekit-yml' was not found")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_names_the_nearest_slot():
    with pytest.raises(UserError, match="did you mean 'merge/ta'"):
        compile_plan(load_recipe(TINY)).select(["merge/tta"])
