"""The `micota` command.

    micota init mine.yaml               a new recipe: your models, prompts and hardware
    micota plan recipes/tiny.yaml       what would run, in which state it is, and what it costs
    micota run recipes/tiny.yaml        run it, then write the report
    micota sweep recipes/tiny.yaml seed=1,2,3 assistants.ta.merge.weight=0.3,0.5
    micota join /shared/runs            a machine's part in the trainings of a run on another one
    micota explain recipes/tiny.yaml train/student-s/micota
    micota report recipes/tiny.yaml     the tables from what is there
    micota diagnose recipes/tiny.yaml   what went wrong, by which evidence, and what to try
    micota preflight recipes/tiny.yaml  what can be known before the first GPU hour
    micota status                       how far a run is, from another shell
    micota doctor                       what this machine has for a run
    micota verify recipes/tiny.yaml     whether finished steps are still what they were
    micota gc recipes/tiny.yaml         steps that no recipe refers to
    micota export merge/ta out          a checkpoint as a hub folder with its model card
    micota templates tiny:student-s     which train.template gives a model its own tokens
    micota schema                       the JSON Schema of recipes, for editors
    micota generate|filter|grade|mix|train|merge|evaluate|bpc --help

Exit codes: 0 done, 1 an engine failed or a step is damaged, 2 the user's input is wrong (nothing was
written), 3 another process is at work there, 130 interrupted.
"""

import argparse
import errno
import json
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import shtab

from .. import __version__
from ..errors import FREE_SOME, MicotaError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print errors as one line each on stderr; return the exit code."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse leaves `key=value` words that follow an option; they belong to the overrides.
    if any(word.startswith("-") or "overrides" not in args for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if more := [*rest, *(vars(args).get("more") or [])]:  # flags that stand for such a word, too
        args.overrides += more
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop engines on SIGTERM as on Ctrl-C
    try:
        # A command's module is loaded now, and no other: each step of a run is a process.
        getattr(import_module(f".{args.module}", __package__), args.command)(args)
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


def count(word: str) -> int:
    """A whole number above zero."""
    if int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} must be above 0")
    return int(word)


TYPES = {"int": int, "count": count}


def _parser() -> argparse.ArgumentParser:
    """The parser of the commands in `commands.json`, which is read in a tenth of the time of YAML.

    There, each module has its commands in the order of `micota --help`: a sentence, the words of an example,
    and keys of `flags`, which holds what argparse's `add_argument` takes. A flag with variants has a key for
    each, `type` is one of `TYPES`.
    """
    modules = json.loads(Path(__file__).with_name("commands.json").read_text(encoding="utf-8"))
    flags = modules.pop("flags")
    layout = argparse.RawDescriptionHelpFormatter
    words = "MiCoTA distillation with LLaMA-Factory, mergekit and lm-evaluation-harness."
    example = "example:\n  micota run recipes/tiny.yaml"
    parser = argparse.ArgumentParser("micota", description=words, epilog=example, formatter_class=layout)
    parser.add_argument("--version", action="version", version=f"micota_lf {__version__}")
    shtab.add_argument_to(parser, "--completion", help="print a shell's tab completion (bash, zsh, tcsh)")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module, commands in modules.items():
        for name, command in commands.items():
            words, example = command["help"], f"example:\n  micota {name} {command['example']}"
            texts = {"help": words, "description": words, "epilog": example}
            made = subparsers.add_parser(name, formatter_class=layout, **texts)
            made.set_defaults(module=module)
            for flag in command["flags"]:
                keywords = dict(flags[flag])
                if "type" in keywords:
                    keywords["type"] = TYPES[keywords["type"]]
                vars(made.add_argument(*keywords.pop("names"), **keywords))["complete"] = shtab.FILE
    return parser
