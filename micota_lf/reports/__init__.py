"""From finished steps to tables and figures.

    paper_row("table2", "Qwen/Qwen2.5-7B-Instruct", "MiCoTA")["GSM8K"]               -> 84.98
    paper("table1", "Qwen/QwQ-32B", "Qwen/Qwen2.5-3B-Instruct", "TA")                -> [34.63, -4.73]
    paper("table4", "MiCoTA", "Qwen/Qwen2.5-7B-Instruct")                            -> 0.13

The paper's scores are percent. Its numbers are in `paper.yaml` (arXiv 2507.01887, version of July 2025) as
printed, but for a misprint, which is corrected there.
"""

from functools import cache
from typing import Any

from ..system.files import read_beside


@cache
def read(name: str) -> Any:
    """A YAML file of this folder: `paper`, the paper's numbers, or `sheets`, how the report's tables read."""
    return read_beside(__file__, name)


def paper(*keys: str) -> Any:
    """What `paper.yaml` has under keys, each within the one before; None for what the paper does not have."""
    found = read("paper")
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def paper_row(table: str, model: str, method: str) -> dict[str, float]:
    """A row of Table 2 or 3, as column to percent; `model` is a hub id, `method` a row's name.

    Empty for what the paper does not have.
    """
    found = paper(table, model, method)
    return dict(zip(paper("columns"), found, strict=True)) if found else {}
