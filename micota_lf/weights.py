"""Safetensors files read with numpy alone: headers, samples of values, whether all are finite.

    found = tensors(Path("model"))            # names, types and shapes, from the headers
    sample(found["lm_head.weight"])           # some of its values as float64
    all(finite(t) for t in found.values())    # reads every byte, keeps none

The format: eight bytes with the header's length, a JSON header, the tensors' bytes
(https://huggingface.co/docs/safetensors). Numpy has no bfloat16, and importing torch takes seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WINDOWS, WINDOW = 4, 2048  # of a sample
CHUNK = 2**24  # values looked at at once
# Numpy type of the raw words, and the exponent bits that are all set in an infinity or a NaN.
FLOATS = {"F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10),
          "BF16": ("<u2", 0xFF << 7)}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file: where its bytes are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def tensors(model: Path) -> dict[str, Tensor]:
    """The tensors of a model directory, from the headers of its safetensors files."""
    found: dict[str, Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                start = 8 + size + entry["data_offsets"][0]
                found[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]), start)
    return found


def _words(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """A float tensor's raw words, mapped from its file; None for other types and empty tensors."""
    import numpy as np

    size = int(np.prod(tensor.shape, dtype=np.int64))
    if tensor.dtype not in FLOATS or not size:
        return None
    words: np.ndarray[Any, Any] = np.memmap(tensor.file, FLOATS[tensor.dtype][0], "r", tensor.start, (size,))
    return words


def finite(tensor: Tensor) -> bool:
    """Whether a tensor has no infinity and no NaN; true for types other than floats."""
    words = _words(tensor)
    if words is None:
        return True
    bits = words.dtype.type(FLOATS[tensor.dtype][1])
    chunks = (words[at : at + CHUNK] for at in range(0, len(words), CHUNK))
    return not any(bool(((chunk & bits) == bits).any()) for chunk in chunks)


def sample(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Values of a tensor in evenly spread windows, as float64."""
    import numpy as np

    words = _words(tensor)
    if words is None:
        return np.zeros(0)
    starts = np.linspace(0, max(0, len(words) - WINDOW), WINDOWS).astype(int)
    raw = np.concatenate([words[at : at + WINDOW] for at in starts])
    if tensor.dtype == "BF16":
        values = (raw.astype("<u4") << 16).view("<f4")
    else:
        values = raw.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[tensor.dtype])
    floats: np.ndarray[Any, Any] = values.astype(np.float64)
    return floats
