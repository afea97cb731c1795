"""How far generating is, and what came of it: counts, lengths, the share cut at the limit.

progress = Progress(total=500, done=0)
progress.add(completion)         # says "128/500 responses, 2,345 tokens/s, 1.6% cut at the limit, ..."
response_summary("out.jsonl")    # {"responses": 500, "mean_response_tokens": 812.4, "truncated": 7, ...}
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import StepFailed
from ..system.files import iter_jsonl
from ..system.processes import log_tail
from .protocol import Completion

REPORT_SECONDS = 5.0


def response_summary(output: str | Path) -> dict[str, Any]:
    """Counts, mean tokens, responses that hit the limit, and `lengths`: how many are up to 2, 4, 8... tokens.

    Raises StepFailed if rows failed.
    """
    rows = tokens = truncated = 0
    lengths: Counter[int] = Counter()
    failed: list[str] = []
    for row in iter_jsonl(output):
        rows += 1
        if row["status"] != "ok":
            failed.append(f"({row['id']}) with: {row['error']}")
            continue
        tokens += row["response_tokens"]
        truncated += row["finish_reason"] == "length"
        lengths[1 << (row["response_tokens"] - 1).bit_length()] += 1
    if failed:
        raise StepFailed(
            f"{len(failed)} of {rows} responses in {output} failed, the first {failed[0]}. "
            "Run the same command again: it retries only those."
        )
    counts = {str(bound): lengths[bound] for bound in sorted(lengths)}
    return {
        "responses": rows, "mean_response_tokens": tokens / rows, "truncated": truncated, "lengths": counts
    }  # fmt: skip


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary in words: counts, the share cut at the limit, and how long responses are."""
    n, cut = summary["responses"], summary["truncated"]
    words = [f"<={bound}: {count}" for bound, count in summary["lengths"].items()]
    mean = f"mean {summary['mean_response_tokens']:.1f} tokens"
    return [
        f"{n} responses, {mean}, {cut} ({cut / n:.1%}) cut at the limit",
        f"response tokens: {', '.join(words)}",
    ]


def generation_progress(directory: Path) -> str:
    """What a step's own progress line said last, or `128/500 responses`; empty before the first."""
    said = re.findall(r"generate: (\d+/\d+ responses.*)", log_tail(directory / "log.txt", 3))
    if said:
        return str(said[-1])
    try:
        total = json.loads((directory / "responses.meta.json").read_text())["prompts"]
        with (directory / "responses.jsonl").open("rb") as handle:
            return f"{sum(1 for _ in handle)}/{total} responses"
    except (OSError, ValueError, KeyError):
        return ""


class Progress:
    """Says every few seconds how far it is, how fast, how many were cut, and how long it may still take."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.before, self.done = total, done, done
        self.tokens = self.cut = 0
        self.started = self.last = time.monotonic()

    def add(self, completion: Completion) -> None:
        """Count one more response."""
        self.done += 1
        self.tokens += completion.response_tokens
        self.cut += completion.finish_reason == "length"
        now = time.monotonic()
        if now - self.last > REPORT_SECONDS or self.done == self.total:
            self.last, spent, new = now, max(now - self.started, 1e-9), self.done - self.before
            left = spent / new * (self.total - self.done)
            say(
                f"{self.done}/{self.total} responses, {self.tokens / spent:,.0f} tokens/s, "
                f"{self.cut / new:.1%} cut at the limit, about {left:.0f} s left"
            )


def say(text: str) -> None:
    """One line on how generating goes, for people."""
    print(f"generate: {text}", file=sys.stderr, flush=True)
