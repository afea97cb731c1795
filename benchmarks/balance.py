"""What share of a training's work is useful on several processes, by chance and as rows are arranged.

    python benchmarks/balance.py [--rows 12000] [--devices 8] [--corpus corpus.jsonl --model tiny:student-s]

A micro-step lasts as long as the longest sequence of any process in it. Lengths are those of a corpus, or
lognormal ones like R1's on MATH: mean 3,700 tokens, at most 16,000. Batches are the paper's. Where rows may
share sequences (`train.arrange=pack`) the longest such one is told. Work is counted in tokens: attention,
which grows with their square, is a fifth of a 14B model's at 16,000.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

from micota_lf.inputs.chat import load_chat, row_lengths
from micota_lf.inputs.references import ModelRef
from micota_lf.stages.arrange import arrange, global_batches
from micota_lf.stages.train import LONGER
from micota_lf.system.files import read_jsonl

MEAN, MOST, SIGMA = 3700, 16_000, 0.8
PAPER_BATCHES = (32, 96, 128)
CUTOFF = 18_432  # train.cutoff_len of recipes/micota.yaml


def synthetic(rows: int, seed: int = 0) -> list[int]:
    """Lognormal lengths, cut at MOST; the mean after the cut is MEAN within a few percent."""
    draw = random.Random(seed)
    start = math.log(1.05 * MEAN) - SIGMA**2 / 2
    return [min(MOST, max(100, round(draw.lognormvariate(start, SIGMA)))) for _ in range(rows)]


def by_chance(lengths: list[int], batches: list[list[int]], devices: int) -> float:
    """The useful share with one row a process in the shuffle's order."""
    steps = [batch[start : start + devices] for batch in batches for start in range(0, len(batch), devices)]
    waited = sum(devices * max(lengths[row] for row in step) for step in steps)
    return sum(lengths[row] for step in steps for row in step) / waited


def main() -> None:
    """Print a line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--model", default="tiny:student-s")
    args = parser.parse_args()
    lengths = synthetic(args.rows)
    if args.corpus:
        lengths = row_lengths(read_jsonl(args.corpus), load_chat(ModelRef(args.model)))
    print(f"{len(lengths)} rows of {sum(lengths) / len(lengths):.0f} tokens, at most {max(lengths)}")
    for size in PAPER_BATCHES:
        micro_steps, left = divmod(size, args.devices)
        if left:
            continue
        batches = global_batches(len(lengths), 42, 1.0, -1, size)
        ordered = arrange(lengths, batches, size, args.devices, micro_steps)
        packed = arrange(lengths, batches, size, args.devices, micro_steps, int(LONGER * CUTOFF))
        longest = max(sum(lengths[row] for row in pack) for pack in packed.packs)
        print(
            f"batch {size} on {args.devices}: by chance {by_chance(lengths, batches, args.devices):.2f}, "
            f"ordered {ordered.share:.2f}, packed {packed.share:.2f} "
            f"({packed.micro_steps} micro-steps for {micro_steps}, at most {longest} tokens)"
        )


if __name__ == "__main__":
    main()
