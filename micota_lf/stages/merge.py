"""Merging the teacher assistant before and after fine-tuning, through mergekit.

In: the two models (and for the preset `pretrained` the pretrained one). Out: `merge.yaml` and `model/`
with the assistant's own tokenizer and generation config.

    merge_config(recipe)["models"][0]["parameters"]      -> {"weight": 0.5, "density": 0.5}

What weight means (mergekit generalized_task_arithmetic.py; measured in the tests): with one task vector
and normalize off, the merged delta is weight x the fine-tuning delta in expectation; with normalize on
the weight cancels. DARE's density alone never shortens: rescaling restores the expectation.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..inputs.references import resolve
from ..recipe.lineage import generation_how
from ..recipe.sections import Generation, Merge, Prompts, Recipe, sampling_settings
from ..system.files import read_json, write_json, write_yaml
from .merge_check import STOP_KEYS

SPARSIFYING = ("dare_ties", "dare_linear", "ties")
# What mergekit copies from base_model and what must be the assistant's in every preset.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def merge_config(
    recipe: Recipe,
    *,
    before: str | None = None,
    after: str = "assistant-sft",
    pretrained: str | None = None,
) -> dict[str, Any]:
    """Mergekit's YAML for the recipe's assistant, as a dict; the paths default to the recipe's references."""
    spec = recipe.assistant.merge
    start = before or resolve(recipe.assistant.model)
    base = pretrained or (resolve(spec.pretrained_model) if spec.pretrained_model else None)
    return render(merge_settings(spec), start, after, base)


def merge_settings(spec: Merge) -> dict[str, Any]:
    """The hashed settings of a merge, in mergekit's key names."""
    settings = dataclasses.asdict(spec)
    settings["lambda"] = settings.pop("lambda_")
    for key in ("pretrained_model", "pretrained_revision", "health_prompts"):
        settings.pop(key)
    return settings


def health_settings(spec: Merge, generation: Generation, prompts: Prompts) -> dict[str, Any] | None:
    """How the merged model is asked for answers, as flags of `micota generate`; None for not at all."""
    if not spec.health_prompts:
        return None
    asked = {**sampling_settings(generation), **dataclasses.asdict(prompts), "temperature": 0.0}
    asked["limit"] = min(spec.health_prompts, prompts.limit or spec.health_prompts)
    if generation.backend == "endpoint":  # no server serves the merged model yet
        asked["backend"] = "transformers"
    return {key: value for key, value in asked.items() if key not in ("path", "revision")}


def health_how(recipe: Recipe, gpus: int) -> dict[str, Any]:
    """How it is asked: flags of `micota generate` beside those of `health_settings`."""
    if recipe.generation.backend == "endpoint":
        return {"batch_size": recipe.generation.batch_size}
    return generation_how(recipe, gpus)


def render(settings: Mapping[str, Any], before: str, after: str, pretrained: str | None) -> dict[str, Any]:
    """Put a merge YAML together. Paths must be absolute or hub ids: mergekit looks others up on the hub."""
    method = settings["merge_method"]
    parameters = {"weight": settings["weight"]}
    if method in SPARSIFYING:
        parameters["density"] = settings["density"]
    over_pretrained = settings["preset"] == "pretrained"
    merged = [before, after] if over_pretrained or method == "linear" else [after]
    config: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": path, "parameters": dict(parameters)} for path in merged],
        "parameters": {"normalize": settings["normalize"]},
        "dtype": settings["dtype"],
    }
    if method != "linear":
        config["base_model"] = pretrained if over_pretrained else before
        config["parameters"] |= {"lambda": settings["lambda"], "int8_mask": False}
    if method in ("dare_ties", "dare_linear"):
        config["parameters"]["rescale"] = settings["rescale"]
    return config


def write_merge(
    directory: Path, settings: Mapping[str, Any], before: str, after: str, pretrained: str | None
) -> None:
    """Write `merge.yaml` and clear an unfinished `model/`: mergekit leaves stale shards in a used one."""
    shutil.rmtree(directory / "model", ignore_errors=True)
    write_yaml(directory / "merge.yaml", render(settings, before, after, pretrained))


def finish_merge(model_dir: Path, assistant: Path) -> dict[str, Any]:
    """Give the merged model the assistant's tokenizer files and stop tokens; StepFailed if it lacks weights.

    mergekit copies them from base_model, in the preset `pretrained` a model that ends its texts otherwise.
    """
    shards = sorted(model_dir.glob("*.safetensors"))
    if not shards or not (model_dir / "config.json").is_file():
        raise StepFailed(f"mergekit left no complete model in {model_dir}")
    for name in TOKENIZER_FILES:
        if (assistant / name).is_file():
            shutil.copyfile(assistant / name, model_dir / name)
        else:
            (model_dir / name).unlink(missing_ok=True)
    config, source = read_json(model_dir / "config.json"), read_json(assistant / "config.json")
    write_json(model_dir / "config.json", {**config, **{key: source.get(key) for key in STOP_KEYS}})
    for shard in shards:
        shard.chmod(0o644)  # mergekit writes 0600, unreadable for others in a shared workspace
    return {"shards": len(shards), "bytes": sum(shard.stat().st_size for shard in shards)}
