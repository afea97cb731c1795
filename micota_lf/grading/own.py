"""A verdict of the user's own: a function of a Python file that says of a row whether its response is right.

    right = own_verdict(Path("mine.py"), "right")
    right({"prompt": "...", "response": "...", "answer": "..."})   -> True, False, or "why it is wrong"

The file runs in this process, as the recipe that names it was written by whoever runs it.
"""

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

OwnVerdict = Callable[[Mapping[str, Any]], bool | str]


def own_verdict(file: Path, name: str) -> OwnVerdict:
    """The function of that name. It raises UserError for a row that it cannot judge; so do we without it."""
    try:
        function = runpy.run_path(str(file))[name]
    except Exception as error:  # whatever the file does
        raise UserError(f"verdict: {file}: {name} cannot be had: {error!r}") from error

    def judged(row: Mapping[str, Any]) -> bool | str:
        try:
            said = function(row)
            if isinstance(said, bool | str):
                return said
            raise TypeError(f"says {said!r:.60}, not True, False or why")
        except Exception as error:
            raise UserError(f"verdict: {file}: {name}({row!r:.200}): {error!r}") from error

    return judged
