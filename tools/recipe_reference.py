"""Write docs/reference.md: every key of a recipe, from the sections' own fields.

python tools/recipe_reference.py             # write the file
python tools/recipe_reference.py --check     # fail if it is not current

In: the dataclasses of recipe/sections.py (types, limits, defaults, docstrings of classes and fields), the
sources that recipes/micota.yaml states, and UNITS below. A number without a unit there is an error.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval

from micota_lf import load_recipe
from micota_lf.inputs.problems import Benchmark, Prompts
from micota_lf.recipe import sections
from micota_lf.recipe.sections import Recipe
from micota_lf.system.fields import HOW, marked

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "reference.md"
PAPER_RECIPE = ROOT / "recipes" / "micota.yaml"
RATIO = "a pure number"

# Where the sections stand in a recipe; NAME is a name of your own. Keys of `sources` use `ta` for NAME.
PLACES: dict[str, tuple[type, str]] = {
    "": (Recipe, ""),
    "prompts": (Prompts, "prompts"),
    "teachers.NAME": (sections.Model, ""),
    "students.NAME": (sections.Student, ""),
    "assistants.NAME": (sections.Assistant, "assistants.ta"),
    "assistants.NAME.merge": (sections.Merge, "assistants.ta.merge"),
    "corpora.NAME": (sections.Corpus, ""),
    "generation": (sections.Generation, "generation"),
    "filter": (sections.Filter, "filter"),
    "train": (sections.Train, "train"),
    "on_policy": (sections.OnPolicy, "on_policy"),
    "evaluation": (sections.Evaluation, "evaluation"),
    "evaluation.benchmarks.NAME": (Benchmark, ""),
    "bpc": (sections.Bpc, "bpc"),
    "hardware": (sections.Hardware, "hardware"),
    "estimates": (sections.Estimates, "estimates"),
    "engines": (sections.Engines, "engines"),
}
UNITS = {
    "Prompts.limit": "problems",
    "Benchmark.limit": "problems",
    "Benchmark.problems": "problems that there should be",
    "Generation.max_tokens": "tokens of a response",
    "Generation.context_len": "tokens of a prompt and its response",
    "Generation.temperature": "0 is greedy",
    "Generation.samples": "responses a prompt",
    "Generation.top_p": "share of probability",
    "Recipe.seed": RATIO,
    "Recipe.seeds": RATIO,
    "Generation.seed": RATIO,
    "Generation.batch_size": "prompts",
    "Generation.gpu_memory_utilization": "share of a GPU's memory",
    "Filter.max_tokens": "tokens of a response",
    "Train.global_batch_size": "conversations a step",
    "Train.learning_rate": "at the schedule's peak",
    "Train.num_train_epochs": "passes over the corpus",
    "Train.max_steps": "optimizer steps",
    "Train.warmup_steps": "steps; below 1 a share of all",
    "Train.weight_decay": RATIO,
    "Train.max_grad_norm": "L2 norm",
    "Train.adam_beta1": RATIO,
    "Train.adam_beta2": RATIO,
    "Train.cutoff_len": "tokens of prompt and response",
    "Train.seed": RATIO,
    "Train.per_device_train_batch_size": "conversations a device",
    "Train.save_steps": "optimizer steps",
    "OnPolicy.lmbda": "share of batches",
    "OnPolicy.beta": RATIO,
    "OnPolicy.temperature": RATIO,
    "OnPolicy.max_new_tokens": "tokens of a response",
    "Train.save_total_limit": "checkpoints",
    "Train.logging_steps": "optimizer steps",
    "Merge.weight": "of the task vector",
    "Merge.density": "share of weights kept",
    "Merge.lambda_": "of the merged task vector",
    "Merge.seed": RATIO,
    "Merge.health_prompts": "prompts",
    "Merge.target_length_ratio": "mean tokens of the merged model / of the fine-tuned one",
    "Merge.probe_weights": "weights",
    "Merge.probe_prompts": "prompts",
    "Corpus.mix": "shares, which add up to 1",
    "Corpus.size": "rows",
    "Corpus.seed": RATIO,
    "Evaluation.max_gen_toks": "tokens of a response",
    "Evaluation.limit": "problems a task",
    "Evaluation.overlap_words": "words",
    "Evaluation.seed": RATIO,
    "Evaluation.samples": "responses a problem",
    "Evaluation.temperature": RATIO,
    "Evaluation.batch_size": "prompts",
    "Evaluation.gpu_memory_utilization": "share of a GPU's memory",
    "Bpc.limit": "texts a corpus",
    "Hardware.gpus": "GPUs of one machine",
    "Hardware.gpu_memory_gib": "GiB a GPU",
    "Hardware.disk_gib": "GiB",
    "Hardware.train_gpus": "GPUs",
    "Hardware.inference_gpus": "GPUs a copy of the model",
    "Hardware.cpu_processes": "processes",
    "Hardware.nodes": "machines",
    "Hardware.cores": "CPU cores",
    "Hardware.threads_per_step": "CPU threads",
    "Estimates.tflops": "10^12 operations a second",
    "Estimates.mfu": "share of tflops",
    "Estimates.balance": "share of a training's time",
    "Estimates.startup_minutes": "minutes a step",
    "Estimates.decode_tokens_per_second": "tokens a second and GPU",
    "Estimates.response_tokens": "tokens",
    "Estimates.default_response_tokens": "tokens",
}
# Limits that a function checks, which no type shows.
LIMITS = {
    "Recipe.name": "letters, digits, dots, hyphens and underscores, at most 100",
    "Train.max_steps": "-1 (no limit) or above 0",
    "Train.extra": "no key that the recipe states or the library decides",
    "Generation.endpoints": "http(s) addresses without user and password",
    "Corpus.mix": "each in (0, 1]",
}
HEAD = """# Recipe reference

