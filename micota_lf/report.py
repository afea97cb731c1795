"""The report of a run: its tables as Markdown and CSV.

In: a recipe, its plan, a workspace. Out: `reports/<recipe>/report.md` with Table 2 (accuracies), the corpora
and Table 4 (BPC), and one CSV file a table. What the numbers are is said in `tables.py` and in the report.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from .files import write_text
from .plan import Plan
from .recipe import Recipe
from .steps import DONE
from .tables import AVERAGE, TableRow, bpc_table, corpora_table, table2


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
