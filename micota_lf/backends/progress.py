"""How far generating is, in words for people.

for completion in watched(completions, total=500, done=0):
    ...                          # says "128/500 responses, 2,345 tokens/s, 1.6% cut at the limit, ..."
"""

import sys
import time
from collections.abc import Iterable, Iterator

from . import Completion

REPORT_SECONDS = 5.0


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
