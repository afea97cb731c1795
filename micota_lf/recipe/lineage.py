"""What follows from a recipe's names: which model a corpus comes from, which settings hold for a training.

A corpus comes from (`from`) a teacher, a student, a role of the assistant, or `STUDENT/CORPUS`, a student
trained on a corpus.

training(recipe, "student-s", "strong").learning_rate
accumulation(recipe, training(recipe, "student-s", "strong"))
strong_teachers(recipe, "micota")        -> ("teacher",)
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from ..errors import UserError
from .sections import ASSISTANT_ROLES, ASSISTANT_SFT, Assistant, Filter, Model, Recipe, Student, Train

Section = TypeVar("Section")

OTHERS = "others"  # in a table: every student that it does not name

# Methods of the paper's tables that hold fewer than all; names as in `recipe.paper_methods`.
PAPER_METHODS = {
    "table1": ("Strong Teacher CoT", "Half-size CoT"),
    "table3": ("Strong Teacher CoT", "Half-size CoT", "MiCoTA"),
    "figures": ("Instruct", "Strong Teacher CoT", "Half-size CoT", "MiCoTA"),
}


_laid: dict[str, Any] = {}


def overlay(base: Section, partial: dict[str, Any]) -> Section:
    """`base` (a frozen section such as `Train`) with the keys of `partial` laid over it."""
    if not partial:
        return base
    from omegaconf import OmegaConf  # not at the top: each step's process would pay for it

    asked = repr((base, partial))  # large recipes ask the same again and again, and OmegaConf takes its time
    if asked not in _laid:
        _laid[asked] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(base), partial))
    return cast(Section, _laid[asked])


def generation_how(recipe: Recipe, gpus: int) -> dict[str, Any]:
    """Flags of `micota generate` that decide no response, for a step that may use so many GPUs.

    vLLM splits a model over `hardware.inference_gpus` and serves as many copies as the GPUs allow.
    """
    spec = recipe.generation
    if spec.backend == "endpoint":
        return {"endpoints": spec.endpoints, "api_key_env": spec.api_key_env}
    if spec.backend != "vllm":
        return {"batch_size": spec.batch_size}
    split = max(1, min(recipe.hardware.inference_gpus, gpus))
    return {
        "engine": recipe.engines.vllm, "tensor_parallel": split, "data_parallel": max(1, gpus // split),
        "gpu_memory_utilization": spec.gpu_memory_utilization,
    }  # fmt: skip


def generation_gpus(recipe: Recipe) -> int:
    """GPUs of a step that generates: those of one copy of the model, with vLLM those of all copies."""
    hardware = recipe.hardware
    one = min(hardware.inference_gpus, hardware.gpus)
    copies = hardware.gpus // max(1, one) if recipe.generation.backend == "vllm" else 1
    return 0 if recipe.generation.backend == "endpoint" else one * copies


def trainings(recipe: Recipe) -> list[tuple[str, str]]:
    """Name and corpus of each training: the assistant's, the methods' of every student, the corpora's."""
    learnt = [corpus for corpus in recipe.methods.values() if corpus]
    sources = (trained_student(recipe, spec.from_ or "") for spec in recipe.corpora.values())
    return list(dict.fromkeys([
        (ASSISTANT_SFT, recipe.assistant.corpus),
        *((student, corpus) for student in recipe.students for corpus in learnt),
        *(source for source in sources if source),
    ]))  # fmt: skip


def trained_student(recipe: Recipe, name: str) -> tuple[str, str] | None:
    """The student and the corpus that `STUDENT/CORPUS` names, or None for any other name."""
    student, _, corpus = name.partition("/")
    return (student, corpus) if student in recipe.students and corpus else None


def learnt_corpus(recipe: Recipe, name: str) -> str | None:
    """The corpus that a trained model (a role of the assistant, or `STUDENT/CORPUS`) has learnt from."""
    if name in ASSISTANT_ROLES[1:]:
        return recipe.assistant.corpus
    trained = trained_student(recipe, name)
    return trained[1] if trained else None


