"""The recipe's graph is general: no assistant, several, a chain of them, and corpora from a file."""

import json
from itertools import pairwise

import pytest
import yaml
from conftest import TINY

from micota_lf import RecipeError, compile_plan, load_recipe, merge_config
from micota_lf.inputs.chat import load_chat
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.lineage import training
from micota_lf.run.step import run_step
from micota_lf.system.files import read_json, read_jsonl

TRAIN = {"bf16": False, "use_cpu": True, "global_batch_size": 16, "learning_rate": 1.0e-3}
BASE = {
    "name": "mine",
    "prompts": {"path": "tiny:train", "limit": 20},
    "teachers": {"teacher": {"model": "tiny:teacher"}},
    "students": {"big": {"model": "tiny:assistant"}, "small": {"model": "tiny:student-s"}},
    "corpora": {"strong": {"from": "teacher"}},
    "methods": {"Instruct": None, "Strong": "strong"},
    "tables": {"table2": {"others": ["Instruct", "Strong"]}},
    "train": TRAIN,
    "evaluation": {"tasks": {"micota_tiny_two": "Two"}},
}


@pytest.fixture
def plan_of(tmp_path):
    """A function that compiles the base recipe with sections laid over it."""

    def compiled(**sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**BASE, **sections}))
        return compile_plan(load_recipe(path))

    return compiled


def edge(plan, slot, role):
    """The step that a step reads in a role."""
    return plan.steps[plan.slots[slot]].inputs[role].step


def test_a_rewritten_corpus_is_what_its_model_makes_of_anothers_rows(plan_of):
    corpora = {**BASE["corpora"], "again": {"from": "big", "rewrites": "strong"}}
    rows = {"table2": {"others": ["Instruct", "Again"]}}
    methods = {**BASE["methods"], "Again": "again"}
    plan = plan_of(corpora=corpora, methods=methods, tables=rows)
    made = plan.steps[plan.slots["rewrite/again"]]
    assert made.kind == "generate" and made.inputs["model"].ref == "tiny:assistant"
    assert edge(plan, "rewrite/again", "corpus") == plan.slots["filter/strong"]
    assert edge(plan, "filter/again", "responses") == made.id
    assert edge(plan, "train/small/again", "corpus") == plan.slots["filter/again"]
    for wrong, words in (
        ({"rewrites": "again"}, r"corpora.again: needs itself"),
        ({"rewrites": "strang"}, r"corpora.again.rewrites: unknown name 'strang'; did you mean"),
        ({"from": None, "mix": {"strong": 1}}, r"corpora.again.rewrites: needs `from`"),
        ({"template": "Shorter!"}, r"corpora.again.template: 'Shorter!' does not contain \{response\}"),
    ):
        with pytest.raises(RecipeError, match=words):
            plan_of(corpora={**corpora, "again": {**corpora["again"], **wrong}}, methods=methods, tables=rows)


def test_a_training_on_rewritten_responses_has_the_settings_for_those_who_wrote_the_first():
    corpora = {**BASE["corpora"], "again": {"from": "other", "rewrites": "strong"}}
    teachers = {**BASE["teachers"], "other": {"model": "tiny:assistant"}}
    student = {"model": "tiny:student-s", "train_for": {"teacher": {"learning_rate": 0.5}}}
    sections = {**BASE, "corpora": corpora, "teachers": teachers, "students": {"small": student}}
    assert training(load_recipe(sections), "small", "again").learning_rate == 0.5


def test_an_on_policy_corpus_is_distilled_from_the_model_that_it_names(plan_of):
    corpora = {**BASE["corpora"], "seen": {"from": "teacher", "on_policy": "big/strong"}}
    rows = {"table2": {"others": ["Instruct", "Seen"]}}
    plan = plan_of(corpora=corpora, methods={**BASE["methods"], "Seen": "seen"}, tables=rows)
    assert plan.steps[plan.slots["train/small/seen"]].kind == "distil"
    assert edge(plan, "train/small/seen", "teacher") == plan.slots["train/big/strong"]
    assert (
        edge(plan, "train/small/seen", "corpus") == plan.slots["filter/seen"] == plan.slots["filter/strong"]
    )
    with pytest.raises(RecipeError, match=r"corpora.seen: needs itself"):
        plan_of(corpora={**corpora, "seen": {"from": "teacher", "on_policy": "big/seen"}})
    with pytest.raises(RecipeError, match=r"corpora.seen.on_policy: unknown name 'biig'"):
        plan_of(corpora={**corpora, "seen": {"from": "teacher", "on_policy": "biig"}})
    with pytest.raises(RecipeError, match=r"train: on-policy distillation .* goes without packing"):
        plan_of(corpora=corpora, methods={"Seen": "seen"}, tables={}, train={**TRAIN, "packing": True})


