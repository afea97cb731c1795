"""A run and its results in Python: tables, problems, corpora, curves and steps as pandas data frames.

    found = run_recipe("recipes/tiny.yaml", {"train.learning_rate": 2e-3}, targets=["table2"])
    found.frame("table2")[["model", "method", "benchmark", "accuracy", "low", "high", "n"]]
    found.frame("problems").groupby(["student", "method"]).response_tokens.mean()

`results` reads what a workspace holds of a recipe, whole or in part, and starts nothing.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError, must_know
from ..plan.sweep import Sweep, sweep
from ..recipe.load import Given, Overrides
from ..run import slurm
from ..run.shortages import shortages
from ..run.snakemake import Say, check_engines, pending_steps, run_plan
from ..run.step import finished
from ..stages.fetch import moved
from ..system.processes import untested_versions
from .outcomes import Outcomes
from .page import curves
from .sheets import Record, Sheet
from .track import log_scores
from .write import recipe_sheets, report_path, sheets, write_report

RAW = ("problems", "curves", "steps")
"""Frames beside the tables: one row a problem and model, a logged training step, a step of the plan."""


class Results:
    """What a workspace holds of a recipe and its variants.

    >>> from micota_lf import Results, sweep
    >>> Results(sweep("recipes/tiny.yaml"), "runs").names[-3:]
    ['problems', 'curves', 'steps']
    """

    def __init__(self, swept: Sweep, workspace: str | Path) -> None:
        self.swept, self.workspace = swept, Path(workspace).absolute()

    @property
    def names(self) -> list[str]:
        """What `frame` knows: the report's tables and figures, and RAW."""
        return [*dict.fromkeys(sheet.name for _, sheet in self._sheets()), *RAW]

    def _repr_html_(self) -> str:
        """As notebooks show it: every table."""
        return "".join(sheet._repr_html_() for _, sheet in self._sheets())

    def frame(self, name: str) -> Any:
        """A pandas DataFrame by name: a table's records as they are, shares in [0, 1]; or one of RAW.

        Of a step that is not done there is its `state` alone. Several variants have a column `variant`.
        Raises UserError for an unknown name.
        """
        import pandas as pd

        known = [] if name in RAW else list(self._sheets())
        must_know(name, [*dict.fromkeys(sheet.name for _, sheet in known), *RAW], "frame")
        shown = ((one, row) for one, sheet in known if sheet.name == name for row in sheet.records)
        rows = self._raw(name) if name in RAW else shown
        return pd.DataFrame([{**({"variant": variant} if variant else {}), **row} for variant, row in rows])

    def _sheets(self) -> Iterator[tuple[str, Sheet]]:
        several = len(self.swept.variants) > 1
        for sheet in sheets(self.swept, self.workspace) if several else ():
            yield "", sheet
        for variant, outcomes in self.outcomes():
            yield from ((variant, sheet) for sheet in recipe_sheets(outcomes))

    def outcomes(self) -> Iterator[tuple[str, Outcomes]]:
        """What the steps of each variant left, by its name."""
        for variant, (_, recipe, plan) in self.swept.variants.items():
            yield variant, Outcomes(recipe, plan, self.workspace)

    def _raw(self, name: str) -> Iterator[tuple[str, Record]]:
        for variant, outcomes in self.outcomes():
            if name == "curves":
                for training, points in curves(outcomes).items():
                    yield from ((variant, {"training": training, "step": s, "loss": x}) for s, x in points)
            for slot, step_id in outcomes.plan.slots.items():
                kind, _, made = slot.partition("/")
                if name == "problems" and kind == "evaluate":
                    student, _, method = made.partition("/")
                    for row in outcomes.problems(slot).values():
                        yield variant, {"model": made, "student": student, "method": method, **row}
                elif name == "steps":
                    step = outcomes.plan.steps[step_id]
                    record = finished(self.workspace / step.directory) or {}
                    told = {"step": slot, "kind": step.kind, "id": step_id, "state": outcomes.state(slot)}
                    yield variant, {**told, "seconds": record.get("seconds"), "directory": step.directory}


def results(
    recipe: Given,
    overrides: Overrides = (),
    workspace: str | Path = "runs",
) -> Results:
    """What a workspace holds of a recipe (a file, or its sections). Raises RecipeError.

    >>> from micota_lf import results
    >>> found = results("recipes/tiny.yaml", {"assistants.ta.merge.weight": 0.4}, workspace="runs")
    >>> found.frame("table2")[["method", "benchmark", "state"]].tail(1).values.tolist()
    [['MiCoTA', 'Average', 'missing']]
    """
    return Results(sweep(recipe, overrides=overrides), workspace)


def run_recipe(
    recipe: Given,
    overrides: Overrides = (),
    *,
    targets: Sequence[str] = (),
    workspace: str | Path = "runs",
    jobs: int | None = None,
    say: Say = print,
) -> Results:
    """Run a recipe's unfinished steps (those that the targets need), write its report, return the results.

    Raises RecipeError and UserError before anything starts, StepFailed once all else has been tried.

    >>> from micota_lf import run_recipe
    >>> found = run_recipe("recipes/tiny.yaml", targets=["preflight"], say=lambda line: None)
    >>> found.frame("steps").query("step == 'preflight'").state.item()
    'done'
    """
    swept, home = sweep(recipe, overrides=overrides), Path(workspace).absolute()
    if pending := pending_steps(swept.plan, home, targets):
        if lacks := shortages(swept.recipe, swept.plan, home, pending):
            raise UserError("\n".join(lacks))
        check_engines(swept.plan, pending)
        run_pending(swept, home, pending, jobs=jobs, say=say)
    elif not report_path(swept, home).is_file():
        write_report(swept, home)
    return Results(swept, home)


def run_pending(
    swept: Sweep,
    workspace: Path,
    pending: list[str],
    *,
    jobs: int | None = None,
    say: Say = print,
    on_slurm: slurm.Settings | None = None,
) -> Path:
    """Run pending steps as `run_plan` does, after a look at versions and the hub; the report's path.

    A half run has a report too. `check_engines` is to be asked before.
    """
    recipe, plan, *_ = swept
    steps = (workspace / step.directory for step in plan.steps.values() if step.kind == "fetch")
    fetched = [done["results"] for done in map(finished, steps) if done]
    with ThreadPoolExecutor() as pool:  # a hub out of reach is waited for once
        asked = list(pool.map(moved, fetched))
    for line in (*untested_versions(), *filter(None, asked)):
        say(f"warning: {line}")
    say(f"{recipe.name}: {len(pending)} of {len(plan.steps)} steps to do in {workspace}")
    try:
        run_plan(plan, workspace, pending, jobs=jobs, say=say, on_slurm=on_slurm)
    except BaseException:
        with suppress(OSError):  # if there is room for it
            write_report(swept, workspace)
        raise
    path = write_report(swept, workspace)
    for name, (_, recipe, plan) in swept.variants.items():
        for line in log_scores(Outcomes(recipe, plan, workspace), path.with_name("trackers") / name):
            say(f"warning: no scores were logged: {line}")
    return path
