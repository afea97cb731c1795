"""A checkpoint or a corpus of a finished step as a normal hub folder: its files and a card.

    export_step(outcomes, "5b521ed56eee", Path("out"))     # out/README.md, out/model.safetensors, ...
    card(outcomes, "5b521ed56eee")      -> "---\\nlibrary_name: transformers\\nlicense: ..."

Only what loads the model, or the corpus' rows, is copied: optimizer states, logs, pickles and the engines'
own files, which hold local paths, stay behind. The card says what it is made from, on what, and how well a
model does beside the same student's other methods. Its front matter is the hub's. Only models and data on the
hub are named there, as a local name could be somebody else's id; licences are those that the parents' own
cards state.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..errors import UserError
from ..plan.plan import Input, Plan, Step
from ..recipe.sections import NAMES, Evaluation
from ..run.step import finished
from ..run.workspace import damage
from ..stages.train import TRAININGS
from ..system.files import write_text
from ..tiny import TINY_ROOT
from .outcomes import Outcomes
from .sheets import Record, document, make_sheet
from .tables import accuracies, corpora_sheet, decoding, lengths_sheet, samples_sheet

LOADED = [*NAMES["exported"], *NAMES["tokenizer_files"]]
MODELS, CORPORA = (*TRAININGS, "merge"), ("filter", "mix")
MODEL_ROLES = ("model", "before", "after", "pretrained")
UNKNOWN = "unknown"  # the hub's own word


def export_step(outcomes: Outcomes, step_id: str, output: Path) -> None:
    """Copy a step's model or corpus to `output`, which appears by rename once it is whole.

    Raises UserError for a step that leaves neither, is not done or is damaged, and for an `output` in use.
    """
    step = outcomes.plan.steps[step_id]
    directory = outcomes.workspace / step.directory
    if step.kind not in (*MODELS, *CORPORA):
        words = "leaves no model and no corpus; name a train, merge, filter or mix step"
        raise UserError(f"STEP: {step.name} {words}")
    if finished(directory) is None:
        raise UserError(f"STEP: {step.name} is not done; run it first")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"DIR: {output} exists and is not an empty directory")
    if problems := damage(directory):
        raise UserError(f"STEP: {directory} is damaged: {'; '.join(problems)}")
    text, partial = card(outcomes, step_id), output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copied = [f"model/{name}" for name in LOADED] if step.kind in MODELS else ["corpus.jsonl"]
    for file in {file for pattern in copied for file in directory.glob(pattern)}:
        shutil.copyfile(file, partial / file.name)
    write_text(partial / "README.md", text)
    partial.replace(output)


def card(outcomes: Outcomes, step_id: str) -> str:
    """The README.md of a step's model or corpus: front matter, use, origin, settings, data, scores and steps.

    Raises UserError for a damaged `done.json`. A hub parent's card is downloaded if the hub can be reached.
    """
    plan, recipe, prompts = outcomes.plan, outcomes.recipe, outcomes.recipe.prompts.source
    step, needed = plan.steps[step_id], plan.needed([step_id], plan.gates)
    steps, corpus = [plan.steps[made] for made in needed], step.kind in CORPORA
    bases = _references(steps if corpus else model_line(plan, step))
    licences = {name: licence(given) for name, given in {**_references(steps), **bases}.items()}
    agreed = {licences[name] for name in bases}
    evaluations = (made for made in plan.steps.values() if made.kind == "evaluate")
    slots = [plan.slots_of(made.id)[-1] for made in evaluations if made.inputs["model"].step == step_id]
    scored = {slot: accuracies(outcomes, slot) for slot in slots if outcomes.results(slot)}
    front: dict[str, Any] = {
        "license": agreed.pop() if len(agreed) == 1 else UNKNOWN,
        "tags": ["micota", *(["mergekit", "merge"] if step.kind == "merge" else [])],
    }
    if corpus:
        front |= {"task_categories": ["text-generation"]}
        front |= {"configs": [{"config_name": "default", "data_files": "corpus.jsonl"}]}
    else:
        front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
        front |= {"base_model": [name for name, given in bases.items() if given.reference.local is None]}
        front |= {"datasets": [] if prompts.local else [prompts.ref]}
        front |= {"model-index": _index(step.label, next(iter(scored.values()), []), recipe.evaluation)}
    # Beside it, what the same student does with other methods.
    others = {slot.split("/")[1] for slot in scored if slot.count("/") == 2}
    beside = [slot for slot in plan.slots if slot.startswith("evaluate/") and slot.split("/")[1] in others]
    scored |= {slot: accuracies(outcomes, slot) for slot in beside if outcomes.results(slot)}
    rows = [[{"row": slot.partition("/")[2], **cell} for cell in cells] for slot, cells in scored.items()]
    told = {**vars(recipe.evaluation), "decoding": decoding(outcomes, slots)}
    scores = make_sheet("scores", "scores", rows, outcomes.titles.values(), **told)
    done = finished(outcomes.workspace / step.directory, "versions") or {"versions": {}}
    texts = {
        "front": yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False),
        "settings": yaml.safe_dump({one.name: one.config for one in steps if one.config}, sort_keys=False),
        "prompts": prompts.ref.split("/")[-1] if prompts.local else prompts.ref, "version": __version__,
    }  # fmt: skip
    origin = {"recipe": recipe, "step": step, "steps": steps, "bases": bases, "licences": licences}
    origin |= {"corpus": corpus, "overlap": outcomes.results("overlap")}
    sheets = [lengths_sheet(outcomes), corpora_sheet(outcomes, needed)._replace(title="Data")]
    sheets += [scores, samples_sheet(outcomes, slots)]
    return document("card.md", **texts, **origin, sheets=sheets, engines=done["versions"])


def _index(name: str, cells: list[Record], spec: Evaluation) -> list[dict[str, Any]]:
    """Scores as the hub's `model-index`, in percent; empty without any."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    told = "% right ({verdict}, n={n}, 95% {low:.1%} to {high:.1%})"
    found = [
        EvalResult(
            "text-generation", task, cell["benchmark"], "accuracy", round(100 * cell["accuracy"], 2),
            metric_name=told.format(verdict=spec.column, **cell),
        )
        for task, cell in zip(spec.tasks, cells, strict=False)
    ]  # fmt: skip
    return list(eval_results_to_model_index(name, found)) if found else []


def model_line(plan: Plan, step: Step) -> Iterator[Step]:
    """A train or merge step, and those that its own weights come from."""
    yield step
    for role, given in step.inputs.items():
        if role in MODEL_ROLES and given.step:
            yield from model_line(plan, plan.steps[given.step])


def licence(given: Input) -> str:
    """The licence that a model's own card states, or `unknown`; the package's of those that come with it."""
    from huggingface_hub import metadata_load
    from huggingface_hub.errors import HfHubHTTPError

    if (local := given.reference.local) and TINY_ROOT in local.parents:
        return "apache-2.0"
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
