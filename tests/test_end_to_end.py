"""The whole method with the real engines, smaller than the demo: what its outputs must be.

One run is shared by all tests here; the last ones go on from it, as a person would.
"""

import csv
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT, TINY
from safetensors.numpy import load_file

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.grading.answer import grade
from micota_lf.grading.measures import count_reflections
from micota_lf.inputs.references import ModelRef
from micota_lf.run.snakemake import pending_steps
from micota_lf.stages.evaluate import lm_eval_samples
from micota_lf.system.files import read_jsonl

SMALL = """
extends: {tiny}
name: small
prompts: {{limit: 96}}
evaluation: {{limit: 24}}
students: {{student-m: null}}
methods: {{Instruct: null, Strong Teacher CoT: strong, MiCoTA: micota}}
tables:
  table1: {{others: [Strong Teacher CoT]}}
  table2: {{assistant: [], others: [Instruct, Strong Teacher CoT, MiCoTA]}}
bpc: {{models: [student-s], corpora: [strong, micota], limit: 20}}
"""

pytestmark = pytest.mark.slow


class Run:
    """The finished small run: its recipe, its workspace, and where its steps are."""

    def __init__(self, home: Path) -> None:
        self.recipe, self.workspace = home / "small.yaml", home / "runs"
        self.recipe.write_text(SMALL.format(tiny=TINY))

    def command(self, *overrides: str) -> int:
        return main(["run", str(self.recipe), "--workspace", str(self.workspace), *overrides])

    def plan(self, *overrides: str):
        return compile_plan(load_recipe(self.recipe, overrides))

    def pending(self, *overrides: str) -> set[str]:
        plan = self.plan(*overrides)
        todo = pending_steps(plan, self.workspace)
        return {slot for slot, made in plan.slots.items() if made in todo}

    def directory(self, slot: str, *overrides: str) -> Path:
        plan = self.plan(*overrides)
        return self.workspace / plan.steps[plan.slots[slot]].directory

    def stamps(self) -> dict[str, int]:
        """When each step was finished, by its directory."""
        return {str(p.parent): p.stat().st_mtime_ns for p in self.workspace.glob("*/*/done.json")}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = Run(tmp_path_factory.mktemp("small"))
    assert made.command() == 0
    return made


def records(run: Run, name: str) -> list[dict[str, str]]:
    """The rows of one of the report's CSV files."""
    return list(csv.DictReader((run.workspace / "reports" / "small" / f"{name}.csv").open()))


def weights(directory: Path) -> dict[str, np.ndarray]:
    return {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}


def delta(after: dict[str, np.ndarray], before: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([(after[k] - before[k]).ravel() for k in sorted(before)])


def test_every_training_changes_its_parents_weights(run):
    for slot, parent in [
        ("train/assistant/strong", "tiny:assistant"),
        ("train/student-s/strong", "tiny:student-s"),
        ("train/student-s/micota", "tiny:student-s"),
    ]:
        before, after = weights(ModelRef(parent).local), weights(run.directory(slot) / "model")
        assert set(after) == set(before)
        assert np.abs(delta(after, before)).max() > 1e-4
        assert np.isfinite(delta(after, before)).all()
        results = json.loads((run.directory(slot) / "model" / "all_results.json").read_text())
        assert results["train_loss"] > 0


def test_the_merged_delta_is_the_fine_tuning_delta_times_the_weight(run):
    """Preset `instruct`, normalize off: slope = weight = 0.5; DARE's mask adds noise but no bias."""
    base = weights(ModelRef("tiny:assistant").local)
    tuned = delta(weights(run.directory("train/assistant/strong") / "model"), base)
    merged = delta(weights(run.directory("merge/ta") / "model"), base)
    slope = float(tuned @ merged / (tuned @ tuned))
    assert slope == pytest.approx(0.5, abs=0.03)
    kept = np.count_nonzero(np.abs(merged) > 1e-9) / np.count_nonzero(np.abs(tuned) > 1e-9)
    assert kept == pytest.approx(0.5, abs=0.05)  # the density


def test_the_merged_model_has_the_assistants_tokenizer_and_chat_template(run):
    merged, source = run.directory("merge/ta") / "model", ModelRef("tiny:assistant").local
    for name in ("tokenizer.json", "chat_template.jinja"):
        if (source / name).is_file():
            assert (merged / name).is_file()
    ends = [json.loads((p / "generation_config.json").read_text())["eos_token_id"] for p in (merged, source)]
    assert ends[0] == ends[1]


def test_the_merged_model_was_checked_and_answered(run):
    results = json.loads((run.directory("merge/ta") / "done.json").read_text())["results"]
    assert results["compatibility"]["cosine"]["after"] > 0.9
    assert results["health"]["prompts"] == 4 and results["health"]["ended"] >= 1


def test_corpora_hold_only_rows_that_the_filter_kept(run):
    for corpus in ("strong", "micota"):
        directory = run.directory(f"filter/{corpus}")
        kept, rejected = read_jsonl(directory / "corpus.jsonl"), read_jsonl(directory / "rejected.jsonl")
        assert len(kept) + len(rejected) == 96 and len(kept) > 48
        for row in kept:
            assert row["finish_reason"] == "stop" and row["response_tokens"] <= 320
            assert grade(row["response"], row["answer"]).symbolic
        assert all(row["reason"] != "kept" for row in rejected)


def test_training_data_is_what_the_filter_kept(run):
    info = json.loads((run.directory("train/student-s/micota") / "dataset_info.json").read_text())
    assert info["corpus"]["file_name"] == str(run.directory("filter/micota") / "corpus.jsonl")


def test_the_tables_accuracies_equal_a_recount_from_lm_evals_samples(run):
    rows = records(run, "table2")
    assert len(rows) == (2 + 3) * 3
    places = {"Strong Teacher": "evaluate/teacher", "(Merged) Teacher Assistant": "evaluate/ta"}
    titles = {"Two-step": "micota_tiny_two", "Three-step": "micota_tiny_three"}
    for row in rows:
        student = row["model"].removeprefix("tiny:")
        slot = places.get(row["method"], f"evaluate/{student}/{row['method']}")
        accuracy = {}
        for title, task in titles.items():
            samples = lm_eval_samples(run.directory(slot) / "lm_eval", task)
            right = [grade(s["filtered_resps"][0], s["doc"]["answer"]).symbolic for s in samples]
            assert len(right) == 24
            accuracy[title] = sum(right) / 24
        accuracy["Average"] = sum(accuracy.values()) / 2
        assert row["state"] == "done"
        assert float(row["accuracy"]) == pytest.approx(accuracy[row["benchmark"]])
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])


