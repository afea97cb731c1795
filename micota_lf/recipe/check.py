"""What a recipe's values must mean together: names that exist, ratios that add up, files that are there.

In: a typed recipe. Out: one line a problem, each starting with the key path. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from ..errors import UserError
from ..inputs.benchmarks import load_benchmark
from ..inputs.problems import load_problems
from ..inputs.references import local_path, model_problem
from ..stages.evaluate import evaluated_benchmarks
from ..system.files import read_jsonl
from .lineage import OTHERS, accumulation, parents, training, trainings
from .sections import ASSISTANT_ROLES, ASSISTANT_SFT, RATIO_TOLERANCE, Recipe

KNOWN = 20  # names that an error lists


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known key, or the known keys if none is near."""
    known = [str(k) for k in known]
    shown = ", ".join(known[:KNOWN]) + (f", ... ({len(known)} in all)" if len(known) > KNOWN else "")
    close = get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {shown or 'none'}"


def semantic_problems(recipe: Recipe) -> list[str]:
    """Every problem of a recipe that no single value shows, without the file's name."""
    names = list(_name_problems(recipe))
    if not names:
        names = list(_cycle_problems(recipe))
    # Settings of a training can only be worked out once every name in its lineage exists.
    unfit = [] if names else _training_problems(recipe)
    return [
        *names,
        *_prompt_problems(recipe),
        *_generation_problems(recipe),
        *_model_problems(recipe),
        *_benchmark_problems(recipe),
        *unfit,
    ]


def _name_problems(recipe: Recipe) -> Iterator[str]:
    trained = [f"{student}/{corpus}" for student in recipe.students for corpus in recipe.corpora]
    sources = [*recipe.teachers, *ASSISTANT_ROLES, *recipe.students]
    named: list[tuple[str, Collection[str]]] = [("teachers", recipe.teachers), ("students", recipe.students)]
    for key, names in named:
        for name in set(names) & set(ASSISTANT_ROLES):
            yield f"{key}.{name}: this name is reserved for the teacher assistant"
    for key, names in (*named, ("corpora", recipe.corpora), ("tables", recipe.tables)):
        for name in (name for name in names if not re.fullmatch(r"\w[\w-]{,99}", name)):
            yield f"{key}.{name}: must be letters, digits, hyphens and underscores, at most 100"
    for name in set(recipe.teachers) & set(recipe.students):
        yield f"students.{name}: a teacher has this name too"
    yield from _unknown("assistant.corpus", [recipe.assistant.corpus], recipe.corpora)
    for name, corpus in recipe.corpora.items():
        at = f"corpora.{name}"
        if bool(corpus.from_) == bool(corpus.mix):
            yield f"{at}: needs either `from` (a model) or `mix` (corpora and their ratios)"
        if corpus.from_:
            known = [*sources, *trained] if "/" in corpus.from_ else sources
            yield from _unknown(f"{at}.from", [corpus.from_], known)
        if corpus.mix:
            yield from _unknown(f"{at}.mix", corpus.mix, recipe.corpora)
            for part, ratio in corpus.mix.items():
                if not 0 < ratio <= 1:
                    yield f"{at}.mix.{part}: {ratio} must lie in (0, 1]"
                if part in recipe.corpora and recipe.corpora[part].mix:
                    yield f"{at}.mix.{part}: a mix of a mix; name the corpora themselves"
            total = sum(corpus.mix.values())
            if abs(total - 1) > RATIO_TOLERANCE:
                yield f"{at}.mix: ratios add up to {total:g}, not 1"
    for method, learnt in recipe.methods.items():
        yield from _unknown(f"methods.{method}", [learnt] if learnt else [], recipe.corpora)
    for table, rows in recipe.tables.items():
        if table == "table4":
            yield "tables.table4: Table 4 is the section `bpc`"
        yield from _unknown(f"tables.{table}", rows, [*recipe.students, OTHERS])
        for student, methods in rows.items():
            yield from _unknown(f"tables.{table}.{student}", methods, recipe.methods)
    for student, spec in recipe.students.items():
        at = f"students.{student}.train_for"
        yield from _unknown(at, spec.train_for, [*recipe.corpora, *recipe.teachers])
    yield from _unknown("bpc.models", recipe.bpc.models, [*recipe.teachers, "assistant", *recipe.students])
    yield from _unknown("bpc.corpora", recipe.bpc.corpora, recipe.corpora)


