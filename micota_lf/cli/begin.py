"""A new recipe by flags, or by questions where these are missing and somebody is there to answer.

In: words of the command line, or of the terminal. Out: a file that is known to plan.
"""

import argparse
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..plan.sweep import sweep
from ..recipe.shipped import new_recipe
from ..system.files import write_text

QUESTIONS = {  # by flag, with the miniature's answer
    "teacher": ("strong teacher, whose chains of thought are long", "tiny:gap/teacher"),
    "assistant": ("model that becomes its assistant", "tiny:gap/assistant"),
    "student": ("students, separated by blanks; NAME=MODEL names one", "tiny:gap/student-s"),
    "prompts": ("file, or hub data set, of problems with answers", "tiny:gap/train"),
    "gpus": ("GPUs (0: none)", "0"),
}


def init(args: argparse.Namespace) -> None:
    """A commented recipe of the whole method with these models, prompts and hardware."""
    path = Path(args.new)
    if path.exists():
        raise UserError(f"{path}: is there already; name a new file")
    given = {flag: vars(args)[flag] or _asked(*question) for flag, question in QUESTIONS.items()}
    for flag in ("teacher", "assistant", "prompts"):
        given[flag] = _seen_from(path, given[flag])
    if not given["gpus"].isdecimal():
        raise UserError(f"--gpus: {given['gpus']!r} is not a number of GPUs")
    named = [word.rpartition("=")[::2] for word in given.pop("student").split()]
    students = {name or _name(model): _seen_from(path, model) for name, model in named}
    gpus = int(given.pop("gpus"))
    write_text(path, new_recipe(_name(path.stem), file=str(path), students=students, gpus=gpus, **given))
    try:
        plan = sweep(path).plan
    except UserError:
        path.unlink()
        raise
    print(f"{path}: a recipe of {len(plan.steps)} steps; next: micota plan {path}")


def _asked(words: str, usual: str) -> str:
    """An answer from the terminal; where there is none, the usual one."""
    with suppress(EOFError):
        return (sys.stdin and sys.stdin.isatty() and input(f"{words} [{usual}]: ").strip()) or usual
    return usual


def _seen_from(path: Path, name: str) -> str:
    """A file or folder as a recipe names it, from where its own file is; any other name as it is."""
    return os.path.relpath(name, path.parent) if os.path.exists(name) else name


def _name(text: str) -> str:
    """A name for a table made of a path or a hub id."""
    return re.sub(r"[^a-z0-9-]+", "_", re.split("[/:]", text.rstrip("/"))[-1].lower()).strip("_")