Every key of a recipe. This file is written by `python tools/recipe_reference.py` from the fields themselves.

- `NAME` is a name of your own.
- *train keys* are some keys of the section `train`, laid over its values; other sections likewise.
- *run* marks a way of running, which enters no step's identity: a change of it makes nothing anew.
- The source is where `recipes/micota.yaml` has its value from: a place in the paper, or what infers it.
"""


def type_words(hint: Any) -> str:
    """A type for people: `whole number`, `text or null`, `map of NAME to number`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_words(args[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, UnionType):
        return " or ".join(type_words(one) for one in args)
    if origin is list:
        return f"list of {type_words(args[0])}"
    if origin is dict:
        return "map" if args[1] is Any else f"map of NAME to {type_words(args[1])}"
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return plain.get(hint) or f"{hint.__name__.removesuffix('Keys').lower()} keys"


def _marks(hint: Any) -> Iterator[Any]:
    """Every annotation of a type, inner ones too."""
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        if get_origin(hint) is not Literal:
            yield from _marks(inner)


def limit_words(hint: Any) -> str:
    """The limits of a type for people."""
    found = []
    for mark in _marks(hint):
        words = {"gt": "above {}", "ge": "{} or more", "le": "at most {}"}
        bounds = {name: getattr(mark, name, None) for name in words if isinstance(mark, Gt | Ge | Interval)}
        found += [words[name].format(bound) for name, bound in bounds.items() if bound is not None]
    return ", ".join(found)


def _holds_number(hint: Any) -> bool:
    return hint in (int, float) or any(
        _holds_number(inner) for inner in get_args(hint) if get_origin(hint) is not Literal
    )


def field_docstrings(cls: type) -> dict[str, str]:
    """The texts that stand below a class's fields, base classes' too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(inspect.getsource(base).lstrip()).body[0]
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[before.target.id] = " ".join(text.value.split())
    return found


def default_words(one: Any) -> str:
    """A field's default as YAML writes it, or that there is none."""
    if one.default is MISSING and one.default_factory is MISSING:
        return "none: required"
    value = one.default if one.default is not MISSING else one.default_factory()
    if hasattr(value, "__dataclass_fields__"):
        return "its own"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict) and value:
        return ", ".join(f"{key}: {'null' if inner is None else inner}" for key, inner in value.items())
    text = str(value).replace("\n", "\\n")
    return f"`{text}`" if text else "empty"


def rows(cls: type, place: str, sources: dict[str, str]) -> Iterator[list[str]]:
    """One row a field. Raises ValueError for a number without a unit."""
    hints, texts, how = get_type_hints(cls, include_extras=True), field_docstrings(cls), marked(cls, HOW)
    for one in fields(cls):
        key = f"{cls.__name__}.{one.name}"
        home = next((f"{base.__name__}.{one.name}" for base in cls.__mro__ if one.name in vars(base)), key)
        unit = UNITS.get(key, UNITS.get(home, ""))
        hint = hints[one.name]
        if _holds_number(hint) and not unit:
            raise ValueError(f"tools/recipe_reference.py: UNITS has no {key}")
        written = one.name.removesuffix("_")
        source = sources.get(f"{place}.{written}" if place else written, "")
        paper = "" if source.startswith("ours") else source.removeprefix("paper: ")
        words = [unit if unit != RATIO else "", texts.get(one.name, "")]
        yield [
            f"`{written}`", type_words(hint), LIMITS.get(key) or limit_words(hint), default_words(one),
            ". ".join(word for word in words if word), paper, "run" if one.name in how else "",
        ]  # fmt: skip


def reference() -> str:
    """The whole page."""
    sources = load_recipe(PAPER_RECIPE).sources
    parts = [HEAD]
    for path, (cls, place) in PLACES.items():
        parts.append(f"## `{path}`\n" if path else "## The recipe\n")
        parts.append(inspect.cleandoc(cls.__doc__ or "") + "\n")
        parts.append(
            "| key | type | limits | default | unit, note | source | |\n|---|---|---|---|---|---|---|"
        )
        parts += [f"| {' | '.join(row)} |" for row in rows(cls, place, sources)]
        parts.append("")
        if cls is Recipe:
            parts.append(
                "Any file may say `extends: FILE` or a list of files, laid below it in that order.\n"
            )
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    """Write the page, or check that it is current."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md from the recipe's sections.")
    parser.add_argument("--check", action="store_true", help="fail if the file is not current")
    args = parser.parse_args()
    made = reference()
    if not args.check:
        OUTPUT.write_text(made, encoding="utf-8")
    elif not OUTPUT.is_file() or OUTPUT.read_text(encoding="utf-8") != made:
        sys.exit("docs/reference.md is not current: run python tools/recipe_reference.py")


if __name__ == "__main__":
    main()
