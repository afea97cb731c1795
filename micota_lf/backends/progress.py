"""How far generating is, and what came of it: counts, lengths, the share cut at the limit.

for completion in watched(completions, total=500, done=0):
    ...                          # says "128/500 responses, 2,345 tokens/s, 1.6% cut at the limit, ..."
response_summary("out.jsonl")    # {"responses": 500, "mean_response_tokens": 812.4, "truncated": 7, ...}
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..system.files import iter_jsonl
from ..system.processes import log_tail
from . import Completion

REPORT_SECONDS = 5.0


def response_summary(output: str | Path) -> dict[str, Any]:
    """Counts, mean tokens, responses that hit the limit, and `lengths`: how many are up to 2, 4, 8... tokens.

    Raises StepFailed if rows failed.
    """
    columns = ("id", "status", "error", "finish_reason", "response_tokens")
    rows = [{column: row[column] for column in columns} for row in iter_jsonl(output)]
    if failed := [row for row in rows if row["status"] != "ok"]:
        raise StepFailed(
            f"{len(failed)} of {len(rows)} responses in {output} failed, the first ({failed[0]['id']}) with: "
            f"{failed[0]['error']}. Run the same command again: it retries only those."
        )
    lengths = Counter(1 << (row["response_tokens"] - 1).bit_length() for row in rows)
    return {
        "responses": len(rows),
        "mean_response_tokens": sum(row["response_tokens"] for row in rows) / len(rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "lengths": {str(bound): number for bound, number in sorted(lengths.items())},
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary in words: counts, the share cut at the limit, and how long responses are."""
    n, cut, mean = (summary[key] for key in ("responses", "truncated", "mean_response_tokens"))
    words = ", ".join(f"<={bound}: {count}" for bound, count in summary["lengths"].items())
    return [
        f"{n} responses, mean {mean:.1f} tokens, {cut} ({cut / n:.1%}) cut at the limit",
        f"response tokens: {words}",
    ]


def generation_progress(directory: Path) -> str:
    """What a step that generates said last, such as `128/500 responses, ...`; empty before the first."""
    said = re.findall(r"generate: (\d+/\d+ responses.*)", log_tail(directory / "log.txt", 50))
    return str(said[-1]) if said else ""


def watched(completions: Iterable[Completion], total: int, done: int) -> Iterator[Completion]:
    """The completions; says every few seconds how far they are, how fast, how many cut, and the time left.

    `done` of the `total` were there before. The clock starts when the first one is asked for.
    """
    tokens = cut = 0
    started = last = time.monotonic()
    for new, completion in enumerate(completions, start=1):
        yield completion
        tokens += completion.response_tokens
        cut += completion.finish_reason == "length"
        now, left = time.monotonic(), total - done - new
        if now - last > REPORT_SECONDS or not left:
            last, spent = now, max(now - started, 1e-9)
            say(
                f"{done + new}/{total} responses, {tokens / spent:,.0f} tokens/s, "
                f"{cut / new:.1%} cut at the limit, about {spent / new * left:.0f} s left"
            )


def say(text: str) -> None:
    """One line on how generating goes, for people."""
    print(f"generate: {text}", file=sys.stderr, flush=True)
