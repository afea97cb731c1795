"""How far generating is, and what came of it: counts, lengths, the share cut at the limit.

progress = Progress(total=500, done=0)
progress.add(completion)         # says "128/500 responses, 2,345 tokens/s, 1.6% cut at the limit, ..."
response_summary("out.jsonl")    # {"responses": 500, "mean_response_tokens": 812.4, "truncated": 7, ...}
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..system.files import Row, iter_jsonl
from ..system.processes import log_tail
from . import Completion

REPORT_SECONDS = 5.0


def response_summary(output: str | Path) -> dict[str, Any]:
    """Counts, mean tokens, responses that hit the limit, and `lengths`: how many are up to 2, 4, 8... tokens.

    Raises StepFailed if rows failed.
    """
    number = tokens = truncated = 0
    lengths: Counter[int] = Counter()
    failed: list[Row] = []
    for row in iter_jsonl(output):
        number += 1
        if row["status"] != "ok":
            failed.append(row)
            continue
        tokens += row["response_tokens"]
        truncated += row["finish_reason"] == "length"
        lengths[1 << (row["response_tokens"] - 1).bit_length()] += 1
    if failed:
        raise StepFailed(
            f"{len(failed)} of {number} responses in {output} failed, the first ({failed[0]['id']}) with: "
            f"{failed[0]['error']}. Run the same command again: it retries only those."
        )
    counts = {str(bound): lengths[bound] for bound in sorted(lengths)}
    mean = tokens / number
    return {"responses": number, "mean_response_tokens": mean, "truncated": truncated, "lengths": counts}


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


class Progress:
    """Says every few seconds how far it is, how fast, how many were cut, and how long it may still take."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.new, self.tokens, self.cut = total, done, 0, 0, 0
        self.started = self.last = time.monotonic()

    def add(self, completion: Completion) -> None:
        """Count one more response."""
        self.done, self.new = self.done + 1, self.new + 1
        self.tokens += completion.response_tokens
        self.cut += completion.finish_reason == "length"
        now = time.monotonic()
        if now - self.last > REPORT_SECONDS or self.done == self.total:
            self.last, spent = now, max(now - self.started, 1e-9)
            left = spent / self.new * (self.total - self.done)
            say(
                f"{self.done}/{self.total} responses, {self.tokens / spent:,.0f} tokens/s, "
                f"{self.cut / self.new:.1%} cut at the limit, about {left:.0f} s left"
            )


def say(text: str) -> None:
    """One line on how generating goes, for people."""
    print(f"generate: {text}", file=sys.stderr, flush=True)
