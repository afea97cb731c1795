"""A model directory: its tensors, its size, and what it lacks; headers are read, values on demand.

found = tensors(Path("model"))                # name -> Tensor(file, dtype, shape); no value is read
first_values(found["lm_head.weight"])         # some of its values, as a float64 array
cosines(Path("trained"), Path("model"))       # matrix -> how much it is still the other's: 0.998, 0.997...
model_problem(ModelRef("./model"), chat=True) # "model ./model has no chat template"

model_size(ModelRef("tiny:teacher")).parameters                 # counted in the safetensors headers
model_size(ModelRef("Qwen/Qwen2.5-14B-Instruct")).shape         # from models.yaml
model_size(ModelRef("someone/thing-13B")).parameters            # 13e9, read off the name; its shape is None
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ..errors import UserError
from ..system.files import read_beside, read_json
from .references import ModelRef

BILLION = 10**9
# FLOPs a parameter and token: forward 2, backward 4, the recomputed forward of checkpointing 2.
FORWARD, FORWARD_BACKWARD, CHECKPOINTED = 2, 6, 8
# Of raw weights, not of what a training changed: below this cosine, one model is not the other trained on.
# Medians over matrices of the tiny family: assistant and its fine-tuned self 0.998, students and theirs 0.996
# to 0.998, merged model 0.999; the same shape initialised with another seed -0.005 to 0.004 (single matrices
# up to 0.03), the assistant and the random weights that its training from scratch began with 0.499. Norms and
# biases stay out: norm weights are near 1 in every model.
KINSHIP = 0.25


class Tensor(NamedTuple):
    """One tensor of a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


class Shape(NamedTuple):
    """What memory depends on; `hidden`, `intermediate` and `head_dim` are widths, the rest are counts."""

    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest weight: the embeddings, or a matrix of the MLP."""
        return self.hidden * max(self.vocabulary, self.intermediate)


class ModelSize(NamedTuple):
    """Parameters of a model, and its shape where that is known."""

    parameters: float
    shape: Shape | None = None


def tensors(model: Path) -> dict[str, Tensor]:
    """The tensors of a model directory by name, from the headers of its safetensors files.

    Raises ValueError for a file that is none, or was cut short.
    """
    found: dict[str, Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a mapping
                    entry = handle.get_slice(name)
                    found[name] = Tensor(file, name, entry.get_dtype(), tuple(entry.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file.name} is no whole safetensors file: {error}") from error
    return found


def finite(tensor: Tensor) -> bool:
    """Whether a tensor has no infinity and no NaN."""
    with safe_open(tensor.file, framework="pt") as handle:
        return bool(handle.get_tensor(tensor.name).isfinite().all())


def first_values(tensor: Tensor) -> Any:
    """At most 8,192 values of a matrix's first 64 rows, as a float64 array of one dimension.

    Torch takes seconds to import, so it reads only what numpy cannot.
    """
    import numpy as np

    framework = "np" if tensor.dtype in ("F16", "F32", "F64") else "pt"
    with safe_open(tensor.file, framework=framework) as handle:
        rows = handle.get_slice(tensor.name)[: min(64, tensor.shape[0])]
        return np.asarray(rows if framework == "np" else rows.double(), np.float64).ravel()[:8192]


def cosines(model: Path, origin: Path) -> dict[str, float]:
    """By name the cosine of each matrix of a model with its origin's, over their first values.

    Those of another shape are left out, and those that begin with nothing but zeros in the origin.
    """
    import numpy as np

    made, before, found = tensors(model), tensors(origin), dict[str, float]()
    for name in sorted(made.keys() & before.keys()):
        if len(made[name].shape) > 1 and made[name].shape == before[name].shape:
            values = first_values(before[name])
            if values.any():
                ours = first_values(made[name])
                length = np.linalg.norm(ours) * np.linalg.norm(values)
                found[name] = float(ours @ values / (length or 1.0))
    return found


def model_size(model: ModelRef) -> ModelSize | None:
    """Size of a model, or None if it is unknown. Nothing is downloaded."""
    if model.local is not None:
        return directory_size(model.local)
    stated = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", model.ref.split("/")[-1].lower())
    named = ModelSize(float(stated[1]) * BILLION) if stated else None
    return known_models().get(model.ref, named)


@cache
def known_models() -> dict[str, ModelSize]:
    """The models of models.yaml by hub id."""
    rows = read_beside(__file__, "models")
    return {name: ModelSize(row["billions"] * BILLION, _shape(row)) for name, row in rows.items()}


def directory_size(path: Path) -> ModelSize | None:
    """Size of a model directory: parameters counted in the headers of its weights, shape from config.json."""
    config = path / "config.json"
    parameters = sum(math.prod(tensor.shape) for tensor in tensors(path).values())
    return ModelSize(parameters, _shape(read_json(config))) if parameters and config.is_file() else None


def missing_bytes(model: ModelRef) -> float:
    """Bytes of a hub model's weights, in bf16, that the cache lacks; 0 for a local one or an unknown size."""
    if model.local or not (size := model_size(model)):
        return 0.0
    with suppress(FileNotFoundError):
        files = model.weights(offline=True).glob("*.safetensors")
        return max(0.0, 2 * size.parameters - sum(file.stat().st_size for file in files))
    return 2 * size.parameters


