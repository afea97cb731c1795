"""The public names and where they are, for type checkers and for `__init__.py`, which loads them."""

from .errors import MicotaError as MicotaError
from .errors import RecipeError as RecipeError
from .errors import StepFailed as StepFailed
from .errors import UserError as UserError
from .plan.compile import compile_plan as compile_plan
from .plan.sweep import sweep as sweep
from .recipe.load import load_recipe as load_recipe
from .recipe.sections import Recipe as Recipe
from .reports.results import Results as Results
from .reports.results import results as results
from .reports.results import run_recipe as run_recipe
from .stages.evaluate import evaluate_command as evaluate_command
from .stages.merge import merge_config as merge_config
from .stages.train import dataset_info as dataset_info
from .stages.train import deepspeed_config as deepspeed_config
from .stages.train import train_config as train_config

__version__: str
