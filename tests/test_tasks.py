"""lm-eval tasks rendered from benchmarks' entries, the user's own beside them, and steps that run them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from micota_lf import StepFailed, UserError, evaluate_command
from micota_lf.grading.measures import METRICS
from micota_lf.inputs.problems import Benchmark, Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Bpc, Evaluation, Hardware, Recipe
from micota_lf.recipe.tasks import chosen_tasks, evaluated_benchmarks, known_tasks, package_benchmarks
from micota_lf.stages import Context, bpc, evaluate
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

STUDENT = ModelRef(ModelRef("tiny:student-s").resolved)
PAPER = ["micota_aime24", "micota_amc23", "micota_olympiadbench", "micota_math500", "micota_gsm8k"]
OWN = """task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
process_results: !function helpers.nothing
generation_kwargs: {until: []}
metric_list: [{metric: mine, aggregation: mean, higher_is_better: true}]
"""


def spec_of(*tasks, **values):
    return Evaluation(tasks=dict.fromkeys(tasks, ""), **values)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "micota_lf"


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    write_jsonl(folder / "rows.jsonl", [{"question": f"What is 1+{n}?", "gold": str(n + 1)} for n in (1, 2)])
    (folder / "mine.yaml").write_text(OWN.replace("ROWS", str(folder / "rows.jsonl")))
    (folder / "helpers.py").write_text("def nothing(doc, results):\n    raise SystemExit('asked to grade')\n")
    return folder


def test_an_entry_is_a_task_and_a_sampling_one_and_a_file_of_them_a_group():
    assert list(chosen_tasks(spec_of("micota"))) == PAPER
    assert list(chosen_tasks(spec_of("micota_tiny", "micota_tiny_two"))) == [
        "micota_tiny_two",
        "micota_tiny_three",
    ]
    names = {f"micota_{name.replace('-', '')}" for name in package_benchmarks()}
    assert set(known_tasks(Evaluation())) == names | {f"{name}_avg" for name in names} | {
        "micota",
        "micota_tiny",
    }
    spec = spec_of("micota_my10_avg", benchmarks={"my-10": Benchmark("tiny:two")})
    assert evaluated_benchmarks(spec) == {"my-10": Benchmark("tiny:two")}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (spec_of("micota_gsm9k"), "tasks: unknown name 'micota_gsm9k'; did you mean 'micota_gsm8k'"),
        (spec_of("gsm8k"), "tasks: unknown name 'gsm8k'; "),
        (spec_of("micota_tiny", include_path="./none"), r"^include_path: no such directory: \./none$"),
        (spec_of("micota_x", benchmarks={"x": Benchmark("./no.jsonl")}), "benchmark 'x': no such file"),
    ],
)
def test_a_task_or_benchmark_that_cannot_be_is_one_line_naming_it(spec, words):
    with pytest.raises(UserError, match=words) as caught:
        evaluated_benchmarks(spec)
    assert "\n" not in str(caught.value)


def test_a_task_file_whose_include_is_not_beside_it_is_refused_as_lm_eval_would_skip_it(own):
    (own / "other.yaml").write_text("include: _math.yaml\ntask: other\n")
    with pytest.raises(
        UserError, match=r"include_path: .*other.yaml: include: no such file beside it: _math"
    ):
        chosen_tasks(spec_of("other", include_path=str(own)))
    (own / "_math.yaml").write_text("dataset_path: x\n")
    assert list(chosen_tasks(spec_of("other", include_path=str(own)))) == ["other"]


def test_own_tasks_stand_beside_the_packages_or_in_their_place(own):
    (own / "two.yaml").write_text("task: micota_tiny_two\nmetadata: {benchmark: tiny_three}\n")
    (own / "all.yaml").write_text(
        "group: all\ntask: [mine, {task: micota_tiny_two, num_fewshot: 0}, micota_amc23]\n"
    )
    spec = spec_of("all", "micota_tiny", include_path=str(own))
    assert list(chosen_tasks(spec)) == ["mine", "micota_tiny_two", "micota_amc23", "micota_tiny_three"]
    assert list(evaluated_benchmarks(spec)) == ["tiny_three", "amc23"]
    (own / "all.yaml").write_text("group: all\ntask: [mine, mime]\n")
    with pytest.raises(UserError, match=r"tasks: unknown name 'mime'; did you mean 'mine'"):
        chosen_tasks(spec)
    (own / "all.yaml").write_text("group: [all\n")
    with pytest.raises(UserError, match=r"all\.yaml: not valid YAML"):
        chosen_tasks(spec)


def recipe_of(spec, **sections):
    return Recipe(name="one", prompts=Prompts("tiny:train"), evaluation=spec, **sections)


def config_of(stage, recipe):
    return stage.settings(recipe).config


def test_what_an_evaluation_runs_on_decides_it_and_where_and_how_does_not(own, tmp_path):
    spec = spec_of("mine", "micota_tiny_two", include_path=str(own), dtype="float32")
    base = config_of(evaluate, recipe_of(spec))
    assert base["evaluation"] == {
        "max_gen_toks": 16384, "limit": None, "dtype": "float32", "seed": 1234, "backend": "transformers",
        "samples": 16, "temperature": 0.6,
    }  # fmt: skip
    assert base["tasks"] == ["mine", "micota_tiny_two"] and str(tmp_path) not in json.dumps(base)
    moved = own.rename(tmp_path / "moved")
    spec = replace(spec, include_path=str(moved))
    for same in (
        {"batch_size": 1},
        {"verdict": "legacy"},
        {"overlap_words": None},
        {"tasks": {**spec.tasks, "mine": "M"}},
    ):
        assert config_of(evaluate, recipe_of(replace(spec, **same))) == base, same
    for other in ({"limit": 1}, {"backend": "vllm"}, {"seed": 1}, {"max_gen_toks": 8}):
        assert config_of(evaluate, recipe_of(replace(spec, **other))) != base, other
    (moved / "helpers.py").write_text("changed = 1\n")
    assert config_of(evaluate, recipe_of(spec)) != base
    assert config_of(evaluate, recipe_of(spec_of("micota_tiny_two")))["own_tasks"] == []


def test_the_tasks_folder_is_known_by_content_and_lm_eval_reads_every_task_in_it(cache):
    from lm_eval.tasks import TaskManager

    folder = evaluate.tasks_folder()
    assert folder.parent == cache and evaluate.tasks_folder() == folder
    assert set(known_tasks(Evaluation())) <= set(
        TaskManager(include_path=str(folder), include_defaults=False).all_tasks
    )
    spec = spec_of("micota_mine", benchmarks={"mine": Benchmark("tiny:two")})
    assert evaluate.tasks_folder(spec) != folder
    metadata = {"benchmarks": {"mine": {"path": "tiny:two"}}, "pretrained": STUDENT.ref, "max_gen_toks": 12}
    manager = TaskManager(None, str(evaluate.tasks_folder(spec)), False, metadata)
    (task,) = manager.load(["micota_mine"])["tasks"].values()
    doc = task.test_docs()[0]
    assert set(task.process_results(doc, ["wait"])) == set(METRICS) == set(task.aggregation())
    tiny = TaskManager(include_path=str(folder), include_defaults=False).load(
        ["micota_tiny", "micota_tiny_two_avg"]
    )
    means = tiny["groups"]["micota_tiny"].aggregate_metric_list
    assert [(one.metric, one.weight_by_size) for one in means] == [(name, False) for name in METRICS]
    sampling = tiny["tasks"]["micota_tiny_two_avg"].config
    assert sampling.repeats == 16 and sampling.generation_kwargs["temperature"] == 0.6
    assert sampling.generation_kwargs["max_gen_toks"] == Evaluation.max_gen_toks
    other = known_tasks(Evaluation(samples=4, temperature=1.0))["micota_tiny_two_avg"]
    assert (other["repeats"], other["generation_kwargs"]["temperature"]) == (4, 1.0)
    assert other["filter_list"][0]["filter"][0]["k"] == 4


def test_the_command_by_hand_grades_and_finds_the_recipes_own_benchmark(cache):
    spec = spec_of("micota_mine", benchmarks={"mine": Benchmark("tiny:two")})
    recipe = recipe_of(spec, hardware=Hardware(gpus=8, inference_gpus=2))
    command = evaluate_command(recipe, "/models/a,b", "/out")
    folder = command[command.index("--include_path") + 1]
    raw = yaml.safe_load(Path(folder, "micota_mine.yaml").read_text())
    assert raw["metadata"]["benchmark"] == "mine" and "--predict_only" not in command
    model = json.loads(command[command.index("--model_args") + 1])
    assert model["pretrained"] == "/models/a,b" and model["parallelize"]
    assert json.loads(command[command.index("--metadata") + 1])["benchmarks"] == {
        "mine": {"path": "tiny:two"}
    }


@pytest.mark.slow
def test_a_step_grades_what_lm_eval_asked_own_tasks_and_repeats_too(own, tmp_path):
    spec = spec_of(
        "mine", "micota_few", "micota_few_avg", include_path=str(own),
        benchmarks={"few": Benchmark("tiny:two")}, dtype="float32", limit=2, max_gen_toks=24, batch_size=48,
    )  # fmt: skip
    recipe, directory = recipe_of(spec), tmp_path / "step"
    directory.mkdir()
    stale = directory / "lm_eval" / "m" / "samples_mine_2020-01-01.jsonl"
    write_jsonl(stale, [{"doc_id": 0}])
    made = evaluate.settings(recipe)
    step = Context(directory, made.config, {"model": STUDENT}, made.how)
    scores = evaluate.STAGE.run(step)
    assert list(scores) == ["mine", "micota_few", "micota_few_avg"] and not stale.exists()
    assert scores == read_json(directory / "scores.json") and all(one["n"] == 2 for one in scores.values())
    samples, problems = (read_jsonl(directory / f"{name}.jsonl") for name in ("samples", "problems"))
    assert [row["target"] for row in samples[:2]] == ["2", "3"]
    assert [len(row["response"]) for row in samples[4:]] == [16, 16]
    assert [(row["task"], row["id"]) for row in samples] == [(row["task"], row["id"]) for row in problems]
    assert all(set(row) == {"task", "id", *METRICS} for row in problems[:4])
    assert all(set(row) == {"task", "id", *METRICS, "responses", "majority"} for row in problems[4:])
    found = scores["micota_few_avg"]["sampled"]["symbolic"]
    assert list(found) == [f"pass@{k}" for k in (1, 2, 4, 8, 16)] + ["maj@16"]
    assert found["pass@1"]["mean"] == scores["micota_few_avg"]["symbolic"] / 2
    assert "sampled" not in scores["micota_few"]
    numerics = read_json(directory / "numerics.json")
    assert numerics["dtype"] == "float32" and numerics["torch"] and numerics["batch_size"] == 48
    (directory / "log.txt").write_text(
        "Running generate_until requests:  50%|##  | 200/400 [00:09<00:09, 22it/s]"
    )
    assert evaluate.progress(directory) == "200/400 requests"
    with pytest.raises(StepFailed, match="left no samples of micota_fe in "):
        evaluate.finish(directory, ["micota_fe"], STUDENT, 24)


def test_samples_that_cannot_be_graded_are_a_failed_step_and_no_bad_input(tmp_path, monkeypatch):
    recipe = recipe_of(spec_of("micota_tiny_two"))
    made = evaluate.settings(recipe)
    step = Context(tmp_path, made.config, {"model": STUDENT}, made.how)

    def asked(step, *more, **vllm):
        sample = {"doc_id": 0, "doc": {"answer": "1"}, "filtered_resps": [[-0.5, False]]}
        write_jsonl(step.directory / "lm_eval" / "m" / "samples_micota_tiny_two_2026-01-01.jsonl", [sample])
        (step.directory / "log.txt").touch()

    monkeypatch.setattr(evaluate, "ask", asked)
    with pytest.raises(StepFailed, match=r"cannot be graded: .*row 1: the response is a float, not text"):
        evaluate.STAGE.run(step)


def test_a_model_without_a_tokenizer_is_refused_before_anything_runs(tmp_path):
    config, how, _ = evaluate.settings(recipe_of(Evaluation(tasks={"micota_tiny_two": "Two-step"})))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        evaluate.STAGE.run(Context(tmp_path, config, {"model": ModelRef(str(tmp_path))}, how))


@pytest.mark.slow
def test_a_step_scores_all_corpora_and_leaves_out_empty_responses(tmp_path):
    texts = ["So 12 + 30 = 42.", ""]
    write_jsonl(
        tmp_path / "c.jsonl", [{"id": str(n), "prompt": "?", "response": t} for n, t in enumerate(texts)]
    )
    recipe = recipe_of(Evaluation(dtype="float32"), bpc=Bpc(log_base="2", unit="bytes"))
    corpora = {f"corpus{n}": ModelRef(str(tmp_path / "c.jsonl")) for n in range(2)}
    made = bpc.settings(recipe)
    step = Context(tmp_path / "step", made.config, {"model": STUDENT, **corpora}, made.how)
    step.directory.mkdir()
    found = bpc.STAGE.run(step)
    assert list(found) == ["corpus0", "corpus1"] and found["corpus0"] == found["corpus1"]
    assert found["corpus0"]["n"] == 1 and found["corpus0"]["unit"] == "bits per byte"
    assert [row["id"] for row in read_jsonl(step.directory / "texts.jsonl")] == ["0", "0"]
    assert 0 < found["corpus0"]["mean"] < 20 and found == read_json(step.directory / "bpc.json")


def test_a_bpc_step_is_decided_by_its_measure_and_its_engine():
    base = config_of(bpc, recipe_of(Evaluation(), bpc=Bpc(models=["a"], corpora=["b"])))
    assert base == config_of(bpc, recipe_of(Evaluation(batch_size=1, max_gen_toks=9)))
    for spec, measure in ((Evaluation(dtype="float32"), Bpc()), (Evaluation(), Bpc(unit="bytes"))):
        assert config_of(bpc, recipe_of(spec, bpc=measure)) != base
