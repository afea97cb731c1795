"""What decides a step's identity: every field of a recipe, and the kinds of steps that it changes.

A field that has no line in FIELDS fails, so that a new one cannot be forgotten.
"""

from dataclasses import fields, is_dataclass
from functools import cache
from typing import get_args, get_origin, get_type_hints

import pytest
from conftest import TINY

from micota_lf import Recipe, compile_plan, load_recipe
from micota_lf.inputs.references import DataRef
from micota_lf.system.fields import running_names

HUB_PROMPTS = "prompts.path=someone/problems"
HUB_TEACHER = "teachers.teacher.model=someone/teacher"
HUB_STUDENT = "students.student-s.model=someone/student"
PRETRAINED = "assistants.ta.merge.preset=pretrained assistants.ta.merge.pretrained_model=someone/base"
MERGE, HUB = "assistants.ta.merge.", "evaluation.benchmarks.hub."
HUB_BENCHMARK = f"{HUB}path=someone/benchmark evaluation.tasks.micota_hub=H"
# By field (`*` for a name): another value, the kinds of steps that it changes by itself (those after them follow),
# and what the recipe must say for it to matter.
FIELDS = {
}


def walk(cls, at=""):
    """Every field below a section by its path, and whether it is marked as a way of running."""
    for name, hint in get_type_hints(cls).items():
        below = [hint, *get_args(hint)][-1]
        if is_dataclass(below):
            yield from walk(below, f"{at}{name}.*." if get_origin(hint) is dict else f"{at}{name}.")
        else:
            yield f"{at}{name}", name in running_names(cls)


MARKED = dict(walk(Recipe))


@cache
def plan_of(*words):
    return compile_plan(load_recipe(TINY, words))


def own(step):
    """What decides a step beside the steps that it reads."""
    return step.kind, step.config, {role: given.identity for role, given in step.inputs.items()}
