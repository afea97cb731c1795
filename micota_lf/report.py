"""The tables of a run, from what its steps left: Markdown and CSV, whole or in part.

In: a recipe, its plan, a workspace. Out: `reports/<recipe>/report.md` with Table 2 (accuracies), the corpora
and Table 4 (BPC), and one CSV file a table. A cell whose step is not done says so (missing, running, failed).

An accuracy reads `62.5 [55.6, 68.9] n=200, 31 tok, 0.0% cut`: percent right, its 95% Wilson interval,
problems, mean response tokens, share of responses cut at max_gen_toks. The average is the paper's, unweighted
over the benchmarks, with a bootstrap interval.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json, write_text
from .lineage import strong_teachers
from .plan import Plan, step_directory
from .recipe import ASSISTANT_MERGED, Recipe
from .stats import average_interval, wilson
from .steps import DONE, state

AVERAGE = "Average"


@dataclass(frozen=True)
class Cell:
    """One accuracy: counts over one benchmark, or with `parts` their unweighted average."""

    state: str
    n: int = 0
    correct: int = 0
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
            results = _results(plan, workspace, slot) if slot in plan["slots"] else None
            row: dict[str, Any] = {"corpus": corpus, "model": model}
            rows.append({**row, **results[f"corpus{number}"]} if results else {**row, "state": "missing"})
    return rows


def write_report(recipe: Recipe, plan: Plan, workspace: Path) -> Path:
    """Write the report and its CSV files; return the path of the Markdown file."""
    directory = workspace / "reports" / recipe.name
    rows = table2(recipe, plan, workspace)
    corpora, bpcs = corpora_table(recipe, plan, workspace), bpc_table(recipe, plan, workspace)
    write_text(directory / "table2.csv", _csv(_flat(rows)))
    write_text(directory / "corpora.csv", _csv(corpora))
    if bpcs:
        write_text(directory / "table4.csv", _csv(bpcs))
    spec = recipe.evaluation
    limits = f"first {spec.limit} problems" if spec.limit else "all problems"
    titles = [*spec.tasks.values(), AVERAGE]
    parts = [
        f"# {recipe.name}: report",
        "## Table 2: accuracy",
        f"Percent right by the `{spec.verdict}` grader with a 95% Wilson interval (average: unweighted, "
        f"bootstrap), greedy, zero-shot, at most {spec.max_gen_toks} tokens, {limits}. `tok` is the mean "
        "response length in the model's own tokens, `cut` the share of responses that hit the limit. "
        "Intervals that overlap much are no evidence of a difference.",
        _markdown(
            ["Models", "Method", *titles],
            [[row.model, row.method, *("<br>".join(row.cells[t].lines()) for t in titles)] for row in rows],
        ),
        "## Corpora",
        "What each training set holds: responses generated, rows kept, mean response tokens of the kept rows "
        "(in the generating model's tokens), and the responses by reason.",
        _markdown(
            ["Corpus", "From", "Responses", "Kept", "Mean tokens", "Reasons"],
            [
                [
                    r["corpus"],
                    r["source"],
                    r["responses"],
                    r["kept"],
                    f"{r['mean_response_tokens']:.1f}",
                    r["reasons"],
                ]
                if r["state"] == DONE
                else [r["corpus"], r["source"], r["state"], "", "", ""]
                for r in corpora
            ],
        ),
    ]
    if bpcs:
        parts += ["## Table 4: BPC", _bpc_words(recipe, bpcs), _bpc_markdown(recipe, bpcs)]
    write_text(directory / "report.md", "\n\n".join(parts) + "\n")
    return directory / "report.md"


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


def _flat(rows: list[TableRow]) -> list[dict[str, Any]]:
    return [
        {"model": row.model, "method": row.method, "benchmark": title, **vars(cell)}
        for row in rows
        for title, cell in row.cells.items()
    ]


def _bpc_words(recipe: Recipe, rows: list[dict[str, Any]]) -> str:
    spec = recipe.bpc
    unit = next((row["unit"] for row in rows if "unit" in row), "")
    given = "given its prompt" if spec.condition_on_prompt else "without its prompt"
    return (
        f"Mean over texts of equation 3 in {unit}, with a 95% t interval; T is a response {given}. "
        "Lower means closer to the untrained model's own distribution."
    )


def _bpc_markdown(recipe: Recipe, rows: list[dict[str, Any]]) -> str:
    values = {(row["corpus"], row["model"]): row for row in rows}

    def cell(corpus: str, model: str) -> str:
        row = values[corpus, model]
        if "mean" not in row:
            return str(row["state"])
        return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] n={row['n']}"

    body = [[corpus, *(cell(corpus, model) for model in recipe.bpc.models)] for corpus in recipe.bpc.corpora]
    return _markdown(["Corpus", *recipe.bpc.models], body)


def _source(recipe: Recipe, corpus: str) -> str:
    spec = recipe.corpora[corpus]
    if spec.from_:
        return spec.from_
    return " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())


def _results(plan: Plan, workspace: Path, slot: str) -> dict[str, Any] | None:
    done = workspace / step_directory(plan["steps"][plan["slots"][slot]]) / "done.json"
    return dict(read_json(done)["results"]) if done.is_file() else None


def _state(plan: Plan, workspace: Path, slot: str) -> str:
    return state(workspace / step_directory(plan["steps"][plan["slots"][slot]]))


def _markdown(head: list[str], body: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(str(word) for word in line) + " |" for line in lines)


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
