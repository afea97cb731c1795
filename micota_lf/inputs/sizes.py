"""How large a model is: from its own files, a table of the paper's models, or its name.

model_size("tiny:teacher").parameters               # counted in the safetensors headers
model_size("Qwen/Qwen2.5-14B-Instruct").shape       # from models.yaml
model_size("someone/thing-13B").parameters          # 13e9, read off the name; its shape is None
model_size("someone/thing")                         # None: unknown
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..system.files import read_json
from .references import local_path
from .weights import tensors

MODELS_FILE = Path(__file__).with_name("models.yaml")
BILLION = 10**9


@dataclass(frozen=True)
class Shape:
    """What memory depends on; `hidden`, `intermediate` and `head_dim` are widths, the rest are counts."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Parameters of a Qwen2 model of this shape: embeddings, attention with q, k, v biases, gated MLP."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * queries + 2 * self.hidden * keys + queries + 2 * keys
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest weight: the embeddings, or a matrix of the MLP."""
        return self.hidden * max(self.vocabulary, self.intermediate)


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, and its shape where that is known."""

    parameters: float
    shape: Shape | None = None


def model_size(ref: str) -> ModelSize | None:
    """Size of the model that a reference names, or None. Nothing is downloaded."""
    path = local_path(ref)
    if path is not None:
        return directory_size(path)
    if ref in known_models():
        return known_models()[ref]
    stated = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", ref.split("/")[-1].lower())
    return ModelSize(float(stated[1]) * BILLION) if stated else None


@cache
def known_models() -> dict[str, ModelSize]:
    """The models of models.yaml by hub id."""
    names = [field.name for field in fields(Shape)]
    rows: dict[str, dict[str, Any]] = yaml.safe_load(MODELS_FILE.read_text(encoding="utf-8"))
    return {
        name: ModelSize(row["billions"] * BILLION, Shape(**{key: row[key] for key in names}))
        for name, row in rows.items()
    }


def directory_size(path: Path) -> ModelSize | None:
    """Size of a model directory: parameters counted in the headers of its weights, shape from config.json."""
    parameters = sum(math.prod(tensor.shape) for tensor in tensors(path).values())
    if not parameters or not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    try:
        heads = config["num_attention_heads"]
        shape = Shape(
            layers=config["num_hidden_layers"], hidden=config["hidden_size"],
            intermediate=config["intermediate_size"], heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"], max_positions=config["max_position_embeddings"],
            tied=config.get("tie_word_embeddings", True),
        )  # fmt: skip
    except KeyError:  # an architecture with other key names
        return ModelSize(parameters)
    return ModelSize(parameters, shape)
