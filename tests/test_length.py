"""A merge whose weight the run finds: its steps, its choice, and that responses have the wanted length."""

import json

import pytest
import yaml
from conftest import ROOT, TINY

from micota_lf import RecipeError, UserError, compile_plan, load_recipe, merge_config
from micota_lf.cli.main import main
from micota_lf.inputs.references import DataRef
from micota_lf.plan.costs import estimate
from micota_lf.reports.outcomes import Outcomes
from micota_lf.reports.tables import lengths_sheet
from micota_lf.stages import Context, sample
from micota_lf.stages.choose import chosen, measured
from micota_lf.system.files import read_jsonl

HALF = ROOT / "recipes" / "experiments" / "half-length.yaml"
PROBES = "assistants.ta.merge.probe_weights"


def plan_with(*words):
    return compile_plan(load_recipe(HALF, words))


def test_each_probe_is_a_merge_and_a_generation_and_the_merge_waits_for_the_choice():
    plan = plan_with(f"{PROBES}=[0.6,0.4,0.5,0.4]")

    def read(slot):
        step = plan.steps[plan.slots[slot]]
        return {role: plan.slots_of(given.step)[0] for role, given in step.inputs.items() if given.step}

    assert [slot for slot in plan.slots if slot.startswith("merge/ta/")] == [
        "merge/ta/0.4", "merge/ta/0.5", "merge/ta/0.6",
    ]  # fmt: skip
    tuned = "train/assistant/strong"
    assert read("generate/ta/0.5") == {"model": "merge/ta/0.5", "prompts": "sample/ta"}
    assert read("generate/ta/tuned") == {"model": tuned, "prompts": "sample/ta"}
    assert list(read("choose/ta").items()) == [
        (at, f"generate/ta/{at}") for at in ("tuned", "0.4", "0.5", "0.6")
    ]
    chosen = {"choice": "choose/ta", "tuned": "generate/ta/tuned", "prompts": "sample/ta"}
    assert read("merge/ta") == {"after": tuned, **chosen}
    assert plan.steps[plan.slots["merge/ta"]].config["merge"]["weight"] is None
    assert read("generate/ta") == {"model": "merge/ta"}  # to all prompts, as ever


def test_another_target_or_a_finer_grid_makes_no_known_probe_anew():
    before = plan_with()
    for word in ("assistants.ta.merge.target_length_ratio=0.6", f"{PROBES}=[0.4,0.45,0.5]"):
        after = plan_with(word)
        kept = [slot for slot in after.slots if slot.startswith(("merge/ta/", "generate/ta/", "sample/"))]
        new = {slot for slot in kept if after.slots[slot] not in before.steps}
        assert new == ({"merge/ta/0.45", "generate/ta/0.45"} if "0.45" in word else set())
        assert after.slots["choose/ta"] != before.slots["choose/ta"]
        assert after.slots["merge/ta"] != before.slots["merge/ta"]


def test_without_a_target_no_step_changes_and_a_weight_that_is_not_given_is_a_half():
    given = compile_plan(load_recipe(TINY, ["assistants.ta.merge.weight=0.5"]))
    assert compile_plan(load_recipe(TINY, ["assistants.ta.merge.weight=null"])).steps == given.steps
    assert "choose/ta" not in given.slots


def test_the_plan_counts_a_probe_with_its_own_prompts():
    recipe = load_recipe(
        HALF, ["assistants.ta.merge.probe_prompts=72", "estimates.default_response_tokens=9"]
    )
    plan = compile_plan(recipe)
    costs = estimate(plan, recipe)
    whole, probe = (
        costs[plan.slots[slot]].disk_gib for slot in ("generate/short-teacher", "generate/ta/0.4")
    )
    assert probe == pytest.approx(whole * 72 / 720)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (0.5, (0.45, True)),
        (0.4, (0.4, True)),
        (0.6, (0.5, True)),  # the first of two weights
        (0.8, (0.7, False)),
        (0.1, (0.3, False)),
    ],
)
def test_the_weight_lies_on_the_line_between_two_probes_or_at_the_nearest(target, found):
    assert chosen([(0.3, 0.2), (0.4, 0.4), (0.5, 0.6), (0.6, 0.5), (0.7, 0.7)], target) == found


def test_of_two_probes_equally_near_the_smaller_weight_is_taken():
    assert chosen([(0.2, 0.75), (0.3, 0.75)], 0.5) == (0.2, False)
    assert chosen([(0.4, 0.5)], 0.5)[0] == 0.4


