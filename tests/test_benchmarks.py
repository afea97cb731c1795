"""The five benchmarks: their problems, answer formats, verdicts on gold answers, and tasks in lm-eval.

Tests on the real problems need a folder NAME/test.jsonl a benchmark, named by MICOTA_BENCHMARKS.
"""

import json
import re
import sys

import pytest
import yaml
from conftest import BENCHMARKS, ROOT, TINY

from micota_lf import RecipeError, StepFailed, UserError, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.grading.answer import extract_boxed, grade
from micota_lf.grading.measures import METRICS, count_reflections, response_metrics
from micota_lf.inputs.benchmarks import (
    DATA_INFO,
    benchmark_identity,
    benchmark_named,
    expand_groups,
    load_benchmark,
    located,
    package_benchmarks,
    read_answer,
    task_benchmarks,
    task_configs,
)
from micota_lf.inputs.problems import load_problems
from micota_lf.inputs.references import local_path
from micota_lf.recipe.sections import Benchmark, Evaluation, Problems, Prompts
from micota_lf.stages.evaluate import TASKS_DIR, evaluation_settings, finish_evaluation, lm_eval_samples
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

FIVE = {"aime24": 30, "amc23": 40, "olympiadbench": 675, "math-500": 500, "gsm8k": 1319}
TASKS = ["micota_aime24", "micota_amc23", "micota_olympiadbench", "micota_math500", "micota_gsm8k"]
# Perfect answers in the eyes of the paper's lineage: only OlympiadBench loses some, 266 golds with a `$`.
LEGACY_CEILINGS = {**FIVE, "olympiadbench": 409}

needs_data = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no folder of benchmark problems")

