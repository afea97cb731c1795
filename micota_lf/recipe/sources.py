"""Where each value of a recipe comes from: `micota plan RECIPE --sources`.

A recipe's `sources` maps keys to words such as `paper: appendix 6.2`; a key stands for all below it, and the
longest that fits counts. What a later file or the command line sets is no longer what that source says.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from .load import Layers, origin
from .sections import Recipe


class Sourced(NamedTuple):
    """A value, the file that sets it (`default` if none does), and where it comes from."""

    key: str
    value: Any
    set_in: str
    source: str


def source_rows(recipe: Recipe, layers: Layers) -> list[Sourced]:
    """One row a value of the recipe, in its own order; the source of one that has none is empty."""
    order = {where: n for n, (where, _) in enumerate(layers)}
    stated = {key: where for where, values in layers for key in values.get("sources", {})}
    rows = []
    for key, value in _leaves(asdict(recipe)):
        set_in = origin(layers, key)
        if key.split(".")[0] == "sources" or (set_in is None and value in (None, {}, [])):
            continue  # nothing is said there
        found = max((k for k in recipe.sources if f"{key}.".startswith(f"{k}.")), key=len, default="")
        source = recipe.sources.get(found, "")
        if source and set_in and order[set_in] > order[stated[found]]:
            source = f"changed (was {source})"
        rows.append(Sourced(key, value, set_in or "default", source))
    return rows


def _leaves(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{at}.{key}".removesuffix("_").removeprefix("."))
    else:
        yield at, node
