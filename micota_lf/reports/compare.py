"""One method against another on the same problems: paired differences, tests, and whether they are noise.

For each student of a table, its last method (the paper's MiCoTA) is set against every other. A benchmark's
difference has the exact McNemar p value, adjusted by Holm over all benchmark cells of the table; that of the
average has a 95% paired bootstrap interval.
"""

from collections.abc import Iterator
from dataclasses import replace

from ..grading.intervals import SIGNIFICANCE, TELLING, holm, mcnemar
from ..recipe.lineage import table_rows
from ..run.step import MISSING
from .outcomes import Outcomes
from .sheets import Record, Sheet, make_sheet
from .tables import average_difference, discordant


def comparison_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """The paired comparisons of a table's methods."""
    spec, students = outcomes.recipe.evaluation, outcomes.recipe.students
    pairs, found = table_rows(outcomes.recipe, table), {}
    last = dict(pairs)
    for student, other in pairs:
        if other != last[student]:
            slots = f"evaluate/{student}/{last[student]}", f"evaluate/{student}/{other}"
            found[student, other] = discordant(outcomes, *slots)
    values = [mcnemar(gained, lost) for counts in found.values() for gained, lost, _ in counts.values()]
    adjusted, rows = iter(holm(values)), []
    for (student, other), counts in found.items():
        names = {"model": students[student].model, "method": last[student], "against": other}
        cells = [*(_difference(counts.get(task), adjusted) for task in spec.tasks), _average(counts)]
        benchmarks = zip(outcomes.titles, cells, strict=True)
        rows.append([{**names, "benchmark": title, **cell} for title, cell in benchmarks])
    values_of_note = {"tests": len(values), "significance": SIGNIFICANCE, "telling": 100 * TELLING}
    sheet = make_sheet("differences", table, rows, outcomes.titles, **vars(spec), **values_of_note)
    return replace(sheet, name=f"{table}-differences", title=f"{sheet.title}: differences")


def _difference(counts: tuple[int, int, int] | None, adjusted: Iterator[float]) -> Record:
    if counts is None:
        return {"state": MISSING}
    gained, lost, n = counts
    both = {"difference": (gained - lost) / n, "only_first": gained, "only_second": lost, "n": n}
    return both | {"p_holm": next(adjusted)}


def _average(counts: dict[str, tuple[int, int, int]]) -> Record:
    if not counts:
        return {"state": MISSING}
    value, low, high = average_difference(counts)
    return {"difference": value, "low": low, "high": high, "n": sum(n for _, _, n in counts.values())}
