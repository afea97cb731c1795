"""The tables of a run as sheets, from what its steps left, whole or in part.

    accuracy_sheet(outcomes, "table2").records[0]["accuracy"]      # a share in [0, 1]

The average is the paper's, unweighted over the benchmarks.
"""

from collections.abc import Collection, Mapping

from ..grading.intervals import (
    SIGNIFICANCE, TELLING, average_interval, difference_interval, holm, least_difference, mcnemar, wilson,
)  # fmt: skip
from ..recipe.lineage import baseline, model_of, shown_teachers, strong_teachers, table_rows
from ..recipe.sections import Recipe
from ..run.step import DONE, MISSING
from ..system.files import Row
from .outcomes import Outcomes
from .paper import paper, paper_row
from .sheets import Record, Sheet, make_sheet, short_name

Discordant = dict[str, tuple[int, int, int]]
"""By task: problems that only one model got right, only another, and all that both have answered."""


def accuracy_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """A table of accuracies: Table 2 with the teachers and the merged assistants on top, or its like."""
    recipe, spec = outcomes.recipe, outcomes.recipe.evaluation
    shown = [(model, method, "", slot) for model, method, slot in student_rows(recipe, table)]
    if table == "table2":
        teachers = {name: (recipe.teachers[name].model, "Strong Teacher", "") for name in shown_teachers(recipe)}
        merged = {
            name: (model, "(Merged) Teacher Assistant", told)
            for name, (model, told) in assistants(recipe).items()
        }
        shown = [(*names, f"evaluate/{name}") for name, names in (teachers | merged).items()] + shown
    rows = [
        accuracies(outcomes, slot, {"model": model, "method": method + told}, paper_row(table, model, method))
        for model, method, told, slot in shown
    ]
    numerics = outcomes.numerics_note([slot for *_, slot in shown])
    problems = f"first {spec.limit} problems" if spec.limit else "all problems"
    titles = outcomes.titles.values()
    return make_sheet("accuracy", table, rows, titles, **vars(spec), problems=problems, numerics=numerics)
