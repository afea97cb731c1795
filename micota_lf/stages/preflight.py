"""What is checked before the first GPU hour: token budgets, templates, the merge, hub access.

    settings, references = questions(load_recipe("recipes/tiny.yaml"))
    report = inspect(step)          with these settings, and the references as inputs
    report.problems      -> []      each starts with the recipe's key
    report.facts         -> ["prompts: 720, the longest has 93 tokens", ...]

`questions` says what a recipe needs checked, as plain data: the config of the plan's first step, for which
all others wait. It takes seconds; weights are not loaded. Comparing templates takes most of them, for
llamafactory must be imported. Benchmarks are loaded and counted, those on the hub too; without any, the
prompt set stands for them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache

from ..errors import UserError, first_line
from ..grading.answer import unread_golds
from ..inputs.chat import Chat, opened_thought
from ..inputs.problems import Benchmark, Problems, chat, load_problems
from ..inputs.references import DataRef, ModelRef, hub_problems
from ..inputs.weights import quantised_problem, tensors
from ..recipe.lineage import filtering, judged, model_of, shown_teachers, training, trainings
from ..recipe.sections import Generation, Recipe
from ..recipe.tasks import evaluated_benchmarks
from ..system.files import digest, write_json
from . import Context, Results, Settings, Stage, merge, parity

GENERATION, EVALUATION = "generation.max_tokens", "evaluation.max_gen_toks"
# Of a benchmark: what decides its problems, and how many there should be.
READ = (
    "subset", "split", "id_field", "problem_field", "answer_field", "answer_format", "limit", "skip_bad",
    "problems",
)  # fmt: skip
Longest = dict[ModelRef, dict[str, int]]
"""By model: tokens of the longest prompt of the prompt set, and of the benchmarks."""


@dataclass
class Report:
    """Lines for people, each after a key of the recipe: only `problems` end a run."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def questions(recipe: Recipe) -> tuple[Settings, dict[str, ModelRef]]:
    """What is to be checked (nothing that does not matter to it), on which inputs, and how strictly."""
    models = {f"teachers.{name}": spec for name, spec in recipe.teachers.items()}
    models |= {f"students.{name}": spec for name, spec in recipe.students.items()}
    keys = {id(spec): key for key, spec in models.items()}

    def role(name: str) -> str:  # models made in the run have their origin's shape
        return keys[id(model_of(recipe, name))]

    references = {"prompts": recipe.prompts.source, **{key: spec.reference for key, spec in models.items()}}
    merges, benchmarks = {}, {}
    for name, assistant in recipe.assistants.items():
        if pretrained := assistant.merge.pretrained:
            at = f"assistants.{name}.merge.pretrained_model"
            merges[at], references[at] = role(name), pretrained
    for name, found in evaluated_benchmarks(recipe.evaluation).items():
        at = f"evaluation.benchmarks.{name}"
        references[at], benchmarks[at] = found.source, {key: getattr(found, key) for key in READ}
    generating = sorted({role(corpus.from_) for corpus in recipe.corpora.values() if corpus.from_})
    evaluated = [role(name) for name in (*shown_teachers(recipe), *recipe.students)]
    response, context = recipe.generation.max_tokens, recipe.generation.context_len
    budgets = [[GENERATION, response, key, context] for key in generating]
    budgets += [[EVALUATION, recipe.evaluation.max_gen_toks, key, None] for key in evaluated]
    cutoffs, templates, strict = [], {}, dict[str, bool]()
    for student, corpus in trainings(recipe):
        settings = training(recipe, student, corpus)
        parts = recipe.corpora[corpus].mix or [corpus]
        longest = max(filtering(recipe, part).max_tokens or 0 for part in parts)
        cutoff = [f"students.{student}", longest, settings.cutoff_len]
        cutoffs += [cutoff] if cutoff not in cutoffs else []
        compared = [f"students.{student}", settings.template, settings.extra]
        key = digest(compared)
        templates[key], strict[key] = compared, settings.check_template or strict.get(key, False)
    apart = {"benchmarks": benchmarks, "budgets": budgets, "cutoffs": cutoffs, "templates": templates}
    apart |= {"merges": merges}
    return Settings.of(recipe.prompts, apart=apart, check_template=strict, judged=judged(recipe)), references


def run(step: Context) -> Results:
    """The plan's step: `report.json` and its lines; UserError with a line each if there are problems."""
    report = asdict(inspect(step))
    write_json(step.directory / "report.json", report)
    if report["problems"]:
        raise UserError("\n".join(report["problems"]))
    return report


def inspect(step: Context) -> Report:
    """Do the checks."""
    models = {role: ref for role, ref in step.inputs.items() if not isinstance(ref, DataRef)}
    lacking = hub_problems(models)
    report = Report([*lacking.values()])
    here = {role: model for role, model in models.items() if role not in lacking}
    trained = [role for role in here if not role.startswith("teachers.")]
    report.problems += [f"{role}: {line}" for role in trained if (line := quantised_problem(here[role]))]
    merges = step.config["merges"]
    chats = _chats({role: model for role, model in here.items() if role not in merges}, step, report)
    longest = _longest(step, chats, report)
    _budgets(step, longest, report)
    _cutoffs(step, chats, longest, report)
    _templates(step, chats, report)
    for pretrained, before in merges.items():
        if pretrained in here and before in here:
            _merge(pretrained, here[pretrained], here[before], report)
    return report


