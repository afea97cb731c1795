"""A sheet: records of plain numbers and states, and how they read. Markdown, LaTeX, CSV are views of it.

`sheets.yaml` has its title, columns and note. A cell whose step is not done says so (missing, running,
failed). An accuracy reads

    62.5 [55.6, 68.9]           percent right with its 95% Wilson interval (average: from those)
    paper 60.00, +2.5 (noise)   the paper's value, ours minus it, and whether it lies in our interval
    n=200, 31 tok, 0.0% cut     problems, mean response tokens, share of responses cut at max_gen_toks;
                                if any also of those among them that repeat themselves (`loops`)

A benchmark with too few problems says so: `n=30 (too few to tell <20.0)`.
"""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..grading import intervals
from . import read
from .outcomes import UNASKED

Record = dict[str, Any]


class Sheet(NamedTuple):
    """One table: its records, and how they read in its columns."""

    name: str
    title: str
    note: str
    head: list[str]
    lines: list[list[str]]
    records: list[Record]

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        return document("sheet.html", sheet=self)


def make_sheet(
    kind: str, name: str, rows: list[list[Record]], titles: Iterable[str] = (), **values: Any
) -> Sheet:
    """A sheet of a kind; `values` fill its note.

    A row has a record for each of its further columns `titles`, or a single one without these. One that
    nobody asked for is left out.
    """
    rows = [row for row in rows if any(cell.get("state") != UNASKED for cell in row)]
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
    if "accuracy" not in cell:
        return str(cell["state"]) + _paper(cell["paper"])
    few = f" (too few to tell <{100 * cell['least']:.1f})" if cell.get("least", 0) > intervals.TELLING else ""
    lengths = f"n={cell['n']}{few}, {cell['tokens']:.0f} tok, {cell['cut']:.1%} cut"
    lengths += f", {cell['loops']:.1%} loops" if cell.get("loops") else ""
    return f"{_interval(*_percent(cell, 'accuracy', 'low', 'high'), paper=cell.get('paper'))}\n{lengths}"


def _average(record: Record) -> str:
    ours = _percent(record, "average", "low", "high")
    return (_interval(*ours) if ours else record["state"]) + _paper(record.get("paper_average"))


def _delta(record: Record) -> str:
    ours = _percent(record, "delta", "delta_low", "delta_high")
    return (_change(*ours) if ours else record["delta_state"]) + _paper(record.get("paper_delta"), "+.2f")


def _bpc(cell: Record) -> str:
    ours = _interval(cell["mean"], cell["low"], cell["high"], paper=cell["paper"], form=".3f")
    return f"{ours}\nn={cell['n']}"


def _difference(cell: Record) -> str:
    if "low" in cell:
        return _change(*_percent(cell, "difference", "low", "high"))
    noise = "n too small" if intervals.least_difference(cell["n"]) > intervals.TELLING else "noise"
    told = "" if cell["p_holm"] < intervals.SIGNIFICANCE else f" ({noise})"
    return f"{100 * cell['difference']:+.1f} p={cell['p_holm']:.2g}{told}"


def _percent(record: Record, *keys: str) -> list[float]:
    return [100 * record[key] for key in keys if key in record]


def _change(value: float, low: float, high: float) -> str:
    return _interval(value, low, high, form="+.1f") + _noise(low, 0, high)


def _interval(value: float, low: float, high: float, *, paper: float | None = None, form: str = ".1f") -> str:
    """Ours; below it the paper's, and how ours differs."""
    ours = f"{value:{form}} [{low:{form}}, {high:{form}}]{_paper(paper)}"
    return ours if paper is None else f"{ours}, {value - paper:+{form}}{_noise(low, paper, high)}"


def _noise(low: float, value: float, high: float) -> str:
    return " (noise)" if low <= value <= high else ""


def _paper(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"\npaper {value:{form}}"


# How cells read that are more than a template; KeyError means that there is nothing but a state.
CELLS: dict[str, Callable[[Record], str]] = {
    "accuracy": _accuracy, "average": _average, "delta": _delta, "bpc": _bpc, "difference": _difference,
}  # fmt: skip


def document(template: str, **values: Any) -> str:
    """A text by a template of this folder: `report.md`, `card.md` or `table.tex`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(
        loader=here, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined,
        autoescape=template.endswith(("html", "svg")),
    )  # fmt: skip
    jinja.filters |= {"markdown": markdown, "latex": _latex_cell}
    return jinja.get_template(f"{template}.jinja").render(values)


def markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown table; lines of a cell are parted by `<br>`."""
    lines = [sheet.head, ["---"] * len(sheet.head), *sheet.lines]
    return "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)


def latex(sheet: Sheet) -> str:
    """A sheet as a LaTeX `tabular` (packages booktabs and makecell)."""
    return document("table.tex", sheet=sheet)


def csv_text(sheet: Sheet) -> str:
    """A sheet's records as CSV, with every column that one of them has."""
    out, columns = io.StringIO(), dict.fromkeys(key for record in sheet.records for key in record)
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sheet.records)
    return out.getvalue()


def _latex_cell(text: str) -> str:
    lines = text.translate(str.maketrans(read("sheets")["latex"])).split("\n")
    return lines[0] if len(lines) == 1 else r"\makecell[l]{" + r" \\ ".join(lines) + "}"
