"""Merging a teacher assistant before and after fine-tuning, through mergekit (paper section 3.2).

In: the two models (and for the preset `pretrained` the pretrained one). Out: `merge.yaml` and `model/`
with the assistant's own tokenizer and generation config, and answers of the merged model to a few prompts.

    merge_config(recipe, "ta")["models"][0]["parameters"]      -> {"weight": 0.5, "density": 0.5}

What weight means (mergekit generalized_task_arithmetic.py; measured in the tests): with one task vector
and normalize off, the merged delta is weight x the fine-tuning delta in expectation; with normalize on
the weight cancels. DARE's density alone never shortens: rescaling restores the expectation.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError, nearest
from ..inputs.references import ModelRef
from ..recipe.lineage import model_of
from ..recipe.sections import MERGE_METHODS, Merge, Recipe
from ..system.files import read_json, write_json, write_yaml
from ..system.processes import engine_argv
from . import Context, Results, Settings, Stage, generate, merge_check

ANSWERS = "answers.jsonl"  # of the merged model, to a few prompts
# What mergekit copies from base_model and what must be the assistant's in every preset.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def merge_config(
    recipe: Recipe, assistant: str, *, before: str = "", after: str = "", pretrained: str = ""
) -> dict[str, Any]:
    """Mergekit's YAML for an assistant of the recipe, as a dict.

    The paths default to the recipe's references, `after` to the training's name. Raises UserError for a name
    that is no assistant's.
    """
    if assistant not in recipe.assistants:
        hint = nearest(assistant, recipe.assistants)
        raise UserError(f"recipe {recipe.name}: no assistant {assistant!r}; {hint}")
    spec = recipe.assistants[assistant]
    start = before or model_of(recipe, assistant).reference.resolved
    base = pretrained or (spec.merge.pretrained.resolved if spec.merge.pretrained else None)
    return render(settings(recipe, spec.merge).config["merge"], start, after or spec.from_, base)


def settings(recipe: Recipe, spec: Merge) -> Settings:
    """Of a merge step; the merged model is asked for a few greedy answers, on GPUs where there are any."""
    limit = min(spec.health_prompts, recipe.prompts.limit or spec.health_prompts)
    prompts, sampling = replace(recipe.prompts, limit=limit), replace(recipe.generation, temperature=0.0)
    if sampling.backend == "endpoint":  # no server serves the merged model yet
        sampling = replace(sampling, backend="transformers")
    asked = replace(recipe, generation=sampling, prompts=prompts)
    health, how, gpus = generate.settings(asked) if limit else (None, {}, 0)
    return Settings.of(spec, gpus=gpus, apart={"health": health}, engine=recipe.engines.mergekit, answers=how)


def render(spec: Mapping[str, Any], before: str, after: str, pretrained: str | None = None) -> dict[str, Any]:
    """Put a merge YAML together. Paths must be absolute or hub ids: mergekit looks others up on the hub."""
    method, over_pretrained = MERGE_METHODS[spec["merge_method"]], spec["preset"] == "pretrained"
    parameters = {key: spec[key] for key in method.parameters}
    merged = [after] if method.base and not over_pretrained else [before, after]
    options = {"int8_mask": False, **spec}
    return {
        "merge_method": spec["merge_method"],
        **({"base_model": pretrained if over_pretrained else before} if method.base else {}),
        "models": [{"model": path, "parameters": dict(parameters)} for path in merged],
        "parameters": {key: options[key] for key in method.options},
        "dtype": spec["dtype"],
    }


def run(step: Context) -> Results:
    """Compare the models, merge, make the merged model whole, check its weights, ask it for a few answers.

    Raises UserError for models that cannot be merged, StepFailed for a merged one that is not sound.
    """
    model, merge = step.directory / "model", step.config["merge"]
    models = {role: model.weights() for role, model in step.inputs.items() if role != "prompts"}
    if merge["preset"] == "pretrained" and "pretrained" not in models:
        raise UserError("merge.pretrained_model: the preset 'pretrained' needs one")
    problems, facts = merge_check.compare(models)
    if problems:
        raise UserError("\n".join(problems))
    shutil.rmtree(model, ignore_errors=True)  # mergekit leaves stale shards in a used directory
    yaml = render(merge, **{role: str(path) for role, path in models.items()})
    write_yaml(step.directory / "merge.yaml", yaml)
    argv = [*engine_argv(step.how["engine"]), "merge.yaml", "model", "--random-seed", str(merge["seed"])]
    step.engine([*argv, "--quiet", "--num-threads", str(step.threads)])
    results = finish(model, models["after"])
    if problems := merge_check.health_problems(model, models["after"]):
        raise StepFailed("\n".join(problems))
    health: Results = {"prompts": 0}
    if step.config["health"]:
        inputs = {"model": ModelRef(str(model)), "prompts": step.inputs["prompts"]}
        asking = replace(step, config=step.config["health"], how=step.how["answers"], inputs=inputs)
        generate.run(asking, ANSWERS)
        step.engine_seconds = asking.engine_seconds
        health = merge_check.answer_health(step.directory / ANSWERS)
    return {**results, "compatibility": facts, "health": health}


def finish(model: Path, assistant: Path) -> Results:
    """Give the merged model the assistant's tokenizer files and stop tokens; StepFailed if it lacks weights.

    mergekit copies them from base_model, in the preset `pretrained` a model that ends its texts otherwise.
    """
    shards = sorted(model.glob("*.safetensors"))
    if not shards or not (model / "config.json").is_file():
        raise StepFailed(f"mergekit left no complete model in {model}")
    for name in TOKENIZER_FILES:
        (model / name).unlink(missing_ok=True)
        if (assistant / name).is_file():
            shutil.copyfile(assistant / name, model / name)
    config, source = read_json(model / "config.json"), read_json(assistant / "config.json")
    write_json(model / "config.json", {**config, **{key: source.get(key) for key in merge_check.STOP_KEYS}})
    for shard in shards:
        shard.chmod(0o644)  # mergekit writes 0600, unreadable for others in a shared workspace
    return {"shards": len(shards), "bytes": sum(shard.stat().st_size for shard in shards)}


STAGE = Stage(run, output="model")
