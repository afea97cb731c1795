"""What a plan's steps cost, before they run: GPU-hours, disk, memory.

    costs = estimate(plan, recipe)                      # step id -> Cost
    total(costs.values()).gpu_hours

Sizes come from inputs/models.yaml, speeds and response lengths from the recipe's `estimates`. Lengths are by
the name of the model that responds: a teacher, a student, STUDENT/CORPUS or an assistant. A trained model
that is not named there responds as long as the corpus that it has learnt from; any other one as
`default_response_tokens` says. Every response is counted as kept by its filter, so trainings are upper
bounds. None is unknown (no size, no shape). Without GPUs no time is estimated, and what a GPU would hold
counts as the host's memory.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from ..inputs.problems import Problems
from ..inputs.references import ModelRef
from ..inputs.weights import BILLION, FORWARD, ModelSize, Shape, model_size, training_flops
from ..recipe.sections import Recipe
from ..recipe.tasks import evaluated_benchmarks
from .plan import Input, Plan, Step

Rows = tuple[float, float]
"""How many, and their mean response tokens."""

DEFAULT_PROMPTS = 12000  # MATH's training problems as the paper uses them (section 4.2)
# Where a step's config says how long an answer may get.
LONGEST = {"generate": ("generation", "max_tokens"), "evaluate": ("evaluation", "max_gen_toks")}
GIB = 2**30
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Bytes a parameter of mixed-precision AdamW: weights 2, gradients 2, fp32 weights and two moments 12
# (Rajbhandari et al., arXiv 1910.02054, section 3.1); all in fp32 it is 16 too.
WEIGHT_BYTES, OPTIMIZER_BYTES, TRAIN_BYTES = 2, 12, 16
# Bytes a token and hidden unit that one layer's backward needs beside attention scores, which are not kept
# (Korthikanti et al., arXiv 2205.05198, section 4.1).
LAYER_BYTES = 34
# Peak bytes a logit, measured on transformers 5.5.4's causal loss: 12 in training (bf16 logits, their fp32
# copy, log-softmax, gradients), 10 without the backward pass.
LOGIT_TRAIN_BYTES, LOGIT_BYTES = 12, 10
# mergekit 0.1.5, measured on 317M parameters: bytes of the process, copies of the largest tensor.
MERGE_BASE_BYTES, MERGE_COPIES = 1.1e9, 9
TOKEN_TEXT_BYTES = 4  # of English and mathematics, in Qwen2.5's tokens
UNKNOWN: Any = math.nan  # what is reckoned from it is unknown too


class Cost(NamedTuple):
    """What a step needs: GPU-hours over all its GPUs, GiB on disk, GiB on each GPU, GiB of host memory.

    `scratch_gib` is disk that it gives back: checkpoints.
    """

    gpu_hours: float | None = 0.0
    disk_gib: float | None = 0.0
    gpu_memory_gib: float | None = 0.0
    host_memory_gib: float | None = 0.0
    scratch_gib: float | None = 0.0


def estimate(plan: Plan, recipe: Recipe) -> dict[str, Cost]:
    """The cost of every step of a recipe's plan, by step id."""
    estimator = _Estimator(plan, recipe)
    return {step.id: estimator.cost(step) for step in plan.steps.values()}


def total(costs: Iterable[Cost]) -> Cost:
    """Hours and disk added up, memory and scratch of the largest; None where a part is unknown."""
    joins: tuple[Any, ...] = (sum, sum, max, max, max)
    columns = zip(joins, zip(Cost(), *costs, strict=True), strict=True)
    return Cost(*(None if None in values else join(values) for join, values in columns))


def training_memory(size: ModelSize, what: dict[str, Any], how: dict[str, Any], devices: int) -> float:
    """Bytes on each of `devices` while training on sequences of cutoff_len tokens; NaN without a shape.

    Full fine-tuning holds 16 bytes a parameter: all split under ZeRO-3, all but the weights under ZeRO-2,
    none otherwise. LoRA and freezing are counted as their weights alone. Activations: each layer's input
    (gradient checkpointing) and one layer's working set, or every layer's; then the loss over the vocabulary.
    """
    shape, stage = shape_of(size), how["deepspeed"]
    states = WEIGHT_BYTES / (devices if stage == "zero3" else 1)
    if what["finetuning_type"] == "full":
        states += (TRAIN_BYTES - WEIGHT_BYTES) / (devices if stage != "none" else 1)
    tokens: int = what["cutoff_len"] * how["per_device_train_batch_size"]
    kept = LAYER_BYTES * shape.layers
    if not how["disable_gradient_checkpointing"]:
        kept = LAYER_BYTES + WEIGHT_BYTES * shape.layers
    return size.parameters * states + tokens * (shape.hidden * kept + LOGIT_TRAIN_BYTES * shape.vocabulary)


