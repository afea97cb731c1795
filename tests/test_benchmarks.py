"""The five benchmarks in recipes and in lm-eval: verdicts on known pairs, plans, and runs of the tasks.

Tests on the real problems use a folder NAME/test.jsonl a benchmark, named by MICOTA_BENCHMARKS.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import BENCHMARKS, ROOT, TINY
from miniatures import MINIATURES, write_miniatures

from micota_lf import RecipeError, StepFailed, compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.grading.answer import extract_boxed, grade
from micota_lf.grading.measures import METRICS, count_reflections, response_metrics
from micota_lf.inputs.problems import Prompts, load_problems
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.tasks import benchmark_named, package_benchmarks
from micota_lf.stages.evaluate import finish, lm_eval_samples, tasks_folder
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

STUDENT = ModelRef("tiny:student-s")
LM_EVAL_TASKS = Path(find_spec("lm_eval").origin).with_name("tasks")
FIVE = ["aime24", "amc23", "olympiadbench", "math-500", "gsm8k"]
TASKS = ["micota_aime24", "micota_amc23", "micota_olympiadbench", "micota_math500", "micota_gsm8k"]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    return write_miniatures(tmp_path_factory.mktemp("benchmarks"))


def rows_of(name, data_dir):
    return load_problems(benchmark_named(name, None, str(data_dir)))


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


def plan_of(folder, *overrides):
    fragment = {"extends": [str(TINY), str(ROOT / "data_info/benchmarks.yaml")]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fragment))
    return compile_plan(load_recipe(path, overrides))


def evaluation_of(plan):
    return plan.steps[plan.slots["evaluate/student-s/Instruct"]]


def test_an_evaluation_is_decided_by_its_problems_and_prompt_not_by_their_folder(tmp_path, miniature):
    moved = tmp_path / "moved"
    for name, rows in MINIATURES.items():
        write_jsonl(moved / name / "test.jsonl", rows)
    base = plan_of(tmp_path, f"evaluation.data_dir={miniature}")
    assert set(plan_of(tmp_path, f"evaluation.data_dir={moved}").steps) == set(base.steps)
    step = evaluation_of(base)
    assert set(step.config["benchmarks"]) == {*FIVE, "tiny_two", "tiny_three"}
    assert step.how["benchmarks"]["gsm8k"]["path"] == str(miniature / "gsm8k/test.jsonl")
    for override in (
        "evaluation.benchmarks.gsm8k.legacy_rule=number",
        "evaluation.benchmarks.math-500.id_field=problem",
        "prompts.template='{problem}?'",
    ):
        plan = plan_of(tmp_path, f"evaluation.data_dir={moved}", override)
        assert evaluation_of(plan).id != step.id
    write_jsonl(moved / "gsm8k" / "test.jsonl", MINIATURES["gsm8k"][:1])
    assert evaluation_of(plan_of(tmp_path, f"evaluation.data_dir={moved}")).id != step.id


def test_a_benchmark_that_cannot_be_read_is_a_line_of_the_recipes_errors(tmp_path, miniature):
    with pytest.raises(RecipeError, match="evaluation: benchmark 'aime24': no such file: "):
        plan_of(tmp_path, f"evaluation.data_dir={tmp_path}")
    with pytest.raises(RecipeError, match=r"gsm8k/test.jsonl: row 1: 'final' holds no answer"):
        plan_of(
            tmp_path, f"evaluation.data_dir={miniature}", "evaluation.benchmarks.gsm8k.answer_field=final"
        )


def test_the_evaluate_command_says_in_one_line_what_its_data_dir_lacks(tmp_path, capsys):
    command = ["evaluate", "--model", "tiny:student-s", "--tasks", "micota"]
    assert main([*command, "-o", str(tmp_path / "out"), f"evaluation.data_dir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"benchmark 'aime24': no such file: {tmp_path}/aime24/test.jsonl" in line
    assert not (tmp_path / "out").exists()


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


LAST_NUMBERS = [
    ("\\boxed{1,450}", "1450", True),
    ("\\boxed{18 dollars}", "18", True),
    ("\\boxed{$18}", "18", True),
    ("The answer is 18.", "18", True),
    ("\\boxed{18}", "18", True),
    ("#### 18", "18", True),
    ("\\boxed{-3}", "-3", True),
    ("<think>\nIt is 17, no: 18.", "18", True),
    ("\\boxed{18}, twice the 9 of before", "18", False),  # the box decides nothing
    ("\\boxed{18.00}", "18", False),  # texts are compared, not numbers
    ("So $\\boxed{18}$.", "18", False),  # its last number is `$.`
    ("eighteen", "18", False),
    ("", "18", False),
    ("", "", False),
]


@pytest.mark.parametrize(("text", "gold", "right"), LAST_NUMBERS)
def test_gsm8ks_legacy_verdict_is_the_last_number_of_the_response(text, gold, right):
    assert package_benchmarks()["gsm8k"].legacy_rule == "last_number"
    assert grade(text, gold, legacy_rule="last_number").legacy == right


def flexible_extract(text, gold):
    """As lm-eval scores its own task: the filter's class and the metric, with the task's settings."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    task = yaml.safe_load((LM_EVAL_TASKS / "gsm8k" / "gsm8k-cot-zeroshot.yaml").read_text())
    (settings,) = (one["filter"][0] for one in task["filter_list"] if one["name"] == "flexible-extract")
    found = RegexFilter(settings["regex_pattern"], settings["group_select"]).apply([[text]], [{}])[0][0]
    metric = {key: task["metric_list"][0][key] for key in ("regexes_to_ignore", "ignore_case")}
    return bool(exact_match_hf_evaluate([found], [gold], **metric)["exact_match"])


