"""Recipes: what loads, what is refused, and that a refusal writes nothing."""

import dataclasses
import subprocess
import sys

import pytest
from conftest import TINY

from micota_lf import RecipeError, UserError, load_recipe
from micota_lf.cli.main import main
from micota_lf.recipe.lineage import accumulation, filtering, strong_teachers, training


def problems(*overrides, path=TINY):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_all_errors_of_a_recipe_come_together_with_key_value_and_nearest_key():
    found = problems(
        "train.lerning_rate=1", "students.student-s.train.learning_rate=-1", "generation.max_tokens=many"
    )
    assert found == [
        "command line: train.lerning_rate: unknown key; did you mean 'learning_rate'?",
        "command line: students.student-s.train.learning_rate: -1 must be above 0",
        "command line: generation.max_tokens: 'many': Value 'many' of type 'str' "
        "could not be converted to Integer",
    ]


def test_errors_of_every_sort_come_together_each_with_the_layer_that_holds_it(recipe_file):
    path = recipe_file(
        methods={"MiCoTA": "mikota"},
        corpora={"mix-long": {"mix": {"short": 0.7}}},
        train={"learning_rate": -1, "lerning_rate": 1},
        prompts={"path": "./none.jsonl"},
    )
    assert problems("students.student-s.model=./nowhere", "generation.max_tokens=many", path=path) == [
        f"{path}: train.learning_rate: -1 must be above 0",
        f"{path}: train.lerning_rate: unknown key; did you mean 'learning_rate'?",
        "command line: generation.max_tokens: 'many': Value 'many' of type 'str' "
        "could not be converted to Integer",
        f"{path}: corpora.mix-long.mix: ratios add up to 0.9, not 1",
        f"{path}: methods.MiCoTA: unknown name 'mikota'; did you mean 'micota'?",
        f"{path}: prompts.path: no such file: ./none.jsonl",
        "command line: students.student-s.model: no such model directory: ./nowhere",
    ]


def test_an_interpolated_value_keeps_its_limit():
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
        ("assistant.corpus=micota", "comes from the assistant that it is to train"),
        (
            "students.student-s.model=./nowhere",
            "students.student-s.model: no such model directory: ./nowhere",
        ),
        ("prompts.path=./nowhere.jsonl", "prompts.path: no such file: ./nowhere.jsonl"),
        ("prompts.answer_field=anser", "row 1 has no 'anser'; did you mean 'answer'?"),
        ("train.global_batch_size=17", "17 does not split into per_device_train_batch_size 16 x 1 device(s)"),
        ("assistant.merge.preset=pretrained", "assistant.merge.pretrained_model: the preset"),
        ("prompts.template=hello", "prompts.template: 'hello' does not contain {problem}"),
        ("name=../up", "name: '../up' must be letters, digits"),
        ("students.teacher.model=tiny:student-s", "students.teacher: a teacher has this name too"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(override, expected):
    assert any(expected in line for line in problems(override)), problems(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("studens.x.model=a", "unknown key; did you mean 'students'?"),
        ("train.learning_rate=-1", "train.learning_rate: -1 must be above 0"),
        ("corpora.mix-long.mix.strong=0.3", "ratios add up to 1.1, not 1"),
        ("methods.MiCoTA=mikota", "unknown name 'mikota'; did you mean 'micota'?"),
        ("students.student-m.model=./nowhere", "no such model directory: ./nowhere"),
        ("prompts.path=./empty.jsonl", "./empty.jsonl holds no prompts"),
        ("students.student-s.model=./bare", "model ./bare has no chat template"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bad_recipe_ends_with_code_2_and_one_clear_line_and_writes_nothing(
    tmp_path, capsys, monkeypatch, command, override, message
):
    from micota_lf.inputs.references import local_path

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in local_path("tiny:student-s").iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert main([command, str(TINY), override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("micota: ") and line.endswith(message), line
    assert sorted(tmp_path.rglob("*")) == before


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


def test_a_later_layer_overrides_and_null_removes_an_entry(recipe_file):
    path = recipe_file(name="other", students={"student-m": None}, bpc={"models": ["student-s"]})
    recipe = load_recipe(path)
    assert recipe.name == "other" and list(recipe.students) == ["student-s", "assistant-size"]


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
    with pytest.raises(UserError, match="no student 'student-x'"):
        training(tiny, "student-x", "micota")
    with pytest.raises(UserError, match="no corpus 'x'"):
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
            "generation.endpoints: ['host:8000'] must be http(s) addresses",
        ),
        (["generation.endpoints=['http://me:secret@host']"], "without user and password"),
        (
            ["generation.gpu_memory_utilization=1.5"],
            "generation.gpu_memory_utilization: 1.5 must lie in (0, 1]",
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
