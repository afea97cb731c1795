"""One method against another on the same problems: paired differences, tests, and whether they are noise.

For each student of a table, its last method (the paper's MiCoTA) is set against every other. A benchmark's
difference has the exact McNemar p value, adjusted by Holm over all benchmark cells of the table; that of the
average has a 95% paired bootstrap interval.
"""

from __future__ import annotations

from typing import Any

from ..grading.intervals import SIGNIFICANCE, TELLING, holm, least_difference, mcnemar
from ..recipe.lineage import table_rows
from .outcomes import Outcomes
from .sheets import AVERAGE, TITLES, Sheet, average_difference, difference_text, discordant, short_name


def comparison_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """The paired comparisons of a table's methods."""
    recipe = outcomes.recipe
    tasks = recipe.evaluation.tasks
    by_student: dict[str, list[str]] = {}
    for student, method in table_rows(recipe, table):
        by_student.setdefault(student, []).append(method)
    pairs = [
        (student, methods[-1], other) for student, methods in by_student.items() for other in methods[:-1]
    ]
    found = {
        pair: discordant(outcomes, f"evaluate/{pair[0]}/{pair[1]}", f"evaluate/{pair[0]}/{pair[2]}")
        for pair in pairs
    }
    tests = [(pair, task) for pair, counts in found.items() for task in counts]
    adjusted = dict(zip(tests, holm([mcnemar(*found[pair][task][:2]) for pair, task in tests]), strict=True))
    rows, records = [], []
    for pair, counts in found.items():
        student, method, other = pair
        model = recipe.students[student].model
        names = {"model": model, "method": method, "against": other}
        row = [short_name(model), f"{method} - {other}"]
        for task, title in tasks.items():
            if task not in counts:
                row.append("missing")
                continue
            gained, lost, n = counts[task]
            p = adjusted[pair, task]
            few = least_difference(n) > TELLING
            word = "" if p < SIGNIFICANCE else " (n too small)" if few else " (noise)"
            row.append(f"{100 * (gained - lost) / n:+.1f} p={p:.2g}{word}")
            records.append({
                **names, "benchmark": title, "difference": (gained - lost) / n, "only_first": gained,
                "only_second": lost, "n": n, "p_holm": p,
            })  # fmt: skip
        row.append("missing")
        if counts:
            value, low, high = average_difference(counts)
            row[-1] = difference_text(value, low, high)
            average: dict[str, Any] = {"benchmark": AVERAGE, "difference": value, "low": low, "high": high}
            records.append({**names, **average, "n": sum(n for _, _, n in counts.values())})
        rows.append(row)
    note = (
        f"Differences in percentage points over the same problems (`{recipe.evaluation.verdict}` grader). p: "
        "exact McNemar, Holm-adjusted over "
        f"the {len(tests)} benchmark cells of this table. Average: 95% paired bootstrap interval. `noise`: p "
        f"is not below {SIGNIFICANCE:.2g}, or the interval holds zero; `n too small`: with so few problems, "
        f"a difference of {100 * TELLING:.0f} points could not come below it."
    )
    title = f"{TITLES.get(table, table)}: differences"
    return Sheet(
        f"{table}-differences", title, note, ["Models", "Methods", *tasks.values(), AVERAGE], rows, records
    )
