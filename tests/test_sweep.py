"""Variants of a recipe: one plan of them all, every seed set, and results over seeds and values."""

import csv
import re
from dataclasses import fields, is_dataclass
from xml.etree import ElementTree

import pytest
import scipy.stats
import yaml
from conftest import TINY
from test_tables import Bench

from micota_lf import RecipeError, compile_plan, load_recipe, sweep
from micota_lf.cli.main import main
from micota_lf.plan.sweep import union
from micota_lf.recipe.sections import MERGE_METHODS, NAMES
from micota_lf.reports.write import write_report
from micota_lf.system.files import write_json

WEIGHT = "assistants.ta.merge.weight"


def seeds_of(node):
    """Every value of a field, or of a mapping's key, that is called `seed`."""
    pairs = node.items() if isinstance(node, dict) else ()
    if is_dataclass(node):
        pairs = [(one.name, getattr(node, one.name)) for one in fields(node)]
    return [found for key, value in pairs for found in ([value] if key == "seed" else seeds_of(value))]


def test_a_plan_of_variants_has_each_step_of_theirs_once_and_no_other():
    swept = sweep(TINY, {WEIGHT: [0.3, 0.5]}, seeds=[1, 2])
    assert list(swept.variants) == [
        "weight=0.3,seed=1",
        "weight=0.3,seed=2",
        "weight=0.5,seed=1",
        "weight=0.5,seed=2",
    ]
    alone = [
        compile_plan(load_recipe(TINY, [f"{WEIGHT}={w}", f"seed={s}"])) for w in (0.3, 0.5) for s in (1, 2)
    ]
    assert swept.plan.steps.keys() == {key for plan in alone for key in plan.steps}
    assert [variant.plan for variant in swept.variants.values()] == alone
    places = {key: n for n, key in enumerate(swept.plan.steps)}
    assert all(places[need] < places[key] for key, step in swept.plan.steps.items() for need in step.needs)


def test_variants_share_all_that_the_swept_value_does_not_touch():
    one, swept = compile_plan(load_recipe(TINY)), sweep(TINY, {WEIGHT: [0.3, 0.5]})
    # Merged, generated, filtered, two students trained and evaluated, the merged model evaluated.
    kinds = [step.kind for key, step in swept.plan.steps.items() if key not in one.steps]
    assert sorted(kinds) == sorted(
        ["merge", "generate", "filter", *["train", "evaluate"] * 2, "evaluate", *["bpc"] * 3]
    )
    assert "train/student-s/strong" in swept.plan.slots
    assert swept.plan.select(["train/student-s/micota"]) == [
        swept.plan.slots[f"train/student-s/micota/weight={weight}"] for weight in (0.3, 0.5)
    ]


def test_what_is_greedy_is_shared_by_the_seeds_and_all_else_has_its_own():
    swept = sweep(TINY, seeds=[1, 2])
    shared = {slot.split("/")[0] for slot in swept.plan.slots if "seed=" not in slot}
    assert shared == {"preflight", "overlap", "generate", "filter", "evaluate"}
    assert {"generate/teacher", "filter/strong", "evaluate/student-s/Instruct"} <= swept.plan.slots.keys()
    assert "train/student-s/strong/seed=1" in swept.plan.slots


def test_a_merge_that_drops_nothing_at_random_is_shared_by_its_seeds():
    def merges(method):
        words = [f"merge_method={method}", "preset=pretrained", "pretrained_model=tiny:assistant"]
        words = [f"assistants.ta.merge.{word}" for word in words]
        swept = sweep(TINY, {"assistants.ta.merge.seed": [1, 2]}, overrides=words)
        return {step.config["merge"]["seed"] for step in swept.plan.steps.values() if step.kind == "merge"}

    found = {method: merges(method) for method in MERGE_METHODS}
    assert {method for method, seeds in found.items() if seeds == {1, 2}} == {
        "dare_ties",
        "dare_linear",
        "della",
    }
    assert {method for method, seeds in found.items() if seeds == {0}} == found.keys() - set(
        NAMES["random_merges"]
    )


def test_a_seed_is_every_seed_of_the_recipe():
    changed = ["students.student-s.train.seed=3", "students.student-m.train_for.strong.seed=3"]
    found = seeds_of(load_recipe(TINY, ["seed=7", *changed]))
    assert len(found) > 8 and set(found) == {7}
    assert set(seeds_of(load_recipe(TINY, changed))) == {None, 0, 3, 42, 1234}


