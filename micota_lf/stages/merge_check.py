"""Whether models can be merged, and whether the merged model is sound.

    compare({"before": Path("ta"), "after": Path("ta-sft")})      -> [], {"cosine": {"after": 0.998}, ...}
    health_problems(Path("merged"), Path("ta-sft"))               -> []

Before: config.json, the safetensors headers and the tokenizers' vocabularies must fit, and a fine-tuned model
must descend from the one before (`cosine`, over its matrices). After: every weight is finite, no
tensor is missing.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..inputs.chat import load_chat
from ..inputs.references import ModelRef
from ..inputs.weights import KINSHIP, cosines, finite, tensors
from ..system.files import read_json, read_jsonl

# What decides a model's shape; sizes that say nothing about tensors are left out.
SHAPE_KEYS = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads", "num_key_value_heads", "tie_word_embeddings")  # fmt: skip
STOP_KEYS = ("eos_token_id", "bos_token_id", "pad_token_id")


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
            problems.append(
                f"merge: {role} is not {relation} before: cosine of their weights {kinship[role]:.3f}, "
                f"below {KINSHIP} ({model}, {before})"
            )
    dtypes = {role: sorted({t.dtype for t in tensors(model).values()}) for role, model in models.items()}
    return problems, {"cosine": kinship, "dtypes": dtypes}


def cosine(one: Path, other: Path) -> float:
    """The median cosine of the matrices that two models share; 0 if they share none."""
    return statistics.median(cosines(one, other).values() or [0.0])


def health_problems(merged: Path, assistant: Path) -> list[str]:
    """What is wrong with a merged model's weights beside the fine-tuned assistant's; reads each once."""
    made, problems = tensors(merged), []
    for name, shape in _shapes(assistant, assistant).items():
        if name not in made:
            problems.append(f"the merged model lacks the tensor {name}")
        elif made[name].shape != shape:
            problems.append(f"the merged model's {name} is {made[name].shape}, not {shape}")
    problems += [f"the merged model's {name} is not finite" for name, t in made.items() if not finite(t)]
    return problems


def _differences(model: Path, before: Path) -> list[str]:
    """How a model's config, tensors and vocabulary differ from those of `before`."""
    found = config_differences(*(read_json(path / "config.json") for path in (model, before)))
    if found:
        return found
    shapes, old_shapes = (_shapes(path, before) for path in (model, before))
    if names := _differing(shapes, old_shapes):
        first = f"{names[0]} is {shapes.get(names[0])} and {old_shapes.get(names[0])}"
        found.append(f"differ in {len(names)} tensor(s), the first: {first}")
    words, old_words = vocabulary(model), vocabulary(before)
    if words and old_words and (tokens := _differing(words, old_words)):
        ids = f"{tokens[0]!r} is {words.get(tokens[0])} and {old_words.get(tokens[0])}"
        found.append(f"have tokenizers of different vocabulary: {ids}")
    return found


def config_differences(config: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """How two config.json differ in what decides the tensors."""
    return [
        f"have different {key}: {config.get(key)} and {before.get(key)}"
        for key in SHAPE_KEYS
        if None not in (config.get(key), before.get(key)) and config[key] != before[key]
    ]


def answer_health(answers: Path) -> dict[str, Any]:
    """How many of the merged model's greedy answers ended; StepFailed if none did."""
    rows = read_jsonl(answers)
    ended = sum(row["finish_reason"] == "stop" for row in rows)
    tokens = [row["response_tokens"] for row in rows]
    if not ended:
        raise StepFailed(
            f"none of the merged model's {len(rows)} greedy answers ended within {max(tokens)} tokens "
            f"(generation.max_tokens): it does not stop, or only repeats itself; see {answers}"
        )
    return {"prompts": len(rows), "ended": ended, "mean_response_tokens": sum(tokens) / len(rows)}


def vocabulary(model: Path) -> dict[str, int]:
    """Token to id of a model's tokenizer.json, added tokens included; empty without such a file."""
    if not (model / "tokenizer.json").is_file():
        return {}
    return dict(load_chat(ModelRef(str(model))).tokenizer.get_vocab())


def _differing(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Names that one of two mappings lacks or that have other values, in alphabetical order."""
    return sorted(name for name in {**found, **before} if found.get(name) != before.get(name))


def _shapes(model: Path, origin: Path) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name, without the output layer if `origin` has tied it to the embeddings."""
    skipped = ("lm_head.",) if read_json(origin / "config.json").get("tie_word_embeddings") else ()
    return {name: tensor.shape for name, tensor in tensors(model).items() if not name.startswith(skipped)}
