"""Bad input of every sort: code 2, one line that names the culprit, no traceback, no file, no code run."""

import json
import os
import pickle
import resource
import shlex
import shutil

import pytest
from conftest import TINY

from micota_lf import RecipeError, UserError, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.problems import Problems, load_problems
from micota_lf.inputs.references import DataRef, ModelRef
from micota_lf.inputs.weights import model_problem
from micota_lf.system.files import write_jsonl
from micota_lf.system.processes import engine_argv

CANARY = "canary"  # a file that appears if anything planted is executed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, in which nothing may be written and no work begun."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "reports.results.run_plan",
        "stages.run_logged",
    ):  # an engine would be the slowest way to say no
        monkeypatch.setattr(f"micota_lf.{name}", lambda *given, **how: pytest.fail("work was begun"))
    return tmp_path


def checked(found, folder, before):
    assert all(len(line) < 1000 and "Traceback" not in line for line in found), found
    assert sorted(folder.rglob("*")) == before
    return found


@pytest.fixture
def lines_of(folder):
    """A function that loads a recipe which must be refused, and returns its problems."""

    def load(path, *overrides):
        before = sorted(folder.rglob("*"))
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        return checked(str(caught.value).splitlines(), folder, before)

    return load


@pytest.fixture
def refused(folder, capsys):
    """A function that runs a command which must be refused, and returns its error lines."""

    def run(*words, lines=1):
        before = sorted(folder.rglob("*"))
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:  # argparse: a usage line, then its error
            code = ended.code
        err = capsys.readouterr().err.splitlines()
        found = [line for line in err if not line.startswith(("usage: ", " "))]
        assert code == 2, (code, found)
        assert len(found) == lines and all(line.startswith("micota") for line in found), err
        return checked(found, folder, before)

    return run


def laughs(merge=False):
    """Nine levels of ten aliases: a billion nodes from 400 bytes."""
    text = "a0: &a0 {x: lol}\n"
    for n in range(1, 10):
        items = ", ".join([f"*a{n - 1}"] * 10)
        text += f"a{n}: &a{n} {{'<<': [{items}]}}\n" if merge else f"a{n}: &a{n} [{items}]\n"
    return text


NO_RECIPE = {
    "a billion laughs": (laughs(), "aliases"),
    "a billion laughs by merge keys": (laughs(merge=True).replace("'<<'", "<<"), "aliases"),
    "an alias of itself": ("name: &a [*a]\n", "aliases"),
    "very deep nesting": ("name: " + "[" * 50_000, "nested too deeply"),
    "deep mappings": ("{a: " * 5_000, "nested too deeply"),
    "a python call": (f"name: !!python/object/apply:os.system ['touch {CANARY}']\n", "python/object"),
    "a python name": ("name: !!python/name:os.system\n", "python/name"),
    "a python module": ("name: !!python/module:os\n", "python/module"),
    "a tag of nobody's": ("name: !secret x\n", "!secret"),
    "a list": ("[1, 2]\n", "a recipe is a mapping"),
    "a word": ("hello\n", "a recipe is a mapping"),
    "a number": ("3\n", "a recipe is a mapping"),
    "an open bracket": ("name: [\n", "not valid YAML"),
    "a tab": ("name:\n\tx: 1\n", "not valid YAML"),
    "two documents": ("name: a\n---\nname: b\n", "not valid YAML"),
    "a key twice": ("name: a\nname: b\n", "name"),
    "an unhashable key": ("{[1]: 2}\n", "not valid YAML"),
    "random bytes": (bytes(range(128, 256)) * 9, "cannot be read"),
    "UTF-16": ("name: x\n".encode("utf-16"), "cannot be read"),
    "NUL bytes": ("name: a\0b\n", "not valid YAML"),
    "extends a number": ("extends: 3\n", "extends: 3"),
    "extends a mapping": ("extends: {a: b}\n", "extends: {'a': 'b'}"),
    "extends itself": ("extends: bad.yaml\n", "the file extends itself"),
    "extends a missing file": ("extends: none.yaml\n", "none.yaml: cannot be read"),
    "extends a directory": ("extends: .\n", "cannot be read"),
    "extends a NUL": ('extends: "a\\0b"\n', "cannot be read"),
}


