"""What becomes of finished steps: damage is found, unused ones can go, a checkpoint can be handed on."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from huggingface_hub import DatasetCard, ModelCard

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.references import ModelRef
from micota_lf.run.snakemake import pending_steps
from micota_lf.run.step import LEASE, RUN_LEASE, run_step
from micota_lf.stages import stage
from micota_lf.system import locks
from micota_lf.system.files import write_json, write_text
from micota_lf.system.locks import lease

QUICK = ["generation.backend=fake", "filter.verdict=none", "prompts.limit=20"]
STUDENT = ModelRef("tiny:student-s").local
TRAINED = "train/student-s/strong"
SCORE = {"n": 200, "legacy": 120, "symbolic": 130, "truncated": 2, "mean_response_tokens": 88.0}
RESULTS = {
    "filter": {"responses": 20, "reasons": {"kept": 13, "wrong": 7}, "mean_response_tokens": 9.0},
    "evaluate": {"micota_tiny_two": SCORE, "micota_tiny_three": SCORE},
    "merge": {}, "train": {},
}  # fmt: skip


class Runs:
    """A workspace whose steps are finished by hand: no engine, but the real bookkeeping."""

    def __init__(self, workspace, monkeypatch, *overrides):
        self.workspace, self.patch = workspace, monkeypatch
        self.plan = compile_plan(load_recipe(TINY, [*QUICK, *overrides]))

    def step(self, slot):
        return self.plan.steps[self.plan.slots[slot]]

    def directory(self, slot):
        return self.workspace / self.step(slot).directory

    def finish(self, slot):
        """Do the step in a slot with a copy of a tiny model, and what an engine leaves beside it."""
        kind = self.step(slot).kind

        def outputs(step):
            if kind in ("train", "merge"):
                shutil.copytree(STUDENT, step.directory / "model", dirs_exist_ok=True)
                for name in ("training_args.bin", "optimizer.pt", "trainer_log.jsonl", "README.md"):
                    write_text(step.directory / "model" / name, "/home/somebody/runs")
            write_text(step.directory / "log.txt", "words")
            write_text(step.directory / "corpus.jsonl", "{}\n")
            return RESULTS[kind]

        made = replace(stage(kind), run=outputs)
        self.patch.setattr(f"micota_lf.stages.{kind}.STAGE", made)
        run_step(self.plan, self.step(slot).id, self.workspace)
        return self.directory(slot)

    def main(self, command, *words):
        return main([command, *words, "--workspace", str(self.workspace)])

    def verify(self, *words):
        return self.main("verify", str(TINY), *words, *QUICK)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    made = Runs(tmp_path / "work space", monkeypatch)
    made.finish("filter/strong")
    made.finish(TRAINED)
    return made


def test_done_json_holds_the_size_and_the_sha256_of_every_output_and_of_no_log(runs):
    directory = runs.directory(TRAINED)
    outputs = json.loads((directory / "done.json").read_text())["outputs"]
    weights = (directory / "model" / "model.safetensors").read_bytes()
    assert outputs["model/model.safetensors"] == {
        "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    assert {"corpus.jsonl", "model/config.json", "model/tokenizer.json"} <= set(outputs)
    assert not {"log.txt", "model/trainer_log.jsonl", "step.json"} & set(outputs)


def test_verify_says_ok_of_each_finished_step_with_or_without_a_recipe(runs, capsys):
    assert runs.verify() == runs.main("verify") == runs.main("verify", "--quick") == 0
    out = capsys.readouterr().out
    name = runs.directory(TRAINED).name
    assert out.count(f"train/{name}: ok\n") == 3 and "2 finished steps, none is damaged" in out


def test_verify_of_a_recipe_looks_at_its_own_steps_alone(runs, capsys):
    assert runs.main("verify", str(TINY), *QUICK, "generation.top_p=0.5") == 0
    assert capsys.readouterr().out == "0 finished steps, none is damaged\n"


def test_verify_explain_and_gc_tell_programs_one_line_of_json(runs, capsys):
    def told(code, *words):
        assert runs.main(*words, "--json") == code
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    trained, kept = f"train/{runs.directory(TRAINED).name}", f"filter/{runs.directory('filter/strong').name}"
    assert told(0, "verify") == {trained: [], kept: []}
    (runs.directory(TRAINED) / "model" / "tokenizer.json").unlink()
    assert told(1, "verify")[trained] == ["missing model/tokenizer.json"]
    (one,) = told(0, "explain", str(TINY), TRAINED, *QUICK)
    assert one["id"] == runs.plan.slots[TRAINED] and one["reasons"]
    assert told(0, "gc", str(TINY)).keys() == {trained, kept}
    assert all(size > 0 for size in told(0, "gc", str(TINY), "--delete").values())
    assert told(0, "gc", str(TINY)) == {}


def test_weights_truncated_after_the_fact_are_found_and_the_way_out_works(runs, capsys):
    directory = runs.directory(TRAINED)
    weights = directory / "model" / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:100])
    for words in ([], ["--quick"]):
        assert runs.verify(*words) == 1
        shown = capsys.readouterr()
        assert f"{directory.name}: changed model/model.safetensors: 100 bytes, was {size}\n" in shown.out
        assert "1 of 2 finished steps are damaged" in shown.err and f"rm -r '{directory}'" in shown.err
    assert runs.plan.slots[TRAINED] not in pending_steps(runs.plan, runs.workspace)
    shutil.rmtree(directory)
    assert runs.plan.slots[TRAINED] in pending_steps(runs.plan, runs.workspace)
    assert runs.verify() == 0


def test_a_changed_byte_is_found_by_the_hash_and_not_by_sizes(runs, capsys):
    weights = runs.directory(TRAINED) / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert runs.verify("--quick") == 0
    assert runs.verify() == 1
    assert "changed model/model.safetensors: SHA-256 " in capsys.readouterr().out


def test_every_missing_and_changed_file_of_a_step_is_on_its_line(runs, capsys):
    directory = runs.directory(TRAINED)
    (directory / "model" / "tokenizer.json").unlink()
    (directory / "corpus.jsonl").write_text("")
    assert runs.verify() == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if directory.name in line)
    assert line.endswith(": changed corpus.jsonl: 0 bytes, was 3; missing model/tokenizer.json")


@pytest.mark.parametrize("text", ["", '{"resu', "[1]", "{}", "null", '{"results": 3}', "\0\0"])
@pytest.mark.parametrize("command", ["plan", "run", "report", "verify", "explain"])
def test_a_damaged_done_json_is_one_line_with_a_way_out_in_every_command(runs, capsys, command, text):
    directory = runs.directory("filter/strong")
    (directory / "done.json").write_text(text)
    words = [str(TINY), *(["filter/strong"] if command == "explain" else []), *QUICK]
    assert runs.main(command, *words) == (1 if command == "verify" else 2)
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if "done.json" in line]
    assert len(lines) == 1 and str(directory / "done.json") in lines[0], shown
    assert f"delete {directory}" in lines[0]


@pytest.mark.parametrize("outputs", [3, {"a": 1}, {"a": {"bytes": 1}}, {"a": {"bytes": "x", "sha256": ""}}])
def test_outputs_that_are_not_sizes_and_hashes_are_damage_too(runs, capsys, outputs):
    write_json(runs.directory("filter/strong") / "done.json", {"results": {}, "outputs": outputs})
    assert runs.verify() == 1
    assert "done.json: damaged, `outputs` are not sizes and hashes" in capsys.readouterr().out


def test_gc_lists_what_no_recipe_refers_to_and_deletes_only_when_asked(runs, recipe_file, capsys):
    path = recipe_file(generation={"backend": "fake"}, filter={"verdict": "none"}, prompts={"limit": 20})
    other = Runs(runs.workspace, runs.patch, "generation.top_p=0.5")
    unused = other.finish("filter/strong")
    (runs.workspace / "reports" / "tiny-no-gap").mkdir(parents=True)
    (runs.workspace / "train" / "notes").mkdir()  # somebody's own
    assert runs.main("gc", str(path)) == 0
    out = capsys.readouterr().out
    assert f"filter/{unused.name}\n" in out and "in 1 steps, to delete with --delete" in out
    assert unused.is_dir()
    assert runs.main("gc", str(path), "--delete") == 0
    assert not unused.exists() and (runs.workspace / "train" / "notes").is_dir()
    assert runs.directory(TRAINED).is_dir() and (runs.workspace / "reports" / "tiny-no-gap").is_dir()
    assert runs.main("gc", str(path)) == 0
    assert "in 0 steps" in capsys.readouterr().out


def test_gc_keeps_the_steps_of_every_recipe_that_is_given(runs, recipe_file, tmp_path, capsys):
    path = recipe_file(generation={"backend": "fake"}, filter={"verdict": "none"}, prompts={"limit": 20})
    second = tmp_path / "second.yaml"
    second.write_text("extends: recipe.yaml\ngeneration: {top_p: 0.5}\n")
    Runs(runs.workspace, runs.patch, "generation.top_p=0.5").finish("filter/strong")
    assert runs.main("gc", str(path), str(second)) == 0
    assert "in 0 steps" in capsys.readouterr().out


def test_gc_deletes_nothing_while_a_run_is_at_work(runs, capsys, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    with lease(runs.workspace / RUN_LEASE, "busy"):
        assert runs.main("gc", str(TINY), "--delete") == 3
    assert "nothing was deleted" in capsys.readouterr().err
    assert runs.directory(TRAINED).is_dir()


def test_gc_leaves_a_step_that_somebody_is_doing(runs):
    directory = runs.directory("filter/strong")
    with lease(directory / LEASE, "busy"):
        assert runs.main("gc", str(TINY), "--delete") == 0
    assert directory.is_dir() and not runs.directory(TRAINED).exists()


def test_gc_follows_no_link_out_of_the_workspace(runs, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(runs.directory("filter/strong"), outside / "kept-0123456789ab")
    (runs.workspace / "filter" / "link-0123456789ab").symlink_to(outside / "kept-0123456789ab")
    (runs.workspace / "mix").symlink_to(outside)
    (runs.directory(TRAINED) / "away").symlink_to(outside)
    before = sorted(outside.rglob("*"))
    assert runs.main("gc", str(TINY), "--delete") == 0
    assert not runs.directory(TRAINED).exists()
    assert sorted(outside.rglob("*")) == before and (runs.workspace / "mix").is_symlink()


@pytest.mark.parametrize("words", [["gc", str(TINY), "--delete"], ["verify"]])
def test_a_workspace_that_is_not_there_is_an_error_and_is_not_made(tmp_path, capsys, words):
    assert main([*words, "--workspace", str(tmp_path / "none")]) == 2
    assert "--workspace: no such directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def export(runs, slot, output, *words):
    return runs.main("export", slot, str(output), "--recipe", str(TINY), *words, *QUICK)


@pytest.mark.slow  # transformers
def test_an_export_loads_and_leaves_logs_and_pickles_behind(runs, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert export(runs, TRAINED, tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() > 0
    assert not list(tmp_path.glob(".out*"))


def test_the_card_has_settings_data_scores_with_intervals_and_steps_but_no_local_path(runs, tmp_path):
    runs.finish("evaluate/student-s/Strong Teacher CoT")
    assert export(runs, TRAINED, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    index = front.pop("model-index")[0]["results"]
    assert front == {
        "license": "apache-2.0", "tags": ["micota"],
        "library_name": "transformers", "pipeline_tag": "text-generation",
    }  # fmt: skip
    assert {one["dataset"]["type"]: one["metrics"][0]["value"] for one in index}["micota_tiny_two"] == 65.0
    (first, *_) = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert (first.metric_value, first.dataset_type) == (65.0, "micota_tiny_two")
    assert "n=200, 95% 58.2% to 71.3%" in index[0]["metrics"][0]["name"]
    settings = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert settings["train student-s-on-teacher"]["train"]["learning_rate"] == 1e-3
    assert "recipe `tiny-no-gap`" in card and "- base: student-s (license: apache-2.0)" in card
    assert "| strong | teacher | 20 | 13 | 9.0 | 13 kept, 7 wrong |" in card
    assert "| 65.0 [58.2, 71.3]<br>n=200, 88 tok, 1.0% cut |" in card
    assert all(f"`{runs.plan.slots[slot]}`" in card for slot in ("generate/teacher", TRAINED))
    assert "llamafactory 0.9.5" in card
    assert str(tmp_path) not in card and str(STUDENT) not in card


def test_a_corpus_is_exported_with_a_card_that_loads_and_counts_its_rows(runs, tmp_path):
    runs.finish("filter/strong")
    assert export(runs, "filter/strong", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "corpus.jsonl"}
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.configs[0]["data_files"] == "corpus.jsonl"
    assert "| strong | teacher | 20 | 13 | 9.0 | 13 kept, 7 wrong |" in card.content
    assert "the reasoning before it was not checked" in card.content


def test_the_card_of_a_merge_names_hub_parents_their_licence_and_data(runs, monkeypatch, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    file = ModelRef.file
    monkeypatch.setattr(
        ModelRef, "file", lambda model, name: readme if name == "README.md" else file(model, name)
    )
    words = ["students.assistant.model=Qwen/Qwen2.5-1.5B-Instruct", "prompts.path=open-r1/some-set"]
    hub = Runs(runs.workspace, monkeypatch, *words)
    hub.finish("merge/ta")
    assert export(runs, "merge/ta", tmp_path / "out", *words) == 0
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert front["base_model"] == ["Qwen/Qwen2.5-1.5B-Instruct"] and front["license"] == "apache-2.0"
    assert front["datasets"] == ["open-r1/some-set"] and "mergekit" in front["tags"]


@pytest.mark.parametrize(
    ("slot", "words", "message"),
    [
        ("evaluate/teacher", [], "STEP: evaluate teacher leaves no model and no corpus; name a train"),
        ("merge/ta", [], "is not done; run it first"),
        ("train/student-s", [], "STEP: 'train/student-s' names 4 steps; name one"),
        ("train/student-x", [], "STEP: 'train/student-x' names no step; did you mean 'train/student-"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(
    runs, tmp_path, capsys, monkeypatch, slot, words, message
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert export(runs, slot, tmp_path / "out", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "out").exists()


def test_a_directory_in_use_is_not_exported_to_and_an_empty_one_is(runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert export(runs, TRAINED, tmp_path / "out") == 0
    assert export(runs, TRAINED, tmp_path / "out") == 2
    assert "exists and is not an empty directory" in capsys.readouterr().err


def test_a_damaged_model_is_not_exported(runs, tmp_path, capsys):
    (runs.directory(TRAINED) / "model" / "config.json").write_text("{}")
    assert export(runs, TRAINED, tmp_path / "out") == 2
    assert "changed model/config.json" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_command_that_uploads_an_exported_folder_is_one_of_the_hubs_own(runs, tmp_path, capsys):
    assert export(runs, TRAINED, tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()[-1].rpartition(": ")[2].split()
    assert said == ["hf", "upload", "NAME/MODEL", str(tmp_path / "out"), "--private"]
    # Offline it gets as far as the hub's address: its words have been understood.
    hub = [str(Path(sys.executable).with_name("hf")), *said[1:]]
    done = subprocess.run(hub, capture_output=True, text=True)
    assert done.returncode != 0 and "repos/create: offline mode is enabled" in done.stdout + done.stderr
