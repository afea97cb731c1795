"""What a plan's steps cost, before they run: GPU-hours, time, disk, memory; and on how many GPUs they run.

    costs = estimate(plan, recipe)                      # step id -> Cost
    total(costs.values()).gpu_hours
    placed(plan, recipe)                                # the plan, its models on as many GPUs as suit them

Sizes come from inputs/models.yaml, speeds and response lengths from the recipe's `estimates`. Lengths are by
the name of the model that responds: a teacher, a student, STUDENT/CORPUS or an assistant. A trained model
that is not named there responds as long as the corpus that it has learnt from; any other one as
`default_response_tokens` says. Every response is counted as kept by its filter, so trainings are upper
bounds. None is unknown (no size, no shape). Without GPUs a step has the speed of a CPU core, and
what a GPU would hold counts as the host's memory.

How many GPUs a model is asked on enters no identity. It is split over `hardware.inference_gpus`, or by its
size. vLLM serves as many copies as there are GPUs for to generate, and to evaluate so many that a step takes
about EVALUATION_HOURS: others wait for a corpus, nothing does for an evaluation, and many short ones fill the
gaps that steps on all GPUs leave.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from ..inputs.problems import Problems
from ..inputs.references import ModelRef
from ..inputs.weights import BILLION, FORWARD, ModelSize, missing_bytes, model_size, training_flops
from ..recipe.sections import Hardware, Recipe
from ..recipe.tasks import chosen_tasks, evaluated_benchmarks
from ..stages.train import LONGER, SAVE_SECONDS, SAVE_STEPS, TRAININGS
from ..system.files import iter_jsonl
from . import memory
from .memory import DTYPE_BYTES, GIB, UNKNOWN, WEIGHT_BYTES, Parts
from .plan import Input, Plan, Step

Rows = tuple[float, float]
"""How many, and their mean response tokens."""

DEFAULT_PROMPTS = 12000  # MATH's training problems as the paper uses them (section 4.2)
# Where a step's config says how long an answer may get.
LONGEST = {"generate": ("generation", "max_tokens"), "evaluate": ("evaluation", "max_gen_toks")}
TOKEN_TEXT_BYTES = 4  # of English and mathematics, in Qwen2.5's tokens
# Seconds of a step beside its work on tokens: of recipes/tiny.yaml, one step at a time on 2 cores of a Xeon.
CPU_STARTUP_SECONDS = {"preflight": 8, "generate": 5, "train": 12, "merge": 11, "evaluate": 22, "bpc": 25}
# There too, of a step: FLOPs a second, output tokens a second of a 1B model, and what else a token takes, of
# a response and of a training. Models of 0.1M to 0.7M parameters show the latter; larger ones are a guess.
CPU_SPEED = 1e11, 10.0, 2.5e-4, 5e-5
# CPU seconds a billion parameters: mergekit 0.1.5, dare_ties in bf16, on 424M. Responses of 16,000
# characters that are graded a second: docs/numbers.md.
MERGED, GRADED = 75.0, 300.0
SPLITS = (1, 2, 4, 8)  # heads divide by them, and one machine has so many GPUs
WEIGHTS_SHARE = 0.5  # of a GPU's memory; the rest is for keys and values of many sequences
EVALUATION_HOURS = 0.5
ASKING = ("generate", "evaluate", "bpc", "merge")


class Cost(NamedTuple):
    """What a step needs: GPU-hours over all its GPUs, GiB on disk, GiB on each GPU, GiB of host memory.

    `scratch_gib` is disk that it gives back: checkpoints. `hours` is how long it takes by itself, its
    engine's start included, which is in no GPU-hours. `parts` are those of a GPU's memory, in GiB.
    """

    gpu_hours: float | None = 0.0
    disk_gib: float | None = 0.0
    gpu_memory_gib: float | None = 0.0
    host_memory_gib: float | None = 0.0
    scratch_gib: float | None = 0.0
    hours: float | None = 0.0
    parts: Parts = {}  # noqa: RUF012 - never changed


def estimate(plan: Plan, recipe: Recipe) -> dict[str, Cost]:
    """The cost of every step of a recipe's plan, by step id."""
    estimator = Estimator(plan, recipe)
    return {step.id: estimator.cost(step) for step in plan.steps.values()}


