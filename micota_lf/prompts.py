"""Problems to respond to: from a JSONL file, the tiny family, or a data set on the hub.

rows = load_problems("tiny:train", limit=10)
chat(rows[0]["problem"], template, system=None)   -> [{"role": "user", "content": "What is ..."}]
"""

from __future__ import annotations

from typing import Any

from .errors import UserError
from .files import Row, digest, read_jsonl
from .recipe import Prompts
from .refs import local_path


def load_problems(prompts: Prompts) -> list[Row]:
    """Rows `{id, problem, answer}` of a prompt set.

    A row without an id gets one from its problem's hash; a row without an answer has answer None.
    Raises UserError for an empty source, a row without a problem, or an id that occurs twice.
    """
    path, local = prompts.path, local_path(prompts.path, "data")
    source = read_jsonl(local) if local else _hub_rows(prompts)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(source[: prompts.limit], start=1):
        problem = row.get(prompts.problem_field)
        if not isinstance(problem, str) or not problem.strip():
            raise UserError(f"{path}: row {number} has no text in {prompts.problem_field!r}")
        row_id = str(row.get(prompts.id_field) or digest(problem))
        if row_id in seen:
            raise UserError(f"{path}: rows {seen[row_id]} and {number} have the same id {row_id!r}")
        seen[row_id] = number
        answer = row.get(prompts.answer_field)
        rows.append({"id": row_id, "problem": problem, "answer": None if answer is None else str(answer)})
    if not rows:
        raise UserError(f"{path}: holds no prompts")
    return rows


def user_text(problem: str, template: str) -> str:
    """The user's message: the template with the problem put in (other braces are left alone)."""
    return template.replace("{problem}", problem)


def chat(problem: str, prompts: Prompts) -> list[dict[str, str]]:
    """The conversation that asks for a response, as chat messages."""
    user = {"role": "user", "content": user_text(problem, prompts.template)}
    return [{"role": "system", "content": prompts.system}, user] if prompts.system else [user]


def _hub_rows(prompts: Prompts) -> list[Row]:
    from datasets import load_dataset

    try:
        data: Any = load_dataset(prompts.path, prompts.subset, split=prompts.split, revision=prompts.revision)
    except Exception as error:  # datasets raises many kinds; each means that the set is not to be had
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"prompts.path: {prompts.path!r} could not be loaded from the hub: {reason}"
        ) from error
    return [dict(row) for row in data]
