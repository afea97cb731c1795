"""The preflight's checks on real files: prompts tokenised, templates compared, configs and headers read.

    asked = comparisons(config, inputs, revisions)                      # as preflight.checks gives them
    report = run_checks(config, inputs, revisions, parity.compare(asked))

It takes seconds; weights are not loaded. Comparing templates takes most of them, for llamafactory must be
imported: a plan's step does it in another process. Prompts of benchmarks are counted where their files are
local; if none is, the prompt set stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..inputs.chat import Chat, load_chat, opened_thought
from ..inputs.hub import Reference, hub_problems, model_file, positions, weights_directory
from ..inputs.problems import chat, load_problems
from ..inputs.weights import tensors
from ..recipe.sections import Prompts
from ..system.files import read_json
from . import merge_check, parity

DATA = ("prompts", "benchmarks")  # inputs that are data files, not models
PRETRAINED = "assistant.merge.pretrained_model"
Conversations = list[list[dict[str, str]]]


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


def comparisons(
    config: Mapping[str, Any], inputs: Mapping[str, str], revisions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Arguments of `parity.template_parity` for each of the config's trainings."""
    models = _models(inputs, revisions)
    prompts = {"path": inputs["prompts"], "revision": revisions.get("prompts"), **config["prompts"]}
    return [
        {
            "model": models[one["model"]][0], "revision": models[one["model"]][1],
            "template": one["template"], "prompts": prompts, "data_arguments": one["data_arguments"],
        }
        for one in config["trainings"]
    ]  # fmt: skip


def run_checks(
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    revisions: Mapping[str, str],
    parities: list[parity.Parity] | None,
) -> Report:
    """Do the checks; `inputs` are paths or hub ids by role, `revisions` those of hub ids.

    `parities` are those of `comparisons`, None where llamafactory cannot be imported.
    """
    report = Report()
    models = _models(inputs, revisions)
    lacking = hub_problems(models)
    report.problems += lacking.values()
    here = {role: model for role, model in models.items() if role not in lacking}
    prompts = Prompts(inputs["prompts"], revisions.get("prompts"), **config["prompts"])
    asked: dict[str, Conversations] = {}
    try:
        asked["prompts"] = _conversations(prompts)
        for name, fields in config["benchmarks"].items():
            how: dict[str, Any] = {"template": prompts.template, "system": prompts.system}
            asked[name] = _conversations(Prompts(inputs[f"benchmarks.{name}"], **fields, **how))
    except UserError as error:
        report.problems.append(str(error))
    chats = _chats({role: model for role, model in here.items() if role != PRETRAINED}, report)
    longest = _longest(chats, asked, report)
    _budgets(config, here, longest, report)
    _cutoffs(config, chats, longest, prompts.system, report)
    if config["trainings"] and parities is None:
        report.facts.append("train.template: not compared, llamafactory cannot be imported here")
    for one, found in zip(config["trainings"], parities or (), strict=parities is not None):
        if one["model"] in chats:
            _template(one, found, report)
    if PRETRAINED in here and "assistant" in here:
        _merge(here[PRETRAINED], here["assistant"], report)
    return report


def _models(inputs: Mapping[str, str], revisions: Mapping[str, str]) -> dict[str, Reference]:
    return {
        role: (ref, revisions.get(role)) for role, ref in inputs.items() if role.split(".")[0] not in DATA
    }


def _conversations(prompts: Prompts) -> Conversations:
    return [chat(row["problem"], prompts) for row in load_problems(prompts)]


def _chats(models: Mapping[str, Reference], report: Report) -> dict[str, Chat]:
    """Each model's tokenizer and chat template; one that several roles share is read once."""
    read: dict[Reference, Chat] = {}
    found: dict[str, Chat] = {}
    for role, model in models.items():
        try:
            found[role] = read[model] = read.get(model) or load_chat(*model)
        except UserError as error:
            report.problems.append(f"{role}: {error}")
            continue
        opened = opened_thought(found[role].prompt([{"role": "user", "content": "?"}]))
        if opened:
            report.facts.append(f"{role}: its chat template opens a thought; responses start with {opened!r}")
    return found