def _chats(models: Mapping[str, ModelRef], step: Context, report: Report) -> dict[ModelRef, Chat]:
    """Each model's tokenizer and chat template, if both work; one that several roles share is read once."""
    read, found = cache(parity.sound_chat), {}
    for role, model in models.items():
        try:
            opened = opened_thought(read(model).prompt(chat("?", step.prompts)))
        except (UserError, OSError, ValueError) as error:
            report.problems.append(f"{role}: {first_line(error)}")
            continue
        found[model] = read(model)
        if opened:
            report.facts.append(f"{role}: its chat template opens a thought; responses start with {opened!r}")
    return found


def _longest(step: Context, chats: Mapping[ModelRef, Chat], report: Report) -> Longest:
    """Load the prompt set and the benchmarks, compare the latter's sizes, and count tokens."""
    sets: dict[str, Problems] = {"prompts": step.prompts}
    for role, spec in step.config["benchmarks"].items():
        sets[role] = Benchmark(step.inputs[role].ref, step.inputs[role].revision, **spec)
    asked: dict[str, list[list[dict[str, str]]]] = {}
    for role, problems in sets.items():
        try:
            rows = load_problems(problems, bad := list[str]())
        except UserError as error:
            report.problems.append(f"{role}: {error}")
            continue
        asked[role] = [chat(row["problem"], step.prompts) for row in rows]
        report.warnings += [f"{role}: {len(bad)} bad rows left out, the first: {line}" for line in bad[:1]]
        if unread := unread_golds(rows):
            needed = len(unread) == len(rows) and (role != "prompts" or step.how["judged"])
            lines = report.problems if needed else report.warnings
            lines.append(f"{role}: {problems.path}: {len(unread)} of {len(rows)} gold answers {unread[0]}")
        wanted, held = getattr(problems, "problems", None), len(rows)
        if wanted and not problems.limit and held != wanted:
            report.warnings.append(f"{role}.problems: {wanted} are expected, {problems.path} holds {held}")
    longest: Longest = {}
    for model, tokens in chats.items() if "prompts" in asked else ():
        own, *others = (max(tokens.counts(map(tokens.prompt, one)), default=0) for one in asked.values())
        longest[model] = {GENERATION: own, EVALUATION: max(others, default=own)}
    if longest:
        most = max(found[GENERATION] for found in longest.values())
        report.facts.append(f"prompts: {len(asked['prompts'])}, the longest has {most} tokens")
    return longest


def _budgets(step: Context, longest: Longest, report: Report) -> None:
    """Whether the longest prompt and response of each model fit into its positions, and into context_len."""
    for at, response, role, context in step.config["budgets"]:
        model = step.inputs[role]
        if model in longest and (limit := model.positions):
            prompt = longest[model][at]
            room = Generation(max_tokens=response, context_len=context).room(prompt)
            fits = 0 < room <= limit - prompt
            lines, fit = (report.facts, "fit into") if fits else (report.problems, "exceed")
            key = at if room > 0 else "generation.context_len"
            words = f"{key}: {room} and the longest prompt ({prompt} tokens)"
            lines.append(f"{words} {fit} the {limit} positions of {role}")


def _cutoffs(step: Context, chats: Mapping[ModelRef, Chat], longest: Longest, report: Report) -> None:
    """Warn of a cutoff that the longest possible row exceeds: the rows themselves are counted later."""
    for role, response, cutoff in step.config["cutoffs"]:
        model = step.inputs[role]
        if model not in longest:
            continue
        tokens, prompt = chats[model], longest[model][GENERATION]
        try:
            *_, after = tokens.frame(step.prompts.system)
        except UserError as error:
            report.problems.append(f"{role}: {error}")
            continue
        most = prompt + response + tokens.counts([after])[0]
        if most > cutoff:
            row = f"prompt {prompt}, response {response}, together {most}; rows are counted before training"
            less = f"{cutoff} is less than the longest row that {role} may meet"
            report.warnings.append(f"train.cutoff_len: {less}: {row}")


def _templates(step: Context, chats: Mapping[ModelRef, Chat], report: Report) -> None:
    """Compare each training's template with the model's chat template, and its `extra` with LLaMA-Factory."""
    if not parity.available():
        report.facts.append("train.template: not compared, llamafactory cannot be imported here")
        return
    for key, (role, template, extra) in step.config["templates"].items():
        at, model = f"train.template ({role})", step.inputs[role]
        if model not in chats:
            continue
        with step.working():
            found = parity.template_parity(model, template, step.prompts, extra)
        report.problems += [line for line in found.unknown if line not in report.problems]
        lines = report.problems if step.how["check_template"][key] else report.warnings
        lines += [f"{at}: {line}" for line in found.problems]
        if not found.problems and not found.unknown:
            after = f"; training adds {found.after_end!r} after the end of turn" if found.after_end else ""
            report.facts.append(f"{at}: {template!r} gives the tokens of the chat template{after}")


def _merge(at: str, pretrained: ModelRef, before: ModelRef, report: Report) -> None:
    """The pretrained model must fit the assistant's start; one still on the hub is judged by its config."""
    how = "tensors and a sample of weights compared"
    try:
        paths = [model.weights(offline=True) for model in (before, pretrained)]
        if not all(tensors(path) for path in paths):
            raise FileNotFoundError
        problems = merge.compare({"before": paths[0], "pretrained": paths[1]})[0]
    except FileNotFoundError:
        configs = (model.settings("config.json") for model in (pretrained, before))
        problems = [f"merge: pretrained and before {line}" for line in merge.config_differences(*configs)]
        how = "configs compared; weights will be once they are here"
    report.problems += [f"{at}: {line}" for line in problems]
    if not problems:
        report.facts.append(f"{at}: fits the assistant ({how})")


STAGE = Stage(run, quick=True)
