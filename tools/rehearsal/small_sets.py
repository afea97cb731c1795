"""The recipe's data sets in small: real ids, files, columns and splits, and problems with one digit each.

Of three problems two ask for their digit, which the rehearsal's models know in part (written_models.py); the
third asks for its double, which none of them knows.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HOLDERS = ("box", "basket", "drawer", "bucket", "sack", "tray", "jar", "crate", "shelf", "cart", "bag")
THINGS = ("marbles", "apples", "coins", "pencils", "buttons", "lemons", "stamps")
OWNERS = ("Ada", "Emmy", "Sofia", "Carl", "Leonhard")
Row = dict[str, Any]


class Problem(NamedTuple):
    """A question, its answer, and a sentence that leads there."""

    question: str
    answer: str
    solution: str


class HubSet(NamedTuple):
    """A data set as the hub has it: its file, how many rows of it are made, and a row of a problem."""

    file: str
    rows: int
    row: Callable[[int, Problem], Row]
    config: str = "default"


def problems(start: int) -> Iterator[Problem]:
    """Problems without end; those of another `start` (below 5) are others."""
    for number in range(start, 10**6, len(OWNERS)):
        digit, owner = number * 7 % 9 + 1, OWNERS[start]
        holder, thing = HOLDERS[number % len(HOLDERS)], THINGS[number % len(THINGS)]
        held = f"{owner} has a {holder} that holds {digit} {thing}"
        if number % 3:
            asked = f"{held} and puts nothing in. How many {thing} are in the {holder}?"
            yield Problem(asked, str(digit), f"Nothing changes, so {digit} stay.")
        else:
            asked = f"{held} and doubles them. How many {thing} are there then?"
            yield Problem(asked, str(2 * digit), f"Twice {digit} is {2 * digit}.")


SETS = {
    "hiyouga/math12k": HubSet(
        "data/train-00000-of-00001.parquet", 24, lambda n, p: {"problem": p.question, "answer": p.answer}
    ),
    "HuggingFaceH4/aime_2024": HubSet(
        "data/train-00000-of-00001.parquet", 6, lambda n, p: {
            "id": 60 + n, "problem": p.question, "solution": p.solution, "answer": p.answer,
            "url": f"https://example.org/aime/{n}", "year": "2024",
        },
    ),
    "math-ai/amc23": HubSet(
        "test-00000-of-00001.parquet", 6, lambda n, p: {
            "id": n, "question": p.question, "answer": p.answer, "url": f"https://example.org/amc/{n}"
        },
    ),
    "math-ai/olympiadbench": HubSet(
        "test-00000-of-00001.parquet", 8, lambda n, p: {
            "id": 1600 + n, "question": p.question, "solution": [p.solution],
            "final_answer": [f"${p.answer}$"], "is_multiple_answer": False, "unit": None,
            "answer_type": "Numerical",
        },
    ),
    "HuggingFaceH4/MATH-500": HubSet(
        "test.jsonl", 9, lambda n, p: {
            "problem": p.question, "solution": p.solution, "answer": p.answer, "subject": "Prealgebra",
            "level": n % 5 + 1, "unique_id": f"test/prealgebra/{n}.json",
        },
    ),
    "openai/gsm8k": HubSet(
        "main/test-00000-of-00001.parquet", 9,
        lambda n, p: {"question": p.question, "answer": f"{p.solution}\n#### {p.answer}"}, "main",
    ),
}  # fmt: skip


def write_set(name: str, folder: Path) -> None:
    """Write a data set's files, with the card that says where its splits are."""
    from datasets import Dataset

    spec = SETS[name]
    start = list(SETS).index(name) % len(OWNERS)
    rows = [spec.row(number, problem) for number, problem in enumerate(islice(problems(start), spec.rows))]
    file = folder / spec.file
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(file)
    else:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    place = {"split": "train" if "train" in file.name else "test", "path": spec.file}
    card = yaml.safe_dump({"configs": [{"config_name": spec.config, "data_files": [place]}]})
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