def test_a_recipe_needs_no_assistant(plan_of):
    plan = plan_of()
    assert {step.kind for step in plan.steps.values()} >= {"generate", "filter", "train", "evaluate"}
    assert not any(step.kind == "merge" for step in plan.steps.values())
    assert plan.tables["table2"][:2] == ["overlap", "evaluate/teacher"]


def test_two_assistants_are_two_merges_of_one_training_or_of_two(plan_of):
    merges = {"light": {"from": "big/strong", "merge": {"weight": 0.3}}, "heavy": {"from": "big/strong"}}
    merges["other"] = {"from": "small/strong"}
    corpora = {**BASE["corpora"], **{name: {"from": name} for name in merges}}
    methods = {**BASE["methods"], **{name: name for name in merges}}
    rows = {"table2": {"others": list(methods)}}
    plan = plan_of(assistants=merges, corpora=corpora, methods=methods, tables=rows)
    assert len({plan.slots[f"merge/{name}"] for name in merges}) == 3
    assert edge(plan, "merge/light", "after") == edge(plan, "merge/heavy", "after")
    assert edge(plan, "merge/other", "after") == plan.slots["train/small/strong"]
    for name in merges:
        assert edge(plan, f"generate/{name}", "model") == plan.slots[f"merge/{name}"]


def test_a_chain_of_assistants_teaches_the_next_size(plan_of):
    """The big student trained on the first assistant's corpus is merged and teaches the small one."""
    plan = plan_of(
        assistants={"ta": {"from": "big/strong"}, "next": {"from": "big/micota"}},
        corpora={**BASE["corpora"], "micota": {"from": "ta"}, "second": {"from": "next"}},
        methods={**BASE["methods"], "Chain": "second"},
        tables={"table2": {"big": [], "small": ["Instruct", "Chain"]}},
    )
    line = [("train/small/second", "corpus"), ("filter/second", "responses"), ("generate/next", "model"),
            ("merge/next", "after"), ("train/big/micota", "corpus"), ("filter/micota", "responses"),
            ("generate/ta", "model"), ("merge/ta", "after"), ("train/big/strong", "corpus")]  # fmt: skip
    for (slot, role), (after, _) in pairwise(line):
        assert edge(plan, slot, role) == plan.slots[after]


def test_an_assistant_can_be_two_models_that_exist_already(plan_of):
    merged = {"ta": {"from": "teacher", "before": "big"}}
    corpora = {**BASE["corpora"], "micota": {"from": "ta"}}
    tables = {"table2": {"others": ["MiCoTA"]}}
    plan = plan_of(assistants=merged, corpora=corpora, methods={"MiCoTA": "micota"}, tables=tables)
    step = plan.steps[plan.slots["merge/ta"]]
    assert [step.inputs[role].ref for role in ("before", "after")] == ["tiny:assistant", "tiny:teacher"]
    assert "train/big/strong" not in plan.slots
    figures = [plan.slots[f"evaluate/ta/{state}"] for state in ("before", "tuned")]
    assert [plan.steps[made].inputs["model"].ref for made in figures] == ["tiny:assistant", "tiny:teacher"]
    assert plan.tables["table2"][1:3] == ["evaluate/teacher", "evaluate/ta"]
    for wrong, key in (({"before": "bigg"}, "before"), ({"before": None}, "from")):
        with pytest.raises(RecipeError, match=rf"assistants.ta.{key}: unknown name"):
            plan_of(assistants={"ta": {"from": "teacher", **wrong}})


