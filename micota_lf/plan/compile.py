"""A recipe compiled to a plan: the method's data flow, one function an arrow of the paper's Figure 1.

plan = compile_plan(load_recipe("recipes/tiny.yaml"))
plan.slots["train/student-s/micota"]          -> a step's id
"""

from functools import cache, cached_property

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
from ..stages import Settings, bpc, evaluate, generate, merge, overlap, preflight, stage, train
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
        self.scoring_gpus = min(recipe.hardware.inference_gpus, recipe.hardware.gpus)
        for asked_often in ("reference", "named", "corpus", "responses", "trained"):
            setattr(self, asked_often, cache(getattr(self, asked_often)))

    def plan(self, tables: dict[str, list[str]]) -> Plan:
        """What has been added so far."""
        hardware = self.recipe.hardware
        return Plan(self.recipe.name, self.steps, self.slots, tables, hardware.cores, hardware.gpus)

    def generate(self, slot: str, model: Input) -> Input:
        """Responses of a model to the recipe's prompts."""
        inputs = {"model": model, "prompts": self.prompts}
        return self._add(slot, "generate", inputs, generate.settings(self.recipe))

    def filter(self, slot: str, responses: Input, rule: Filter) -> Input:
        """The responses that become training rows."""
        return self._add(slot, "filter", {"responses": responses}, Settings.of(rule))

    def mix(self, slot: str, parts: list[Input], ratios: list[float], seed: int, size: int | None) -> Input:
        """Corpora mixed at ratios."""
        config = {"ratios": ratios, "seed": seed, "size": size}
        label = "-".join(["mix", *map(self._label, parts)])
        return self._add(slot, "mix", _numbered("part", parts), Settings(config), label)

    def train(self, slot: str, start: Input, corpus: Input, spec: Train) -> Input:
        """A model fine-tuned on a corpus."""
        label = f"{self._label(start)}-on-{self._label(corpus)}"
        inputs = {"model": start, "corpus": corpus}
        return self._add(slot, "train", inputs, train.settings(self.recipe, spec), label)

    def merge(self, slot: str, before: Input, after: Input, spec: Merge) -> Input:
        """A model merged with its earlier self."""
        inputs = {"before": before, "after": after}
        if spec.pretrained:
            inputs["pretrained"] = self.reference(spec.pretrained)
        if spec.health_prompts:
            inputs["prompts"] = self.prompts
        settings = merge.settings(self.recipe, spec)
        return self._add(slot, "merge", inputs, settings, f"{self._label(after)}-merged")

    def evaluate(self, slot: str, model: Input) -> Input:
        """A model on all benchmarks: one load of the model for all of them."""
        return self._add(slot, "evaluate", {"model": model}, self.evaluation)

    def bpc(self, slot: str, model: Input, corpora: list[Input]) -> Input:
        """All corpora of the BPC table under one model: one load of the model for all of them."""
        inputs = {"model": model, **_numbered("corpus", corpora)}
        return self._add(slot, "bpc", inputs, bpc.settings(self.recipe, self.scoring_gpus))

    def overlap(self) -> None:
        """The search for benchmark problems among the training prompts."""
        settings = overlap.settings(self.recipe, self.evaluation)
        self._add("overlap", "overlap", {"prompts": self.prompts}, settings)

    def preflight(self) -> None:
        """The step that every other one waits for without reading it (run/snakemake.py)."""
        settings, references = preflight.questions(self.recipe)
        inputs = {role: self.reference(ref) for role, ref in references.items()}
        self._add("preflight", "preflight", inputs, settings, "checks")

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
        recipe, models = self.recipe, dict[str, Input]()
        if table == "table4":
            corpora = [self.corpus(corpus) for corpus in recipe.bpc.corpora]
            models = {f"bpc/{name}": self.named(name) for name in recipe.bpc.models}
            return [slot for slot, model in models.items() if self.bpc(slot, model, corpora)]
        if not recipe.evaluation.tasks:
            return []
        if table == "table2":
            shown = [*shown_teachers(recipe), *recipe.assistants]
            models = {f"evaluate/{name}": self.named(name) for name in shown}
        for name, spec in recipe.assistants.items() if table == "figures" else ():
            start = model_of(recipe, name).reference
            models[f"evaluate/{name}/before"] = self.reference(start)
            models[f"evaluate/{name}/tuned"] = self.named(spec.from_)
            models[f"evaluate/{name}"] = self.named(name)
        rows = table_rows(recipe, table)
        base = baseline(recipe)
        if table == "table1" and base:  # its deltas are against the untrained students
            rows += [(student, base) for student in dict(rows)]
        for student, method in rows:
            corpus = recipe.methods[method]
            models[f"evaluate/{student}/{method}"] = self.named(f"{student}/{corpus}" if corpus else student)
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
    def evaluation(self) -> Settings:
        """Settings of every evaluation: they are read from task files and benchmarks once."""
        return evaluate.settings(self.recipe, self.scoring_gpus)

    def _label(self, given: Input) -> str:
        return self.steps[given.step].label if given.step else given.reference.label

    def _add(
        self, slot: str, kind: str, inputs: dict[str, Input], settings: Settings, label: str | None = None
    ) -> Input:
        """A step, labelled like its first input unless said otherwise; returns what others read of it."""
        config, how, gpus = settings
        made, label = step_id(kind, config, inputs), label or self._label(next(iter(inputs.values())))
        threads, label = self.recipe.hardware.threads_per_step, label[:LABEL_CHARACTERS]
        self.steps.setdefault(made, Step(made, kind, label, config, inputs, how, gpus, threads))
        self.slots[slot] = made
        return Input(made, stage(kind).output)


def _numbered(role: str, inputs: list[Input]) -> dict[str, Input]:
    return {f"{role}{number}": given for number, given in enumerate(inputs)}
