"""MiCoTA distillation (arXiv 2507.01887) with LLaMA-Factory, mergekit, vLLM and lm-evaluation-harness.

from micota_lf import load_recipe, train_config, compile_plan

recipe = load_recipe("recipes/tiny.yaml")
train_config(recipe, "student-s", "micota")     # a plain dict in LLaMA-Factory's key names
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import MicotaError, RecipeError, StepFailed, UserError
    from .plan.compile import compile_plan
    from .recipe.load import load_recipe
    from .recipe.sections import Recipe
    from .stages.evaluate import evaluate_command
    from .stages.merge import merge_config
    from .stages.train import dataset_info, deepspeed_config, train_config

__all__ = [
    "MicotaError", "Recipe", "RecipeError", "StepFailed", "UserError", "compile_plan", "dataset_info",
    "deepspeed_config", "evaluate_command", "load_recipe", "merge_config", "train_config",
]  # fmt: skip

# Loaded when they are asked for: each step of a run is a process, and needs few of them.
_HOMES = {
    "errors": ("MicotaError", "RecipeError", "StepFailed", "UserError"),
    "plan.compile": ("compile_plan",),
    "recipe.load": ("load_recipe",),
    "recipe.sections": ("Recipe",),
    "stages.evaluate": ("evaluate_command",),
    "stages.merge": ("merge_config",),
    "stages.train": ("dataset_info", "deepspeed_config", "train_config"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