def test_table_1s_delta_equals_a_recount_from_lm_evals_samples(run):
    def average(slot):
        shares = []
        for task in ("micota_tiny_two", "micota_tiny_three"):
            samples = lm_eval_samples(run.directory(slot) / "lm_eval", task)
            right = [grade(s["filtered_resps"][0], s["doc"]["answer"]).symbolic for s in samples]
            shares.append(sum(right) / len(samples))
        return sum(shares) / 2

    rows = {row["student"]: row for row in records(run, "table1")}
    assert set(rows) == {"tiny:assistant", "tiny:student-s"}
    for model, student in (("tiny:assistant", "assistant"), ("tiny:student-s", "student-s")):
        after, before = (
            average(f"evaluate/{student}/{method}") for method in ("Strong Teacher CoT", "Instruct")
        )
        assert float(rows[model]["delta"]) == pytest.approx(after - before)
        assert float(rows[model]["delta_low"]) <= after - before <= float(rows[model]["delta_high"])


def test_figures_2_and_4_hold_the_lengths_and_reflection_words_of_the_responses(run):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ModelRef("tiny:assistant").local / "tokenizer.json"))
    samples = read_jsonl(run.directory("evaluate/ta/tuned") / "samples.jsonl")
    lengths = [len(tokenizer.encode(row["response"], add_special_tokens=False).ids) for row in samples]
    figure2 = {row["method"]: row for row in records(run, "figure2")}
    assert list(figure2) == ["before", "fine-tuned", "merged"]
    assert float(figure2["fine-tuned"]["mean"]) == pytest.approx(np.mean(lengths))
    assert float(figure2["before"]["mean"]) < float(figure2["fine-tuned"]["mean"])
    (figure4,) = records(run, "figure4")  # the recipe has no Half-size CoT
    samples = read_jsonl(run.directory("evaluate/student-s/MiCoTA") / "samples.jsonl")
    counted = [count_reflections(row["response"]) for row in samples]
    assert float(figure4["mean"]) == pytest.approx(np.mean(counted))
    for name in ("figure2", "figure3", "figure4"):
        image = ElementTree.parse(run.workspace / "reports" / "small" / f"{name}.svg").getroot()
        assert len(image.findall("{*}g/{*}title")) == len(list(records(run, name)))


def test_the_report_says_how_training_prompts_and_benchmarks_overlap(run):
    report = (run.workspace / "reports" / "small" / "report.md").read_text()
    assert "tiny_two: 0 of 200 problems share a run of 13 words" in report