def test_without_students_a_recipe_makes_its_corpora(plan_of):
    plan = plan_of(students={}, tables={}, evaluation={})
    assert {step.kind for step in plan.steps.values()} == {"preflight", "generate", "filter"}
    assert plan.needed(["filter/strong"])[-1] == plan.slots["filter/strong"]


def test_a_corpus_that_needs_its_own_assistant_is_a_circle(plan_of):
    with pytest.raises(RecipeError, match=r"corpora.loop: needs itself: loop <- loop"):
        plan_of(assistants={"ta": {"from": "big/loop"}}, corpora={**BASE["corpora"], "loop": {"from": "ta"}})


def test_responses_that_exist_already_are_filtered_like_generated_ones(plan_of, tmp_path):
    rows = [
        {"prompt": "What is 1+1?", "response": "So \\boxed{2}.", "answer": "2"},
        {"prompt": "What is 1+2?", "response": "So \\boxed{4}.", "answer": "3"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpora = {**BASE["corpora"], "mine": {"file": str(tmp_path / "mine.jsonl")}}
    plan = plan_of(corpora=corpora, methods={**BASE["methods"], "Mine": "mine"},
                   tables={"table2": {"others": ["Mine"]}})  # fmt: skip
    assert "generate/mine" not in plan.slots
    results = run_step(plan, plan.slots["filter/mine"], tmp_path / "runs")
    assert results["reasons"] == {"kept": 1, "wrong": 1}
    (corpus,) = (tmp_path / "runs").glob("filter/mine-*/corpus.jsonl")
    assert [json.loads(line)["response"] for line in corpus.open()] == [rows[0]["response"]]
    assert edge(plan, "train/small/mine", "corpus") == plan.slots["filter/mine"]


def test_a_rewritten_row_has_the_old_prompt_and_answer_and_what_the_model_made_of_both(plan_of, tmp_path):
    rows = [
        {
            "id": f"p{n}",
            "prompt": f"What is {n}+1?",
            "response": f"{n}+1={n + 1}. {{prompt}}",
            "answer": f"{n + 1}",
        }
        for n in range(3)
    ]  # a brace in a response is text
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = {
        "from": "big",
        "rewrites": "mine",
        "template": "{response} {prompt}",
        "filter": {"verdict": "none"},
    }
    corpora = {"mine": {"file": str(tmp_path / "mine.jsonl"), "filter": {"verdict": "none"}}, "again": again}
    plan = plan_of(corpora=corpora, methods={"Again": "again"}, tables={"table2": {"others": ["Again"]}},
                   generation={"max_tokens": 60, "dtype": "float32"},
                   filter={"keep_truncated": True})  # fmt: skip
    for step in plan.needed(["filter/again"])[1:]:
        run_step(plan, step, tmp_path / "runs")

    def written(slot, name):
        return tmp_path / "runs" / plan.steps[plan.slots[slot]].directory / name

    meta = read_json(written("rewrite/again", "responses.meta.json"))
    assert meta["context_len"] == 1024, "the model's positions: a prompt holds a response now"
    for column in ("prompt", "answer"):
        old = {row["id"]: row[column] for row in rows}
        assert {row["id"]: row[column] for row in read_jsonl(written("filter/again", "corpus.jsonl"))} == old
    shown = [f"{row['response']} {row['prompt']}" for row in rows]
    told = dict(zip(["p0", "p1", "p2"], load_chat(ModelRef("tiny:assistant")).counts(shown), strict=True))
    around = {
        row["prompt_tokens"] - told[row["id"]]
        for row in read_jsonl(written("rewrite/again", "responses.jsonl"))
    }
    assert len(around) == 1 and around.pop() > 0, "the chat template's tokens, around what the model is shown"


def test_an_assistants_config_is_asked_for_by_its_name():
    recipe = load_recipe(TINY)
    config = merge_config(recipe, "ta", before="/b", after="/a")
    assert config["base_model"] == "/b" and config["models"][0]["model"] == "/a"
    with pytest.raises(Exception, match=r"assistants: unknown name 'assistant'; known: ta"):
        merge_config(recipe, "assistant")
