"""Plans: what decides a step's identity, what does not, and what is shared."""

import json
import re
from collections import Counter

import pytest
from conftest import TINY

from micota_lf import compile_plan, load_recipe
from micota_lf.plan.compile import dependencies, step_directory
from micota_lf.recipe.lineage import training
from micota_lf.run.snakemake import pending_steps, select


def plan_with(*overrides):
    return compile_plan(load_recipe(TINY, overrides))


@pytest.fixture(scope="module")
def base():
    return plan_with()


def base_methods():
    return dict(load_recipe(TINY).methods)


def changed_slots(base, plan):
    return {slot for slot, made in plan["slots"].items() if base["slots"].get(slot) != made}


def test_the_plan_is_plain_data_and_every_step_comes_after_its_inputs(base):
    assert json.loads(json.dumps(base)) == base
    seen = set()
    for step_id, step in base["steps"].items():
        assert set(dependencies(step)) <= seen
        seen.add(step_id)


def test_the_plan_is_the_papers_figure_1(base):
    def inputs(slot):
        names = {made: name for name, made in reversed(base["slots"].items())}
        step = base["steps"][base["slots"][slot]]
        return {
            role: names.get(given.get("step"), given.get("ref")) for role, given in step["inputs"].items()
        }

    # Table 1's student of the assistant's size is, on the same corpus, the assistant.
    same = base["slots"]["train/assistant-size/strong"]
    assert base["slots"]["train/assistant-sft/strong"] == same
    assert inputs("filter/strong") == {"responses": "generate/teacher"}
    assert inputs("train/assistant-sft/strong") == {"model": "tiny:assistant", "corpus": "filter/strong"}
    before_and_after = {"before": "tiny:assistant", "after": "train/assistant-sft/strong"}
    assert inputs("merge/assistant") == {**before_and_after, "prompts": "tiny:train"}
    assert inputs("generate/assistant-merged")["model"] == "merge/assistant"
    assert inputs("train/student-s/micota") == {"model": "tiny:student-s", "corpus": "filter/micota"}
    assert inputs("train/student-s/half")["corpus"] == "filter/half"
    assert inputs("mix/mix-long") == {"part0": "filter/strong", "part1": "filter/short"}


@pytest.mark.parametrize(
    "override",
    [
        "hardware.cores=16",
        "hardware.train_gpus=0",
        "train.per_device_train_batch_size=4",
        "train.logging_steps=1",
        "train.save_strategy=steps",
        "generation.batch_size=7",
        "evaluation.batch_size=3",
        "evaluation.verdict=legacy",
        "engines.mergekit=conda run -n mk mergekit-yaml",
        "name=other",
    ],
)
def test_how_a_run_is_done_changes_no_step(base, override):
    assert set(plan_with(override)["steps"]) == set(base["steps"])


def test_gpu_count_changes_resources_but_no_step(base):
    words = ["hardware.gpus=8", "train.per_device_train_batch_size=2"]
    plan = plan_with(*words)
    assert set(plan["steps"]) == set(base["steps"])
    train = plan["steps"][plan["slots"]["train/student-s/micota"]]
    assert train["how"]["gpus"] == 8 and train["how"]["train"]["gradient_accumulation_steps"] == 1
    gpus = {step["kind"]: step["how"]["gpus"] for step in plan["steps"].values()}
    none, one = (
        dict.fromkeys(("preflight", "overlap", "filter", "mix"), 0),
        ("generate", "merge", "evaluate", "bpc"),
    )
    assert gpus == {**none, **dict.fromkeys(one, 1), "train": 8}  # the merge asks its model for answers


@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("students.student-s.train.learning_rate=0.5", {"train", "evaluate"}),
        ("evaluation.max_gen_toks=64", {"preflight", "evaluate"}),
        ("train.template=qwen3", {"preflight", "train", "merge", "generate", "filter", "evaluate", "bpc"}),
        ("bpc.limit=7", {"bpc"}),
        ("bpc.log_base='2'", {"bpc"}),
        ("corpora.mix-long.seed=1", {"mix", "train", "evaluate", "bpc"}),
        ("assistant.merge.weight=0.4", {"merge", "generate", "filter", "train", "evaluate", "bpc"}),
        ("filter.verdict=legacy", {"filter", "mix", "train", "merge", "generate", "evaluate", "bpc"}),
    ],
)
def test_a_result_deciding_value_changes_its_steps_and_those_after_them(base, override, kinds):
    changed = changed_slots(base, plan_with(override))
    assert {slot.split("/")[0] for slot in changed} == kinds


def test_one_students_learning_rate_changes_only_that_students_trainings(base):
    changed = changed_slots(base, plan_with("students.student-s.train.learning_rate=0.5"))
    assert changed and all("/student-s/" in slot and "Instruct" not in slot for slot in changed)


