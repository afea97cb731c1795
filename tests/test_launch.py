"""Training on several processes: the batch stays the recipe's, and the engines accept theirs."""

import json
import sys
from importlib.util import find_spec

import pytest
import yaml
from conftest import TINY

from micota_lf import (
    RecipeError,
    StepFailed,
    UserError,
    compile_plan,
    deepspeed_config,
    load_recipe,
    train_config,
)
from micota_lf.inputs.references import ModelRef
from micota_lf.run.snakemake import check_engines
from micota_lf.run.step import execute
from micota_lf.stages import Context
from micota_lf.stages.train import RENDEZVOUS, _data, finish, launch_env, write_training
from micota_lf.system.files import write_jsonl

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")

MACHINES = [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]  # GPUs a node, nodes
PAPER_BATCHES = (32, 128, 96)
# LLaMA-Factory refuses what is not installed.
ON_GPUS = "train.use_cpu=false"
WITHOUT_LIGER = ["train.enable_liger_kernel=false"] if find_spec("liger_kernel") is None else []


def on(gpus, nodes, batch, *more):
    words = [
        f"hardware.gpus={gpus}", f"hardware.nodes={nodes}", f"train.global_batch_size={batch}",
        "train.per_device_train_batch_size=1", *more,
    ]  # fmt: skip
    return load_recipe(TINY, words)


def train_step(recipe):
    plan = compile_plan(recipe)
    return plan, plan.steps[plan.slots["train/student-s/micota"]]


@pytest.fixture
def no_rendezvous(monkeypatch):
    for name in RENDEZVOUS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("batch", PAPER_BATCHES)
@pytest.mark.parametrize(("gpus", "nodes"), MACHINES)
def test_the_global_batch_is_the_papers_on_any_machine_and_llamafactory_accepts_it(
    gpus, nodes, batch, tmp_path
):
    from llamafactory.hparams import get_train_args

    recipe = on(gpus, nodes, batch, *WITHOUT_LIGER)
    config = train_config(recipe, "student-s", "micota", output_dir=str(tmp_path / "new"))
    processes = int(launch_env_of(recipe).get("NPROC_PER_NODE", 1))
    assert processes == gpus
    accumulated = config["gradient_accumulation_steps"] * config["per_device_train_batch_size"]
    assert accumulated * processes * nodes == batch
    _, _, arguments, _, _ = get_train_args(yaml.safe_load(yaml.safe_dump({**config, "use_cpu": True})))
    assert arguments.gradient_accumulation_steps * gpus * nodes == batch


def launch_env_of(recipe):
    how = train_step(recipe)[1].how
    return launch_env({**how, "nodes": 1}, "/venv/bin/llamafactory-cli")


def test_a_batch_that_two_machines_cannot_split_is_an_error():
    with pytest.raises(RecipeError, match="24 does not split into per_device_train_batch_size 1 x 16"):
        on(8, 2, 24)


def test_where_and_how_a_training_runs_changes_no_step():
    one = compile_plan(on(1, 1, 32))
    for recipe in (
        on(8, 2, 32),
        on(8, 1, 32, "train.deepspeed=zero3", "train.use_cpu=false"),
        on(0, 1, 32, "hardware.cpu_processes=2"),
    ):
        assert set(compile_plan(recipe).steps) == set(one.steps)


def test_one_process_needs_no_launcher_and_several_are_counted(no_rendezvous):
    assert launch_env(train_step(on(0, 1, 32))[1].how, "/venv/bin/llamafactory-cli") == {}
    env = launch_env_of(on(0, 1, 32, "hardware.cpu_processes=2"))
    assert env["FORCE_TORCHRUN"] == "1" and env["NPROC_PER_NODE"] == "2"
    assert env["NNODES"] == "1" and env["NODE_RANK"] == "0"
    assert env["PATH"].startswith("/venv/bin:")  # torchrun stands beside llamafactory-cli


