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
from ..system.files import Row, write_text
from . import read
from .compare import comparison_sheet
from .figures import FIGURES, draw, figure_sheet
from .outcomes import Outcomes
from .sheets import Sheet, csv_text, latex, section
from .tables import accuracy_sheet, bpc_sheet, corpora_sheet, gap_sheet


def write_report(recipe: Recipe, plan: Plan, workspace: Path) -> Path:
    """Write the report and its files; return the path of the Markdown file."""
    outcomes, directory = Outcomes(recipe, plan, workspace), workspace / "reports" / recipe.name
    parts = [f"# {recipe.name}: report"]
    for sheet in sheets(outcomes):
        write_text(directory / f"{sheet.name}.csv", csv_text(sheet))
        write_text(directory / f"{sheet.name}.tex", latex(sheet))
        image = [f"![{sheet.title}]({sheet.name}.png)"] if sheet.name in FIGURES else []
        if image:
            draw(outcomes, sheet, directory / f"{sheet.name}.png")
        parts.append(section(sheet, *image))
    parts += ["## Overlap of training prompts and benchmarks", overlap_words(outcomes.results("overlap"))]
    parts += ["## The paper's numbers", *(f"- {note}" for note in read("paper")["notes"])]
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
    yield from (sheet for name in FIGURES if (sheet := figure_sheet(outcomes, name)).lines)


def overlap_words(results: Row | None) -> str:
    """What the report says of benchmark problems among the training prompts."""
    if results is None:
        return "Not checked yet."
    line: str = read("sheets")["overlap"]
    counts = results["benchmarks"].items()
    lines = [line.format_map({**results, "name": name, **count}) for name, count in counts]
    return "\n".join([*lines, "", "The pairs are in the step's `pairs.jsonl`."])
