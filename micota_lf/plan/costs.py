"""What a plan's steps cost, before they run: GPU-hours, disk, memory.

    costs = estimate(plan, recipe)                      # step id -> Cost
    total(costs.values()).gpu_hours

Sizes come from `models.py`, speeds and response lengths from the recipe's `estimates`. Every response is
counted as kept by its filter, so trainings are upper bounds. None is unknown (no size, no shape). Without
GPUs no time is estimated, and what a GPU would hold counts as the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..inputs.sizes import BILLION, ModelSize, model_size
from ..recipe.sections import Recipe
from .compile import Input, Plan, Step
from .volumes import Volumes

GIB = 2**30
HOUR = 3600.0
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Bytes a parameter of mixed-precision AdamW: weights 2, gradients 2, fp32 weights and two moments 12
# (Rajbhandari et al., arXiv 1910.02054, section 3.1); all in fp32 it is 16 too.
WEIGHT_BYTES, OPTIMIZER_BYTES, TRAIN_BYTES = 2, 12, 16
# FLOPs a parameter and token: forward 2, backward 4, the recomputed forward of checkpointing 2.
FORWARD, FORWARD_BACKWARD, CHECKPOINTED = 2, 6, 8
# Bytes a token and hidden unit that one layer's backward needs beside attention scores, which are not kept
# (Korthikanti et al., arXiv 2205.05198, section 4.1).
LAYER_BYTES = 34
# Peak bytes a logit, measured on transformers 5.5.4's causal loss: 12 in training (bf16 logits, their fp32
# copy, log-softmax, gradients), 10 without the backward pass.
LOGIT_TRAIN_BYTES, LOGIT_BYTES = 12, 10
# mergekit 0.1.5, measured on 317M parameters: bytes of the process, copies of the largest tensor.
MERGE_BASE_BYTES, MERGE_COPIES = 1.1e9, 9
TOKEN_TEXT_BYTES = 4  # of English and mathematics, in Qwen2.5's tokens


@dataclass(frozen=True)
class Cost:
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
    return {step_id: estimator.cost(step) for step_id, step in plan["steps"].items()}


def total(costs: Iterable[Cost]) -> Cost:
    """Hours and disk added up, memory and scratch of the largest; None where a part is unknown."""
    rows = list(costs)
    return Cost(
        gpu_hours=_joined(sum, [cost.gpu_hours for cost in rows]),
        disk_gib=_joined(sum, [cost.disk_gib for cost in rows]),
        gpu_memory_gib=_joined(max, [cost.gpu_memory_gib for cost in rows]),
        host_memory_gib=_joined(max, [cost.host_memory_gib for cost in rows]),
        scratch_gib=_joined(max, [cost.scratch_gib for cost in rows]),
    )


def training_flops(size: ModelSize, how: dict[str, Any], tokens: float) -> float:
    """FLOPs of training on `tokens`: 6 a parameter and token, 8 with gradient checkpointing."""
    passes = FORWARD_BACKWARD if how["disable_gradient_checkpointing"] else CHECKPOINTED
    return passes * size.parameters * tokens


def training_memory(size: ModelSize, what: dict[str, Any], how: dict[str, Any], devices: int) -> float | None:
    """Bytes on each of `devices` while training on sequences of cutoff_len tokens.

    Full fine-tuning holds 16 bytes a parameter: all split under ZeRO-3, all but the weights under ZeRO-2,
    none otherwise. LoRA and freezing are counted as their weights alone. Activations: each layer's input
    (gradient checkpointing) and one layer's working set, or every layer's; then the loss over the vocabulary.
    """
    shape, stage = size.shape, how.get("deepspeed")
    if shape is None:
        return None
    states = WEIGHT_BYTES / (devices if stage == "zero3" else 1)
    if what["finetuning_type"] == "full":
        states += (TRAIN_BYTES - WEIGHT_BYTES) / (devices if stage else 1)
    tokens: int = what["cutoff_len"] * how["per_device_train_batch_size"]
    kept = LAYER_BYTES * shape.layers
    if not how["disable_gradient_checkpointing"]:
        kept = LAYER_BYTES + WEIGHT_BYTES * shape.layers
    return size.parameters * states + tokens * (shape.hidden * kept + LOGIT_TRAIN_BYTES * shape.vocabulary)


def inference_memory(size: ModelSize, tokens: int, dtype: str, batch: int = 1) -> float | None:
    """Bytes of the weights and of the keys and values of `batch` sequences of `tokens`."""
    if size.shape is None:
        return None
    cache = 2 * size.shape.layers * size.shape.kv_heads * size.shape.head_dim * tokens * batch
    return DTYPE_BYTES[dtype] * (size.parameters + cache)


def merge_memory(size: ModelSize, dtype: str) -> float | None:
    """Bytes of host memory of a merge whose arithmetic is in `dtype`."""
    if size.shape is None:
        return None
    return MERGE_BASE_BYTES + MERGE_COPIES * DTYPE_BYTES[dtype] * size.shape.largest_tensor


def _joined(join: Callable[[list[float]], float], values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else join([0.0, *known])


class _Estimator:
    """Costs of the steps of one plan."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe = plan, recipe
        self.volumes = Volumes(plan, recipe)

    def cost(self, step: Step) -> Cost:
        """The cost of one step; a kind that is not known here costs nothing."""
        kinds: dict[str, Callable[[Step], Cost]] = {
            "generate": self._generate, "filter": self._corpus, "mix": self._corpus, "train": self._train,
            "merge": self._merge, "evaluate": self._evaluate, "bpc": self._bpc,
        }  # fmt: skip
        return kinds[step["kind"]](step) if step["kind"] in kinds else Cost()

    def _generate(self, step: Step) -> Cost:
        rows, mean = self.volumes.responses(step)
        what, flags = step["config"], step["how"]["generate"]
        if what["backend"] == "endpoint":  # on someone else's GPUs
            return Cost(disk_gib=rows * mean * TOKEN_TEXT_BYTES / GIB)
        # vLLM holds as many sequences as there is memory for, but one at least.
        return self._answering(
            step, rows * mean, what["max_tokens"], what["dtype"], flags.get("batch_size", 1)
        )

    def _evaluate(self, step: Step) -> Cost:
        rows, mean = self.volumes.answers(step)
        what = step["config"]
        batch = 1 if what.get("backend") == "vllm" else step["how"]["batch_size"]
        return self._answering(step, rows * mean, what["max_gen_toks"], what["dtype"], batch)

    def _answering(self, step: Step, tokens: float, longest: int, dtype: str, batch: int) -> Cost:
        """Decoding: tokens / (decode_tokens_per_second of a 1B model / billions of parameters)."""
        size, disk = self._size(step["inputs"]["model"]), tokens * TOKEN_TEXT_BYTES
        if size is None:
            return self._on(step, None, disk, None)
        hours = tokens * size.parameters / BILLION / self.recipe.estimates.decode_tokens_per_second / HOUR
        return self._on(step, hours, disk, inference_memory(size, longest, dtype, batch))

    def _corpus(self, step: Step) -> Cost:
        rows, mean = self.volumes.corpus(step["id"])
        return Cost(disk_gib=rows * mean * TOKEN_TEXT_BYTES / GIB)

    def _train(self, step: Step) -> Cost:
        """Training: FLOPs / (tflops x mfu)."""
        what, how = step["config"]["train"], step["how"]["train"]
        size = self._size(step["inputs"]["model"])
        if size is None:
            return self._on(step, None, None, None)
        hours = self._compute_hours(training_flops(size, how, self.volumes.trained_tokens(step)))
        disk = size.parameters * (WEIGHT_BYTES if what["bf16"] else 4)
        scratch = 0.0
        if how["save_strategy"] != "no":  # checkpoints: weights and optimizer
            scratch = (how["save_total_limit"] or 1) * size.parameters * (WEIGHT_BYTES + OPTIMIZER_BYTES)
        devices = step["how"]["processes"] * step["how"]["nodes"]
        cost = self._on(step, hours, disk, training_memory(size, what, how, devices))
        return replace(cost, scratch_gib=scratch / GIB)

    def _merge(self, step: Step) -> Cost:
        size, dtype = self._size(step["inputs"]["before"]), step["config"]["merge"]["dtype"]
        if size is None:
            return Cost(0.0, None, 0.0, None)
        memory = merge_memory(size, dtype)
        return Cost(
            disk_gib=size.parameters * DTYPE_BYTES[dtype] / GIB, host_memory_gib=memory and memory / GIB
        )

    def _bpc(self, step: Step) -> Cost:
        """Scoring: 2 FLOPs a parameter and token."""
        size, longest = self._size(step["inputs"]["model"]), self.recipe.generation.max_tokens
        if size is None:
            return self._on(step, None, 0.0, None)
        hours = self._compute_hours(FORWARD * size.parameters * self.volumes.scored_tokens(step))
        memory = inference_memory(size, 0, self.recipe.evaluation.dtype)
        if memory is not None and size.shape:
            memory += LOGIT_BYTES * longest * size.shape.vocabulary
        return self._on(step, hours, 0.0, memory)

    def _compute_hours(self, flops: float) -> float:
        return flops / (self.recipe.estimates.tflops * 1e12 * self.recipe.estimates.mfu) / HOUR

    def _on(self, step: Step, hours: float | None, disk: float | None, memory: float | None) -> Cost:
        """A cost on the step's GPUs, or on the host if it has none."""
        how = step["how"]  # a model is split over a step's GPUs, or over those of one copy
        split = how.get("generate", {}).get("tensor_parallel", how["gpus"])
        share = 1 if step["kind"] == "train" else max(1, split)
        held = None if memory is None else memory / GIB / share
        kept = None if disk is None else disk / GIB
        return Cost(hours, kept, held, 0.0) if step["how"]["gpus"] else Cost(0.0, kept, 0.0, held)

    def _size(self, given: Input) -> ModelSize | None:
        """Size of a model input; a trained or merged model is as large as the one it started from."""
        while "step" in given:
            inputs = self.plan["steps"][given["step"]]["inputs"]
            given = inputs.get("model") or inputs["before"]
        return model_size(given["ref"])
