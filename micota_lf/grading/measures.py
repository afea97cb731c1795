"""What is measured on the responses to one problem, and any JSON Lines file of responses graded again.

Measured are verdicts, length, truncation, loops and reflection words:

    row = [Question("Wait, so \\\\boxed{6}.", "6", legacy_rule="number")]
    list(measured_rows([row], load_chat(model).counts, max_gen_toks=512))
    -> [({"legacy": 1, "symbolic": 1, "boxed": 1, "truncated": 0, "response_tokens": 9, ...}, [Grade(...)])]

lm-eval keeps neither token counts nor finish reasons, so both come from encoding the response again with the
model's tokenizer, without special tokens: the end-of-turn token is left out, and a response within 1% of
max_gen_toks counts as truncated. `response_metrics` gives lm-eval's process_results the same, one at a time.

`grade_file` takes rows with a response and a gold answer in columns of any name, or lm-eval's
`samples_*.jsonl`, and writes them with the parts of a Grade (lists where the response is a list), line by
line:

    grade_file("old.jsonl", "graded.jsonl", Columns("output", "gold"))
    -> {"n": 500, "legacy": 301, "symbolic": 344, "differ": 43, "reasons": {"correct": 344, ...}}
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from ..errors import UserError, nearest
from ..inputs.chat import load_chat
from ..inputs.problems import answer_text
from ..inputs.references import ModelRef
from ..system.files import Row, atomic_writer, iter_jsonl, json_line, usable_rows
from .answer import Grade
from .notation import SHORT, clean, key, pattern, rational
from .workers import LIMITS, Question, grade_rows, grade_safely

VERDICTS = ("legacy", "symbolic", "boxed")
METRICS = (*VERDICTS, "truncated", "loops", "response_tokens", "reflections")
TRUNCATED_SHARE = 0.99
LOOP_CHARACTERS, LOOP_TIMES = 50, 4
PROGRESS_SECONDS = 5.0
LEGACY_RULES = ("hendrycks", "number", "last_number")

TokenCounter = Callable[[Sequence[str]], list[int]]
"""From texts to the number of tokens of each, without special tokens."""

Tell = Callable[[str], None] | None


class Columns(NamedTuple):
    """Where a row's response and gold answer are; `samples` reads them where lm-eval puts them."""

    response_field: str = "response"
    answer_field: str = "answer"
    legacy_rule: str = "hendrycks"
    samples: bool = False
    answer_format: str = "plain"


def count_reflections(text: str) -> int:
    """How many reflection words (notation.yaml) a text holds: whole words, in any case."""
    return len(pattern("reflections").findall(text))


def loops(text: str) -> bool:
    """Whether a response that was cut had come to repeat itself: its last 50 characters are in it 4 times."""
    return text.count(text[-LOOP_CHARACTERS:]) >= LOOP_TIMES


def measured_rows(
    rows: Sequence[Sequence[Question]], counts: TokenCounter, max_gen_toks: int
) -> Iterator[tuple[dict[str, float], list[Grade]]]:
    """METRICS of each row's responses to one problem (their means), and the grades, in order."""
    lengths = iter(counts([question.response or "" for row in rows for question in row]))
    cut = [[_cut(question, next(lengths), max_gen_toks) for question in row] for row in rows]
    for row, grades in grade_rows(cut, lambda row: [question for question, _ in row]):
        yield mean_metrics([_metrics(*one, grade) for one, grade in zip(row, grades, strict=True)]), grades


def response_metrics(doc: Mapping[str, Any], response: str) -> dict[str, float]:
    """All metrics of one response to a task's document; without a known tokenizer, those that need none.

    A document has `answer`, `legacy_rule`, `tokenizer`, `tokenizer_revision` and `max_gen_toks`.
    """
    question, model = Question(response, str(doc["answer"]), legacy_rule=doc["legacy_rule"]), doc["tokenizer"]
    tokens = token_counter(model, doc["tokenizer_revision"])([response])[0] if model else 0
    question, tokens = _cut(question, tokens, doc.get("max_gen_toks", 0))
    values = _metrics(question, tokens, grade_safely(question))
    return values if model else {name: values[name] for name in (*VERDICTS, "reflections")}


