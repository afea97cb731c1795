"""What is measured on one response to one problem: verdicts, length, truncation, reflection words.

In: a document of a task (`answer`, `legacy_rule`, `tokenizer`, `tokenizer_revision`, `max_gen_toks`) and the
response's text. Out: numbers, of which lm-eval takes the mean over the problems.

    response_metrics({"answer": "6", "legacy_rule": "number", ...}, "Wait, so \\boxed{6}.")
    -> {"legacy": 1, "symbolic": 1, "reflections": 1, "response_tokens": 9, "truncated": 0}

lm-eval keeps neither token counts nor finish reasons, so both come from encoding the response again with the
model's tokenizer, without special tokens: the end-of-turn token is left out, and a response within 1% of
max_gen_toks counts as truncated.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from .workers import Question, grade_safely

VERDICTS = ("legacy", "symbolic")
METRICS = (*VERDICTS, "truncated", "response_tokens", "reflections")
TRUNCATED_SHARE = 0.99

REFLECTION_WORDS = (
    "wait",
    "however",
    "alternatively",
    "hmm",
    "on second thought",
    "let me check",
    "let me double-check",
    "let me verify",
    "let me reconsider",
    "let me think again",
)
"""Words that mark a turn back in a chain of thought. `wait` is the paper's (Figure 4); the others are common
in responses of reasoning models. Counted as whole words, in any case, each position once."""

_PHRASES = "|".join(r"\s+".join(map(re.escape, words.split())) for words in REFLECTION_WORDS)
_REFLECTION = re.compile(rf"\b(?:{_PHRASES})\b", re.IGNORECASE)


def count_reflections(text: str) -> int:
    """How many reflection words a text holds."""
    return len(_REFLECTION.findall(text))


def response_metrics(doc: Mapping[str, Any], response: str) -> dict[str, float]:
    """All metrics of one response; without a known tokenizer, those that need one are left out."""
    verdict = grade_safely(Question(response, str(doc["answer"]), legacy_rule=doc["legacy_rule"]))
    values: dict[str, float] = {
        "legacy": int(verdict.legacy),
        "symbolic": int(verdict.symbolic),
        "reflections": count_reflections(response),
    }
    if doc["tokenizer"]:
        tokens = token_counter(doc["tokenizer"], doc["tokenizer_revision"])(response)
        values["response_tokens"] = tokens
        values["truncated"] = int(tokens >= TRUNCATED_SHARE * doc["max_gen_toks"])
    return values


def mean_metrics(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the responses to one problem; one response keeps its own numbers."""
    if len(values) == 1:
        return dict(values[0])
    return {key: sum(value[key] for value in values) / len(values) for key in values[0]}


@cache
def token_counter(model: str, revision: str | None = None) -> Callable[[str], int]:
    """A function from text to its number of tokens, without special tokens, under a model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, **({"revision": revision} if revision else {}))
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def usable_tokenizer(model: str | None, revision: str | None = None) -> str | None:
    """The model's name if its tokenizer can be loaded, else None (with one warning)."""
    if not model:
        return None
    try:
        token_counter(model, revision)
    except Exception as error:  # transformers raises many kinds; each means that there is no tokenizer
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logging.getLogger(__name__).warning(
            "no tokenizer for %s, so no response_tokens and no truncated: %s", model, reason
        )
        return None
    return model
