"""Estimates, against sums done by hand: what a step of known size costs, and what a pilot says instead."""

import json
import math

import pytest
from conftest import TINY

from micota_lf import compile_plan, load_recipe
from micota_lf.inputs.references import ModelRef
from micota_lf.inputs.weights import ModelSize, known_models, model_size
from micota_lf.plan.costs import Cost, benchmark_problems, estimate, total
from micota_lf.plan.memory import inference_memory, merge_memory, training_memory
from micota_lf.reports.pilot import measured

GIB = 2**30
QWEN14 = "Qwen/Qwen2.5-14B-Instruct"


def costs_of(recipe):
    plan = compile_plan(recipe)
    costs = estimate(plan, recipe)
    return {slot: costs[step_id] for slot, step_id in plan.slots.items()}


def test_training_a_14b_model_on_eight_gpus_by_hand():
    size = known_models()[QWEN14]
    what = {"cutoff_len": 18432, "finetuning_type": "full"}
    how = {"per_device_train_batch_size": 1, "disable_gradient_checkpointing": False, "deepspeed": "zero3"}
    parts = training_memory(size, what, how, 8)
    by_hand = {
        "states": 14.7e9 * 16 / 8,  # 27.4 GiB
        "layer inputs": 18432 * 5120 * 2 * 48,  # 8.4
        "layer at work": 18432 * 5120 * 34,  # 3.0
        "logits": 18432 * 152064 * 12,  # 31.3
        "output layer": 2 * 5120 * 152064 * 2,  # 2.9: the weights and their gradient, whole
        "gathered": 1e9 * 2,  # 1.9
    }
    assert parts == {**by_hand, "fragments": 0.1 * sum(by_hand.values()), "runtime": 2 * GIB}
    assert sum(parts.values()) / GIB == pytest.approx(84.4, abs=0.1)
    fused = training_memory(size, what, how, 8, liger=True)
    # 18,432 tokens over 30, as the vocabulary is 29.7 hidden states wide: 615, so 1,024 tokens at a time
    assert fused["logits"] == 1024 * 152064 * 4
    assert sum(fused.values()) / GIB == pytest.approx(50.6, abs=0.1)
    packed = training_memory(size, what, how, 8, liger=True, rows=1.5)  # rows that share a longer sequence
    assert packed["layer inputs"] == 1.5 * fused["layer inputs"] and packed["states"] == fused["states"]
    assert sum(packed.values()) / GIB == pytest.approx(56.8, abs=0.1)
    zero2 = training_memory(size, what, {**how, "deepspeed": "zero2"}, 8)
    assert zero2["states"] == pytest.approx(14.7e9 * (2 + 14 / 8)) and "gathered" not in zero2
    alone = training_memory(size, what, {**how, "deepspeed": "none"}, 8)
    assert alone["states"] == pytest.approx(14.7e9 * 16)
    everything = training_memory(size, what, {**how, "disable_gradient_checkpointing": True}, 8)
    assert everything["layer at work"] == 18432 * 5120 * 34 * 48 and everything["layer inputs"] == 0
    unknown = training_memory(ModelSize(13e9), what, how, 8, liger=True)
    assert math.isnan(unknown["logits"]) and unknown["states"] == 26e9


def test_the_papers_trainings_are_counted_with_the_sequences_that_rows_may_share():
    recipe = TINY.parent / "micota.yaml"
    counted = {}
    for arrange in ("auto", "order"):
        given = load_recipe(recipe, [f"train.arrange={arrange}"])
        counted[arrange] = costs_of(given)["train/14b/strong"].gpu_memory_gib
    assert counted == pytest.approx({"auto": 56.8, "order": 50.6}, abs=0.1)


def test_inference_and_merge_memory_by_hand():
    size = known_models()[QWEN14]
    cache = 2 * 48 * 8 * 128 * 16384 * 2  # keys and values, bf16
    assert cache == 3 * GIB
    assert inference_memory(size, 16384, "bfloat16") == {"weights": 14.7e9 * 2, "cache": cache}
    assert merge_memory(size, "bfloat16") == 1.1e9 + 9 * 2 * 152064 * 5120  # 15.1 GB
    assert merge_memory(size, "float32") == 1.1e9 + 9 * 4 * 152064 * 5120  # 29.1 GB
    assert math.isnan(inference_memory(ModelSize(13e9), 16384, "bfloat16")["cache"])