def total(costs: Iterable[Cost]) -> Cost:
    """Hours and disk added up, memory and scratch of the largest; None where a part is unknown."""
    joins: tuple[Any, ...] = (sum, sum, max, max, max, sum, lambda parts: parts[0])
    columns = zip(joins, zip(Cost(), *costs, strict=True), strict=True)
    joined: Iterator[Any] = (None if None in values else join(values) for join, values in columns)
    return Cost(*joined)


def downloads(plan: Plan, steps: Iterable[str]) -> float:
    """GiB of the weights that steps fetch from the hub and that its cache does not have yet."""
    fetched = (plan.steps[step_id] for step_id in steps if plan.steps[step_id].kind == "fetch")
    return sum(missing_bytes(step.inputs["model"].reference) for step in fetched) / GIB


def row_count(source: ModelRef) -> int | None:
    """Rows of a local file; None for a hub id, and for a file that is not there."""
    return sum(1 for _ in iter_jsonl(source.local)) if source.local and source.local.exists() else None


def problem_count(spec: Problems) -> int | None:
    """Number of problems of a source: rows of a local file up to its limit; None for a hub id without one."""
    rows = row_count(spec.source)
    return spec.limit if rows is None else min(rows, spec.limit or rows)


def benchmark_problems(recipe: Recipe) -> dict[str, int]:
    """Problems of each benchmark of the recipe's evaluation; one that is nowhere known counts as none."""
    counts = {}
    for name, benchmark in evaluated_benchmarks(recipe.evaluation).items():
        rows = problem_count(benchmark) or benchmark.problems or 0
        counts[name] = min(rows, recipe.evaluation.limit or rows)
    return counts


