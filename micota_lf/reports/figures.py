"""Figures 2 to 4 from the evaluated responses: lengths, and reflection words.

Figure 2: response lengths of each teacher assistant before fine-tuning, after it, and merged. Figure 3: those
of the students by method. Figure 4: reflection words a response (the paper's case study counts
"wait": 209 with Half-size CoT, 1 with MiCoTA); the page has the responses, most of them first.
"""

from collections.abc import Iterator
from statistics import fmean

from ..grading.intervals import mean_interval
from ..recipe.lineage import table_rows
from . import read
from .outcomes import Outcomes, Problems
from .sheets import Record, Sheet, make_sheet, short_name
from .tables import assistants, shown_model

FIGURES = ("figure2", "figure3", "figure4")
QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}


def figure_sheet(outcomes: Outcomes, name: str) -> Sheet:
    """The numbers behind a figure: one row a model and method whose step is done."""
    import numpy as np

    rows, measure = [], read("sheets")[name]["measure"]
    for model, method, problems in _series(outcomes, name):
        values = [row[measure] for row in problems.values()]
        low, high = mean_interval(values, least=0.0)
        quantiles = {name: float(np.quantile(values, share)) for name, share in QUANTILES.items()}
        record: Record = {
            "model": model, "method": method, "unit": measure, "n": len(values),
            "mean": float(np.mean(values)), "low": low, "high": high, **quantiles, "max": max(values),
            "cut": sum(row["truncated"] for row in problems.values()) / len(values),
            "right": fmean(row[outcomes.recipe.evaluation.column] for row in problems.values()),
        }  # fmt: skip
        rows.append([record])
    return make_sheet(name, name, rows)


def _series(outcomes: Outcomes, figure: str) -> Iterator[tuple[str, str, Problems]]:
    """Model, method and the problems' rows of each done evaluation that a figure shows."""
    recipe, look = outcomes.recipe, read("sheets")[figure]
    shown = [
        (model, state + told, f"evaluate/{name}{end}")
        for name, (model, told) in assistants(recipe).items()
        for state, end in look.get("assistants", {}).items()
    ] + [
        (shown_model(recipe, student), method, f"evaluate/{student}/{method}")
        for student, method in table_rows(recipe, "figures")
        if method in look.get("methods", ())
    ]
    for model, method, slot in shown:
        if outcomes.results(slot) is not None:
            yield short_name(model), method, outcomes.problems(slot)
