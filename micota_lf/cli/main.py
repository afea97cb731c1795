"""The `micota` command.

    micota plan recipes/tiny.yaml       what would run, in which state it is, and what it costs
    micota run recipes/tiny.yaml        run it, then write the report
    micota explain recipes/tiny.yaml train/student-s/micota
    micota report recipes/tiny.yaml     the tables from what is there
    micota preflight recipes/tiny.yaml  what can be known before the first GPU hour
    micota verify recipes/tiny.yaml     whether finished steps are still what they were
    micota gc recipes/tiny.yaml         steps that no recipe refers to
    micota export merge/ta out          a checkpoint as a hub folder with its model card
    micota schema                       the JSON Schema of recipes, for editors
    micota generate|filter|grade|mix|train|merge|evaluate|bpc --help

Exit codes: 0 done, 1 an engine failed or a step is damaged, 2 the user's input is wrong (nothing was
written), 3 another process is at work there, 130 interrupted.
"""

import argparse
import errno
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from .. import __version__
from ..errors import FREE_SOME, MicotaError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print errors as one line each on stderr; return the exit code."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse leaves `key=value` words that follow an option; they belong to the overrides.
    if any(word.startswith("-") or "overrides" not in args for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop engines on SIGTERM as on Ctrl-C
    try:
        args.run(args)
    except MicotaError as error:
        for line in str(error).splitlines():
            print(f"micota: {line}" if error.exit_code == 2 else line, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("micota: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a path that is too long or not ours
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not error.filename and not full:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"micota: {where}{error.strerror}{f'; {FREE_SOME}' if full else ''}", file=sys.stderr)
        return 1 if full else 2
    return 0


COMMON = ("recipe", "workspace", "overrides")
# Name, one sentence, an example, flags: the function of that name in commands.py does it.
COMMANDS = (
    ("plan", "Show a recipe's steps, their state and what they need; nothing runs.", "recipes/tiny.yaml",
     ("target", "sources", "pilot", *COMMON)),
    ("run", "Run a recipe's unfinished steps and write its report.",
     "recipes/tiny.yaml --target train/student-s train.learning_rate=2e-3",
     ("target", "jobs", "executor", *COMMON)),
    ("explain", "Say why a step is fresh, stale or missing: which value changed.",
     "recipes/tiny.yaml train/student-s/micota", ("[recipe] step", "workspace", "overrides")),
    ("report", "Write the tables from the steps that are done.", "recipes/tiny.yaml", COMMON),
    ("verify", "Check that finished steps still have the outputs that they were made with.",
     "recipes/tiny.yaml", ("quick", "recipe?", "workspace", "overrides")),
    ("gc", "List steps that none of these recipes refers to, or delete them.",
     "recipes/tiny.yaml recipes/mine.yaml --delete", ("recipes", "workspace", "delete")),
    ("export", "Copy a trained or merged model to a folder for the hub, with a model card.",
     "merge/ta my-assistant --recipe recipes/tiny.yaml",
     ("step", "output", "recipe=", "push", "workspace", "overrides")),
    ("preflight", "Check prompts, templates, models and the merge in seconds; no GPU is needed.",
     "recipes/tiny.yaml", ("recipe", "kept", "overrides")),
    ("schema", "Print the JSON Schema of recipe files, for editors.", "> recipe.schema.json", ()),
    ("tasks", "Print the folder of lm-eval task files, for --include_path.",
     '  (as in: lm_eval run --include_path "$(micota tasks)" --tasks micota_tiny)', ()),
    ("step", "Do one step of a frozen plan (what `micota run` has Snakemake call).",
     "runs/.micota/tiny-0123456789ab.json 0123456789ab", ("plan", "id", "parent")),
)  # fmt: skip
FLAGS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "recipe": (["recipe"], {"metavar": "RECIPE", "help": "recipe YAML"}),
    "recipe?": (["recipe"], {"nargs": "?", "metavar": "RECIPE", "help": "its steps (default: all)"}),
    "recipe=": (["--recipe"], {"metavar": "RECIPE", "help": "(default: the one that ran last)"}),
    "recipes": (["recipes"], {"nargs": "+", "metavar": "RECIPE", "help": "recipes whose steps stay"}),
    "workspace": (["--workspace"], {"default": "runs", "help": "where the steps are (default: runs)"}),
    "kept": (["--workspace"], {"help": "keep the result there, as the run's own first step"}),
    "overrides": (["overrides"], {"nargs": "*", "metavar": "key=value", "help": "values over the recipe's"}),
    "target": (["--target"], {
        "action": "append", "default": [],
        "help": "only this table (table1 to table4, figures), slot, kind or id, and what it needs",
    }),
    "sources": (["--sources"], {"action": "store_true", "help": "where each value comes from"}),
    "pilot": (["--pilot"], {"metavar": "WORKSPACE", "help": "estimate from what its steps have measured"}),
    "jobs": (["--jobs"], {
        "type": int,
        "help": "steps side by side on the CPU (default: hardware.cores), or Slurm jobs (default: all)",
    }),
    "executor": (["--executor"], {
        "choices": ("local", "slurm"), "default": "local",
        "help": "where steps run: here, or as Slurm jobs with the options in hardware.slurm (default: local)",
    }),
    "quick": (["--quick"], {"action": "store_true", "help": "compare sizes alone, no hashes"}),
    "delete": (["--delete"], {"action": "store_true", "help": "delete them; else they are only listed"}),
    "step": (["step"], {"metavar": "STEP", "help": "slot, label or id of a train or merge step"}),
    "[recipe] step": (["step"], {
        "metavar": "[RECIPE] STEP", "help": "a slot, label or id; without RECIPE, of the one that ran last",
    }),
    "plan": (["plan"], {"help": "frozen plan, as `micota run` writes it to WORKSPACE/.micota/"}),
    "id": (["id"], {"help": "the step's id"}),
    "parent": (["--parent"], {"type": int, "metavar": "PID", "help": "end when this process ends"}),
    "dir": (["-o", "--output"], {"required": True, "metavar": "DIR", "help": "the step's directory"}),
    "settings": (["overrides"], {"nargs": "*", "metavar": "key=value", "help": "settings, as in a recipe"}),
    "model": (["--model"], {"required": True, "help": "model directory, tiny:NAME, or hub id"}),
    "revision": (["--model-revision"], {"metavar": "COMMIT", "help": "revision of a hub model"}),
    "prompts": (["--prompts"], {"required": True, "help": "JSONL file, tiny:NAME, or hub data set id"}),
    "prompts?": (["--prompts"], {"help": "let the merged model answer a few; without it, none are tried"}),
    "responses": (["--responses"], {"required": True, "help": "rows like those of `micota generate`"}),
    "part": (["--part"], {"action": "append", "required": True, "metavar": "RATIO=CORPUS.jsonl"}),
    "seed": (["--seed"], {"type": int, "default": 0}),
    "size": (["--size"], {"type": int, "help": "rows (default: the most that the ratios allow)"}),
    "corpus": (["--corpus"], {"required": True, "help": "JSONL with `prompt` and `response`"}),
    "corpora": (["--corpus"], {
        "action": "append", "required": True, "help": "JSONL with `prompt` and `response`; may be repeated",
    }),
    "before": (["--before"], {"required": True, "help": "the model before fine-tuning"}),
    "after": (["--after"], {"required": True, "help": "the model after fine-tuning, a directory"}),
    "tasks": (["--tasks"], {"required": True, "help": "task names, separated by commas"}),
    "input": (["input"], {"metavar": "IN.jsonl", "help": "one response a row, or a list of them"}),
    "graded": (["-o", "--output"], {"required": True, "metavar": "OUT.jsonl"}),
    "response-field": (["--response-field"], {
        "default": "response", "metavar": "NAME", "help": "column of the response (default: %(default)s)",
    }),
    "answer-field": (["--answer-field"], {
        "default": "answer", "metavar": "NAME", "help": "column of the gold answer (default: %(default)s)",
    }),
    "legacy-rule": (["--legacy-rule"], {
        "default": "hendrycks", "choices": ("hendrycks", "number"),
        "help": "how `legacy` compares: number for AIME, AMC and OlympiadBench (default: %(default)s)",
    }),
    "samples": (["--samples"], {
        "action": "store_true",
        "help": "the input is lm-eval's samples_*.jsonl; columns and legacy rule are its documents'",
    }),
    "workers": (["--workers"], {"type": int, "help": "processes (default: one a core)"}),
    "disagreements": (["--disagreements"], {"action": "store_true", "help": "print where verdicts differ"}),
    "output": (["output"], {"metavar": "DIR", "help": "new or empty directory"}),
    "push": (["--push"], {"metavar": "REPO", "help": "then upload it, as in me/my-assistant"}),
}  # fmt: skip
STAGE = ("dir", "settings")
STAGES = (
    ("generate", "Write one response to each problem of a file; run again to go on.",
     "--model tiny:teacher --prompts tiny:two generation.max_tokens=320 -o out",
     ("model", "revision", "prompts", *STAGE)),
    ("filter", "Keep responses that are right, finished and not too long (paper equation 1).",
     "--responses out/responses.jsonl filter.verdict=symbolic -o kept", ("responses", *STAGE)),
    ("mix", "Mix corpora at stated ratios, as Mix-Long does.",
     "--part 0.2=long.jsonl --part 0.8=short.jsonl --seed 0 -o mixed", ("part", "seed", "size", *STAGE)),
    ("train", "Fine-tune a model on a corpus through llamafactory-cli.",
     "--model tiny:student-s --corpus kept/corpus.jsonl train.bf16=false train.use_cpu=true -o trained",
     ("model", "revision", "corpus", *STAGE)),
    ("merge", "Merge a model before and after fine-tuning through mergekit-yaml.",
     "--before tiny:assistant --after trained/model merge.weight=0.5 merge.dtype=float32 -o merged",
     ("before", "after", "prompts?", *STAGE)),
    ("evaluate", "Evaluate a model on this package's tasks through lm_eval.",
     "--model tiny:teacher --tasks micota_tiny_two evaluation.max_gen_toks=320 -o scores",
     ("model", "revision", "tasks", *STAGE)),
    ("bpc", "Measure bits per character of corpora under a model (paper equation 3).",
     "--model tiny:student-s --corpus long.jsonl --corpus short.jsonl -o bpc",
     ("model", "revision", "corpora", *STAGE)),
    ("grade", "Add both verdicts to any JSONL of responses and gold answers.",
     "old.jsonl --response-field output --answer-field gold -o graded.jsonl --disagreements",
     ("input", "graded", "response-field", "answer-field", "legacy-rule", "samples", "workers",
      "disagreements")),
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micota",
        description="MiCoTA distillation with LLaMA-Factory, mergekit and lm-evaluation-harness.",
        epilog="example:\n  micota run recipes/tiny.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"micota_lf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, words, example, flags in (*COMMANDS, *STAGES):
        made = commands.add_parser(
            name, help=words, description=words, epilog=f"example:\n  micota {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        home = "stages" if any(name == stage for stage, *_ in STAGES) else "commands"
        made.set_defaults(run=partial(_called, home, name))
        for flag in flags:
            made.add_argument(*FLAGS[flag][0], **FLAGS[flag][1])
    return parser


def _called(home: str, name: str, args: argparse.Namespace) -> None:
    """Load what a command needs, and no more: each step of a run is a process."""
    getattr(import_module(f".{home}", __package__), name)(args)
