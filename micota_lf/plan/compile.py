"""A recipe compiled to a plan: content-addressed steps, as plain dicts.

    plan = compile_plan(load_recipe("recipes/tiny.yaml"))
    plan["slots"]["train/student-s/micota"]          -> a step's id
    plan["steps"][id]["config"]                      -> what decides its outputs

A step's id is the hash of its kind, its config and its inputs (other steps' ids, or the content or revision
of a model). GPU counts, batch splits, paths and logging stay outside, in `how`. Slots give steps the names
that the recipe uses for them; several slots can share a step, and steps of equal content are one step.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

from ..inputs.problems import prompt_fields, prompt_input
from ..inputs.references import identity, resolve, slug
from ..recipe.lineage import (
    baseline,
    filtering,
    generation_gpus,
    generation_how,
    model_of,
    strong_teachers,
    table_names,
    table_rows,
    train_processes,
    trained_student,
    training,
)
from ..recipe.sections import (
    ASSISTANT,
    ASSISTANT_MERGED,
    ASSISTANT_ROLES,
    ASSISTANT_SFT,
    Model,
    Recipe,
    sampling_settings,
)
from ..stages import bpc, evaluate, merge, preflight, train
from ..system.files import digest

# Raise it when a step's outputs change for the same config: old steps are then left alone and made anew.
SCHEMA = 1
LABEL_CHARACTERS = 80
# Kinds that take `inference_gpus` where there are GPUs; others say themselves how many.
GPU_KINDS = ("evaluate", "bpc")


class Input(TypedDict, total=False):
    """One input: a file of another step (`step`, `file`), or a reference (`ref`) with its identity."""

    step: str
    file: str
    ref: str
    identity: dict[str, Any]


class Step(TypedDict):
    """One unit of work in `runs/<kind>/<label>-<id>/`."""

    id: str
    kind: str
    label: str
    config: dict[str, Any]
    inputs: dict[str, Input]
    how: dict[str, Any]


class Plan(TypedDict):
    """All steps of a recipe, each after its inputs.

    `slots` maps the recipe's names to step ids; `tables` maps each table (`table1` to `table4`, `figures`,
    others that the recipe names) to the slots that fill it.
    """

    recipe: str
    steps: dict[str, Step]
    slots: dict[str, str]
    tables: dict[str, list[str]]
    cores: int
    gpus: int


def compile_plan(recipe: Recipe) -> Plan:
    """Every step that the recipe's tables need. Reads local model files to identify them, writes nothing."""
    compiler = _Compiler(recipe)
    compiler.preflight()
    tables = {table: compiler.table(table) for table in table_names(recipe)}
    return {
        "recipe": recipe.name, "steps": compiler.steps, "slots": compiler.slots, "tables": tables,
        "cores": recipe.hardware.cores, "gpus": recipe.hardware.gpus,
    }  # fmt: skip


def step_directory(step: Step) -> str:
    """Where a step lives below the workspace."""
    return f"{step['kind']}/{step['label']}-{step['id']}"


def dependencies(step: Step) -> list[str]:
    """Ids of the steps that a step reads."""
    return [given["step"] for given in step["inputs"].values() if "step" in given]


def resolved_inputs(plan: Plan, step: Step, workspace: Path) -> dict[str, str]:
    """Each input as an absolute path or a hub id."""
    return {
        role: str(workspace / step_directory(plan["steps"][given["step"]]) / given["file"])
        if "step" in given
        else resolve(given["ref"], preflight.input_kind(role))
        for role, given in step["inputs"].items()
    }


