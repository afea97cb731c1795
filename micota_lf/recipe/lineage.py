"""What follows from a recipe's names: which model a corpus comes from, which settings hold for a training.

    training(recipe, "student-s", "strong").learning_rate
    accumulation(recipe, training(recipe, "student-s", "strong"))
    strong_teachers(recipe, "micota")        -> ("teacher",)

A model's name is that of a teacher, a student (untrained), `STUDENT/CORPUS` (the student trained on the
corpus) or an assistant (such a training, merged with its start).
"""

from dataclasses import replace
from typing import NamedTuple

from ..errors import UserError, must_know
from .sections import GRADERS, NAMES, Filter, Model, Recipe, Train

OTHERS = "others"  # in a table: every student that it does not name


class Training(NamedTuple):
    """A student trained on a corpus, by their names."""

    student: str
    corpus: str


def training_named(recipe: Recipe, name: str) -> Training | None:
    """The training that `STUDENT/CORPUS` names, or that an assistant is merged from; None for others."""
    if name in recipe.assistants:
        name = recipe.assistants[name].from_
    student, _, corpus = name.partition("/")
    return Training(student, corpus) if student in recipe.students and corpus else None


def trainings(recipe: Recipe) -> list[Training]:
    """Each training: the assistants', the methods' of every student, those that corpora come from."""
    learnt = [corpus for corpus in recipe.methods.values() if corpus]
    rows = [f"{student}/{corpus}" for student in recipe.students for corpus in learnt]
    sources = [name for spec in recipe.corpora.values() for name in (spec.from_, spec.on_policy) if name]
    found = [training_named(recipe, name) for name in (*recipe.assistants, *sources, *rows)]
    return list(dict.fromkeys(one for one in found if one))


def parents(recipe: Recipe, corpus: str) -> list[str]:
    """Corpora that a corpus is made of or rewrites, or that its models have learnt from."""
    spec = recipe.corpora[corpus]
    learnt = [training_named(recipe, name or "") for name in (spec.from_, spec.on_policy)]
    rewritten = [spec.rewrites] if spec.rewrites else []
    return [*spec.mix, *rewritten, *(one.corpus for one in learnt if one)]


def responses_slot(recipe: Recipe, corpus: str) -> str:
    """Where a plan has the step that makes a corpus' responses, which of a file or a mix none does."""
    spec = recipe.corpora[corpus]
    return f"rewrite/{corpus}" if spec.rewrites else f"generate/{spec.from_}"


def strong_teachers(recipe: Recipe, corpus: str) -> tuple[str, ...]:
    """Names of the teachers at the root of a corpus, in the order in which they are met."""
    source = recipe.corpora[corpus].from_
    if source in recipe.assistants:  # maybe merged from a teacher
        source = recipe.assistants[source].from_
    if source in recipe.teachers and not recipe.corpora[corpus].rewrites:
        return (source,)
    roots = [root for before in parents(recipe, corpus) for root in strong_teachers(recipe, before)]
    return tuple(dict.fromkeys(roots))


def shown_teachers(recipe: Recipe) -> list[str]:
    """The strong teachers of Table 2: those of the assistants, or without any those of the first method."""
    merged = [spec.from_ for spec in recipe.assistants.values() if spec.from_ in recipe.teachers]
    learnt = [training.corpus for name in recipe.assistants if (training := training_named(recipe, name))]
    learnt = learnt or [corpus for corpus in recipe.methods.values() if corpus][:1]
    roots = (root for corpus in learnt for root in strong_teachers(recipe, corpus))
    return list(dict.fromkeys([*merged, *roots]))


def model_of(recipe: Recipe, name: str) -> Model:
    """The untrained model behind a name; of an assistant, the one that it is merged with."""
    name = recipe.assistants[name].start if name in recipe.assistants else name
    learnt = training_named(recipe, name)
    return recipe.teachers.get(name) or recipe.students[learnt.student if learnt else name]


