"""The stages as commands of their own: generate, filter, mix, train, merge, evaluate, bpc.

`generate`, `filter` and `mix` work on files. `train`, `merge`, `evaluate` and `bpc` take an output directory
and do there exactly what a plan's step does: render, run the engine, check, write `done.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from . import bpc, evaluate, merge, train
from .backends import BACKENDS, Sampling
from .errors import UserError
from .files import digest, read_jsonl
from .filter import filter_responses
from .generate import generate
from .kinds import Context
from .lineage import train_devices
from .load import section_from
from .mix import mix_corpora
from .prompts import DEFAULT_TEMPLATE
from .recipe import Assistant, Bpc, Engines, Evaluation, Filter, Generation, Hardware, Merge, Recipe, Train
from .refs import identity, model_problem, resolve
from .steps import execute

Subparsers = Any
CPU = {"threads": 1, "gpus": 0}


def add_stage_commands(commands: Subparsers) -> None:
    """Add one subcommand a stage to the `micota` parser."""
    for add in (_add_generate, _add_filter, _add_mix, _add_train, _add_merge, _add_evaluate, _add_bpc):
        add(commands)


def command(
    commands: Subparsers, name: str, words: str, example: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """A subcommand with its one-sentence help and an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words, epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def choices(section: type, key: str) -> tuple[str, ...]:
    """The values that a recipe section allows for a key."""
    return get_args(get_type_hints(section)[key])


def _add_generate(commands: Subparsers) -> None:
    parser = command(
        commands, "generate", "Write one response to each problem of a file; run again to go on.",
        "micota generate --model tiny:teacher --prompts tiny:two --max-tokens 320 -o out.jsonl", _generate,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="model directory, tiny:NAME, or hub id")
    parser.add_argument("--revision", help="revision of a hub model")
    parser.add_argument("--prompts", required=True, help="JSONL file, tiny:NAME, or hub data set id")
    parser.add_argument("--prompts-revision", help="revision of a hub data set")
    parser.add_argument("--subset", help="configuration of a hub data set")
    parser.add_argument("--split", default="train", help="split of a hub data set (default: train)")
    for field in ("id", "problem", "answer"):
        parser.add_argument(
            f"--{field}-field", default=field, help=f"column of the {field} (default: {field})"
        )
    parser.add_argument("--limit", type=int, help="only the first N problems")
    parser.add_argument("--backend", default="transformers", help=f"one of {', '.join(BACKENDS)}")
    parser.add_argument("--max-tokens", type=int, required=True, help="limit of a response, in tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=choices(Generation, "dtype"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--template", default=DEFAULT_TEMPLATE, help="user message, with {problem} in it")
    parser.add_argument("--system", help="system message (default: the chat template's own)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.jsonl")


