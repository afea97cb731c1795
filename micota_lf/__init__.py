"""MiCoTA distillation (arXiv 2507.01887) with LLaMA-Factory, mergekit, vLLM and lm-evaluation-harness.

from micota_lf import load_recipe, train_config, compile_plan

recipe = load_recipe("recipes/tiny.yaml")
train_config(recipe, "student-s", "micota")     # a plain dict in LLaMA-Factory's key names
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .errors import MicotaError, RecipeError, StepFailed, UserError
from .plan.compile import compile_plan
from .recipe.sections import Recipe
from .stages.evaluate import evaluate_command
from .stages.launch import deepspeed_config
from .stages.merge import merge_config
from .stages.train import dataset_info, train_config

if TYPE_CHECKING:
    from .recipe.load import load_recipe

__all__ = [
    "MicotaError",
    "Recipe",
    "RecipeError",
    "StepFailed",
    "UserError",
    "compile_plan",
    "dataset_info",
    "deepspeed_config",
    "evaluate_command",
    "load_recipe",
    "merge_config",
    "train_config",
]


def __getattr__(name: str) -> Any:
    """`load_recipe` when it is asked for: each step of a run is a process, and needs no OmegaConf."""
    if name != "load_recipe":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .recipe.load import load_recipe

    return load_recipe
