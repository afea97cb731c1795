"""A few of the recipe's prompts to measure lengths with, held out of the corpora where there are enough.

In: the prompts. Out: `prompts.jsonl` with `id`, `problem` and `answer`, drawn at random from the rows beyond
`prompts.limit`, or from all if these are too few; the results say which.
"""

import random
from dataclasses import replace

from ..inputs.problems import load_problems
from ..system.files import write_jsonl
from . import Context, Results, Stage


def run(step: Context) -> Results:
    """Draw the step's `number` of prompts, or as many as there are."""
    spec, number = step.prompts, step.config["number"]
    rows = load_problems(replace(spec, limit=None), [])
    beyond = rows[spec.limit or len(rows) :]
    pool = beyond if len(beyond) >= number else rows
    drawn = random.Random(step.config["seed"]).sample(pool, min(number, len(pool)))
    write_jsonl(step.directory / STAGE.output, drawn)
    place = "beyond prompts.limit, held out of the corpora" if pool is beyond else "those of the corpora too"
    return {"prompts": len(drawn), "of": len(pool), "told": f"{len(drawn)} prompts of {len(pool)} {place}"}


STAGE = Stage(run, quick=True, output="prompts.jsonl")
