"""Supervised fine-tuning through LLaMA-Factory, on one or several processes, GPUs or machines.

In: a model, a corpus (JSONL with `prompt` and `response`), training settings. Out: `train.yaml`,
`dataset_info.json` (with DeepSpeed also `ds_zero3.json`; `tokens/` while several processes train), and
`model/` with weights, `trainer_log.jsonl` and `all_results.json`.

    train_config(recipe, "student-s", "micota")["gradient_accumulation_steps"]
    deepspeed_config("zero3")
    save_steps(how, ModelSize(14.8e9), tokens=118_000)     -> 110, about every half hour
    launch_env({"processes": 8, "nodes": 1, "train": {"deepspeed": "zero3"}}, "/venv/bin/llamafactory-cli")
        -> {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "8", "NNODES": "1", "NODE_RANK": "0", "PATH": ...}

LLaMA-Factory's `train` command starts torchrun itself when FORCE_TORCHRUN is set, and takes the rest from
these variables (llamafactory launcher.py). Without GPUs it needs NPROC_PER_NODE: its default is their number.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import StepFailed, UserError
from ..inputs.chat import Chat, load_chat, overlong_problem, row_lengths
from ..inputs.references import ModelRef
from ..inputs.weights import KINSHIP, ModelSize, cosines, model_size, training_flops
from ..recipe.lineage import accumulation, model_of, train_processes, training
from ..recipe.sections import NAMES, Recipe, Train
from ..system.files import (
    Row,
    read_beside,
    read_json,
    read_jsonl,
    read_note,
    write_json,
    write_jsonl,
    write_yaml,
)
from ..system.machines import meeting
from ..system.processes import engine_argv
from . import LOG, Context, Results, Settings, Stage
from .arrange import Arranged, arrange, global_batches, write_tokens

TRAININGS = ("train", "distil")  # kinds of steps that leave a trained model
CORPUS, TOKENS = "corpus", "tokens"
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"  # LLaMA-Factory's own launcher of several processes sets it likewise
# What a training runs without, or says to us alone: LLaMA-Factory does not know these keys.
OURS = ("global_batch_size", "extra", "check_template", "deepspeed", "arrange", "enable_liger_kernel")
# The package that a setting needs, and what pip installs it with; report_to's is its value.
GPU = "'micota_lf[gpu]'"
PACKAGES = {"deepspeed": ("deepspeed", GPU), "enable_liger_kernel": ("liger_kernel", GPU)}
NO_NUMBER, LOST = "the training's loss is no number", "have nothing in common with those"
SAVE_SECONDS, SAVE_STEPS = 1800.0, 500  # from checkpoint to checkpoint; steps where no time is estimated
LONGER = 1.5  # times cutoff_len: how long rows may be that share a sequence
# Which machine this is, and where the first one listens; the user or the scheduler may say it.
RENDEZVOUS = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def dataset_info(files: Mapping[str, str]) -> dict[str, Any]:
    """LLaMA-Factory's dataset registry for corpora given as name to JSONL path.

    >>> from micota_lf import dataset_info
    >>> dataset_info({"strong": "corpus.jsonl"})["strong"]["columns"]
    {'prompt': 'prompt', 'response': 'response'}
    """
    return {name: {"file_name": path, **_fixed("dataset")} for name, path in files.items()}


def train_config(
    recipe: Recipe,
    student: str,
    corpus: str,
    *,
    model_path: str | None = None,
    dataset_dir: str = ".",
    output_dir: str = "model",
) -> dict[str, Any]:
    """LLaMA-Factory's training YAML for a student on a corpus, as a dict.

    `model_path` defaults to the model's own reference. Raises UserError for an unknown name or a
    global batch that the hardware cannot split.

    >>> from micota_lf import load_recipe, train_config
    >>> config = train_config(load_recipe("recipes/micota.yaml"), "3b", "strong")
    >>> {key: config[key] for key in ("template", "learning_rate", "gradient_accumulation_steps")}
    {'template': 'qwen', 'learning_rate': 2e-05, 'gradient_accumulation_steps': 16}
    """
    made = settings(recipe, training(recipe, student, corpus))
    model = ModelRef(model_path) if model_path else model_of(recipe, student).reference
    return render(made, model, dataset_dir, output_dir)


def settings(recipe: Recipe, train: Train) -> Settings:
    """Of a training step; without a system message LLaMA-Factory's template has its own.

    The gradient accumulation is derived. Raises UserError for what the model's own template cannot go with.
    """
    clash = ["packing"] * train.packing + [f"extra.{key}" for key in train.extra if key in NAMES["own_rows"]]
    if train.template is None and clash:
        raise UserError(
            f"train.template: null cannot go with train.{clash[0]}; name a template, or drop that"
        )
    processes, figures = train_processes(recipe), recipe.estimates
    gpus = processes if recipe.hardware.gpus else 0
    on_gpu, packed = gpus > 0 and not train.use_cpu, train.packing or train.extra.get("neat_packing")
    # LLaMA-Factory takes fa2 only where flash-attn is installed, else SDPA (model/model_utils/attention.py);
    # it computes in 16 bits alone.
    fast = on_gpu and train.bf16 and train.flash_attn in ("auto", "fa2") and not packed
    train = replace(train, enable_liger_kernel=train.enable_liger_kernel and on_gpu)
    return Settings.of(
        train, gpus=gpus, fast=fast, apart={"system": recipe.prompts.system},
        processes=processes, nodes=recipe.hardware.nodes, engine=recipe.engines.llamafactory,
        gradient_accumulation_steps=accumulation(recipe, train), tflops=figures.tflops * figures.mfu,
    )  # fmt: skip


def render(made: Settings, model: ModelRef, dataset_dir: str, output_dir: str) -> dict[str, Any]:
    """Put the pieces of a training YAML together, in LLaMA-Factory's own key names."""
    values = {**made.config["train"], **made.how["train"]}
    zero = values["deepspeed"]
    optional = {
        "flash_attn": made.how["fast"] and "fa2",
        "enable_liger_kernel": values["enable_liger_kernel"],
        "save_steps": values["save_steps"] or SAVE_STEPS,
        "model_revision": model.revision,
        "default_system": made.config["system"],
        "deepspeed": str(Path(dataset_dir) / f"ds_{zero}.json") if zero != "none" else None,
    }
    return {
        "model_name_or_path": model.resolved,
        **_fixed("llamafactory"),
        "dataset": CORPUS,
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
        **{key: value for key, value in values.items() if key not in OURS},
        "gradient_accumulation_steps": made.how["gradient_accumulation_steps"],
        **{key: value for key, value in optional.items() if value},
        **values["extra"],
    }


