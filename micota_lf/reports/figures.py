"""Figures 2 to 4 from the evaluated responses: lengths, and reflection words.

Figure 2: response lengths of the teacher assistant before fine-tuning, after it, and merged. Figure 3: those
of the students by method. Figure 4: reflection words a response (the paper's case study counts
"wait": 209 with Half-size CoT, 1 with MiCoTA), with responses flagged that overthink.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..grading.intervals import mean_interval
from ..recipe.lineage import table_rows
from ..recipe.sections import ASSISTANT, ASSISTANT_MERGED, ASSISTANT_SFT
from .outcomes import Outcomes, Problems
from .sheets import Sheet, short_name

# A response with as many reflection words overthinks: our choice, between the 1 and 209 of the case study.
OVERTHINKING = 50
QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}


@dataclass(frozen=True)
class Figure:
    """What a figure shows: a column of the problems' rows, and the methods of the students (None: roles)."""

    title: str
    column: str
    methods: tuple[str, ...] | None
    note: str


FIGURES = {
    "figure2": Figure(
        "Figure 2: response length of the teacher assistant", "response_tokens", None,
        "Response tokens over all benchmark problems. The paper: merging about halves the length.",
    ),
    "figure3": Figure(
        "Figure 3: response length of the students", "response_tokens",
        ("Instruct", "Strong Teacher CoT", "MiCoTA"),
        "Response tokens over all benchmark problems, in each student's own tokens.",
    ),
    "figure4": Figure(
        "Figure 4: reflection words a response", "reflections", ("Half-size CoT", "MiCoTA"),
        "Reflection words such as `wait` a response, over all benchmark problems. Overthinking counts "
        f"responses with at least {OVERTHINKING} of them, and names the one with most.",
    ),
}  # fmt: skip


def draw(outcomes: Outcomes, name: str, path: Path) -> None:
    """Draw a figure's box plots to `path`; without any finished step, no file."""
    figure, series = FIGURES[name], _series(outcomes, FIGURES[name])
    if series:
        values = [[row[figure.column] for row in rows.values()] for rows in series.values()]
        _box_plot(path, figure, [f"{model}\n{method}" for model, method in series], values)


def figure_sheet(outcomes: Outcomes, name: str) -> Sheet:
    """The numbers behind a figure: one row a model and method whose step is done."""
    figure = FIGURES[name]
    series = _series(outcomes, figure)
    records = [_record(model, method, rows, figure.column) for (model, method), rows in series.items()]
    head = ["Model", "Method", "n", "Mean [95%]", "Median", "10% to 90%", "Max", "Cut"]
    rows = [
        [
            r["model"], r["method"], str(r["n"]),
            f"{r['mean']:.1f} [{r['low']:.1f}, {r['high']:.1f}]", f"{r['median']:.0f}",
            f"{r['p10']:.0f} to {r['p90']:.0f}", str(r["max"]), f"{100 * r['cut']:.1f}%",
        ]
        for r in records
    ]  # fmt: skip
    if figure.column == "reflections":
        head.append("Overthinking")
        for row, r in zip(rows, records, strict=True):
            row.append(f"{r['overthinking']} ({r['most']})")
    return Sheet(name, figure.title, figure.note, head, rows, records)


def _series(outcomes: Outcomes, figure: Figure) -> dict[tuple[str, str], Problems]:
    return {
        (model, method): outcomes.problems(slot)
        for model, method, slot in _rows(outcomes, figure)
        if outcomes.results(slot) is not None
    }


def _rows(outcomes: Outcomes, figure: Figure) -> list[tuple[str, str, str]]:
    recipe = outcomes.recipe
    if figure.methods is None:
        names = {ASSISTANT: "before", ASSISTANT_SFT: "fine-tuned", ASSISTANT_MERGED: "merged"}
        model = short_name(recipe.assistant.model)
        return [(model, words, f"evaluate/{role}") for role, words in names.items()]
    return [
        (short_name(recipe.students[student].model), method, f"evaluate/{student}/{method}")
        for student, method in table_rows(recipe, "figures")
        if method in figure.methods
    ]


def _record(model: str, method: str, rows: Problems, column: str) -> dict[str, Any]:
    import numpy as np

    values = [row[column] for row in rows.values()]
    low, high = mean_interval(values)
    record = {
        "model": model, "method": method, "unit": column, "n": len(values), "mean": float(np.mean(values)),
        "low": low, "high": high, **{q: float(np.quantile(values, at)) for q, at in QUANTILES.items()},
        "max": max(values), "cut": sum(row["truncated"] for row in rows.values()) / len(values),
    }  # fmt: skip
    if column == "reflections":
        task, problem = max(rows, key=lambda key: rows[key][column])
        record |= {"overthinking": sum(v >= OVERTHINKING for v in values), "most": f"{task} {problem}"}
    return record


def _box_plot(path: Path, figure: Figure, labels: list[str], values: list[list[float]]) -> None:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(1.5 + 1.1 * len(labels), 4.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.boxplot(values, whis=(10, 90), showfliers=False, showmeans=True)
    axes.set_xticks(range(1, len(labels) + 1), labels, fontsize=7)
    axes.set_ylabel(figure.column.replace("_", " "))
    axes.set_title(f"{figure.title}\nbox: quartiles, whiskers: 10% and 90%, triangle: mean", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=120)