class Estimator:
    """Costs of the steps of one plan, from the rows and tokens that they handle."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe = plan, recipe
        self.size_of, self.row_count = cache(model_size), cache(row_count)  # one file has many readers
        counts, tasks = benchmark_problems(recipe), chosen_tasks(recipe.evaluation).values()
        named = [((one.get("metadata") or {}).get("benchmark", ""), one.get("repeats", 1)) for one in tasks]
        self.problems = sum(counts.get(benchmark, 0) * repeats for benchmark, repeats in named)
        self.prompts = problem_count(recipe.prompts) or DEFAULT_PROMPTS
        self.figures = figures = recipe.estimates
        a_gpu = figures.tflops * 1e12 * figures.mfu, figures.decode_tokens_per_second, 0.0, 0.0
        self.flops, self.decode, self.answered, self.learnt = a_gpu if recipe.hardware.gpus else CPU_SPEED

    def cost(self, step: Step) -> Cost:
        """The cost of one step; a kind that is not known here costs nothing."""
        kinds: dict[str, Callable[[Step], Cost]] = {
            "generate": self._answering, "filter": self._corpus, "mix": self._corpus, "train": self._train,
            "distil": self._distil, "merge": self._merge, "evaluate": self._answering, "bpc": self._bpc,
        }  # fmt: skip
        return kinds[step.kind](step) if step.kind in kinds else self._on(step, 0.0)

    def _answering(self, step: Step) -> Cost:
        """Decoding: tokens / (decode_tokens_per_second of a 1B model / billions of parameters)."""
        section, longest = LONGEST[step.kind]
        spec, (rows, mean) = step.config[section], self._rows(Input(step.id))
        size, disk = self.size(step), rows * mean * TOKEN_TEXT_BYTES
        seconds = rows * mean * (size.parameters / BILLION / self.decode + self.answered)
        if spec["backend"] == "endpoint":  # on someone else's GPUs
            return Cost(disk_gib=disk / GIB, hours=None)
        # vLLM holds as many sequences as there is memory for, but one at least.
        batch = step.how[section]["batch_size"] if spec["backend"] == "transformers" else 1
        held = memory.inference_memory(size, spec[longest], spec["dtype"], batch)
        return self._on(step, seconds, disk, held)

    def _corpus(self, step: Step) -> Cost:
        rows, mean = self._rows(Input(step.id))
        return self._on(step, rows / GRADED, rows * mean * TOKEN_TEXT_BYTES)

    def _distil(self, step: Step) -> Cost:
        """A training, the student's own responses, decoded as if by vLLM, and the teacher's look at all."""
        teacher = self.size(replace(step, inputs={"model": step.inputs["teacher"]}))
        spec, (rows, mean) = step.config["train"], self._rows(step.inputs["corpus"])
        tokens, own = rows * spec["num_train_epochs"] * mean, step.config["on_policy"]["lmbda"]
        decoding = own * tokens * (self.size(step).parameters / BILLION / self.decode + self.answered)
        looking = FORWARD * teacher.parameters * tokens / self.flops
        held = {"teacher": memory.inference_memory(teacher, 0, "bfloat16")["weights"]}
        row = spec["cutoff_len"] * step.how["train"]["per_device_train_batch_size"]
        held["teacher's logits"] = row * memory.shape_of(teacher).vocabulary * memory.LOGIT_BYTES
        return self._train(step, decoding + looking, held)

    def _train(self, step: Step, more: float = 0.0, beside: Parts | None = None) -> Cost:
        """Training: FLOPs / (tflops x mfu x balance); one process waits for no other.

        `more` seconds go to something else, as does memory that is held `beside`.
        """
        spec, how, size = step.config["train"], step.how["train"], self.size(step)
        rows, mean = self._rows(step.inputs["corpus"])
        updates = rows * spec["num_train_epochs"] / spec["global_batch_size"]
        if spec["max_steps"] > 0:
            updates = spec["max_steps"]
        tokens = updates * spec["global_batch_size"] * min(mean, spec["cutoff_len"])
        devices = step.how["processes"] * step.how["nodes"]
        busy = self.figures.balance if devices > 1 else 1.0
        seconds = training_flops(size, how, tokens) / self.flops / busy + tokens * self.learnt + more
        disk, scratch = size.parameters * (WEIGHT_BYTES if spec["bf16"] else 4), 0.0
        if how["save_strategy"] != "no":  # weights and optimizer; the oldest goes once the newest is there
            halves = seconds / devices / SAVE_SECONDS if step.gpus else updates / SAVE_STEPS
            steps = updates / how["save_steps"] if how["save_steps"] else halves
            saves = {"epoch": spec["num_train_epochs"], "steps": steps}
            made, most = saves[how["save_strategy"]], (how["save_total_limit"] or math.inf) + 1
            kept = math.ceil(made) if made < most else most
            scratch = kept * size.parameters * (WEIGHT_BYTES + memory.OPTIMIZER_BYTES)
        packs = step.how["fast"] and how["arrange"] in ("auto", "pack")  # rows may share a longer sequence
        liger, longest = how["enable_liger_kernel"], LONGER if packs else 1
        held = memory.training_memory(size, spec, how, devices, liger, longest)
        return self._on(step, seconds, disk, {**held, **(beside or {})}, scratch)

    def _merge(self, step: Step) -> Cost:
        """A merge is done on the host; its GPU is for the questions that the merged model is asked."""
        size, dtype = self.size(step), step.config["merge"]["dtype"]
        seconds, host = size.parameters / BILLION * MERGED, {"host": memory.merge_memory(size, dtype)}
        seconds += 60 * self.figures.startup_minutes if step.gpus else 0.0
        return self._on(replace(step, gpus=0), seconds, size.parameters * DTYPE_BYTES[dtype], host)

    def _bpc(self, step: Step) -> Cost:
        """Scoring: 2 FLOPs a parameter and token of all corpora."""
        size, limit = self.size(step), self.recipe.bpc.limit or math.inf
        corpora = [self._rows(given) for role, given in step.inputs.items() if role != "model"]
        flops = FORWARD * size.parameters * sum(min(rows, limit) * mean for rows, mean in corpora)
        logits = memory.LOGIT_BYTES * self.recipe.generation.max_tokens * memory.shape_of(size).vocabulary
        weights = memory.inference_memory(size, 0, self.recipe.evaluation.dtype)
        return self._on(step, flops / self.flops, 0.0, {**weights, "logits": logits})

    def _on(
        self, step: Step, seconds: float, disk: float = 0.0, held: Parts | None = None, scratch: float = 0.0
    ) -> Cost:
        """A cost on the step's GPUs, or on the host if it has none; sizes are in bytes."""
        # A model is split over a step's GPUs, or over those of one copy.
        share = 1 if step.kind in TRAININGS else max(1, step.how.get("tensor_parallel", step.gpus))
        parts = {name: size / GIB / share for name, size in (held or {}).items()}
        hours, total_gib = seconds / 3600, sum(parts.values())
        alone = hours + CPU_STARTUP_SECONDS.get(step.kind, 0.0) / 3600
        needs = [0.0, disk / GIB, 0.0, total_gib, scratch / GIB, alone]
        if step.gpus:
            alone = hours / step.gpus / step.how.get("nodes", 1) + self.figures.startup_minutes / 60
            needs = [hours, disk / GIB, total_gib, 0.0, scratch / GIB, alone]
        known: list[Any] = [None if math.isnan(need) else need for need in needs]
        return Cost(*known)._replace(parts=parts)

    def size(self, step: Step) -> ModelSize:
        """Size of a step's model; a trained or merged one is as large as the one that it started from."""
        inputs = step.inputs
        while (given := inputs.get("model") or inputs["before"]).step:
            inputs = self.plan.steps[given.step].inputs
        return self.size_of(given.reference) or ModelSize(UNKNOWN)

    def _rows(self, given: Input) -> Rows:
        """A corpus if its filter keeps everything, a generation's prompts, an evaluation's problems."""
        if not given.step:  # responses that exist already
            return self.row_count(given.reference) or DEFAULT_PROMPTS, self.figures.default_response_tokens
        step = self.plan.steps[given.step]
        if step.kind in LONGEST:
            section, longest = LONGEST[step.kind]
            spec = step.config[section]
            limit = step.config.get("prompts", {}).get("limit") or self.prompts  # fewer for a merge's probes
            asked = min(self.prompts, limit) * spec["samples"] if step.kind == "generate" else self.problems
            return asked, min(self._length(step), spec[longest])
        parts = [self._rows(given) for role, given in step.inputs.items() if role != "verdict"]
        shares = list(zip(step.config.get("ratios", [1]), parts, strict=True))  # a filter has one part
        most = min(rows / ratio for ratio, (rows, _) in shares)
        if step.config.get("filter", {}).get("per_prompt", "all") != "all":
            most = min(most, self.prompts)
        return step.config.get("size") or most, sum(ratio * tokens for ratio, (_, tokens) in shares)

    def _length(self, step: Step) -> float:
        """Mean response tokens of the model that a generate or evaluate step asks."""
        known, made = self.figures.response_tokens, step.inputs["model"].step
        if made and self.plan.steps[made].kind == "fetch":
            made = ""
        names = [slot.partition("/")[2] for slot in self.plan.slots_of(made or step.id)]
        if not made:  # untrained: `evaluate/STUDENT/METHOD`; `evaluate/ASSISTANT/before` is another name's
            names = [first for name in names if (first := name.split("/")[0]) not in self.recipe.assistants]
        for name in names:
            if name in known:
                return known[name]
        if made and (learnt := self.plan.steps[made].inputs.get("corpus")):
            return self._rows(learnt)[1]
        return self.figures.default_response_tokens


