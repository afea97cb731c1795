"""The errors this library raises, and the exit code each one gives.

MicotaError            1   anything below
|- UserError           2   something the user wrote or pointed to is wrong; nothing was written
|  `- RecipeError      2   every problem of one recipe, a line each
|- StepFailed          1   an engine ran and did not deliver
|  |- EngineDied       1   it ended by itself, without success
|  `- OutOfMemory      1   it had too little memory
`- StepLocked          3   another process is at work in the step's directory
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

KNOWN = 20  # names that an error lists
FREE_SOME = "free some space and run the same command again: what is finished is kept"


class MicotaError(Exception):
    """Base of all errors of this library; its text is meant for the user.

    >>> from micota_lf import MicotaError, load_recipe
    >>> try:
    ...     load_recipe("no.yaml")
    ... except MicotaError as error:
    ...     print(error.exit_code, error)
    2 no.yaml: cannot be read: [Errno 2] No such file or directory: 'no.yaml'
    """

    exit_code = 1


class UserError(MicotaError):
    """Bad input: one line naming the file, the key and the value.

    >>> from micota_lf import load_recipe, train_config
    >>> train_config(load_recipe("recipes/tiny.yaml"), "student-x", "strong")
    Traceback (most recent call last):
    micota_lf.errors.UserError: students: unknown name 'student-x'; did you mean 'student-s'?
    """

    exit_code = 2


class RecipeError(UserError):
    """All problems found in one recipe, together; a line break in a value does not break its line.

    >>> from micota_lf import load_recipe
    >>> load_recipe("recipes/tiny.yaml", {"train.learning_rat": 1, "seed": "a"})
    Traceback (most recent call last):
    micota_lf.errors.RecipeError: command line: train.learning_rat: unknown key; did you mean 'learning_rate'?
    command line: seed: 'a' should be a valid integer
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = ["\\n".join(problem.splitlines()) for problem in problems]
        super().__init__("\n".join(self.problems))


class StepFailed(MicotaError):
    """An engine exited, but its outputs are not what the step promises.

    >>> from micota_lf import StepFailed
    >>> StepFailed.exit_code
    1
    """


class EngineDied(StepFailed):
    """An engine ended by itself and without success; its step may be tried again."""


class OutOfMemory(StepFailed):
    """A process of an engine had too little memory; it would have again."""


class StepLocked(MicotaError):
    """The step's lock is held by a live process."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known key, or the known keys if none is near."""
    from difflib import get_close_matches

    names = [str(name) for name in known]
    shown = ", ".join(names[:KNOWN]) + (f", ... ({len(names)} in all)" if len(names) > KNOWN else "")
    short = [name for name in names if key == "".join(part[:1] for part in name.split("_"))]  # as in lr
    close = get_close_matches(key, names, n=1, cutoff=0.6) or short
    return f"did you mean {close[0]!r}?" if close else f"known: {shown or 'none'}"


def must_know(name: Any, known: Collection[str], key: str) -> None:
    """Raise UserError for a name that is not among those known below a key."""
    if name not in known:
        raise UserError(f"{key}: unknown name {name!r}; {nearest(str(name), known)}")
