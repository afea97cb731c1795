"""Supervised fine-tuning through LLaMA-Factory.

In: a model, a corpus (JSONL with `prompt` and `response`), training settings. Out: `train.yaml`,
`dataset_info.json` (with DeepSpeed also `ds_zero3.json`), and `model/` with weights, `trainer_log.jsonl` and
`all_results.json`.

    train_config(recipe, "student-s", "micota")["gradient_accumulation_steps"]
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError
from ..inputs.references import resolve
from ..recipe.lineage import accumulation, model_of, train_processes, training
from ..recipe.sections import Recipe, Train
from ..system.files import read_json, write_json, write_yaml
from . import launch

# Settings that say how a training runs and is watched, not what it learns.
HOW_FIELDS = (
    "per_device_train_batch_size", "deepspeed", "check_template", "use_cpu", "disable_gradient_checkpointing",
    "save_steps", "save_strategy", "save_total_limit", "logging_steps",
)  # fmt: skip
CORPUS = "corpus"


def dataset_info(files: Mapping[str, str]) -> dict[str, Any]:
    """LLaMA-Factory's dataset registry for corpora given as name to JSONL path.

    The columns are named because without them the alpaca format demands an `input` field
    (llamafactory data/parser.py).
    """
    columns = {"prompt": "prompt", "response": "response"}
    return {
        name: {"file_name": path, "formatting": "alpaca", "columns": dict(columns)}
        for name, path in files.items()
    }


def train_config(
    recipe: Recipe,
    model: str,
    corpus: str,
    *,
    model_path: str | None = None,
    dataset_dir: str = ".",
    output_dir: str = "model",
) -> dict[str, Any]:
    """LLaMA-Factory's training YAML for a student (or `assistant-sft`) on a corpus, as a dict.

    `model_path` defaults to the model's own reference. Raises UserError for an unknown name or a
    global batch that the hardware cannot split.
    """
    settings = training(recipe, model, corpus)
    path = model_path or resolve(model_of(recipe, model).model)
    how = how_settings(recipe, settings)
    what = what_settings(settings, recipe.prompts.system)
    return render(what, how, path, dataset_dir, output_dir)


def what_settings(train: Train, system: str | None = None) -> dict[str, Any]:
    """The settings that decide the trained weights: these enter the step's identity.

    `system` is the recipe's system message; without one, LLaMA-Factory's template has its own.
    """
    what = {key: value for key, value in dataclasses.asdict(train).items() if key not in HOW_FIELDS}
    return what | {"default_system": system} if system else what


def how_settings(recipe: Recipe, train: Train) -> dict[str, Any]:
    """The settings that the hardware decides, the derived gradient accumulation among them."""
    how = {key: value for key, value in dataclasses.asdict(train).items() if key in HOW_FIELDS}
    for ours in ("check_template", *(["deepspeed"] if train.deepspeed == "none" else [])):
        del how[ours]  # LLaMA-Factory does not know it
    return how | {"gradient_accumulation_steps": accumulation(recipe, train)}


def train_gpus(recipe: Recipe) -> int:
    """GPUs of one training; 0 on the CPU."""
    return train_processes(recipe) if recipe.hardware.gpus else 0


def render(
    what: Mapping[str, Any], how: Mapping[str, Any], model_path: str, dataset_dir: str, output_dir: str
) -> dict[str, Any]:
    """Put the pieces of a training YAML together, in LLaMA-Factory's own key names."""
    own = {key: value for key, value in what.items() if key not in ("global_batch_size", "extra")}
    stage = how.get("deepspeed")
    return {
        "model_name_or_path": model_path,
        "trust_remote_code": False,
        "stage": "sft",
        "do_train": True,
        "dataset": CORPUS,
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
        "overwrite_output_dir": False,  # so that an interrupted training resumes (hparams/parser.py)
        "report_to": "none",
        "plot_loss": False,
        "include_num_input_tokens_seen": True,  # gives the trained tokens and their speed
        **own,
        **how,
        **({"deepspeed": str(Path(dataset_dir) / launch.deepspeed_file(stage))} if stage else {}),
        **what["extra"],
    }


def write_training(
    directory: Path, what: Mapping[str, Any], how: Mapping[str, Any], model: str, corpus: str
) -> None:
    """Write `dataset_info.json`, `train.yaml` and DeepSpeed's file into a step's directory."""
    write_json(directory / "dataset_info.json", dataset_info({CORPUS: corpus}))
    config = render(what, how, model, str(directory), str(directory / "model"))
    write_yaml(directory / "train.yaml", config)
    if how.get("deepspeed"):
        write_json(
            directory / launch.deepspeed_file(how["deepspeed"]), launch.deepspeed_config(how["deepspeed"])
        )


def training_is_complete(model_dir: Path) -> bool:
    """Whether LLaMA-Factory finished: it writes weights, then all_results.json, then trainer_state.json."""
    state = model_dir / "trainer_state.json"
    if not (state.is_file() and (model_dir / "all_results.json").is_file() and _weights(model_dir)):
        return False
    facts = read_json(state)
    return bool(facts["global_step"] == facts["max_steps"])


def clear_unfinished_training(model_dir: Path) -> None:
    """Remove what a killed training left half done: the next one starts from the last whole checkpoint.

    LLaMA-Factory takes the newest directory, but a checkpoint is whole only with its trainer_state.json,
    which is written last; and it refuses to start where there are weights but no checkpoint.
    """
    for checkpoint in model_dir.glob("checkpoint-*"):
        try:
            read_json(checkpoint / "trainer_state.json")
        except UserError:
            shutil.rmtree(checkpoint)
    if _weights(model_dir) and not any(model_dir.glob("checkpoint-*")):
        shutil.rmtree(model_dir)


def finish_training(model_dir: Path) -> dict[str, Any]:
    """Loss, steps and seconds of a finished training. Raises StepFailed if it is not finished.

    Its checkpoints go: the last one's weights are the model's, and optimizer states are six times as large.
    """
    if not training_is_complete(model_dir):
        raise StepFailed(f"LLaMA-Factory left no complete model in {model_dir}")
    for checkpoint in model_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    results, state = (read_json(model_dir / name) for name in ("all_results.json", "trainer_state.json"))
    return {
        "train_loss": _mean_loss(state.get("log_history", [])) or results.get("train_loss"),
        "train_seconds": results.get("train_runtime"),
        "trained_tokens": results.get("num_input_tokens_seen"),
        "steps": state["global_step"],
    }


def _mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Mean over all logged steps; transformers' own `train_loss` forgets those before a resume."""
    logged = [(0, 0.0), *((row["step"], row["loss"]) for row in history if "loss" in row)]
    summed = sum((step - before) * loss for (before, _), (step, loss) in pairwise(logged))
    return summed / logged[-1][0] if logged[-1][0] else None


def training_progress(directory: Path) -> str:
    """Step and loss from LLaMA-Factory's `trainer_log.jsonl`, or an empty string before its first line."""
    try:
        last = json.loads((directory / "model" / "trainer_log.jsonl").read_text().splitlines()[-1])
        return f"step {last['current_steps']}/{last['total_steps']} loss {last['loss']:.3f}"
    except (OSError, IndexError, ValueError, KeyError):
        return ""


def _weights(model_dir: Path) -> bool:
    return any(model_dir.glob("*.safetensors"))
