"""On how many GPUs steps run, in which order, and how long that takes."""

import shutil
from collections import namedtuple
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import TINY
from schedule import slept

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.references import ModelRef
from micota_lf.inputs.weights import missing_bytes
from micota_lf.plan.costs import downloads, estimate
from micota_lf.plan.plan import Input, Plan, Step
from micota_lf.plan.schedule import priorities, wall_hours
from micota_lf.run.shortages import shortages

PAPER = TINY.parent / "micota.yaml"


def paper(*words):
    recipe = load_recipe(PAPER, words)
    return recipe, compile_plan(recipe)


def step_of(plan, slot):
    return plan.steps[plan.slots[slot]]


def parallel(plan, slot):
    """GPUs of one copy, copies, GPUs."""
    step = step_of(plan, slot)
    how = step.how.get("answers", step.how)
    return how.get("tensor_parallel"), how.get("data_parallel"), step.gpus


def needed(plan, target):
    return plan.needed([target])


def test_a_model_is_split_over_the_fewest_gpus_of_which_its_weights_take_half():
    _, plan = paper()
    assert parallel(plan, "generate/ta") == (1, 8, 8)  # 27.4 GiB of 80
    assert parallel(plan, "generate/r1") == (2, 4, 8)  # 60.5
    assert parallel(plan, "generate/large") == (4, 2, 8)  # 135
    assert parallel(plan, "merge/ta") == (1, 1, 1)
    assert parallel(plan, "bpc/short") == (2, 1, 2)  # one process of lm-eval
    _, small = paper("hardware.gpu_memory_gib=40", "hardware.gpus=4")
    assert parallel(small, "generate/ta") == (2, 2, 4) and parallel(small, "generate/r1") == (4, 1, 4)
    assert parallel(small, "generate/large") == (4, 1, 4)  # which the plan refuses
    assert parallel(small, "merge/ta") == (2, 1, 2)


def test_a_number_of_inference_gpus_means_that_number():
    _, plan = paper("hardware.inference_gpus=4")
    for slot in ("generate/r1", "generate/ta"):
        assert parallel(plan, slot) == (4, 2, 8)
    assert step_of(plan, "evaluate/1_5b/Instruct").gpus == 4
    assert set(plan.steps) == set(paper()[1].steps)


def test_an_evaluation_has_the_copies_with_which_it_takes_half_an_hour():
    recipe, plan = paper()
    costs = estimate(plan, recipe)
    evaluations = [step for step in plan.steps.values() if step.kind == "evaluate"]
    for step in evaluations:
        copies, asking = step.how["data_parallel"], costs[step.id].gpu_hours / step.gpus
        assert asking <= 0.5 or step.gpus == 8
        assert copies == 1 or asking * copies / (copies - 1) > 0.5  # one copy less would take longer
    assert parallel(plan, "evaluate/r1") == (2, 4, 8)
    assert parallel(plan, "evaluate/1_5b/Instruct") == (1, 1, 1)


def test_transformers_splits_a_model_and_serves_no_copies():
    words = ["generation.backend=transformers", "evaluation.backend=transformers"]
    _, plan = paper(*words)
    for slot in ("generate/r1", "evaluate/r1"):
        assert parallel(plan, slot) == (2, 1, 2)
    _, elsewhere = paper("generation.backend=endpoint", "generation.endpoints=[http://a:1]")
    assert step_of(elsewhere, "generate/r1").gpus == 0


def test_a_model_of_unknown_size_has_one_gpu_a_copy():
    _, plan = paper("teachers.r1.model=someone/thing")
    assert parallel(plan, "generate/r1") == (1, 8, 8)
    assert parallel(plan, "evaluate/r1") == (1, 1, 1)


def small_plan(*steps, gpus=8, cores=4):
    """(id, GPUs, ids of its inputs) a step."""
    made = {
        name: Step(name, "train", name, {}, {b: Input(b) for b in before}, {}, used)
        for name, used, before in steps
    }
    return Plan("small", made, {}, {}, cores, gpus)


def test_a_step_that_finds_gpus_begins_though_an_earlier_one_waits_for_more():
    plan = small_plan(("first", 8, ()), ("small", 2, ()), ("big", 8, ("first",)), ("last", 1, ("big",)))
    assert wall_hours(plan, {"first": 2, "small": 5, "big": 3, "last": 1}) == 2 + 3 + 5
    # `small` first: `big` then waits for it, and both of them for `first`
    started = {"first": 2, "small": 5, "big": 3}
    assert wall_hours(replace(plan, gpus=10), started) == 5
    assert wall_hours(replace(plan, cores=1), started) == 10


def test_what_ends_at_once_is_over_before_others_begin():
    plan = small_plan(
        ("a", 0, ()), ("b", 0, ()), ("small", 1, ("a",)), ("big", 8, ("b",)), ("end", 8, ("big",))
    )
    assert (
        wall_hours(plan, {"a": 0, "b": 0, "small": 5, "big": 1, "end": 1}) == 7
    )  # `big` first, `small` last


def test_what_most_others_wait_for_goes_first_then_what_asks_for_most_gpus():
    plan = small_plan(("a", 1, ()), ("b", 8, ()), ("c", 2, ()), ("d", 1, ("a",)), ("e", 1, ("d",)))
    first = priorities(plan, plan.steps)
    order = sorted(first, key=first.get, reverse=True)
    assert order[0] == "a" and order[1] == "d" and order[2] == "b" and order[3] == "c"
    assert len(set(first.values())) == len(first)  # Snakemake takes equals in any order
    assert set(priorities(plan, ["d", "e"])) == {"d", "e"}


