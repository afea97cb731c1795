"""The model card of a finished train or merge step: what the model is made from, on what, how well it does.

    model_card(outcomes, "5b521ed56eee")      -> "---\\nlibrary_name: transformers\\nlicense: ..."

The front matter is the hub's. Only models and data that are on the hub are named there, as a local name could
be somebody else's id; licences are those that the parents' own cards state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import yaml

from .. import __version__
from ..inputs.hub import model_file
from ..inputs.references import local_path
from ..plan.compile import Input, Plan, Step, step_directory
from ..run.snakemake import needed_steps
from ..run.step import finished
from .outcomes import Outcomes
from .sheets import AVERAGE, Sheet, accuracy_cells, corpora_sheet
from .write import markdown

MODEL_ROLES = ("model", "before", "after", "pretrained")
UNKNOWN = "unknown"  # the hub's own word


def model_card(outcomes: Outcomes, step_id: str) -> str:
    """The README.md of a step's model: front matter, then origin, settings, data, scores and steps.

    Raises UserError for a damaged `done.json`. A hub parent's card is downloaded if the hub can be reached.
    """
    plan, prompts = outcomes.plan, outcomes.recipe.prompts.path
    step, needed = plan["steps"][step_id], needed_steps(plan, [step_id])
    line = list(model_line(plan, step))
    bases = _references(line)
    teachers = _references(plan["steps"][i] for i in needed)
    licences = {name: licence(given) for name, given in {**teachers, **bases}.items()}
    agreed = {licences[name] for name in bases}
    front = {
        "library_name": "transformers", "license": agreed.pop() if len(agreed) == 1 else UNKNOWN,
        "base_model": [name for name, given in bases.items() if local_path(given["ref"]) is None],
        "datasets": [] if local_path(prompts, "data") else [prompts],
        "tags": ["micota", *(["mergekit", "merge"] if step["kind"] == "merge" else [])],
    }  # fmt: skip
    origin = [f"- {'base' if n in bases else 'teacher'}: {n} (license: {w})" for n, w in licences.items()]
    done = finished(outcomes.workspace / step_directory(step), "versions") or {"versions": {}}
    settings = {f"{made['kind']} {made['label']}": made["config"] for made in line}
    steps = [f"- {plan['steps'][i]['kind']} {plan['steps'][i]['label']} `{i}`" for i in needed]
    parts = [
        f"---\n{yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False)}---",
        f"# {step['label']}",
        f"Made with micota_lf {__version__} by the recipe `{outcomes.recipe.name}`, step `{step_id}`.",
        "\n".join([*origin, f"- prompts: {prompts if front['datasets'] else prompts.split('/')[-1]}"]),
        f"## Settings\n\n```yaml\n{yaml.safe_dump(settings, sort_keys=False)}```",
        *(part for sheet in (_data(outcomes, needed), _scores(outcomes, step_id)) if sheet.rows
          for part in (f"## {sheet.title}", sheet.note, markdown(sheet))),
        "## Steps\n\n" + "\n".join(steps),
        "Engines: " + ", ".join(f"{name} {version}" for name, version in done["versions"].items()),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def model_line(plan: Plan, step: Step) -> Iterator[Step]:
    """A train or merge step, and those that its own weights come from."""
    yield step
    for role in MODEL_ROLES:
        given = step["inputs"].get(role, {})
        if "step" in given:
            yield from model_line(plan, plan["steps"][given["step"]])


def licence(given: Input) -> str:
    """The licence that a model's own card states, or `unknown`."""
    from huggingface_hub import metadata_load
    from huggingface_hub.errors import HfHubHTTPError

    try:
        card = model_file(given["ref"], "README.md", given["identity"].get("revision"))
        found: dict[str, Any] = (card and metadata_load(card)) or {}
    except (OSError, ValueError, HfHubHTTPError, yaml.YAMLError):
        return UNKNOWN
    return str(found.get("license") or UNKNOWN)


def _references(steps: Iterable[Step]) -> dict[str, Input]:
    """Models that steps start from which no step has made, by name."""
    return {
        given["identity"]["name"]: given
        for step in steps
        for role, given in step["inputs"].items()
        if role in MODEL_ROLES and "ref" in given
    }


def _data(outcomes: Outcomes, needed: list[str]) -> Sheet:
    """The corpora that the model comes from."""
    sheet = corpora_sheet(outcomes)
    slots = {tuple(slot.split("/", 1)) for slot, made in outcomes.plan["slots"].items() if made in needed}
    rows = [row for row in sheet.rows if {("filter", row[0]), ("mix", row[0])} & slots]
    return replace(sheet, title="Data", rows=rows)


def _scores(outcomes: Outcomes, step_id: str) -> Sheet:
    """Finished evaluations of the model."""
    plan, spec = outcomes.plan, outcomes.recipe.evaluation
    made = {i: s["inputs"]["model"].get("step") for i, s in plan["steps"].items() if s["kind"] == "evaluate"}
    slots = {made_by: slot for slot, made_by in plan["slots"].items() if made.get(made_by) == step_id}
    titles = [*spec.tasks.values(), AVERAGE]
    rows = [
        [cells[title].text() for title in titles]
        for cells in (accuracy_cells(outcomes, slot) for slot in slots.values() if outcomes.results(slot))
    ]
    note = (
        f"Percent right by the `{spec.verdict}` grader with a 95% interval (Wilson; average: bootstrap), "
        f"greedy, at most {spec.max_gen_toks} tokens; tok: mean response tokens, cut: at that limit"
    )
    return Sheet("scores", "Scores", note, titles, rows, [])