def test_a_plans_hours_and_disk_by_hand():
    words = [
        f"students.assistant.model={QWEN14}", "prompts.limit=100", "train.bf16=true",
        "train.num_train_epochs=2", "train.cutoff_len=4096", "train.save_strategy=steps",
        "train.disable_gradient_checkpointing=false",
        "generation.max_tokens=4000", "estimates.response_tokens.teacher=5000",
        "estimates.response_tokens.ta=2000", "hardware.gpus=8", "train.global_batch_size=32",
        "estimates.default_response_tokens=1000",
        "train.per_device_train_batch_size=1",
    ]  # fmt: skip
    costs = costs_of(load_recipe(TINY, words))
    training = costs["train/assistant/strong"]  # 5,000 tokens are cut at 4,000 while generating
    hours = 8 * 14.7e9 * 100 * 4000 * 2 / (312e12 * 0.35) / 3600 / 0.9  # GPUs wait a tenth of the time
    assert training.gpu_hours == pytest.approx(hours)
    assert training.hours == pytest.approx(hours / 8 + 4 / 60)
    assert training.disk_gib == pytest.approx(2 * 14.7e9 / GIB)
    assert training.scratch_gib == pytest.approx((2 + 12) * 14.7e9 / GIB)  # a checkpoint, at the end
    assert training.gpu_memory_gib > 16 * 14.7e9 / GIB  # no ZeRO: all of it on each GPU
    assert training.host_memory_gib == 0
    generation = costs["generate/ta"]
    assert generation.gpu_hours == pytest.approx(100 * 2000 * 14.7 / 15000 / 3600)
    assert generation.disk_gib == pytest.approx(100 * 2000 * 4 / GIB)
    assert costs["generate/assistant/strong"].gpu_hours == pytest.approx(
        generation.gpu_hours * 2
    )  # as learnt
    merging = costs["merge/ta"]
    assert merging.gpu_hours == 0 and merging.disk_gib == pytest.approx(4 * 14.7e9 / GIB)  # dtype float32
    assert costs["filter/strong"].disk_gib == pytest.approx(100 * 4000 * 4 / GIB)
    # 0.2 of strong (4,000 tokens), 0.8 of short (1,000 by default): at most 100 / 0.8 rows
    assert costs["mix/mix-long"].disk_gib * GIB / 4 == pytest.approx(125 * (0.2 * 4000 + 0.8 * 1000))


@pytest.mark.parametrize(
    ("words", "checkpoints"),
    [
        ([], 2),  # 750 steps: the first goes once the last is there
        (["train.save_steps=1000"], 1),
        (["train.save_steps=100"], 2),
        (["train.save_steps=100", "train.save_total_limit=3"], 4),
        (["train.save_steps=100", "train.save_total_limit=null"], 8),
        (["train.save_strategy=epoch", "train.save_total_limit=5"], 2),
        (["train.save_strategy='no'"], 0),
    ],
)
def test_a_training_holds_its_checkpoints_of_the_moment_of_rotation(words, checkpoints):
    costs = costs_of(load_recipe(TINY.parent / "micota.yaml", words))
    assert costs["train/14b/strong"].scratch_gib == pytest.approx(checkpoints * 14 * 14.7e9 / GIB)


def test_one_process_waits_for_no_other():
    words = ["hardware.gpus=2", "train.per_device_train_batch_size=4", "estimates.balance=0.5"]
    two = costs_of(load_recipe(TINY, words))["train/student-s/micota"].gpu_hours
    one = costs_of(load_recipe(TINY, [*words, "hardware.train_gpus=1"]))["train/student-s/micota"].gpu_hours
    assert two == pytest.approx(2 * one)


def test_the_untrained_start_of_an_assistant_does_not_answer_at_the_assistants_length():
    words = ["estimates.response_tokens.ta=300", "estimates.default_response_tokens=20", "hardware.gpus=1"]
    costs = costs_of(load_recipe(TINY, words))
    assert costs["evaluate/ta"].gpu_hours == pytest.approx(15 * costs["evaluate/ta/before"].gpu_hours)


def test_responses_that_exist_already_cost_nothing_to_make(tmp_path):
    row = json.dumps({"prompt": "1 + 1", "response": "2", "answer": "2"})
    (tmp_path / "mine.jsonl").write_text(f"{row}\n" * 50)
    file = f"{{from: null, file: {tmp_path / 'mine.jsonl'}}}"
    recipe = load_recipe(TINY, [f"corpora.strong={file}", "estimates.default_response_tokens=20"])
    costs = costs_of(recipe)
    assert "generate/teacher" not in costs
    assert costs["filter/strong"].disk_gib * GIB == 50 * 20 * 4


def test_without_gpus_memory_is_the_hosts_and_no_time_is_told(tiny):
    costs = costs_of(tiny)
    whole = total(costs.values())
    assert whole.gpu_hours == 0 and whole.gpu_memory_gib == 0
    assert 0 < costs["train/student-s/micota"].host_memory_gib < 4
    assert 0 < whole.disk_gib < 0.5


