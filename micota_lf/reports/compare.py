"""One method against another on the same problems: paired differences, tests, and whether they are noise.

For each student of a table, its last method (the paper's MiCoTA) is set against every other. A benchmark's
difference has the exact McNemar p value, adjusted by Holm over all benchmark cells of the table; that of the
average has a 95% paired bootstrap interval.
"""

from ..grading.intervals import SIGNIFICANCE, TELLING, difference_interval, holm, mcnemar
from ..recipe.lineage import table_rows
from ..run.step import MISSING
from .outcomes import AVERAGE, Outcomes
from .sheets import Record, Sheet, make_sheet

Counts = dict[str, tuple[int, int, int]]
"""By task: problems that only the first model got right, only the second, and all that both have answered."""


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
        cells: dict[str, Record] = {}
        for task, (gained, lost, n) in counts.items():
            both = {"difference": (gained - lost) / n, "only_first": gained, "only_second": lost, "n": n}
            cells[task] = both | {"p_holm": next(adjusted)}
        if counts:
            value, low, high = average_difference(counts)
            total = sum(n for _, _, n in counts.values())
            cells[AVERAGE] = {"difference": value, "low": low, "high": high, "n": total}
        titles, missing = outcomes.titles.items(), {"state": MISSING}
        rows.append([{**names, "benchmark": title, **cells.get(task, missing)} for task, title in titles])
    noted = {"tests": len(values), "significance": SIGNIFICANCE, "telling": 100 * TELLING}
    sheet = make_sheet("differences", table, rows, outcomes.titles.values(), **vars(spec), **noted)
    return sheet._replace(name=f"{table}-differences", title=f"{sheet.title}: differences")


def discordant(outcomes: Outcomes, first: str, second: str) -> Counts:
    """How two slots' models differ, by task; empty if a step is not done."""
    ours, theirs = outcomes.problems(first), outcomes.problems(second)
    verdict, counts = outcomes.recipe.evaluation.verdict, {}
    for task in outcomes.recipe.evaluation.tasks:
        shared = [key for key in ours if key[0] == task and key in theirs]
        both = [(ours[key][verdict], theirs[key][verdict]) for key in shared]
        if both:
            counts[task] = (sum(a > b for a, b in both), sum(a < b for a, b in both), len(both))
    return counts


def average_difference(counts: Counts) -> tuple[float, float, float]:
    """The unweighted mean over benchmarks of the paired differences of `discordant`, with its interval."""
    value = sum((gained - lost) / n for gained, lost, n in counts.values()) / len(counts)
    return value, *difference_interval(list(counts.values()))
