r"""Letters to put in order by rules, and the chains of thought that do: a domain without arithmetic.

A problem is `Rules: B<C, A<B, D<C. Which order?`: four to six letters, each in a rule, rules that can be kept
together. Every order that keeps them is right, so only a program can tell (`recipes/orders.py`). A chain of
thought ends in `\boxed{ABDC}`; its kinds are those of the family `gap` (problems.py):

- short: the order alone;
- split: letter by letter, with those that are free each time (no rule is left that puts one before them);
- checked: so, and each rule looked at once more;
- reflecting: a careless first pass forgets the first rule, the check finds it broken, and all is done again.

Of the free letters the first of the alphabet is taken. The two sides of the problems are as in arithmetic.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from problems import Mix, is_evaluation, write_files

from micota_lf.grading.own import own_verdict

DATA_FILES = {"train": (1200, (4, 5, 6), 21), "five": (200, (5,), 22), "six": (200, (6,), 23)}
"""Files: name -> (number of problems, letters a problem may have, seed)."""

SIZES = (4, 5, 5, 6, 6)
CARELESS_WISHED = 0.7  # share of problems in which the careless pass breaks a rule
VERDICT = Path(__file__).resolve().parents[2] / "recipes" / "orders.py"
Rule = tuple[str, str]

kept = own_verdict(VERDICT, "kept")


def is_right(problem: str, response: str, answer: str) -> bool:
    """Whether a response to a problem is right; of a gold answer there may be many others."""
    return kept({"problem": problem, "response": response}) is True


def make_problem(rng: random.Random, letters: int) -> str:
    """Draw one problem with so many letters: as many rules, one more or one less, in any order."""
    while True:
        order = rng.sample("ABCDEF", letters)
        pairs = [(a, b) for n, a in enumerate(order) for b in order[n + 1 :]]
        rules = rng.sample(pairs, min(len(pairs), letters + rng.choice((-1, 0, 1))))
        whole = letters_of(rules) == sorted(order)
        if whole and (breaks(rules) or rng.random() > CARELESS_WISHED):
            return f"Rules: {', '.join(f'{a}<{b}' for a, b in rules)}. Which order?"


def sample_problems(rng: random.Random, sizes: Sequence[int] = SIZES, *, evaluation: bool) -> Iterator[str]:
    """Yield problems of one side of the split for ever; the number of letters is drawn uniformly."""
    while True:
        problem = make_problem(rng, rng.choice(sizes))
        if is_evaluation(problem) == evaluation:
            yield problem


def rules_of(problem: str) -> list[Rule]:
    """A problem's rules, each with the letter that comes first."""
    return [(rule[0], rule[2]) for rule in problem.partition(": ")[2].partition(".")[0].split(", ")]


def letters_of(rules: Sequence[Rule]) -> list[str]:
    """The letters of a problem's rules, by the alphabet."""
    return sorted({letter for rule in rules for letter in rule})


def put_in_order(rules: Sequence[Rule], letters: Sequence[str]) -> tuple[list[str], str]:
    """Take free letters one by one: the lines, and the order."""
    lines, order, left = [], "", list(letters)
    while left:
        free = [one for one in left if not any(b == one and a in left for a, b in rules)]
        lines.append(f"Free {' '.join(free)}, take {free[0]}.")
        left.remove(free[0])
        order += free[0]
    return lines, order


def careless_order(rules: Sequence[Rule]) -> tuple[list[str], str]:
    """The pass that forgets the first rule."""
    return put_in_order(rules[1:], letters_of(rules))


def breaks(rules: Sequence[Rule]) -> bool:
    """Whether the careless pass breaks a rule."""
    return check(rules, careless_order(rules)[1])[1] is not None


def check(rules: Sequence[Rule], order: str) -> tuple[list[str], Rule | None]:
    """Look at each rule up to the first that is broken: the lines, and that one."""
    lines = []
    for a, b in rules:
        holds = order.index(a) < order.index(b)
        lines.append(f"{a}<{b} {'yes' if holds else 'no'}.")
        if not holds:
            return lines, (a, b)
    return lines, None


def write(problem: str, mix: Mix, rng: random.Random) -> str:
    r"""Write a response to `problem` of a kind that `mix` draws; its last line has a right order boxed."""
    rules = rules_of(problem)
    letters = letters_of(rules)
    (kind,) = rng.choices(range(4), (mix.short, mix.split, mix.checked, mix.reflecting))
    careless = kind == 3 and rng.random() < mix.careless
    lines, order = careless_order(rules) if careless else put_in_order(rules, letters)
    if kind == 0:
        lines = []
    if kind > 1:
        looked, broken = check(rules, order)
        lines += [f"Order {order}.", *looked]
        if broken:
            again, order = put_in_order(rules, letters)
            lines += [f"Wait, {broken[0]} is after {broken[1]}.", *again, f"Order {order}."]
            lines += check(rules, order)[0]
    return "\n".join([*lines, f"So the order is \\boxed{{{order}}}."])


def write_data(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl`, `five.jsonl` and `six.jsonl` (fields id, problem, answer) into `folder`."""

    def answer(problem: str) -> str:
        rules = rules_of(problem)
        return put_in_order(rules, letters_of(rules))[1]

    write_files(folder, DATA_FILES, seed, sample_problems, answer, "orders")
