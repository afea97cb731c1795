"""A recipe compiled to a plan: the method's data flow, one function an arrow of the paper's Figure 1.

plan = compile_plan(load_recipe("recipes/tiny.yaml"))
plan.slots["train/student-s/micota"]          -> a step's id
"""

from dataclasses import replace
from functools import cache, cached_property

from ..inputs.references import DataRef, ModelRef
from ..recipe import lineage
from ..recipe.sections import OWN, Filter, Merge, Recipe, Train
from ..stages import Settings, bpc, distil, evaluate, generate, merge, overlap, preflight, stage, train
from .costs import placed
from .plan import Input, Plan, Step, step_id

LABEL_CHARACTERS = 80


def compile_plan(recipe: Recipe) -> Plan:
    """Every step that the recipe's tables need, or without students its corpora.

    Reads local model files to identify them, writes nothing.

    >>> from micota_lf import compile_plan, load_recipe
    >>> plan = compile_plan(load_recipe("recipes/tiny.yaml"))
    >>> [plan.slots_of(made)[0] for made in plan.needed(["merge/ta"])]
    ['preflight', 'generate/teacher', 'filter/strong', 'train/assistant/strong', 'merge/ta']
    """
    compiler = Compiler(recipe)
    compiler.preflight()
    compiler.plan.tables.update({table: compiler.table(table) for table in lineage.table_names(recipe)})
    for name in () if recipe.students else recipe.corpora:  # nobody learns: the corpora are what is wanted
        compiler.corpus(name)
    return placed(compiler.plan, recipe)


