"""Which responses become training rows: the paper's equation 1.

In: `responses.jsonl`. Out: a corpus (`id`, `prompt`, `response`, token counts, both verdicts), the rejected
rows with their reasons beside it, and the counts by reason.

    filter_responses("responses.jsonl", "corpus.jsonl", Filter(max_tokens=16384))
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..grading.answer import Grade, unread_golds
from ..grading.intervals import sampled
from ..grading.measures import loops
from ..grading.own import OwnVerdict
from ..grading.workers import Question, grade_rows
from ..recipe.sections import GRADERS, Filter
from ..system.files import Row, digest, iter_jsonl, usable_rows, write_json, write_jsonl
from . import Context, Results, Stage

KEPT, BAD, ANY, SHORTEST = "kept", "bad row", Filter(verdict="none"), "shortest"
KINDS = {"prompt": str, "response": str, "response_tokens": int}


def run(step: Context) -> Results:
    """Filter the step's responses into its `corpus.jsonl`."""
    corpus, rule = step.directory / STAGE.output, step.section(Filter)
    return filter_responses(step.inputs["responses"].resolved, corpus, rule, step.own_verdict)


def filter_responses(
    responses: str | Path, output: str | Path, rule: Filter, own: OwnVerdict | None = None
) -> dict[str, Any]:
    """Write the kept rows to `output`, the others to `rejected.jsonl`, the counts to `counts.json`.

    Kept is a row with finish_reason `stop` (unless `rule.keep_truncated`), at most `rule.max_tokens` response
    tokens, and a right answer in the eyes of `rule.verdict` (`none`: any answer; `own` decides in its place),
    of several such to a prompt all or one (`rule.per_prompt`). What was cut is rejected as `loops` if it
    repeats itself (grading/measures.py), what grading could not end as `timeout` or `unparseable`, what has
    no gold answer that can be read as `unreadable gold`, and with `rule.skip_bad` what is no row of responses
    as `bad row`. Counted too are `prompts`, those of which a row is kept and, where all have several
    responses, `passed`: pass@k of the rule before it chooses among a prompt's, unless it judges nothing.
    Raises UserError if none is kept, and as `whole_rows` does.
    """
    output, bad = Path(output), list[str]()
    whole = list(whole_rows(responses, rule, bad if rule.skip_bad else None))
    rows = [_judged(row, verdict, rule, own) for row, (verdict,) in grade_rows(whole, questions)]
    rows.sort(key=lambda row: str(row["id"]))  # generation order depends on batching
    prompts = list(_by_prompt(rows, rule))
    kept = [row for row in rows if row["reason"] == KEPT]
    rejected = [row for row in rows if row["reason"] != KEPT]
    rejected += [{"reason": BAD, "error": words} for words in bad]
    reasons = dict(sorted(Counter(row["reason"] for row in kept + rejected).items()))
    write_jsonl(output.with_name("rejected.jsonl"), rejected)
    if not kept:
        said = f"{responses}: no response passes the filter: {reasons}; rejected.jsonl holds them"
        raise UserError("; ".join([said, *(f"gold answers {line}" for line in unread_golds(rows)[:1])]))
    summary = {
        "responses": len(rows) + len(bad), **vars(rule), "reasons": reasons,
        "prompts": len(prompts), "prompts_kept": sum(one[KEPT] > 0 for one in prompts),
        "passed": sampled(prompts, KEPT) if rule.verdict != "none" else {},
        "kept_not_right": 0 if own else sum(not r["symbolic"] for r in kept if r.get("answer") is not None),
        "kept_truncated": sum(row["finish_reason"] != "stop" for row in kept),
        "legacy_and_symbolic_differ": sum(row["legacy"] != row["symbolic"] for row in rows),
        "mean_response_tokens": mean_tokens(kept),
    }  # fmt: skip
    write_jsonl(output, kept)
    write_json(output.with_name("counts.json"), summary)
    return summary


