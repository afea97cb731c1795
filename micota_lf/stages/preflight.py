"""What is checked before the first GPU hour: token budgets, templates, the merge, hub access.

    report = preflight_report(load_recipe("recipes/tiny.yaml"))
    report.problems      -> []          each starts with the recipe's key
    report.facts         -> ["prompts: 720, the longest has 93 tokens", ...]

`questions` says what a recipe needs checked, as plain data: the config of the plan's first step, for which
all others wait. It takes seconds; weights are not loaded. Comparing templates takes most of them, for
llamafactory must be imported: that is done in another process. Prompts of benchmarks are counted where their
files are local; if none is, the prompt set stands for them.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import UserError
from ..inputs.chat import Chat, load_chat, opened_thought
from ..inputs.hub import hub_problems, model_file, positions, weights_directory
from ..inputs.problems import Prompts, chat, load_problems
from ..inputs.references import DataRef, ModelRef
from ..inputs.weights import tensors
from ..recipe.lineage import filtering, model_of, shown_teachers, training, trainings
from ..recipe.sections import Recipe
from ..recipe.tasks import evaluated_benchmarks
from ..system.files import digest, read_json, write_json
from . import Context, Results, Settings, Stage, merge_check, parity

ASKED, FOUND = "templates.json", "parity.json"
PRETRAINED = "merge.pretrained_model"


@dataclass
class Report:
    """Lines for people, each after a key of the recipe: only `problems` end a run."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Facts and warnings as they are printed."""
        yield from self.facts
        yield from (f"warning: {line}" for line in self.warnings)


def preflight_report(recipe: Recipe) -> Report:
    """Check a recipe now, outside any workspace."""
    (config, how, _), references = questions(recipe)
    inputs = {role: type(ref)(ref.resolved, ref.revision) for role, ref in references.items()}
    with TemporaryDirectory() as scratch:
        return inspect(Context(Path(scratch), config, inputs, how))


def questions(recipe: Recipe) -> tuple[Settings, dict[str, ModelRef]]:
    """What is to be checked (nothing that does not matter to it), on which inputs, and how strictly."""
    models = {f"teachers.{name}": spec for name, spec in recipe.teachers.items()}
    models |= {f"students.{name}": spec for name, spec in recipe.students.items()}
    keys = {id(spec): key for key, spec in models.items()}

    def role(name: str) -> str:  # models made in the run have their origin's shape
        return keys[id(model_of(recipe, name))]

    references: dict[str, ModelRef] = {key: spec.reference for key, spec in models.items()}
    references["prompts"] = recipe.prompts.source
    merges, benchmarks = {}, {}
    for name, assistant in recipe.assistants.items():
        if assistant.merge.pretrained:
            merges[f"assistants.{name}.{PRETRAINED}"] = role(name)
            references[f"assistants.{name}.{PRETRAINED}"] = assistant.merge.pretrained
    for name, found in evaluated_benchmarks(recipe.evaluation).items():
        if found.source.local:  # others are the hub's
            references[f"benchmarks.{name}"] = found.source
            columns = ("id_field", "problem_field", "answer_field")
            benchmarks[name] = {key: getattr(found, key) for key in columns}
    evaluated = [role(name) for name in (*shown_teachers(recipe), *recipe.students)]
    generating = sorted({role(corpus.from_) for corpus in recipe.corpora.values() if corpus.from_})
    asked: list[dict[str, Any]] = []
    checked: list[bool] = []
    for student, corpus in trainings(recipe):
        settings = training(recipe, student, corpus)
        parts = recipe.corpora[corpus].mix or [corpus]
        longest = max(filtering(recipe, part).max_tokens or 0 for part in parts)
        one = {"model": f"students.{student}", "template": settings.template, "max_tokens": longest,
               "cutoff_len": settings.cutoff_len, "extra": settings.extra}  # fmt: skip
        if (one, settings.check_template) not in zip(asked, checked, strict=True):
            asked.append(one)
            checked.append(settings.check_template)
    budgets = {
        "generation.max_tokens": [recipe.generation.max_tokens, generating],
        "evaluation.max_gen_toks": [recipe.evaluation.max_gen_toks, evaluated],
    }
    apart = {"benchmarks": benchmarks, "budgets": budgets, "trainings": asked, "merges": merges}
    return Settings.of(recipe.prompts, apart=apart, check_template=checked), references


def run(step: Context) -> Results:
    """The plan's step: `report.json` and its lines; UserError with a line each if there are problems."""
    report = asdict(inspect(step))
    write_json(step.directory / "report.json", report)
    if report["problems"]:
        raise UserError("\n".join(report["problems"]))
    return report


def inspect(step: Context) -> Report:
    """Do the checks."""
    report, config = Report(), step.config
    models = {role: ref for role, ref in step.inputs.items() if not isinstance(ref, DataRef)}
    lacking = hub_problems(models)
    report.problems += lacking.values()
    here = {role: model for role, model in models.items() if role not in lacking}
    prompts = step.prompts
    chats = _chats({role: model for role, model in here.items() if not role.endswith(PRETRAINED)}, report)
    longest = _longest(step, prompts, chats, report)
    for which, (at, (response, roles)) in enumerate(config["budgets"].items()):
        for role in roles:
            limit = positions(models[role]) if role in longest else None
            if limit:
                needed = longest[role][which] + response
                words = f"{at}: {response} and the longest prompt ({longest[role][which]} tokens)"
                lines, fit = (report.problems, "exceed") if needed > limit else (report.facts, "fit into")
                lines.append(f"{words} {fit} the {limit} positions of {role}")
    for one in config["trainings"]:
        if one["model"] in longest:
            _cutoff(one, chats[one["model"]], longest[one["model"]][0], prompts.system, report)
    _templates(step, prompts, chats, report)
    for pretrained, before in config["merges"].items():
        if pretrained in here and before in here:
            _merge(pretrained, here[pretrained], here[before], report)
    return report


