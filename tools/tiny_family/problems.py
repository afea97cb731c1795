r"""Arithmetic problems and the chains of thought that solve them, generated from a seed.

A problem is `What is 78-22+41?`: one to three additions and subtractions of whole numbers from 2 to 99,
worked from left to right (the mathematical order, since + and - rank equally), never negative on the way.
A chain of thought always states the result of every operation and ends in `\boxed{}`. Around that, four
optional parts make it longer: an opening sentence, splitting each operation into tens and ones, checking
each result by the inverse operation, and a second pass over all of it. The family `gap` has other chains, of
four kinds, the longest of which corrects a mistake of its own (`write_chain`).

Evaluation problems are those whose SHA-256 falls in a reserved bucket (one eighth of all problems).
Everything that is trained on is rejected by that same test, so the two cannot overlap.

Started as a script, it writes more of a seed's training problems than ship, the shipped ones first:

    python tools/tiny_family/problems.py --count 10000 --seed 1 --out build/tiny-prompts/1
"""

import argparse
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from micota_lf.grading.answer import grade

INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Suffix that turns a problem into the user's prompt, as in the paper's official repository."""

DATA_FILES = {"train": (1200, (2, 3), 11), "two": (200, (2,), 12), "three": (200, (3,), 13)}
"""Shipped files: name -> (number of problems, operations a problem may have, seed)."""

SEEDS_APART = 1000
"""What each seed of a family adds to the seeds of its models and problems."""


@dataclass(frozen=True)
class Style:
    """How likely each optional part of a chain of thought is (0 = never, 1 = always).

    `split` and `check` are drawn anew for every operation, `opening` and `second` once a response, all
    independently. A rate between 0 and 1 is raised where an operation carries or borrows and lowered where
    it does not (see `write_cot`): people elaborate where it is hard.
    """

    opening: float = 0.0
    split: float = 0.0
    check: float = 0.0
    second: float = 0.0


@dataclass(frozen=True)
class Mix:
    """How often each kind of the gap family's chains is drawn, as shares that add up to 1.

    `split` works out every operation from its tens and ones, and `checked` then checks backwards from the
    last result to the first number. `reflecting` does so as well, but a share `careless` of its first passes
    forgets the first carry or borrow (where there is one), so that the check does not come out and all is
    done again.
    """

    short: float = 0.0
    split: float = 0.0
    checked: float = 0.0
    reflecting: float = 0.0
    careless: float = 1.0


SHORT = Style()
LONG = Style(opening=1.0, split=1.0, check=1.0, second=1.0)


def is_evaluation(problem: str) -> bool:
    """Tell whether a problem belongs to the evaluation side of the split (32 of 256 hash buckets)."""
    return hashlib.sha256(problem.encode()).digest()[0] < 32


def make_problem(rng: random.Random, operations: int) -> str:
    """Draw one problem with the given number of operations, from either side of the split."""
    total = rng.randint(2, 99)
    text = str(total)
    for _ in range(operations):
        number = rng.randint(2, 99)
        if total >= 2 and rng.random() < 0.5:
            number = number if number <= total else rng.randint(2, total)
            total, text = total - number, f"{text}-{number}"
        else:
            total, text = total + number, f"{text}+{number}"
    return f"What is {text}?"


SIZES = (1, 2, 2, 3, 3)


def sample_problems(
    rng: random.Random, operations: Sequence[int] = SIZES, *, evaluation: bool
) -> Iterator[str]:
    """Yield problems of one side of the split for ever; the number of operations is drawn uniformly."""
    while True:
        problem = make_problem(rng, rng.choice(operations))
        if is_evaluation(problem) == evaluation:
            yield problem


def operations_of(problem: str) -> list[tuple[int, str, int, int]]:
    """List a problem's operations from left to right as (left, sign, right, result)."""
    steps = []
    left, *rest = re.findall(r"[+-]?\d+", problem)
    total = int(left)
    for term in rest:
        result = total + int(term)
        steps.append((total, term[0], int(term[1:]), result))
        total = result
    return steps


def tens_and_ones(left: int, sign: str, right: int) -> tuple[str, int, int]:
    """Split an operation: the line that says so, the result of its tens and that of its ones."""
    (left_tens, left_ones), (right_tens, right_ones) = divmod(left, 10), divmod(right, 10)
    part = -1 if sign == "-" else 1
    tens, ones = 10 * (left_tens + part * right_tens), left_ones + part * right_ones
    tens_line = f"Tens {10 * left_tens}{sign}{10 * right_tens}={tens}"
    return f"{tens_line}, ones {left_ones}{sign}{right_ones}={ones}.", tens, ones


