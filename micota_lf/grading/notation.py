r"""One notation for final answers: cleaned text, its parts, its unit, its exact value.

clean(r"\left(1,\ \dfrac12\right)")     -> r"(1, \frac12)"
split("1, (2, 3)", ",")                 -> ["1", "(2, 3)"]
unit(r"5\text{ cm}")                    -> ("5", "cm")
rational(r"1\frac{1}{2}")               -> Fraction(3, 2)
"""

import re
from contextlib import suppress
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any

from ..system.files import read_beside

LONGEST = 1000
"""Characters of an answer that is still taken apart; a longer one is a response that repeats itself."""

SHORT = 200
"""Characters of an answer that are compared as text: no pattern takes long on so few."""

_BRACKETS = dict.fromkeys("([{", 1) | dict.fromkeys(")]}", -1)


@cache
def tables() -> dict[str, Any]:
    """The tables of notation.yaml: compiled patterns to replace, units by all their words."""
    found: dict[str, Any] = read_beside(__file__)
    for name in ("notation", "keys"):
        found[name] = [(re.compile(old), new) for old, new in found[name].items()]
    found["units"] = {word: name for name, words in found["units"].items() for word in (name, *words)}
    for name, words in found["words"].items():
        found["patterns"][name] = rf"(?i:\b(?:{'|'.join(words)})\b)".replace(" ", r"\s+")
    return found


@cache
def pattern(name: str) -> re.Pattern[str]:
    """A pattern of notation.yaml."""
    spelt = tables()["patterns"][name]
    text = "|".join(spelt) if isinstance(spelt, list) else spelt
    return re.compile(re.sub(r"@(\w+)", lambda other: f"(?:{pattern(other[1]).pattern})", text))


def _rewritten(text: str, table: str) -> str:
    for old, new in tables()[table]:
        text = old.sub(new, text)
    return text


def clean(text: str) -> str:
    """The answer without mathematics' dollar signs, spacing and sizing commands, in one notation."""
    return bare(_rewritten(text, "notation").strip().rstrip(".,;:").strip())


def key(text: str) -> str:
    """The text without blanks, optional braces and `\\text`: equal keys are equal answers."""
    return _rewritten(text, "keys")


def readings(text: str) -> list[str]:
    """What an answer may be: a text, 1,234 or 2,5 in it as one number, or its value before it is rounded.

    Nothing if it is too long.
    """
    if len(text) > LONGEST:
        return []
    text = clean(text)
    ungrouped = pattern("grouped").sub(lambda number: re.sub("[, ]", "", number[0]), text)
    decimal, exact = pattern("decimal comma").sub(r"\1.\2", text), pattern("rounded").sub(r"\1", text)
    return [text, ungrouped, decimal, exact]


def split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators outside all brackets; empty ones are left out.

    A separator is `,` (and `;`), `;` or `=` (and `\\in`, `\\approx`).
    """
    depths = _depths(text)
    cuts = [one.span() for one in pattern(separator).finditer(text) if depths[one.start()] == 0]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    parts = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return [part for part in parts if part]


def inside(text: str, opening: str, closing: str) -> str | None:
    """What one pair of brackets holds that encloses the whole text."""
    if text.startswith(opening) and text.endswith(closing):
        depths = _depths(text[1:-1])
        if min(depths) == depths[-1] == 0:
            return text[1:-1].strip()
    return None


def _depths(text: str) -> list[int]:
    """How many brackets are open before each character, and at the end."""
    return list(accumulate((_BRACKETS.get(char, 0) for char in text), initial=0))


def bare(text: str) -> str:
    """The text without braces or round brackets around one value."""
    for pair in ("{}", "()"):
        if (inner := inside(text, *pair)) is not None and (pair == "{}" or len(split(inner, ",")) == 1):
            return bare(inner)
    return text


def members(text: str) -> list[str]:
    """The members of a list or set; `±` stands for two, and `p=5,q=2; p=7,q=2` has two tuples."""
    parts, groups = split(text, ","), split(text, ";")
    if len(groups) > 1 and all(len(split(group, ",")) > 1 and "=" in group for group in groups):
        return [f"({', '.join(sorted(split(group, ',')))})" for group in groups]
    return [part.replace("±", sign) for part in parts for sign in ("+-" if "±" in part else "+")]


def is_list(gold: str) -> bool:
    """Whether a gold answer is several answers, such as `1, 2`, `±3` or a tuple, and not one number."""
    gold = clean(gold[:LONGEST])
    return (len(members(gold)) > 1 and not pattern("one number").fullmatch(gold)) or sequence(gold)[0] == "()"


def sequence(text: str) -> tuple[str, list[str]]:
    """Brackets and entries of a tuple or interval; both empty for anything else."""
    for pair in ("()", "[]", "(]", "[)"):
        if len(entries := split(inside(text, *pair) or "", ",")) > 1:
            return pair, entries
    return "", []


def unit(text: str) -> tuple[str, str | None]:
    """A value and its unit by a short name; a unit that is not in the table counts as none."""
    if found := pattern("base").fullmatch(text.replace(" ", "")):
        return found[1], f"base {found[2]}"
    known = tables()
    for found in filter(None, (pattern(f"unit {place}").fullmatch(text) for place in ("before", "after"))):
        part = found.groupdict(default="")
        value, power = part["sign"] + part["value"].strip(), part["power"]
        words = (part["marked"] or part["unmarked"]).strip(" .").casefold()
        if not set(re.findall(r"\w+", words)).isdisjoint(known["no_units"]):
            continue
        words = words.replace(" ", "")
        name = known["units"].get(words) or known["units"].get(words.removesuffix("s"))
        if part["unmarked"] and (rational(value) is None or len(words) < (2 if name else 3)):
            continue
        return bare(value), name and name + power
    return text, None


def rational(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number or power-of-ten notation."""
    text = text.strip()
    if len(text) > SHORT:
        return None
    with suppress(ValueError, ZeroDivisionError):
        if found := pattern("mixed").fullmatch(text):
            part = rational(found[3])
            if part is not None and part < 1:
                return int(f"{found[1]}1") * (int(found[2]) + part)
        text = key(text)
        if found := pattern("number").fullmatch(text):
            return Fraction(found[1]) * Fraction(10) ** int(found[2] or 0)
        if found := pattern("ratio").fullmatch(text):
            over, under = (Fraction(part) for part in found.groups()[1:] if part)
            return int(f"{found[1]}1") * over / under
    return None
