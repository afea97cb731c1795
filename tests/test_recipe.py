"""Recipes: what loads, what is refused, and that a refusal writes nothing."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

from micota_lf import RecipeError, UserError, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.references import ModelRef, hub_problems
from micota_lf.recipe.lineage import accumulation, filtering, strong_teachers, training

NONE = Path("none.jsonl").absolute()


def problems(*overrides, path=TINY):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_all_errors_of_a_recipe_come_together_with_key_value_and_nearest_key():
    found = problems(
        "train.lerning_rate=1", "students.student-s.train.learning_rate=-1", "generation.max_tokens=many"
    )
    assert found == [
        "command line: students.student-s.train.learning_rate: -1 must be above 0",
        "command line: generation.max_tokens: 'many' should be a valid integer",
        "command line: train.lerning_rate: unknown key; did you mean 'learning_rate'?",
    ]


def test_errors_of_every_sort_come_together_each_with_the_layer_that_holds_it(recipe_file):
    path = recipe_file(
        methods={"MiCoTA": "mikota"},
        corpora={"mix-long": {"mix": {"short": 0.7}}},
        train={"learning_rate": -1, "lerning_rate": 1, "global_batch_size": 7},
        prompts={"path": "./none.jsonl"},
    )
    none = path.parent / "none.jsonl"
    assert problems("students.student-s.model=./nowhere", "generation.max_tokens=many", path=path) == [
        "command line: generation.max_tokens: 'many' should be a valid integer",
        f"{path}: train.learning_rate: -1 must be above 0",
        f"{path}: train.lerning_rate: unknown key; did you mean 'learning_rate'?",
        f"{path}: corpora.mix-long.mix: ratios add up to 0.9, not 1",
        f"{path}: methods.MiCoTA: unknown name 'mikota'; did you mean 'micota'?",
        f"{path}: prompts.path: {none}: cannot be read as UTF-8 JSON Lines: "
        f"[Errno 2] No such file or directory: '{none}'",
        "command line: students.student-s.model: no such model directory: ./nowhere",
    ]


def test_a_batch_that_does_not_split_is_named_beside_values_of_a_wrong_type(recipe_file):
    path = recipe_file(students={"student-s": {"train": {"global_batch_size": 7}}}, train={"seed": "x"})
    split = "7 does not split into per_device_train_batch_size 16 x 1 device(s)"
    assert problems("generation.max_tokens=1.5", path=path) == [
        "command line: generation.max_tokens: 1.5 should be a valid integer",
        f"{path}: train.seed: 'x' should be a valid integer",
        f"{path}: students.student-s.train.global_batch_size: {split}",
    ]


def test_a_problem_with_an_entry_of_a_list_names_the_layer_that_has_the_list():
    assert problems("generation.endpoints=[3,'ftp://x']") == [
        f"command line: generation.endpoints.{n}: {value} must be http(s) addresses without user and password"
        for n, value in enumerate(("3", "'ftp://x'"))
    ]


def test_an_interpolation_reaches_defaults_and_its_value_keeps_its_limit():
    assert load_recipe(TINY, ["bpc.limit=${generation.batch_size}"]).bpc.limit == 128
    assert load_recipe(TINY, ["train.seed=${evaluation.seed}"]).train.seed == 1234  # a default
    assert load_recipe(TINY, ["bpc.limit=${prompts.limit}"]).bpc.limit == 720
    (line,) = problems("bpc.limit=${generation.seed}")
    assert line.endswith("bpc.limit: 0 must be above 0")


def test_an_error_names_the_file_that_holds_the_bad_key(recipe_file):
    path = recipe_file(student={"a": {}})
    (line,) = problems(path=path)
    assert line == f"{path}: student: unknown key; did you mean 'students'?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("corpora.mix-long.mix.short=0.7", "corpora.mix-long.mix: ratios add up to 0.9, not 1"),
        ("methods.MiCoTA=mikota", "methods.MiCoTA: unknown name 'mikota'; did you mean 'micota'?"),
        ("corpora.strong.from=techer", "corpora.strong.from: unknown name 'techer'; did you mean 'teacher'?"),
        ("assistants.ta.from=assistant/micota", "corpora.micota: needs itself: micota <- micota"),
        ("assistants.ta.from=assistant", "assistants.ta.from: unknown name 'assistant'; did you mean"),
        (
            "students.student-s.model=./nowhere",
            "students.student-s.model: no such model directory: ./nowhere",
        ),
        ("prompts.path=./none.jsonl", f"prompts.path: {NONE}: cannot be read"),
        ("prompts.answer_field=anser", "row 1: has no 'anser'; did you mean 'answer'?"),
        ("train.global_batch_size=17", "17 does not split into per_device_train_batch_size 16 x 1 device(s)"),
        ("assistants.ta.merge.preset=pretrained", "assistants.ta.merge.pretrained_model: the preset"),
        ("prompts.template=hello", "prompts.template: 'hello' does not contain {problem}"),
        ("name=../up", "name: '../up' names directories: at most 100 letters, digits"),
        ("students.teacher.model=tiny:student-s", "students.teacher: one of teachers has this name too"),
        ("corpora.strong.file=tiny:train", "corpora.strong: needs one of `from` (a model), `mix`"),
        ("corpora.mix-long.mix.short=1.5", "corpora.mix-long.mix.short: 1.5 must be 1 or less"),
        ("train.deepspeed=zero2", "train.deepspeed: zero2 cannot train with use_cpu"),
        ("train.extra.learning_rate=1", "overrides what the recipe states: set train.learning_rate"),
        ("train.extra.output_dir=x", "output_dir follows from the recipe or the step"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(override, expected):
    assert any(expected in line for line in problems(override)), problems(override)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with an empty prompt file and a model without a chat template."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    student = ModelRef("tiny:student-s").local
    shutil.copytree(student, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template.jinja"))
    return tmp_path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts.path=./empty.jsonl", "./empty.jsonl: holds no prompts"),
        ("students.student-s.model=./bare", "model ./bare has no chat template"),
    ],
)
def test_files_that_cannot_be_used_are_refused(folder, override, message):
    (line,) = problems(override)
    assert line.endswith(message), line


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bad_recipe_ends_with_code_2_and_one_clear_line_and_writes_nothing(folder, capsys, command):
    before = sorted(folder.rglob("*"))
    assert main([command, str(TINY), "methods.MiCoTA=mikota"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "micota: command line: methods.MiCoTA: unknown name 'mikota'; did you mean 'micota'?"
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "name: x\nname: y\n"])
def test_a_file_that_is_no_recipe_is_one_error(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert all(line.startswith(f"{path}: ") for line in caught.value.problems)


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text("extends: loop.yaml\n")
    assert any("extends itself" in line for line in problems(path=path))


def test_relative_paths_start_at_the_recipe_and_on_the_command_line_where_one_stands(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    shutil.copytree(ModelRef("tiny:student-s").local, home / "models" / "mine")
    shutil.copytree(home, elsewhere)
    row = '{"problem": "What is 1+1?", "answer": "2"}\n'
    (home / "p.jsonl").write_text(row)
    benchmark = "{mine: {path: ../home/p.jsonl}}"
    (home / "mine.yaml").write_text(
        f"extends: {TINY}\nprompts: {{path: p.jsonl}}\n"
        "students: {student-m: {model: ./models/mine}, student-s: {model: models/mine}}\n"
        f"evaluation: {{benchmarks: {benchmark}, tasks: {{micota_mine: Mine}}}}\n"
        "variants: {students.student-m.model: [./models/mine, tiny:student-m]}\n"
    )
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(Path("../home/mine.yaml"))
    models = {student: spec.reference.local.resolve() for student, spec in recipe.students.items()}
    assert models["student-m"] == models["student-s"] == home / "models" / "mine"
    assert recipe.prompts.source.local.resolve() == home / "p.jsonl"
    assert Path(recipe.variants["students.student-m.model"][0]).resolve() == home / "models" / "mine"
    said = load_recipe(Path("../home/mine.yaml"), ["students.student-m.model=models/mine"])
    assert said.students["student-m"].reference.local == elsewhere / "models" / "mine"


def test_a_folder_that_is_there_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ModelRef("models/mine").local is None
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert ModelRef("models/mine").local == tmp_path / "models" / "mine"
    assert ModelRef("").local is None
    assert hub_problems({"it": ModelRef("models/mime")})["it"].endswith("did you mean 'models/mine'?")


def test_null_removes_a_student_and_its_rows_of_tables(recipe_file):
    path = recipe_file(
        students={"assistant": None}, assistants={"ta": None}, corpora={"half": None, "micota": None},
        methods={"A": "strong"}, tables={"table2": {"assistant": ["A"], "others": ["A"]}},
        bpc={"corpora": ["strong"], "models": ["student-s"]},
    )  # fmt: skip
    recipe = load_recipe(path)
    assert recipe.tables == {"table2": {"others": ["A"]}} and not recipe.assistants
    assert list(recipe.students) == ["student-m", "student-s"]


def test_every_interpolation_that_leads_nowhere_is_named():
    words = ["bpc.models=['${nope}']", "train.seed=${train.sed}", "train.warmup_steps=${train.warmup_steps}"]
    assert [line.split(":")[1].strip() for line in problems(*words)] == [
        "train.warmup_steps", "train.seed", "bpc.models.0",
    ]  # fmt: skip


def test_a_later_layer_overrides_and_null_removes_an_entry(recipe_file):
    path = recipe_file(name="other", students={"student-m": None}, bpc={"models": ["student-s"]})
    recipe = load_recipe(path)
    assert recipe.name == "other" and list(recipe.students) == ["student-s", "assistant"]


def test_null_removes_a_method_that_has_a_corpus_and_never_makes_its_row_the_untrained_student(recipe_file):
    recipe = load_recipe(TINY, ["methods.MiCoTA=null"])
    assert "MiCoTA" not in recipe.methods and recipe.methods["Instruct"] is None
    assert not any("MiCoTA" in methods for rows in recipe.tables.values() for methods in rows.values())
    path = recipe_file(methods={"Instruct": None, "MiCoTA": None, "Mine": None, "Other": "half"}, tables={})
    assert load_recipe(path).methods == {"Instruct": None, "Mine": None, "Other": "half"}
    (path.parent / "next.yaml").write_text("extends: recipe.yaml\nmethods: {Instruct: null, Other: null}\n")
    assert load_recipe(path.parent / "next.yaml").methods == {"Instruct": None}


SCRATCH = """
name: scratch
prompts: {path: "tiny:train", limit: 20}
teachers: {big: {model: "tiny:teacher"}}
students: {s: {model: "tiny:student-s", train: {use_cpu: true, bf16: false}}}
corpora: {strong: {from: big}}
"""


def test_a_scratch_recipe_has_the_papers_methods_of_its_corpora_and_fails_on_no_other_name(tmp_path):
    path = tmp_path / "scratch.yaml"
    path.write_text(SCRATCH)
    assert load_recipe(path).methods == {"Instruct": None, "Strong Teacher CoT": "strong"}
    path.write_text(SCRATCH.replace("strong:", "mine:"))
    assert load_recipe(path, ["methods.Mine=mine"]).methods == {"Instruct": None, "Mine": "mine"}
    assert problems("methods.MiCoTA=micota", path=path) == [
        "command line: methods.MiCoTA: unknown name 'micota'; known: mine"
    ]


def test_a_recipe_without_tasks_still_trains_and_merges(tmp_path):
    path = tmp_path / "scratch.yaml"
    path.write_text(SCRATCH + "assistants: {ta: {from: s/strong}}\n")
    slots = compile_plan(load_recipe(path)).slots
    assert {"train/s/strong", "merge/ta"} <= slots.keys()
    assert not any(slot.startswith("evaluate") for slot in slots)


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("evaluation.tasks.micota_tiny_two=null", lambda it: len(it.evaluation.tasks) == 1),
        ("evaluation.tasks=null", lambda it: not it.evaluation.tasks),
        ("tables=null", lambda it: not it.tables),
        ("tables.table1=null", lambda it: list(it.tables) == ["table2", "table3"]),
        ("tables.table1.others=null", lambda it: list(it.tables["table1"]) == ["assistant"]),
        ("bpc.models=null", lambda it: not it.bpc.models),
        ("estimates.response_tokens.ta=null", lambda it: list(it.estimates.response_tokens) == ["teacher"]),
        ("train.extra={a: null, b: 1}", lambda it: it.train.extra == {"b": 1}),
        ("students.student-s.train_for={half: null}", lambda it: not it.students["student-s"].train_for),
    ],
)  # fmt: skip
def test_null_removes_every_named_entry_and_empties_mappings_of_names_and_lists(override, kept):
    assert kept(load_recipe(TINY, [override]))


@pytest.mark.parametrize("key", ["train", "bpc", "students.student-s.train", "train.seed", "name", "prompts"])
def test_null_is_refused_for_a_section_and_for_a_value_that_must_be(key):
    (line,) = problems(f"{key}=null")
    assert line.startswith(f"command line: {key}: None ")


def test_methods_default_to_the_papers_rows_and_a_file_replaces_them(tiny, recipe_file):
    assert list(tiny.methods) == ["Instruct", "Strong Teacher CoT", "Half-size CoT", "Mix-Long", "MiCoTA"]
    path = recipe_file(methods={"MiCoTA": "micota"})
    assert load_recipe(path).methods == {"MiCoTA": "micota"}
    assert load_recipe(path, ["methods.Half=half"]).methods == {"MiCoTA": "micota", "Half": "half"}


def test_a_loaded_recipe_is_frozen(tiny):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.train.learning_rate = 1.0


def test_an_unquoted_no_means_no(recipe_file):
    path = recipe_file()
    path.write_text(path.read_text() + "train: {save_strategy: no}\n")
    assert load_recipe(path).train.save_strategy == "no"


def test_hyperparameters_are_per_student_and_per_teacher_and_corpus_wins(recipe_file):
    path = recipe_file(
        students={
            "student-s": {
                "train": {"learning_rate": 0.1},
                "train_for": {"teacher": {"learning_rate": 0.2}, "half": {"learning_rate": 0.3}},
            }
        }
    )
    recipe = load_recipe(path)
    rates = {
        c: training(recipe, "student-s", c).learning_rate for c in ("short", "micota", "mix-long", "half")
    }
    assert rates == {"short": 0.1, "micota": 0.2, "mix-long": 0.2, "half": 0.3}
    assert training(recipe, "student-m", "micota").learning_rate == recipe.train.learning_rate


def test_lineage_finds_the_strong_teacher_through_assistant_and_mix(tiny):
    assert strong_teachers(tiny, "strong") == ("teacher",)
    assert strong_teachers(tiny, "micota") == ("teacher",)
    assert strong_teachers(tiny, "mix-long") == ("teacher", "short-teacher")
    assert filtering(tiny, "strong").max_tokens == tiny.generation.max_tokens


@pytest.mark.parametrize(("gpus", "expected"), [(0, 32), (1, 32), (2, 16), (4, 8), (8, 4), (16, 2)])
def test_accumulation_keeps_the_global_batch_on_any_number_of_gpus(gpus, expected):
    words = ["train.global_batch_size=32", "train.per_device_train_batch_size=1", f"hardware.gpus={gpus}"]
    recipe = load_recipe(TINY, words)
    assert accumulation(recipe, recipe.train) == expected


def test_an_unknown_student_or_corpus_is_a_user_error(tiny):
    with pytest.raises(UserError, match="students: unknown name 'student-x'"):
        training(tiny, "student-x", "micota")
    with pytest.raises(UserError, match="corpora: unknown name 'x'"):
        training(tiny, "student-s", "x")


def test_importing_the_package_loads_no_engine():
    engines = {"torch", "transformers", "lm_eval", "datasets", "scipy"}
    code = f"import sys, micota_lf; print(*sorted({engines} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generation.backend=endpoint"], "generation.endpoints: the backend 'endpoint' needs at least one"),
        (
            ["generation.endpoints=[host:8000]"],
            "generation.endpoints.0: 'host:8000' must be http(s) addresses",
        ),
        (["generation.endpoints=['http://me:secret@host']"], "without user and password"),
        (
            ["generation.gpu_memory_utilization=1.5"],
            "generation.gpu_memory_utilization: 1.5 must be 1 or less",
        ),
        (
            ["generation.prompt_format=raw", "prompts.system=x"],
            "generation.prompt_format: raw prompts have no",
        ),
    ],
)
def test_generation_settings_that_cannot_be_are_named(overrides, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(TINY, overrides)
    assert words in str(caught.value)
