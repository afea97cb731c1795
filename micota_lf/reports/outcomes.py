"""What the steps of a plan have left in a workspace: states, results, verdicts problem by problem.

outcomes = Outcomes(recipe, plan, Path("runs"))
outcomes.results("evaluate/student-s/MiCoTA")     -> {"micota_tiny_two": {"n": 200, ...}} or None
outcomes.problems("evaluate/student-s/MiCoTA")    -> {("micota_tiny_two", "tiny-two-0001"): {...}}
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

from ..errors import UserError
from ..plan.plan import Plan
from ..recipe.sections import Recipe
from ..run.step import MISSING, finished, state
from ..system.files import Row, read_json, read_jsonl, read_note

AVERAGE = "Average"
UNASKED = "not asked for"
LAST_RUN = Path(".micota") / "last.json"
"""Below the workspace: the recipe that ran last (`micota explain STEP` looks at it), and its targets."""
Problems = dict[tuple[str, str], Row]
"""Rows by task and problem id: verdicts, `truncated`, `response_tokens`, `reflections`."""


class Outcomes:
    """Reads each step's files once; a slot that the plan lacks is like one that was never run."""

    def __init__(self, recipe: Recipe, plan: Plan, workspace: Path) -> None:
        self.recipe, self.plan, self.workspace = recipe, plan, workspace
        self.titles = {**recipe.evaluation.tasks, AVERAGE: AVERAGE}  # of columns, by task
        self.results = cache(self._results)
        self.problems = cache(self._problems)

    def directory(self, slot: str) -> Path:
        """The directory of the step in a slot."""
        return self.workspace / self.plan.steps[self.plan.slots[slot]].directory

    def state(self, slot: str) -> str:
        """`done`, `running`, `failed`, `missing`, or `not asked for` by the last run's targets."""
        if slot not in self.plan.slots:
            return MISSING
        found = state(self.directory(slot))
        return UNASKED if found == MISSING and self.plan.slots[slot] not in self.asked else found

    @cached_property
    def asked(self) -> set[str]:
        """Ids of the steps that the recipe's last run was for; all, if another recipe ran last."""
        last = read_note(self.workspace / LAST_RUN)
        targets = last.get("targets", ()) if last.get("name") == self.recipe.name else ()
        with suppress(UserError):  # a variant's own slots
            return set(self.plan.needed(targets))
        return set(self.plan.steps)

    def _results(self, slot: str) -> Row | None:
        done = finished(self.directory(slot)) if slot in self.plan.slots else None
        return done and dict(done["results"])

    def numerics_note(self, slots: Iterable[str], what: str = "rows") -> str:
        """A sentence on how done evaluations or generations differ in numerics; empty if they do not.

        Greedy responses change with the last digits of a float: such rows differ by more than their models.
        Copies of a model (`data_parallel`) change batches alone, as the order in which answers come does.
        """
        found: list[Row] = []
        for directory in (self.directory(slot) for slot in slots if self.results(slot) is not None):
            for path in (directory / "numerics.json", directory / "responses.meta.json"):
                if path.is_file():  # of responses it has a row for each time that they were resumed
                    found += (raw := read_json(path)).get("numerics", [raw])
        differing = []
        for key in dict.fromkeys(key for numerics in found for key in numerics if key != "data_parallel"):
            counts = Counter(str(numerics.get(key)) for numerics in found)
            if len(counts) > 1:
                rows = (f"{value} ({count} {what})" for value, count in sorted(counts.items()))
                differing.append(f"{key} {', '.join(rows)}")
        return f" **The {what} differ in numerics:** {'; '.join(differing)}." if differing else ""

    def _problems(self, slot: str) -> Problems:
        done = self.results(slot) is not None
        rows = read_jsonl(self.directory(slot) / "problems.jsonl") if done else []
        return {(row["task"], row["id"]): row for row in rows}