def _longest(
    chats: Mapping[str, Chat], asked: Mapping[str, Conversations], report: Report
) -> dict[str, tuple[int, int]]:
    """By role: tokens of the longest prompt of the prompt set, and of the benchmarks."""
    found: dict[str, tuple[int, int]] = {}
    counted: dict[int, tuple[int, int]] = {}
    for role, tokens in chats.items() if "prompts" in asked else ():
        if id(tokens) not in counted:
            lengths = {name: tokens.longest_prompt(messages) for name, messages in asked.items()}
            own = lengths.pop("prompts")
            counted[id(tokens)] = own, max(lengths.values(), default=own)
        found[role] = counted[id(tokens)]
    if found:
        most = max(length for length, _ in found.values())
        report.facts.append(f"prompts: {len(asked['prompts'])}, the longest has {most} tokens")
    return found


def _budgets(
    config: Mapping[str, Any],
    models: Mapping[str, Reference],
    longest: Mapping[str, tuple[int, int]],
    report: Report,
) -> None:
    """Prompt and response must fit into the positions of each model that generates or is evaluated."""
    for which, roles, key in ((0, "generating", "max_tokens"), (1, "evaluated", "max_gen_toks")):
        at = f"{'evaluation' if which else 'generation'}.{key}"
        for role in config[roles]:
            limit = positions(*models[role]) if role in longest else None
            if limit:
                prompt, response = longest[role][which], config[key]
                words = f"{response} and the longest prompt ({prompt} tokens)"
                if prompt + response > limit:
                    report.problems.append(f"{at}: {words} exceed the {limit} positions of {role}")
                else:
                    report.facts.append(f"{at}: {words} fit into the {limit} positions of {role}")


def _cutoffs(
    config: Mapping[str, Any],
    chats: Mapping[str, Chat],
    longest: Mapping[str, tuple[int, int]],
    system: str | None,
    report: Report,
) -> None:
    """Warn of a cutoff that the longest possible row exceeds: the rows themselves are counted later."""
    for one in config["trainings"]:
        role, cutoff, response = one["model"], one["cutoff_len"], one["max_tokens"]
        if role not in longest:
            continue
        try:
            ending = chats[role].counts([chats[role].frame(system).after])[0]
        except UserError as error:
            report.problems.append(f"{role}: {error}")
            continue
        most = longest[role][0] + response + ending
        if most > cutoff:
            report.warnings.append(
                f"train.cutoff_len: {cutoff} is less than the longest row that {role} may meet: prompt "
                f"{longest[role][0]}, response {response}, together {most}; rows are counted before training"
            )


def _template(one: Mapping[str, Any], found: parity.Parity, report: Report) -> None:
    """What comparing a training's template with the model's chat template found; a line once."""
    template, at = one["template"], f"train.template ({one['model']})"
    after = f"; training adds {found.after_end!r} after the end of turn" if found.after_end else ""
    same = f"{at}: {template!r} gives the tokens of the chat template{after}"
    lines = report.problems if one["check_template"] else report.warnings
    if not found.problems:
        lines = report.facts
    new = [f"{at}: {line}" for line in found.problems] or [same]
    lines += [line for line in new if line not in lines]


def _merge(pretrained: Reference, assistant: Reference, report: Report) -> None:
    """The pretrained model must fit the assistant; what is still on the hub is judged by its config."""
    try:
        paths = [weights_directory(*model, offline=True) for model in (assistant, pretrained)]
        if not all(tensors(path) for path in paths):
            raise FileNotFoundError
        problems = merge_check.compatibility_problems(paths[0], None, paths[1])
        how = "tensors and a sample of weights compared"
    except FileNotFoundError:
        files = [model_file(ref, "config.json", revision) for ref, revision in (pretrained, assistant)]
        differing = merge_check.config_differences(*(read_json(file) for file in files if file))
        problems = [f"merge: pretrained and before {line}" for line in differing]
        how = "configs compared; weights will be once they are here"
    report.problems += [f"{PRETRAINED}: {line}" for line in problems]
    if not problems:
        report.facts.append(f"{PRETRAINED}: fits the assistant ({how})")
