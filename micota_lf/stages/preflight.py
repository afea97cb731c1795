"""What is checked before the first GPU hour: token budgets, templates, the merge, hub access.

    report = preflight_report(load_recipe("recipes/tiny.yaml"))
    report.problems      -> []          each starts with the recipe's key
    report.facts         -> ["prompts: 720, the longest has 93 tokens", ...]

`checks` says what a recipe needs checked, as plain data: the config of the plan's first step, for which all
others wait. `probe.py` does it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inputs.problems import prompt_fields, prompt_input
from ..inputs.references import identity, local_path, resolve
from ..recipe.lineage import filtering, strong_teachers, training, trainings
from ..recipe.sections import ASSISTANT_ROLES, Model, Recipe
from ..system.files import read_json, write_json
from . import parity
from .evaluate import evaluated_benchmarks
from .probe import DATA, PRETRAINED, Report, comparisons, run_checks

ASKED, FOUND = "templates.json", "parity.json"


def preflight_report(recipe: Recipe) -> Report:
    """Check a recipe now, outside any workspace."""
    config, inputs = checks(recipe)
    resolved = {role: resolve(given["ref"], input_kind(role)) for role, given in inputs.items()}
    revisions = {role: given["identity"].get("revision") for role, given in inputs.items()}
    pinned = {role: rev for role, rev in revisions.items() if rev}
    found = parity.compare(comparisons(config, resolved, pinned)) if parity.available() else None
    return run_checks(config, resolved, pinned, found)


def prepare_preflight(
    directory: Path, config: Mapping[str, Any], inputs: Mapping[str, str], revisions: Mapping[str, str]
) -> list[str] | None:
    """The command that compares templates: a process of its own, as it is LLaMA-Factory that works there."""
    (directory / FOUND).unlink(missing_ok=True)
    if not config["trainings"] or not parity.available():
        return None
    write_json(directory / ASKED, comparisons(config, inputs, revisions))
    return [sys.executable, "-m", parity.__name__, ASKED, FOUND]


def finish_preflight(
    directory: Path, config: Mapping[str, Any], inputs: Mapping[str, str], revisions: Mapping[str, str]
) -> dict[str, Any]:
    """The plan's step: `report.json` and its lines; UserError with a line each if there are problems."""
    made = read_json(directory / FOUND) if (directory / FOUND).is_file() else None
    found = None if made is None else [parity.Parity(**one) for one in made]
    report = asdict(run_checks(config, inputs, revisions, found))
    write_json(directory / "report.json", report)
    if report["problems"]:
        raise UserError("\n".join(report["problems"]))
    return report


def input_kind(role: str) -> str:
    """Where an input of this role is looked up: among the tiny family's `models` or its `data`."""
    return "data" if role.split(".")[0] in DATA else "models"


def checks(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be checked (nothing that does not matter to it), and the inputs that it is checked on."""
    prompts, merge = recipe.prompts, recipe.assistant.merge
    roots = strong_teachers(recipe, recipe.assistant.corpus)
    evaluated = [*(f"teachers.{name}" for name in roots), "assistant"]
    evaluated += [f"students.{name}" for name in recipe.students]
    sources = {corpus.from_ for corpus in recipe.corpora.values() if corpus.from_}
    config: dict[str, Any] = {
        "prompts": prompt_fields(prompts),
        "generating": sorted({_role(recipe, name) for name in sources}),
        "max_tokens": recipe.generation.max_tokens,
        "evaluated": evaluated,
        "max_gen_toks": recipe.evaluation.max_gen_toks,
        "trainings": _trainings(recipe),
        "benchmarks": {},
    }
    models = {f"teachers.{name}": spec for name, spec in recipe.teachers.items()}
    models["assistant"] = Model(recipe.assistant.model, recipe.assistant.revision)
    models |= {f"students.{name}": Model(s.model, s.revision) for name, s in recipe.students.items()}
    if merge.preset == "pretrained" and merge.pretrained_model:
        models[PRETRAINED] = Model(merge.pretrained_model, merge.pretrained_revision)
    inputs: dict[str, Any] = {
        role: {"ref": spec.model, "identity": identity(spec.model, spec.revision)}
        for role, spec in models.items()
    }
    inputs["prompts"] = prompt_input(prompts)
    for name, benchmark in evaluated_benchmarks(recipe.evaluation).items():
        if local_path(benchmark.path, "data"):  # others are the hub's
            content = identity(benchmark.path, None, "data")
            inputs[f"benchmarks.{name}"] = {"ref": benchmark.path, "identity": content}
            fields = ("id_field", "problem_field", "answer_field")
            config["benchmarks"][name] = {key: getattr(benchmark, key) for key in fields}
    return config, inputs


def _trainings(recipe: Recipe) -> list[dict[str, Any]]:
    """The distinct (model, template, cutoff) of the trainings, with the longest response each may meet."""
    found: list[dict[str, Any]] = []
    for name, corpus in trainings(recipe):
        settings = training(recipe, name, corpus)
        one = {
            "model": _role(recipe, name),
            "template": settings.template,
            "check_template": settings.check_template,
            "cutoff_len": settings.cutoff_len,
            "max_tokens": max(
                filtering(recipe, part).max_tokens or 0 for part in recipe.corpora[corpus].mix or [corpus]
            ),
            "data_arguments": {k: v for k, v in settings.extra.items() if k in parity.DATA_ARGUMENTS},
        }
        if one not in found:
            found.append(one)
    return found


def _role(recipe: Recipe, name: str) -> str:
    """The recipe's key of the model behind a name; those made in the run have their origin's shape."""
    if name in ASSISTANT_ROLES:
        return "assistant"
    name = name.partition("/")[0]  # of STUDENT/CORPUS
    return f"teachers.{name}" if name in recipe.teachers else f"students.{name}"