def parents(recipe: Recipe, corpus: str) -> list[str]:
    """Corpora that a corpus is made of, or that its model has learnt from."""
    spec = recipe.corpora[corpus]
    learnt = learnt_corpus(recipe, spec.from_) if spec.from_ else None
    return [*spec.mix, *([learnt] if learnt else [])]


def baseline(recipe: Recipe) -> str | None:
    """The method that leaves a student untrained (the paper's Instruct), if the recipe has one."""
    return next((method for method, corpus in recipe.methods.items() if corpus is None), None)


def table_names(recipe: Recipe) -> list[str]:
    """Tables that the recipe fills, in the paper's order, then its own; `figures` are Figures 2 to 4."""
    given = list(recipe.tables) or ["table1", "table2", "table3"]
    bpc = ["table4"] if recipe.bpc.models and recipe.bpc.corpora else []
    named = dict.fromkeys([*given, *bpc, "figures"])
    return sorted(named, key=lambda name: (not name.startswith("table"), name))


def table_rows(recipe: Recipe, table: str) -> list[tuple[str, str]]:
    """Rows of a table as (student, method), students in the recipe's order.

    A table gives a student's methods under its name, or under `others` for all that it does not name. One
    that the recipe does not give has the methods of the paper's table; figures show the students of Table 2.
    """
    methods = [m for m in recipe.methods if m in PAPER_METHODS.get(table, recipe.methods)]
    given = recipe.tables.get(table)
    if given is None:
        main = dict(table_rows(recipe, "table2")) if "table2" in recipe.tables else recipe.students
        return [(student, method) for student in main for method in methods]
    return [
        (student, method)
        for student in recipe.students
        for method in given.get(student, given.get(OTHERS, []))
    ]


def model_of(recipe: Recipe, name: str) -> Model:
    """The untrained model that a teacher's, student's or the assistant's name stands for."""
    if name in recipe.teachers:
        return recipe.teachers[name]
    owner: Student | Assistant = recipe.students.get(name) or recipe.assistant
    return Model(model=owner.model, revision=owner.revision)


def strong_teachers(recipe: Recipe, corpus: str) -> tuple[str, ...]:
    """Names of the teachers at the root of a corpus, in the order in which they are met."""
    spec = recipe.corpora[corpus]
    if spec.from_ in recipe.teachers:
        return (spec.from_,)
    roots = [root for before in parents(recipe, corpus) for root in strong_teachers(recipe, before)]
    return tuple(dict.fromkeys(roots))


def training(recipe: Recipe, model: str, corpus: str) -> Train:
    """The training settings of a student, or of the assistant (`assistant-sft`), on a corpus.

    Later wins: the recipe's `train`, the model's `train`, its `train_for` by teacher, then by corpus.
    Raises UserError for an unknown student or corpus.
    """
    if corpus not in recipe.corpora:
        raise UserError(f"recipe {recipe.name}: no corpus {corpus!r}; known: {', '.join(recipe.corpora)}")
    if model == ASSISTANT_SFT:
        return overlay(recipe.train, recipe.assistant.train)
    if model not in recipe.students:
        raise UserError(f"recipe {recipe.name}: no student {model!r}; known: {', '.join(recipe.students)}")
    student = recipe.students[model]
    settings = overlay(recipe.train, student.train)
    for key in (*strong_teachers(recipe, corpus), corpus):
        settings = overlay(settings, student.train_for.get(key, {}))
    return settings


def filtering(recipe: Recipe, corpus: str) -> Filter:
    """The filter of a corpus; L_max defaults to generation's max_tokens."""
    spec = overlay(recipe.filter, recipe.corpora[corpus].filter)
    return spec if spec.max_tokens else overlay(spec, {"max_tokens": recipe.generation.max_tokens})


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
        raise UserError(
            f"global_batch_size: {train.global_batch_size} does not split into per_device_train_batch_size "
            f"{per_device} x {devices} device(s)"
        )
    return steps
