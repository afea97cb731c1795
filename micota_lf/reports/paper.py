"""The numbers of the paper's Tables 1 to 4, to set beside one's own.

    paper_row("table2", "Qwen/Qwen2.5-7B-Instruct", "MiCoTA")["GSM8K"]       -> 84.98
    paper_delta("Qwen/QwQ-32B", "Qwen/Qwen2.5-3B-Instruct", "TA")            -> (34.63, -4.73)
    paper_bpc("MiCoTA", "Qwen/Qwen2.5-7B-Instruct")                          -> 0.13

Scores are percent. The numbers are in `paper.yaml` (arXiv 2507.01887, version of July 2025) as printed; a
misprint is corrected unless `as_printed` is asked for. Whatever a table does not have is None.
"""

from . import read

SCORE_TABLES = ("table2", "table3")


def paper_row(table: str, model: str, method: str, as_printed: bool = False) -> dict[str, float] | None:
    """A row of Table 2 or 3, as column to percent; `model` is a hub id, `method` a row's name."""
    printed = read("paper")[table].get(model, {}).get(method) if table in SCORE_TABLES else None
    if printed is None:
        return None
    row = dict(zip(read("paper")["columns"], printed, strict=True))
    for fix in read("paper")["corrections"]:
        if not as_printed and (fix["table"], fix["model"], fix["method"]) == (table, model, method):
            row[fix["column"]] = fix["corrected"]
    return row


def paper_delta(teacher: str, student: str, kind: str) -> tuple[float, float] | None:
    """Table 1: average and its change from the untrained student, for a student of a teacher or a TA."""
    cell = read("paper")["table1"].get(teacher, {}).get(student, {}).get(kind)
    return cell and (cell[0], cell[1])


def paper_bpc(corpus: str, model: str) -> float | None:
    """Table 4: BPC of a corpus (named as in the methods) under a model."""
    value: float | None = read("paper")["table4"].get(corpus, {}).get(model)
    return value