def test_table_2_keeps_eight_gpus_at_work_nine_tenths_of_the_time():
    recipe, plan = paper()
    costs = estimate(plan, recipe)
    pending = needed(plan, "table2")
    wall = wall_hours(plan, {step_id: costs[step_id].hours for step_id in pending})
    bound = sum(costs[step_id].gpu_hours for step_id in pending) / 8
    assert 0.9 < bound / wall < 1
    loads = {step.id for step in plan.steps.values() if step.gpus}
    assert all(costs[i].hours > costs[i].gpu_hours / 8 for i in loads)  # start-ups are no work


@pytest.mark.slow
def test_snakemake_takes_as_long_as_the_simulation():
    plan = small_plan(
        ("a", 8, ()), ("b", 2, ("a",)), ("c", 3, ("a",)), ("d", 8, ("b",)), ("e", 2, ("c",)), ("f", 4, ())
    )
    hours = dict.fromkeys(plan.steps, 1.0) | {"c": 2.0}
    simulated = wall_hours(plan, hours)
    assert simulated <= slept(plan, hours, hour=2.0) < simulated + 2


def test_a_plan_says_how_long_it_takes_on_gpus_and_on_cores(capsys):
    main(["plan", str(PAPER), "--target", "table2"])
    assert "hours on 8 GPUs, which work 9" in capsys.readouterr().out
    main(["plan", str(TINY)])
    assert "minutes on 2 cores" in capsys.readouterr().out
    main(["plan", str(PAPER), "students.7b.model=someone/thing"])
    assert "wall-clock: about ? hours" in capsys.readouterr().out


def test_a_training_that_fills_a_gpu_is_refused_with_its_parts_and_what_to_turn(tmp_path):
    recipe, plan = paper()
    before = step_of(plan, "train/14b/strong")
    assert not [
        line for line in shortages(recipe, plan, tmp_path, [before.id], here=False) if "needs" in line
    ]
    how = {**before.how, "train": {**before.how["train"], "enable_liger_kernel": False}}
    whole = replace(plan, steps=plan.steps | {before.id: replace(before, how=how)})
    (line,) = [s for s in shortages(recipe, whole, tmp_path, [before.id], here=False) if "memory" in s]
    assert line.startswith(
        "hardware.gpu_memory_gib: 80, of which 0.9 may be counted on, but train qwen2.5-14b-"
    )
    assert (
        "needs about 108 a GPU (logits 47, states 27, layer inputs 13): set train.enable_liger_kernel=true"
        in line
    )
    recipe, plan = paper("train.cutoff_len=65536", "generation.max_tokens=60000", "train.arrange=order")
    (line,) = [s for s in shortages(recipe, plan, tmp_path, [before_id(plan)], here=False) if "memory" in s]
    assert "(layer inputs 30, states 27, layer at work 11): " in line and "lower train.cutoff_len" in line


def before_id(plan):
    return plan.slots["train/14b/strong"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_cache(hub, name, **files):
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file, size in files.items():
        with (snapshot / file.replace("_", ".")).open("wb") as handle:
            handle.truncate(size)


def test_what_the_hubs_cache_lacks_of_a_model_is_counted(hub):
    model = ModelRef("someone/thing-1B")
    assert missing_bytes(model) == 2e9
    in_cache(hub, model.ref, config_json=10, a_safetensors=int(5e8))  # a download that was cut short
    assert missing_bytes(model) == 1.5e9
    assert missing_bytes(ModelRef("someone/thing-1B", "other")) == 2e9
    assert missing_bytes(ModelRef("tiny:teacher")) == missing_bytes(ModelRef("someone/thing")) == 0


def test_the_models_of_table_2_are_counted_once_each(hub):
    _, plan = paper()
    # 32B three times, 14B, 7B, 3B, 1.5B
    billions = 3 * 32.5 + 14.7 + 7.61 + 3.09 + 1.54
    assert downloads(plan, needed(plan, "table2")) == pytest.approx(2e9 * billions / 2**30)
    in_cache(hub, "Qwen/QwQ-32B", model_safetensors=int(65e9))
    assert downloads(plan, needed(plan, "table2")) == pytest.approx(2e9 * (billions - 32.5) / 2**30)


Usage = namedtuple("Usage", "free")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second disk")
def test_the_disk_of_the_hubs_cache_is_looked_at_apart(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    recipe, plan = paper()
    pending = needed(plan, "table2")
    free = {str(tmp_path): 600, "/dev/shm": 200}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free[str(path)] * 2**30))
    lacks = [line for line in shortages(recipe, plan, tmp_path, pending, here=False) if "free in" in line]
    assert lacks == [f"HF_HUB_CACHE: 600 GiB are free in {tmp_path}, about 740 GiB are needed"]  # of both
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/dev/shm/hub")
    lacks = [line for line in shortages(recipe, plan, tmp_path, pending, here=False) if "free in" in line]
    assert lacks == ["HF_HUB_CACHE: 200 GiB are free in /dev/shm, about 232 GiB are needed"]
    free["/dev/shm"] = 300
    assert not [line for line in shortages(recipe, plan, tmp_path, pending, here=False) if "free in" in line]


def test_a_run_of_many_prompts_pays_its_start_once():
    hours = []
    for prompts in (1000, 2000):
        recipe, plan = paper(f"prompts.limit={prompts}", "estimates.startup_minutes=30")
        hours.append(estimate(plan, recipe)[plan.slots["generate/r1"]].hours)
    assert [later - before for before, later in pairwise(hours)] == [pytest.approx(hours[0] - 0.5)]