def _generate(args: argparse.Namespace) -> None:
    _need_model("--model", args.model, chat=False)
    for name in ("max_tokens", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be above 0")
    source = {
        "limit": args.limit, "fields": (args.id_field, args.problem_field, args.answer_field),
        "subset": args.subset, "split": args.split, "revision": args.prompts_revision,
    }  # fmt: skip
    summary = generate(
        args.model, args.prompts, args.output,
        Sampling(args.max_tokens, args.temperature, args.top_p, args.seed),
        backend=args.backend, template=args.template, system=args.system, dtype=args.dtype,
        batch_size=args.batch_size, revision=args.revision, source=source,
    )  # fmt: skip
    print(
        f"{args.output}: {summary['responses']} responses, "
        f"mean {summary['mean_response_tokens']:.1f} tokens, {summary['truncated']} cut at {args.max_tokens}"
    )


def _add_filter(commands: Subparsers) -> None:
    parser = command(
        commands, "filter", "Keep responses that are right, finished and not too long (paper equation 1).",
        "micota filter out.jsonl --verdict symbolic --max-tokens 16384 -o corpus.jsonl", _filter,
    )  # fmt: skip
    parser.add_argument("responses", help="rows that `micota generate` wrote")
    parser.add_argument("--verdict", default="symbolic", choices=choices(Filter, "verdict"))
    parser.add_argument("--max-tokens", type=int, help="L_max, in the generating model's tokens")
    parser.add_argument("-o", "--output", required=True, metavar="CORPUS.jsonl")


def _filter(args: argparse.Namespace) -> None:
    counts = filter_responses(args.responses, args.output, verdict=args.verdict, max_tokens=args.max_tokens)
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    print(f"{args.output}: {counts['responses']} responses judged by {counts['verdict']}: {reasons}")


def _add_mix(commands: Subparsers) -> None:
    parser = command(
        commands, "mix", "Mix corpora at stated ratios, as Mix-Long does.",
        "micota mix --part 0.2=long.jsonl --part 0.8=short.jsonl --seed 0 -o mixed.jsonl", _mix,
    )  # fmt: skip
    parser.add_argument("--part", action="append", required=True, metavar="RATIO=CORPUS.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="rows in all (default: as many as the ratios allow)")
    parser.add_argument("-o", "--output", required=True, metavar="CORPUS.jsonl")


def _mix(args: argparse.Namespace) -> None:
    parts: dict[str, float] = {}
    for part in args.part:
        ratio, _, path = part.partition("=")
        try:
            parts[path] = float(ratio)
        except ValueError:
            raise UserError(f"--part: {part!r} is not of the form RATIO=CORPUS.jsonl") from None
    counts = mix_corpora(parts, args.output, seed=args.seed, size=args.size)
    print(f"{args.output}: {counts['rows']} rows, {counts['rows_by_part']} by part")


def _add_train(commands: Subparsers) -> None:
    parser = command(
        commands, "train", "Fine-tune a model on a corpus through llamafactory-cli.",
        "micota train --model tiny:student-s --corpus corpus.jsonl -o out bf16=false use_cpu=true",
        _train,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="model directory, tiny:NAME, or hub id")
    parser.add_argument("--corpus", required=True, help="JSONL with `prompt` and `response`")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of this training (default: 0, the CPU)")
    parser.add_argument("--engine", default=Engines.llamafactory, help="LLaMA-Factory's command")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="LLaMA-Factory arguments")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")


def _train(args: argparse.Namespace) -> None:
    settings = section_from(Train, args.overrides)
    recipe = Recipe(name="train", assistant=Assistant(args.model), hardware=Hardware(gpus=args.gpus))
    config = {"train": train.what_settings(settings)}
    how = {
        "threads": 1, "gpus": args.gpus and train_devices(recipe), "engine": args.engine,
        "train": train.how_settings(recipe, settings),
    }  # fmt: skip
    rows = read_jsonl(args.corpus)
    bare = next(
        (n for n, row in enumerate(rows, 1) if not row.get("prompt") or not row.get("response")), None
    )
    if bare or not rows:
        raise UserError(f"{args.corpus}: row {bare or 1} has no prompt or no response")
    inputs = {"model": args.model, "corpus": str(Path(args.corpus).absolute())}
    results = _execute("train", args.output, config, inputs, how)
    print(f"{args.output}/model: {results['steps']} steps, mean training loss {results['train_loss']:.4f}")


def _add_merge(commands: Subparsers) -> None:
    parser = command(
        commands, "merge", "Merge a model before and after fine-tuning through mergekit-yaml.",
        "micota merge --before tiny:assistant --after out/model -o merged weight=0.5 dtype=float32", _merge,
    )  # fmt: skip
    parser.add_argument("--before", required=True, help="the model before fine-tuning")
    parser.add_argument("--after", required=True, help="the model after fine-tuning (a directory)")
    parser.add_argument("--engine", default=Engines.mergekit, help="mergekit-yaml's command")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe's `merge` section"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR")


def _merge(args: argparse.Namespace) -> None:
    spec = section_from(Merge, args.overrides)
    inputs = {"before": args.before, "after": str(Path(resolve(args.after)).absolute())}
    if spec.preset == "pretrained":
        if not spec.pretrained_model:
            raise UserError("pretrained_model: the preset 'pretrained' needs one")
        inputs["pretrained"] = spec.pretrained_model
    how = {**CPU, "engine": args.engine}
    results = _execute("merge", args.output, {"merge": merge.merge_settings(spec)}, inputs, how)
    print(f"{args.output}/model: {results['bytes'] / 1e6:.1f} MB of weights in {results['shards']} file(s)")


def _add_evaluate(commands: Subparsers) -> None:
    parser = command(
        commands, "evaluate", "Evaluate a model on this package's tasks through lm_eval.",
        "micota evaluate --model tiny:teacher --tasks micota_tiny_two --max-gen-toks 320 -o out", _evaluate,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="model directory, tiny:NAME, or hub id")
    parser.add_argument("--tasks", required=True, help="task names, separated by commas")
    parser.add_argument("--include-path", default=str(evaluate.TASKS_DIR), help="folder of task files")
    parser.add_argument("--max-gen-toks", type=int, default=Evaluation.max_gen_toks)
    _add_lm_eval_options(parser)


def _evaluate(args: argparse.Namespace) -> None:
    config = {
        "tasks": args.tasks.split(","), "max_gen_toks": args.max_gen_toks, "limit": args.limit,
        "dtype": args.dtype, "seed": Evaluation.seed, "system": None,
    }  # fmt: skip
    scores = _execute("evaluate", args.output, config, {"model": args.model}, _lm_eval_how(args))
    for task, score in scores.items():
        print(
            f"{task}: n={score['n']}, right: {score['symbolic']} symbolic, {score['legacy']} legacy; "
            f"mean {score['mean_response_tokens']:.1f} tokens, {score['truncated']} cut"
        )


def _add_bpc(commands: Subparsers) -> None:
    parser = command(
        commands, "bpc", "Measure bits per character of corpora under a model (paper equation 3).",
        "micota bpc --model tiny:student-s --corpus long.jsonl --corpus short.jsonl -o out", _bpc,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="model directory, tiny:NAME, or hub id")
    parser.add_argument("--corpus", action="append", required=True, help="JSONL with `prompt` and `response`")
    parser.add_argument("--log-base", default=Bpc.log_base, choices=choices(Bpc, "log_base"))
    parser.add_argument("--unit", default=Bpc.unit, choices=choices(Bpc, "unit"))
    parser.add_argument("--condition-on-prompt", action="store_true", help="T follows its prompt")
    _add_lm_eval_options(parser)


def _bpc(args: argparse.Namespace) -> None:
    spec = Bpc(
        log_base=args.log_base, unit=args.unit, condition_on_prompt=args.condition_on_prompt, limit=args.limit
    )
    for path in args.corpus:
        if not read_jsonl(path):
            raise UserError(f"--corpus: {path} holds no rows")
    corpora = {f"corpus{n}": str(Path(path).absolute()) for n, path in enumerate(args.corpus)}
    inputs = {"model": args.model, **corpora}
    values = _execute("bpc", args.output, bpc.bpc_settings(spec, args.dtype), inputs, _lm_eval_how(args))
    for path, row in zip(args.corpus, values.values(), strict=True):
        print(f"{path}: {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}] {row['unit']}, n={row['n']}")


def _add_lm_eval_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, help="only the first N rows of each")
    parser.add_argument("--dtype", default="float32", choices=choices(Evaluation, "dtype"))
    parser.add_argument("--batch-size", type=int, default=Evaluation.batch_size)
    parser.add_argument("--gpus", type=int, default=0, help="0: the CPU (default)")
    parser.add_argument("--engine", default=Engines.lm_eval, help="lm_eval's command")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")


