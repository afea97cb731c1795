"""A recipe compiled to a plan: the method's data flow, one function an arrow of the paper's Figure 1.

plan = compile_plan(load_recipe("recipes/tiny.yaml"))
plan.slots["train/student-s/micota"]          -> a step's id
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

from ..inputs.references import DataRef, ModelRef
from ..recipe.lineage import (
    baseline,
    filtering,
    model_of,
    shown_teachers,
    table_names,
    table_rows,
    training,
    training_named,
)
from ..recipe.sections import Filter, Merge, Recipe, Train
from ..stages import bpc, evaluate, generate, merge, overlap, preflight, train
from ..system.fields import identity
from .plan import Input, Plan, Step, step_id

LABEL_CHARACTERS = 80


def compile_plan(recipe: Recipe) -> Plan:
    """Every step that the recipe's tables need. Reads local model files to identify them, writes nothing."""
    compiler = Compiler(recipe)
    compiler.preflight()
    tables = {table: compiler.table(table) for table in table_names(recipe)}
    return compiler.plan(tables)


class Compiler:
    """Adds steps on demand; a step asked for twice is the same step.

    The first methods make one step from its inputs and settings; those after `named` know the recipe's names.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps: dict[str, Step] = {}
        self.slots: dict[str, str] = {}
        for asked_often in ("reference", "named", "corpus", "responses", "trained", "merged"):
            setattr(self, asked_often, cache(getattr(self, asked_often)))

    def plan(self, tables: dict[str, list[str]]) -> Plan:
        """What has been added so far."""
        hardware = self.recipe.hardware
        return Plan(self.recipe.name, self.steps, self.slots, tables, hardware.cores, hardware.gpus)

    def generate(self, slot: str, model: Input) -> Input:
        """Responses of a model to the recipe's prompts."""
        gpus, how = generate.how(self.recipe)
        inputs = {"model": model, "prompts": self.prompts}
        return self._add(
            slot, "generate", self._label(model), generate.config(self.recipe), inputs, how, gpus
        )

    def filter(self, slot: str, responses: Input, rule: Filter) -> Input:
        """The responses that become training rows."""
        config = {"filter": identity(rule)}
        return self._add(slot, "filter", self._label(responses), config, {"responses": responses})

    def mix(self, slot: str, parts: list[Input], ratios: list[float], seed: int, size: int | None) -> Input:
        """Corpora mixed at ratios."""
        label = "-".join(["mix", *map(self._label, parts)])
        config = {"ratios": ratios, "seed": seed, "size": size}
        return self._add(slot, "mix", label, config, {f"part{n}": part for n, part in enumerate(parts)})

    def train(self, slot: str, start: Input, corpus: Input, settings: Train) -> Input:
        """A model fine-tuned on a corpus."""
        gpus, how = train.how(self.recipe, settings)
        label = f"{self._label(start)}-on-{self._label(corpus)}"
        config = train.config(self.recipe, settings)
        return self._add(slot, "train", label, config, {"model": start, "corpus": corpus}, how, gpus)

    def merge(self, slot: str, before: Input, after: Input, spec: Merge) -> Input:
        """A model merged with its earlier self."""
        gpus, how = merge.how(self.recipe, spec)
        inputs = {"before": before, "after": after}
        if spec.pretrained:
            inputs["pretrained"] = self.reference(spec.pretrained)
        if spec.health_prompts:
            inputs["prompts"] = self.prompts
        config = merge.config(self.recipe, spec)
        return self._add(slot, "merge", f"{self._label(after)}-merged", config, inputs, how, gpus)

    def evaluate(self, slot: str, model: Input) -> Input:
        """A model on all benchmarks: one load of the model for all of them."""
        config, how = self._evaluation
        return self._add(
            slot, "evaluate", self._label(model), config, {"model": model}, how, self._scoring_gpus
        )

    def bpc(self, slot: str, model: Input, corpora: list[Input]) -> Input:
        """All corpora of the BPC table under one model: one load of the model for all of them."""
        inputs = {"model": model, **{f"corpus{n}": corpus for n, corpus in enumerate(corpora)}}
        config, how = bpc.config(self.recipe), bpc.how(self.recipe)
        return self._add(slot, "bpc", self._label(model), config, inputs, how, self._scoring_gpus)

    def overlap(self) -> None:
        """The search for benchmark problems among the training prompts."""
        settings, how = self._evaluation
        config = overlap.config(self.recipe, settings["benchmarks"])
        where = {"benchmarks": how["benchmarks"]}
        self._add("overlap", "overlap", self._label(self.prompts), config, {"prompts": self.prompts}, where)

    def preflight(self) -> None:
        """The step that every other one waits for without reading it (run/snakemake.py)."""
        config, references, how = preflight.questions(self.recipe)
        inputs = {role: self.reference(ref) for role, ref in references.items()}
        self._add("preflight", "preflight", "checks", config, inputs, how)

    def named(self, name: str) -> Input:
        """The model of that name: a teacher, a student, STUDENT/CORPUS or an assistant."""
        if name in self.recipe.assistants:
            return self.merged(name)
        found = training_named(self.recipe, name)
        return self.trained(*found) if found else self.reference(model_of(self.recipe, name).reference)

    def corpus(self, name: str) -> Input:
        """The corpus of that name: filtered responses of a model or a file, or a mix."""
        spec = self.recipe.corpora[name]
        if spec.mix:
            parts = [self.corpus(part) for part in spec.mix]
            return self.mix(f"mix/{name}", parts, list(spec.mix.values()), spec.seed, spec.size)
        responses = self.reference(DataRef(spec.file)) if spec.file else self.responses(spec.from_ or "")
        return self.filter(f"filter/{name}", responses, filtering(self.recipe, name))

    def responses(self, source: str) -> Input:
        """Responses of the model of that name."""
        return self.generate(f"generate/{source}", self.named(source))

    def trained(self, student: str, corpus: str) -> Input:
        """A student fine-tuned on a corpus."""
        start, data = self.named(student), self.corpus(corpus)
        return self.train(f"train/{student}/{corpus}", start, data, training(self.recipe, student, corpus))

    def merged(self, name: str) -> Input:
        """An assistant: its training merged with its start."""
        spec = self.recipe.assistants[name]
        before = self.reference(model_of(self.recipe, name).reference)
        return self.merge(f"merge/{name}", before, self.named(spec.from_), spec.merge)

    def table(self, table: str) -> list[str]:
        """Slots of the steps that fill a table, which are added to the plan."""
        recipe = self.recipe
        if table == "table4":
            corpora = [self.corpus(corpus) for corpus in recipe.bpc.corpora]
            models = {f"bpc/{name}": self.named(name) for name in recipe.bpc.models}
            return [slot for slot, model in models.items() if self.bpc(slot, model, corpora)]
        if not recipe.evaluation.tasks:
            return []
        models = {}
        if table == "table2":
            models = {
                f"evaluate/{name}": self.named(name) for name in [*shown_teachers(recipe), *recipe.assistants]
            }
        elif table == "figures":
            for name, spec in recipe.assistants.items():
                start = model_of(recipe, name).reference
                models |= {f"evaluate/{name}/before": self.reference(start)}
                models |= {
                    f"evaluate/{name}/tuned": self.named(spec.from_),
                    f"evaluate/{name}": self.named(name),
                }
        rows = table_rows(recipe, table)
        base = baseline(recipe)
        if table == "table1" and base:  # its deltas are against the untrained students
            rows += [(student, base) for student in dict(rows)]
        for student, method in rows:
            corpus = recipe.methods[method]
            model = self.trained(student, corpus) if corpus else self.named(student)
            models[f"evaluate/{student}/{method}"] = model
        if recipe.evaluation.overlap_words:
            self.overlap()
        for slot, model in models.items():
            self.evaluate(slot, model)
        return [*(["overlap"] if recipe.evaluation.overlap_words else []), *models]

    def reference(self, ref: ModelRef) -> Input:
        """A model or a file that no step makes."""
        return Input.of(ref)

    @cached_property
    def prompts(self) -> Input:
        """The recipe's prompts."""
        return self.reference(self.recipe.prompts.source)

    @cached_property
    def _evaluation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of every evaluation: they are read from task files and benchmarks once."""
        return evaluate.config(self.recipe), evaluate.how(self.recipe)

    @property
    def _scoring_gpus(self) -> int:
        return min(self.recipe.hardware.inference_gpus, self.recipe.hardware.gpus)

    def _label(self, given: Input) -> str:
        return self.steps[given.step].label if given.step else given.reference.label

    def _add(
        self,
        slot: str,
        kind: str,
        label: str,
        config: dict[str, Any],
        inputs: dict[str, Input],
        how: dict[str, Any] | None = None,
        gpus: int = 0,
    ) -> Input:
        made = step_id(kind, config, inputs)
        threads, cut = self.recipe.hardware.threads_per_step, label[:LABEL_CHARACTERS]
        self.steps.setdefault(made, Step(made, kind, cut, config, inputs, how or {}, gpus, threads))
        self.slots[slot] = made
        return Input(made, OUTPUTS.get(kind, ""))


# The file or directory that other steps read.
OUTPUTS = {
    "generate": "responses.jsonl", "filter": "corpus.jsonl", "mix": "corpus.jsonl", "train": "model",
    "merge": "model",
}  # fmt: skip
