"""The report as one HTML page that opens from disk and asks for nothing: tables, figures, responses, steps.

    html = page(outcomes, list(recipe_sheets(outcomes)), source_rows(recipe, layers))

Text of models and files is escaped; responses are packed, of problems drawn at random up to CASE_BYTES.
"""

import gzip
import json
import random
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from ..grading.notation import pattern
from ..plan.costs import estimate
from ..recipe.lineage import table_names
from ..recipe.load import Sourced
from ..run.step import finished
from ..system.files import Row, iter_jsonl
from . import paper
from .figures import FIGURES
from .outcomes import Outcomes
from .sheets import Sheet, document
from .tables import evaluated_rows

MOST_CASES, CASE_BYTES = 400, 3_500_000  # of responses on the page
# Of a response, beside the verdict of the tables.
SHOWN = ("legacy", "symbolic", "response_tokens", "truncated", "loops", "reflections")
MOST_ROWS = 100  # of prompts that overlap
EXAMPLE_CHARACTERS = 4000  # of a rejected response


def page(outcomes: Outcomes, sheets: Sequence[Sheet], sources: Sequence[Sourced] = ()) -> str:
    """The page of a recipe, done in part or not at all; `sources` say where its values come from."""
    drawn, of = cases(outcomes)
    shown, left = list[str](), CASE_BYTES
    for case in drawn:
        shown.append(json.dumps(case))
        if (left := left - len(packed(shown[-1]))) < 0:
            break
    recipe, plan = outcomes.recipe, outcomes.plan
    steps = {key: finished(outcomes.workspace / step.directory) for key, step in plan.steps.items()}
    told = {"recipe": recipe, "sheets": sheets, "figures": FIGURES, "steps": steps, "cases": len(shown)}
    told |= {"series": list(_series(outcomes).values()), "sources": sources, "costs": estimate(plan, recipe)}
    told |= {"rows": partial(rows_of, outcomes), "most": MOST_ROWS, "shown": EXAMPLE_CHARACTERS, "of": of}
    told |= {"data": packed(f"[{','.join(shown)}]"), "notes": paper("notes")}
    told |= {"curves": curves(outcomes), "rejected": rejected(outcomes)}
    words = pattern("reflections").pattern.replace("(?i:", "(?:")
    return document("page.html", outcomes=outcomes, words=words, **told)


def packed(text: str) -> str:
    """A text as gzip in base64: chains of thought shrink to a third, and none of it is HTML."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def cases(outcomes: Outcomes) -> tuple[list[Row], int]:
    """At most MOST_CASES problems with gold answer and every shown model's response; of how many.

    Of a response: whether it is right by the verdict of the tables and by each grader, tokens, cut, its text.
    """
    spec, slots = outcomes.recipe.evaluation, _series(outcomes)
    known = list(dict.fromkeys(key for slot in slots for key in outcomes.problems(slot)))
    drawn = random.Random(0).sample(known, min(MOST_CASES, len(known)))
    found: dict[tuple[str, str], Row] = {
        (task, name): {"task": spec.tasks.get(task, task), "id": name, "by": {}} for task, name in drawn
    }
    for slot, (model, method) in slots.items():
        problems = outcomes.problems(slot)
        for sample in iter_jsonl(outcomes.directory(slot) / "samples.jsonl") if problems else ():
            if case := found.get(key := (sample["task"], sample["id"])):
                said = sample["response"]
                text = said if isinstance(said, str) else "\n\n---\n\n".join(said)
                verdicts = [problems[key].get(name, 0) for name in (spec.column, *SHOWN)]
                case["by"].setdefault(model, {})[method] = [*verdicts, text]
                case |= {"problem": sample["problem"] or "", "answer": sample["target"]}
    return list(found.values()), len(known)


def _series(outcomes: Outcomes) -> dict[str, tuple[str, str]]:
    """Model and method of each slot that a table of accuracies or a figure shows, in their order."""
    tables = [table for table in table_names(outcomes.recipe) if table != "table4"]
    rows = (row for table in tables for row in evaluated_rows(outcomes.recipe, table))
    return {slot: (model, method + told) for slot, model, method, told in rows}


def rows_of(outcomes: Outcomes, slot: str, name: str) -> list[Row]:
    """At most MOST_ROWS rows of a file of a done step; none if it is not there."""
    file = outcomes.directory(slot) / name if outcomes.results(slot) else None
    return list(islice(iter_jsonl(file), MOST_ROWS)) if file and file.is_file() else []


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
            if row["reason"] not in first:
                shown = ("prompt", "response", "answer")
                first[row["reason"]] = {key: str(row.get(key))[:EXAMPLE_CHARACTERS] for key in shown}
        found |= {slot.removeprefix("filter/"): first} if first else {}
    return found