def _lm_eval_how(args: argparse.Namespace) -> dict[str, Any]:
    tasks = getattr(args, "include_path", "")
    return {
        "threads": 1, "gpus": args.gpus, "batch_size": args.batch_size, "engine": args.engine,
        "include_path": str(Path(tasks).absolute()),
    }  # fmt: skip


def _need_model(flag: str, ref: str, chat: bool) -> None:
    problem = model_problem(ref, chat)
    if problem:
        raise UserError(f"{flag}: {problem}")


def _execute(
    kind: str, output: str, config: dict[str, Any], inputs: dict[str, str], how: dict[str, Any]
) -> dict[str, Any]:
    """Do a step outside any plan. Raises UserError if the directory holds another step."""
    for role in ("model", "before", "after", "pretrained"):
        if role in inputs:
            _need_model(f"--{role}", inputs[role], chat=kind in ("train", "evaluate"))
    for role, given in inputs.items():
        if role.startswith("corpus") and not Path(given).is_file():
            raise UserError(f"--corpus: no such file: {given}")
    directory = Path(output).absolute()
    seen = {role: identity(given) for role, given in inputs.items()}
    step_id = digest([kind, config, seen])
    record = {"id": step_id, "kind": kind, "label": directory.name, "config": config, "inputs": inputs}
    _refuse_other_step(directory, step_id)
    resolved = {role: resolve(given) for role, given in inputs.items()}
    return execute(kind, Context(directory, config, resolved, how), record)


def _refuse_other_step(directory: Path, step_id: str) -> None:
    from .files import read_json

    if (directory / "step.json").is_file():
        if read_json(directory / "step.json")["id"] != step_id:
            raise UserError(f"-o: {directory} holds the outputs of other settings or inputs; choose another")
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"-o: {directory} exists and is not an empty directory")
