"""Merging a teacher assistant before and after fine-tuning, through mergekit (paper section 3.2).

In: the two models (for the preset `pretrained` the pretrained one too), and the weight if a step chose it.
Out: `merge.yaml` and `model/` with the assistant's own tokenizer and generation config, and answers of the
merged model to a few prompts.

    merge_config(recipe, "ta")["models"][0]["parameters"]         -> {"weight": 0.5, "density": 0.5}
    compare({"before": Path("ta"), "after": Path("ta-sft")})      -> [], {"cosine": {"after": 0.998}, ...}
    health_problems(Path("merged"), Path("ta-sft"))               -> []

Before: config.json, the safetensors headers and the tokenizers' vocabularies must fit, and a fine-tuned model
must descend from the one before (`cosine`, over its matrices). After: every weight is finite, no
tensor is missing.

What weight means (mergekit generalized_task_arithmetic.py; measured in the tests): with one task vector
and normalize off, the merged delta is weight x the fine-tuning delta in expectation; with normalize on
the weight cancels. DARE's density alone never shortens: rescaling restores the expectation.
"""

import shutil
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError, must_know
from ..inputs.chat import load_chat
from ..inputs.problems import Prompts
from ..inputs.references import ModelRef
from ..inputs.weights import KINSHIP, cosines, finite, tensors
from ..recipe.lineage import model_of
from ..recipe.sections import MERGE_METHODS, NAMES, Merge, Recipe
from ..system.files import read_json, read_jsonl, write_json, write_yaml
from ..system.processes import engine_argv
from . import Context, Results, Settings, Stage, choose, generate

WEIGHT = 0.5  # half of what was learnt
BESIDE = ("prompts", "choice", "tuned")  # inputs that are no models
ANSWERS = "answers.jsonl"  # of the merged model, to a few prompts
MERGED = "merged.json"  # there once the merged weights are whole: they are not made again to ask once more
TOKENIZER_FILES = NAMES["tokenizer_files"]


def merge_config(
    recipe: Recipe, assistant: str, *, before: str = "", after: str = "", pretrained: str = ""
) -> dict[str, Any]:
    """Mergekit's YAML for an assistant of the recipe, as a dict.

    The paths default to the recipe's references, `after` to the training's name. Raises UserError for a name
    that is no assistant's.

    >>> from micota_lf import load_recipe, merge_config
    >>> config = merge_config(load_recipe("recipes/micota.yaml"), "ta", before="Qwen", after="trained")
    >>> config["merge_method"], config["base_model"], config["models"]
    ('dare_ties', 'Qwen', [{'model': 'trained', 'parameters': {'weight': 0.5, 'density': 0.5}}])
    """
    must_know(assistant, recipe.assistants, "assistants")
    spec = recipe.assistants[assistant]
    start = before or model_of(recipe, assistant).reference.resolved
    base = pretrained or (spec.merge.pretrained.resolved if spec.merge.pretrained else None)
    return render(settings(recipe, spec.merge).config["merge"], start, after or spec.from_, base)


def settings(recipe: Recipe, spec: Merge) -> Settings:
    """Of a merge step; the merged model is asked for a few greedy answers, on GPUs where there are any.

    Where the weight is looked for, they answer the prompts of a step `sample`, which the probes answer too.
    """
    limit = min(spec.health_prompts, recipe.prompts.limit or spec.health_prompts)
    prompts = replace(recipe.prompts, limit=limit)
    if spec.target_length_ratio:
        limit = spec.probe_prompts
        prompts = Prompts("", limit=limit, template=prompts.template, system=prompts.system)
    elif spec.weight is None:
        spec = replace(spec, weight=WEIGHT)
    if spec.merge_method not in NAMES["random_merges"]:
        spec = replace(spec, seed=0)
    sampling = replace(recipe.generation, temperature=0.0, samples=1)
    if sampling.backend == "endpoint":  # no server serves the merged model yet
        sampling = replace(sampling, backend="transformers")
    asked = replace(recipe, generation=sampling, prompts=prompts)
    health, how, gpus = generate.settings(asked) if limit else (None, {}, 0)
    return Settings.of(spec, gpus=gpus, engine=recipe.engines.mergekit, health=health, answers=how)


def render(spec: Mapping[str, Any], before: str, after: str, pretrained: str | None = None) -> dict[str, Any]:
    """Put a merge YAML together. Paths must be absolute or hub ids: mergekit looks others up on the hub."""
    if spec["weight"] is None:
        raise UserError("merge.target_length_ratio: only the run of a recipe finds the weight")
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
    """Merge, and ask the merged model for a few answers; what they are asked for makes no other weights.

    Raises UserError for models that cannot be merged, StepFailed for a merged one that is not sound.
    """
    model, merged = step.directory / "model", step.directory / MERGED
    if not merged.is_file():
        write_json(merged, merge_models(step, model))
    health: Results = {"prompts": 0}
    if step.how["health"]:
        inputs = {"model": ModelRef(str(model)), "prompts": step.inputs["prompts"]}
        asking = replace(step, config=step.how["health"], how=step.how["answers"], inputs=inputs)
        (step.directory / ANSWERS).unlink(missing_ok=True)  # greedy: the same, or to another question
        generate.run(asking, ANSWERS)
        step.engine_seconds = asking.engine_seconds
        health = answer_health(step.directory / ANSWERS)
    results = {**read_json(merged), "health": health}
    if tuned := step.inputs.get("tuned"):  # the weight was chosen: what it has come to
        rows = read_jsonl(step.directory / ANSWERS), read_jsonl(tuned.resolved)
        results["curve"] = [choose.measured(*rows, f"{results['weight']:g}, chosen")]
    return results