@pytest.mark.parametrize(
    "texts",
    [
        [(text, gold) for text, gold, _ in LAST_NUMBERS if gold],
        pytest.param(None, marks=pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no benchmark problems")),
    ],
    ids=["known", "real"],
)
def test_the_last_number_is_that_of_lm_evals_flexible_extract(texts):
    if texts is None:  # gold solutions with their final line, without it, and boxed answers
        rows = read_jsonl(BENCHMARKS / "gsm8k" / "test.jsonl")[:400]
        solutions = [row["answer"].rpartition("####") for row in rows]
        golds = [gold.strip().replace(",", "") for _, _, gold in solutions]
        texts = [("".join(s), gold) for s, gold in zip(solutions, golds, strict=True)]
        texts += [(s[0], gold) for s, gold in zip(solutions, golds, strict=True)]
        texts += [(f"so \\boxed{{{int(gold):,}}} dollars", gold) for gold in golds]
    ours = [grade(text, gold, legacy_rule="last_number").legacy for text, gold in texts]
    assert ours == [flexible_extract(text, gold) for text, gold in texts]
    assert len(set(ours)) == 2


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
    found = response_metrics(doc, "wait, \\boxed{6}")
    assert found == {"legacy": 1, "symbolic": 1, "boxed": 1, "reflections": 1}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return tasks_folder()


def lm_eval_cli(tasks, *words):
    """lm-eval's own command line, in this process."""
    from lm_eval.__main__ import cli_evaluate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lm_eval", "run", "--include_path", str(tasks), *words])
        cli_evaluate()


@pytest.mark.slow
def test_a_model_without_a_tokenizer_is_evaluated_on_the_rest(tasks, tmp_path, miniature):
    metadata = json.dumps({"data_dir": str(miniature), "template": "Q: {problem}"})
    lm_eval_cli(
        tasks, "--model", "dummy", "--tasks", "micota", "--metadata", metadata,
        "--output_path", str(tmp_path / "lm_eval"), "--log_samples",
    )  # fmt: skip
    (file,) = tmp_path.rglob("results_*.json")
    group = read_json(file)["results"]["micota"]
    assert group["legacy,none"] == group["symbolic,none"] == 0.0 and "truncated,none" not in group
    (samples,) = tmp_path.rglob("samples_micota_amc23_*.jsonl")
    assert read_jsonl(samples)[0]["arguments"]["gen_args_0"]["arg_0"] == "Q: What is 20+7?"
    with pytest.raises(StepFailed, match="left no samples of micota in "):
        finish(tmp_path, ["micota"], STUDENT, 24)


@pytest.fixture(scope="module")
def run(tasks, tmp_path_factory, miniature):
    """All five tasks and one with repeats, two problems each, at 24 tokens; real problems where they are."""
    data, out = BENCHMARKS if BENCHMARKS.is_dir() else miniature, tmp_path_factory.mktemp("run")
    lm_eval_cli(
        tasks, "--model", "hf", "--model_args", f"pretrained={STUDENT.local},dtype=float32",
        "--tasks", "micota,micota_aime24_avg", "--device", "cpu", "--batch_size", "48", "--limit", "2",
        "--apply_chat_template", "--gen_kwargs", "max_gen_toks=24",
        "--metadata", json.dumps({"data_dir": str(data), "max_gen_toks": 24}),
        "--output_path", str(out / "lm_eval"), "--log_samples",
    )  # fmt: skip
    return data, out


@pytest.mark.slow
def test_lm_eval_runs_the_five_tasks_offline_from_a_folder(run):
    data, out = run
    scores = finish(out, TASKS, STUDENT, 24)
    assert list(scores) == TASKS and all(score["n"] == 2 for score in scores.values())
    problems, samples = read_jsonl(out / "problems.jsonl"), read_jsonl(out / "samples.jsonl")
    assert [set(row) for row in problems] == [{"task", "id", *METRICS}] * 10
    expected = [row["id"] for name in FIVE for row in rows_of(name, data)[:2]]
    assert [row["id"] for row in problems] == expected == [row["id"] for row in samples]
    for row in problems:
        assert 0 < row["response_tokens"] <= 24 and row["truncated"] == (row["response_tokens"] == 24)
    for row in samples:
        known = {"task", "id", "problem", "target", "legacy_rule", "response"}
        assert set(row) == known | {"extracted", "reason", "found_by"}
        assert isinstance(row["response"], str)
    first = lm_eval_samples(out / "lm_eval", "micota_math500")[0]
    prompt = first["arguments"]["gen_args_0"]["arg_0"]
    assert (
        Prompts.template.replace("{problem}", first["doc"]["problem"]) in prompt and "<|im_start|>" in prompt
    )
    (file,) = out.rglob("results_*.json")
    results = read_json(file)["results"]
    mean = sum(results[task]["response_tokens,none"] for task in TASKS) / 5
    assert results["micota"]["response_tokens,none"] == pytest.approx(mean)


@pytest.mark.slow
def test_what_lm_eval_grades_alone_is_what_a_step_grades_from_its_samples(run):
    _, out = run
    every = [*TASKS, "micota_aime24_avg"]
    finish(out, every, STUDENT, 24)
    samples = [sample for task in every for sample in lm_eval_samples(out / "lm_eval", task)]
    for sample, row in zip(samples, read_jsonl(out / "problems.jsonl"), strict=True):
        assert {name: sample[name] for name in METRICS} == {name: row[name] for name in METRICS}


@pytest.mark.slow
def test_a_task_with_repeats_averages_over_different_samples(run):
    _, out = run
    for sample in lm_eval_samples(out / "lm_eval", "micota_aime24_avg"):
        (responses,) = sample["filtered_resps"]
        assert len(responses) == 16 and len(set(responses)) > 1
        each = [response_metrics(sample["doc"], response) for response in responses]
        for name in METRICS:
            assert sample[name] == pytest.approx(sum(row[name] for row in each) / 16)
    (score,) = finish(out, ["micota_aime24_avg"], STUDENT, 24).values()
    assert score["n"] == 2 and 0 <= score["truncated"] <= 2
