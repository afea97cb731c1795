"""The report as one HTML page that opens from disk and asks for nothing: tables, figures, responses, steps.

    html = page(outcomes, list(recipe_sheets(outcomes)))

Text of models and files is escaped; responses come as JSON, of problems drawn at random up to CASE_BYTES.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ..errors import UserError
from ..grading.notation import pattern
from ..inputs.problems import load_problems
from ..recipe.lineage import table_names, table_rows
from ..recipe.tasks import chosen_tasks, evaluated_benchmarks
from ..run.step import finished
from ..system.files import Row, iter_jsonl, read_jsonl
from . import paper
from .figures import FIGURES
from .outcomes import Outcomes
from .sheets import Sheet, document
from .tables import shown_model

CASE_BYTES = 2_000_000  # of responses on the page
EXAMPLE_CHARACTERS = 4000  # of a rejected response


def page(outcomes: Outcomes, sheets: Sequence[Sheet]) -> str:
    """The page of a recipe whose steps are done, in part or not at all."""
    found = list(cases(outcomes))
    random.Random(0).shuffle(found)
    shown, left = list[str](), CASE_BYTES
    for case in found:
        shown.append(json.dumps(case, ensure_ascii=False).replace("<", "\\u003c"))
        if (left := left - len(shown[-1].encode())) < 0:
            break
    values = {"cases": shown, "of": len(found), "curves": curves(outcomes), "rejected": rejected(outcomes)}
    steps = {
        step.name: finished(outcomes.workspace / step.directory) for step in outcomes.plan.steps.values()
    }
    words = pattern("reflections").pattern.replace("(?i:", "(?:")
    told = {"outcomes": outcomes, "recipe": outcomes.recipe, "sheets": sheets, "figures": FIGURES}
    return document("page.html", **values, **told, steps=steps, words=words, notes=paper("notes"))


def cases(outcomes: Outcomes) -> Iterator[Row]:
    """Each problem with its gold answer and every shown model's response to it.

    Of a response: whether it is right by the verdict of the tables and by each grader, tokens, cut, its text.
    """
    recipe, spec = outcomes.recipe, outcomes.recipe.evaluation
    rows = dict.fromkeys(
        row for table in table_names(recipe) if table != "table4" for row in table_rows(recipe, table)
    )
    found = dict[tuple[str, str], Row]()
    texts = dict(problem_texts(outcomes))
    for student, method in rows:
        slot = f"evaluate/{student}/{method}"
        if outcomes.results(slot) is None:
            continue
        samples = read_jsonl(outcomes.directory(slot) / "samples.jsonl")
        for sample, verdicts in zip(samples, outcomes.problems(slot).values(), strict=True):
            key = sample["task"], sample["id"]
            case = found.setdefault(key, {"task": spec.tasks.get(key[0], key[0]), "id": key[1], "by": {}})
            case |= {"problem": texts.get(key, ""), "answer": sample["target"]}
            said = sample["response"]
            case["by"].setdefault(shown_model(recipe, student), {})[method] = [
                verdicts[spec.column], verdicts["legacy"], verdicts["symbolic"], verdicts["response_tokens"],
                verdicts["truncated"], said if isinstance(said, str) else "\n\n---\n\n".join(said),
            ]  # fmt: skip
    return iter(found.values())


def problem_texts(outcomes: Outcomes) -> Iterator[tuple[tuple[str, str], str]]:
    """The text of each problem by task and id, as far as the benchmarks are here."""
    spec = outcomes.recipe.evaluation
    with suppress(UserError):
        benchmarks = evaluated_benchmarks(spec)
        for task, config in chosen_tasks(spec).items():
            name = (config.get("metadata") or {}).get("benchmark")
            for row in load_problems(benchmarks[name]) if name else ():
                yield (task, row["id"]), row["problem"]


def curves(outcomes: Outcomes) -> dict[str, list[tuple[int, float]]]:
    """Of each training that has begun: its steps and their losses."""
    found = dict[str, list[tuple[int, float]]]()
    for slot in (slot for slot in outcomes.plan.slots if slot.startswith("train/")):
        log = outcomes.directory(slot) / "model" / "trainer_log.jsonl"
        rows = iter_jsonl(log, repair=True) if log.is_file() else ()
        points = [(row["current_steps"], row["loss"]) for row in rows if "loss" in row]
        found |= {slot.removeprefix("train/"): points} if points else {}
    return found


def rejected(outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """Of each corpus, by reason, the first row that its filter left out."""
    found = dict[str, dict[str, Any]]()
    for slot in (slot for slot in outcomes.plan.slots if slot.startswith("filter/")):
        file, first = outcomes.directory(slot) / "rejected.jsonl", dict[str, Any]()
        for row in iter_jsonl(file) if file.is_file() else ():
            short = {key: str(row.get(key))[:EXAMPLE_CHARACTERS] for key in ("prompt", "response", "answer")}
            first.setdefault(row["reason"], short)
        found |= {slot.removeprefix("filter/"): first} if first else {}
    return found