def test_the_merge_weight_leaves_teacher_and_half_size_steps_alone(base):
    changed = changed_slots(base, plan_with("assistant.merge.weight=0.4"))
    assert not any("strong" in slot or "half" in slot or "short" in slot for slot in changed)


def test_equal_steps_of_two_recipes_are_one_directory(base, recipe_file):
    other = compile_plan(
        load_recipe(recipe_file(name="other", students={"student-m": None}, bpc={"models": []}))
    )
    shared = set(other["steps"]) & set(base["steps"])
    assert len(shared) >= 15
    assert {step_directory(other["steps"][s]) for s in shared} == {
        step_directory(base["steps"][s]) for s in shared
    }


def test_the_readmes_swapped_student_shares_every_step_of_teacher_and_assistant(base, tmp_path):
    readme = (TINY.parent.parent / "README.md").read_text()
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "mine:" in b)
    path = tmp_path / "mine.yaml"
    path.write_text(
        block.replace("extends: tiny.yaml", f"extends: {TINY}").replace("./models/my-model", "tiny:student-s")
    )
    plan = compile_plan(load_recipe(path))
    new = {slot for slot, made in plan["slots"].items() if made not in base["steps"]}
    theirs = {s for s in plan["slots"] if "/mine" in s and "Instruct" not in s and "bpc" not in s}
    assert new == {"preflight", *theirs}
    assert training(load_recipe(path), "mine", "strong").num_train_epochs == 3


@pytest.mark.parametrize("swap", ["meta-llama/Llama-3.2-3B-Instruct", "Qwen/Qwen3-4B"])
def test_swapping_one_of_the_papers_students_changes_its_steps_alone_as_the_readme_says(tmp_path, swap):
    readme = (TINY.parent.parent / "README.md").read_text()
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "name: qwen3" in b)
    path, paper = tmp_path / "llama.yaml", TINY.parent / "micota.yaml"
    path.write_text(block.replace("micota.yaml", str(paper)).replace("Qwen/Qwen3-4B", swap))
    before, after = compile_plan(load_recipe(paper)), compile_plan(load_recipe(path))
    new = {slot for slot, made in after["slots"].items() if made not in before["steps"]}
    assert new >= {"preflight"} and all(slot.split("/")[1] == "7b" for slot in new - {"preflight"})
    kinds = Counter(slot.split("/")[0] for slot in new)
    assert kinds == {"preflight": 1, "train": 6, "evaluate": 7, "bpc": 1}
    kept = len(set(before["steps"]) & set(after["steps"]))
    words = f"Of the {len(after['steps'])} steps of `micota plan recipes/qwen3.yaml`, {len(new)} are new"
    assert words in readme and f"The other {kept} keep" in readme


def test_renaming_a_corpus_changes_no_training(base, recipe_file):
    path = recipe_file(
        corpora={"micota": None, "mid": {"from": "assistant-merged"}},
        methods={**base_methods(), "MiCoTA": "mid"},
        bpc={"corpora": ["strong", "half", "mix-long", "mid"]},
    )
    made = compile_plan(load_recipe(path))["steps"]
    assert set(base["steps"]) <= set(made)  # the rest: methods without `tables` hold for all students


def test_a_model_directory_is_known_by_its_content_not_its_path(tmp_path):
    from micota_lf.inputs.references import local_path

    source = local_path("tiny:student-s")
    for place in ("a", "b"):
        copy = tmp_path / place / "student-s"
        copy.mkdir(parents=True)
        for file in source.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    plans = [plan_with(f"students.student-s.model={tmp_path}/{place}/student-s") for place in ("a", "b")]
    assert set(plans[0]["steps"]) == set(plans[1]["steps"])
    config = tmp_path / "b" / "student-s" / "config.json"
    config.write_text(config.read_text() + " ")
    again = plan_with(f"students.student-s.model={tmp_path}/b/student-s")
    assert set(again["steps"]) != set(plans[1]["steps"])


def test_a_hub_model_is_known_by_id_and_revision():
    words = ["students.student-s.model=Qwen/Qwen2.5-1.5B-Instruct", "train.template=qwen"]
    plans = [plan_with(*words, f"students.student-s.revision={rev}") for rev in ("a", "b")]
    assert changed_slots(*plans) and "train/student-s/micota" in changed_slots(*plans)


def test_targets_are_slots_kinds_labels_or_ids_and_bring_what_they_need(base, tmp_path):
    pending = pending_steps(base, tmp_path, ["merge/assistant"])
    kinds = [base["steps"][step_id]["kind"] for step_id in pending]
    assert kinds == ["preflight", "generate", "filter", "train", "merge"]
    assert len(select(base, ["train/student-s"])) == 4
    assert len(select(base, ["bpc"])) == 3
    assert select(base, [base["slots"]["merge/assistant"]]) == [base["slots"]["merge/assistant"]]
