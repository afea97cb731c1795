"""The same model with attention heads of another size, for engines whose kernels lack the tiny family's.

    python benchmarks/widened.py tiny:teacher DIR

The tiny models have heads of 12 to 28; vLLM's CPU kernels start at 32. Padding a Qwen2 model with zeros
changes what it computes in the last digits of a float only:

- the hidden size grows with the heads, so RMSNorm divides by more: its weights and epsilon make up for that;
- a head's rotary pairs (i, i + old/2) move to (i, i + new/2), and the base becomes base ** (new / old), which
  keeps their frequencies;
- attention divides by sqrt(new): the queries make up for that.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from micota_lf.inputs.references import ModelRef

HEAD = 32  # the smallest head size of vLLM's CPU attention


def widened(model: str, directory: Path, head: int = HEAD) -> Path:
    """Write a local Qwen2 model without grouped or sliding attention with heads of `head` dimensions."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = ModelRef(model).local
    assert source is not None
    old = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = AutoConfig.from_pretrained(source)
    heads, small = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    hidden, ratio = heads * head, small / head  # also of the hidden sizes
    config.hidden_size, config.rms_norm_eps = hidden, config.rms_norm_eps * ratio
    config.rope_parameters["rope_theta"] **= 1 / ratio
    new = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Where a head's dimensions go: both halves of its rotary pairs keep their order.
    place = torch.cat([torch.arange(small // 2), head // 2 + torch.arange(small // 2)])
    inner = (torch.arange(heads)[:, None] * head + place).flatten()
    outer = torch.arange(heads * small)
    weights = new.state_dict()
    for name, tensor in old.state_dict().items():
        rows = columns = None
        part = name.split(".")[-2]
        if part in ("q_proj", "k_proj", "v_proj"):
            rows, columns = inner, outer
            tensor = tensor * ratio**-0.5 if part == "q_proj" else tensor
        elif part == "o_proj":
            rows, columns = outer, inner
        elif part == "down_proj" or "norm" in part:
            rows = outer
            tensor = tensor * ratio**0.5 if "norm" in part else tensor
        else:  # embeddings, lm_head, gate_proj, up_proj
            columns = outer
        target = torch.zeros_like(weights[name])
        rows = torch.arange(len(target)) if rows is None else rows
        if target.dim() == 1:
            target[rows] = tensor
        else:
            columns = torch.arange(target.shape[1]) if columns is None else columns
            target[rows[:, None], columns] = tensor
        weights[name] = target
    new.load_state_dict(weights)
    new.generation_config = old.generation_config
    new.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, Path(directory) / name)
    return Path(directory)


if __name__ == "__main__":
    print(widened(sys.argv[1], Path(sys.argv[2])))
