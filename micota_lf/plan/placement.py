"""On how many GPUs a step asks its model, which enters no identity.

A model is split over `hardware.inference_gpus`, or by its size. vLLM serves as many copies as there are GPUs for
to generate, and to evaluate so many that a step takes about EVALUATION_HOURS: a corpus stands in many others'
way, an evaluation in nobody's, and many short ones fill the gaps that steps on all GPUs leave.
"""

import math
from dataclasses import replace

from ..recipe.sections import Hardware, Recipe
from .costs import Estimator
from .memory import DTYPE_BYTES, GIB
from .plan import Plan, Step

SPLITS = (1, 2, 4, 8)  # heads divide by them, and one machine has so many GPUs
WEIGHTS_SHARE = 0.5  # of a GPU's memory; the rest is for keys and values of many sequences
EVALUATION_HOURS = 0.5
# Where a step's config says in which dtype a model is loaded, and by what.
SECTIONS = {"generate": "generation", "evaluate": "evaluation", "bpc": "evaluation", "merge": "health"}


def placed(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with GPUs and copies for all that asks a model on GPUs."""
    asks = {step.id: step for step in plan.steps.values() if step.gpus and step.kind in SECTIONS}
    if not asks:
        return plan
    estimator = Estimator(plan, recipe)
    moved = {step_id: _placed(step, recipe.hardware, estimator) for step_id, step in asks.items()}
    return replace(plan, steps=plan.steps | moved)


def _placed(step: Step, hardware: Hardware, estimator: Estimator) -> Step:
    spec = step.config[SECTIONS[step.kind]]
    spec = spec["generation"] if step.kind == "merge" else spec
    split = _split(hardware, estimator.size(step).parameters * DTYPE_BYTES[spec["dtype"]])
    served, most = spec["backend"] == "vllm", hardware.gpus // split
    copies = most if served and step.kind == "generate" else 1
    if served and step.kind == "evaluate":
        hours = (estimator.cost(step).gpu_hours or 0.0) / split
        copies = min(max(1, math.ceil(hours / EVALUATION_HOURS)), most)
    parallel = {"tensor_parallel": split, "data_parallel": copies} if served else {}
    how = step.how | parallel
    if step.kind == "merge":
        how = {**step.how, "answers": step.how["answers"] | parallel}
    return replace(step, gpus=split * copies, how=how)


def _split(hardware: Hardware, weights: float) -> int:
    """GPUs of one copy of a model whose weights take so many bytes; one if that is unknown."""
    if hardware.inference_gpus:
        return min(hardware.inference_gpus, hardware.gpus)
    splits = [split for split in SPLITS if split <= hardware.gpus]
    room = WEIGHTS_SHARE * hardware.gpu_memory_gib * GIB
    return next((split for split in splits if not weights / split > room), splits[-1])