def test_several_machines_join_or_are_told_who_they_are(monkeypatch, no_rendezvous):
    plan, step = train_step(on(8, 2, 32, "train.enable_liger_kernel=false"))
    check_engines(plan, [step.id])
    assert "NODE_RANK" not in launch_env(step.how, "/venv/bin/llamafactory-cli")  # others join
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=r"hardware.nodes: 2, but MASTER_PORT is not set"):
        check_engines(plan, [step.id])
    monkeypatch.setenv("MASTER_PORT", "29500")
    env = launch_env(step.how, "/venv/bin/llamafactory-cli")
    assert (env["NNODES"], env["NODE_RANK"], env["MASTER_ADDR"]) == ("2", "1", "node0")
    assert step.gpus == 8  # of one machine: what Snakemake hands out


def test_deepspeed_has_its_file_beside_the_yaml(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.train.find_spec", lambda name: True)
    recipe = on(2, 1, 32, "train.deepspeed=zero3", "train.use_cpu=false")
    assert train_config(recipe, "student-s", "micota")["deepspeed"] == "ds_zero3.json"
    step = train_step(recipe)[1]
    write_jsonl(tmp_path / "c.jsonl", [{"prompt": "What is 1+1?", "response": "2"}])
    inputs = {"model": ModelRef("tiny:student-s"), "corpus": ModelRef(str(tmp_path / "c.jsonl"))}
    context = Context(tmp_path, step.config, inputs, step.how, step.gpus)
    write_training(context, _data(context, "/venv/bin/llamafactory-cli"))
    env = launch_env(step.how, "/venv/bin/llamafactory-cli")
    assert env["FORCE_TORCHRUN"] == "1" and env["NPROC_PER_NODE"] == "2"
    named = yaml.safe_load((tmp_path / "train.yaml").read_text())["deepspeed"]
    assert named == str(tmp_path / "ds_zero3.json")
    assert json.loads((tmp_path / "ds_zero3.json").read_text()) == deepspeed_config("zero3")


def test_an_absent_deepspeed_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr("micota_lf.stages.train.find_spec", lambda name: None)
    plan, step = train_step(on(1, 1, 32, "train.deepspeed=zero2", "train.use_cpu=false"))
    with pytest.raises(UserError, match=r"zero2, but the package deepspeed is not installed; pip install"):
        check_engines(plan, [step.id])


def test_the_package_of_a_report_is_asked_for_before_anything_runs_and_the_report_makes_nothing_anew():
    plan, step = train_step(on(0, 1, 32, "train.report_to=trackio"))
    assert step.id == train_step(on(0, 1, 32))[1].id
    if find_spec("trackio") is None:
        words = (
            "report_to: trackio, but the package trackio is not installed; pip install trackio, or set train"
        )
        with pytest.raises(UserError, match=words):
            check_engines(plan, [step.id])
    assert train_config(on(0, 1, 32), "student-s", "micota")["report_to"] == "none"


def test_gpus_get_the_fused_loss_and_flash_attention_and_its_absence_is_said(monkeypatch):
    plan, step = train_step(on(1, 1, 32, ON_GPUS))
    monkeypatch.setattr("micota_lf.stages.train.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"enable_liger_kernel: True, but the package liger_kernel is not"):
        check_engines(plan, [step.id])
    config = train_config(on(1, 1, 32, ON_GPUS, "train.bf16=true"), "student-s", "micota")
    assert config["enable_liger_kernel"] is True and config["flash_attn"] == "fa2"
    for words in (ON_GPUS, "train.enable_liger_kernel=false", "train.flash_attn=sdpa"), ():
        config = train_config(on(1, 1, 32, "train.bf16=true", *words), "student-s", "micota")
        assert "enable_liger_kernel" not in config and config["flash_attn"] != "fa2"
    assert (
        train_config(on(1, 1, 32, ON_GPUS), "student-s", "micota")["flash_attn"] == "auto"
    )  # it computes in 16 bits


def test_deepspeed_and_use_cpu_exclude_each_other():
    with pytest.raises(RecipeError, match="deepspeed: zero3 cannot train with use_cpu"):
        on(1, 1, 32, "train.deepspeed=zero3", "train.use_cpu=true")


@needs_deepspeed
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeeds_own_class_accepts_the_file(stage):
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    config = deepspeed_config(stage)
    assert HfDeepSpeedConfig(dict(config)).is_zero3() == (stage == "zero3")
    filled = {key: value for key, value in config.items() if value != "auto"}
    filled |= {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "fp16": {"enabled": False}}
    zero = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    parsed = DeepSpeedConfig({**filled, "zero_optimization": zero})
    assert parsed.zero_optimization_stage == int(stage[-1])
    assert parsed.zero_config.gather_16bit_weights_on_model_save == (stage == "zero3")


@needs_deepspeed
def test_llamafactory_accepts_a_yaml_with_deepspeed(tmp_path, monkeypatch):
    from llamafactory.hparams import parser

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **ADDRESS}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "ds_zero3.json").write_text(json.dumps(deepspeed_config("zero3")))
    recipe = on(1, 1, 32, "train.deepspeed=zero3", "train.use_cpu=false", *WITHOUT_LIGER)
    config = train_config(
        recipe, "student-s", "micota", dataset_dir=str(tmp_path), output_dir=str(tmp_path / "new")
    )
    _, _, arguments, _, _ = parser.get_train_args(config)
    assert arguments.hf_deepspeed_config.is_zero3()


ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}


