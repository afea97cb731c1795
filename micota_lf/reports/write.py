"""The report of a run: its tables and figures as Markdown, CSV, LaTeX and PNG.

In: a recipe, its plan, a workspace. Out: `reports/<recipe>/report.md` with Tables 1 to 4, the corpora and
Figures 2 to 4, one CSV and one LaTeX file a table, one CSV and one PNG file a figure. It is a pure function
of what the steps left, so a half-finished run has one too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..plan.compile import Plan
from ..recipe.lineage import table_names
from ..recipe.sections import Recipe
from ..stages.overlap import overlap_words
from ..system.files import write_text
from .compare import comparison_sheet
from .figures import FIGURES, draw, figure_sheet
from .outcomes import Outcomes
from .paper import notes
from .sheets import Sheet, accuracy_sheet, bpc_sheet, corpora_sheet, gap_sheet


def write_report(recipe: Recipe, plan: Plan, workspace: Path) -> Path:
    """Write the report and its files; return the path of the Markdown file."""
    outcomes, directory = Outcomes(recipe, plan, workspace), workspace / "reports" / recipe.name
    parts = [f"# {recipe.name}: report"]
    for sheet in sheets(outcomes):
        write_text(directory / f"{sheet.name}.csv", csv_text(sheet.records))
        write_text(directory / f"{sheet.name}.tex", latex(sheet))
        image = [f"![{sheet.title}]({sheet.name}.png)"] if sheet.name in FIGURES else []
        parts += [f"## {sheet.title}", sheet.note, *image, markdown(sheet)]
    for name in FIGURES:
        draw(outcomes, name, directory / f"{name}.png")
    parts += ["## Overlap of training prompts and benchmarks", overlap_words(outcomes.results("overlap"))]
    parts += ["## The paper's numbers", *(f"- {note}" for note in notes())]
    write_text(directory / "report.md", "\n\n".join(parts) + "\n")
    return directory / "report.md"


def sheets(outcomes: Outcomes) -> Iterator[Sheet]:
    """The recipe's tables in the paper's order, the corpora, and the numbers of figures that have any."""
    for table in table_names(outcomes.recipe):
        if table == "table1":
            yield gap_sheet(outcomes)
        elif table == "table4":
            yield bpc_sheet(outcomes)
        elif table != "figures":
            yield accuracy_sheet(outcomes, table)
            yield comparison_sheet(outcomes, table)
    yield corpora_sheet(outcomes)
    figures = [figure_sheet(outcomes, name) for name in FIGURES]
    yield from (sheet for sheet in figures if sheet.records)


def markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown table; lines of a cell are parted by `<br>`."""
    lines = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)


def latex(sheet: Sheet) -> str:
    """A sheet as a LaTeX `tabular` (packages booktabs and makecell)."""
    lines = [" & ".join(_latex_cell(cell) for cell in line) + r" \\" for line in [sheet.head, *sheet.rows]]
    return "\n".join([
        "% needs \\usepackage{booktabs,makecell}",
        f"% {sheet.title}. {sheet.note}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.head)}}}", r"\toprule", lines[0], r"\midrule",
        *lines[1:], r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def csv_text(records: list[dict[str, Any]]) -> str:
    """Records as CSV, with every column that one of them has."""
    out = io.StringIO()
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _latex_cell(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    lines = text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}").split("\n")
    return lines[0] if len(lines) == 1 else r"\makecell[l]{" + r" \\ ".join(lines) + "}"
