"""The stages as commands of their own: generate, filter, mix, train, merge, evaluate, bpc; and grade.

A stage command is a plan of one step: flags name its inputs, `key=value` words are settings of the recipe's
sections (`train.learning_rate=1e-3`, `hardware.gpus=1`, `engines.vllm=...`), and `-o DIR` is where the step
does exactly what it does in a run: render, run the engine, check, write `done.json`. Run again, it goes on.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..errors import StepFailed, UserError
from ..grading.measures import Columns, grade_file
from ..inputs.problems import Prompts
from ..inputs.references import DataRef, ModelRef, hub_problems
from ..inputs.weights import model_problem
from ..plan.compile import Compiler
from ..plan.costs import placed
from ..plan.plan import Input
from ..recipe.load import settings
from ..run.step import execute, failure_report
from ..stages import Results, parity
from ..stages.generate import summary_lines
from ..system.files import read_json
from .show import as_json

NEAREST = 3  # templates that are told with how they differ


def generate(args: argparse.Namespace) -> None:
    """Responses of a model to prompts."""
    _say(args, *summary_lines(_made(args, lambda c: c.generate("", _model(args, chat=False, hub=False)))))


def filter(args: argparse.Namespace) -> None:
    """Responses that become training rows."""
    made = _made(args, lambda c: c.filter("", _data(args.responses), c.recipe.filter))
    _say(args, f"{made['responses']} responses judged by {made['verdict']}: {_counted(made['reasons'])}")


def mix(args: argparse.Namespace) -> None:
    """Corpora mixed at ratios."""
    parts: dict[str, float] = {}
    for part in args.part:
        ratio, _, path = part.partition("=")
        if path in parts:
            raise UserError(f"--part: {path!r} twice")
        try:
            parts[path] = float(ratio if path else "")
        except ValueError:
            raise UserError(f"--part: {part!r} is not of the form RATIO=CORPUS.jsonl") from None
    files, ratios = list(map(_data, parts)), list(parts.values())
    made = _made(args, lambda c: c.mix("", files, ratios, args.seed, args.size))
    _say(args, f"{made['rows']} rows, {made['rows_by_part']} by part")


def train(args: argparse.Namespace) -> None:
    """A model fine-tuned on a corpus, once its template is known to give the tokens that inference meets."""

    def build(compiler: Compiler) -> Input:
        model, recipe, spec = _model(args), compiler.recipe, compiler.recipe.train
        if spec.check_template and parity.available():  # in a run, the preflight looks at it
            prompts = Prompts("", template="{problem}", system=recipe.prompts.system)
            found = parity.template_parity(model.reference, spec.template, prompts, spec.extra)
            if problems := [*found.unknown, *(f"train.template: {line}" for line in found.problems)]:
                raise UserError("\n".join(problems))
        return compiler.train("", model, _data(args.corpus), spec)

    made = _made(args, build)
    _say(args, f"{made['steps']} steps, mean training loss {made['train_loss']:.4f}")


def templates(args: argparse.Namespace) -> None:
    """LLaMA-Factory's templates beside a model's chat template: those with its tokens, then the nearest."""
    if not parity.available():
        raise UserError("llamafactory cannot be imported here, which has the templates")
    model, plain = ModelRef(args.model, args.model_revision), Prompts("")
    parity.sound_chat(model)
    equal, told = list(parity.fitting(model, plain)), replace(plain, system=parity.SYSTEM)
    system = [*islice((name for name in parity.fitting(model, told) if name not in equal), NEAREST)]
    nearest = [name for name in parity.agreement(model, plain) if name not in (*equal, *system)][:NEAREST]
    found = dict[str, str]()
    for name in (*equal, None, *system[:1], *nearest):
        problems = [] if name in equal else parity.template_parity(model, name, plain, {}).problems
        found[name or "null, its own"] = problems[0] if problems else "equal"
    if as_json(args, {"templates": found, "equal_with_system": system}):
        return
    print("\n".join(f"{name}: {words}" for name, words in found.items()))
    if system:
        print(f"equal once prompts.system is set: {', '.join(system)}")


def merge(args: argparse.Namespace) -> None:
    """A model merged with its earlier self."""
    before, after = (_model(args, role, chat=False) for role in ("before", "after"))

    def build(compiler: Compiler) -> Input:
        spec = compiler.recipe.assistants["it"].merge
        base = {"pretrained": Input.of(spec.pretrained)} if spec.pretrained else {}
        return compiler.merge("", spec, before=before, after=after, **base)

    made = _made(args, build)
    tried = "{ended} of {prompts} answers ended" if made["health"]["prompts"] else "no answers tried"
    weights = f"{made['bytes'] / 1e6:.1f} MB of weights in {made['shards']} file(s), all finite"
    _say(args, f"{weights}; {tried.format(**made['health'])}")


def evaluate(args: argparse.Namespace) -> None:
    """A model on tasks."""
    for task, score in _made(args, lambda c: c.evaluate("", _model(args))).items():
        right = "n={n}, right: {symbolic:g} symbolic, {legacy:g} legacy".format(**score)
        length = "mean {mean_response_tokens:.1f} tokens, {truncated:g} cut".format(**score)
        _say(args, f"{task}: {right}; {length}")


def bpc(args: argparse.Namespace) -> None:
    """Corpora under a model."""
    made = _made(args, lambda c: c.bpc("", _model(args, chat=False), list(map(_data, args.corpus))))
    for name, row in made.items():
        _say(args, "{}: {mean:.4f} [{low:.4f}, {high:.4f}] {unit}, n={n} texts".format(name, **row))


def grade(args: argparse.Namespace) -> None:
    """Any file of responses and answers, graded."""
    source, output = Path(args.input), Path(args.output)
    if not source.is_file():  # it is read twice, which a pipe cannot be
        raise UserError(f"{args.input}: no such file (a pipe cannot be graded)")
    if output.exists() and output.samefile(source):
        raise UserError(f"-o: {args.output} is the file that is read; name another")
    columns = Columns(*(vars(args)[name] for name in Columns._fields))
    tell = print if args.disagreements else None
    counts = grade_file(source, output, columns, args.workers, tell, args.skip_bad)
    for line in (bad := counts["bad_rows"]):
        print(f"left out: {line}", file=sys.stderr)
    right = "n={n}, right: legacy {legacy}, symbolic {symbolic}, {differ} differ".format(**counts)
    right += f"; {len(bad)} bad rows left out" if bad else ""
    _say(args, f"{right}; {_counted(counts['reasons'])}")


def _made(args: argparse.Namespace, build: Callable[[Compiler], Input]) -> Results:
    """Do a stage's step in `-o DIR`. Raises UserError, with nothing written, if that holds something else."""
    prompts, tasks = vars(args).get("prompts"), vars(args).get("tasks", "")
    given = {
        "name": "stage", "prompts": {"path": prompts or ""},
        "assistants": {"it": {"from": "", "merge": {} if prompts else {"health_prompts": 0}}},
        "evaluation": {"tasks": dict.fromkeys(tasks.split(","), "")},
    }  # fmt: skip
    words = [f"assistants.it.{word}" if word.startswith("merge.") else word for word in args.overrides]
    compiler = Compiler(settings(words, **given))
    made = build(compiler).step
    plan = placed(compiler.plan, compiler.recipe)
    step = plan.steps[made]
    directory = Path(args.output).absolute()
    begun = (directory / "step.json").is_file()
    if begun and read_json(directory / "step.json").get("id") != step.id:
        raise UserError(f"-o: {directory} holds the outputs of other settings or inputs; choose another")
    if not begun and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"-o: {directory} exists and is not an empty directory")
    inputs = plan.inputs_of(step, directory)
    try:
        return execute(step, inputs, directory, {"recipe": "", "slots": []})
    except StepFailed as error:
        raise StepFailed(failure_report(directory)) from error
    except UserError:
        if not begun:  # bad input leaves nothing behind
            shutil.rmtree(directory)
        raise


def _model(args: argparse.Namespace, flag: str = "model", chat: bool = True, hub: bool = True) -> Input:
    """A model's input, which must be here or on the `hub` (or else is a server's)."""
    ref = ModelRef(getattr(args, flag), vars(args).get("model_revision"))
    if problem := model_problem(ref, chat) if ref.ref else "no model given":
        raise UserError(f"--{flag}: {problem}")
    for line in hub_problems({f"--{flag}": ref} if hub else {}).values():
        raise UserError(line)
    if chat:
        parity.sound_chat(ref)
    return Input.of(ref)


def _data(path: str) -> Input:
    file = DataRef(path if path.startswith("tiny:") else str(Path(path).absolute()))
    if not (file.local and file.local.exists()):
        raise UserError(f"no such file: {path}")
    return Input.of(file)


def _say(args: argparse.Namespace, *lines: str) -> None:
    for line in lines:
        print(f"{args.output}: {line}")


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())
