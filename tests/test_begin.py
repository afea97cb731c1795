"""The first steps of somebody who has the package alone: shipped recipes by name, a new recipe, the shell."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from select import select

import pytest
import yaml
from conftest import TINY
from test_runs import QUICK

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main

MINE = ["init", "mine.yaml", "--teacher", "org/Large-32B", "--assistant", "org/Mid", "--gpus", "8"]


def typed(words, answers="", **more):
    """What a command says on a terminal at which somebody types the answers."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "micota_lf", *words]
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **more)
    os.close(theirs)
    os.write(ours, answers.encode())
    said, end = b"", time.monotonic() + 300
    with suppress(OSError):  # the other end is closed
        while select([ours], [], [], max(end - time.monotonic(), 0))[0]:
            said += os.read(ours, 4096)
    os.close(ours)
    try:
        return child.wait(max(end - time.monotonic(), 0)), said.decode()
    except subprocess.TimeoutExpired:  # it still asks, or runs
        os.killpg(child.pid, signal.SIGKILL)
        pytest.fail(f"not over after 5 minutes: {said.decode()}")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder with nothing of ours, in which we are."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shipped_recipe_has_its_name_everywhere_and_a_file_of_that_name_goes_before_it(empty):
    plan = compile_plan(load_recipe("recipes/tiny.yaml"))
    assert plan.slots == compile_plan(load_recipe(TINY.with_name("tiny.yaml"))).slots
    (empty / "mine.yaml").write_text("extends: recipes/tiny.yaml\nname: mine\n")
    assert compile_plan(load_recipe("mine.yaml")).slots == plan.slots
    (empty / "recipes").mkdir()
    (empty / "recipes" / "tiny.yaml").write_text("extends: recipes/orders.yaml\nname: another\n")
    assert load_recipe("recipes/tiny.yaml").name == "another"


def test_a_new_recipe_has_what_was_asked_for_and_plans(empty, capsys):
    students = ["--student", "small=org/Small-1.5B org/Tiny.0", "--prompts", "org/problems"]
    assert main([*MINE, *students]) == 0
    recipe = load_recipe("mine.yaml")
    models = {name: student.model for name, student in recipe.students.items()}
    assert models == {"small": "org/Small-1.5B", "tiny_0": "org/Tiny.0", "assistant": "org/Mid"}
    assert recipe.teachers["teacher"].model == "org/Large-32B" and recipe.prompts.path == "org/problems"
    assert (recipe.hardware.gpus, recipe.hardware.train_gpus, recipe.generation.backend) == (8, 8, "vllm")
    plan = compile_plan(recipe)
    assert f"mine.yaml: a recipe of {len(plan.steps)} steps" in capsys.readouterr().out
    assert {"merge/ta", "evaluate/small/MiCoTA", "evaluate/tiny_0/Half-size CoT"} <= set(plan.slots)


def test_files_of_a_new_recipe_are_named_from_where_it_is(empty):
    (empty / "data").mkdir()
    (empty / "data" / "rows.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    (empty / "recipes").mkdir()
    assert main(["init", "recipes/own.yaml", "--prompts", "data/rows.jsonl"]) == 0
    assert (
        yaml.safe_load((empty / "recipes" / "own.yaml").read_text())["prompts"]["path"]
        == "../data/rows.jsonl"
    )
    assert load_recipe("recipes/own.yaml").prompts.path == str(empty / "recipes" / "../data/rows.jsonl")


def test_what_cannot_be_a_recipe_is_one_line_and_leaves_no_file(empty, capsys):
    (empty / "there.yaml").write_text("name: there\n")
    for words, said in (
        (["init", "there.yaml"], "there.yaml: is there already; name a new file"),
        ([*MINE[:-1], "two"], "--gpus: 'two' is not a number of GPUs"),
        ([*MINE, "--student", "a/b=org/Small"], "students.a/b"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in empty.iterdir()] == ["there.yaml"]
    assert (empty / "there.yaml").read_text() == "name: there\n"


def test_a_new_recipe_asks_at_a_terminal_for_what_no_flag_gives(empty):
    words = ["init", "asked.yaml", "--prompts", "tiny:gap/train", "--gpus", "0"]
    code, said = typed(words, "tiny:gap/teacher\n\ns=tiny:gap/student-s l=tiny:gap/student-l\n")
    assert code == 0 and said.count("]: ") == 3 and "steps; next: micota plan asked.yaml" in said
    recipe = load_recipe("asked.yaml")
    assert list(recipe.students) == ["s", "l", "assistant"]
    assert typed(["init", "ended.yaml"], 5 * "\x04")[0] == 0, "Ctrl-D takes what is usual"
    assert recipe.students["assistant"].model == "tiny:gap/assistant"


def test_bash_completes_commands_flags_and_files(empty):
    (empty / "mine.yaml").write_text("")
    script = """
    source <("$1" -m micota_lf --completion bash)
    for line in "micota pre" "micota plan --sou" "micota plan mi"; do
      COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
      _shtab_micota; echo "${COMPREPLY[@]}"
    done"""
    done = subprocess.run(["bash", "-c", script, "bash", sys.executable], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["preflight", "--sources", "mine.yaml"], done.stderr


@pytest.mark.long
def test_at_a_terminal_a_run_shows_what_each_step_does_below_what_has_ended(empty):
    words = ["run", str(TINY), "--target", "filter/strong", "--workspace", str(empty / "runs"), *QUICK]
    code, said = typed(words, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    assert code == 0, said
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "running preflight: " in plain and "3 missing of 3 steps" in plain
    assert "minutes left (the estimates" in plain
    ended = plain.index("3/3 done    filter/strong")
    assert plain.index("1/3 done    preflight") < ended and "\x1b[" in said
