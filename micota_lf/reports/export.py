"""A checkpoint of a finished step as a normal hub folder: weights, tokenizer, model card.

    export_model(outcomes, "5b521ed56eee", Path("out"))     # out/README.md, out/model.safetensors, ...
    model_card(outcomes, "5b521ed56eee")      -> "---\\nlibrary_name: transformers\\nlicense: ..."

Only what loads the model is copied: optimizer states, logs, pickles and the engines' own files, which hold
local paths, stay behind. The card says what the model is made from, on what, and how well it does. Its front
matter is the hub's. Only models and data on the hub are named there, as a local name could be somebody
else's id; licences are those that the parents' own cards state.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..errors import UserError
from ..plan.plan import Input, Plan, Step
from ..recipe.sections import NAMES
from ..run.step import finished
from ..run.workspace import damage
from ..system.files import write_text
from .outcomes import Outcomes
from .sheets import document, make_sheet
from .tables import accuracies, corpora_sheet, lengths_sheet, samples_sheet

LOADED = [*NAMES["exported"], *NAMES["tokenizer_files"]]
MODEL_ROLES = ("model", "before", "after", "pretrained")
UNKNOWN = "unknown"  # the hub's own word


def export_model(outcomes: Outcomes, step_id: str, output: Path) -> None:
    """Copy a step's model to `output`, which appears by rename once it is whole.

    Raises UserError for a step that leaves no model, is not done or is damaged, and for an `output` in use.
    """
    step = outcomes.plan.steps[step_id]
    directory = outcomes.workspace / step.directory
    if step.kind not in ("train", "distil", "merge"):
        raise UserError(f"STEP: {step.name} leaves no model; name a train or merge step")
    if finished(directory) is None:
        raise UserError(f"STEP: {step.name} is not done; run it first")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"DIR: {output} exists and is not an empty directory")
    if problems := damage(directory):
        raise UserError(f"STEP: {directory} is damaged: {'; '.join(problems)}")
    card, partial = model_card(outcomes, step_id), output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in {file for pattern in LOADED for file in (directory / "model").glob(pattern)}:
        shutil.copyfile(file, partial / file.name)
    write_text(partial / "README.md", card)
    partial.replace(output)


def model_card(outcomes: Outcomes, step_id: str) -> str:
    """The README.md of a step's model: front matter, then origin, settings, data, scores and steps.

    Raises UserError for a damaged `done.json`. A hub parent's card is downloaded if the hub can be reached.
    """
    plan, recipe, prompts = outcomes.plan, outcomes.recipe, outcomes.recipe.prompts.source
    step, needed = plan.steps[step_id], plan.needed([step_id], plan.gates)
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
    texts = {
        "front": yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False),
        "settings": yaml.safe_dump({made.name: made.config for made in line if made.config}, sort_keys=False),
        "prompts": prompts.ref.split("/")[-1] if prompts.local else prompts.ref, "version": __version__,
    }  # fmt: skip
    origin = {"recipe": recipe, "step": step, "steps": steps, "bases": bases, "licences": licences}
    sheets = [lengths_sheet(outcomes), corpora_sheet(outcomes, needed)._replace(title="Data")]
    sheets += [scores, samples_sheet(outcomes, slots)]
    return document("card.md", **texts, **origin, sheets=sheets, engines=done["versions"])


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
        card = given.reference.file("README.md")
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