def placed(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with GPUs and copies for all that asks a model on GPUs."""
    asking = [step for step in plan.steps.values() if step.gpus and step.kind in ASKING]
    if not asking:
        return plan
    estimator = Estimator(plan, recipe)
    return replace(plan, steps=plan.steps | {step.id: _placed(step, recipe, estimator) for step in asking})


def _placed(step: Step, recipe: Recipe, estimator: Estimator) -> Step:
    spec = recipe.evaluation if step.kind in ("evaluate", "bpc") else recipe.generation
    split = _split(recipe.hardware, estimator.size(step).parameters * DTYPE_BYTES[spec.dtype])
    most = recipe.hardware.gpus // split if spec.backend == "vllm" else 1
    hours = (estimator.cost(step).gpu_hours or 0.0) / split
    many = {"generate": most, "evaluate": min(most, max(1, math.ceil(hours / EVALUATION_HOURS)))}
    parallel: dict[str, Any] = {"tensor_parallel": split, "data_parallel": many.get(step.kind, 1)}
    if step.kind == "merge":  # it asks the model once it is made
        parallel = {"answers": step.how["answers"] | parallel}
    return replace(step, gpus=split * many.get(step.kind, 1), how=step.how | parallel)


def _split(hardware: Hardware, weights: float) -> int:
    """GPUs of one copy of a model whose weights take so many bytes; one if that is unknown."""
    if hardware.inference_gpus:
        return min(hardware.inference_gpus, hardware.gpus)
    splits = [split for split in SPLITS if split <= hardware.gpus]
    room = WEIGHTS_SHARE * hardware.gpu_memory_gib * GIB
    return next((split for split in splits if not weights / split > room), splits[-1])
