"""The stages as commands of their own: generate, filter, mix, train, merge, evaluate, bpc; and grade.

A stage command is a plan of one step: flags name its inputs, `key=value` words are settings of the recipe's
sections (`train.learning_rate=1e-3`, `hardware.gpus=1`, `engines.vllm=...`), and `-o DIR` is where the step
does exactly what it does in a run: render, run the engine, check, write `done.json`. Run again, it goes on.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import StepFailed, UserError
from ..grading.regrade import Columns, grade_file
from ..inputs.problems import Prompts
from ..inputs.references import DataRef, ModelRef
from ..inputs.weights import model_problem
from ..plan.compile import Compiler
from ..plan.plan import Input, Step
from ..run.step import execute, failure_report
from ..stages import Results, parity
from ..stages.generate import summary_lines
from ..system.files import read_json

Build = Callable[[Compiler], Input]
Said = Callable[[Results], list[str]]


def generate(args: argparse.Namespace) -> None:
    """Responses of a model to prompts."""
    _run(args, lambda c: c.generate("", _model(args, chat=False)), summary_lines)


def filter(args: argparse.Namespace) -> None:
    """Responses that become training rows."""
    _run(args, lambda c: c.filter("", _data(args.responses), c.recipe.filter), _filter_words)


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
    words = "{rows} rows, {rows_by_part} by part"
    _run(args, lambda c: c.mix("", files, ratios, args.seed, args.size), lambda r: [words.format(**r)])


def train(args: argparse.Namespace) -> None:
    """A model fine-tuned on a corpus, once its template is known to give the tokens that inference meets."""

    def build(compiler: Compiler) -> Input:
        model, settings, recipe = _model(args), compiler.recipe.train, compiler.recipe
        if settings.check_template and parity.available():  # in a run, the preflight looks at it
            prompts = Prompts("", template="{problem}", system=recipe.prompts.system)
            found = parity.template_parity(model.reference, settings.template, prompts, settings.extra)
            if problems := [*found.unknown, *(f"train.template: {line}" for line in found.problems)]:
                raise UserError("\n".join(problems))
        return compiler.train("", model, _data(args.corpus), settings)

    _run(args, build, lambda r: [f"{r['steps']} steps, mean training loss {r['train_loss']:.4f}"])


def merge(args: argparse.Namespace) -> None:
    """A model merged with its earlier self."""
    before, after = (_model(args, role, chat=False) for role in ("before", "after"))
    _run(args, lambda c: c.merge("", before, after, c.recipe.assistants["it"].merge), _merge_words)


def evaluate(args: argparse.Namespace) -> None:
    """A model on tasks."""
    _run(args, lambda c: c.evaluate("", _model(args)), _score_words)


def bpc(args: argparse.Namespace) -> None:
    """Corpora under a model."""
    _run(args, lambda c: c.bpc("", _model(args, chat=False), list(map(_data, args.corpus))), _bpc_words)


def grade(args: argparse.Namespace) -> None:
    """Any file of responses and answers, graded."""
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers: {args.workers} must be above 0")
    columns = Columns(args.response_field, args.answer_field, args.legacy_rule, args.samples)
    counts = grade_file(args.input, args.output, columns, args.workers, print if args.disagreements else None)
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    right = f"legacy {counts['legacy']}, symbolic {counts['symbolic']}, {counts['differ']} differ"
    print(f"{args.output}: n={counts['n']}, right: {right}; {reasons}")


def _run(args: argparse.Namespace, build: Build, said: Said) -> None:
    """Do a stage's step in `-o DIR`. Raises UserError, with nothing written, if that holds something else."""
    from ..recipe.load import settings

    prompts = getattr(args, "prompts", None)
    merge = {} if prompts else {"health_prompts": 0}
    given = {
        "name": "stage", "prompts": {"path": prompts or ""},
        "assistants": {"it": {"from": "", "merge": merge}},
        "evaluation": {"tasks": dict.fromkeys(getattr(args, "tasks", "").split(","), "")},
    }  # fmt: skip
    words = [f"assistants.it.{word}" if word.startswith("merge.") else word for word in args.overrides]
    compiler = Compiler(settings(words, **given))
    step = compiler.steps[build(compiler).step]
    directory = Path(args.output).absolute()
    begun = not directory.is_dir() or any(directory.iterdir()) if directory.exists() else False
    if begun and not (directory / "step.json").is_file():
        raise UserError(f"-o: {directory} exists and is not an empty directory")
    if begun and read_json(directory / "step.json").get("id") != step.id:
        raise UserError(f"-o: {directory} holds the outputs of other settings or inputs; choose another")
    for line in said(_execute(step, compiler, directory, begun)):
        print(f"{args.output}: {line}")


def _execute(step: Step, compiler: Compiler, directory: Path, begun: bool) -> Results:
    inputs = compiler.plan({}).inputs_of(step, directory)
    try:
        return execute(step, inputs, directory, {"recipe": "", "slots": []})
    except StepFailed as error:
        raise StepFailed(failure_report(directory)) from error
    except UserError:
        if not begun:  # bad input leaves nothing behind
            shutil.rmtree(directory)
        raise


def _model(args: argparse.Namespace, flag: str = "model", chat: bool = True) -> Input:
    """A model's input; a directory that is there needs no `./` before its name."""
    name, revision = getattr(args, flag), getattr(args, "model_revision", None)
    ref = ModelRef(f"./{name}" if name[:1] not in "./~" and Path(name).is_dir() else name, revision)
    problem = model_problem(ref, chat) if name else "no model given"
    if problem:
        raise UserError(f"--{flag}: {problem}")
    return Input.of(ref)


def _data(path: str) -> Input:
    file = DataRef(path if path.startswith("tiny:") else str(Path(path).absolute()))
    if not (file.local and file.local.is_file()):
        raise UserError(f"no such file: {path}")
    return Input.of(file)


def _filter_words(results: Results) -> list[str]:
    reasons = ", ".join(f"{n} {reason}" for reason, n in results["reasons"].items())
    return [f"{results['responses']} responses judged by {results['verdict']}: {reasons}"]


def _merge_words(results: Results) -> list[str]:
    health, size = results["health"], f"{results['bytes'] / 1e6:.1f} MB of weights"
    ended = (
        f"{health['ended']} of {health['prompts']} answers ended" if health["prompts"] else "no answers tried"
    )
    return [f"{size} in {results['shards']} file(s), all finite; {ended}"]


def _score_words(results: Results) -> list[str]:
    return [
        f"{task}: n={score['n']}, right: {score['symbolic']:g} symbolic, {score['legacy']:g} legacy; "
        f"mean {score['mean_response_tokens']:.1f} tokens, {score['truncated']:g} cut"
        for task, score in results.items()
    ]


def _bpc_words(results: Results) -> list[str]:
    return [
        f"{name}: {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}] {row['unit']}, n={row['n']} texts"
        for name, row in results.items()
    ]
