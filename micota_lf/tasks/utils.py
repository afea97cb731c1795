"""Functions that the task files of this folder name: loading problems, grading, log-likelihoods.

lm-eval imports this file by its path, so it imports the package absolutely.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from micota_lf.grade import grade
from micota_lf.prompts import load_problems
from micota_lf.recipe import Prompts


def load_tiny_two(**_: Any) -> dict[str, Dataset]:
    """Held-out problems of the tiny family with two operations."""
    return {"test": Dataset.from_list(load_problems(Prompts("tiny:two")))}


def load_tiny_three(**_: Any) -> dict[str, Dataset]:
    """Held-out problems of the tiny family with three operations."""
    return {"test": Dataset.from_list(load_problems(Prompts("tiny:three")))}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """Both verdicts on one response, 0 or 1."""
    verdict = grade(results[0], str(doc["answer"]))
    return {"legacy": int(verdict.legacy), "symbolic": int(verdict.symbolic)}


def negative_log_likelihood(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Negative log-likelihood of one text in nats; `loglikelihood` adds whether it is the greedy text."""
    value = results[0]
    return {"nll": -float(value[0] if isinstance(value, tuple) else value)}
