r"""Where the gap family's chains go wrong: counts on the responses of a run's evaluations.

    python tools/tiny_family/chains.py runs recipes/tiny.yaml     # a table in Markdown, a column a model
    python tools/tiny_family/chains.py runs recipes/experiments/merge-weights.yaml --only 'ta*'

A chain is one or more passes over the problem's operations; after the first, each follows a line such as
`Wait, 88 is not 78.` A line such as `78-22=50+6=56.` is false if its sides differ, and `carried wrongly` if
it does not begin with the result of the line before. Shares have 95% Wilson intervals, and what they are of;
above them the lengths of all responses, cut ones among them.
"""

import argparse
import fnmatch
import operator
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from problems import operations_of

from micota_lf import results
from micota_lf.grading.intervals import wilson
from micota_lf.system.files import Row, iter_jsonl

SIGNS = {"+": operator.add, "-": operator.sub}
STATEMENT = re.compile(r"(-?\d+)([+-])(-?\d+)=(?:-?\d+[+-]\d+=)?(-?\d+)")
BOXED = re.compile(r"\\boxed\{(-?\d+)\}")
POSITIONS = 3  # operations that a problem has at most


class Pass(NamedTuple):
    """One pass: its operations as (left, sign, right, result), its lines of parts and its check's."""

    operations: list[tuple[int, str, int, int]]
    parts: list[bool]
    checks: list[bool]

    @property
    def result(self) -> int | None:
        """What the pass comes to."""
        return self.operations[-1][3] if self.operations else None


class Chain(NamedTuple):
    """A response: its passes, the answer in its box, the right one."""

    passes: list[Pass]
    boxed: int | None
    gold: int


def dissect(problem: str, response: str) -> Chain:
    """A response to one of the family's problems, taken apart; lines of another form are left out."""
    passes = []
    for text in re.split(r"^Wait, .*$", response, flags=re.MULTILINE):
        made = Pass([], [], [])
        for line in text.splitlines():
            found = [(int(a), sign, int(b), int(c)) for a, sign, b, c in STATEMENT.findall(line)]
            true = [is_true(one) for one in found]
            if line.startswith("Tens"):
                made.parts.extend(true)
            elif line.startswith("Check"):
                made.checks.extend(true)
            else:
                made.operations.extend(found)
        passes.append(made)
    boxes = BOXED.findall(response)
    return Chain(passes, int(boxes[-1]) if boxes else None, operations_of(problem)[-1][3])


def is_true(statement: tuple[int, str, int, int]) -> bool:
    """Whether the two sides are the same."""
    left, sign, right, result = statement
    return bool(SIGNS[sign](left, right) == result)


def measures(chains: Sequence[Chain]) -> Iterator[tuple[str, int, int]]:
    """What is counted, how many of them, and of how many."""
    yield "states parts", sum(any(made.parts for made in chain.passes) for chain in chains), len(chains)
    yield "checks", sum(any(made.checks for made in chain.passes) for chain in chains), len(chains)
    yield "does it again", sum(len(chain.passes) > 1 for chain in chains), len(chains)
    firsts = [chain.passes[0] for chain in chains]
    every = [one for chain in chains for one in chain.passes]
    operations = [one for made in every for one in made.operations]
    yield "operations that are false", sum(not is_true(one) for one in operations), len(operations)
    for n in range(POSITIONS):
        those = [made.operations[n] for made in firsts if n < len(made.operations)]
        yield f"- number {n + 1} of a first pass", sum(not is_true(one) for one in those), len(those)
    lines = [pair for made in every for pair in pairwise(made.operations)]
    yield "carried wrongly", sum(one[3] != next_one[0] for one, next_one in lines), len(lines)
    for name, lists in (("parts", [p.parts for p in every]), ("checks", [p.checks for p in every])):
        yield f"{name} that are false", sum(one.count(False) for one in lists), sum(map(len, lists))
    right = [chain for chain in chains if chain.passes[0].result == chain.gold]
    yield "first pass is right", len(right), len(chains)
    wrong = [chain for chain in chains if chain.passes[0].result != chain.gold]
    redone = [chain for chain in wrong if len(chain.passes) > 1]
    yield "wrong first pass is noticed", len(redone), len(wrong)
    yield "- and the answer is right then", sum(c.boxed == c.gold for c in redone), len(redone)
    yield "right first pass is redone", sum(len(chain.passes) > 1 for chain in right), len(right)
    lost = sum(len(c.passes) > 1 and c.boxed != c.gold for c in right)
    yield "first pass right, redone, answer wrong", lost, len(chains)
    last_right = [chain for chain in chains if chain.passes[-1].result == chain.gold]
    yield "last pass right, answer wrong", sum(c.boxed != c.gold for c in last_right), len(chains)
    yield "answer is right", sum(chain.boxed == chain.gold for chain in chains), len(chains)


def shares(directory: Path) -> Iterator[tuple[str, str]]:
    """Names of the measures of an evaluation's responses, and how they read."""
    rows = iter_jsonl(directory / "samples.jsonl")
    for name, k, n in measures([dissect(row["problem"], row["response"]) for row in rows]):
        yield name, share(k, n)


def lengths(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Quantiles of the responses' tokens, and the share that was cut."""
    tokens = [row["response_tokens"] for row in rows]
    yield "tokens: 10%, median, 90%", ", ".join(f"{cut:.0f}" for cut in np.quantile(tokens, (0.1, 0.5, 0.9)))
    yield "cut", share(sum(row["truncated"] for row in rows), len(rows))


def share(k: int, n: int) -> str:
    """In percent with its interval; n may be 0."""
    low, high = wilson(k, n) if n else (0.0, 1.0)
    return f"{100 * k / n:.1f} [{100 * low:.1f}, {100 * high:.1f}] ({n})" if n else "none"


def main() -> None:
    """Print a column for each model of the recipe, and of its variants, that has been evaluated."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--only", default="*", help="models of such names, as in 'student-s/*' (default all)")
    args = parser.parse_intermixed_args()
    known: dict[Path, list[tuple[str, str]]] = {}  # variants share what no swept value touches
    found = {}
    for variant, outcomes in results(args.recipe, args.overrides, args.workspace).outcomes():
        models = [
            slot.removeprefix("evaluate/") for slot in outcomes.plan.slots if slot.startswith("evaluate/")
        ]
        for name in fnmatch.filter(models, args.only):
            slot = f"evaluate/{name}"
            if rows := list(outcomes.problems(slot).values()):
                directory = outcomes.directory(slot)
                known[directory] = known.get(directory) or [*lengths(rows), *shares(directory)]
                found[f"{name}/{variant}" if variant else name] = known[directory]
    if not found:
        parser.error(f"{args.workspace}: no evaluation of {args.recipe} is done there")
    print(f"| % [95% Wilson interval] (of n) | {' | '.join(found)} |\n|---{'|---' * len(found)}|")
    for cells in zip(*found.values(), strict=True):
        print(f"| {cells[0][0]} | {' | '.join(words for _, words in cells)} |")


if __name__ == "__main__":
    main()