def mean_metrics(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the responses to one problem; one response keeps its own numbers."""
    return {key: mean(value[key] for value in values) for key in values[0]}


def majority(grades: Sequence[Grade]) -> float:
    """maj@n: whether the answer that most responses give is right by `symbolic`; 0 if none gives any.

    (Wang et al. 2022, arXiv 2203.11171.) Answers count as one if they are the same number, or the same text
    in one notation (notation.py; of 200 characters). Of several that are given equally often it is the share
    that is right: what a draw among them gives on average.
    """
    answers = [(clean(one.extracted[:SHORT]), one.symbolic) for one in grades if one.extracted is not None]
    given = [(rational(answer) or key(answer), correct) for answer, correct in answers]
    votes, right = Counter(answer for answer, _ in given), {answer for answer, correct in given if correct}
    tied = {answer for answer, count in votes.items() if count == max(votes.values())}
    return len(tied & right) / max(1, len(tied))


@cache
def token_counter(model: str, revision: str | None = None) -> TokenCounter:
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


def _cut(question: Question, tokens: int, max_gen_toks: int) -> tuple[Question, int]:
    """The question, and whether its response was cut, with the response's tokens."""
    return question._replace(truncated=0 < TRUNCATED_SHARE * max_gen_toks <= tokens), tokens


def _metrics(question: Question, tokens: int, grade: Grade) -> dict[str, float]:
    text, cut = question.response or "", question.truncated
    return {
        **{name: int(grade.accepts(name)) for name in VERDICTS}, "truncated": int(cut),
        "loops": int(cut and loops(text)), "response_tokens": tokens, "reflections": count_reflections(text),
    }  # fmt: skip


def grade_file(
    source: str | Path,
    output: str | Path,
    columns: Columns,
    workers: int | None = None,
    tell: Tell = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Write each row of `source` with its grades to `output`, by rename; return the counts.

    `tell` gets a line for each response on which the verdicts differ. A response longer than the grader looks
    at is graded on its last part, whose length the row then says as `graded_characters`. Raises UserError
    naming the row if a column is missing or holds no text; then nothing is written. With `skip_bad` such rows
    are left out and told as `bad_rows`.
    """
    counts, reasons = Counter(n=0, legacy=0, symbolic=0, differ=0), Counter[str]()
    started = said = time.monotonic()
    bad: list[str] | None = [] if skip_bad else None
    rows = asked_rows(source, columns, bad)
    if (first := next(rows, None)) is None:
        raise UserError(f"{source}: holds no rows")
    with atomic_writer(output) as handle:
        asked = enumerate(chain([first], rows), start=1)
        for (number, (row, several, is_list)), grades in grade_rows(asked, lambda item: item[1][1], workers):
            parts = {part: [vars(one)[part] for one in grades] for part in Grade.__annotations__}
            added = parts if is_list else vars(grades[0])
            cut = any(len(question.response or "") > LIMITS.characters for question in several)
            handle.write(json_line(row | added | ({"graded_characters": LIMITS.characters} if cut else {})))
            for question, one in zip(several, grades, strict=True):
                differ = one.legacy != one.symbolic
                counts.update(n=1, legacy=one.legacy, symbolic=one.symbolic, differ=differ)
                reasons[one.reason] += 1
                if tell and differ:
                    right, wrong = ("legacy", "symbolic") if one.legacy else ("symbolic", "legacy")
                    gold = f"gold {question.answer!r}, extracted {one.extracted!r}, {one.reason}"
                    tell(f"row {number}: {right} right, {wrong} wrong: {gold}")
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                speed = f"{counts['n'] / (said - started):.0f} a second"
                print(f"{source}: {counts['n']} responses graded, {speed}", file=sys.stderr, flush=True)
    return {**counts, "reasons": dict(sorted(reasons.items())), "bad_rows": bad or []}


def asked_rows(
    source: str | Path, columns: Columns, skipped: list[str] | None = None
) -> Iterator[tuple[Row, list[Question], bool]]:
    """Each row of a file, what is to be graded in it, and whether its response is a list.

    Raises UserError naming the first bad row; with `skipped` such rows are told there and left out.
    """

    def asked(row: Row) -> tuple[Row, list[Question], bool]:
        if columns.samples:
            response, gold, rule = _sample(row, columns.legacy_rule)
        else:
            response = _column(row, columns.response_field, "--response-field")
            gold, rule = _column(row, columns.answer_field, "--answer-field"), columns.legacy_rule
        try:
            gold = answer_text(gold, columns.answer_format)
        except ValueError as error:
            raise ValueError(f"{columns.answer_field!r} {error}") from None
        several = response if isinstance(response, list) else [response]
        for one in several:
            if not isinstance(one, str | None):
                raise ValueError(f"the response is a {type(one).__name__}, not text")
        cut = row.get("truncated") == 1 or row.get("finish_reason", "stop") not in ("stop", None)
        return row, [Question(one, gold, cut, rule) for one in several], several is response

    return usable_rows(iter_jsonl(source, skipped=skipped), source, asked, skipped)


def _sample(row: Row, rule: str) -> tuple[Any, Any, str]:
    """Response, gold answer and legacy rule of an lm-eval sample; `rule` is that of a task without one."""
    filtered, doc = row.get("filtered_resps"), row.get("doc")
    if not isinstance(filtered, list) or not filtered:
        raise ValueError("has no 'filtered_resps'; --samples reads lm-eval's samples_*.jsonl")
    known = {"legacy_rule": rule, **(doc if isinstance(doc, dict) else {})}
    gold = known["answer"] if known.get("answer") is not None else _column(row, "target", "--samples")
    if known["legacy_rule"] not in LEGACY_RULES:
        raise ValueError(f"legacy_rule {known['legacy_rule']!r} is none of {', '.join(LEGACY_RULES)}")
    return filtered[0], gold, known["legacy_rule"]


def _column(row: Row, name: str, flag: str) -> Any:
    if name in row:
        return row[name]
    raise ValueError(f"has no {name!r} ({flag}); {nearest(name, row)}")
