"""The model card of a finished train or merge step: what the model is made from, on what, how well it does.

    model_card(outcomes, "5b521ed56eee")      -> "---\\nlibrary_name: transformers\\nlicense: ..."

The front matter is the hub's. Only models and data that are on the hub are named there, as a local name could
be somebody else's id; licences are those that the parents' own cards state.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from .. import __version__
from ..inputs.hub import model_file
from ..plan.plan import Input, Plan, Step
from ..run.step import finished
from .outcomes import Outcomes
from .sheets import document, make_sheet
from .tables import accuracies, corpora_sheet

MODEL_ROLES = ("model", "before", "after", "pretrained")
UNKNOWN = "unknown"  # the hub's own word


def model_card(outcomes: Outcomes, step_id: str) -> str:
    """The README.md of a step's model: front matter, then origin, settings, data, scores and steps.

    Raises UserError for a damaged `done.json`. A hub parent's card is downloaded if the hub can be reached.
    """
    plan, recipe, prompts = outcomes.plan, outcomes.recipe, outcomes.recipe.prompts.source
    step, needed = plan.steps[step_id], plan.needed([step_id])
    steps, line = [plan.steps[made] for made in needed], list(model_line(plan, step))
    bases = _references(line)
    licences = {name: licence(given) for name, given in {**_references(steps), **bases}.items()}
    agreed = {licences[name] for name in bases}
    front = {
        "library_name": "transformers", "license": agreed.pop() if len(agreed) == 1 else UNKNOWN,
        "base_model": [name for name, given in bases.items() if given.reference.local is None],
        "datasets": [] if prompts.local else [prompts.ref],
        "tags": ["micota", *(["mergekit", "merge"] if step.kind == "merge" else [])],
    }  # fmt: skip
    evaluations = (made for made in plan.steps.values() if made.kind == "evaluate")
    slots = [plan.slots_of(made.id)[-1] for made in evaluations if made.inputs["model"].step == step_id]
    rows = [accuracies(outcomes, slot) for slot in slots if outcomes.results(slot)]
    scores = make_sheet("scores", "scores", rows, outcomes.titles.values(), **vars(recipe.evaluation))
    done = finished(outcomes.workspace / step.directory, "versions") or {"versions": {}}
    return document(
        "card.md",
        version=__version__,
        recipe=recipe,
        step=step,
        front=yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False),
        bases=bases,
        licences=licences,
        prompts=prompts.ref.split("/")[-1] if prompts.local else prompts.ref,
        settings=yaml.safe_dump({made.name: made.config for made in line if made.config}, sort_keys=False),
        sheets=[corpora_sheet(outcomes, needed)._replace(title="Data"), scores],
        steps=steps,
        engines=done["versions"],
    )


def model_line(plan: Plan, step: Step) -> Iterator[Step]:
    """A train or merge step, and those that its own weights come from."""
    yield step
    for role, given in step.inputs.items():
        if role in MODEL_ROLES and given.step:
            yield from model_line(plan, plan.steps[given.step])


def licence(given: Input) -> str:
    """The licence that a model's own card states, or `unknown`."""
    from huggingface_hub import metadata_load
    from huggingface_hub.errors import HfHubHTTPError

    try:
        card = model_file(given.reference, "README.md")
        found: dict[str, Any] = (card and metadata_load(card)) or {}
    except (OSError, ValueError, HfHubHTTPError, yaml.YAMLError):
        return UNKNOWN
    return str(found.get("license") or UNKNOWN)


def _references(steps: Iterable[Step]) -> dict[str, Input]:
    """Models that steps start from which no step has made, by name."""
    return {
        given.identity["name"]: given
        for step in steps
        for role, given in step.inputs.items()
        if role in MODEL_ROLES and given.ref
    }
