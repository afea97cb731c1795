"""Greedy answers of a tiny model, and their score on a data file."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from micota_lf.tiny.tokenizer import chat_prompt


@torch.inference_mode()
def answer(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[str]
) -> list[list[int]]:
    """Answer problems greedily, 100 at a time; each reply is its token ids without the end marker.

    A reply still running after 320 tokens is returned cut, at that length.
    """
    tokenizer.padding_side = "left"
    replies = []
    for first in range(0, len(problems), 100):
        prompts = [chat_prompt(tokenizer, problem) for problem in problems[first : first + 100]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=320)[:, inputs.input_ids.shape[1] :]
        for reply in tokens.tolist():
            end = reply.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in reply else len(reply)
            replies.append(reply[:end])
    return replies


def evaluate(folder: Path, data: Path) -> dict:
    r"""Score a stored model on a data file: n, correct (by the last `\boxed{}`), mean tokens, truncated."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    replies = answer(model, tokenizer, [row["problem"] for row in rows])
    boxed = [tokenizer.decode(reply).rpartition("\\boxed{")[2].partition("}")[0] for reply in replies]
    return {
        "n": len(rows),
        "correct": sum(b == row["answer"] for b, row in zip(boxed, rows, strict=True)),
        "tokens": sum(map(len, replies)) / len(rows),
        "truncated": sum(len(reply) >= 320 for reply in replies),
    }


def wilson(correct: int, n: int) -> str:
    """Format a share as percent with its 95% Wilson interval."""
    z, p = 1.96, correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{100 * p:.1f}% [{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]"
