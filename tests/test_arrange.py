"""Trainings on several processes: no process waits for long, and every step is the method's."""

import math
import random
from collections import Counter

import pytest
import yaml
from conftest import TINY

from micota_lf import compile_plan, load_recipe
from micota_lf.inputs.chat import load_chat, row_lengths
from micota_lf.inputs.references import ModelRef
from micota_lf.run.step import execute
from micota_lf.stages.arrange import arrange, global_batches, write_tokens
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

MODEL = ModelRef("tiny:student-s")


def lognormal(rows, mean=3700, cap=16000, sigma=0.75, seed=0):
    draw = random.Random(seed)
    scale = mean * 1.03 / math.exp(sigma**2 / 2)
    return [min(cap, max(200, int(scale * draw.lognormvariate(0, sigma)))) for _ in range(rows)]


@pytest.mark.parametrize(
    ("rows", "epochs", "max_steps"), [(100, 2.0, -1), (96, 1.5, -1), (37, 3, -1), (50, 2, 9)]
)
def test_the_batches_are_those_that_transformers_and_accelerate_draw(rows, epochs, max_steps):
    from accelerate.data_loader import SeedableRandomSampler

    size = 16
    found = global_batches(rows, 7, epochs, max_steps, size)
    sampler = SeedableRandomSampler(range(rows), data_seed=7)
    drawn = []
    for epoch in range(math.ceil(epochs) + 3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        drawn += [order[start : start + size] for start in range(0, rows, size)]
    steps = max_steps if max_steps > 0 else math.ceil(epochs * math.ceil(rows / size))
    assert found == drawn[:steps]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("rows", [64, 75])
def test_an_optimizer_step_keeps_its_rows_each_of_them_once(rows, packs):
    lengths, batches = lognormal(rows), global_batches(rows, 0, 2.0, -1, 16)
    made = arrange(lengths, batches, 16, 2, 8, 20_000 * packs)
    packs_a_step = 2 * made.micro_steps
    assert packs or not made.shared
    assert len(made.packs) == packs_a_step * len(batches)
    for number, batch in enumerate(batches):
        step = made.packs[number * packs_a_step : (number + 1) * packs_a_step]
        assert Counter(row for pack in step for row in pack) == Counter(batch)
        sums = [sum(lengths[row] for row in pack) for pack in step]
        assert sums == sorted(sums, reverse=True) and max(sums) <= 20_000


def test_little_is_waited_for_on_lengths_like_those_of_r1():
    """At the batch sizes of the paper on 8 processes: by chance 0.42 of the work is useful."""
    lengths = lognormal(12_000)
    for size, by_order in ((32, 0.67), (96, 0.85), (128, 0.88)):
        batches = global_batches(len(lengths), 42, 1.0, -1, size)
        assert arrange(lengths, batches, size, 8, size // 8).share >= by_order
        made = arrange(lengths, batches, size, 8, size // 8, room=24_576)
        print(size, made.micro_steps, made.share, max(sum(lengths[row] for row in p) for p in made.packs))


def corpus(path, rows):
    """Additions whose responses are of very different lengths."""
    lengths = random.Random(3).choices([1, 2, 3, 5, 8, 20], k=rows)
    texts = ((n, " ".join(f"{n} + {k} = {n + k}." for k in range(long))) for n, long in enumerate(lengths))
    write_jsonl(
        path, [{"prompt": f"What is {n} + 1?", "response": f"{text} \\boxed{{{n + 1}}}"} for n, text in texts]
    )
    return path


SMALL = ["train.per_device_train_batch_size=1", "train.logging_steps=1", "train.global_batch_size=4"]


def trained(directory, rows, *words):
    """Loss and gradient norm of each optimizer step, results, and what LLaMA-Factory was given."""
    plan = compile_plan(load_recipe(TINY, [*SMALL, *words]))
    step = plan.steps[plan.slots["train/student-s/micota"]]
    inputs = {"model": MODEL, "corpus": ModelRef(str(rows))}
    results = execute(step, inputs, directory, {})
    history = [
        row for row in read_json(directory / "model" / "trainer_state.json")["log_history"] if "loss" in row
    ]
    numbers = [(row["loss"], row["grad_norm"], row["learning_rate"]) for row in history]
    return numbers, results, yaml.safe_load((directory / "train.yaml").read_text())


@pytest.mark.parametrize("room", [0, 768])
def test_the_data_set_holds_the_chat_templates_tokens_and_trains_the_responses(room, tmp_path):
    """A row that is filled up is not masked, so that SDPA keeps its flash kernel; shared sequences are."""
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    rows = read_jsonl(corpus(tmp_path / "corpus.jsonl", 11))
    lengths = row_lengths(rows, load_chat(MODEL))
    batches = global_batches(11, 42, 1.0, -1, 8)
    made = arrange(lengths, batches, 8, 4 if room else 2, 2, room)
    write_tokens(tmp_path / "tokens", rows, load_chat(MODEL), None, made, 1 if room else 2)
    tokenizer, blanks, seen = AutoTokenizer.from_pretrained(MODEL.resolved), 0, []
    written = list(load_from_disk(str(tmp_path / "tokens"))["train"])
    assert len(written) == len(made.packs) and made.shared == bool(room)
    for number, (one, pack) in enumerate(zip(written, made.packs, strict=True)):
        ids, labels, mask = (one[name] for name in ("input_ids", "labels", "attention_mask"))
        assert len(ids) == len(labels) == len(mask) and len(ids) % 8 == 0
        assert room or (min(mask) == 1 and len(ids) == len(written[number ^ 1]["input_ids"]))
        at, blanks = 0, blanks + (not pack)
        for place, row in enumerate(pack, 1):
            asked = {"role": "user", "content": rows[row]["prompt"]}
            said = {"role": "assistant", "content": rows[row]["response"]}
            prompt = tokenizer.apply_chat_template([asked], add_generation_prompt=True, return_dict=False)
            whole = tokenizer.apply_chat_template([asked, said], return_dict=False)
            end = at + len(whole)
            assert ids[at:end] == whole and len(whole) == lengths[row]
            assert labels[at:end] == [-100] * len(prompt) + whole[len(prompt) :]
            assert set(mask[at:end]) == {place if room else 1}
            assert not room or one["position_ids"][at:end] == list(range(len(whole)))
            at, seen = end, [*seen, row]
        assert set(labels[at:]) <= {-100}
    assert sorted(seen) == list(range(11)) and (blanks == 5 or room)


@pytest.mark.long
def test_two_processes_train_each_step_as_one_does_in_any_arrangement(tmp_path):
    rows, two = corpus(tmp_path / "corpus.jsonl", 43), "hardware.cpu_processes=2"
    whole, results, config = trained(tmp_path / "one", rows)
    assert len(whole) == results["steps"] == 22 and "tokenized_path" not in config
    for arrangement in ("order", "pack"):
        found, results, config = trained(tmp_path / arrangement, rows, two, f"train.arrange={arrangement}")
        assert config["disable_shuffling"] and results["steps"] == 22
        assert bool(config.get("neat_packing")) == (arrangement == "pack")
        for ours, theirs in zip(found, whole, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    by_chance, _, config = trained(tmp_path / "none", rows, two, "train.arrange=none")
    assert "tokenized_path" not in config
    for ours, theirs in zip(by_chance[:10], whole[:10], strict=True):  # then a row is repeated
        assert ours == pytest.approx(theirs, rel=1e-4)
    lengths = row_lengths(read_jsonl(rows), load_chat(MODEL))
    assert results["trained_tokens"] == 2 * sum(lengths)