class Compiler:
    """Adds steps to its plan on demand; a step asked for twice is the same step.

    The first methods make one step from its inputs and settings; those after `named` know the recipe's names.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.plan = Plan(recipe.name, {}, {}, {}, recipe.hardware.cores, recipe.hardware.gpus)
        self.reference = cache(Input.of)
        for asked_often in ("named", "corpus", "fetched"):
            setattr(self, asked_often, cache(getattr(self, asked_often)))

    def fetched(self, ref: ModelRef) -> Input:
        """A model as it is: one of the hub is brought here first, whole and at one commit."""
        given = self.reference(ref)
        if ref.local:
            return given
        slot = f"fetch/{ref.ref}" + (f"@{ref.revision}" if ref.revision else "")
        return self._add(slot, "fetch", {"model": given}, Settings({}))

    def generate(self, slot: str, model: Input, template: str | None = None, **corpus: Input) -> Input:
        """Responses of a model to the recipe's prompts, or what it makes of the rows of a `corpus`."""
        inputs = {"model": model, "prompts": self.prompts, **corpus}
        return self._add(slot, "generate", inputs, generate.settings(self.recipe, template))

    def filter(self, slot: str, responses: Input, rule: Filter) -> Input:
        """The responses that become training rows."""
        own, named = self._own(rule.verdict)
        settings = Settings.of(replace(rule, verdict=OWN) if own else rule, apart=named)
        return self._add(slot, "filter", {"responses": responses, **own}, settings)

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

    def distil(self, slot: str, start: Input, teacher: Input, corpus: Input, spec: Train) -> Input:
        """A model that answers a corpus' prompts and learns a teacher's view of its answers."""
        label = f"{self._label(start)}-by-{self._label(teacher)}"
        inputs = {"model": start, "teacher": teacher, "corpus": corpus}
        return self._add(slot, "distil", inputs, distil.settings(self.recipe, spec), label)

    def merge(self, slot: str, spec: Merge, **inputs: Input) -> Input:
        """A model merged with its earlier self: `before`, `after`, `pretrained`, and what `choose` gives."""
        if self.recipe.prompts.path:
            inputs.setdefault("prompts", self.prompts)
        settings, label = merge.settings(self.recipe, spec), f"{self._label(inputs['after'])}-merged"
        return self._add(slot, "merge", inputs, settings, label)

    def choose(self, name: str, spec: Merge, **models: Input) -> dict[str, Input]:
        """The weight of an assistant's merge, by the lengths of probes: merges of its models at others."""
        drawn = Settings.of(self.recipe.prompts, apart={"number": spec.probe_prompts, "seed": spec.seed})
        prompts = self._add(f"sample/{name}", "sample", {"prompts": self.prompts}, drawn, "prompts")
        _, how, gpus = merge.settings(self.recipe, spec)
        asking = Settings(how["health"], how["answers"], gpus)
        probes = {"tuned": models["after"]}
        for weight in sorted(spec.probe_weights):
            tried = replace(spec, weight=weight, target_length_ratio=None, health_prompts=0)
            probes[f"{weight:g}"] = self.merge(f"merge/{name}/{weight:g}", tried, **models)
        answers = {
            at: self._add(f"generate/{name}/{at}", "generate", {"model": model, "prompts": prompts}, asking)
            for at, model in probes.items()
        }
        wanted = Settings({"target": spec.target_length_ratio})
        choice = self._add(f"choose/{name}", "choose", answers, wanted, self._label(models["after"]))
        return {"prompts": prompts, "tuned": answers["tuned"], "choice": choice}

    def evaluate(self, slot: str, model: Input) -> Input:
        """A model on all benchmarks: one load of the model for all of them."""
        own, named = self._own(self.recipe.evaluation.verdict)
        settings = self.evaluation._replace(config=self.evaluation.config | named)
        return self._add(slot, "evaluate", {"model": model, **own}, settings)

    def bpc(self, slot: str, model: Input, corpora: list[Input]) -> Input:
        """All corpora of the BPC table under one model: one load of the model for all of them."""
        inputs = {"model": model, **_numbered("corpus", corpora)}
        return self._add(slot, "bpc", inputs, bpc.settings(self.recipe))

    def preflight(self) -> None:
        """The step that every other one waits for without reading it (run/snakemake.py)."""
        settings, references = preflight.questions(self.recipe)
        inputs = {role: self.reference(ref) for role, ref in references.items()}
        self._add("preflight", "preflight", inputs, settings, "checks")

    def named(self, name: str, served: bool = False) -> Input:
        """The model of that name: a teacher, a student, STUDENT/CORPUS or an assistant.

        One that servers elsewhere have, and no step makes, is not brought here.
        """
        recipe, ref = self.recipe, lineage.model_of(self.recipe, name).reference
        if assistant := recipe.assistants.get(name):
            spec, after = assistant.merge, self.named(assistant.from_)
            models = {"before": self.fetched(ref), "after": after}
            if spec.pretrained:
                models["pretrained"] = self.fetched(spec.pretrained)
            chosen = self.choose(name, spec, **models) if spec.target_length_ratio else {}
            return self.merge(f"merge/{name}", spec, **models, **chosen)
        if learnt := lineage.training_named(recipe, name):
            corpus, settings = self.corpus(learnt.corpus), lineage.training(recipe, *learnt)
            slot, start, teacher = f"train/{name}", self.fetched(ref), recipe.corpora[learnt.corpus].on_policy
            if teacher:
                return self.distil(slot, start, self.named(teacher), corpus, settings)
            return self.train(slot, start, corpus, settings)
        return self.reference(ref) if served else self.fetched(ref)

    def corpus(self, name: str) -> Input:
        """The corpus of that name: filtered responses of a model or a file, or a mix."""
        spec = self.recipe.corpora[name]
        if spec.mix:
            parts = [self.corpus(part) for part in spec.mix]
            return self.mix(f"mix/{name}", parts, list(spec.mix.values()), spec.seed, spec.size)
        if spec.from_:
            served = self.recipe.generation.backend == "endpoint"
            rewritten = {"corpus": self.corpus(spec.rewrites)} if spec.rewrites else {}
            slot, model = lineage.responses_slot(self.recipe, name), self.named(spec.from_, served)
            responses = self.generate(slot, model, spec.template if rewritten else None, **rewritten)
        else:
            responses = self.reference(DataRef(spec.file or ""))
        return self.filter(f"filter/{name}", responses, lineage.filtering(self.recipe, name))

    def table(self, table: str) -> list[str]:
        """Slots of the steps that fill a table, which are added to the plan."""
        scored, evaluation = self.recipe.bpc, self.recipe.evaluation
        if table == "table4":
            corpora = [self.corpus(name) for name in scored.corpora]
            for name in scored.models:
                self.bpc(f"bpc/{name}", self.named(name), corpora)
            return [f"bpc/{name}" for name in scored.models]
        named = lineage.evaluated_models(self.recipe, table)
        models = {f"evaluate/{shown}": self.named(name) for shown, name in named.items()}
        if not evaluation.tasks:  # the models alone
            return []
        if evaluation.overlap_words:
            settings = overlap.settings(self.recipe, self.evaluation)
            self._add("overlap", "overlap", {"prompts": self.prompts}, settings)
        for slot, model in models.items():
            self.evaluate(slot, model)
        return [*(["overlap"] if evaluation.overlap_words else []), *models]

    @cached_property
    def prompts(self) -> Input:
        """The recipe's prompts."""
        return self.reference(self.recipe.prompts.source)

    @cached_property
    def evaluation(self) -> Settings:
        """Settings of every evaluation: they are read from task files and benchmarks once."""
        return evaluate.settings(self.recipe)

    def _own(self, verdict: str) -> tuple[dict[str, Input], dict[str, str]]:
        """Of a verdict of one's own: its file as an input, known by its content, and the function's name."""
        file, _, name = verdict.rpartition(":")
        return ({"verdict": self.reference(DataRef(file))}, {OWN: name}) if file else ({}, {})

    def _label(self, given: Input) -> str:
        return self.plan.steps[given.step].label if given.step else given.reference.label

    def _add(
        self, slot: str, kind: str, inputs: dict[str, Input], settings: Settings, label: str | None = None
    ) -> Input:
        """A step, labelled like its first input unless said otherwise; returns what others read of it."""
        config, how, gpus = settings
        made, label = step_id(kind, config, inputs), label or self._label(next(iter(inputs.values())))
        threads, label = self.recipe.hardware.threads_per_step, label[:LABEL_CHARACTERS]
        self.plan.steps.setdefault(made, Step(made, kind, label, config, inputs, how, gpus, threads))
        self.plan.slots[slot] = made
        return Input(made, stage(kind).output)


def _numbered(role: str, inputs: list[Input]) -> dict[str, Input]:
    return {f"{role}{number}": given for number, given in enumerate(inputs)}
