"""Whether models can be merged, and whether the merged model is sound.

    compatibility_problems(Path("ta"), Path("ta-sft"), None)      -> []
    health_problems(Path("merged"), Path("ta-sft"))               -> []

Before: config.json, the safetensors headers and the tokenizers' vocabularies must fit, and a fine-tuned model
must descend from the one before (`cosine`, over a sample of its matrices). After: every weight is finite, no
tensor is missing, tokenizer and stop tokens are the assistant's.

The cosine is that of raw weights, not of what a training changed. Measured on the tiny family (medians over
matrices): assistant and its fine-tuned self 0.998, students and theirs 0.996 to 0.998, merged model 0.999;
the same shape initialised with another seed -0.005 to 0.004 (single matrices up to 0.03), and the assistant
and the very random weights that its training from scratch began with 0.499. The line is drawn at 0.25: far
above strangers, below a model that kept half of its direction. Norms and biases stay out: norm weights are
near 1 in every model.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..inputs.weights import Tensor, finite, first_values, tensors
from ..system.files import file_digest, read_json, read_jsonl

KINSHIP = 0.25
SAMPLED_MATRICES = 24
# What decides a model's shape; sizes that say nothing about tensors are left out.
SHAPE_KEYS = ("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads", "num_key_value_heads", "tie_word_embeddings")  # fmt: skip
STOP_KEYS = ("eos_token_id", "bos_token_id", "pad_token_id")


def compatibility_problems(before: Path, after: Path | None, pretrained: Path | None) -> list[str]:
    """Why these models cannot be merged, a line each; reads headers and a sample of values, in seconds."""
    others = {"after": (after, "fine-tuned from"), "pretrained": (pretrained, "the origin of")}
    problems: list[str] = []
    for role, (model, relation) in others.items():
        if model is None:
            continue
        found = [f"merge: {role} and before {line}" for line in _differences(model, before)]
        if not found and (likeness := cosine(model, before)) < KINSHIP:
            found = [
                f"merge: {role} is not {relation} before: cosine of their weights {likeness:.3f}, "
                f"below {KINSHIP} ({model}, {before})"
            ]
        problems += found
    return problems


def compatibility_facts(before: Path, after: Path | None, pretrained: Path | None) -> dict[str, Any]:
    """The cosines with `before`, and the data types of each model."""
    given = {"before": before, "after": after, "pretrained": pretrained}
    models = {role: model for role, model in given.items() if model}
    return {
        "cosine": {role: round(cosine(m, before), 4) for role, m in models.items() if role != "before"},
        "dtypes": {r: sorted({t.dtype for t in tensors(m).values()}) for r, m in models.items()},
    }


def cosine(one: Path, other: Path) -> float:
    """The median cosine over a sample of the matrices that two models share; 0 if they share none."""
    from torch import cosine_similarity

    left, right = tensors(one), tensors(other)
    matrices = sorted(name for name, tensor in left.items() if len(tensor.shape) > 1)
    shared = [name for name in matrices if name in right and right[name].shape == left[name].shape]
    step = max(1, len(shared) // SAMPLED_MATRICES)
    found = [
        float(cosine_similarity(first_values(left[name]), first_values(right[name]), dim=0))
        for name in shared[::step]
    ]
    return statistics.median(found) if found else 0.0


def health_problems(merged: Path, assistant: Path, tokenizer_files: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a merged model beside the fine-tuned assistant; reads every weight once."""
    made, wanted, tied = tensors(merged), tensors(assistant), _tied(assistant)
    problems = []
    for name, tensor in wanted.items():
        if name not in made:
            if not (tied and name.startswith("lm_head.")):
                problems.append(f"the merged model lacks the tensor {name}")
        elif made[name].shape != tensor.shape:
            problems.append(f"the merged model's {name} is {made[name].shape}, not {tensor.shape}")
    problems += [f"the merged model's {name} is not finite" for name, t in made.items() if not finite(t)]
    for name in tokenizer_files:
        files = [model / name for model in (merged, assistant)]
        digests = [file_digest(file) if file.is_file() else None for file in files]
        if digests[0] != digests[1]:
            problems.append(f"the merged model's {name} is not the assistant's")
    configs = [read_json(model / "config.json") for model in (merged, assistant)]
    for key in STOP_KEYS:
        if configs[0].get(key) != configs[1].get(key):
            problems.append(f"the merged model's {key} is {configs[0].get(key)}, not {configs[1].get(key)}")
    return problems


def _differences(model: Path, before: Path) -> list[str]:
    """How a model's config, tensors and vocabulary differ from those of `before`."""
    found = config_differences(*(read_json(path / "config.json") for path in (model, before)))
    if found:
        return found
    made, old = tensors(model), tensors(before)
    differing = [n for n in sorted({*made, *old}) if _shape(made, n) != _shape(old, n)]
    if _tied(before):
        differing = [name for name in differing if not name.startswith("lm_head.")]
    if differing:
        name = differing[0]
        shapes = f"{name} is {_shape(made, name)} and {_shape(old, name)}"
        found.append(f"differ in {len(differing)} tensor(s), the first: {shapes}")
    words, old_words = vocabulary(model), vocabulary(before)
    if words and old_words and words != old_words:
        token = next(t for t in {**old_words, **words} if words.get(t) != old_words.get(t))
        ids = f"{token!r} is {words.get(token)} and {old_words.get(token)}"
        found.append(f"have tokenizers of different vocabulary: {ids}")
    return found


def config_differences(config: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """How two config.json differ in what decides the tensors."""
    return [
        f"have different {key}: {config.get(key)} and {before.get(key)}"
        for key in SHAPE_KEYS
        if None not in (config.get(key), before.get(key)) and config[key] != before[key]
    ]


def answer_health(answers: Path, max_tokens: int) -> dict[str, Any]:
    """How many of the merged model's greedy answers ended; StepFailed if none did."""
    rows = read_jsonl(answers)
    ended = sum(row["finish_reason"] == "stop" for row in rows)
    if not ended:
        raise StepFailed(
            f"none of the merged model's {len(rows)} greedy answers ended within {max_tokens} tokens: "
            f"it does not stop, or only repeats itself; see {answers}"
        )
    mean = sum(row["response_tokens"] for row in rows) / len(rows)
    return {"prompts": len(rows), "ended": ended, "mean_response_tokens": mean}


def vocabulary(model: Path) -> dict[str, int]:
    """Token to id of a model's tokenizer.json, added tokens included; empty without such a file."""
    file = model / "tokenizer.json"
    if not file.is_file():
        return {}
    content = read_json(file)
    words = content["model"].get("vocab", {})
    if isinstance(words, list):  # unigram: [token, score]
        words = {entry[0]: n for n, entry in enumerate(words)}
    return {**words, **{entry["content"]: entry["id"] for entry in content.get("added_tokens", ())}}


def _shape(found: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return found[name].shape if name in found else None


def _tied(model: Path) -> bool:
    return bool(read_json(model / "config.json").get("tie_word_embeddings"))