def test_bpc_equals_the_models_own_log_likelihood(run):
    """Equation 3 recomputed with transformers: mean over texts, nats per character."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(ModelRef("tiny:student-s").local)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    summary = json.loads((run.directory("bpc/student-s") / "bpc.json").read_text())
    for number, corpus in enumerate(("strong", "micota")):
        values = []
        for row in read_jsonl(run.directory(f"filter/{corpus}") / "corpus.jsonl")[:20]:
            ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
            first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            with torch.inference_mode():
                logits = model(torch.tensor([[first, *ids]])).logits[0, :-1].float()
            nll = -logits.log_softmax(-1)[range(len(ids)), ids].sum().item()
            values.append(nll / len(row["response"]))
        assert summary[f"corpus{number}"]["n"] == 20
        assert summary[f"corpus{number}"]["mean"] == pytest.approx(sum(values) / 20, abs=1e-3)


def test_a_second_run_does_nothing_and_says_so(run, capsys):
    before = run.stamps()
    assert run.command() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run.stamps() == before


def test_editing_one_students_learning_rate_reruns_only_its_steps_and_reverting_none(run):
    before = run.stamps()
    edit = "students.student-s.train.learning_rate=3e-4"
    slots = {
        "train/student-s/micota", "evaluate/student-s/MiCoTA", "train/student-s/strong",
        "evaluate/student-s/Strong Teacher CoT",
    }  # fmt: skip
    assert run.pending(edit) == slots
    assert run.command(edit) == 0
    after = run.stamps()
    made = {str(run.directory(slot, edit)) for slot in slots}
    assert {path for path in after if after[path] != before.get(path)} == made
    assert run.pending() == set()


def test_deleting_a_steps_directory_reruns_only_that_step(run):
    before = run.stamps()
    merged = run.directory("merge/ta")
    old = weights(merged / "model")
    shutil.rmtree(merged)
    assert run.pending() == {"merge/ta"}
    assert run.command() == 0
    after = run.stamps()
    assert {path for path in after if after[path] != before.get(path)} == {str(merged)}
    new = weights(merged / "model")
    assert all(np.array_equal(new[k], old[k]) for k in old)  # seeded: byte for byte


def test_chains_are_taken_apart_by_model(run):
    script = [sys.executable, str(ROOT / "tools/tiny_family/chains.py"), str(run.workspace), str(run.recipe)]
    head, _, *rows = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    shown = head.removesuffix(" |").split(" | ")[1:]
    right = rows[-1].removeprefix("| answer is right | ").split(" | ")
    for cell in (row for row in records(run, "table2") if row["benchmark"] == "Average"):
        name = f"student-s/{cell['method']}"
        if cell["model"].endswith("student-s"):
            assert right[shown.index(name)].startswith(f"{100 * float(cell['accuracy']):.1f} ["), name


def test_the_map_of_two_methods_has_their_difference_in_the_tables(run, tmp_path):
    pair = ["MiCoTA", "Strong Teacher CoT"]
    script = [sys.executable, str(ROOT / "tools/heatmap.py"), str(run.workspace), str(run.recipe)]
    script += ["--minus", *pair, "-o", str(tmp_path / "map.svg")]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    averages = (row for row in records(run, "table2") if row["benchmark"] == "Average")
    shown = {row["method"]: float(row["accuracy"]) for row in averages if "student-s" in row["model"]}
    ours, theirs = (shown[name] for name in pair)
    cell = said.splitlines()[-1].split(" | ")[-1]
    assert cell.startswith(f"{100 * (ours - theirs):+.1f} [") and f", {100 * ours:.1f} |" in cell
    assert f">{100 * (ours - theirs):+.1f}</text>" in (tmp_path / "map.svg").read_text()


def test_a_corpus_of_the_likeliest_responses_has_one_a_prompt_with_the_least_bpc(run, tmp_path):
    words = [str(run.workspace), str(run.recipe), "--under", "student-s", "-o"]
    means, chosen = [], []
    near = ["--within", "4"]  # no longer than five times the other one

    def choose(*extra):
        file = tmp_path / "o.jsonl"
        script = [sys.executable, str(ROOT / "tools/choose_by_bpc.py"), *words, str(file), *extra]
        return subprocess.run(script, capture_output=True, text=True, check=True).stdout, read_jsonl(file)

    for extra in ([], ["--highest"], near, [*near, "--highest"]):
        said, rows = choose(*extra)
        assert len({row["prompt"] for row in rows}) == len(rows) > 0 and f", {len(rows)} of" in said
        means.append(sum(row["bpc"] for row in rows) / len(rows))
        chosen.append({row["prompt"]: row["response_tokens"] for row in rows})
    assert means[0] < means[1] and means[2] < means[3]
    _, _, low, high = chosen
    assert low.keys() == high.keys() and 0 < len(low) <= len(chosen[0])
    assert all(max(low[p], high[p]) <= 5 * min(low[p], high[p]) for p in low)
    everything = choose("--below", "99")[1]
    middle = statistics.median(row["bpc"] for row in everything)
    below = choose("--below", str(middle))[1]
    assert sorted(row["bpc"] for row in below) == sorted(r["bpc"] for r in everything if r["bpc"] < middle)
