"""The paper's recipe: its values, their sources, and that the engines accept all it renders."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import TINY

from micota_lf import load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.chat import load_chat
from micota_lf.inputs.references import ModelRef
from micota_lf.plan.compile import compile_plan
from micota_lf.recipe.lineage import training
from micota_lf.recipe.load import load_layers, source_rows
from micota_lf.recipe.sections import Evaluation, Filter
from micota_lf.recipe.tasks import chosen_tasks
from micota_lf.stages import Context, Settings, evaluate, stage
from micota_lf.stages.merge import render as render_merge
from micota_lf.stages.preflight import inspect
from micota_lf.stages.train import render as render_training
from micota_lf.system.files import read_jsonl

RECIPES = TINY.parent
PAPER = RECIPES / "micota.yaml"


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(PAPER)


@pytest.fixture(scope="module")
def plan(recipe):
    return compile_plan(recipe)


class Asked(Exception):
    """An engine's command, in place of its start."""


class Asking(Context):
    def engine(self, argv, **env):
        raise Asked(argv)


def contexts(plan, kind, workspace):
    return [
        Asking(workspace / step.directory, step.config, plan.inputs_of(step, workspace), step.how, step.gpus)
        for step in plan.steps.values()
        if step.kind == kind
    ]


@pytest.mark.parametrize(
    ("profile", "gpus"),
    [
        ("cpu", {"train": {0}, "generate": {0}, "evaluate": {0}, "bpc": {0}}),
        ("8x80gb", {"train": {8}, "generate": {8}, "evaluate": {1, 2, 3, 6, 8}, "bpc": {1, 2}}),
        ("slurm", {"train": {8}, "generate": {8}, "evaluate": {1, 2, 3, 6, 8}, "bpc": {1, 2}}),
    ],
)
def test_a_hardware_profile_gives_each_kind_its_gpus_and_changes_no_batch(tmp_path, recipe, profile, gpus):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": [str(PAPER), str(RECIPES / "hardware" / f"{profile}.yaml")]}))
    found = load_recipe(path)
    steps = compile_plan(found).steps.values()
    assert {kind: {step.gpus for step in steps if step.kind == kind} for kind in gpus} == gpus
    assert found.hardware.slurm == ({"time": "2d", "mem": "200G"} if profile == "slurm" else {})
    assert found.train.global_batch_size == recipe.train.global_batch_size


@pytest.mark.parametrize(
    ("student", "corpora", "batch", "rate", "epochs"),
    [
        ("7b", ["strong", "half", "micota", "mix-long"], 32, 1e-5, 2),
        ("3b", ["strong-qwq", "half-qwq", "mix-long"], 32, 1e-5, 2),
        ("3b", ["strong", "half", "micota"], 128, 2e-5, 3),
        ("1_5b", ["strong-qwq", "half-qwq", "mix-long"], 32, 1e-5, 2),
        ("1_5b", ["strong", "half", "micota"], 96, 2e-5, 3),
        ("14b", ["strong", "strong-qwq"], 32, 1e-5, 2),
    ],
)
def test_hyper_parameters_are_those_of_appendix_6_2(recipe, student, corpora, batch, rate, epochs):
    for corpus in corpora:
        found = training(recipe, student, corpus)
        assert (found.global_batch_size, found.learning_rate, found.num_train_epochs) == (batch, rate, epochs)
        assert (found.lr_scheduler_type, found.weight_decay) == ("cosine", 0.01)