# Two rows in the shape of each data set on the hub; the problems are ours.
MINIATURES = {
    "aime24": [
        {"id": 60, "problem": "What is the square of five?", "solution": "...", "answer": "025", "url": ""},
        {"id": 61, "problem": "How many are seven elevens?", "solution": "...", "answer": "77", "url": ""},
    ],
    "amc23": [
        {"id": 0, "question": "What is 20+7?", "answer": 27.0, "url": ""},
        {"id": 1, "question": "What is 1/2?", "answer": "0.5", "url": ""},
    ],
    "olympiadbench": [
        {"id": 7, "question": "Solve $x^2=9$.", "final_answer": ["$3$,$-3$"], "is_multiple_answer": True},
        {"id": 8, "question": "Solve $x+1=9$.", "final_answer": ["8"], "is_multiple_answer": False},
    ],
    "math-500": [
        {"unique_id": "test/a/1.json", "problem": "Name $\\tfrac12$.", "answer": "\\frac{1}{2}"},
        {"unique_id": "test/a/2.json", "problem": "A pair?", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)"},
    ],
    "gsm8k": [
        {"question": "Add 1000 and 125.", "answer": "1000+125=<<1000+125=1125>>1125\n#### 1,125"},
        {"question": "Add 9 and 9.", "answer": "9+9=18\n#### 18"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, rows in MINIATURES.items():
        write_jsonl(folder / name / "test.jsonl", rows)
    return folder


def rows_of(name, data_dir):
    return load_benchmark(benchmark_named(name, None, str(data_dir)))


def boxed(gold):
    """A perfect response: the gold answer in a box, without the dollar signs of mathematics."""
    bare = re.sub(r"(?<!\\)[$]", "", gold)
    return f"Thus the answer is \\boxed{{{bare}}}."


def test_the_package_describes_the_five_benchmarks_and_the_tiny_ones():
    specs = package_benchmarks()
    assert set(specs) == {*FIVE, "tiny_two", "tiny_three"}
    assert DATA_INFO.is_symlink() and DATA_INFO.resolve() == ROOT / "data_info"
    for name in FIVE:
        assert local_path(specs[name].path, "data") is None and "/" in specs[name].path, name
        assert specs[name].licence, name


@pytest.mark.parametrize("fragment", ["benchmarks", "math12k", "tiny"])
def test_a_recipe_can_extend_each_fragment(fragment, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"extends": [str(TINY), str(ROOT / f"data_info/{fragment}.yaml")]}))
    recipe = load_recipe(path, ["name=other", "prompts.limit=10"])
    if fragment == "benchmarks":
        assert set(TASKS) <= set(recipe.evaluation.tasks)
        assert {name: recipe.evaluation.benchmarks[name] for name in FIVE} == {
            name: package_benchmarks()[name] for name in FIVE
        }
    if fragment == "math12k":
        assert recipe.prompts.path == "hiyouga/math12k" and recipe.prompts.split == "train"


@pytest.mark.parametrize(
    ("value", "answer_format", "text"),
    [
        ("204", "plain", "204"),
        (27.0, "plain", "27"),
        (2.5, "plain", "2.5"),
        (0, "plain", "0"),
        ("9*2=<<9*2=18>>18\n#### 18", "gsm8k", "18"),
        ("so\n#### 1,450,000 ", "gsm8k", "1450000"),
        (["$2^{1009}$"], "list", "$2^{1009}$"),
        (["1", "$\\frac{1}{2}$"], "list", "1, $\\frac{1}{2}$"),
        ("7", "list", "7"),
    ],
)
def test_answers_of_each_format_are_read_as_text(value, answer_format, text):
    assert read_answer(value, answer_format) == text


@pytest.mark.parametrize("name", FIVE)
def test_hub_shaped_rows_load_and_their_own_answers_are_right(name, miniature):
    rows = rows_of(name, miniature)
    assert [set(row) for row in rows] == [{"id", "problem", "answer"}] * 2
    assert len({row["id"] for row in rows}) == 2
    assert all(grade(boxed(row["answer"]), row["answer"]).symbolic for row in rows)


def test_ids_are_the_rows_own_and_repeated_problems_without_one_stay_apart(tmp_path, miniature):
    assert [row["id"] for row in rows_of("amc23", miniature)] == ["0", "1"]
    assert rows_of("math-500", miniature)[0]["id"] == "test/a/1.json"
    write_jsonl(
        tmp_path / "p.jsonl", [{"problem": "a"}, {"problem": "b"}, {"problem": "a"}, {"problem": "a"}]
    )
    first, other, second, third = [row["id"] for row in load_problems(Prompts(str(tmp_path / "p.jsonl")))]
    assert (second, third) == (f"{first}-2", f"{first}-3") and other != first
    write_jsonl(tmp_path / "q.jsonl", [{"id": 0, "problem": "a"}, {"id": 0, "problem": "b"}])
    with pytest.raises(UserError, match="rows 1 and 2 have the same id '0'"):
        load_problems(Problems(str(tmp_path / "q.jsonl")))


@pytest.mark.parametrize(
    ("row", "answer_format", "message"),
    [
        ({"question": "x", "answer": "18"}, "gsm8k", "row 1: 'answer' has no answer after '####'"),
        ({"question": "x", "answer": "####"}, "gsm8k", "row 1: 'answer' has no answer after '####'"),
        ({"question": "x"}, "plain", "row 1: 'answer' holds no answer: None"),
        ({"question": "x", "answer": []}, "list", r"row 1: 'answer' holds no answer: \[\]"),
        ({"question": "x", "answer": [" "]}, "list", "row 1: 'answer' holds no answer: ' '"),
        ({"question": "x", "answer": True}, "plain", "row 1: 'answer' holds no answer: True"),
        ({"problem": "x", "answer": "1"}, "plain", "row 1 has no text in 'question'"),
    ],
)
def test_bad_benchmark_data_is_one_error_with_file_row_and_column(tmp_path, row, answer_format, message):
    path = tmp_path / "b.jsonl"
    write_jsonl(path, [row])
    with pytest.raises(UserError, match=message) as caught:
        load_benchmark(Benchmark(str(path), problem_field="question", answer_format=answer_format))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_local_folder_replaces_the_hub_but_not_files(tmp_path, miniature):
    spec = package_benchmarks()["aime24"]
    assert located(spec, "aime24", None) is spec
    assert located(spec, "aime24", str(miniature)).path == str(miniature / "aime24/test.jsonl")
    tiny = package_benchmarks()["tiny_two"]
    assert located(tiny, "tiny_two", str(miniature)) is tiny
    with pytest.raises(UserError, match=r"'aime24': no such file: .*aime24/test\.jsonl"):
        located(spec, "aime24", str(tmp_path))
    with pytest.raises(UserError, match="benchmark 'aime' is unknown; known: "):
        benchmark_named("aime", None, None)
    with pytest.raises(UserError, match=r"unknown keys \['answers'\]"):
        benchmark_named("mine", {"mine": {"path": "a.jsonl", "answers": "x"}}, None)


def test_the_hub_is_asked_for_subset_split_and_revision(monkeypatch):
    asked = []

    def load_dataset(path, subset, **more):
        asked.append((path, subset, more))
        return MINIATURES["gsm8k"]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    spec = package_benchmarks()["gsm8k"]
    assert [row["answer"] for row in load_benchmark(spec)] == ["1125", "18"]
    assert asked == [("openai/gsm8k", "main", {"split": "test", "revision": spec.revision})]


def test_the_users_own_task_folder_needs_no_benchmarks_but_valid_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\nprocess_results: !function utils.mine\n")
    spec = Evaluation(tasks={"mine": "Mine"}, include_path=str(tmp_path))
    assert evaluation_settings(spec, Prompts("x"))["benchmarks"] == {}
    (tmp_path / "mine.yaml").write_text("task: [mine\n")
    with pytest.raises(UserError, match=r"mine\.yaml: not valid YAML"):
        evaluation_settings(spec, Prompts("x"))


def test_a_benchmark_is_known_by_content_and_columns_not_by_place(tmp_path, miniature):
    copy = tmp_path / "copy"
    write_jsonl(copy / "aime24" / "test.jsonl", MINIATURES["aime24"])
    here, there = (
        benchmark_identity(benchmark_named("aime24", None, str(folder))) for folder in (miniature, copy)
    )
    assert here == there and str(tmp_path) not in json.dumps(there)
    other = benchmark_identity(benchmark_named("aime24", {"aime24": {"path": "x/y"}}, str(copy)))
    assert other != there  # another legacy rule
    hub = [benchmark_identity(Benchmark("a/b", revision=revision)) for revision in ("1", "2")]
    assert hub[0] != hub[1]
    licence = [benchmark_identity(Benchmark("a/b", licence=text)) for text in ("MIT", "")]
    assert licence[0] == licence[1]


def plan_of(folder, *overrides):
    fragment = {"extends": [str(TINY), str(ROOT / "data_info/benchmarks.yaml")], "evaluation": {"tasks": {}}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fragment))
    return compile_plan(load_recipe(path, overrides))