def whole_rows(responses: str | Path, rule: Filter = ANY, skipped: list[str] | None = None) -> Iterator[Row]:
    """The rows of a file of responses, from here or elsewhere, with the columns that they may leave out.

    A row without `finish_reason` counts as finished, one without `id` gets a digest of its prompt, and
    `response_tokens` are not known (null) where no `max_tokens` needs them. A row without `prompt`,
    `response`, `answer` (for a verdict) or `response_tokens` (for a `max_tokens`) is a UserError naming file,
    row and column, or with `skipped` is told there and left out.
    """
    reads = f"max_tokens {rule.max_tokens}" if rule.max_tokens else f"per_prompt {rule.per_prompt}"
    needs = {
        "answer": rule.verdict in GRADERS and f", which verdict {rule.verdict} needs (none needs none)",
        "response_tokens": (rule.max_tokens or rule.per_prompt == SHORTEST) and f", which {reads} needs",
    }

    def whole(row: Row) -> Row:
        given = {name: value for name, value in row.items() if value is not None}
        for column, kind in {**KINDS, "answer": object}.items():
            if column in given and not isinstance(given[column], kind):
                raise ValueError(f"{column!r} is a {type(given[column]).__name__}, not {kind.__name__}")
            if column not in given and needs.get(column, True):
                raise ValueError(f"has no {column!r}{needs.get(column, '')}; {nearest(column, given)}")
        defaults = {"id": digest(ascii(row["prompt"])), "finish_reason": "stop", "response_tokens": None}
        return row | defaults | given

    return usable_rows(iter_jsonl(responses, skipped=skipped), responses, whole, skipped)


def mean_tokens(rows: list[Row]) -> float | None:
    """The mean response tokens of at least one row; None if a row's are not known."""
    known = [row["response_tokens"] for row in rows if row["response_tokens"] is not None]
    return sum(known) / len(rows) if len(known) == len(rows) else None


def questions(row: Row) -> list[Question]:
    """What is graded of a row: its response."""
    gold = row.get("answer")
    return [Question(row["response"], gold if gold is None else str(gold), row["finish_reason"] != "stop")]


def _by_prompt(rows: list[Row], rule: Filter) -> Iterator[dict[str, int | float]]:
    """Of each prompt how many `responses` it has, and what share the rule keeps before it chooses among them.

    Those that `per_prompt` does not choose are given their reason.
    """
    prompts: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (len(str(row["id"])), str(row["id"]))):  # `a#2` before `a#10`
        prompts[row["prompt"]].append(row)
    for several in prompts.values():
        passed = [row for row in several if row["reason"] == KEPT]
        yield {"responses": len(several), KEPT: len(passed) / len(several)}
        passed.sort(key=lambda row: row["response_tokens"] if rule.per_prompt == SHORTEST else 0)
        for row in passed[1:] if rule.per_prompt != "all" else ():
            row["reason"] = f"not the {rule.per_prompt}"


def _judged(row: Row, verdict: Grade, rule: Filter, own: OwnVerdict | None) -> Row:
    """The row with both verdicts, the extracted answer and the reason for keeping or rejecting it."""
    if row.get("status", "ok") != "ok":
        reason = "generation failed"
    elif row["finish_reason"] != "stop" and not rule.keep_truncated:
        reason = "loops" if loops(row["response"]) else "truncated"
    elif rule.max_tokens and row["response_tokens"] > rule.max_tokens:
        reason = "longer than max_tokens"
    elif own:
        said = own(row)
        reason = said if isinstance(said, str) else KEPT if said else "wrong"
    else:
        missed = "not in a box" if rule.verdict == "boxed" and verdict.symbolic else verdict.reason
        reason = KEPT if verdict.accepts(rule.verdict) else missed
    return {**row, **vars(verdict), "reason": reason}


STAGE = Stage(run, quick=True, output="corpus.jsonl")