def merge_models(step: Context, model: Path) -> Results:
    """Compare the models, merge, make the merged model whole, check its weights."""
    merge = step.config["merge"]
    models = {role: model.weights() for role, model in step.inputs.items() if role not in BESIDE}
    if choice := step.inputs.get("choice"):
        merge = merge | read_json(choice.resolved)
    problems, facts = compare(models)
    if problems:
        raise UserError("\n".join(problems))
    shutil.rmtree(model, ignore_errors=True)  # mergekit leaves stale shards in a used directory
    yaml = render(merge, **{role: str(path) for role, path in models.items()})
    write_yaml(step.directory / "merge.yaml", yaml)
    argv = [*engine_argv(step.how["engine"]), "merge.yaml", "model", "--random-seed", str(merge["seed"])]
    step.engine([*argv, "--quiet", "--num-threads", str(step.threads)])
    results = {**finish(model, models["after"]), "weight": merge["weight"], "compatibility": facts}
    if problems := health_problems(model, models["after"]):
        raise StepFailed("\n".join(problems))
    return results


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
    write_json(model / "config.json", {**config, **{key: source.get(key) for key in NAMES["stop_keys"]}})
    for shard in shards:
        shard.chmod(0o644)  # mergekit writes 0600, unreadable for others in a shared workspace
    return {"shards": len(shards), "bytes": sum(shard.stat().st_size for shard in shards)}


def compare(models: Mapping[str, Path]) -> tuple[list[str], dict[str, Any]]:
    """Why these models (`before` and others) cannot be merged, and their cosines with `before` and dtypes.

    Reads headers and a part of each matrix, in seconds.
    """
    before, problems, kinship = models["before"], [], {}
    for role, model in models.items():
        if role == "before":
            continue
        problems += [f"merge: {role} and before {line}" for line in _differences(model, before)]
        kinship[role] = round(cosine(model, before), 4)
        if not problems and kinship[role] < KINSHIP:
            relation = "the origin of" if role == "pretrained" else "fine-tuned from"
            below = f"cosine of their weights {kinship[role]:.3f}, below {KINSHIP} ({model}, {before})"
            problems.append(f"merge: {role} is not {relation} before: {below}")
    dtypes = {role: sorted({t.dtype for t in tensors(model).values()}) for role, model in models.items()}
    return problems, {"cosine": kinship, "dtypes": dtypes}


def cosine(one: Path, other: Path) -> float:
    """The median cosine of the matrices that two models share; 0 if they share none."""
    return statistics.median(cosines(one, other).values() or [0.0])


def health_problems(merged: Path, assistant: Path) -> list[str]:
    """What is wrong with a merged model's weights beside the fine-tuned assistant's; reads each once."""
    made, shapes = tensors(merged), _shapes(assistant, assistant)
    problems = [f"the merged model lacks the tensor {name}" for name in shapes if name not in made]
    reshaped = [name for name in shapes if name in made and made[name].shape != shapes[name]]
    problems += [f"the merged model's {name} is {made[name].shape}, not {shapes[name]}" for name in reshaped]
    problems += [f"the merged model's {name} is not finite" for name, t in made.items() if not finite(t)]
    return problems


def _differences(model: Path, before: Path) -> list[str]:
    """How a model's config, tensors and vocabulary differ from those of `before`."""
    found = config_differences(*(read_json(path / "config.json") for path in (model, before)))
    if found:
        return found
    if differing := _differing(*(_shapes(path, before) for path in (model, before))):
        found.append(f"differ in {len(differing)} tensor(s), the first: {differing[0]}")
    both = all((path / "tokenizer.json").is_file() for path in (model, before))
    if both and (differing := _differing(vocabulary(model), vocabulary(before))):
        found.append(f"have tokenizers of different vocabulary: {differing[0]}")
    return found


def config_differences(config: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """How two config.json differ in what decides the tensors."""
    stated = [key for key in NAMES["shape_keys"] if None not in (config.get(key), before.get(key))]
    differing = [key for key in stated if config[key] != before[key]]
    return [f"have different {key}: {config[key]} and {before[key]}" for key in differing]


def answer_health(answers: Path) -> dict[str, Any]:
    """How many of the merged model's greedy answers ended; StepFailed if none did."""
    rows = read_jsonl(answers)
    ended = sum(row["finish_reason"] == "stop" for row in rows)
    tokens = [row["response_tokens"] for row in rows]
    if not ended:
        within = f"within {max(tokens)} tokens (generation.max_tokens; merge.health_prompts=0 asks none)"
        why = f"it does not stop, or only repeats itself; see {answers}"
        raise StepFailed(f"none of the merged model's {len(rows)} greedy answers ended {within}: {why}")
    return {"prompts": len(rows), "ended": ended, "mean_response_tokens": sum(tokens) / len(rows)}


def vocabulary(model: Path) -> dict[str, int]:
    """Quoted token to id of a model's tokenizer.json, added tokens included."""
    words = load_chat(ModelRef(str(model))).tokenizer.get_vocab()
    return {repr(word): number for word, number in words.items()}


def _differing(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What one of two mappings lacks or has otherwise, as `name is 1 and 2`, in alphabetical order."""
    names = sorted(name for name in {**found, **before} if found.get(name) != before.get(name))
    return [f"{name} is {found.get(name)} and {before.get(name)}" for name in names]


def _shapes(model: Path, origin: Path) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name, without the output layer if `origin` has tied it to the embeddings."""
    skipped = ("lm_head.",) if read_json(origin / "config.json").get("tie_word_embeddings") else ()
    return {name: tensor.shape for name, tensor in tensors(model).items() if not name.startswith(skipped)}


STAGE = Stage(run, output="model")