def deepspeed_config(stage: str) -> dict[str, Any]:
    """DeepSpeed's configuration for `zero2` (optimizer and gradients split) or `zero3` (weights too).

    >>> from micota_lf import deepspeed_config
    >>> deepspeed_config("zero3")["zero_optimization"]["stage"]
    3
    """
    return dict(_fixed(stage))


def _fixed(part: str) -> Any:
    """What is the same in every training: a part of train.yaml."""
    return read_beside(__file__)[part]


def launch_env(how: Mapping[str, Any], program: str) -> dict[str, str]:
    """Environment that starts LLaMA-Factory's `program` on a step's processes; empty for a single one.

    Of several machines, it says which one this is if NODE_RANK is set. Raises UserError if a package that is
    asked for is absent, or if NODE_RANK is set without the first machine's address.
    """
    processes, nodes, zero = how["processes"], how["nodes"], how["train"]["deepspeed"]
    for key in (*PACKAGES, "report_to"):
        value = how["train"][key]
        package, what = PACKAGES.get(key, (value, value))
        if value not in (False, "none") and _lacks(program, package):
            lacks = f"train.{key}: {value}, but the package {package} is not installed"
            cure = f"pip install {what}, or set train.{key}={'false' if value is True else 'none'}"
            raise UserError(f"{lacks}; {cure}")
    if processes * nodes == 1 and zero == "none":
        return {}
    # torchrun is looked up on PATH, where an environment that is not activated does not stand.
    path = os.pathsep.join([str(Path(program).parent), os.environ.get("PATH", os.defpath)])
    env = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(processes), "NNODES": str(nodes), "PATH": path}
    if nodes == 1:
        return {**env, "NODE_RANK": "0"}  # said outright, like NNODES: the user's environment may differ
    told = {name: os.environ[name] for name in RENDEZVOUS if os.environ.get(name)}
    missing = [name for name in RENDEZVOUS if name not in told]
    if missing and "NODE_RANK" in told:  # without it this is the first one, and the others join it
        raise UserError(f"hardware.nodes: {nodes}, but {', '.join(missing)} is not set in the environment")
    return env | told


def _lacks(program: str, package: str) -> bool:
    """Whether an engine's package is not installed; one elsewhere has its own, which we do not know."""
    return Path(program).parent == Path(sys.executable).parent and find_spec(package) is None


