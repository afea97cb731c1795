"""A sheet: records of plain numbers and states, and how they read. Markdown, LaTeX, CSV are views of it.

`sheets.yaml` has its title, columns and note. A cell whose step is not done says so (missing, running,
failed). An accuracy reads

    62.5 [55.6, 68.9]           percent right with its 95% Wilson interval (average: bootstrap)
    paper 60.00, +2.5 (noise)   the paper's value, ours minus it, and whether it lies in our interval
    n=200, 31 tok, 0.0% cut     problems, mean response tokens, share of responses cut at max_gen_toks

A benchmark with too few problems says so: `n=30 (too few to tell <20.0)`.
"""

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..grading.intervals import SIGNIFICANCE, TELLING, least_difference
from . import read

Record = dict[str, Any]
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


class Sheet(NamedTuple):
    """One table: its records, and how they read in its columns."""

    name: str
    title: str
    note: str
    head: list[str]
    lines: list[list[str]]
    records: list[Record]


def make_sheet(
    kind: str, name: str, rows: list[list[Record]], titles: Iterable[str] = (), **values: Any
) -> Sheet:
    """A sheet of a kind; `values` fill its note.

    A row has a record for each of its further columns `titles`, or a single one without these.
    """
    looks = read("sheets")
    spec, title = looks[kind], looks["titles"].get(name, name)
    lines = [
        [_text(column, row[0]) for column in spec["columns"].values()]
        + [_text(spec["cells"], cell) for cell in row if "cells" in spec]
        for row in rows
    ]
    records = [record for row in rows for record in row]
    return Sheet(name, title, spec["note"].format(**values), [*spec["columns"], *titles], lines, records)


def short_name(model: str) -> str:
    """A model's reference as tables show it."""
    return model.rstrip("/").split("/")[-1].removeprefix("tiny:")


def _text(column: str, record: Record) -> str:
    names = {key: short_name(record[key]) for key in ("model", "student", "teacher") if key in record}
    try:
        return CELLS[column](record) if column in CELLS else column.format_map(record | names)
    except KeyError:
        return str(record["state"])


def _accuracy(cell: Record) -> str:
    paper = cell["paper"]
    if "accuracy" not in cell:
        return str(cell["state"]) + ("" if paper is None else f"\npaper {paper:.2f}")
    few = f" (too few to tell <{100 * cell['least']:.1f})" if (cell["least"] or 0) > TELLING else ""
    lengths = f"n={cell['n']}{few}, {cell['tokens']:.0f} tok, {cell['cut']:.1%} cut"
    return f"{_interval(cell['accuracy'], cell['low'], cell['high'], paper)}\n{lengths}"


def _average(record: Record) -> str:
    values = [record[key] for key in ("average", "low", "high") if key in record]
    paper = f"\npaper {record['paper_average']:.2f}" if "paper_average" in record else ""
    return (_interval(*values) if values else record["state"]) + paper


def _delta(record: Record) -> str:
    values = [record[key] for key in ("delta", "delta_low", "delta_high") if key in record]
    paper = f"\npaper {record['paper_delta']:+.2f}" if "paper_delta" in record else ""
    return (_points(*values) if values else record["delta_state"]) + paper


def _bpc(cell: Record) -> str:
    ours = _interval(cell["mean"], cell["low"], cell["high"], cell["paper"], scale=1, digits=3)
    return f"{ours}\nn={cell['n']}"


def _difference(cell: Record) -> str:
    if "p_holm" not in cell:
        return _points(cell["difference"], cell["low"], cell["high"])
    noise = "n too small" if least_difference(cell["n"]) > TELLING else "noise"
    told = "" if cell["p_holm"] < SIGNIFICANCE else f" ({noise})"
    return f"{100 * cell['difference']:+.1f} p={cell['p_holm']:.2g}{told}"


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{' (noise)' if low <= 0 <= high else ''}"


def _interval(
    value: float, low: float, high: float, paper: float | None = None, scale: int = 100, digits: int = 1
) -> str:
    """Ours, times `scale`; below it the paper's, and how ours differs."""
    value, low, high = (scale * number for number in (value, low, high))
    ours = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if paper is None:
        return ours
    noise = " (noise)" if low <= paper <= high else ""
    return f"{ours}\npaper {paper:.2f}, {value - paper:+.{digits}f}{noise}"


# How cells read that are more than a template; KeyError means that there is nothing but a state.
CELLS: dict[str, Callable[[Record], str]] = {
    "accuracy": _accuracy, "average": _average, "delta": _delta, "bpc": _bpc, "difference": _difference,
}  # fmt: skip


def markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown table; lines of a cell are parted by `<br>`."""
    lines = [sheet.head, ["---"] * len(sheet.head), *sheet.lines]
    return "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)


def section(sheet: Sheet, *above: str) -> str:
    """A sheet as a section of a Markdown file; `above` comes between note and table."""
    return "\n\n".join([f"## {sheet.title}", sheet.note, *above, markdown(sheet)])


def latex(sheet: Sheet) -> str:
    """A sheet as a LaTeX `tabular` (packages booktabs and makecell)."""
    head, *lines = (" & ".join(map(_latex_cell, line)) + r" \\" for line in [sheet.head, *sheet.lines])
    return "\n".join([
        "% needs \\usepackage{booktabs,makecell}",
        f"% {sheet.title}. {sheet.note}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.head)}}}",
        r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def csv_text(sheet: Sheet) -> str:
    """A sheet's records as CSV, with every column that one of them has."""
    out, columns = io.StringIO(), dict.fromkeys(key for record in sheet.records for key in record)
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sheet.records)
    return out.getvalue()


def _latex_cell(text: str) -> str:
    lines = text.translate(LATEX).split("\n")
    return lines[0] if len(lines) == 1 else r"\makecell[l]{" + r" \\ ".join(lines) + "}"