def test_a_recipe_file_may_hold_variants_and_name_the_seed_elsewhere(tmp_path):
    recipe = {
        "extends": str(TINY), "name": "mine", "seeds": [3, 4], "seed": 1,  # of which there is no file
        "variants": {
            "train.learning_rate": [1e-3, 2e-3], "students": {"student-s": {"train": {"max_steps": [3]}}},
        },
        "prompts": {"path": "${oc.env:HERE}/${seed}.jsonl"},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for seed in (3, 4):
        (tmp_path / f"{seed}.jsonl").write_text(f'{{"problem": "{seed}?", "answer": "1"}}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERE", str(tmp_path))
        variants = sweep(tmp_path / "mine.yaml").variants
    assert list(variants) == [
        f"learning_rate={r},max_steps=3,seed={s}" for r in (0.001, 0.002) for s in (3, 4)
    ]
    for variant in variants.values():
        made = variant.recipe
        assert made.prompts.path == f"{tmp_path}/{variant.values['seed']}.jsonl"
        assert made.train.learning_rate == variant.values["train.learning_rate"]
        assert made.students["student-s"].train == {"max_steps": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["variants.prompts.limitt=[1,2]"], "variants: prompts.limitt: unknown key; did you mean"),
        (["variants.generation.max_tokens=[9,0]"], "variants: generation.max_tokens: 0 must be above 0"),
        (["variants.train.learning_rate=3"], "command line: variants.train.learning_rate: 3 "),
        (["variants.train.learning_rate=[]"], "command line: variants.train.learning_rate: [] "),
        (["seeds=[1,-2]"], "command line: seeds.1: -2 must be 0 or more"),
    ],
)  # fmt: skip
def test_variants_that_cannot_be_are_one_line_each(words, said):
    with pytest.raises(RecipeError) as error:
        sweep(TINY, overrides=words)
    (line,) = str(error.value).splitlines()
    assert line.startswith(said)


def test_the_command_sweeps_words_with_several_values_and_takes_the_others_as_they_are(tmp_path, capsys):
    words = [f"{WEIGHT}=0.3,0.5", "seed=1,2", "prompts.limit=8", "engines.llamafactory=not-there"]
    assert main(["sweep", str(TINY), "--workspace", str(tmp_path), *words]) == 2
    assert "not-there" in capsys.readouterr().err
    plan = ["plan", str(TINY), f"variants.{WEIGHT}=[0.3,0.5]", "seeds=[1,2]", "prompts.limit=8"]
    assert main([*plan, "--workspace", str(tmp_path), "--target", "merge"]) == 0
    shown = capsys.readouterr().out
    assert len(set(re.findall(r"merge/ta/weight=0\.\d,seed=\d", shown))) == 4


