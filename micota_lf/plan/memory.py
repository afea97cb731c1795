"""What a model needs of each GPU's memory, part by part, in bytes.

    parts = training_memory(size, config["train"], how["train"], devices=8, liger=True)
    parts["logits"], sum(parts.values())

A part is NaN where the model's shape is unknown. A plan may count on the share `READY` of a GPU's memory.
"""

import math
from typing import Any

from ..inputs.weights import ModelSize, Shape

Parts = dict[str, float]
READY = 0.9
GIB = 2**30
UNKNOWN: Any = math.nan  # what is reckoned from it is unknown too
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Bytes a parameter of mixed-precision AdamW: weights 2, gradients 2, fp32 weights and two moments 12
# (Rajbhandari et al., arXiv 1910.02054, section 3.1); all in fp32 it is 16 too.
WEIGHT_BYTES, OPTIMIZER_BYTES, TRAIN_BYTES = 2, 12, 16
# Bytes a token and hidden unit that one layer's backward needs beside attention scores, which are not kept
# (Korthikanti et al., arXiv 2205.05198, section 4.1).
LAYER_BYTES = 34
# Peak bytes a logit, measured on transformers 5.5.4's causal loss: 12 in training (bf16 logits, their fp32
# copy, log-softmax, gradients), 10 without the backward pass. liger-kernel's fused loss makes gradients
# of bf16 logits in their place, or (older ones) in a copy.
LOGIT_TRAIN_BYTES, LOGIT_BYTES, LIGER_LOGIT_BYTES = 12, 10, 4
# DeepSpeed 0.18.4's stage3_max_live_parameters (runtime/zero/config.py), which train.yaml leaves alone; and
# CUDA's context, its libraries and NCCL's buffers: 1 to 2 GiB on GPUs of 80 GB.
LIVE_PARAMETERS, RUNTIME_BYTES = 10**9, 2 * GIB
# Ours: lost between blocks, of all that PyTorch holds, with expandable segments. GMLake, which does what they
# do, saved 15% on average and up to 33% (arXiv 2401.08156).
FRAGMENTED = 0.1
# mergekit 0.1.5, measured on 317M parameters: bytes of the process, copies of the largest tensor.
MERGE_BASE_BYTES, MERGE_COPIES = 1.1e9, 9


def training_memory(
    size: ModelSize,
    what: dict[str, Any],
    how: dict[str, Any],
    devices: int,
    liger: bool = False,
    rows: float = 1,
) -> Parts:
    """The parts on each of `devices` GPUs while training on sequences of cutoff_len tokens, `rows` at a time.

    Full fine-tuning holds 16 bytes a parameter: all split under ZeRO-3, all but the weights under ZeRO-2,
    none otherwise. Freezing is counted as its weights alone. Activations: each layer's input
    (gradient checkpointing) and one layer's working set, or every layer's. The loss over the vocabulary keeps
    all logits, or with liger those of a chunk; under ZeRO-3 the output layer and its gradient are whole then.
    """
    shape, stage = shape_of(size), how["deepspeed"]
    states = WEIGHT_BYTES / (devices if stage == "zero3" else 1)
    if what["finetuning_type"] == "full":
        states += (TRAIN_BYTES - WEIGHT_BYTES) / (devices if stage != "none" else 1)
    tokens = int(what["cutoff_len"] * max(rows, how["per_device_train_batch_size"]))
    whole = how["disable_gradient_checkpointing"]
    parts = {
        "states": size.parameters * states,
        "layer inputs": 0.0 if whole else tokens * shape.hidden * WEIGHT_BYTES * shape.layers,
        "layer at work": tokens * shape.hidden * LAYER_BYTES * (shape.layers if whole else 1),
        "logits": tokens * shape.vocabulary * LOGIT_TRAIN_BYTES,
    }
    if liger:
        parts["logits"] = liger_chunk(tokens, shape) * shape.vocabulary * LIGER_LOGIT_BYTES
    if stage == "zero3":
        parts["output layer"] = 2 * shape.hidden * shape.vocabulary * WEIGHT_BYTES
        parts["gathered"] = min(size.parameters, LIVE_PARAMETERS) * WEIGHT_BYTES
    return {**parts, "fragments": FRAGMENTED * sum(parts.values()), "runtime": RUNTIME_BYTES}


def liger_chunk(tokens: int, shape: Shape) -> int:
    """Tokens whose logits liger-kernel 0.8.5 holds at a time (ops/fused_linear_cross_entropy.py).

    So many that they take about what the hidden states do: a power of two, at most all of them.
    """
    known = not math.isnan(shape.hidden)
    share = math.ceil(tokens / math.ceil(shape.vocabulary / shape.hidden)) if known else tokens
    return min(1 << (share - 1).bit_length(), tokens)


def inference_memory(size: ModelSize, tokens: int, dtype: str, batch: int = 1) -> Parts:
    """The weights, and the keys and values of `batch` sequences of `tokens`, before they are split."""
    shape = shape_of(size)
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * batch
    return {"weights": DTYPE_BYTES[dtype] * size.parameters, "cache": DTYPE_BYTES[dtype] * cache}


def merge_memory(size: ModelSize, dtype: str) -> float:
    """Bytes of host memory of a merge whose arithmetic is in `dtype`."""
    return MERGE_BASE_BYTES + MERGE_COPIES * DTYPE_BYTES[dtype] * shape_of(size).largest_tensor


def shape_of(size: ModelSize) -> Shape:
    """A model's shape; all of it is NaN if it is unknown."""
    return size.shape or Shape(*[UNKNOWN] * len(Shape._fields))
