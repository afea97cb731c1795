"""Which responses become training rows: the paper's equation 1.

In: `responses.jsonl`. Out: a corpus (`id`, `prompt`, `response`, token counts, both verdicts), the rejected
rows with their reasons beside it, and the counts by reason.

    filter_responses("responses.jsonl", "corpus.jsonl", Filter(max_tokens=16384))
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..grading.answer import Grade
from ..grading.workers import Question, grade_rows
from ..recipe.sections import Filter
from ..system.files import Row, read_jsonl, write_json, write_jsonl

KEPT, FAILED, TOO_LONG, UNFINISHED = "kept", "generation failed", "longer than max_tokens", "truncated"


def filter_responses(responses: str | Path, output: str | Path, rule: Filter) -> dict[str, Any]:
    """Write the kept rows to `output`, the others to `rejected.jsonl`, the counts to `counts.json`.

    Kept is a row with finish_reason `stop`, at most `rule.max_tokens` response tokens, and a right answer
    in the eyes of `rule.verdict` (`none`: any answer); what grading could not end is rejected as `timeout` or
    `unparseable` (`grading`). Raises UserError if rows lack columns or none is kept.
    """
    output = Path(output)
    given = read_jsonl(responses)
    for row in given:
        _need_columns(row, rule, str(responses))
    rows = [_judged(row, verdict, rule) for row, (verdict,) in grade_rows(given, _questions)]
    rows.sort(key=lambda row: row["id"])  # generation order depends on batching
    kept = [row for row in rows if row["reason"] == KEPT]
    counts = Counter(row["reason"] for row in rows)
    write_jsonl(output.with_name("rejected.jsonl"), (row for row in rows if row["reason"] != KEPT))
    if not kept:
        raise UserError(
            f"{responses}: no response passes the filter: {dict(counts)}; rejected.jsonl holds them"
        )
    lengths = [row["response_tokens"] for row in kept]
    summary = {
        "responses": len(rows),
        "verdict": rule.verdict,
        "max_tokens": rule.max_tokens,
        "reasons": dict(sorted(counts.items())),
        "legacy_and_symbolic_differ": sum(row["legacy"] != row["symbolic"] for row in rows),
        "mean_response_tokens": sum(lengths) / len(lengths),
    }
    write_jsonl(output, kept)
    write_json(output.with_name("counts.json"), summary)
    return summary


def _need_columns(row: Row, rule: Filter, where: str) -> None:
    missing = [key for key in ("id", "prompt", "response", "finish_reason") if key not in row]
    if missing or (rule.verdict != "none" and row.get("answer") is None):
        what = ", ".join(missing) or "answer"
        raise UserError(f"{where}: row {row.get('id', '?')} has no {what}; --verdict none needs no answers")


def _questions(row: Row) -> list[Question]:
    answer = row.get("answer")
    gold = None if answer is None else str(answer)
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
    verdicts = {"extracted": verdict.extracted, "legacy": verdict.legacy, "symbolic": verdict.symbolic}
    return {**row, **verdicts, "reason": reason}
