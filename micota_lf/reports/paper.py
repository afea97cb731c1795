"""The numbers of the paper's Tables 1 to 4, to set beside one's own.

    paper_row("table2", "Qwen/Qwen2.5-7B-Instruct", "MiCoTA")["GSM8K"]               -> 84.98
    paper("table1", "Qwen/QwQ-32B", "Qwen/Qwen2.5-3B-Instruct", "TA")                -> [34.63, -4.73]
    paper("table4", "MiCoTA", "Qwen/Qwen2.5-7B-Instruct")                            -> 0.13

Scores are percent. The numbers are in `paper.yaml` (arXiv 2507.01887, version of July 2025) as printed, but
for a misprint, which is corrected there.
"""

from typing import Any

from . import read


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