def test_what_is_unknown_stays_unknown_in_the_total():
    recipe = load_recipe(TINY, ["hardware.gpus=1", "students.student-s.model=someone/thing"])
    costs = costs_of(recipe)
    assert costs["train/student-s/micota"].gpu_hours is None
    assert costs["train/student-m/micota"].gpu_hours is not None
    assert total(costs.values()).gpu_hours is None
    assert total([Cost(1, 2, 3, 4), Cost(1, 2, 5, 1)]) == Cost(2, 4, 5, 4)
    assert total([]) == Cost()


def test_benchmark_problems_are_counted_or_known(tiny):
    assert benchmark_problems(tiny) == {"tiny_two": 200, "tiny_three": 200}
    paper = load_recipe(TINY.parent / "micota.yaml", ["evaluation.limit=600"])
    assert benchmark_problems(paper) == {
        "aime24": 30, "amc23": 40, "olympiadbench": 600, "math-500": 500, "gsm8k": 600,
    }  # fmt: skip


def write_step(workspace, kind, name, step, record):
    directory = workspace / kind / name
    directory.mkdir(parents=True)
    (directory / "step.json").write_text(json.dumps(step))
    (directory / "done.json").write_text(json.dumps({"kind": kind, **record}))
    return directory


def test_a_pilot_measures_speeds_and_lengths(tmp_path):
    write_step(
        tmp_path, "generate", "r1-aaa",
        {"inputs": {"model": {"ref": "x/y-32B"}}, "slots": ["generate/teacher"]},
        {"how": {}, "gpus": 2, "seconds": 100.0, "resumed": False,
         "results": {"responses": 64, "mean_response_tokens": 5000.4, "generation_seconds": 70.0}},
    )  # fmt: skip
    resumed = {"responses": 64, "mean_response_tokens": 900.0}  # its seconds are nobody's
    write_step(
        tmp_path, "generate", "ta-ddd",
        {"inputs": {"model": {"ref": "x/y-32B"}}, "slots": ["generate/ta"]},
        {"how": {}, "gpus": 2, "seconds": 9.0, "resumed": True, "results": resumed},
    )  # fmt: skip
    training = {"inputs": {"model": {"ref": "x/y-14B"}}, "slots": ["train/assistant/strong"]}
    how = {"nodes": 2, "train": {"disable_gradient_checkpointing": False}}
    done = {"how": how, "gpus": 8, "results": {"train_seconds": 100.0, "trained_tokens": 1e6}}
    write_step(tmp_path, "train", "y-bbb", training, {**done, "seconds": 150.0})
    quick = {"results": {"train_seconds": 1.0, "trained_tokens": 1e6}, "seconds": 1.0, "resumed": True}
    write_step(tmp_path, "train", "y-ccc", training, {**done, **quick})
    # 64 x 5000.4 x 32 / 140 = 73,149 tokens/s of a 1B model; 8 x 14e9 x 1e6 / (1,600 s x 312e12) = 0.224;
    # what is left of 100 and of 150 seconds: 30 and 50
    words = measured(tmp_path)
    assert words == [
        "estimates.tflops=312", "estimates.mfu=0.224", "estimates.balance=1",
        "estimates.decode_tokens_per_second=73100", "estimates.startup_minutes=0.667",
        "estimates.response_tokens.ta=900", "estimates.response_tokens.teacher=5000",
    ]  # fmt: skip
    figures = load_recipe(TINY, words).estimates
    assert figures.mfu == 0.224 and figures.response_tokens == {"ta": 900, "teacher": 5000}


def test_a_pilot_finds_the_size_of_a_model_that_another_step_made(tmp_path):
    made = tmp_path / "train" / "student-abc" / "model"
    made.mkdir(parents=True)
    for file in ModelRef("tiny:student-s").local.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    step = {"inputs": {"model": {"step": "abc", "file": "model"}}, "slots": ["generate/student-s/strong"]}
    results = {"responses": 10, "mean_response_tokens": 100.0, "generation_seconds": 1.0}
    write_step(tmp_path, "generate", "s-d", step, {"how": {}, "gpus": 1, "seconds": 1.0, "results": results})
    parameters = model_size(ModelRef("tiny:student-s")).parameters
    assert measured(tmp_path) == [
        f"estimates.decode_tokens_per_second={1000 * parameters / 1e9:.3g}",
        "estimates.startup_minutes=0",
        "estimates.response_tokens.student-s/strong=100",
    ]
    assert measured(tmp_path / "empty") == []
