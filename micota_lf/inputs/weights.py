"""The tensors of a model directory, through the safetensors library: shapes from headers, values on demand.

found = tensors(Path("model"))                # name -> Tensor(file, dtype, shape); no value is read
first_values(found["lm_head.weight"])         # some of its values, as a float64 torch tensor
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

ROWS, VALUES = 64, 8192  # of a matrix, for a sample


class Tensor(NamedTuple):
    """One tensor of a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def tensors(model: Path) -> dict[str, Tensor]:
    """The tensors of a model directory by name, from the headers of its safetensors files.

    Raises ValueError for a file that is none, or was cut short.
    """
    from safetensors import SafetensorError, safe_open

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
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as handle:
        return bool(handle.get_tensor(tensor.name).isfinite().all())


def first_values(tensor: Tensor) -> Any:
    """The first values of a matrix as a float64 torch tensor of one dimension."""
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as handle:
        return handle.get_slice(tensor.name)[:ROWS].double().flatten()[:VALUES]