@pytest.mark.parametrize("case", NO_RECIPE)
def test_a_file_that_is_no_recipe_is_refused(lines_of, tmp_path, case):
    text, words = NO_RECIPE[case]
    (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (line,) = lines_of("bad.yaml")
    assert words in line and (".yaml" in line or words == "cannot be read")


def test_a_file_that_is_no_recipe_is_refused_by_a_command(refused, tmp_path):
    (tmp_path / "bad.yaml").write_text(NO_RECIPE["a python call"][0])
    (line,) = refused("plan", "bad.yaml")
    assert "bad.yaml: not valid YAML: " in line and "python/object" in line


def test_all_files_that_are_no_recipes_are_named(lines_of, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: [b.yaml, c.yaml]\n")
    (tmp_path / "b.yaml").write_text("[1]\n")
    assert [line.split(": ")[0] for line in lines_of("a.yaml")] == ["b.yaml", "c.yaml"]


def test_an_empty_recipe_names_what_it_lacks(lines_of, tmp_path):
    (tmp_path / "bad.yaml").write_text("")
    lacking = "missing, and it has no default"
    assert lines_of("bad.yaml") == [f"bad.yaml: {key}: {lacking}" for key in ("name", "prompts.path")]


def test_files_that_extend_each_other_are_refused(lines_of, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    (line,) = lines_of("a.yaml")
    assert "a.yaml: extends: the file extends itself" in line


def test_a_tower_of_files_that_extend_two_each_is_read_once_each(lines_of, tmp_path):
    for n in range(40):
        (tmp_path / f"{n}.yaml").write_text(f"extends: [{n + 1}.yaml, ./{n + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("name: x\nnobody: 1\n")
    found = lines_of("0.yaml")
    assert sum("40.yaml: nobody: unknown key" in line for line in found) == 1


def test_a_circle_through_the_parent_folder_is_seen(lines_of, tmp_path):
    (tmp_path / "a.yaml").write_text(f"extends: ../{tmp_path.name}/a.yaml\n")
    (line,) = lines_of("a.yaml")
    assert "extends: the file extends itself" in line


@pytest.mark.parametrize("path", ["none.yaml", ".", "a\0b.yaml", "x" * 300 + ".yaml"])
def test_a_recipe_that_cannot_be_opened_is_refused(lines_of, path):
    (line,) = lines_of(path)
    assert "cannot be read" in line


NAMES = [
    "a b", "a\nb", "..", "../up", "/abs", "a/b", "$(touch canary)", "a;b", "`b`", "", "-x", "x" * 200, "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key", ["name", "students", "teachers", "assistants", "corpora", "tables", "evaluation"]
)
def test_a_name_that_is_no_name_is_refused_wherever_it_names_files_or_steps(lines_of, recipe_file, key, name):
    values = {
        "name": name,
        "students": {name: {"model": "tiny:student-s"}},
        "tables": {name: {"student-s": ["MiCoTA"]}},
        "teachers": {name: {"model": "tiny:teacher"}},
        "corpora": {name: {"from": "teacher"}},
        "assistants": {name: {"from": "assistant/strong"}},
        "evaluation": {"benchmarks": {name: {"path": "tiny:two"}}},
    }
    (line,) = lines_of(recipe_file(**{key: values[key]}))
    assert f": {key}" in line and "letters, digits" in line


VALUES = {
    "train.learning_rate=1e400": "train.learning_rate",
    "train.learning_rate=.nan": "train.learning_rate",
    "train.learning_rate=-.inf": "train.learning_rate",
    "train.learning_rate=[1]": "train.learning_rate",
    "train.learning_rate={a: 1}": "train.learning_rate",
    "train.learning_rate=": "train.learning_rate",
    "train.bf16=maybe": "train.bf16",
    "train.lr=1": "train.lr: unknown key; did you mean 'learning_rate'?",
    "train.lora_rank=8": "`extra` takes other arguments of LLaMA-Factory",
    "prompts.template=Q: {problem}": "must be a text (quote one that holds a colon and a blank, or braces)",
    "train.finetuning_type=lora": "train.finetuning_type: 'lora' must be 'full' or 'freeze'",
    "students.student-s.train.finetuning_type=lora": "students.student-s.train.finetuning_type: 'lora' must",
    "train=3": "train",
    "train=null": "train",
    "students=[1]": "students",
    "students.student-s=3": "students.student-s",
    "students.student-s.model=[a]": "students.student-s.model",
    "students.student-s.model=null": "students.student-s.model",
    "students.student-s.train_for=3": "students.student-s.train_for",
    "students.student-s.train_for.half=3": "students.student-s.train_for.half",
    "generation.max_tokens=1e400": "generation.max_tokens",
    "generation.max_tokens=0": "generation.max_tokens",
    "generation.max_tokens=1.5": "generation.max_tokens",
    "generation.temperature=.inf": "generation.temperature",
    "generation.top_p=.nan": "generation.top_p",
    "generation.backend=shell": "generation.backend",
    "assistants.ta.merge.weight=.nan": "assistants.ta.merge.weight",
    "assistants.ta.merge.weight=1e400": "assistants.ta.merge.weight",
    "assistants.ta.merge.weight=[]": "assistants.ta.merge.weight",
    "assistants.ta.merge.weight=[.inf]": "assistants.ta.merge.weight",
    "assistants.ta.merge.weight=[{filter: mlp, value: 1}]": "assistants.ta.merge.weight",
    "assistants.ta.merge.weight=[{filtre: mlp, value: 1}, {value: 0}]": "assistants.ta.merge.weight",
    "assistants.ta.merge.lambda=.inf": "assistants.ta.merge.lambda",
    "assistants.ta.merge.density=0": "assistants.ta.merge.density",
    "corpora.mix-long.mix.short=.nan": "corpora.mix-long.mix",
    "corpora.mix-long.mix=[1]": "corpora.mix-long.mix",
    "methods=3": "methods",
    "tables.table2=3": "tables",
    "tables.table2.others=3": "tables",
    "bpc.models=3": "bpc.models",
    "prompts.limit=-1": "prompts.limit",
    "prompts.limit=${prompts.nothing}": "prompts",
    "prompts.limit=${prompts.limit}": "prompts.limit",
    "prompts.limit=${nobody:3}": "prompts.limit",
    "prompts.limit=${": "command line: 'prompts.limit=${': no viable",
    "generation.endpoints=['${nobody:3}']": "generation.endpoints.0: Unsupported interpolation",
    "bpc.corpora=['${name}', '${nobody}']": "bpc.corpora",
    "assistants=[1]": "assistants",
    "assistants.ta=ta": "assistants.ta",
    "assistants.ta.from=null": "assistants.ta.from",
    "assistants.ta.from=ta": "assistants.ta.from",
    "assistants.ta.merge.merge_method=slerp": "assistants.ta.merge.merge_method: 'slerp' must be",
    "assistants.ta.merge.merge_method=sce": "assistants.ta.merge.merge_method: has no weight",
    "corpora.mix-long.mix.short=1.5": "corpora.mix-long.mix",
    "corpora.strong.file=./none.jsonl": "corpora.strong",
    "hardware.gpus=-1": "hardware.gpus",
    "hardware.gpu_memory_gib=.nan": "hardware.gpu_memory_gib",
    "evaluation.tasks=[a]": "evaluation.tasks",
    "evaluation.tasks.nobodys_task=x": "nobodys_task",
    "evaluation.include_path=./none": "evaluation.include_path",
    "sources=3": "sources",
    "no_such_key=1": "no_such_key",
    "no.such.key=1": "no",
    "word": "word",
    "=1": "command line",
    "a..b=1": "command line",
    "train.extra=3": "train.extra",
}


@pytest.mark.parametrize("override", VALUES)
def test_a_value_that_cannot_be_is_refused_with_its_key(lines_of, override):
    found = lines_of(TINY, override)
    assert found and all(VALUES[override] in line for line in found), found


def test_a_value_that_cannot_be_is_refused_by_a_command(refused):
    (line,) = refused("plan", TINY, "train.learning_rate=1e400")
    assert line == "micota: command line: train.learning_rate: inf must be a finite number"


def test_keys_that_are_no_words_are_refused_or_read_as_words(lines_of, recipe_file):
    path = recipe_file()
    path.write_text(
        path.read_text() + "1: 2\ntrain: {1: 2}\nstudents: {a.b: {model: '${x}'}, 7: {model: [3]}}\n"
    )
    found = lines_of(path)
    assert [line.split(": ")[1] for line in found] == [
        "students.a.b.model",
        "students.7.model",
        "train.1",
        "1",
    ]


@pytest.mark.parametrize("command", ["", "''", "./none", "no-such-engine --flag", "\\", "'a"])
def test_an_engine_that_is_no_command_is_refused(command):
    with pytest.raises(UserError, match=r"^engines: "):
        engine_argv(command)


def test_an_engine_that_is_not_there_is_refused_before_any_step(refused):
    (line,) = refused("run", TINY, "engines.lm_eval=no-such-engine --flag", "--workspace", "runs")
    assert line.startswith("micota: engines: 'no-such-engine' was not found")


ROW = '{"problem": "What is 1+1?", "answer": "2"}\n'
NO_PROMPTS = {
    "UTF-16": (ROW.encode("utf-16"), "cannot be read as UTF-8"),
    "Latin-1": ('{"problem": "\u00fc", "answer": "2"}\n'.encode("latin-1"), "cannot be read as UTF-8"),
    "a byte order mark": ("\ufeff" + ROW, "line 1 is not JSON"),
    "no JSON": (ROW + "hello\n", "line 2 is not JSON"),
    "a torn line": (ROW + ROW[:20], "line 2 is not JSON"),
    "CSV": ("problem,answer\n1+1,2\n", "line 1 is not JSON"),
    "a JSON list over lines": ("[\n" + ROW + "]\n", "line 1 is not JSON"),
    "a list": ("[1]\n", "line 1 is a list"),
    "a number": ("3\n", "line 1 is a int"),
    "null": ("null\n", "line 1 is a NoneType"),
    "nothing": ("", "holds no prompts"),
    "blank lines": ("\n \n\n", "holds no prompts"),
    "NUL bytes": ("\0\0\0\n", "line 1 is not JSON"),
    "random bytes": (bytes(range(128, 256)), "cannot be read as UTF-8"),
    "deep nesting": ('{"problem": ' + "[" * 100_000 + "\n", "line 1 is not JSON"),
    "a number of 5000 digits": ('{"problem": ' + "1" * 5000 + "}\n", "line 1 is not JSON"),
    "half a surrogate pair": ('{"problem": "\\ud800", "answer": "2"}\n', "row 1"),
    "the same id twice": (ROW.replace("{", '{"id": 7, ') * 2, "row 2: has the same id '7' as an earlier row"),
    "no problem": ('{"answer": "2"}\n', "row 1: has no"),
    "an empty problem": (ROW.replace("What is 1+1?", " "), "row 1: has no"),
    "a problem that is a list": ('{"problem": ["a"], "answer": "2"}\n', "row 1: has no"),
}


@pytest.mark.parametrize("case", NO_PROMPTS)
def test_a_prompt_file_that_is_none_is_refused(folder, case):
    text, words = NO_PROMPTS[case]
    (folder / "p.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_problems(Problems("./p.jsonl"))
    assert words in str(caught.value) and "p.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_a_recipe_and_a_command_name_the_prompt_file_that_is_none(lines_of, refused, folder):
    text, words = NO_PROMPTS["the same id twice"]
    (folder / "p.jsonl").write_text(text)
    (line,) = lines_of(TINY, "prompts.path=./p.jsonl")
    assert line == f"command line: prompts.path: ./p.jsonl: {words}"
    command = "generate --model tiny:student-s --prompts ./p.jsonl -o out generation.backend=fake"
    (line,) = refused(*command.split())
    assert line == f"micota: {folder}/p.jsonl: {words}"


@pytest.mark.parametrize("path", ["./none.jsonl", "./folder", "../none.jsonl", "./" + "x" * 300, "tiny:four"])
def test_a_prompt_file_that_cannot_be_opened_is_refused(lines_of, folder, path):
    (folder / "folder").mkdir()
    (line,) = lines_of(TINY, f"prompts.path={path}")
    assert (
        line.startswith("command line: prompts.path: ") and f"{DataRef(path).local}: cannot be read" in line
    )


def test_a_path_with_a_nul_is_refused(lines_of, recipe_file):
    assert "control characters" in lines_of(TINY, "prompts.path=./a\0b.jsonl")[0]
    (line,) = lines_of(recipe_file(prompts={"path": "./a\0b.jsonl"}))
    assert ": prompts.path: " in line and "null byte" in line


def test_rows_without_answers_are_refused_by_a_recipe_that_filters(lines_of, folder):
    (folder / "p.jsonl").write_text('{"problem": "What is 1+1?", "anser": "2"}\n')
    (line,) = lines_of(TINY, "prompts.path=./p.jsonl")
    assert "row 1: has no 'answer'; did you mean 'anser'?" in line


@pytest.mark.parametrize("valid", [True, False])
def test_a_line_of_100_megabytes_is_refused_in_little_memory(lines_of, folder, valid):
    with (folder / "p.jsonl").open("w") as handle:
        handle.write('{"answer": "2", "problem": "')
        for _ in range(100):
            handle.write("1+1=?" * 200_000)
        handle.write('"}\n' if valid else "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = lines_of(TINY, "prompts.path=./p.jsonl")
    assert "line 1 has 1000000" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


STAGE = {
    "a mix without a ratio": ("mix --part c.jsonl -o out", "--part: 'c.jsonl' is not of the form"),
    "a mix with a word for a ratio": ("mix --part x=c.jsonl -o out", "--part: 'x=c.jsonl'"),
    "a mix without a file": ("mix --part 1= -o out", "--part: '1='"),
    "a mix of nan": ("mix --part nan=c.jsonl -o out", "ratios [nan]"),
    "a mix of inf": ("mix --part inf=c.jsonl -o out", "ratios [inf]"),
    "a mix below zero": ("mix --part 2=c.jsonl --part=-1=r.jsonl -o out", "ratios [2.0, -1.0]"),
    "a mix that is no whole": ("mix --part 0.5=c.jsonl -o out", "must be above 0 and add up to 1"),
    "a mix of one file twice": ("mix --part 0.5=c.jsonl --part 0.5=c.jsonl -o out", "'c.jsonl' twice"),
    "a mix of a missing file": ("mix --part 1=none.jsonl -o out", "no such file: none.jsonl"),
    "a mix of no prompt": ("mix --part 1=c.jsonl -o out", "c.jsonl: row 1: has no 'prompt'"),
    "a score of no prompt": ("bpc --model tiny:teacher --corpus c.jsonl -o o", "row 1: has no 'prompt'"),
    "a mix of size 0": ("mix --part 1=r.jsonl --size 0 -o out", "size"),
    "a mix with a word for a seed": ("mix --part 1=c.jsonl --seed x -o out", "seed: invalid int value: 'x'"),
    "grades over what is graded": ("grade r.jsonl -o ./r.jsonl", "-o: ./r.jsonl is the file that is read"),
    "a pipe to grade": ("grade /dev/stdin -o out.jsonl", "/dev/stdin: no such file (a pipe cannot"),
    "a pilot that is not there": ("plan RECIPE --pilot nowhere", "--pilot: no such directory: nowhere"),
    "no command": ("", "required: COMMAND"),
    "an unknown command": ("pln RECIPE", "invalid choice: 'pln'"),
    "an unknown option": ("plan RECIPE --targets x", "unrecognized arguments: --targets"),
    "an option without a value": ("plan RECIPE --target", "expected one argument"),
    "an unknown target": ("plan RECIPE --target mrge/ta", "did you mean 'merge/ta'"),
    "an empty target": ("plan RECIPE --target ''", "--target: ''"),
    "a target with a line break": ("plan RECIPE --target 'a\nb'", "--target: 'a\\nb'"),
    "a target of shell words": ("run RECIPE --target '$(touch canary)'", "--target: '$(touch canary)'"),
    "an unknown step to explain": ("explain RECIPE trian/student-s/micota", "STEP: 'trian/student-s/micota'"),
    "a run that never was": ("explain train/student-s/micota", "last.json: cannot be read"),
    "no jobs": ("run RECIPE --jobs 0", "--jobs: 0 must be above 0"),
    "half a job": ("run RECIPE --jobs 0.5", "--jobs: invalid count value: '0.5'"),
    "a frozen plan that is none": ("step r.jsonl x", "r.jsonl: no step 'x'"),
    "a frozen plan that is not there": ("step none.json x", "none.json: cannot be read"),
    "a workspace that is a file": ("run RECIPE --workspace c.jsonl", "c.jsonl"),
    "an unknown verdict": ("filter --responses r.jsonl filter.verdict=best -o out", "filter.verdict: 'best'"),
    "responses without columns": ("filter --responses c.jsonl -o out", "c.jsonl: row 1: has no 'prompt'"),
    "an output in a file": ("filter --responses r.jsonl filter.verdict=none -o c.jsonl/out", "c.jsonl"),
    "an output that is not empty": ("filter --responses r.jsonl -o .", "is not an empty directory"),
    "a corpus without responses": (
        "train --model tiny:student-s --corpus c.jsonl -o out train.check_template=false",
        "row 1: has no prompt",
    ),
    "a model that is nowhere": (
        "bpc --model models/nowhere --corpus r.jsonl -o out", "--model: 'models/nowhere' is not in the local",
    ),
    "a merge with nothing": (
        "merge --before tiny:assistant --after models/nowhere -o out", "--after: 'models/nowhere' is not in",
    ),
    "a benchmark that is not to be had": (
        "evaluate --model tiny:teacher --tasks micota_x evaluation.benchmarks.x.path=no-such/set -o out",
        "; evaluation.data_dir may name a folder with NAME/test.jsonl",
    ),
    "no model": ("train --model '' --corpus r.jsonl -o out", "--model: no model given"),
    "a task of nobody's": ("evaluate --model tiny:teacher --tasks nope -o out", "tasks: unknown name 'nope'"),
    "no task": ("evaluate --model tiny:teacher --tasks '' -o out", "tasks: unknown name ''; known: "),
    "GPUs below zero": (
        "evaluate --model tiny:teacher --tasks micota_tiny_two hardware.gpus=-1 -o out", "hardware.gpus: -1",
    ),
    "an engine that is not there": (
        "train --model tiny:student-s --corpus r.jsonl -o out "
        "train.check_template=false engines.llamafactory=lf",
        "engines: 'lf' was not found",
    ),
    "an unknown key": (
        "merge --before tiny:assistant --after tiny:assistant -o out merge.wieght=1", "did you mean 'weight'",
    ),
    "servers without an address": (
        "generate --model tiny:teacher --prompts tiny:two generation.backend=endpoint -o out",
        "generation.endpoints: the backend 'endpoint' needs at least one address",
    ),
    "a raw prompt with a system message": (
        "generate --model tiny:teacher --prompts tiny:two -o out generation.prompt_format=raw "
        "prompts.system=x",
        "generation.prompt_format: raw prompts have no place for prompts.system",
    ),
    "a grade without answers": ("grade r.jsonl --answer-field gold -o o.jsonl", "row 1: has no 'gold'"),
    "a grade by no worker": ("grade r.jsonl --workers 0 -o o.jsonl", "--workers: 0"),
    "tokens of nobody's": (
        "generate --model tiny:teacher --prompts tiny:two generation.max_tokens=x -o out",
        "generation.max_tokens: 'x'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAGE)
def test_a_command_line_that_makes_no_sense_is_refused(refused, tmp_path, case):
    words, expected = STAGE[case]
    write_jsonl(tmp_path / "c.jsonl", [{"a": 1}])
    row = {"id": "1", "prompt": "p", "response": "r", "finish_reason": "stop", "response_tokens": 1}
    write_jsonl(tmp_path / "r.jsonl", [row])
    (line,) = refused(*(str(TINY) if word == "RECIPE" else word for word in shlex.split(words)))
    assert expected in line


def test_a_command_without_a_recipe_asks_for_that_alone(refused):
    (line,) = refused("plan")
    assert line.endswith("required: RECIPE")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def no_file(name):
    return lambda model: (model / name).unlink()


def text(name, content):
    return lambda model: (model / name).write_text(content)


def pickled(model):
    """Weights whose unpickling leaves a file behind."""

    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {CANARY}",)

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Planted()}))


def remote_code(model):
    """A model type of the model's own, whose code leaves a file behind."""
    code = f"open({CANARY!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (model / "own.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))


MODELS = {
    "no config": (no_file("config.json"), "lacks config.json"),
    "no tokenizer config": (no_file("tokenizer_config.json"), "lacks tokenizer_config.json"),
    "no tokenizer": (no_file("tokenizer.json"), "tokenizer"),
    "no weights": (no_file("model.safetensors"), "has no safetensors weights"),
    "pickled weights alone": (pickled, "has no safetensors weights"),
    "weights cut short": (lambda model: cut(model / "model.safetensors"), "model.safetensors"),
    "empty weights": (text("model.safetensors", ""), "model.safetensors"),
    "weights that are a web page": (text("model.safetensors", "<html>not found</html>"), "model.safetensors"),
    "weights that are a pointer": (
        text("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.safetensors",
    ),
    "a config that is no JSON": (text("config.json", "{"), "config.json"),
    "a config that is a list": (text("config.json", "[]"), "config.json"),
    "a tokenizer config that is no JSON": (text("tokenizer_config.json", "x"), "tokenizer_config.json"),
    "a tokenizer that is none": (text("tokenizer.json", "{}"), "tokenizer"),
    "code of its own": (remote_code, "own"),
}


@pytest.fixture
def bad(folder):
    """A function that makes the model folder `bad`."""

    def make(case):
        shutil.copytree(ModelRef("tiny:assistant").local, folder / "bad")
        MODELS[case][0](folder / "bad")
        write_jsonl(folder / "c.jsonl", [{"id": "1", "prompt": "p", "response": "r"}])
        return MODELS[case][1]

    return make


@pytest.mark.parametrize("case", MODELS)
def test_a_model_folder_that_cannot_be_used_is_refused_and_nothing_in_it_run(folder, bad, case):
    words, before = bad(case), sorted(folder.rglob("*"))
    (line,) = checked([model_problem(ModelRef("./bad"), chat=True)], folder, before)
    assert line.startswith("model ./bad ") and words in line


@pytest.mark.parametrize(
    ("case", "command"),
    [
        ("code of its own", f"preflight {TINY} students.student-s.model=./bad"),
        ("pickled weights alone", "generate --model ./bad --prompts tiny:two -o out prompts.limit=1"),
        ("weights cut short", "merge --before tiny:assistant --after ./bad -o out"),
        ("no tokenizer", "train --model ./bad --corpus c.jsonl -o out train.use_cpu=true train.bf16=false"),
        ("a config that is a list", "evaluate --model ./bad --tasks micota_tiny_two -o out"),
    ],
)
def test_every_command_refuses_such_a_folder_before_any_work(refused, bad, case, command):
    words = bad(case)
    (line,) = refused(*command.split())
    assert "model ./bad " in line and words in line
