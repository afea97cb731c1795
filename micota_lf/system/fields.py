"""Marks on the fields of a recipe's sections: limits, and what enters the identity of the steps they settle.

    class Sampling(Section):
        max_tokens: Count = 16384           # a whole number above zero
        batch_size: How[Count] = 64         # decides no result, so it enters no step's identity
        path: Apart[str] = "rows.jsonl"     # decides one by what it names, which enters as a step's input

    identity(Sampling())      -> {"max_tokens": 16384}
    running(Sampling())       -> {"batch_size": 64}
    joined(Sampling, {"max_tokens": 16384}, {"batch_size": 8})

Sections are frozen dataclasses; pydantic reads the limits when a recipe is loaded (recipe/load.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from html import escape
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

import yaml
from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, Strict, with_config

T = TypeVar("T")

HOW, APART = "how", "apart"
How = Annotated[T, HOW]
"""A field that says how, not what: it enters no step's identity."""
Apart = Annotated[T, APART]
"""A field outside its section's identity: what it names enters apart, or it decides reports alone."""

Count = Annotated[int, Gt(0), Strict()]
Natural = Annotated[int, Ge(0), Strict()]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Part = Annotated[float, Interval(gt=0, le=1)]

# `from_` and `lambda_` are written `from` and `lambda`, which Python reserves.
CONFIG = ConfigDict(
    extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False,
    alias_generator=lambda name: name.removesuffix("_"),
)  # fmt: skip


@dataclass_transform(frozen_default=True)
class Section:
    """A section of the recipe: a subclass is a frozen dataclass that pydantic checks strictly."""

    __pydantic_config__ = CONFIG

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def _repr_html_(self) -> str:
        """As notebooks show it: YAML."""
        values: Any = self
        return f"<pre>{escape(yaml.safe_dump(asdict(values), sort_keys=False))}</pre>"


def keys_of(cls: type) -> type:
    """The type of some keys of a section, to be laid over its own values."""
    from typing_extensions import TypedDict

    make: Any = TypedDict  # mypy wants the names spelt out
    keys: type = make(f"{cls.__name__}Keys", get_type_hints(cls, include_extras=True), total=False)
    return with_config(CONFIG)(keys)


def leaves(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a mapping and of those within it by dotted key: `a.b` for `{a: {b: [1, 2]}}`."""
    if isinstance(node, dict) and (node or not at):
        for key, value in node.items():
            yield from leaves(value, f"{at}.{key}".removesuffix("_").removeprefix("."))
    else:
        yield at, node


@cache
def marked(cls: Any, mark: str) -> frozenset[str]:
    """Names of a section's fields that bear a mark."""
    hints = get_type_hints(cls, include_extras=True)
    return frozenset(name for name, hint in hints.items() if mark in getattr(hint, "__metadata__", ()))


def identity(values: Any) -> dict[str, Any]:
    """The values of a section that bear no mark, by their keys in a recipe: they decide results."""
    left_out = marked(values.__class__, HOW) | marked(values.__class__, APART)
    return {n.removesuffix("_"): value for n, value in asdict(values).items() if n not in left_out}


def running(values: Any) -> dict[str, Any]:
    """The values of a section that say how."""
    how = marked(values.__class__, HOW)
    return {name: value for name, value in asdict(values).items() if name in how}


def joined(cls: type[T], *parts: Mapping[str, Any]) -> T:
    """A section from its parts; keys that it does not have are left out."""
    known = get_type_hints(cls)
    return cls(**{key: value for part in parts for key, value in part.items() if key in known})
