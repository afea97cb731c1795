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
    if not asked:  # mostly: then no scores need be read
        return
    done = [slot for slot in outcomes.plan.slots if slot.startswith("evaluate/") and outcomes.results(slot)]
    scores = {f"{s}/{row['benchmark']}": row["accuracy"] for s in done for row in accuracies(outcomes, s)}
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