def test_an_evaluation_is_decided_by_its_problems_and_prompt_not_by_their_folder(tmp_path, miniature):
    moved = tmp_path / "moved"
    for name, rows in MINIATURES.items():
        write_jsonl(moved / name / "test.jsonl", rows)
    base = plan_of(tmp_path, f"evaluation.data_dir={miniature}")
    assert set(plan_of(tmp_path, f"evaluation.data_dir={moved}")["steps"]) == set(base["steps"])
    step = base["steps"][base["slots"]["evaluate/student-s/Instruct"]]
    assert set(step["config"]["benchmarks"]) == {*FIVE, "tiny_two", "tiny_three"}
    assert step["how"]["benchmarks"]["gsm8k"]["path"] == str(miniature / "gsm8k/test.jsonl")
    for override in (
        "evaluation.benchmarks.gsm8k.legacy_rule=number",
        "evaluation.benchmarks.math-500.id_field=problem",
        "prompts.template='{problem}?'",
    ):
        plan = plan_of(tmp_path, f"evaluation.data_dir={moved}", override)
        assert plan["slots"]["evaluate/student-s/Instruct"] != base["slots"]["evaluate/student-s/Instruct"]
    write_jsonl(moved / "gsm8k" / "test.jsonl", MINIATURES["gsm8k"][:1])
    plan = plan_of(tmp_path, f"evaluation.data_dir={moved}")
    assert plan["slots"]["evaluate/student-s/Instruct"] != base["slots"]["evaluate/student-s/Instruct"]