@pytest.mark.slow
def test_a_preflight_looks_at_each_variant(capsys):
    assert main(["preflight", str(TINY), "variants.prompts.limit=[5,6]"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in said if line.startswith("prompts: ")] == ["prompts: 5", "prompts: 6"]
    assert said[-1] == "no problems" and len(said) == len(set(said))


def finish_all(workspace, results):
    """Finish, by variant, the evaluations of student-s: MiCoTA and Instruct as in "1100"."""
    for words, (ours, instruct) in results.items():
        made = Bench(workspace, *words.split())
        made.finish("evaluate/student-s/MiCoTA", two=ours, three=ours)
        if not made.outcomes().directory("evaluate/student-s/Instruct").exists():
            made.finish("evaluate/student-s/Instruct", two=instruct, three=instruct)


def rows(report, name):
    with report.with_name(f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_over_seeds_are_their_mean_with_a_t_interval_and_of_one_seed_that_over_problems(tmp_path):
    results = {
        f"{WEIGHT}=0.3 seed={seed}": (right, "1000")
        for seed, right in ((1, "1100"), (2, "1110"), (3, "1111"))
    }
    finish_all(tmp_path, {**results, f"{WEIGHT}=0.5 seed=1": ("1010", "1000")})
    swept = sweep(TINY, {WEIGHT: [0.3, 0.5, 0.7]}, seeds=[1, 2, 3])
    report = write_report(swept, tmp_path)
    assert report == tmp_path / "reports" / "tiny-no-gap" / "report.html"
    three, one, none = [r for r in rows(report, "variants") if r["row"] == "student-s/MiCoTA"]
    assert (three["setting"], three["seeds"], three["n"]) == ("weight=0.3", "3", "8")
    values = [50.0, 75.0, 100.0]
    low, high = scipy.stats.t.interval(0.95, 2, loc=75, scale=scipy.stats.sem(values))
    assert [float(three[key]) for key in ("value", "low", "high")] == pytest.approx(
        [75, low, 100]
    ) and high > 100
    assert (one["seeds"], float(one["value"])) == ("1", 50.0)
    shared, *_ = [r for r in rows(report, "variants") if r["row"] == "student-s/Instruct"]
    assert shared["seeds"] == "1", "the untrained student is one step, whatever the seed"
    assert float(shared["value"]) == 25 and float(shared["low"]) < 25 < float(shared["high"]), "over problems"
    report_of_one = report.parent / "weight=0.5,seed=1" / "report.md"
    averages = [r for r in rows(report_of_one, "table2") if r["benchmark"] == "Average" and r["n"]]
    assert [float(one["low"])] == [100 * float(r["low"]) for r in averages if r["method"] == "MiCoTA"]
    assert (none["state"], none["value"]) == ("missing", "")
    change, *_ = [
        r for r in rows(report, "variant-differences") if r["row"] == "student-s: MiCoTA - Instruct"
    ]
    low, high = scipy.stats.t.interval(0.95, 2, loc=50, scale=scipy.stats.sem([25, 50, 75]))
    assert [float(change[key]) for key in ("value", "low", "high")] == pytest.approx(
        [50, low, 100]
    ) and high > 100
    named = [r["row"] for r in rows(report, "variant-differences") if r["row"].startswith("student-s")]
    others = ["Instruct", "Strong Teacher CoT", "Half-size CoT", "Mix-Long"]
    trained = [f"student-s: {method} - Instruct" for method in others[1:]]
    assert {*named} == {*trained, *(f"student-s: MiCoTA - {other}" for other in others)}
    text = report.with_name("variants.md").read_text()
    assert "| student-s/MiCoTA | weight=0.3 | 75.0 [12.9, 100.0] | 3 | 8 |" in text
    assert "[weight=0.5,seed=1](weight=0.5,seed=1/report.md)" in text
    assert (report.parent / "weight=0.3,seed=2" / "table2.csv").is_file()
    drawn = report.with_name("variants.svg").read_text()
    assert "student-s/MiCoTA, weight=0.3: 75.0 [12.9, 100.0], " in drawn and ElementTree.fromstring(drawn)


def test_seeds_of_one_section_are_seeds_and_a_merge_that_has_none_is_counted_once(tmp_path):
    merge = "assistants.ta.merge"
    for seed, right in ((1, "1000"), (2, "1110")):
        made = Bench(tmp_path, f"{merge}.merge_method=dare_ties", f"{merge}.seed={seed}")
        made.finish("evaluate/ta", two=right, three=right)
    Bench(tmp_path, f"{merge}.merge_method=ties").finish("evaluate/ta", two="1100", three="1100")
    swept = sweep(TINY, {f"{merge}.merge_method": ["dare_ties", "ties"], f"{merge}.seed": [1, 2]})
    random, fixed = [r for r in rows(write_report(swept, tmp_path), "variants") if r["row"] == "ta"]
    assert (random["setting"], random["seeds"], float(random["value"])) == ("merge_method=dare_ties", "2", 50)
    assert (fixed["setting"], fixed["seeds"], float(fixed["value"])) == ("merge_method=ties", "1", 50)
    assert float(fixed["low"]) < 50 < float(fixed["high"])


def test_bits_per_character_over_seeds_are_their_mean_with_a_t_interval(tmp_path):
    for seed, mean in ((1, 0.4), (2, 0.6)):
        directory = Bench(tmp_path, f"seed={seed}").outcomes().directory("bpc/student-s")
        directory.mkdir(parents=True)
        found = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}
        write_json(directory / "done.json", {"results": {"corpus0": found}})
    report = write_report(sweep(TINY, seeds=[1, 2]), tmp_path)
    (strong,) = [r for r in rows(report, "variant-bpc") if r["row"] == "student-s: strong"]
    low, high = scipy.stats.t.interval(0.95, 1, loc=0.5, scale=scipy.stats.sem([0.4, 0.6]))
    assert low < 0 and [float(strong[key]) for key in ("value", "low", "high")] == pytest.approx(
        [0.5, 0, high]
    )
    assert (
        "| student-s: strong |  | 0.500 [0.000, 1.771] | 2 | 9 |"
        in report.with_name("variants.md").read_text()
    )
    assert (
        "with logarithms to base e over the number of characters"
        in report.with_name("variants.md").read_text()
    )


def test_a_single_plan_is_its_own_union():
    plan = compile_plan(load_recipe(TINY))
    assert union({"one": plan}) == plan


def test_a_recipe_without_variants_is_its_only_one(tmp_path):
    (one,) = sweep(TINY).variants.values()
    assert one == ({}, load_recipe(TINY), compile_plan(load_recipe(TINY)))
    assert write_report(sweep(TINY), tmp_path) == tmp_path / "reports" / "tiny-no-gap" / "report.html"
