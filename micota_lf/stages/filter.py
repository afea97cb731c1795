"""Which responses become training rows: the paper's equation 1.

In: `responses.jsonl`. Out: a corpus (`id`, `prompt`, `response`, token counts, both verdicts), the rejected
rows with their reasons beside it, and the counts by reason.

    filter_responses("responses.jsonl", "corpus.jsonl", Filter(max_tokens=16384))
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..grading.answer import Grade
from ..grading.workers import Question, grade_rows
from ..recipe.sections import Filter
from ..system.fields import joined
from ..system.files import Row, digest, iter_jsonl, write_json, write_jsonl
from . import Context, Results, Stage

KEPT, FAILED, TOO_LONG, UNFINISHED = "kept", "generation failed", "longer than max_tokens", "truncated"
KINDS = {"prompt": str, "response": str, "response_tokens": int}


def run(step: Context) -> Results:
    """Filter the step's responses into its `corpus.jsonl`."""
    rule = joined(Filter, step.config["filter"])
    return filter_responses(step.inputs["responses"].resolved, step.directory / "corpus.jsonl", rule)


def filter_responses(responses: str | Path, output: str | Path, rule: Filter) -> dict[str, Any]:
    """Write the kept rows to `output`, the others to `rejected.jsonl`, the counts to `counts.json`.

    Kept is a row with finish_reason `stop`, at most `rule.max_tokens` response tokens, and a right answer
    in the eyes of `rule.verdict` (`none`: any answer); what grading could not end is rejected as `timeout` or
    `unparseable` (`grading`). Raises UserError if none is kept, and naming file, row and column for a row
    without `prompt`, `response`, `answer` (for a verdict) or `response_tokens` (for a `max_tokens`).

    What a file of responses from elsewhere may leave out: a row without `finish_reason` counts as finished,
    one without `id` gets a digest of its prompt, and `response_tokens` without a `max_tokens` count as 0.
    """
    output = Path(output)
    given = [
        _whole(row, rule, f"{responses}: row {n}") for n, row in enumerate(iter_jsonl(responses), start=1)
    ]
    rows = [_judged(row, verdict, rule) for row, (verdict,) in grade_rows(given, _questions)]
    rows.sort(key=lambda row: str(row["id"]))  # generation order depends on batching
    kept = [row for row in rows if row["reason"] == KEPT]
    counts = Counter(row["reason"] for row in rows)
    write_jsonl(output.with_name("rejected.jsonl"), (row for row in rows if row["reason"] != KEPT))
    if not kept:
        reasons = f"{dict(counts)}; rejected.jsonl holds them"
        raise UserError(f"{responses}: no response passes the filter: {reasons}")
    summary = {
        "responses": len(rows), "verdict": rule.verdict, "max_tokens": rule.max_tokens,
        "reasons": dict(sorted(counts.items())),
        "legacy_and_symbolic_differ": sum(row["legacy"] != row["symbolic"] for row in rows),
        "mean_response_tokens": sum(row["response_tokens"] for row in kept) / len(kept),
    }  # fmt: skip
    write_jsonl(output, kept)
    write_json(output.with_name("counts.json"), summary)
    return summary


def _whole(row: Row, rule: Filter, where: str) -> Row:
    """The row with the columns that it may leave out. Raises UserError for one that it may not."""
    needed = {"prompt": "", "response": ""}
    if rule.verdict != "none":
        needed["answer"] = f", which verdict {rule.verdict} needs (none needs none)"
    if rule.max_tokens:
        needed["response_tokens"] = f", which max_tokens {rule.max_tokens} needs"
    for column in KINDS | needed:
        value, kind = row.get(column), KINDS.get(column, object)
        if value is None and column in needed:
            hint = nearest(column, [name for name in row if name != column])
            raise UserError(f"{where} has no {column!r}{needed[column]}; {hint}")
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{where}: {column!r} is a {type(value).__name__}, not {kind.__name__}")
    defaults = {"id": digest(ascii(row["prompt"])), "finish_reason": "stop", "response_tokens": 0}
    return row | {name: value for name, value in defaults.items() if row.get(name) is None}


def _questions(row: Row) -> list[Question]:
    gold = None if row.get("answer") is None else str(row["answer"])
    return [Question(row["response"], gold, row["finish_reason"] != "stop")]


def _judged(row: Row, verdict: Grade, rule: Filter) -> Row:
    """The row with both verdicts, the extracted answer and the reason for keeping or rejecting it."""
    if row.get("status", "ok") != "ok":
        reason = FAILED
    elif row["finish_reason"] != "stop":
        reason = UNFINISHED
    elif rule.max_tokens and row["response_tokens"] > rule.max_tokens:
        reason = TOO_LONG
    else:
        reason = KEPT if verdict.accepts(rule.verdict) else verdict.reason
    return {**row, **vars(verdict), "reason": reason}


STAGE = Stage(run, quick=True, output="corpus.jsonl")
