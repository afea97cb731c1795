"""What a recipe's values must mean together: names that exist, ratios that add up, files that are there.

In: a typed recipe. Out: one line a problem, each starting with the key path. Nothing is downloaded.
"""

from collections.abc import Collection, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, product

from ..errors import UserError, nearest
from ..inputs.problems import load_problems
from ..inputs.references import DataRef
from ..inputs.weights import model_problem, quantised_problem
from ..system.files import read_jsonl
from .lineage import OTHERS, accumulation, judged, parents, training, trainings
from .sections import MERGE_METHODS, RATIO_TOLERANCE, Recipe
from .tasks import evaluated_benchmarks


def semantic_problems(recipe: Recipe, known: Recipe | None = None) -> list[str]:
    """Every problem of a recipe that no single value shows, without the file's name.

    Problems to answer are not read again if they are those of a `known` recipe, which was checked.
    """
    names = list(_name_problems(recipe)) or list(_cycle_problems(recipe))
    # Settings of a training can only be worked out once every name in its lineage exists.
    trainable = [] if names else [_training_problems]
    same = known and (known.prompts, known.evaluation) == (recipe.prompts, recipe.evaluation)
    read = [] if same else [_prompt_problems, _benchmark_problems]
    rest = [settings_problems, *read, _model_problems, *trainable]
    return names + [line for problems in rest for line in problems(recipe)]


def _name_problems(recipe: Recipe) -> Iterator[str]:
    for first, second in combinations(("teachers", "students", "assistants"), 2):
        for name in set(getattr(recipe, first)) & set(getattr(recipe, second)):
            yield f"{second}.{name}: one of {first} has this name too"
    trained = [f"{student}/{corpus}" for student in recipe.students for corpus in recipe.corpora]
    untrained = [*recipe.teachers, *recipe.students]
    for name, assistant in recipe.assistants.items():
        given = [assistant.before] if assistant.before else []
        yield from _unknown(f"assistants.{name}.before", given, untrained)
        known = [*trained, *untrained] if given else trained
        yield from _unknown(f"assistants.{name}.from", [assistant.from_], known)
    yield from _corpus_problems(recipe, trained)
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
    yield from _unknown("bpc.models", recipe.bpc.models, untrained)
    yield from _unknown("bpc.corpora", recipe.bpc.corpora, recipe.corpora)


def _corpus_problems(recipe: Recipe, trained: list[str]) -> Iterator[str]:
    sources = [*recipe.teachers, *recipe.students, *recipe.assistants]
    for name, corpus in recipe.corpora.items():
        at = f"corpora.{name}"
        if sum(map(bool, (corpus.from_, corpus.mix, corpus.file))) != 1:
            yield f"{at}: needs one of `from` (a model), `mix` (corpora, their ratios) and `file` (responses)"
        if corpus.from_:
            known = [*sources, *trained] if "/" in corpus.from_ else sources
            yield from _unknown(f"{at}.from", [corpus.from_], known)
        if corpus.file and not ((path := DataRef(corpus.file).local) and path.exists()):
            yield f"{at}.file: no such file: {corpus.file} (./ and its name, if it is none of JSON Lines)"
        known = [*sources, *trained]
        yield from _unknown(f"{at}.on_policy", [corpus.on_policy] if corpus.on_policy else [], known)
        yield from _unknown(f"{at}.rewrites", [corpus.rewrites] if corpus.rewrites else [], recipe.corpora)
        if corpus.rewrites and not corpus.from_:
            yield f"{at}.rewrites: needs `from`, the model that writes {corpus.rewrites!r} anew"
        if "{response}" not in corpus.template:
            yield f"{at}.template: {corpus.template!r} does not contain {{response}}"
        yield from _unknown(f"{at}.mix", corpus.mix, recipe.corpora)
        for part in corpus.mix:
            if part in recipe.corpora and (recipe.corpora[part].mix or recipe.corpora[part].on_policy):
                what = "a mix of a mix" if recipe.corpora[part].mix else "on-policy is no mix of rows"
                yield f"{at}.mix.{part}: {what}; name the corpora themselves"
        total = sum(corpus.mix.values())
        if corpus.mix and abs(total - 1) > RATIO_TOLERANCE:
            yield f"{at}.mix: ratios add up to {total:g}, not 1"


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
        yield f"corpora.{circle[0]}: needs itself: {' <- '.join(circle)}"


