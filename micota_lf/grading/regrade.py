"""Any JSON Lines file of responses and answers, graded again.

In: rows with a response and a gold answer in columns of any name, or lm-eval's `samples_*.jsonl`. Out: the
same rows with `extracted`, `legacy`, `symbolic` and `reason` (lists where the response is a list), read and
written line by line; and the counts.

    grade_file("old.jsonl", "graded.jsonl", Columns("output", "gold"))
    -> {"n": 500, "legacy": 301, "symbolic": 344, "differ": 43, "reasons": {"correct": 344, ...}}
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..recipe.check import nearest
from ..system.files import Row, atomic_writer, iter_jsonl, json_line
from .workers import LIMITS, Question, grade_rows

PROGRESS_SECONDS = 5.0
PARTS = ("extracted", "legacy", "symbolic", "reason")
LEGACY_RULES = ("hendrycks", "number")


class Columns(NamedTuple):
    """Where a row's response and gold answer are; `samples` reads them where lm-eval puts them."""

    response: str = "response"
    answer: str = "answer"
    legacy_rule: str = "hendrycks"
    samples: bool = False


class Asked(NamedTuple):
    """A row, its number, and what is asked about it; `single` if the response was no list."""

    number: int
    row: Row
    questions: list[Question]
    single: bool


def grade_file(
    source: str | Path,
    output: str | Path,
    columns: Columns,
    workers: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write each row of `source` with its grades to `output`, by rename; return the counts.

    `tell` gets a line for each response on which the verdicts differ. A response longer than the grader looks
    at is graded on its last part, whose length the row then says as `graded_characters`. Raises UserError
    naming the row if a column is missing or holds no text; then nothing is written.
    """
    counts, reasons = Counter[str](), Counter[str]()
    started = said = time.monotonic()
    if next(asked_rows(source, columns), None) is None:
        raise UserError(f"{source}: holds no rows")
    with atomic_writer(output) as handle:
        graded = grade_rows(asked_rows(source, columns), lambda asked: asked.questions, workers)
        for asked, verdicts in graded:
            values: dict[str, Any] = {part: [getattr(one, part) for one in verdicts] for part in PARTS}
            if any(len(question.response or "") > LIMITS.characters for question in asked.questions):
                values["graded_characters"] = LIMITS.characters
            if asked.single:
                values = {key: value[0] if key in PARTS else value for key, value in values.items()}
            handle.write(json_line({**asked.row, **values}))
            for question, one in zip(asked.questions, verdicts, strict=True):
                counts.update(
                    n=1, legacy=one.legacy, symbolic=one.symbolic, differ=one.legacy != one.symbolic
                )
                reasons[one.reason] += 1
                if tell and one.legacy != one.symbolic:
                    right, wrong = ("legacy", "symbolic") if one.legacy else ("symbolic", "legacy")
                    gold = f"gold {question.answer!r}, extracted {one.extracted!r}, {one.reason}"
                    tell(f"row {asked.number}: {right} right, {wrong} wrong: {gold}")
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                speed = f"{counts['n'] / (said - started):.0f} a second"
                print(f"{source}: {counts['n']} responses graded, {speed}", file=sys.stderr, flush=True)
    names = ("n", "legacy", "symbolic", "differ")
    return {**{name: counts[name] for name in names}, "reasons": dict(sorted(reasons.items()))}


def asked_rows(source: str | Path, columns: Columns) -> Iterator[Asked]:
    """The rows of a file with what is to be graded. Raises UserError naming the first bad row."""
    for number, row in enumerate(iter_jsonl(source), start=1):
        where = f"{source}: row {number}"
        found, gold, rule = (_of_sample if columns.samples else _of_row)(row, columns, where)
        single = not isinstance(found, list)
        responses = [found] if single else found
        for response in responses:
            if not isinstance(response, str | None):
                raise UserError(f"{where}: the response is a {type(response).__name__}, not text")
        cut = row.get("truncated") == 1 or row.get("finish_reason", "stop") not in ("stop", None)
        questions = [Question(response, gold, cut, rule) for response in responses]
        yield Asked(number, row, questions, single)


def _of_row(row: Row, columns: Columns, where: str) -> tuple[Any, str, str]:
    response = _column(row, columns.response, "--response-field", where)
    gold = _text(_column(row, columns.answer, "--answer-field", where), columns.answer, where)
    return response, gold, columns.legacy_rule


def _of_sample(row: Row, columns: Columns, where: str) -> tuple[Any, str, str]:
    """From an lm-eval sample: the first filtered response, or all of a task that samples several."""
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    filtered = row.get("filtered_resps")
    if not isinstance(filtered, list) or not filtered:
        raise UserError(f"{where} has no 'filtered_resps'; --samples reads lm-eval's samples_*.jsonl")
    name = "answer" if doc.get("answer") is not None else "target"
    gold = _text(doc["answer"] if name == "answer" else _column(row, name, "--samples", where), name, where)
    rule = doc.get("legacy_rule", columns.legacy_rule)
    if rule not in LEGACY_RULES:
        raise UserError(f"{where}: legacy_rule {rule!r} is none of {', '.join(LEGACY_RULES)}")
    return filtered[0], gold, rule


def _column(row: Row, name: str, flag: str, where: str) -> Any:
    if name in row:
        return row[name]
    raise UserError(f"{where} has no {name!r} ({flag}); {nearest(name, row)}")


def _text(value: Any, name: str, where: str) -> str:
    """A gold answer as text: a number as it is written, the only entry of a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise UserError(f"{where}: {name!r} is {value!r:.60}, not an answer")
    return str(value)