def training_flops(size: ModelSize, how: dict[str, Any], tokens: float) -> float:
    """FLOPs of training on `tokens`: 6 a parameter and token, 8 with gradient checkpointing."""
    passes = FORWARD_BACKWARD if how["disable_gradient_checkpointing"] else CHECKPOINTED
    return passes * size.parameters * tokens


def _shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a model's config.json states, or None for an architecture with other key names."""
    with suppress(KeyError):
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        layers, intermediate = config["num_hidden_layers"], config["intermediate_size"]
        kv_heads = config.get("num_key_value_heads", heads)
        head_dim = config.get("head_dim") or hidden // heads
        return Shape(layers, hidden, intermediate, kv_heads, head_dim, config["vocab_size"])
    return None


def model_problem(model: ModelRef, chat: bool) -> str | None:
    """Why a local model directory cannot be used, or None. Hub ids are not looked up.

    Headers of weights are read, which shows files that were cut short, and no value.
    `chat` asks for a chat template too: without one, training and inference prompts differ silently.
    """
    if model.local is None:
        return None
    if not model.local.is_dir():
        return f"no such model directory: {model.ref}"
    try:
        problem = next(_directory_problems(model.local, chat), None)
    except (UserError, ValueError) as error:
        problem = f"cannot be used: {error}"
    return problem and f"model {model.ref} {problem}"


def quantised_problem(model: ModelRef) -> str | None:
    """Why a model can be neither trained nor merged: its weights are quantised. Else, or if unknown, None."""
    how = model.settings("config.json").get("quantization_config") or {}
    name = how.get("quant_method", "without quant_method") if how else None
    words = f"model {model.ref} is quantised (config.json, quantization_config: {name})"
    return f"{words}: take the unquantised weights that it was made of" if name else None


def _directory_problems(path: Path, chat: bool) -> Iterator[str]:
    """One by one, since each check relies on those before it."""
    settings = ("config.json", "tokenizer_config.json")
    files = {file.name for file in path.iterdir() if file.is_file()}
    if "config.json" not in files and "adapter_config.json" in files:
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        yield f"is an adapter (adapter_config.json) of {base}: merge the two into one model first"
    if "config.json" not in files and (packed := [name for name in files if name.endswith(".gguf")]):
        yield f"is quantised ({packed[0]}): take the unquantised safetensors weights that it was made of"
    if not files.issuperset(settings):
        yield f"lacks {' and '.join(name for name in settings if name not in files)}"
    if files.isdisjoint(("tokenizer.json", "tokenizer.model", "vocab.json")):
        yield "has no tokenizer"
    if not tensors(path):
        yield "has no safetensors weights"
    if (index := path / "model.safetensors.index.json").is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        if absent := sorted(shards - files):
            yield f"lacks {len(absent)} of {len(shards)} weight files, the first: {absent[0]}"
    read = {name: read_json(path / name) for name in (*settings, "tokenizer.json") if name in files}
    for name, content in read.items():
        if not isinstance(content, dict):
            yield f"cannot be used: {name} is a {type(content).__name__}, not a JSON object"
    config, words = (read[name] for name in settings)
    if "model" not in read.get("tokenizer.json", ["model"]):
        yield "cannot be used: tokenizer.json is no tokenizer"
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if (kind := config.get("model_type")) not in CONFIG_MAPPING:
            yield f"needs code of its own (auto_map), which is never run: no known model type {kind!r}"
    if chat and "chat_template.jinja" not in files and not words.get("chat_template"):
        yield "has no chat template"