def test_every_value_has_a_source_and_a_changed_one_says_so():
    rows = source_rows(*load_layers(PAPER))
    assert len(rows) > 180
    for row in rows:
        assert row.source.split(":")[0] in ("paper", "inferred", "ours"), row
    found = {row.key: row for row in rows}
    for key in ("students.3b.train_for.r1.learning_rate", "train.learning_rate"):
        assert found[key].source.startswith("paper: appendix 6.2")
        assert re.search("; inferred for half(,| and) micota", found[key].source)
    assert "mix-long" in found["train.learning_rate"].source
    assert found["assistants.ta.merge.weight"].source.startswith("inferred")
    assert found["train.optim"].set_in == "default" and found["train.optim"].source.startswith("ours")
    changed = {r.key: r for r in source_rows(*load_layers(PAPER, ["train.learning_rate=3e-5"]))}
    assert changed["train.learning_rate"].source == f"changed (was {found['train.learning_rate'].source})"
    assert changed["train.learning_rate"].set_in == "command line"
    assert changed["train.weight_decay"].source == found["train.weight_decay"].source


def test_the_sources_are_printed_as_a_table(capsys):
    assert main(["plan", str(PAPER), "--sources"]) == 0
    printed = capsys.readouterr().out
    assert "paper: section 4.2 (16K)" in printed and "assistants.ta.merge.preset" in printed


@pytest.mark.slow
def test_llamafactory_accepts_every_training_of_the_paper(plan, tmp_path):
    """Without a GPU bf16 needs use_cpu; DeepSpeed's file and packages that are absent are test_launch's."""
    from llamafactory.hparams import get_train_args

    steps = contexts(plan, "train", tmp_path)
    assert len(steps) == 24
    for number, step in enumerate(steps):
        changed = {"deepspeed": "none", "use_cpu": True, "enable_liger_kernel": False}
        how = {**step.how, "train": {**step.how["train"], **changed}}
        model = replace(step.inputs["model"], ref="m")
        made = Settings(step.config, how)
        config = render_training(made, model, str(tmp_path), str(tmp_path / str(number)))
        model, data, arguments, _, _ = get_train_args(yaml.safe_load(yaml.safe_dump(config)))
        assert data.cutoff_len == 18432 and data.template == "qwen" and arguments.bf16
        batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * 8
        assert batch == step.config["train"]["global_batch_size"]
        assert not model.trust_remote_code


def test_mergekit_accepts_the_merges_of_both_presets(plan, tmp_path):
    from mergekit.config import MergeConfiguration

    other = compile_plan(load_recipe(RECIPES / "micota-pretrained-merge.yaml"))
    sizes = {}
    for made in (plan, other):
        (step,) = contexts(made, "merge", tmp_path)
        given = {role: ref.ref for role, ref in step.inputs.items()}
        rendered = render_merge(
            step.config["merge"], given["before"], given["after"], given.get("pretrained")
        )
        parsed = MergeConfiguration.model_validate(rendered)
        assert yaml.safe_load(parsed.to_yaml())["parameters"] == rendered["parameters"]
        sizes[Path(str(parsed.base_model)).parent.name[:-13]] = len(parsed.models)
    assert sizes == {"qwen2.5-14b-instruct": 1, "qwen2.5-14b": 2}


def test_lm_eval_accepts_every_evaluation_and_bpc(plan, tmp_path, monkeypatch):
    from lm_eval._cli.harness import HarnessCLI

    monkeypatch.setattr("micota_lf.stages.bpc.whole_rows", lambda corpus: ())  # no corpus is there

    def ask(step):
        """As once its server is up."""
        spec = step.section(Evaluation, tasks=dict.fromkeys(step.config["tasks"], ""), **step.how)
        words = evaluate.generation_arguments(step)
        evaluate.ask(step, spec, chosen_tasks(spec), *words, base_url="http://a/v1/chat/completions")

    parsed = Counter()
    for kind, run in (("evaluate", ask), ("bpc", stage("bpc").run)):
        for step in contexts(plan, kind, tmp_path):
            with pytest.raises(Asked) as asked:
                run(step)
            arguments = HarnessCLI()._parser.parse_args(asked.value.args[0][1:])
            if kind == "evaluate":
                assert arguments.model == "local-chat-completions" and arguments.gen_kwargs["seed"] is None
            else:
                split = arguments.model_args["tensor_parallel_size"]
                assert arguments.model == "vllm" and split == step.how["tensor_parallel"]
            parsed[kind] += 1
    assert parsed == Counter(step.kind for step in plan.steps.values() if step.kind in parsed)