def _chats(models: Mapping[str, ModelRef], report: Report) -> dict[str, Chat]:
    """Each model's tokenizer and chat template; one that several roles share is read once."""
    read, found = cache(load_chat), {}
    for role, model in models.items():
        try:
            found[role] = read(model)
            opened = opened_thought(found[role].prompt([{"role": "user", "content": "?"}]))
        except UserError as error:
            report.problems.append(f"{role}: {error}")
            continue
        if opened:
            report.facts.append(f"{role}: its chat template opens a thought; responses start with {opened!r}")
    return found


def _longest(
    step: Context, prompts: Prompts, chats: Mapping[str, Chat], report: Report
) -> dict[str, tuple[int, int]]:
    """By role: tokens of the longest prompt of the prompt set, and of the benchmarks."""
    sets = {"prompts": prompts}
    for name, columns in step.config["benchmarks"].items():
        how: dict[str, Any] = {"template": prompts.template, "system": prompts.system, **columns}
        sets[name] = Prompts(step.inputs[f"benchmarks.{name}"].ref, **how)
    try:
        asked = {k: [chat(row["problem"], spec) for row in load_problems(spec)] for k, spec in sets.items()}
    except UserError as error:
        report.problems.append(str(error))
        return {}
    counted: dict[int, tuple[int, int]] = {}
    for tokens in chats.values():
        if id(tokens) not in counted:
            own, *others = (max(tokens.counts(map(tokens.prompt, one)), default=0) for one in asked.values())
            counted[id(tokens)] = own, max(others, default=own)
    if counted:
        most = max(own for own, _ in counted.values())
        report.facts.append(f"prompts: {len(asked['prompts'])}, the longest has {most} tokens")
    return {role: counted[id(tokens)] for role, tokens in chats.items()}


def _cutoff(one: Mapping[str, Any], tokens: Chat, prompt: int, system: str | None, report: Report) -> None:
    """Warn of a cutoff that the longest possible row exceeds: the rows themselves are counted later."""
    try:
        _, _, after = tokens.frame(system)
        most = prompt + one["max_tokens"] + tokens.counts([after])[0]
    except UserError as error:
        report.problems.append(f"{one['model']}: {error}")
        return
    if most > one["cutoff_len"]:
        report.warnings.append(
            f"train.cutoff_len: {one['cutoff_len']} is less than the longest row that {one['model']} may "
            f"meet: prompt {prompt}, response {one['max_tokens']}, together {most}; rows are counted before "
            "training"
        )


def _templates(step: Context, prompts: Prompts, chats: Mapping[str, Chat], report: Report) -> None:
    """Compare each training's template with the model's chat template, and its `extra` with LLaMA-Factory."""
    if not parity.available():
        report.facts.append("train.template: not compared, llamafactory cannot be imported here")
        return
    asked: dict[str, Any] = {}
    places = {}
    for one, strict in zip(step.config["trainings"], step.how["check_template"], strict=True):
        if one["model"] in chats:
            question = {"model": asdict(step.inputs[one["model"]]), "prompts": asdict(prompts)}
            question |= {key: one[key] for key in ("template", "extra")}
            places[digest([one["model"], question])] = f"train.template ({one['model']})", strict
            asked[digest([one["model"], question])] = question
    if not asked:
        return
    write_json(step.directory / ASKED, asked)
    step.engine([sys.executable, "-m", parity.__name__, ASKED, FOUND])
    unknown: list[str] = []
    for key, answer in read_json(step.directory / FOUND).items():
        (at, strict), added = places[key], answer["after_end"]
        unknown += answer["unknown"]
        (report.problems if strict else report.warnings).extend(
            f"{at}: {line}" for line in answer["problems"]
        )
        if not answer["problems"] and not answer["unknown"]:
            after = f"; training adds {added!r} after the end of turn" if added else ""
            report.facts.append(
                f"{at}: {asked[key]['template']!r} gives the tokens of the chat template{after}"
            )
    report.problems += dict.fromkeys(unknown)


def _merge(at: str, pretrained: ModelRef, before: ModelRef, report: Report) -> None:
    """The pretrained model must fit the assistant's start; one still on the hub is judged by its config."""
    how = "tensors and a sample of weights compared"
    try:
        paths = [weights_directory(model, offline=True) for model in (before, pretrained)]
        if not all(tensors(path) for path in paths):
            raise FileNotFoundError
        problems = merge_check.compare({"before": paths[0], "pretrained": paths[1]})[0]
    except FileNotFoundError:
        files = [model_file(model, "config.json") for model in (pretrained, before)]
        found = merge_check.config_differences(*(read_json(file) for file in files if file))
        problems = [f"merge: pretrained and before {line}" for line in found]
        how = "configs compared; weights will be once they are here"
    report.problems += [f"{at}: {line}" for line in problems]
    if not problems:
        report.facts.append(f"{at}: fits the assistant ({how})")


STAGE = Stage(run, quick=True)
