"""Long chains of thought to write again, shorter: the problems of the family `rewriter`.

A problem is one of problems.py with its instruction, a long chain that solves it, and `Shorter.`, told as the
template of recipes/experiments/rewritten.yaml tells them; its solution is the chain of middle length (split
and checked, without the careless pass). The two sides are those of the arithmetic problems.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from problems import (
    DATA_FILES,
    INSTRUCTION,
    SIZES,
    Mix,
    is_right,
    result_of,
    write_chain,
    write_files,
)
from problems import sample_problems as arithmetic

__all__ = ["DATA_FILES", "is_right", "sample_problems", "write", "write_data"]

LONG = Mix(reflecting=1.0)
ASK = "Shorter."


def sample_problems(rng: random.Random, sizes: Sequence[int] = SIZES, *, evaluation: bool) -> Iterator[str]:
    """Yield problems with a long chain each for ever, of one side of the split."""
    for problem in arithmetic(rng, sizes, evaluation=evaluation):
        yield f"{problem}{INSTRUCTION}\n{write_chain(problem, LONG, rng)}\n{ASK}"


def write(problem: str, style: Mix, rng: random.Random) -> str:
    """A chain for the arithmetic problem, which is the first line."""
    return write_chain(problem.partition("\n")[0], style, rng)


def write_data(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl`, `two.jsonl` and `three.jsonl` into `folder`."""
    write_files(folder, DATA_FILES, seed, sample_problems, answer, "rewrite")


def answer(problem: str) -> str:
    """The result of the arithmetic problem."""
    return result_of(problem.partition("\n")[0])