class _Compiler:
    """Adds steps on demand; a step asked for twice is the same step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps: dict[str, Step] = {}
        self.slots: dict[str, str] = {}
        for asked_often in ("_reference", "corpus", "responses", "trained", "merged"):
            setattr(self, asked_often, cache(getattr(self, asked_often)))

    def preflight(self) -> None:
        """The step that every other one waits for without reading it (runs.py)."""
        config, inputs = preflight.checks(self.recipe)
        self._add("preflight", "preflight", "checks", config, inputs, {})

    def model(self, name: str) -> Input:
        """The model that a corpus, a table row or a BPC column names."""
        if name == ASSISTANT_MERGED:
            return self.merged()
        if name == ASSISTANT_SFT:
            return self.trained(ASSISTANT_SFT, self.recipe.assistant.corpus)
        trained = trained_student(self.recipe, name)
        if trained:
            return self.trained(*trained)
        return self._reference(model_of(self.recipe, name))

    def corpus(self, name: str) -> Input:
        """The corpus of that name: filtered responses, or a mix."""
        spec = self.recipe.corpora[name]
        if spec.from_:
            responses = self.responses(spec.from_)
            rule = filtering(self.recipe, name)
            config = asdict(rule)
            label = self._label(responses)
            made = self._add(f"filter/{name}", "filter", label, config, {"responses": responses}, {})
        else:
            parts = {f"part{n}": self.corpus(part) for n, part in enumerate(spec.mix)}
            config = {"ratios": list(spec.mix.values()), "seed": spec.seed, "size": spec.size}
            label = "-".join(["mix", *(self._label(part) for part in parts.values())])
            made = self._add(f"mix/{name}", "mix", label, config, parts, {})
        return {"step": made, "file": "corpus.jsonl"}

    def responses(self, source: str) -> Input:
        """Responses of a model to the recipe's prompts."""
        model = self.model(source)
        config = sampling_settings(self.recipe.generation) | prompt_fields(self.recipe.prompts)
        gpus = generation_gpus(self.recipe)
        flags = generation_how(self.recipe, gpus)
        how = {"gpus": gpus, "generate": flags, **({"engine": flags["engine"]} if "engine" in flags else {})}
        inputs = {"model": model, "prompts": self._prompts()}
        made = self._add(f"generate/{source}", "generate", self._label(model), config, inputs, how)
        return {"step": made, "file": "responses.jsonl"}

    def trained(self, name: str, corpus: str) -> Input:
        """A student, or the assistant, fine-tuned on a corpus."""
        settings = training(self.recipe, name, corpus)
        start = self._reference(model_of(self.recipe, name))
        data = self.corpus(corpus)
        config = {"train": train.what_settings(settings, self.recipe.prompts.system)}
        how = {
            "train": train.how_settings(self.recipe, settings), "gpus": train.train_gpus(self.recipe),
            "processes": train_processes(self.recipe), "nodes": self.recipe.hardware.nodes,
            "engine": self.recipe.engines.llamafactory,
        }  # fmt: skip
        label = f"{self._label(start)}-on-{self._label(data)}"
        inputs = {"model": start, "corpus": data}
        made = self._add(f"train/{name}/{corpus}", "train", label, config, inputs, how)
        return {"step": made, "file": "model"}

    def merged(self) -> Input:
        """The assistant merged with its earlier self."""
        spec = self.recipe.assistant.merge
        after = self.trained(ASSISTANT_SFT, self.recipe.assistant.corpus)
        inputs = {"before": self._reference(model_of(self.recipe, ASSISTANT)), "after": after}
        if spec.preset == "pretrained" and spec.pretrained_model:
            inputs["pretrained"] = self._reference(Model(spec.pretrained_model, spec.pretrained_revision))
        health = merge.health_settings(spec, self.recipe.generation, self.recipe.prompts)
        how: dict[str, Any] = {"engine": self.recipe.engines.mergekit}
        if health:
            inputs["prompts"] = self._prompts()
            gpus = min(1, self.recipe.hardware.gpus)
            how |= {"gpus": gpus, "generate": merge.health_how(self.recipe, gpus)}
        config = {"merge": merge.merge_settings(spec), "health": health}
        label = f"{self._label(after)}-merged"
        made = self._add(f"merge/{ASSISTANT}", "merge", label, config, inputs, how)
        return {"step": made, "file": "model"}

    def table(self, table: str) -> list[str]:
        """Slots of the steps that fill a table, which are added to the plan."""
        if table == "table4":
            return [self.bpc(name) for name in self.recipe.bpc.models]
        if not self.recipe.evaluation.tasks:
            return []
        roles: list[str] = []
        if table == "table2":
            roles = [*strong_teachers(self.recipe, self.recipe.assistant.corpus), ASSISTANT_MERGED]
        elif table == "figures":
            roles = list(ASSISTANT_ROLES)
        rows = table_rows(self.recipe, table)
        base = baseline(self.recipe)
        if table == "table1" and base:  # its deltas are against the untrained students
            rows += [(student, base) for student in dict(rows)]
        slots = [self.evaluation(f"evaluate/{role}", self.model(role)) for role in roles]
        return [*self.overlap(), *slots, *(self.row(student, method) for student, method in rows)]

    def overlap(self) -> list[str]:
        """The search for benchmark problems among the training prompts, if the recipe asks for it."""
        spec = self.recipe.evaluation
        if not (spec.tasks and spec.overlap_words):
            return []
        settings, how = self._evaluation
        config = prompt_fields(self.recipe.prompts) | {
            "words": spec.overlap_words,
            "benchmarks": settings["benchmarks"],
        }
        inputs = {"prompts": self._prompts()}
        where = {"benchmarks": how["benchmarks"]}
        self._add("overlap", "overlap", slug(self.recipe.prompts.path), config, inputs, where)
        return ["overlap"]

    def row(self, student: str, method: str) -> str:
        """A student with a method, evaluated; returns the slot."""
        corpus = self.recipe.methods[method]
        model = self.trained(student, corpus) if corpus else self.model(student)
        return self.evaluation(f"evaluate/{student}/{method}", model)

    def evaluation(self, slot: str, model: Input) -> str:
        """A model on all benchmarks: one load of the model for all of them. Returns the slot."""
        config, how = self._evaluation
        self._add(slot, "evaluate", self._label(model), config, {"model": model}, how)
        return slot

    def bpc(self, name: str) -> str:
        """All corpora of the BPC table under one model: one load of the model for all of them."""
        recipe, model = self.recipe, self.model(name)
        corpora = {f"corpus{n}": self.corpus(corpus) for n, corpus in enumerate(recipe.bpc.corpora)}
        config = bpc.bpc_settings(recipe.bpc, recipe.evaluation)
        how = evaluate.engine_how(recipe.evaluation) | {"engine": recipe.engines.lm_eval}
        self._add(f"bpc/{name}", "bpc", self._label(model), config, {"model": model, **corpora}, how)
        return f"bpc/{name}"

    @cached_property
    def _evaluation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of every evaluation: they are read from task files and benchmarks once."""
        spec = self.recipe.evaluation
        how = evaluate.evaluation_how(spec) | {"engine": self.recipe.engines.lm_eval}
        return evaluate.evaluation_settings(spec, self.recipe.prompts), how

    def _prompts(self) -> Input:
        return cast(Input, prompt_input(self.recipe.prompts))

    def _reference(self, model: Model) -> Input:
        return {"ref": model.model, "identity": identity(model.model, model.revision)}

    def _label(self, given: Input) -> str:
        return self.steps[given["step"]]["label"] if "step" in given else slug(given["ref"])

    def _add(
        self,
        slot: str,
        kind: str,
        label: str,
        config: dict[str, Any],
        inputs: dict[str, Input],
        how: dict[str, Any],
    ) -> str:
        read = {
            role: [given["step"], given["file"]] if "step" in given else given["identity"]
            for role, given in inputs.items()
        }
        step_id = digest([SCHEMA, kind, config, read])
        hardware = self.recipe.hardware
        shared = {"threads": hardware.threads_per_step, "gpus_of": hardware.gpus}
        gpus = min(hardware.inference_gpus, hardware.gpus) if kind in GPU_KINDS else 0
        self.steps.setdefault(
            step_id,
            Step(
                id=step_id, kind=kind, label=label[:LABEL_CHARACTERS], config=config, inputs=inputs,
                how={**shared, "gpus": gpus, **how},
            ),
        )  # fmt: skip
        self.slots[slot] = step_id
        return step_id