@pytest.mark.slow
def test_two_real_processes_train_with_the_batch_that_was_asked_for(tmp_path):
    recipe = load_recipe(
        TINY,
        ["hardware.cpu_processes=2", "train.per_device_train_batch_size=2", "train.num_train_epochs=1"],
    )
    step = train_step(recipe)[1]
    assert step.how["gradient_accumulation_steps"] == 4
    rows = [{"prompt": f"What is {n} + 1?", "response": f"\\boxed{{{n + 1}}}"} for n in range(32)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    inputs = {"model": ModelRef("tiny:student-s"), "corpus": ModelRef(str(tmp_path / "corpus.jsonl"))}
    results = execute(step, inputs, tmp_path / "step", {})
    log = (tmp_path / "step" / "log.txt").read_text()
    assert "Total train batch size (w. parallel, distributed & accumulation) = 16" in log
    assert results["steps"] == 2 and results["trained_tokens"] > 32 * 10


def test_a_training_whose_loss_is_no_number_fails_and_is_not_taken_for_finished(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "all_results.json").write_text("{}")
    history = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": float("nan")}]
    state = {"global_step": 2, "max_steps": 2, "log_history": history}
    (model / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(StepFailed, match=r"no number \(nan\)"):
        finish(model)
    assert not model.exists()


# Stands in for a training that loses one matrix of `change` on its way to the disk.
LOSES_ONE = """
import json, shutil, sys, yaml
from pathlib import Path
from safetensors.torch import load_file, save_file
change, model = sys.argv[1], Path("model")
start = yaml.safe_load(Path("train.yaml").read_text())["model_name_or_path"]
shutil.copytree(start, model)
weights = load_file(model / "model.safetensors")
lost = weights["model.layers.1.mlp.up_proj.weight"]
{"none": lambda: None, "noise": lost.normal_, "nan": lambda: lost.fill_(float("nan"))}[change]()
save_file(weights, model / "model.safetensors")
(model / "all_results.json").write_text("{}")
(model / "trainer_state.json").write_text(json.dumps({"global_step": 1, "max_steps": 1}))
"""


@pytest.mark.parametrize("change", ["none", "noise", "nan"])
def test_a_matrix_that_is_lost_on_the_way_to_the_disk_fails_the_training(change, tmp_path):
    (tmp_path / "loses.py").write_text(LOSES_ONE)
    engine = f"{sys.executable} {tmp_path / 'loses.py'} {change}"
    _, step = train_step(load_recipe(TINY, [f"engines.llamafactory={engine}"]))
    write_jsonl(tmp_path / "corpus.jsonl", [{"prompt": "1 + 1?", "response": "2"}] * 32)
    inputs = {"model": ModelRef("tiny:student-s"), "corpus": ModelRef(str(tmp_path / "corpus.jsonl"))}
    if change == "none":
        assert execute(step, inputs, tmp_path / "step", {})["steps"] == 1
        return
    lost = r"1 saved matrices, such as model\.layers\.1\.mlp\.up_proj\.weight \(cosine (nan|-?0\.0..)\), have"
    with pytest.raises(StepFailed, match=lost):
        execute(step, inputs, tmp_path / "step", {})
    assert not (tmp_path / "step" / "model").exists()