def inference_memory(size: ModelSize, tokens: int, dtype: str, batch: int = 1) -> float:
    """Bytes of the weights and of the keys and values of `batch` sequences of `tokens`.

    NaN without a shape.
    """
    shape = shape_of(size)
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * batch
    return DTYPE_BYTES[dtype] * (size.parameters + cache)


def merge_memory(size: ModelSize, dtype: str) -> float:
    """Bytes of host memory of a merge whose arithmetic is in `dtype`; NaN without a shape."""
    return MERGE_BASE_BYTES + MERGE_COPIES * DTYPE_BYTES[dtype] * shape_of(size).largest_tensor


def shape_of(size: ModelSize) -> Shape:
    """A model's shape; all of it is NaN if it is unknown."""
    return size.shape or Shape(*[UNKNOWN] * len(Shape._fields))


def line_count(source: ModelRef) -> int | None:
    """Rows of a local JSON Lines file; None for a hub id, and for a file that is not there."""
    if source.local is None or not source.local.is_file():
        return None
    with source.local.open("rb") as handle:
        return sum(1 for line in handle if line.strip())


def problem_count(spec: Problems) -> int | None:
    """Number of problems of a source: rows of a local file up to its limit; None for a hub id without one."""
    rows = line_count(spec.source)
    return spec.limit if rows is None else min(rows, spec.limit or rows)


def benchmark_problems(recipe: Recipe) -> dict[str, int]:
    """Problems of each benchmark of the recipe's evaluation; one that is nowhere known counts as none."""
    counts = {}
    for name, benchmark in evaluated_benchmarks(recipe.evaluation).items():
        rows = problem_count(benchmark) or benchmark.problems or 0
        counts[name] = min(rows, recipe.evaluation.limit or rows)
    return counts