def test_without_the_gpus_a_run_shows_the_plan_and_stops_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    workspace = tmp_path / "runs"
    assert main(["run", str(PAPER), "--target", "table2", "--workspace", str(workspace)]) == 2
    printed = capsys.readouterr()
    assert "train/7b/micota" in printed.out and "GPU-hours" in printed.out
    assert "hardware.gpus: 8 GPUs of 80 GiB are needed; this machine has none" in printed.err
    assert "nothing was started" in printed.err and not workspace.exists()


def test_a_step_that_does_not_fit_into_a_gpu_is_found_in_the_plan(capsys):
    assert main(["plan", str(PAPER), "--target", "baselines", "hardware.inference_gpus=1"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "generate qwen2.5-72b-instruct needs about 140 a GPU (weights 135, cache 5)" in printed
    assert ": raise hardware.inference_gpus, or lower generation.max_tokens" in printed


OFFICIAL = RECIPES / "micota-official.yaml"


def test_the_official_profile_changes_how_corpora_are_made_and_nothing_else(recipe, plan):
    """scripts/ of the official repository: build_prompt, SamplingParams, calculate_token_length, is_equiv."""
    found = load_recipe(OFFICIAL)
    assert found.generation == replace(recipe.generation, prompt_format="raw", context_len=16384)
    assert found.filter == replace(recipe.filter, verdict="legacy", max_tokens=15999)
    generating = {"name", "generation", "filter", "sources"}
    assert {key for key, value in vars(found).items() if value != vars(recipe)[key]} == generating
    official = compile_plan(found)
    shared = {slot for made in official.steps.keys() & plan.steps for slot in official.slots_of(made)}
    assert {slot.split("/")[0] for slot in shared} == {"evaluate", "fetch", "overlap"}
    assert "evaluate/7b/Instruct" in shared and "evaluate/7b/MiCoTA" not in shared


def test_the_official_profile_asks_and_filters_the_tiny_family(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    official = yaml.safe_load(OFFICIAL.read_text())
    profile = {key: official[key] for key in ("generation", "filter")}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": str(TINY), **profile}))
    words = ["prompts.limit=3", "generation.max_tokens=80", "generation.context_len=120"]
    plan = compile_plan(load_recipe(path, words))
    made = {slot: plan.steps[plan.slots[slot]] for slot in ("preflight", "generate/teacher", "filter/strong")}
    contexts = {
        slot: Context(tmp_path / step.directory, step.config, plan.inputs_of(step, tmp_path), step.how)
        for slot, step in made.items()
    }
    for step in contexts.values():
        step.directory.mkdir(parents=True)
    assert inspect(contexts["preflight"]).problems == []
    stage("generate").run(contexts["generate/teacher"])
    rows = read_jsonl(contexts["generate/teacher"].directory / "responses.jsonl")
    raw = load_chat(ModelRef("tiny:teacher")).counts(row["prompt"] for row in rows)
    assert [row["prompt_tokens"] for row in rows] == raw
    assert all(row["prompt_tokens"] + row["response_tokens"] <= 120 for row in rows)
    filtering = contexts["filter/strong"].section(Filter)
    assert (filtering.verdict, filtering.max_tokens) == ("legacy", 15999)


def test_tables_share_their_steps(plan):
    needed = {name: {plan.slots[slot] for slot in slots} for name, slots in plan.tables.items()}
    assert set(needed) == {"table1", "table2", "table3", "table4", "baselines", "figures"}
    assert needed["table3"] & needed["table2"] and needed["figures"] & needed["table1"]
    # Table 1's 14B student is the assistant before its merge.
    assert plan.slots["evaluate/14b/Strong Teacher CoT"] == plan.slots["evaluate/ta/tuned"]
    assert len(plan.steps) == 88  # eight of them fetch a model