def settings_problems(recipe: Recipe) -> Iterator[str]:
    """What is wrong with how models are asked and merged, in a recipe or in one stage's settings."""
    prompts, spec = recipe.prompts, recipe.generation
    if "{problem}" not in prompts.template:
        yield f"prompts.template: {prompts.template!r} does not contain {{problem}}"
    if spec.backend == "endpoint" and not spec.endpoints:
        yield "generation.endpoints: the backend 'endpoint' needs at least one address"
    if spec.samples > 1 and not spec.temperature:
        yield f"generation.samples: {spec.samples} greedy responses are the same: set generation.temperature"
    if spec.prompt_format == "raw" and prompts.system:
        yield "generation.prompt_format: raw prompts have no place for prompts.system"
    for name, assistant in recipe.assistants.items():
        at, merge = f"assistants.{name}.merge", assistant.merge
        method = MERGE_METHODS[merge.merge_method]
        if method.base and not method.parameters and merge.preset == "instruct":
            yield f"{at}.merge_method: has no weight, so it needs the preset 'pretrained'"
        if merge.preset == "pretrained" and not merge.pretrained:
            yield f"{at}.pretrained_model: the preset 'pretrained' needs one"
        if merge.target_length_ratio and merge.weight is not None:
            yield f"{at}.weight: target_length_ratio finds it; one of the two must be null"


def _prompt_problems(recipe: Recipe) -> Iterator[str]:
    prompts = recipe.prompts
    if not (path := prompts.source.local):
        return
    try:
        columns = [prompts.problem_field, *([prompts.answer_field] if judged(recipe) else [])]
        rows = [] if prompts.skip_bad else read_jsonl(path)
        for column, (number, row) in product(columns, enumerate(rows, start=1)):
            if row.get(column) in (None, ""):
                raise UserError(f"{prompts.path}: row {number}: has no {column!r}; {nearest(column, row)}")
        load_problems(prompts)
    except UserError as error:
        yield f"prompts.path: {error}"


def _model_problems(recipe: Recipe) -> Iterator[str]:
    refs = {f"teachers.{name}.model": spec.reference for name, spec in recipe.teachers.items()}
    refs |= {f"students.{name}.model": spec.reference for name, spec in recipe.students.items()}
    bases = {name: spec.merge.pretrained for name, spec in recipe.assistants.items()}
    refs |= {f"assistants.{name}.merge.pretrained_model": base for name, base in bases.items() if base}
    for at, ref in refs.items():
        if problem := model_problem(ref, chat=at.endswith(".model")):
            yield f"{at}: {problem}"
        elif ref.local and not at.startswith("teachers.") and (problem := quantised_problem(ref)):
            yield f"{at}: {problem}"  # an engine may still answer with a teacher's


def _benchmark_problems(recipe: Recipe) -> Iterator[str]:
    try:
        for found in evaluated_benchmarks(recipe.evaluation).values():
            if found.source.local:
                load_problems(found)
    except UserError as error:
        yield f"evaluation{'.' if str(error).startswith('include_path') else ': '}{error}"


def _training_problems(recipe: Recipe) -> Iterator[str]:
    for student, corpus in trainings(recipe):
        at = f"students.{student}.train"
        try:
            settings = training(recipe, student, corpus)
            accumulation(recipe, settings)
            wishes = {"packing": settings.packing, "freeze": settings.finetuning_type != "full"}
            wishes |= {"hardware.nodes above 1": recipe.hardware.nodes > 1}
            for wish in (w for w, set_so in wishes.items() if set_so and recipe.corpora[corpus].on_policy):
                yield f"{at}: on-policy distillation (corpora.{corpus}.on_policy) goes without {wish}"
            if settings.deepspeed != "none" and settings.use_cpu:  # transformers then never starts DeepSpeed
                yield f"{at}.deepspeed: {settings.deepspeed} cannot train with use_cpu"
        except UserError as error:
            yield f"{at}.{error}"
