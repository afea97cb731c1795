"""On how many GPUs a step asks its model, which enters no identity.

A model is split over `hardware.inference_gpus`, or by its size. vLLM serves as many copies as there are GPUs
for to generate, and to evaluate so many that a step takes about EVALUATION_HOURS: others wait for a corpus,
nothing does for an evaluation, and many short ones fill the gaps that steps on all GPUs leave.
"""

import math
from dataclasses import replace
from typing import Any

from ..recipe.sections import Hardware, Recipe
from .costs import Estimator
from .memory import DTYPE_BYTES, GIB
from .plan import Plan, Step

SPLITS = (1, 2, 4, 8)  # heads divide by them, and one machine has so many GPUs
WEIGHTS_SHARE = 0.5  # of a GPU's memory; the rest is for keys and values of many sequences
EVALUATION_HOURS = 0.5
ASKING = ("generate", "evaluate", "bpc", "merge")


def placed(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with GPUs and copies for all that asks a model on GPUs."""
    asking = [step for step in plan.steps.values() if step.gpus and step.kind in ASKING]
    if not asking:
        return plan
    estimator = Estimator(plan, recipe)
    return replace(plan, steps=plan.steps | {step.id: _placed(step, recipe, estimator) for step in asking})


def _placed(step: Step, recipe: Recipe, estimator: Estimator) -> Step:
    spec = recipe.evaluation if step.kind in ("evaluate", "bpc") else recipe.generation
    split = _split(recipe.hardware, estimator.size(step).parameters * DTYPE_BYTES[spec.dtype])
    most = recipe.hardware.gpus // split if spec.backend == "vllm" else 1
    hours = (estimator.cost(step).gpu_hours or 0.0) / split
    many = {"generate": most, "evaluate": min(most, max(1, math.ceil(hours / EVALUATION_HOURS)))}
    parallel: dict[str, Any] = {"tensor_parallel": split, "data_parallel": many.get(step.kind, 1)}
    if step.kind == "merge":  # it asks the model once it is made
        parallel = {"answers": step.how["answers"] | parallel}
    return replace(step, gpus=split * many.get(step.kind, 1), how=step.how | parallel)


def _split(hardware: Hardware, weights: float) -> int:
    """GPUs of one copy of a model whose weights take so many bytes; one if that is unknown."""
    if hardware.inference_gpus:
        return min(hardware.inference_gpus, hardware.gpus)
    splits = [split for split in SPLITS if split <= hardware.gpus]
    room = WEIGHTS_SHARE * hardware.gpu_memory_gib * GIB
    return next((split for split in splits if not weights / split > room), splits[-1])
