"""Plans: what decides a step's identity, what does not, and what is shared."""

import json
import re
import shutil
from collections import Counter
from dataclasses import asdict

import pytest
from conftest import ROOT, TINY

from micota_lf import compile_plan, load_recipe
from micota_lf.inputs.references import ModelRef
from micota_lf.plan.plan import PLAN
from micota_lf.recipe.lineage import training
from micota_lf.run.snakemake import pending_steps


def plan_with(*overrides):
    return compile_plan(load_recipe(TINY, overrides))


@pytest.fixture(scope="module")
def base():
    return plan_with()


def documented(words):
    """The page of the documentation with a recipe that holds these words, on one line, and the recipe."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            if words in block:
                return " ".join(page.read_text().split()), block
    raise AssertionError(f"no page has a recipe with {words!r}")


def changed_slots(base, plan):
    return {slot for slot, made in plan.slots.items() if base.slots.get(slot) != made}


def test_the_plan_survives_its_file_and_every_step_comes_after_its_inputs(base):
    assert PLAN.validate_json(json.dumps(asdict(base))) == base
    seen = set()
    for step_id, step in base.steps.items():
        assert set(step.needs) <= seen
        seen.add(step_id)


def test_the_plan_is_the_papers_figure_1(base):
    def inputs(slot):
        names = {made: name for name, made in reversed(base.slots.items())}
        step = base.steps[base.slots[slot]]
        return {role: names.get(given.step, given.ref) for role, given in step.inputs.items()}

    assert inputs("filter/strong") == {"responses": "generate/teacher"}
    assert inputs("train/assistant/strong") == {"model": "tiny:assistant", "corpus": "filter/strong"}
    before_and_after = {"before": "tiny:assistant", "after": "train/assistant/strong"}
    assert inputs("merge/ta") == {**before_and_after, "prompts": "tiny:train"}
    assert inputs("generate/ta")["model"] == "merge/ta"
    assert inputs("train/student-s/micota") == {"model": "tiny:student-s", "corpus": "filter/micota"}
    assert inputs("train/student-s/half")["corpus"] == "filter/half"
    assert inputs("filter/half") == {"responses": "generate/assistant/strong"}
    assert inputs("mix/mix-long") == {"part0": "filter/strong", "part1": "filter/short"}


def test_gpu_count_changes_resources_but_no_step(base):
    plan = plan_with("hardware.gpus=8", "train.per_device_train_batch_size=2")
    assert set(plan.steps) == set(base.steps)
    train = plan.steps[plan.slots["train/student-s/micota"]]
    assert train.gpus == 8 and train.how["gradient_accumulation_steps"] == 1
    gpus = {step.kind: step.gpus for step in plan.steps.values()}
    none = dict.fromkeys(("preflight", "overlap", "filter", "mix"), 0)
    one = dict.fromkeys(("generate", "merge", "evaluate", "bpc"), 1)  # the merge asks its model for answers
    assert gpus == {**none, **one, "train": 8}


def test_one_students_learning_rate_changes_only_that_students_trainings(base):
    changed = changed_slots(base, plan_with("students.student-s.train.learning_rate=0.5"))
    assert changed and all("/student-s/" in slot and "Instruct" not in slot for slot in changed)


def test_the_merge_weight_leaves_teacher_and_half_size_steps_alone(base):
    changed = changed_slots(base, plan_with("assistants.ta.merge.weight=0.4"))
    assert not any("strong" in slot or "half" in slot or "short" in slot for slot in changed)


def test_equal_steps_of_two_recipes_are_one_directory(base, recipe_file):
    path = recipe_file(name="other", students={"student-m": None}, bpc={"models": []})
    other = compile_plan(load_recipe(path))
    shared = set(other.steps) & set(base.steps)
    assert len(shared) >= 15
    assert all(other.steps[one].directory == base.steps[one].directory for one in shared)


def test_the_documented_student_shares_every_step_of_teacher_and_assistant(base, tmp_path):
    path = tmp_path / "mine.yaml"
    block = documented("name: mine")[1].replace("extends: tiny.yaml", f"extends: {TINY}")
    path.write_text(block.replace("./models/my-model", "tiny:student-s"))
    plan = compile_plan(load_recipe(path))
    new = {slot for slot, made in plan.slots.items() if made not in base.steps}
    theirs = {s for s in plan.slots if "/mine" in s and "Instruct" not in s and "bpc" not in s}
    assert new == {"preflight", *theirs}
    assert training(load_recipe(path), "mine", "strong").num_train_epochs == 3


@pytest.mark.parametrize("swap", ["meta-llama/Llama-3.2-3B-Instruct", "Qwen/Qwen3-4B"])
def test_swapping_one_of_the_papers_students_changes_its_steps_alone_as_documented(tmp_path, swap):
    page, block = documented("name: qwen3")
    path, paper = tmp_path / "swapped.yaml", TINY.parent / "micota.yaml"
    path.write_text(block.replace("micota.yaml", str(paper)).replace("Qwen/Qwen3-4B", swap))
    before, after = compile_plan(load_recipe(paper)), compile_plan(load_recipe(path))
    new = {slot for slot, made in after.slots.items() if made not in before.steps}
    others = new - {"preflight", f"fetch/{swap}"}
    assert new - others == {"preflight", f"fetch/{swap}"}
    assert all(slot.split("/")[1] == "7b" for slot in others)
    kinds = Counter(slot.split("/")[0] for slot in others)
    assert kinds == {"train": 6, "evaluate": 7, "bpc": 1}
    kept = len(set(before.steps) & set(after.steps))
    assert f"Of the {len(after.steps)} steps of this recipe, {len(new)} are new" in page
    assert f"The other {kept} keep" in page


def test_renaming_a_corpus_changes_no_step(base, recipe_file):
    path = recipe_file(
        corpora={"micota": None, "mid": {"from": "ta"}},
        methods={**load_recipe(TINY).methods, "MiCoTA": "mid"},
        bpc={"corpora": ["strong", "half", "mix-long", "mid"]},
    )
    made = compile_plan(load_recipe(path)).steps
    assert set(base.steps) <= set(made)  # the rest: methods without `tables` hold for all students


def test_a_model_directory_is_known_by_its_content_not_its_path(tmp_path):
    for place in ("a", "b"):
        shutil.copytree(ModelRef("tiny:student-s").local, tmp_path / place / "student-s")
    plans = [plan_with(f"students.student-s.model={tmp_path}/{place}/student-s") for place in ("a", "b")]
    assert set(plans[0].steps) == set(plans[1].steps)
    config = tmp_path / "b" / "student-s" / "config.json"
    config.write_text(config.read_text() + " ")
    again = plan_with(f"students.student-s.model={tmp_path}/b/student-s")
    assert set(again.steps) != set(plans[1].steps)


def test_a_hub_model_is_known_by_id_and_revision():
    words = ["students.student-s.model=Qwen/Qwen2.5-1.5B-Instruct", "train.template=qwen"]
    plans = [plan_with(*words, f"students.student-s.revision={rev}") for rev in ("a", "b")]
    assert changed_slots(*plans) and "train/student-s/micota" in changed_slots(*plans)


def test_targets_are_slots_kinds_labels_or_ids_and_bring_what_they_need(base, tmp_path):
    pending = pending_steps(base, tmp_path, ["merge/ta"])
    kinds = [base.steps[step_id].kind for step_id in pending]
    assert kinds == ["preflight", "generate", "filter", "train", "merge"]
    assert len(base.select(["train/student-s"])) == 4
    assert len(base.select(["bpc"])) == 3
    assert base.select([base.slots["merge/ta"]]) == [base.slots["merge/ta"]]
