"""The report of a run: one HTML page, and its tables and figures as Markdown, CSV, LaTeX and SVG.

In: a recipe with its plan, a workspace. Out: `reports/<recipe>/report.html` and `report.md`, with Tables 1 to
4, the corpora and Figures 2 to 4; one CSV and one LaTeX file a table, one CSV and one SVG file a figure, and
one of Table 2's accuracies against their lengths.
Variants have one each, in folders of their names, and `report.html` and `variants.md` above compare them.
It is a pure function of what the steps left, so a half-finished run has one too.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..plan.sweep import Sweep
from ..recipe.lineage import table_names
from ..recipe.load import VARIANTS, source_rows
from ..system.files import write_text
from . import paper, tables
from .compared import variant_sheets
from .diagnose import diagnosis
from .figures import FIGURES, figure_sheet
from .outcomes import Outcomes
from .page import page
from .sheets import Sheet, csv_text, document, latex

DRAWN = (*FIGURES, "table2")


def report_path(swept: Sweep, workspace: Path) -> Path:
    """Where the report is, or of several variants their comparison."""
    name = Path(*(swept.variants if len(swept.variants) == 1 else ()), "report.html")
    return workspace / "reports" / swept.recipe.name / name


def write_report(swept: Sweep, workspace: Path) -> Path:
    """Write the report and its files; return its path."""
    home = workspace / "reports" / swept.recipe.name
    for name, (values, recipe, plan) in swept.variants.items():
        outcomes = Outcomes(recipe, plan, workspace)
        shown = _written(home / name, recipe_sheets(outcomes))
        drawn = (one for one in shown if one.name in DRAWN and any("n" in cell for cell in one.records))
        for sheet in drawn:
            write_text(home / name / f"{sheet.name}.svg", document("figure.svg", recipe=recipe, sheet=sheet))
        told = {"overlap": outcomes.results("overlap"), "figures": FIGURES, "notes": paper("notes")}
        write_text(home / name / "report.md", document("report.md", recipe=recipe, sheets=shown, **told))
        sources = source_rows(recipe, [*swept.layers, (VARIANTS, values)])
        write_text(home / name / "report.html", page(outcomes, shown, sources))
    if len(swept.variants) > 1:
        shown = _written(home, variant_sheets(swept.variants, workspace))
        write_text(home / "variants.svg", document("figure.svg", recipe=swept.recipe, sheet=shown[0]))
        for name in ("variants.md", "report.html"):
            template = "variants.html" if name.endswith("html") else name
            write_text(home / name, document(template, swept=swept, recipe=swept.recipe, sheets=shown))
    return report_path(swept, workspace)


def _written(directory: Path, found: Iterable[Sheet]) -> list[Sheet]:
    """Sheets that have been written into a directory."""
    shown = list(found)
    for sheet in shown:
        write_text(directory / f"{sheet.name}.csv", csv_text(sheet))
        write_text(directory / f"{sheet.name}.tex", latex(sheet))
    return shown


def sheets(swept: Sweep, workspace: Path) -> Iterator[Sheet]:
    """The tables of a recipe, or of several variants their comparison."""
    if len(swept.variants) > 1:
        return variant_sheets(swept.variants, workspace)
    ((_, recipe, plan),) = swept.variants.values()
    return recipe_sheets(Outcomes(recipe, plan, workspace))


def recipe_sheets(outcomes: Outcomes) -> Iterator[Sheet]:
    """The recipe's tables in the paper's order, the corpora, and the numbers of figures that have any."""
    for table in table_names(outcomes.recipe):
        if table == "table1":
            yield tables.gap_sheet(outcomes)
        elif table == "table4":
            yield tables.bpc_sheet(outcomes)
        elif table != "figures":
            yield tables.accuracy_sheet(outcomes, table)
            yield tables.comparison_sheet(outcomes, table)
    yield tables.corpora_sheet(outcomes)
    rest = [tables.lengths_sheet(outcomes), diagnosis(outcomes)]
    rest += [tables.samples_sheet(outcomes, outcomes.plan.slots), tables.models_sheet(outcomes)]
    rest += [figure_sheet(outcomes, name) for name in FIGURES]
    yield from (sheet for sheet in rest if sheet.lines)
