"""How fast 12,000 long responses are graded, against math-verify called on one after the other.

    python benchmarks/grading.py [--rows 12000] [--workers 2]

Synthetic responses of about 4,000 tokens (16,000 characters) end in a box; gold answers are integers,
fractions and expressions, the boxes say them in the same or in other words, and a quarter is wrong. Both
graders run one after the other on the same rows; processor time is said beside the clock's, for on a busy
machine that one says more. Peak memory is that of fresh processes which grade a quarter of the rows and all.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from micota_lf.grading.answer import grade
from micota_lf.grading.workers import Question, grade_rows

THOUGHTS = (
    "Wait, let me check that again, because the sign of the second term looks wrong to me.",
    "So we have $x^2 + {n}x - 6 = 0$, and by the formula $x = \\frac{{-{n} \\pm \\sqrt{{{m}}}}}{{2}}$",
    "Substituting $n = {n}$ gives ${m} + {n} = {s}$, which is what we wanted to see.",
    "Hmm, the remainder of {m} modulo {n} matters here, not the quotient.",
    "Therefore the number of ways is $\\binom{{{n}}}{{2}} = {m}$, if order is ignored.",
    "Alternatively, one could count the complement: there are {s} cases in all.",
)
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
CHARACTERS, WRONG_SHARE, SAME_TEXT_SHARE = 16_000, 0.25, 0.7


def pairs(rows: int) -> Iterator[tuple[str, str]]:
    """Responses and gold answers, the same ones at each call."""
    for seed in range(rows):
        draw = random.Random(seed)
        gold, same = answer(draw)
        said = gold if draw.random() < SAME_TEXT_SHARE else same
        if draw.random() < WRONG_SHARE:
            said, _ = answer(draw)
        yield thoughts(draw) + f"\n\nThe final answer is $\\boxed{{{said}}}$.", gold


def thoughts(draw: random.Random) -> str:
    """Text of a long chain of thought, with mathematics in it."""
    parts: list[str] = []
    length = 0
    while length < CHARACTERS:
        n, m = draw.randint(2, 99), draw.randint(100, 9999)
        parts.append(draw.choice(THOUGHTS).format(n=n, m=m, s=n + m))
        length += len(parts[-1]) + 1
    return " ".join(parts)


def answer(draw: random.Random) -> tuple[str, str]:
    """A gold answer, and the same in other words."""
    n, m = draw.randint(2, 99), draw.randint(2, 99)
    return draw.choice([
        (str(n * m), f"{n * m}.0"),
        (f"\\frac{{{n}}}{{8}}", str(n / 8)),
        (f"{n}\\sqrt{{{m}}}", f"\\sqrt{{{m}}}\\cdot {n}"),
        (f"x^2+{n}x+{m}", f"{m}+{n}x+x^2"),
        (f"({n}, {m})", f"\\left({n},\\ {m}\\right)"),
        (f"\\frac{{{n}\\pi}}{{{m}}}", f"{n}\\pi/{m}"),
    ])  # fmt: skip


def serial(rows: int) -> int:
    """Right answers in the eyes of math-verify, one response after the other."""
    from math_verify import parse, verify

    return sum(bool(verify(parse(f"\\boxed{{{gold}}}"), parse(response))) for response, gold in pairs(rows))


def pooled(rows: int, workers: int) -> Counter[str]:
    """Counts by reason from `grade_rows`."""
    graded = grade_rows(pairs(rows), lambda pair: [Question(*pair)], workers)
    return Counter(one.reason for _, (one,) in graded)


def algebra_share(sample: int) -> float:
    """The share of responses that need computer algebra."""
    import math_verify

    calls = 0
    parse = math_verify.parse

    def counted(*args: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        return parse(*args, **more)

    math_verify.parse = counted
    needed = 0
    for response, gold in pairs(sample):
        before = calls
        grade(response, gold)
        needed += calls > before
    math_verify.parse = parse
    return needed / sample


def peak_memory(rows: int, workers: int) -> str:
    """Peak MiB of a fresh process that grades so many rows, and of its largest worker."""
    argv = [sys.executable, __file__, "--memory", "--rows", str(rows), "--workers", str(workers)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def timed(name: str, rows: int, run: Callable[[], object]) -> float:
    """Seconds by the clock of what is run; printed with the processor time."""
    started, used = time.perf_counter(), processor_time()
    result = run()
    seconds = time.perf_counter() - started
    used = processor_time() - used
    speed = f"{rows / seconds:.0f} rows/s"
    print(f"{name}: {seconds:.1f} s, {used:.1f} s of processor, {speed}: {result}", flush=True)
    return seconds


def processor_time() -> float:
    """Seconds that this process and its ended children have computed."""
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)


def main() -> None:
    """Print the times, the ratio, the share without algebra, and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        pooled(args.rows, args.workers)
        used = [
            resource.getrusage(who).ru_maxrss / 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        print(f"{used[0]:.0f} MiB, largest worker {used[1]:.0f} MiB")
        return
    logging.disable()
    making = timed("making the rows", args.rows, lambda: sum(1 for _ in pairs(args.rows)))
    alone = timed("math-verify", args.rows, lambda: serial(args.rows)) - making
    together = timed("grade_rows", args.rows, lambda: pooled(args.rows, args.workers)) - making
    print(f"ratio: {alone / together:.2f} (without the making of the rows)")
    sample = min(args.rows, 1000)
    print(f"decided without algebra: {1 - algebra_share(sample):.0%} of {sample}")
    for rows in (args.rows // 4, args.rows):
        print(f"peak memory at {rows} rows: {peak_memory(rows, args.workers)}", flush=True)


if __name__ == "__main__":
    main()