def test_a_benchmark_that_cannot_be_read_is_a_line_of_the_recipes_errors(tmp_path, miniature):
    with pytest.raises(RecipeError, match="evaluation: benchmark 'aime24': no such file: "):
        plan_of(tmp_path, f"evaluation.data_dir={tmp_path}")
    with pytest.raises(RecipeError, match=r"gsm8k/test.jsonl: row 1: 'final' holds no answer"):
        plan_of(
            tmp_path, f"evaluation.data_dir={miniature}", "evaluation.benchmarks.gsm8k.answer_field=final"
        )


def test_the_evaluate_command_says_in_one_line_what_its_data_dir_lacks(tmp_path, capsys):
    command = ["evaluate", "--model", "tiny:student-s", "--tasks", "micota", "--data-dir", str(tmp_path)]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"benchmark 'aime24': no such file: {tmp_path}/aime24/test.jsonl" in line
    assert not (tmp_path / "out").exists()


def test_groups_stand_for_their_tasks_and_every_task_names_a_known_benchmark():
    configs = task_configs(TASKS_DIR)
    assert expand_groups(["micota"], configs) == TASKS
    assert task_benchmarks(TASKS, configs) == list(FIVE)
    single = [name for name, raw in configs.items() if "task" in raw and "group" not in raw]
    assert set(task_benchmarks(single, configs)) == set(package_benchmarks())
    fragments = yaml.safe_load((ROOT / "data_info/benchmarks.yaml").read_text())["evaluation"]
    assert list(fragments["tasks"]) == TASKS and list(fragments["benchmarks"]) == list(FIVE)


@needs_data
@pytest.mark.parametrize(("name", "count"), FIVE.items())
def test_each_benchmark_has_the_papers_number_of_problems(name, count):
    rows = rows_of(name, BENCHMARKS)
    assert len(rows) == len({row["id"] for row in rows}) == count


@needs_data
@pytest.mark.parametrize(("name", "ceiling"), LEGACY_CEILINGS.items())
def test_every_gold_is_symbolically_right_and_legacy_has_the_lineages_ceiling(name, ceiling):
    spec, rows = package_benchmarks()[name], rows_of(name, BENCHMARKS)
    grades = [grade(boxed(row["answer"]), row["answer"], legacy_rule=spec.legacy_rule) for row in rows]
    wrong = [row["answer"] for row, got in zip(rows, grades, strict=True) if not got.symbolic]
    assert wrong == []
    assert sum(got.legacy for got in grades) == ceiling


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\fbox{3}", "3"),
        ("\\boxed{1} then \\fbox{3}", "1"),
        ("\\boxed{\\fbox{3}}", None),
        ("\\boxed{4} but \\boxed 5$", "5"),
        ("\\boxed{\\frac{1}{2}} \\boxed{", None),
        ("no box", None),
    ],
)
def test_boxes_are_cut_out_as_the_lineage_does_it(text, extracted):
    assert extract_boxed(text) == extracted


@pytest.mark.parametrize(
    ("box", "gold", "hendrycks", "number", "symbolic"),
    [
        ("27", "27.0", False, True, True),
        ("27.00", "27", False, True, True),
        ("025", "25", False, True, True),
        ("0.5", "\\frac{1}{2}", True, True, True),
        ("1.0.7", "1", False, True, False),  # a quirk: everything after `.0` is dropped
        ("3, -3", "$3$,$-3$", False, False, True),
        ("$8$", "8", False, False, True),
        ("", "0", False, True, False),  # a quirk of dropping leading zeros; not equal in fact
        ("5", "5\\text{ cm}", True, True, True),
        ("x", "", False, False, False),
    ],
)
def test_the_verdicts_of_each_rule_on_known_pairs(box, gold, hendrycks, number, symbolic):
    text = f"so \\boxed{{{box}}}"
    verdicts = [grade(text, gold, legacy_rule=rule) for rule in ("hendrycks", "number")]
    assert [got.legacy for got in verdicts] == [hendrycks, number]
    assert [got.symbolic for got in verdicts] == [symbolic] * 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, no. But wait; however, it awaits.", 3),
        ("waiting, awaited, whatever", 0),
        ("Let me\ncheck. Alternatively, let me double-check.", 3),
        ("", 0),
    ],
)
def test_reflection_words_are_counted_whole_and_in_any_case(text, count):
    assert count_reflections(text) == count


