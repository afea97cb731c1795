"""The report of a run: its tables and figures as Markdown, CSV, LaTeX and PNG.

In: a recipe, its plan, a workspace. Out: `reports/<recipe>/report.md` with Tables 1 to 4, the corpora and
Figures 2 to 4, one CSV and one LaTeX file a table, one CSV and one PNG file a figure. It is a pure function
of what the steps left, so a half-finished run has one too.
"""

from collections.abc import Iterator
from pathlib import Path

from ..plan.plan import Plan
from ..recipe.lineage import table_names
from ..recipe.sections import Recipe
from ..system.files import write_text
from . import paper
from .figures import FIGURES, draw, figure_sheet
from .outcomes import Outcomes
from .sheets import Sheet, csv_text, document, latex
from .tables import accuracy_sheet, bpc_sheet, comparison_sheet, corpora_sheet, gap_sheet, models_sheet


def write_report(recipe: Recipe, plan: Plan, workspace: Path) -> Path:
    """Write the report and its files; return the path of the Markdown file."""
    outcomes, directory = Outcomes(recipe, plan, workspace), workspace / "reports" / recipe.name
    shown = list(sheets(outcomes))
    for sheet in shown:
        write_text(directory / f"{sheet.name}.csv", csv_text(sheet))
        write_text(directory / f"{sheet.name}.tex", latex(sheet))
        if sheet.name in FIGURES:
            draw(outcomes, sheet, directory / f"{sheet.name}.png")
    values = {"overlap": outcomes.results("overlap"), "figures": FIGURES, "notes": paper("notes")}
    write_text(directory / "report.md", document("report.md", recipe=recipe, sheets=shown, **values))
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
    rest = (models_sheet(outcomes), *(figure_sheet(outcomes, name) for name in FIGURES))
    yield from (sheet for sheet in rest if sheet.lines)
