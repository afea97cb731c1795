"""A recipe and all its variants as one plan: the union of their steps, in which equal ones are one.

    swept = sweep("recipes/tiny.yaml", {"assistants.ta.merge.weight": [0.3, 0.5]}, seeds=[1, 2, 3])
    len(swept.plan.steps), list(swept.variants)      -> 127, ["weight=0.3,seed=1", "weight=0.3,seed=2", ...]

A slot at which the variants have the same step keeps its name in the union; where they differ, each one's is
`SLOT/VARIANT`, as in `train/student-s/micota/weight=0.3,seed=1`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..recipe.load import Given, Layers, Overrides, in_words, load_layers, variants_of
from ..recipe.sections import Recipe
from .compile import compile_plan
from .plan import Plan


class Variant(NamedTuple):
    """A recipe with one combination of the swept values, and its own plan."""

    values: dict[str, Any]
    recipe: Recipe
    plan: Plan


class Sweep(NamedTuple):
    """A recipe, the plan of all its variants, and these by name; a recipe that has none is its only one.

    `layers` are the files that the recipe was read from, and overrides (recipe/load.py).
    """

    recipe: Recipe
    plan: Plan
    variants: dict[str, Variant]
    layers: Layers = []  # noqa: RUF012 - never changed


def sweep(
    given: Given,
    values: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (),
    overrides: Overrides = (),
) -> Sweep:
    """A recipe (see `load_recipe`) with keys swept over values, beside its `variants`, and seeds for its own.

    Raises RecipeError for a recipe or a variant that cannot be.

    >>> from micota_lf import sweep
    >>> swept = sweep("recipes/tiny.yaml", {"assistants.ta.merge.weight": [0.3, 0.5]}, seeds=[1, 2])
    >>> len(swept.plan.steps), *swept.variants
    (88, 'weight=0.3,seed=1', 'weight=0.3,seed=2', 'weight=0.5,seed=1', 'weight=0.5,seed=2')
    """
    words = [f"variants.{key}={json.dumps(list(several))}" for key, several in (values or {}).items()]
    words += [f"seeds={list(seeds)}"] if seeds else []
    recipe, layers = load_layers(given, [*in_words(overrides), *words])
    found = variants_of(recipe, layers).items()
    variants = {name: Variant(chosen, one, compile_plan(one)) for name, (chosen, one) in found}
    return Sweep(recipe, union({name: variant.plan for name, variant in variants.items()}), variants, layers)


def union(plans: Mapping[str, Plan]) -> Plan:
    """One plan of the steps of several, by the variants' names; GPUs and cores are the first one's."""
    named = {slot for plan in plans.values() for slot in plan.slots}
    at = {slot: {plan.slots.get(slot) for plan in plans.values()} for slot in named}
    made = replace(next(iter(plans.values())), steps={}, slots={}, tables={})
    for name, plan in plans.items():

        def known(slot: str, name: str = name) -> str:
            return slot if len(at[slot]) == 1 else f"{slot}/{name}"

        made.steps.update({key: step for key, step in plan.steps.items() if key not in made.steps})
        made.slots.update({known(slot): step for slot, step in plan.slots.items()})
        for table, slots in plan.tables.items():
            made.tables[table] = list(dict.fromkeys([*made.tables.get(table, []), *map(known, slots)]))
    return made