def test_without_a_tokenizer_length_and_truncation_are_left_out():
    doc = {"answer": "6", "legacy_rule": "number", "tokenizer": None, "tokenizer_revision": None}
    assert response_metrics(doc, "wait, \\boxed{6}") == {"legacy": 1, "symbolic": 1, "reflections": 1}


def lm_eval_cli(*words):
    """lm-eval's own command line, in this process."""
    from lm_eval.__main__ import cli_evaluate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lm_eval", "run", "--include_path", str(TASKS_DIR), *words])
        cli_evaluate()


def test_a_model_without_a_tokenizer_is_evaluated_on_the_rest(tmp_path, miniature):
    metadata = json.dumps({"data_dir": str(miniature), "template": "Q: {problem}"})
    lm_eval_cli(
        "--model", "dummy", "--tasks", "micota", "--metadata", metadata,
        "--output_path", str(tmp_path / "lm_eval"), "--log_samples",
    )  # fmt: skip
    (file,) = tmp_path.rglob("results_*.json")
    group = read_json(file)["results"]["micota"]
    assert group["legacy,none"] == group["symbolic,none"] == 0.0 and "truncated,none" not in group
    (samples,) = tmp_path.rglob("samples_micota_amc23_*.jsonl")
    assert read_jsonl(samples)[0]["arguments"]["gen_args_0"]["arg_0"] == "Q: What is 20+7?"
    with pytest.raises(StepFailed, match=r"micota_aime24 have no truncated, response_tokens: its task file"):
        finish_evaluation(tmp_path, TASKS)


@pytest.fixture(scope="module")
def run(tmp_path_factory, miniature):
    """All five tasks and one with repeats, two problems each, at 24 tokens; real problems where they are."""
    data, out = BENCHMARKS if BENCHMARKS.is_dir() else miniature, tmp_path_factory.mktemp("run")
    lm_eval_cli(
        "--model", "hf", "--model_args", f"pretrained={local_path('tiny:student-s')},dtype=float32",
        "--tasks", "micota,micota_aime24_avg", "--device", "cpu", "--batch_size", "48", "--limit", "2",
        "--apply_chat_template", "--gen_kwargs", "max_gen_toks=24",
        "--metadata", json.dumps({"data_dir": str(data), "max_gen_toks": 24}),
        "--output_path", str(out / "lm_eval"), "--log_samples",
    )  # fmt: skip
    return data, out


def test_lm_eval_runs_the_five_tasks_offline_from_a_folder(run):
    data, out = run
    scores = finish_evaluation(out, TASKS)
    assert list(scores) == TASKS and all(score["n"] == 2 for score in scores.values())
    problems = read_jsonl(out / "problems.jsonl")
    assert [set(row) for row in problems] == [{"task", "id", *METRICS}] * 10
    expected = [row["id"] for name in FIVE for row in rows_of(name, data)[:2]]
    assert [row["id"] for row in problems] == expected
    for row in read_jsonl(out / "samples.jsonl"):
        assert 0 < row["response_tokens"] <= 24 and row["truncated"] == (row["response_tokens"] == 24)
        assert set(row) == {"task", "id", "target", "response", *METRICS} and isinstance(row["response"], str)
    first = lm_eval_samples(out / "lm_eval", "micota_math500")[0]
    prompt = first["arguments"]["gen_args_0"]["arg_0"]
    assert (
        Prompts.template.replace("{problem}", first["doc"]["problem"]) in prompt and "<|im_start|>" in prompt
    )
    (file,) = out.rglob("results_*.json")
    results = read_json(file)["results"]
    mean = sum(results[task]["response_tokens,none"] for task in TASKS) / 5
    assert results["micota"]["response_tokens,none"] == pytest.approx(mean)


def test_a_task_with_repeats_averages_over_different_samples(run):
    _, out = run
    for sample in lm_eval_samples(out / "lm_eval", "micota_aime24_avg"):
        (responses,) = sample["filtered_resps"]
        assert len(responses) == 16 and len(set(responses)) > 1
        each = [response_metrics(sample["doc"], response) for response in responses]
        for name in METRICS:
            assert sample[name] == pytest.approx(sum(row[name] for row in each) / 16)
    (score,) = finish_evaluation(out, ["micota_aime24_avg"]).values()
    assert score["n"] == 2 and 0 <= score["truncated"] <= 2
