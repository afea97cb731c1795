"""The second domain: letters in order, judged by a function of the recipe's own."""

import random
from pathlib import Path

import orders
import pytest
from conftest import ROOT
from problems import Mix, is_evaluation

from micota_lf import compile_plan, load_recipe
from micota_lf.grading.own import own_verdict
from micota_lf.run.step import run_step
from micota_lf.system.files import read_json, read_jsonl
from micota_lf.tiny import TINY_ROOT

RECIPE = ROOT / "recipes" / "orders.yaml"
kept = own_verdict(ROOT / "recipes" / "orders.py", "kept")
KINDS = [Mix(short=1.0), Mix(split=1.0), Mix(checked=1.0), Mix(reflecting=1.0)]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("so \\boxed{CABD}", True),
        ("so \\boxed{C, A, B, D}", True),
        ("\\boxed{ABCD} no, \\boxed{CADB}", True),
        ("so \\boxed{ACBD}", "breaks a rule"),
        ("so \\boxed{CAB}", "not each letter once"),
        ("so \\boxed{CABDD}", "not each letter once"),
        ("so \\boxed{CABE}", "not each letter once"),
        ("the order is CABD", "no box"),
        ("", "no box"),
    ],
)
def test_an_order_is_right_if_it_keeps_every_rule_and_else_the_verdict_says_why(response, said):
    assert kept({"prompt": "Rules: A<B, C<A, C<D. Which order?", "response": response}) == said


@pytest.mark.parametrize("mix", KINDS, ids=["short", "split", "checked", "reflecting"])
def test_every_chain_ends_in_an_order_that_keeps_the_rules(mix):
    rng = random.Random(5)
    problems = orders.sample_problems(rng, evaluation=False)
    redone = 0
    for problem in (next(problems) for _ in range(200)):
        chain = orders.write(problem, mix, rng)
        assert kept({"problem": problem, "response": chain}) is True
        assert ("Wait, " in chain) == (mix.reflecting > 0 and orders.breaks(orders.rules_of(problem)))
        assert not is_evaluation(problem)
        redone += "Wait, " in chain
    assert redone in ((0,) if not mix.reflecting else range(100, 180))


def test_the_shipped_problems_are_those_of_the_script_and_apart_from_training(tmp_path: Path):
    orders.write_data(tmp_path)
    sides = {}
    for name in orders.DATA_FILES:
        shipped = TINY_ROOT / "data" / "orders" / f"{name}.jsonl"
        assert shipped.read_bytes() == (tmp_path / f"{name}.jsonl").read_bytes()
        sides[name] = {row["problem"] for row in read_jsonl(shipped)}
    assert not sides["train"] & (sides["five"] | sides["six"])


@pytest.mark.long
def test_the_whole_method_runs_on_the_domain_with_its_own_verdict(tmp_path):
    words = ["prompts.limit=64", "evaluation.limit=16", "bpc.limit=8", "tables.table1=null"]
    plan = compile_plan(load_recipe(RECIPE, words))
    for made in plan.needed(["evaluate/student-s/MiCoTA", "filter/half"]):
        run_step(plan, made, tmp_path, quiet=True)
    corpus = read_jsonl(tmp_path / plan.steps[plan.slots["filter/micota"]].directory / "corpus.jsonl")
    assert corpus and all(kept(row) is True for row in corpus)
    rejected = read_jsonl(tmp_path / plan.steps[plan.slots["filter/half"]].directory / "rejected.jsonl")
    assert all(kept(row) is not True or row["finish_reason"] != "stop" for row in rejected)
    directory = tmp_path / plan.steps[plan.slots["evaluate/student-s/MiCoTA"]].directory
    scores, samples = read_json(directory / "scores.json"), read_jsonl(directory / "samples.jsonl")
    for task, score in scores.items():
        mine = [row for row in samples if row["task"] == task]
        assert score["n"] == 16 and score["own"] == sum(kept(row) is True for row in mine)
