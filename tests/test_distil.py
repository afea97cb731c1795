"""On-policy distillation by TRL: what a step hands over, and what comes out of it."""

import json
import shutil
from dataclasses import fields

import pytest
import yaml
from conftest import TINY

from micota_lf import UserError, compile_plan, load_recipe
from micota_lf.run.step import run_step
from micota_lf.stages.distil import vocabulary_problem
from micota_lf.system.files import read_jsonl
from micota_lf.tiny import TINY_ROOT

WORDS = [
    "corpora.seen.from=teacher", "corpora.seen.on_policy=teacher", "methods={Seen: seen}", "tables=null",
    "assistants.ta=null", "corpora={half: null, micota: null}", "prompts.limit=32",
    "bpc={models: [], corpora: []}", "evaluation.limit=4", "generation.max_tokens=300",
]  # fmt: skip


def plan_of(*words):
    return compile_plan(load_recipe(TINY, [*WORDS, *words]))


def test_a_teacher_with_other_tokens_is_refused_before_anything_runs(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(TINY_ROOT / "models" / "teacher", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    plan = plan_of(f"teachers.teacher.model={other}")
    with pytest.raises(
        UserError, match=r"students.student-s and teachers.teacher: 2 tokens differ, such as '[ab]'"
    ):
        run_step(plan, plan.slots["preflight"], tmp_path / "runs", quiet=True)
    assert not vocabulary_problem({"a": 1}, {"a": 1})


@pytest.mark.long
def test_a_student_is_distilled_on_its_own_responses_and_comes_nearer_to_its_teacher(tmp_path):
    from trl.trainer.gkd_config import GKDConfig

    plan = plan_of("train.num_train_epochs=4", "train.logging_steps=1", "on_policy.beta=0")
    target = plan.slots["train/student-s/seen"]
    for made in plan.needed([target]):
        results = run_step(plan, made, tmp_path, quiet=True)
    directory = tmp_path / plan.steps[target].directory
    given = yaml.safe_load((directory / "distil.yaml").read_text())
    assert set(given["arguments"]) <= {field.name for field in fields(GKDConfig)}
    assert given["arguments"]["max_new_tokens"] == 300 and given["arguments"]["lmbda"] == 1.0
    rows = len(read_jsonl(directory / "conversations.jsonl"))
    assert results["steps"] == 4 * -(-rows // 16)
    log = read_jsonl(directory / "model" / "trainer_log.jsonl")
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == results["steps"] and sum(losses[-2:]) < sum(losses[:2])
    assert not list((directory / "model").glob("checkpoint-*"))
    assert run_step(plan, target, tmp_path, quiet=True) == results, "done, and not done again"
