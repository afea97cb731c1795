"""The stages as commands of their own: generate, filter, grade, mix, train, merge, evaluate, bpc.

`generate`, `filter`, `grade` and `mix` work on files. `train`, `merge`, `evaluate` and `bpc` take an output
directory and do there exactly what a plan's step does: render, run the engine, check, write `done.json`.
Flags are made from the recipe's sections, so that names, types, choices and defaults are stated once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..backends.progress import summary_lines
from ..backends.protocol import Launch
from ..errors import StepFailed, UserError
from ..grading.regrade import LEGACY_RULES, Columns, grade_file
from ..inputs.references import identity, model_problem, resolve
from ..recipe.sections import (
    Assistant,
    Bpc,
    Corpus,
    Engines,
    Evaluation,
    Filter,
    Generation,
    Hardware,
    Merge,
    Prompts,
    Recipe,
    Train,
)  # fmt: skip
from ..run.step import execute, failure_report
from ..stages import bpc, evaluate, merge, parity, train
from ..stages.filter import filter_responses
from ..stages.generate import generate
from ..stages.kinds import Context, refuse_cut_rows, refuse_merge
from ..stages.mix import mix_corpora
from ..stages.preflight import input_kind
from ..system.files import digest, read_json, read_jsonl
from ..system.processes import engine_argv

Run = Callable[[argparse.Namespace], None]
OUT_FILE, OUT_DIR = "OUT.jsonl", "DIR"
MODEL_HELP = "model directory, tiny:NAME, or hub id"


def add_stage_commands(commands: Any) -> None:
    """Add one subcommand a stage to the `micota` parser."""
    parser = command(
        commands, "generate", "Write one response to each problem of a file; run again to go on.",
        "--model tiny:teacher --prompts tiny:two --max-tokens 320 -o out.jsonl", _generate, OUT_FILE,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--model-revision", help="revision of a hub model")
    parser.add_argument("--prompts", required=True, help="JSONL file, tiny:NAME, or hub data set id")
    _flags(parser, Generation)
    _flags(parser, Prompts, leave_out=("path",))
    words = "vLLM's command (default: %(default)s), GPUs of a copy of the model, and copies"
    parser.add_argument("--engine", default=Engines.vllm, help=words)
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help=words)
    parser.add_argument("--data-parallel", type=int, default=1, metavar="N", help=words)
    parser = command(
        commands, "filter", "Keep responses that are right, finished and not too long (paper equation 1).",
        "--responses out.jsonl --verdict symbolic --max-tokens 16384 -o corpus.jsonl", _filter, OUT_FILE,
    )  # fmt: skip
    parser.add_argument("--responses", required=True, help="rows that `micota generate` wrote")
    _flags(parser, Filter)
    parser = command(
        commands, "grade", "Add both verdicts to any JSONL of responses and gold answers.",
        "old.jsonl --response-field output --answer-field gold -o graded.jsonl --disagreements", _grade,
        OUT_FILE,
    )  # fmt: skip
    parser.add_argument("input", metavar="IN.jsonl", help="one response a row, or a list of them")
    columns = Columns()
    words = "column of the response (default: %(default)s)"
    parser.add_argument("--response-field", default=columns.response, metavar="NAME", help=words)
    words = "column of the gold answer (default: %(default)s)"
    parser.add_argument("--answer-field", default=columns.answer, metavar="NAME", help=words)
    words = "how `legacy` compares: number for AIME, AMC and OlympiadBench (default: %(default)s)"
    parser.add_argument("--legacy-rule", default=columns.legacy_rule, choices=LEGACY_RULES, help=words)
    words = "the input is lm-eval's samples_*.jsonl; its own columns, and its documents' legacy rule if any"
    parser.add_argument("--samples", action="store_true", help=words)
    parser.add_argument("--workers", type=int, help="processes (default: one a core); changes no verdict")
    parser.add_argument("--disagreements", action="store_true", help="print where the verdicts differ")
    parser = command(
        commands, "mix", "Mix corpora at stated ratios, as Mix-Long does.",
        "--part 0.2=long.jsonl --part 0.8=short.jsonl --seed 0 -o mixed.jsonl", _mix, OUT_FILE,
    )  # fmt: skip
    parser.add_argument("--part", action="append", required=True, metavar="RATIO=CORPUS.jsonl")
    _flags(parser, Corpus, leave_out=("from_", "filter", "mix"))
    parser = command(
        commands, "train", "Fine-tune a model on a corpus through llamafactory-cli.",
        "--model tiny:student-s --corpus corpus.jsonl -o out bf16=false use_cpu=true", _train, OUT_DIR,
    )  # fmt: skip
    _engine_arguments(parser, Engines.llamafactory)
    parser.add_argument("--corpus", required=True, help="JSONL with `prompt` and `response`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the recipe's `train`")
    parser = command(
        commands, "merge", "Merge a model before and after fine-tuning through mergekit-yaml.",
        "--before tiny:assistant --after out/model -o merged weight=0.5 dtype=float32", _merge, OUT_DIR,
    )  # fmt: skip
    parser.add_argument("--before", required=True, help="the model before fine-tuning")
    parser.add_argument("--after", required=True, help="the model after fine-tuning, a directory")
    parser.add_argument("--engine", default=Engines.mergekit, help="mergekit-yaml's command")
    parser.add_argument("--prompts", help="let the merged model answer a few; without it, none are tried")
    _flags(parser, Generation, only=("max_tokens",))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the recipe's `merge`")
    parser = command(
        commands, "evaluate", "Evaluate a model on this package's tasks through lm_eval.",
        "--model tiny:teacher --tasks micota_tiny_two --max-gen-toks 320 -o out", _evaluate, OUT_DIR,
    )  # fmt: skip
    _engine_arguments(parser, Engines.lm_eval)
    parser.add_argument("--tasks", required=True, help="task names, separated by commas")
    _flags(parser, Evaluation, leave_out=("tasks", "benchmarks", "verdict", "overlap_words"))
    _flags(parser, Prompts, only=("template", "system"))
    parser = command(
        commands, "bpc", "Measure bits per character of corpora under a model (paper equation 3).",
        "--model tiny:student-s --corpus long.jsonl --corpus short.jsonl -o out", _bpc, OUT_DIR,
    )  # fmt: skip
    _engine_arguments(parser, Engines.lm_eval)
    parser.add_argument("--corpus", action="append", required=True, help="JSONL with `prompt` and `response`")
    _flags(parser, Bpc, leave_out=("models", "corpora"))
    _flags(parser, Evaluation, only=("dtype", "backend", "batch_size", "gpu_memory_utilization"))


def command(
    commands: Any, name: str, words: str, example: str, run: Run, output: str = ""
) -> argparse.ArgumentParser:
    """A subcommand with its one-sentence help, an example, and `-o` if it has an output."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words, epilog=f"example:\n  micota {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    if output:
        parser.add_argument("-o", "--output", required=True, metavar=output)
    return parser


def _flags(
    parser: argparse.ArgumentParser,
    section: type,
    leave_out: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> None:
    """One flag a field of a recipe section; checked by `_section` like the recipe itself."""
    for name in only or get_type_hints(section):
        if name in leave_out:
            continue
        hint, default = get_type_hints(section)[name], getattr(section, name, None)
        choices = [choice for choice in get_args(hint) if isinstance(choice, str)] or None
        flag, words = f"--{name.replace('_', '-')}", f"(default: {default})".replace("\n", "\\n")
        if hint is bool:
            parser.add_argument(flag, action="store_true")
        elif get_origin(hint) is list:
            parser.add_argument(flag, action="append", default=[], metavar="X", help="may be repeated")
        else:
            parser.add_argument(
                flag, choices=choices, default=default, help=words, metavar=None if choices else "X"
            )


def _section(section: type, args: argparse.Namespace, **more: Any) -> Any:
    """A section from the flags that `_flags` made."""
    given = {name: getattr(args, name) for name in get_type_hints(section) if hasattr(args, name)}
    from ..recipe.load import section_of  # not at the top: each step's process would pay for OmegaConf

    return section_of(section, {**given, **more})


def _engine_arguments(parser: argparse.ArgumentParser, engine: str) -> None:
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--gpus", type=int, default=0, help="0 is the CPU (default)")
    parser.add_argument("--engine", default=engine, help=f"the engine's command (default: {engine})")


def _generate(args: argparse.Namespace) -> None:
    _need_model("--model", args.model, chat=False)
    prompts = _section(Prompts, args, path=args.prompts)
    sampling, launch = _section(Generation, args), _launch(args)
    summary = generate(args.model, prompts, args.output, sampling, args.model_revision, launch)
    for line in summary_lines(summary):
        print(f"{args.output}: {line}")


def _launch(args: argparse.Namespace) -> Launch:
    for flag in ("tensor_parallel", "data_parallel"):
        if getattr(args, flag) < 1:
            raise UserError(f"--{flag.replace('_', '-')}: {getattr(args, flag)} must be above 0")
    return Launch(args.engine, args.tensor_parallel, args.data_parallel)


def _filter(args: argparse.Namespace) -> None:
    counts = filter_responses(args.responses, args.output, _section(Filter, args))
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    print(f"{args.output}: {counts['responses']} responses judged by {counts['verdict']}: {reasons}")


def _grade(args: argparse.Namespace) -> None:
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers: {args.workers} must be above 0")
    columns = Columns(args.response_field, args.answer_field, args.legacy_rule, args.samples)
    counts = grade_file(args.input, args.output, columns, args.workers, print if args.disagreements else None)
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    right = f"legacy {counts['legacy']}, symbolic {counts['symbolic']}, {counts['differ']} differ"
    print(f"{args.output}: n={counts['n']}, right: {right}; {reasons}")


def _mix(args: argparse.Namespace) -> None:
    spec, parts = _section(Corpus, args), {}
    for part in args.part:
        ratio, _, path = part.partition("=")
        if path in parts:
            raise UserError(f"--part: {path!r} twice")
        try:
            parts[path] = float(ratio if path else "")
        except ValueError:
            raise UserError(f"--part: {part!r} is not of the form RATIO=CORPUS.jsonl") from None
    counts = mix_corpora(parts, args.output, seed=spec.seed, size=spec.size)
    print(f"{args.output}: {counts['rows']} rows, {counts['rows_by_part']} by part")


def _train(args: argparse.Namespace) -> None:
    from ..recipe.load import section_from

    settings = section_from(Train, args.overrides)
    recipe = Recipe(name="train", assistant=Assistant(args.model), hardware=Hardware(gpus=args.gpus))
    how = {"gpus": args.gpus, "engine": args.engine, "train": train.how_settings(recipe, settings)}
    _need_rows(args.corpus, "prompt", "response")
    inputs = {"model": args.model, "corpus": args.corpus}
    what = train.what_settings(settings)

    def refuse(given: dict[str, str]) -> None:
        refuse_cut_rows(given["model"], given["corpus"], what, None)
        if settings.check_template:
            _refuse_template(given["model"], settings)

    results = _execute("train", args.output, {"train": what}, inputs, how, first=refuse)
    print(f"{args.output}/model: {results['steps']} steps, mean training loss {results['train_loss']:.4f}")


def _merge(args: argparse.Namespace) -> None:
    from ..recipe.load import section_from

    spec = section_from(Merge, args.overrides)
    inputs = {"before": args.before, "after": args.after}
    if spec.preset == "pretrained":
        inputs["pretrained"] = spec.pretrained_model or ""
    how: dict[str, Any] = {"gpus": 0, "engine": args.engine}
    config: dict[str, Any] = {"merge": merge.merge_settings(spec)}
    if args.prompts:
        asked = _section(Generation, args, dtype=spec.dtype)
        config["health"] = merge.health_settings(spec, asked, Prompts(args.prompts))
        how["generate"], inputs["prompts"] = {"batch_size": asked.batch_size}, args.prompts
    results = _execute("merge", args.output, config, inputs, how, first=lambda given: refuse_merge(given, {}))
    health, size = results["health"], f"{results['bytes'] / 1e6:.1f} MB of weights"
    ended = (
        f"{health['ended']} of {health['prompts']} answers ended" if health["prompts"] else "no answers tried"
    )
    print(f"{args.output}/model: {size} in {results['shards']} file(s), all finite; {ended}")


def _evaluate(args: argparse.Namespace) -> None:
    spec = _section(Evaluation, args, tasks=dict.fromkeys(args.tasks.split(","), ""))
    if spec.include_path and not Path(spec.include_path).is_dir():
        raise UserError(f"--include-path: no such directory: {spec.include_path}")
    how = {"gpus": args.gpus, "engine": args.engine, **evaluate.evaluation_how(spec)}
    prompts = _section(Prompts, args, path="", limit=None)
    config = evaluate.evaluation_settings(spec, prompts)
    scores = _execute("evaluate", args.output, config, {"model": args.model}, how)
    for task, score in scores.items():
        right = f"right: {score['symbolic']:g} symbolic, {score['legacy']:g} legacy"
        tokens = f"mean {score['mean_response_tokens']:.1f} tokens, {score['truncated']:g} cut"
        print(f"{task}: n={score['n']}, {right}; {tokens}")


def _bpc(args: argparse.Namespace) -> None:
    more = _section(Evaluation, args)
    config = bpc.bpc_settings(_section(Bpc, args), more)
    how = {"gpus": args.gpus, "engine": args.engine, **evaluate.engine_how(more)}
    for path in args.corpus:
        _need_rows(path, "prompt", "response")
    inputs = {"model": args.model, **{f"corpus{n}": path for n, path in enumerate(args.corpus)}}
    values = _execute("bpc", args.output, config, inputs, how)
    for path, row in zip(args.corpus, values.values(), strict=True):
        interval = f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        print(f"{path}: {interval} {row['unit']}, n={row['n']} texts")


def _need_model(flag: str, ref: str, chat: bool) -> None:
    problem = model_problem(ref, chat) if ref else "no model given"
    if problem:
        raise UserError(f"{flag}: {problem}")


def _refuse_template(model: str, settings: Train) -> None:
    """Raise UserError if training and inference differ in tokens; a plan's preflight looks at it once."""
    if parity.available():
        extra = {key: settings.extra[key] for key in parity.DATA_ARGUMENTS if key in settings.extra}
        found = parity.template_parity(
            model, settings.template, Prompts("", template="{problem}"), None, extra
        )
        if found.problems:
            raise UserError("\n".join(f"template: {line}" for line in found.problems))


def _need_rows(path: str, *fields: str) -> None:
    rows = read_jsonl(path)
    bare = next((n for n, row in enumerate(rows, 1) if not all(row.get(field) for field in fields)), None)
    if bare or not rows:
        raise UserError(f"--corpus: {path}: row {bare or 1} has no {' or no '.join(fields)}")


def _execute(
    kind: str,
    output: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    how: dict[str, Any],
    first: Callable[[dict[str, str]], Any] = lambda inputs: None,
) -> dict[str, Any]:
    """Do a step outside any plan. Raises UserError if the directory holds something else.

    `first` may refuse the resolved inputs before anything is written.
    """
    engine_argv(how["engine"])
    if how["gpus"] < 0:
        raise UserError(f"--gpus: {how['gpus']} must be 0 or more")
    for role, given in inputs.items():
        if not role.startswith(("corpus", "prompts")):
            _need_model(f"--{role}", given, chat=kind in ("train", "evaluate"))
    resolved = {
        role: resolve(given, input_kind(role))
        if not role.startswith("corpus")
        else str(Path(given).absolute())
        for role, given in inputs.items()
    }
    directory = Path(output).absolute()
    known = {role: identity(path, None, input_kind(role)) for role, path in resolved.items()}
    step_id = digest([kind, config, known])
    if (directory / "step.json").is_file():
        if read_json(directory / "step.json")["id"] != step_id:
            raise UserError(f"-o: {directory} holds the outputs of other settings or inputs; choose another")
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"-o: {directory} exists and is not an empty directory")
    if not (directory / "done.json").is_file():
        first(resolved)
    record = {"id": step_id, "kind": kind, "label": directory.name, "config": config, "inputs": resolved}
    try:
        return execute(kind, Context(directory, config, resolved, {"threads": 1, **how}), record)
    except StepFailed as error:
        raise StepFailed(failure_report(directory)) from error
