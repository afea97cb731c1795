"""The tables of a run as data, from what its steps left, whole or in part.

In: a recipe, its plan, a workspace. Out: rows of Table 2 (accuracies), of the corpora, of Table 4 (BPC). A
cell whose step is not done says so (missing, running, failed).

    for row in table2(recipe, plan, workspace):
        print(row.model, row.method, row.cells["Average"].lines())

An accuracy reads `62.5 [55.6, 68.9] n=200, 31 tok, 0.0% cut`: percent right, its 95% Wilson interval,
problems, mean response tokens, share of responses cut at max_gen_toks. The average is the paper's, unweighted
over the benchmarks, with a bootstrap interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json
from .lineage import strong_teachers
from .plan import Plan, step_directory
from .recipe import ASSISTANT_MERGED, Recipe
from .stats import average_interval, wilson
from .steps import DONE, state

AVERAGE = "Average"


@dataclass(frozen=True)
class Cell:
    """One accuracy: over one benchmark, or the unweighted average over all; shares lie in [0, 1]."""

    state: str
    n: int = 0
    correct: float = 0
    accuracy: float = 0.0
    low: float = 0.0
    high: float = 0.0
    tokens: float = 0.0
    cut: float = 0.0

    def lines(self) -> tuple[str, str]:
        """The cell in two lines: the accuracy with its interval, and what stands behind it."""
        if self.state != DONE:
            return self.state, ""
        top = f"{100 * self.accuracy:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return top, f"n={self.n}, {self.tokens:.0f} tok, {100 * self.cut:.1f}% cut"


@dataclass(frozen=True)
class TableRow:
    """One row of Table 2: a model, a method, and a cell for each benchmark and the average."""

    model: str
    method: str
    cells: dict[str, Cell]


def table2(recipe: Recipe, plan: Plan, workspace: Path) -> list[TableRow]:
    """Rows in the paper's order: strong teacher, merged assistant, each student with each method."""
    places = [
        (recipe.teachers[name].model, "Strong Teacher", f"evaluate/{name}")
        for name in strong_teachers(recipe, recipe.assistant.corpus)
    ]
    merged = f"evaluate/{ASSISTANT_MERGED}"
    places.append((recipe.assistant.model, "(Merged) Teacher Assistant", merged))
    for student, spec in recipe.students.items():
        places += [(spec.model, method, f"evaluate/{student}/{method}") for method in recipe.methods]
    return [
        TableRow(model.split("/")[-1].removeprefix("tiny:"), method, _cells(recipe, plan, workspace, slot))
        for model, method, slot in places
        if slot in plan["slots"]
    ]


def corpora_table(recipe: Recipe, plan: Plan, workspace: Path) -> list[dict[str, Any]]:
    """One row a corpus: rows, mean response tokens, and the responses by reason."""
    rows = []
    for name in recipe.corpora:
        slot = next(
            (f"{kind}/{name}" for kind in ("filter", "mix") if f"{kind}/{name}" in plan["slots"]), None
        )
        if slot is None:
            continue  # no training asks for it
        results = _results(plan, workspace, slot)
        row: dict[str, Any] = {"corpus": name, "source": _source(recipe, name)}
        if results is None:
            rows.append({**row, "state": _state(plan, workspace, slot)})
        elif "rows" in results:
            parts = ", ".join(
                f"{n} {part}"
                for n, part in zip(results["rows_by_part"], recipe.corpora[name].mix, strict=True)
            )
            rows.append({
                **row, "state": DONE, "responses": results["rows"], "kept": results["rows"],
                "mean_response_tokens": results["mean_response_tokens"], "reasons": parts,
            })  # fmt: skip
        else:
            reasons = results["reasons"]
            rows.append({
                **row, "state": DONE, "responses": results["responses"], "kept": reasons.get("kept", 0),
                "mean_response_tokens": results["mean_response_tokens"],
                "reasons": ", ".join(f"{n} {reason}" for reason, n in reasons.items()),
            })  # fmt: skip
    return rows


def bpc_table(recipe: Recipe, plan: Plan, workspace: Path) -> list[dict[str, Any]]:
    """One row a corpus and model: mean BPC over the texts, its interval, n and unit (paper Table 4)."""
    rows = []
    for number, corpus in enumerate(recipe.bpc.corpora):
        for model in recipe.bpc.models:
            slot = f"bpc/{model}"
            results = _results(plan, workspace, slot)
            found = results[f"corpus{number}"] if results else {"state": _state(plan, workspace, slot)}
            rows.append({"corpus": corpus, "model": model, **found})
    return rows


def _cells(recipe: Recipe, plan: Plan, workspace: Path, slot: str) -> dict[str, Cell]:
    results, spec = _results(plan, workspace, slot), recipe.evaluation
    titles = [*spec.tasks.values(), AVERAGE]
    if results is None:
        return dict.fromkeys(titles, Cell(_state(plan, workspace, slot)))
    cells: dict[str, Cell] = {}
    for task, title in spec.tasks.items():
        score = results[task]
        n, correct = score["n"], score[spec.verdict]
        low, high = wilson(correct, n)
        tokens, cut = score["mean_response_tokens"], score["truncated"] / n
        cells[title] = Cell(DONE, n, correct, correct / n, low, high, tokens, cut)
    each = list(cells.values())
    low, high = average_interval([(cell.correct, cell.n) for cell in each])
    mean = [
        sum(values) / len(each) for values in zip(*((c.accuracy, c.tokens, c.cut) for c in each), strict=True)
    ]
    n, correct = sum(c.n for c in each), sum(c.correct for c in each)
    cells[AVERAGE] = Cell(DONE, n, correct, mean[0], low, high, mean[1], mean[2])
    return cells


def _source(recipe: Recipe, corpus: str) -> str:
    spec = recipe.corpora[corpus]
    if spec.from_:
        return spec.from_
    return " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())


def _results(plan: Plan, workspace: Path, slot: str) -> dict[str, Any] | None:
    done = _directory(plan, workspace, slot) / "done.json"
    return dict(read_json(done)["results"]) if done.is_file() else None


def _state(plan: Plan, workspace: Path, slot: str) -> str:
    return state(_directory(plan, workspace, slot))


def _directory(plan: Plan, workspace: Path, slot: str) -> Path:
    return workspace / step_directory(plan["steps"][plan["slots"][slot]])
