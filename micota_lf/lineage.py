"""What follows from a recipe's names: which model a corpus comes from, which settings hold for a training.

training(recipe, "student-s", "strong").learning_rate
accumulation(recipe, training(recipe, "student-s", "strong"))
strong_teachers(recipe, "micota")        -> ("teacher",)
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from omegaconf import OmegaConf

from .errors import UserError
from .recipe import ASSISTANT_ROLES, ASSISTANT_SFT, Assistant, Filter, Model, Recipe, Student, Train

Section = TypeVar("Section")


def overlay(base: Section, partial: dict[str, Any]) -> Section:
    """`base` (a frozen section such as `Train`) with the keys of `partial` laid over it."""
    if not partial:
        return base
    laid: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(base), partial))
    return cast(Section, laid)


def model_of(recipe: Recipe, name: str) -> Model:
    """The untrained model that a teacher's, student's or the assistant's name stands for."""
    if name in recipe.teachers:
        return recipe.teachers[name]
    owner: Student | Assistant = recipe.students.get(name) or recipe.assistant
    return Model(model=owner.model, revision=owner.revision)


def strong_teachers(recipe: Recipe, corpus: str) -> tuple[str, ...]:
    """Names of the teachers at the root of a corpus, in the order in which they are met."""
    spec = recipe.corpora[corpus]
    if spec.mix:
        roots = [root for part in spec.mix for root in strong_teachers(recipe, part)]
    elif spec.from_ in recipe.teachers:
        roots = [spec.from_]
    elif spec.from_ in ASSISTANT_ROLES[1:]:
        roots = list(strong_teachers(recipe, recipe.assistant.corpus))
    else:
        roots = []
    return tuple(dict.fromkeys(root for root in roots if root))


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
