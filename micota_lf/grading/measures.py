"""What is measured on the responses to one problem: verdicts, length, truncation, reflection words.

    row = [Question("Wait, so \\\\boxed{6}.", "6", legacy_rule="number")]
    list(measured_rows([row], load_chat(model).counts, max_gen_toks=512))
    -> [{"legacy": 1, "symbolic": 1, "truncated": 0, "response_tokens": 9, "reflections": 1}]

lm-eval keeps neither token counts nor finish reasons, so both come from encoding the response again with the
model's tokenizer, without special tokens: the end-of-turn token is left out, and a response within 1% of
max_gen_toks counts as truncated. `response_metrics` gives lm-eval's process_results the same, one at a time.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inputs.chat import load_chat
from ..inputs.references import ModelRef
from .answer import Grade
from .workers import Question, grade_rows, grade_safely

VERDICTS = ("legacy", "symbolic")
METRICS = (*VERDICTS, "truncated", "response_tokens", "reflections")
TRUNCATED_SHARE = 0.99

REFLECTION_WORDS = (
    "wait", "however", "alternatively", "hmm", "on second thought", "let me check", "let me double-check",
    "let me verify", "let me reconsider", "let me think again",
)  # fmt: skip
"""Words that mark a turn back in a chain of thought. `wait` is the paper's (Figure 4); the others are common
in responses of reasoning models. Counted as whole words, in any case, each position once."""

_REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTION_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)

Counter = Callable[[Sequence[str]], list[int]]
"""From texts to the number of tokens of each, without special tokens."""


def count_reflections(text: str) -> int:
    """How many reflection words a text holds."""
    return len(_REFLECTION.findall(text))


def measured_rows(
    rows: Sequence[Sequence[Question]], counts: Counter, max_gen_toks: int
) -> Iterator[dict[str, float]]:
    """METRICS of each row's responses to one problem (their means), in order, graded on all cores."""
    lengths = iter(counts([question.response or "" for row in rows for question in row]))
    for row, grades in grade_rows(rows, lambda row: row):
        measured = zip(row, grades, lengths, strict=False)
        yield mean_metrics([_metrics(*values, max_gen_toks) for values in measured])


def response_metrics(doc: Mapping[str, Any], response: str) -> dict[str, float]:
    """All metrics of one response to a task's document; without a known tokenizer, those that need none.

    A document has `answer`, `legacy_rule`, `tokenizer`, `tokenizer_revision` and `max_gen_toks`.
    """
    question, model = Question(response, str(doc["answer"]), legacy_rule=doc["legacy_rule"]), doc["tokenizer"]
    tokens = token_counter(model, doc["tokenizer_revision"])([response])[0] if model else 0
    values = _metrics(question, grade_safely(question), tokens, doc.get("max_gen_toks", 0))
    return values if model else {name: values[name] for name in (*VERDICTS, "reflections")}


def mean_metrics(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the responses to one problem; one response keeps its own numbers."""
    if len(values) == 1:
        return dict(values[0])
    return {key: sum(value[key] for value in values) / len(values) for key in values[0]}


@cache
def token_counter(model: str, revision: str | None = None) -> Counter:
    """The counter of a model's tokenizer. Raises UserError if it has no fast one."""
    local = Path(model).expanduser()  # lm-eval takes `models/ta` for a directory, if it is one
    return load_chat(ModelRef(str(local.absolute()) if local.is_dir() else model, revision)).counts


def usable_tokenizer(model: str | None, revision: str | None = None) -> str | None:
    """The model's name if its tokenizer can be loaded, else None (with one warning)."""
    try:
        if model:
            token_counter(model, revision)
    except UserError as error:
        logging.getLogger(__name__).warning("no response_tokens and no truncated: %s", error)
        return None
    return model


def _metrics(question: Question, grade: Grade, tokens: int, max_gen_toks: int) -> dict[str, float]:
    return {
        "legacy": int(grade.legacy), "symbolic": int(grade.symbolic),
        "truncated": int(tokens >= TRUNCATED_SHARE * max_gen_toks), "response_tokens": tokens,
        "reflections": count_reflections(question.response or ""),
    }  # fmt: skip
