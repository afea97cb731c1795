"""Problems to respond to: from a JSONL file, the tiny family, or a data set on the hub.

rows = load_problems(Prompts("tiny:train", limit=10))
chat(rows[0]["problem"], prompts)   -> [{"role": "user", "content": "What is ..."}]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..errors import UserError
from ..recipe.sections import Problems, Prompts
from ..system.files import NO_TEXT, Row, digest, is_text, read_jsonl
from .references import identity, local_path


def text_or_none(value: Any) -> str | None:
    """An answer column's value as text; an absent answer stays None."""
    return None if value is None else str(value)


def load_problems(spec: Problems, read_answer: Callable[[Any], str | None] = text_or_none) -> list[Row]:
    """Rows `{id, problem, answer}` of a set of problems.

    A row without an id gets one from its problem's hash; where that text repeats, `-2`, `-3`, ... follow.
    `read_answer` turns the answer column's value into text; its ValueError says what is wrong with it.
    Raises UserError, naming file, row and column, for an empty source, a row without a problem, an answer
    that cannot be read, or a given id that occurs twice.
    """
    path, local = spec.path, local_path(spec.path, "data")
    source = read_jsonl(local) if local else _hub_rows(spec)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    copies: Counter[str] = Counter()
    for number, row in enumerate(source[: spec.limit], start=1):
        problem = row.get(spec.problem_field)
        if not isinstance(problem, str) or not problem.strip():
            raise UserError(f"{path}: row {number} has no text in {spec.problem_field!r}")
        for field in (spec.problem_field, spec.answer_field, spec.id_field):
            if not is_text(str(row.get(field))):
                raise UserError(f"{path}: row {number}: {field!r} {NO_TEXT}")
        given = row.get(spec.id_field)
        if given is None or given == "":
            key = digest(problem)
            copies[key] += 1
            row_id = key if copies[key] == 1 else f"{key}-{copies[key]}"
        else:
            row_id = str(given)
        if row_id in seen:
            raise UserError(f"{path}: rows {seen[row_id]} and {number} have the same id {row_id!r}")
        seen[row_id] = number
        try:
            answer = read_answer(row.get(spec.answer_field))
        except ValueError as error:
            raise UserError(f"{path}: row {number}: {spec.answer_field!r} {error}") from None
        rows.append({"id": row_id, "problem": problem, "answer": answer})
    if not rows:
        raise UserError(f"{path}: holds no prompts")
    return rows


def prompt_input(prompts: Prompts) -> dict[str, Any]:
    """A prompt set as an input of a step: its reference and identity."""
    return {"ref": prompts.path, "identity": identity(prompts.path, prompts.revision, "data")}


def prompt_fields(prompts: Prompts) -> dict[str, Any]:
    """A prompt set's other settings; path and revision are in the input's identity."""
    return {key: value for key, value in asdict(prompts).items() if key not in ("path", "revision")}


def user_text(problem: str, template: str) -> str:
    """The user's message: the template with the problem put in (other braces are left alone)."""
    return template.replace("{problem}", problem)


def chat(problem: str, prompts: Prompts) -> list[dict[str, str]]:
    """The conversation that asks for a response, as chat messages."""
    user = {"role": "user", "content": user_text(problem, prompts.template)}
    return [{"role": "system", "content": prompts.system}, user] if prompts.system else [user]


def _hub_rows(spec: Problems) -> list[Row]:
    from datasets import load_dataset

    try:
        data: Any = load_dataset(spec.path, spec.subset, split=spec.split, revision=spec.revision)
    except Exception as error:  # datasets raises many kinds; each means that the set is not to be had
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{spec.path!r} could not be loaded from the hub: {reason}") from error
    return [dict(row) for row in data]