def write_cot(problem: str, style: Style, rng: random.Random) -> str:
    r"""Write a correct response to `problem` that ends in `\boxed{answer}.`, with the parts `style` draws."""
    steps = operations_of(problem)
    lines = ["Let me think step by step."] if rng.random() < style.opening else []
    for left, sign, right, result in steps:
        value = f"{result}"
        line, tens, ones = tens_and_ones(left, sign, right)
        power = 3.0 if 0 <= ones <= 9 else 1 / 3  # a rate of 0.5 becomes 0.13 when easy, 0.79 when hard
        if rng.random() < style.split**power:
            lines.append(line)
            value = f"{tens}{ones:+d}={result}"
        lines.append(f"{left}{sign}{right}={value}.")
        if rng.random() < style.check**power:
            lines.append(f"Check {result}{'+' if sign == '-' else '-'}{right}={left}.")
    if rng.random() < style.second:
        lines.append("Wait, let me verify.")
        lines.extend(f"{left}{sign}{right}={result}." for left, sign, right, result in steps)
    return "\n".join([*lines, f"So the answer is \\boxed{{{steps[-1][3]}}}."])


def split_pass(problem: str, careless: bool) -> tuple[list[str], list[tuple[int, str, int, int]]]:
    """Work out every operation from its tens and ones: the lines, and the operations as they came out.

    A `careless` pass forgets the first carry or borrow and goes on with the wrong result.
    """
    lines, steps = [], []
    (total, *_), *_ = operations_of(problem)
    for _, sign, right, _ in operations_of(problem):
        line, tens, ones = tens_and_ones(total, sign, right)
        kept = ones % 10 if careless else ones
        careless = careless and kept == ones
        result = tens + kept
        lines.append(line)
        lines.append(f"{total}{sign}{right}={tens}{kept:+d}={result}.")
        steps.append((total, sign, right, result))
        total = result
    return lines, steps


def check_backwards(steps: list[tuple[int, str, int, int]]) -> tuple[list[str], int]:
    """Undo the operations from the last result to the first number: the lines, and where that ends."""
    lines, total = [], steps[-1][3]
    for _, sign, right, _ in reversed(steps):
        back = total - right if sign == "+" else total + right
        lines.append(f"Check {total}{'-' if sign == '+' else '+'}{right}={back}.")
        total = back
    return lines, total


def write_chain(problem: str, mix: Mix, rng: random.Random) -> str:
    r"""Write a response to `problem` of a kind that `mix` draws; its last line has the right answer boxed.

    A pass that the check does not bear out is followed by another one that is right.
    """
    (kind,) = rng.choices(range(4), (mix.short, mix.split, mix.checked, mix.reflecting))
    if kind == 0:
        return write_cot(problem, SHORT, rng)
    careless = kind == 3 and rng.random() < mix.careless
    lines, steps = split_pass(problem, careless)
    if any(left < 0 or result < 0 for left, _, _, result in steps):  # no pass goes below zero
        lines, steps = split_pass(problem, False)
    if kind > 1:
        back, end = check_backwards(steps)
        lines += back
        first = steps[0][0]
        if end != first:
            again, steps = split_pass(problem, False)
            lines += [f"Wait, {end} is not {first}.", *again, *check_backwards(steps)[0]]
    return "\n".join([*lines, f"So the answer is \\boxed{{{steps[-1][3]}}}."])


def write(problem: str, style: Style | Mix, rng: random.Random) -> str:
    """Write a response in whichever manner `style` describes."""
    return write_cot(problem, style, rng) if isinstance(style, Style) else write_chain(problem, style, rng)


def write_data(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl`, `two.jsonl` and `three.jsonl` (fields id, problem, answer) into `folder`."""
    write_files(folder, DATA_FILES, seed, sample_problems, result_of)


def write_prompts(folder: Path, count: int, seed: int = 0) -> None:
    """Write a `train.jsonl` of `count` problems: those of `write_data` first, then more of them."""
    _, sizes, own = DATA_FILES["train"]
    write_files(folder, {"train": (count, sizes, own)}, seed, sample_problems, result_of)


def result_of(problem: str) -> str:
    """The answer to a problem."""
    return str(operations_of(problem)[-1][3])


def write_files(
    folder: Path,
    files: dict[str, tuple[int, tuple[int, ...], int]],
    seed: int,
    sample: Callable[..., Iterator[str]],
    answer: Callable[[str], str],
    prefix: str = "tiny",
) -> None:
    """Write a domain's problems: `files` as DATA_FILES, whose names but `train` are evaluation's.

    A `seed` other than 0 draws other problems than the shipped ones, of the same sides of the split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (count, sizes, own) in files.items():
        problems: dict[str, None] = {}
        rng = random.Random(own + SEEDS_APART * seed)
        for problem in sample(rng, sizes, evaluation=name != "train"):
            problems[problem] = None
            if len(problems) == count:
                break
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for index, problem in enumerate(problems):
                row = {"id": f"{prefix}-{name}-{index:04d}", "problem": problem, "answer": answer(problem)}
                file.write(json.dumps(row) + "\n")


def is_right(problem: str, response: str, answer: str) -> bool:
    """Whether a response is right: the same number as the gold answer."""
    return grade(response, answer).symbolic


def main() -> None:
    """Read the command line and write the training problems."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--count", type=int, required=True, help="how many problems")
    parser.add_argument("--seed", type=int, default=0, help="of the family, as train.py's (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder of train.jsonl")
    args = parser.parse_args()
    write_prompts(args.out, args.count, args.seed)


if __name__ == "__main__":
    main()