def rows_of(lengths, **more):
    row = {"response": "\\boxed{7}", "answer": "7", "finish_reason": "stop", **more}
    return [{"id": str(n), "response_tokens": tokens, **row} for n, tokens in enumerate(lengths)]


def test_the_ratio_is_that_of_mean_lengths_with_an_interval_that_knows_the_prompts():
    tuned = rows_of([100, 200, 300, 400])
    half = measured(rows_of([50, 100, 150, 200]), tuned[::-1], "0.4")  # in any order
    assert half["ratio"] == half["ratio_low"] == half["ratio_high"] == 0.5  # the same share of each
    other = measured(rows_of([120, 80, 210, 90], finish_reason="length"), tuned, "0.4")
    assert other["ratio_low"] < other["ratio"] == 0.5 < other["ratio_high"]
    assert (other["mean"], other["cut"], other["n"], other["right"]) == (125, 1, 4, 1)
    assert "right" not in measured(rows_of([50, 60], answer=None), tuned, "0.4")


def test_prompts_are_held_out_where_there_are_enough(tmp_path):
    rows = [{"id": str(n), "problem": f"{n}?", "answer": str(n)} for n in range(10)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def drawn(number, seed=1, limit=6):
        config = {"prompts": {"limit": limit}, "number": number, "seed": seed}
        results = sample.run(Context(tmp_path, config, {"prompts": DataRef(str(tmp_path / "p.jsonl"))}, {}))
        return results["told"], [int(row["id"]) for row in read_jsonl(tmp_path / "prompts.jsonl")]

    told, found = drawn(3)
    assert min(found) >= 6 and told == "3 prompts of 4 beyond prompts.limit, held out of the corpora"
    assert drawn(3) == (told, found) and any(drawn(3, seed)[1] != found for seed in (2, 3))
    told, found = drawn(5)
    assert len(set(found)) == 5 and told == "5 prompts of 10 those of the corpora too"
    assert drawn(99, limit=None)[1] != sorted(drawn(99, limit=None)[1]) and len(drawn(99)[1]) == 10


def test_a_weight_and_a_target_together_are_refused(tmp_path, capsys):
    with pytest.raises(RecipeError) as caught:
        load_recipe(HALF, ["assistants.ta.merge.weight=0.4"])
    assert "assistants.ta.merge.weight: target_length_ratio finds it; one of the two must be null" in str(
        caught.value
    )
    with pytest.raises(UserError, match=r"target_length_ratio: only the run of a recipe finds the weight"):
        merge_config(load_recipe(HALF), "ta")
    words = ["--before", "tiny:assistant", "--after", "tiny:assistant", "-o", str(tmp_path / "out")]
    assert main(["merge", *words, "merge.target_length_ratio=0.5"]) == 2
    assert "only the run of a recipe finds the weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_run_finds_the_weight_and_reports_the_curve(tmp_path):
    words = [f"{PROBES}=[0.0,1.0]", "assistants.ta.merge.probe_prompts=24", "prompts.limit=160"]
    words += ["students.assistant.train.num_train_epochs=6", "students.assistant.train.learning_rate=1e-3"]
    command = ["run", str(HALF), "--workspace", str(tmp_path), "--target", "merge/ta", *words]
    assert main(command) == 0
    recipe = load_recipe(HALF, words)
    outcomes = Outcomes(recipe, compile_plan(recipe), tmp_path)
    before, after, tuned = outcomes.results("choose/ta")["curve"]
    assert (before["at"], after["at"], tuned["at"]) == ("0", "1", "fine-tuned")
    assert before["ratio"] < 0.5 < tuned["ratio"] == 1 and before["n"] == tuned["n"] == 24
    weight, merged = outcomes.results("choose/ta")["weight"], outcomes.results("merge/ta")
    assert 0 < weight < 1 and merged["weight"] == weight
    yaml_file = yaml.safe_load((outcomes.directory("merge/ta") / "merge.yaml").read_text())
    assert yaml_file["models"][0]["parameters"]["weight"] == weight
    (measured_one,) = merged["curve"]
    assert measured_one["mean"] == merged["health"]["mean_response_tokens"] and measured_one["n"] == 24
    sheet = lengths_sheet(outcomes)
    assert [line[1] for line in sheet.lines] == ["0", "1", "fine-tuned", f"{weight:g}, chosen"]
    assert "24 prompts of 1040 beyond prompts.limit, held out of the corpora" in sheet.note
    report = tmp_path / "reports" / "half-length" / "report.md"
    assert main(["report", str(HALF), "--workspace", str(tmp_path), *words]) == 0
    assert sheet.title in report.read_text() and f"{weight:g}, chosen" in report.read_text()
