"""A model of the hub, brought here before anything on GPUs waits for it.

In: a hub id, perhaps with a revision. Out: `model`, a link into the hub's cache, and its `commit`.

Other steps read the snapshot, so a workspace holds to one commit: an id without a revision that has moved on
the hub since is named (`moved`), and is fetched anew once the step's directory is deleted or a revision is
given. Half a download stays in the cache, and the next one goes on from there.
"""

from pathlib import Path

from ..errors import StepFailed, UserError, first_line
from ..inputs.references import ModelRef
from ..inputs.weights import model_problem
from ..system.processes import log_tail
from . import LOG, Context, Results, Stage


def run(step: Context) -> Results:
    """Download what is not in the cache, and link it. Raises StepFailed if it cannot be had whole."""
    model, link = step.inputs["model"], step.directory / STAGE.output
    try:
        snapshot = model.weights()
    except Exception as error:  # of several libraries: each means that it is not here whole
        raise StepFailed(f"{model.ref}: {first_line(error)}; what has arrived is kept") from error
    link.unlink(missing_ok=True)
    link.symlink_to(snapshot)
    if problem := model_problem(ModelRef(str(link)), chat=False):
        raise UserError(f"{model.ref} at {snapshot.name}: {problem}")
    gigabytes = sum(file.stat().st_size for file in snapshot.iterdir()) / 1e9
    return {"id": model.ref, "revision": model.revision, "commit": snapshot.name, "gigabytes": gigabytes}


def moved(fetched: Results) -> str | None:
    """A line on a fetched id without a revision whose commit on the hub is another one by now."""
    model, commit = ModelRef(fetched["id"], fetched["revision"]), fetched["commit"]
    now = None if model.revision else model.current_commit()
    if now in (None, commit):
        return None
    return f"{model.ref} has moved on the hub: {commit[:12]} was fetched and is used, {now:.12} is there now"


def progress(directory: Path) -> str:
    """The last words of the download's progress bars."""
    return log_tail(directory / LOG, 1).strip()[:100]


STAGE = Stage(run, progress=progress, quick=True, hub=True, output="model")
