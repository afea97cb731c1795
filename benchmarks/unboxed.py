r"""How often `symbolic` agrees with the label where answers are in prose and golds as people store them.

    python benchmarks/unboxed.py          # the cases of tests/golden/answers.yaml, and those kept back
    python benchmarks/unboxed.py DIR      # also real solutions: DIR/{gsm8k,math-500,olympiadbench}/test.jsonl

Real solutions lose what marks their answer: GSM8K's the line `#### 18`, MATH's the box. The rules were
developed on half of MATH and OlympiadBench, on GSM8K's training problems and on other sentences; the rest was
kept back. The gold of the next problem serves as a near miss. A solution may end in something else than its
answer: its last expression is then not the answer.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from grading_accuracy import math_verify_alone

from micota_lf.grading.answer import grade

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
SETS = {"development": "answers.yaml", "kept back": "answers_kept.yaml"}
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}")
SENTENCES = {
    "development": (
        "The final answer is ${}$. I hope it is correct.", "Final Answer: {}", "So we get ${}$.",
        "Therefore\n\\[{}\\]", "A: ${}$",
    ),
    "kept back": (
        "Final Answer: The final answer is ${}$. I hope it is correct.", "**Answer:** \\({}\\)",
        "Hence the result is ${}$, as wanted.", "This gives\n$$\n{}.\n$$", "#### {}",
    ),
}  # fmt: skip

Case = tuple[str, str, bool]
"""Response, gold answer, and whether it is right."""


def written(name: str, kind: str) -> Iterator[Case]:
    """The cases of one kind (`boxed` or `prose`) in a file of tests/golden."""
    text = (GOLDEN / name).read_text(encoding="utf-8")
    for label, lines in yaml.safe_load(text)[kind].items():
        for line in lines.strip().splitlines():
            answer, gold = (part.strip().replace("\u23ce", "\n") for part in line.split(" => "))
            yield f"So it is $\\boxed{{{answer}}}$." if kind == "boxed" else answer, gold, label == "right"


def real(folder: Path, which: str) -> Iterator[tuple[str, list[Case]]]:
    """Sets of real solutions and golds by title; `which` half of them."""
    half = list(SETS).index(which)

    def rows(name: str) -> list[dict[str, str]]:
        lines = (folder / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines][half::2]

    solved = [row["answer"].rpartition("####") for row in rows("gsm8k")]
    texts = [(re.sub("<<.*?>>", "", text), gold.strip()) for text, _, gold in solved]
    yield "GSM8K without its last line", near(texts)
    yield (
        "GSM8K's column as gold",
        near([(f"\\boxed{{{gold.strip()}}}", text + m + gold) for text, m, gold in solved]),
    )
    maths = rows("math-500")
    yield "MATH without its box", near([(BOX.sub(r"\1", row["solution"]), row["answer"]) for row in maths])
    yield "MATH's solution as gold", near([(f"\\boxed{{{row['answer']}}}", row["solution"]) for row in maths])
    golds = [row["answer"] for row in maths]
    golds += [", ".join(row["final_answer"]) for row in rows("olympiadbench")]
    for sentence in SENTENCES[which]:
        answers = [(sentence.replace("{}", re.sub(r"(?<!\\)\$", "", gold)), gold) for gold in golds]
        yield repr(sentence), near(answers)


def near(pairs: list[tuple[str, str]]) -> list[Case]:
    """The pairs, which are right, and each response with the gold of the next other one, which is not."""
    wrong = []
    for i, (text, gold) in enumerate(pairs):
        others = (other for response, other in pairs[i:] if other != gold and response != text)
        wrong += [(text, other, False) for other in list(others)[:1]]
    return [(text, gold, True) for text, gold in pairs] + wrong


def line(title: str, cases: list[Case], grader: Callable[[str, str], bool]) -> str:
    """Right answers that are accepted, and others that are not."""
    found = [grader(text, gold) is right for text, gold, right in cases]
    parts = []
    for label in (True, False):
        held = [ok for ok, case in zip(found, cases, strict=True) if case[2] is label]
        parts.append(f"{sum(held):>5} of {len(held):>5} {'accepted' if label else 'refused'}")
    return f"{title:<70}{sum(found) / len(found):>8.2%}   {', '.join(parts)}"


def main() -> None:
    """Print agreement by set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="benchmarks as NAME/test.jsonl")
    parser.add_argument("--math-verify", action="store_true", help="math-verify alone instead of `symbolic`")
    args = parser.parse_args()

    def symbolic(response: str, gold: str) -> bool:
        return grade(response, gold).symbolic

    grader = math_verify_alone if args.math_verify else symbolic
    for which, name in SETS.items():
        for kind in ("boxed", "prose"):
            print(line(f"{which}: {kind}", list(written(name, kind)), grader))
        for title, cases in real(args.folder, which) if args.folder else ():
            print(line(f"{which}: {title}", cases, grader), flush=True)


if __name__ == "__main__":
    main()
