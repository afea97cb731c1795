"""The numbers of the paper's Tables 1 to 4, to set beside one's own.

    paper_cell("table2", "Qwen/Qwen2.5-7B-Instruct", "MiCoTA", "GSM8K")      -> 84.98
    paper_delta("Qwen/QwQ-32B", "Qwen/Qwen2.5-3B-Instruct", "TA")            -> (34.63, -4.73)
    paper_bpc("MiCoTA", "Qwen/Qwen2.5-7B-Instruct")                          -> 0.13

Scores are percent. The numbers are in `paper.yaml` (arXiv 2507.01887, version of July 2025) as printed; a
misprint is corrected unless `as_printed` is asked for. Whatever a table does not have is None.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

SCORE_TABLES = ("table2", "table3")
PAPER_FILE = Path(__file__).with_name("paper.yaml")


@cache
def paper() -> dict[str, Any]:
    """The whole file: tables, columns, problem counts, corrections and notes."""
    data: dict[str, Any] = yaml.safe_load(PAPER_FILE.read_text(encoding="utf-8"))
    return data


def columns() -> list[str]:
    """Columns of Tables 2 and 3: the five benchmarks, then `Average`."""
    return list(paper()["columns"])


def problem_count(benchmark: str) -> int | None:
    """Number of problems of a benchmark column."""
    count: int | None = paper()["problems"].get(benchmark)
    return count


def paper_row(table: str, model: str, method: str, *, as_printed: bool = False) -> dict[str, float] | None:
    """A row of Table 2 or 3, as column to percent; `model` is a hub id, `method` a row's name."""
    printed = paper()[table].get(model, {}).get(method) if table in SCORE_TABLES else None
    if printed is None:
        return None
    row = dict(zip(columns(), printed, strict=True))
    for fix in paper()["corrections"]:
        if not as_printed and (fix["table"], fix["model"], fix["method"]) == (table, model, method):
            row[fix["column"]] = fix["corrected"]
    return row


def paper_cell(table: str, model: str, method: str, column: str, *, as_printed: bool = False) -> float | None:
    """One score of Table 2 or 3 in percent."""
    row = paper_row(table, model, method, as_printed=as_printed)
    return None if row is None else row.get(column)


def paper_delta(teacher: str, student: str, kind: str) -> tuple[float, float] | None:
    """Table 1: average and its change from the untrained student, for a student of a teacher or a TA."""
    cell = paper()["table1"].get(teacher, {}).get(student, {}).get(kind)
    return None if cell is None else (cell[0], cell[1])


def paper_bpc(corpus: str, model: str) -> float | None:
    """Table 4: BPC of a corpus (named as in the methods) under a model."""
    value: float | None = paper()["table4"].get(corpus, {}).get(model)
    return value


def notes() -> list[str]:
    """What to know before comparing with the paper: misprints, rounding, claims that do not hold."""
    return list(paper()["notes"])