class _Estimator:
    """Costs of the steps of one plan, from the rows and tokens that they handle."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe, self.figures = plan, recipe, recipe.estimates
        self.flops_a_second = self.figures.tflops * 1e12 * self.figures.mfu  # of one GPU
        self.problems = sum(benchmark_problems(recipe).values())
        self.prompts = problem_count(recipe.prompts) or DEFAULT_PROMPTS

    def cost(self, step: Step) -> Cost:
        """The cost of one step; a kind that is not known here costs nothing."""
        kinds: dict[str, Callable[[Step], Cost]] = {
            "generate": self._answering, "filter": self._corpus, "mix": self._corpus, "train": self._train,
            "merge": self._merge, "evaluate": self._answering, "bpc": self._bpc,
        }  # fmt: skip
        return kinds[step.kind](step) if step.kind in kinds else Cost()

    def _answering(self, step: Step) -> Cost:
        """Decoding: tokens / (decode_tokens_per_second of a 1B model / billions of parameters)."""
        section, longest = LONGEST[step.kind]
        spec, (rows, mean) = step.config[section], self._rows(Input(step.id))
        disk = rows * mean * TOKEN_TEXT_BYTES
        if spec["backend"] == "endpoint":  # on someone else's GPUs
            return Cost(disk_gib=disk / GIB)
        size = self._size(step.inputs["model"])
        # vLLM holds as many sequences as there is memory for, but one at least.
        batch = step.how[section]["batch_size"] if spec["backend"] == "transformers" else 1
        seconds = rows * mean * size.parameters / BILLION / self.figures.decode_tokens_per_second
        return self._on(step, seconds, disk, inference_memory(size, spec[longest], spec["dtype"], batch))

    def _corpus(self, step: Step) -> Cost:
        rows, mean = self._rows(Input(step.id))
        return Cost(disk_gib=rows * mean * TOKEN_TEXT_BYTES / GIB)

    def _train(self, step: Step) -> Cost:
        """Training: FLOPs / (tflops x mfu)."""
        spec, how, size = step.config["train"], step.how["train"], self._size(step.inputs["model"])
        rows, mean = self._rows(step.inputs["corpus"])
        seen = rows * spec["num_train_epochs"]
        if spec["max_steps"] > 0:
            seen = spec["max_steps"] * spec["global_batch_size"]
        seconds = training_flops(size, how, seen * min(mean, spec["cutoff_len"])) / self.flops_a_second
        disk, scratch = size.parameters * (WEIGHT_BYTES if spec["bf16"] else 4), 0.0
        if how["save_strategy"] != "no":  # checkpoints: weights and optimizer
            scratch = (how["save_total_limit"] or 1) * size.parameters * (WEIGHT_BYTES + OPTIMIZER_BYTES)
        memory = training_memory(size, spec, how, step.how["processes"] * step.how["nodes"])
        return self._on(step, seconds, disk, memory, scratch)

    def _merge(self, step: Step) -> Cost:
        """A merge is done on the host; its GPU is for the questions that the merged model is asked."""
        size, dtype = self._size(step.inputs["before"]), step.config["merge"]["dtype"]
        disk = size.parameters * DTYPE_BYTES[dtype]
        return self._on(replace(step, gpus=0), 0.0, disk, merge_memory(size, dtype))

    def _bpc(self, step: Step) -> Cost:
        """Scoring: 2 FLOPs a parameter and token of all corpora."""
        size, limit = self._size(step.inputs["model"]), self.recipe.bpc.limit or math.inf
        corpora = [self._rows(given) for role, given in step.inputs.items() if role != "model"]
        flops = FORWARD * size.parameters * sum(min(rows, limit) * mean for rows, mean in corpora)
        logits = LOGIT_BYTES * self.recipe.generation.max_tokens * shape_of(size).vocabulary
        weights = inference_memory(size, 0, self.recipe.evaluation.dtype)
        return self._on(step, flops / self.flops_a_second, 0.0, weights + logits)

    def _on(self, step: Step, seconds: float, disk: float, memory: float, scratch: float = 0.0) -> Cost:
        """A cost on the step's GPUs, or on the host if it has none; sizes are in bytes."""
        # A model is split over a step's GPUs, or over those of one copy.
        share = 1 if step.kind == "train" else max(1, step.how.get("tensor_parallel", step.gpus))
        hours, held = seconds / 3600, memory / GIB / share
        needs = (hours, disk / GIB, held, 0.0) if step.gpus else (0.0, disk / GIB, 0.0, held)
        return Cost(*(None if math.isnan(need) else need for need in (*needs, scratch / GIB)))

    def _size(self, given: Input) -> ModelSize:
        """Size of a model input; a trained or merged model is as large as the one it started from."""
        while given.step:
            inputs = self.plan.steps[given.step].inputs
            given = inputs.get("model") or inputs["before"]
        return model_size(given.reference) or ModelSize(UNKNOWN)

    def _rows(self, given: Input) -> Rows:
        """A corpus if its filter keeps everything, a generation's prompts, an evaluation's problems."""
        if not given.step:  # responses that exist already
            return line_count(given.reference) or DEFAULT_PROMPTS, self.figures.default_response_tokens
        step = self.plan.steps[given.step]
        if step.kind in LONGEST:
            section, longest = LONGEST[step.kind]
            asked = self.prompts if step.kind == "generate" else self.problems
            return asked, min(self._length(step), step.config[section][longest])
        parts = map(self._rows, step.inputs.values())
        shares = list(zip(step.config.get("ratios", [1]), parts, strict=True))  # a filter has one part
        most = min(rows / ratio for ratio, (rows, _) in shares)
        return step.config.get("size") or most, sum(ratio * tokens for ratio, (_, tokens) in shares)

    def _length(self, step: Step) -> float:
        """Mean response tokens of the model that a generate or evaluate step asks."""
        known, made = self.figures.response_tokens, step.inputs["model"].step
        names = [slot.partition("/")[2] for slot in self.plan.slots_of(made or step.id)]
        if not made:  # untrained: `evaluate/STUDENT/METHOD`; `evaluate/ASSISTANT/before` is another name's
            names = [first for name in names if (first := name.split("/")[0]) not in self.recipe.assistants]
        for name in names:
            if name in known:
                return known[name]
        if made and (learnt := self.plan.steps[made].inputs.get("corpus")):
            return self._rows(learnt)[1]
        return self.figures.default_response_tokens