def run(step: Context) -> Results:
    """Train; a finished one is not launched again, which would change its outputs."""
    model, made = step.directory / "model", step.how
    # Relative to the step's directory: the torchrun launcher splits its arguments at blanks.
    argv = [*engine_argv(made["engine"]), "train", "train.yaml"]
    data = _data(step, argv[0])
    if not is_complete(model):
        clear_unfinished(model)
        write_training(step, data)
        alone = {ALLOCATOR: os.environ.get(ALLOCATOR, "expandable_segments:True")} if step.gpus else {}
        env = {**step.env, **alone, **launch_env(made, argv[0])}
        with meeting(step.directory, made["nodes"], step.gpus, argv, env) as told:
            step.engine(argv, **told)
    results = finish(model)
    if not step.config["train"]["extra"].get("train_from_scratch"):
        check_weights(model, step.inputs["model"])
    if data.made:  # LLaMA-Factory counts padding too
        tokens = sum(data.lengths[row] for pack in data.made.packs for row in pack)
        results |= {"trained_tokens": tokens, "useful_share": round(data.made.share, 3)}
    return results


class _Data(NamedTuple):
    """A training's rows and their lengths, and how they are arranged (None: as LLaMA-Factory does)."""

    rows: list[Row]
    chat: Chat
    lengths: list[int]
    made: Arranged | None


def _data(step: Context, program: str) -> _Data:
    """Read a training's corpus and arrange it for its processes.

    Raises UserError if LLaMA-Factory would cut a row: it says nothing, the end is lost.
    """
    what, how, corpus = step.config["train"], step.how["train"], step.inputs["corpus"].ref
    rows, chat = read_jsonl(corpus), load_chat(step.inputs["model"])
    bare = next((n for n, row in enumerate(rows, 1) if not (row.get("prompt") and row.get("response"))), None)
    if bare or not rows:
        raise UserError(f"corpus: {corpus}: row {bare or 1}: has no prompt or no response")
    lengths, size = row_lengths(rows, chat, step.config["system"]), what["global_batch_size"]
    if problem := overlong_problem(lengths, what["cutoff_len"]):
        raise UserError(problem)
    devices, wish = step.how["processes"] * step.how["nodes"], how["arrange"]
    ours = what["template"] is None  # the rows are written with the model's own chat template
    own = what["packing"] or what["extra"].keys() & NAMES["own_rows"] or not how["check_template"]
    if not ours and ((devices == 1 and not step.gpus) or wish == "none" or own):
        return _Data(rows, chat, lengths, None)
    flash = step.how["fast"] and not _lacks(program, "flash_attn")
    packs = wish == "pack" or (wish == "auto" and flash)
    seed = what["extra"].get("data_seed", what["seed"])
    batches = global_batches(len(rows), seed, what["num_train_epochs"], what["max_steps"], size)
    micro_steps = size // devices if packs else step.how["gradient_accumulation_steps"]
    room = int(LONGER * what["cutoff_len"]) if packs else 0
    return _Data(rows, chat, lengths, arrange(lengths, batches, size, devices, micro_steps, room))


def write_training(step: Context, data: _Data) -> None:
    """Write `dataset_info.json`, `train.yaml`, arranged rows and DeepSpeed's file into a step's directory."""
    here, model, what = step.directory, step.inputs["model"], step.config["train"]
    if not (corpus := step.inputs["corpus"].ref).endswith(".jsonl"):  # LLaMA-Factory reads fewer formats
        corpus = str(here / "corpus.jsonl")
        write_jsonl(corpus, data.rows)
    write_json(here / "dataset_info.json", dataset_info({CORPUS: corpus}))
    config = render(Settings(step.config, step.how), model, str(here), str(here / "model"))
    if step.gpus and not step.how["train"]["save_steps"]:
        tokens = sum(data.lengths) / len(data.rows) * what["global_batch_size"]
        config["save_steps"] = save_steps(step.how, model_size(model), tokens)
    if not step.gpus and step.how["processes"] * step.how["nodes"] > 1 and "deepspeed" not in config:
        config["save_strategy"] = "no"  # transformers asks torch for cpu:0, which loads no optimizer state
    if made := data.made:
        if made.shared:
            config |= {"neat_packing": True, "per_device_train_batch_size": 1}
            config["gradient_accumulation_steps"] = made.micro_steps
        config["template"] = config["template"] or "empty"  # it would parse the chat template, and may fail
        together, system = config["per_device_train_batch_size"], step.config["system"]
        shutil.rmtree(here / TOKENS, ignore_errors=True)
        write_tokens(here / TOKENS, data.rows, data.chat, system, made, together)
        config |= {"tokenized_path": str(here / TOKENS), "disable_shuffling": True, "num_train_epochs": 1.0}
        if config["save_strategy"] == "epoch":  # the data set's one is all of them
            an_epoch = math.ceil(len(data.rows) / what["global_batch_size"])
            config |= {"save_strategy": "steps", "save_steps": an_epoch}
    write_yaml(here / "train.yaml", config)
    if file := config.get("deepspeed"):
        write_json(file, deepspeed_config(step.how["train"]["deepspeed"]))


