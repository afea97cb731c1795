"""The merge weight at which responses have a wanted share of the fine-tuned model's length.

In: responses to the same prompts, `tuned` of the fine-tuned model, others of its merges at the weights that
they are named by. Out: `choice.json` with the chosen weight; the results hold the curve.

    chosen([(0.3, 0.15), (0.4, 0.51), (0.5, 0.74)], 0.5)      -> (0.3972, True)

Lengths jump where a part of the chains of thought drops out. Between two probes the curve is taken as
straight, and what the chosen weight has in truth is measured once it is merged (stages/merge.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from ..grading.intervals import mean_interval, wilson
from ..grading.workers import grade_rows
from ..system.files import Row, read_jsonl, write_json
from . import Context, Results, Stage
from .filter import questions


def run(step: Context) -> Results:
    """Measure every probe, and choose."""
    answers = {at: read_jsonl(given.resolved) for at, given in step.inputs.items()}
    target, tuned = step.config["target"], answers.pop("tuned")
    curve = [measured(rows, tuned, at) for at, rows in answers.items()]
    weight, reached = chosen([(float(point["at"]), point["ratio"]) for point in curve], target)
    told = "lies between two probes" if reached else "is **reached by no probe**, the nearest is taken"
    write_json(step.directory / STAGE.output, {"weight": weight})
    curve.append(measured(tuned, tuned, "fine-tuned"))
    return {"weight": weight, "curve": curve, "reached": reached, "told": f"the ratio {target:g} {told}"}


def measured(rows: Sequence[Row], tuned: Sequence[Row], at: str) -> Row:
    """Responses `at` a weight beside the fine-tuned model's to the same n prompts, with 95% intervals.

    `ratio` is that of the mean tokens, r = sum x / sum y; its interval is the t interval of the mean of
    x - r y, over the mean of y (delta method). `right` is a share by `symbolic`, with Wilson's interval,
    where all prompts have answers; `cut` that of responses without an end.
    """
    known, n = {row["id"]: row["response_tokens"] for row in tuned}, len(rows)
    mean, base = fmean(row["response_tokens"] for row in rows), fmean(known.values())
    ratio, cut = mean / base, sum(row["finish_reason"] != "stop" for row in rows) / n
    low, high = mean_interval([row["response_tokens"] - ratio * known[row["id"]] for row in rows])
    point = {"at": at, "n": n, "mean": mean, "ratio": ratio, "cut": cut}
    point |= {"ratio_low": ratio + low / base, "ratio_high": ratio + high / base}
    if all(row["answer"] is not None for row in rows):
        right = sum(verdict.symbolic for _, (verdict,) in grade_rows(rows, questions))
        point |= dict(zip(("right", "low", "high"), (right / n, *wilson(right, n)), strict=True))
    return point


def chosen(curve: Sequence[tuple[float, float]], target: float) -> tuple[float, bool]:
    """The smallest weight at which the straight lines through (weight, ratio) reach the target, and True.

    If they do not, the weight of the nearest ratio, of two the smaller, and False. Weights ascend.
    """
    for (weight, ratio), (after, other) in pairwise(curve):
        if min(ratio, other) <= target <= max(ratio, other):
            share = (target - ratio) / (other - ratio) if other != ratio else 0.0
            return round(weight + share * (after - weight), 4), True
    return min(curve, key=lambda point: abs(point[1] - target))[0], False


STAGE = Stage(run, quick=True, output="choice.json")
