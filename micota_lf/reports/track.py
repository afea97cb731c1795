"""Scores and tables of a finished run for the trackers that its trainings report to (`train.report_to`)."""

from collections.abc import Iterator
from pathlib import Path

from ..recipe.lineage import training, trainings
from .outcomes import Outcomes
from .tables import accuracies
from .write import recipe_sheets


def log_scores(outcomes: Outcomes, home: Path) -> Iterator[str]:
    """Log every evaluation's accuracy by slot and benchmark; yield what a tracker that fails says.

    Trackers that take tables get the report's; what TensorBoard reads is written below `home`.
    """
    recipe = outcomes.recipe
    asked = {training(recipe, *one).report_to for one in trainings(recipe)} - {"none"}
    slots = [slot for slot in outcomes.plan.slots if slot.startswith("evaluate/")]
    rows = {f"{slot}/{row['benchmark']}": row for slot in slots for row in accuracies(outcomes, slot)}
    scores = {name: row["accuracy"] for name, row in rows.items() if "accuracy" in row}
    for name in sorted(asked):
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        try:
            tracker = kind(recipe.name, **({"logging_dir": home} if kind.requires_logging_directory else {}))
            tracker.start()
            tracker.log(scores, step=0)
            for sheet in recipe_sheets(outcomes) if hasattr(tracker, "log_table") else ():
                tracker.log_table(sheet.name, columns=sheet.head, data=sheet.lines)
            tracker.finish()
        except Exception as error:  # of somebody's server: the report is written
            yield f"{name}: {error!r}"