def save_steps(how: Mapping[str, Any], size: ModelSize | None, tokens: float) -> int:
    """Optimizer steps of `tokens` each between two checkpoints that are about SAVE_SECONDS apart."""
    if size is None:
        return SAVE_STEPS
    speed: float = how["processes"] * how["nodes"] * how["tflops"] * 1e12
    return max(1, round(SAVE_SECONDS * speed / training_flops(size, how["train"], tokens)))


def is_complete(model: Path) -> bool:
    """Whether LLaMA-Factory finished: it writes weights, then all_results.json, then trainer_state.json."""
    state = model / "trainer_state.json"
    written = any(model.glob("*.safetensors")) and (model / "all_results.json").is_file() and state.is_file()
    facts = read_json(state) if written else {}
    return written and bool(facts["global_step"] == facts["max_steps"])


def clear_unfinished(model: Path) -> None:
    """Remove what a killed training left half done: the next one starts from the last whole checkpoint.

    LLaMA-Factory takes the newest directory, but a checkpoint is whole only with its trainer_state.json,
    which is written last; and it refuses to start where there are weights but no checkpoint.
    """
    for checkpoint in model.glob("checkpoint-*"):
        if not read_note(checkpoint / "trainer_state.json"):
            shutil.rmtree(checkpoint)
    if any(model.glob("*.safetensors")) and not any(model.glob("checkpoint-*")):
        shutil.rmtree(model)


def finish(model: Path) -> Results:
    """Loss, steps and seconds of a training. Raises StepFailed if it is not finished or its loss no number.

    Its checkpoints go: the last one's weights are the model's, and optimizer states are six times as large.
    No argument keeps transformers from writing one at the last step (trainer_callback.py,
    DefaultFlowCallback), so one more than `save_total_limit` are there for a moment. Arranged rows go too.
    """
    if not is_complete(model):
        raise StepFailed(f"LLaMA-Factory left no complete model in {model}")
    for left in (*model.glob("checkpoint-*"), *model.parent.glob(TOKENS)):
        shutil.rmtree(left)
    results, state = (read_json(model / name) for name in ("all_results.json", "trainer_state.json"))
    loss = _mean_loss(state.get("log_history", [])) or results.get("train_loss")
    if loss is not None and not math.isfinite(loss):
        shutil.rmtree(model)  # else the next run would take it for finished
        where = f"{model.with_name(LOG)} has it step by step"
        raise StepFailed(f"{NO_NUMBER} ({loss}); {where}")
    return {
        "train_loss": loss,
        "train_seconds": results.get("train_runtime"),
        "trained_tokens": results.get("num_input_tokens_seen"),
        "steps": state["global_step"],
    }


def check_weights(model: Path, start: ModelRef) -> None:
    """Raise StepFailed, and remove the model, if a saved matrix is not the one that was trained from `start`.

    DeepSpeed over gloo has saved a layer's memory before the layer's gathering was over: one matrix of noise
    or NaN in a model that is otherwise whole, while loss and gradients looked right.
    """
    found = cosines(model, start.weights())
    if lost := [name for name, cosine in found.items() if not cosine >= KINSHIP]:
        shutil.rmtree(model)
        words = f"{len(lost)} saved matrices, such as {lost[0]} (cosine {found[lost[0]]:.3f})"
        raise StepFailed(f"{words}, {LOST} {_fixed('lost')}")


def _mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Mean over all logged steps; transformers' own `train_loss` forgets those before a resume."""
    logged = [(0, 0.0), *((row["step"], row["loss"]) for row in history if "loss" in row)]
    summed = sum((step - before) * loss for (before, _), (step, loss) in pairwise(logged))
    return summed / logged[-1][0] if logged[-1][0] else None


def progress(directory: Path) -> str:
    """Step and loss from LLaMA-Factory's `trainer_log.jsonl`, or an empty string before its first line."""
    try:
        last = json.loads((directory / "model" / "trainer_log.jsonl").read_text().splitlines()[-1])
        return f"step {last['current_steps']}/{last['total_steps']} loss {last['loss']:.3f}"
    except (OSError, IndexError, ValueError, KeyError):
        return ""


STAGE = Stage(run, progress, output="model", relief=_fixed("relief"))