def _unknown(at: str, names: Iterable[str], known: Collection[str]) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"{at}: unknown name {name!r}; {nearest(name, known)}"


def _cycle_problems(recipe: Recipe) -> Iterator[str]:
    """A corpus that needs, through mixes and trained models, itself."""
    try:
        TopologicalSorter({name: parents(recipe, name) for name in recipe.corpora}).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        if circle[0] == recipe.assistant.corpus:
            yield f"assistant.corpus: {circle[0]!r} comes from the assistant that it is to train"
        else:
            yield f"corpora.{circle[0]}: needs itself: {' <- '.join(circle)}"


def _prompt_problems(recipe: Recipe) -> Iterator[str]:
    prompts = recipe.prompts
    if "{problem}" not in prompts.template:
        yield f"prompts.template: {prompts.template!r} does not contain {{problem}}"
    path = local_path(prompts.path, "data")
    if path is None:
        return
    if not path.is_file():
        yield f"prompts.path: no such file: {prompts.path}"
        return
    try:
        rows = read_jsonl(path)
    except UserError as error:
        yield f"prompts.path: {error}"
        return
    if not rows:
        yield f"prompts.path: {prompts.path} holds no prompts"
        return
    for field in (prompts.problem_field, prompts.answer_field):
        bare = next((n for n, row in enumerate(rows, start=1) if row.get(field) in (None, "")), None)
        if bare:
            hint = nearest(field, rows[bare - 1])
            yield f"prompts.path: {prompts.path}: row {bare} has no {field!r}; {hint}"
            return
    try:
        load_problems(prompts)
    except UserError as error:
        yield f"prompts.path: {error}"


def _generation_problems(recipe: Recipe) -> Iterator[str]:
    spec = recipe.generation
    if spec.backend == "endpoint" and not spec.endpoints:
        yield "generation.endpoints: the backend 'endpoint' needs at least one address"
    if spec.prompt_format == "raw" and recipe.prompts.system:
        yield "generation.prompt_format: raw prompts have no place for prompts.system"


def _model_problems(recipe: Recipe) -> Iterator[str]:
    refs = {f"teachers.{name}.model": spec.model for name, spec in recipe.teachers.items()}
    refs["assistant.model"] = recipe.assistant.model
    refs |= {f"students.{name}.model": spec.model for name, spec in recipe.students.items()}
    merge = recipe.assistant.merge
    if merge.preset == "pretrained":
        if not merge.pretrained_model:
            yield "assistant.merge.pretrained_model: the preset 'pretrained' needs one"
        else:
            refs["assistant.merge.pretrained_model"] = merge.pretrained_model
    for at, ref in refs.items():
        problem = model_problem(ref, chat=not at.endswith("pretrained_model"))
        if problem:
            yield f"{at}: {problem}"


def _benchmark_problems(recipe: Recipe) -> Iterator[str]:
    spec = recipe.evaluation
    if spec.include_path and not Path(spec.include_path).is_dir():
        yield f"evaluation.include_path: no such directory: {spec.include_path}"
        return
    try:
        for found in evaluated_benchmarks(spec).values():
            if local_path(found.path, "data"):
                load_benchmark(found)
    except UserError as error:
        yield f"evaluation: {error}"


def _training_problems(recipe: Recipe) -> Iterator[str]:
    found: dict[str, None] = {}
    for model, corpus in trainings(recipe):
        at = "assistant.train" if model == ASSISTANT_SFT else f"students.{model}.train"
        try:
            settings = training(recipe, model, corpus)
            accumulation(recipe, settings)
            if settings.deepspeed != "none" and settings.use_cpu:  # transformers then never starts DeepSpeed
                found[f"{at}.deepspeed: {settings.deepspeed} cannot train with use_cpu"] = None
        except UserError as error:
            found[f"{at}.{error}"] = None
    yield from found