def training(recipe: Recipe, student: str, corpus: str) -> Train:
    """The training settings of a student on a corpus.

    Later wins: the recipe's `train`, the student's `train`, its `train_for` by teacher, then by corpus.
    Raises UserError for an unknown student or corpus.
    """
    must_know(corpus, recipe.corpora, "corpora")
    must_know(student, recipe.students, "students")
    spec, settings = recipe.students[student], recipe.train
    keys = (*strong_teachers(recipe, corpus), corpus)
    for layer in (spec.train, *(spec.train_for.get(key, {}) for key in keys)):
        extra = {**settings.extra, **layer.get("extra", {})}
        settings = replace(settings, **{**layer, "extra": extra})
    return settings


def filtering(recipe: Recipe, corpus: str) -> Filter:
    """The filter of a corpus; L_max of responses that are generated defaults to generation's max_tokens."""
    spec = replace(recipe.filter, **recipe.corpora[corpus].filter)
    given = spec.max_tokens or recipe.corpora[corpus].file
    return spec if given else replace(spec, max_tokens=recipe.generation.max_tokens)


def judged(recipe: Recipe) -> bool:
    """Whether a grader decides on generated responses, which needs the prompts' answers."""
    made = (name for name, spec in recipe.corpora.items() if spec.from_)
    return any(filtering(recipe, name).verdict in GRADERS for name in made)


def train_processes(recipe: Recipe) -> int:
    """Processes of one training on each machine: one a GPU, or `cpu_processes` without GPUs."""
    hardware = recipe.hardware
    if not hardware.gpus:
        return hardware.cpu_processes
    return max(1, hardware.gpus if hardware.train_gpus is None else hardware.train_gpus)


def accumulation(recipe: Recipe, train: Train) -> int:
    """Gradient accumulation steps: global batch / (per-device batch x processes x nodes).

    Raises UserError if that is not a whole number: the batch would silently be another one.
    """
    devices, per_device = train_processes(recipe) * recipe.hardware.nodes, train.per_device_train_batch_size
    steps, rest = divmod(train.global_batch_size, per_device * devices)
    if rest or not steps:
        parts = f"per_device_train_batch_size {per_device} x {devices} device(s)"
        raise UserError(f"global_batch_size: {train.global_batch_size} does not split into {parts}")
    return steps


def baseline(recipe: Recipe) -> str | None:
    """The method that leaves a student untrained (the paper's Instruct), if the recipe has one."""
    return next((method for method, corpus in recipe.methods.items() if corpus is None), None)


def table_names(recipe: Recipe) -> list[str]:
    """Tables that the recipe fills, in the paper's order, then its own; `figures` are Figures 2 to 4."""
    bpc = ["table4"] if recipe.bpc.models and recipe.bpc.corpora else []
    named = {*(recipe.tables or ("table1", "table2", "table3")), *bpc, "figures"}
    return sorted(named, key=lambda name: (not name.startswith("table"), name))


def table_rows(recipe: Recipe, table: str) -> list[tuple[str, str]]:
    """Rows of a table as (student, method), students in the recipe's order.

    A table gives a student's methods under its name, or under `others` for all that it does not name. One
    that the recipe does not give has the methods of the paper's table; figures show the students of Table 2.
    """
    methods = [m for m in recipe.methods if m in NAMES["tables"].get(table, recipe.methods)]
    given = recipe.tables.get(table)
    if given is None:
        main = dict(table_rows(recipe, "table2")) if "table2" in recipe.tables else recipe.students
        return [(student, method) for student in main for method in methods]
    others = given.get(OTHERS, [])
    return [(student, method) for student in recipe.students for method in given.get(student, others)]


def evaluated_models(recipe: Recipe, table: str) -> dict[str, str]:
    """What a table evaluates, to the names of its models.

    It is known by a model's name, as STUDENT/METHOD, or of an assistant as ASSISTANT/before and /tuned.
    """
    found: dict[str, str] = {}
    if table == "table2":
        found = {name: name for name in (*shown_teachers(recipe), *recipe.assistants)}
    for name, assistant in recipe.assistants.items() if table == "figures" else ():
        found |= {f"{name}/before": assistant.start, f"{name}/tuned": assistant.from_, name: name}
    rows = table_rows(recipe, table)
    if table == "table1" and (base := baseline(recipe)):  # its deltas are against the untrained students
        rows += [(student, base) for student in dict(rows)]
    for student, method in rows:
        corpus = recipe.methods[method]
        found[f"{student}/{method}"] = f"{student}/{corpus}" if corpus else student
    return found
