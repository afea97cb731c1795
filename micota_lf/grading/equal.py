r"""Whether two final answers are mathematically the same: structure first, computer algebra last.

    same_answer("x = 0.5", r"\frac{1}{2}")      -> True
    same_answer(r"5\text{ m}", r"5\text{ cm}")  -> False
    same_answer("(2, 1)", "(1, 2)")             -> False, and "2, 1" against "1, 2" -> True

Answers are taken apart into lists and sets (any order), tuples, intervals and matrices (in order), down to
single values. Rational values are compared exactly, so that 0.33 is not 1/3; words are compared as words; a
unit, a currency or a left side (`x =`) may be missing from one answer, but may not be another one. What
is left goes to math-verify (github.com/huggingface/Math-Verify).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from fractions import Fraction
from functools import partial

LONGEST = 1000
"""Characters of an answer that is still taken apart; a longer one is a response that repeats itself."""

SHORT = 200
"""Characters of an answer that `same_text` looks at: no pattern takes long on so few."""

Verdict = bool | None
"""None: neither text nor computer algebra can tell, because one side is not readable as mathematics."""

Pair = tuple[str, str]


class NeedsAlgebra(Exception):
    """Text alone cannot tell whether this pair is the same."""

    def __init__(self, got: str, gold: str) -> None:
        self.pair: Pair = got, gold


_ALGEBRA: ContextVar[Callable[[str, str], Verdict]] = ContextVar("algebra")

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        ("[\u2212\u2012\u2013\u2014]", "-"),
        ("π", r"\\pi "), ("∞", r"\\infty "),
        ("\u00d7", r"\\times "),
        ("\u222a", r"\\cup "), ("\u2208", r"\\in "),
        ("±", r"\\pm "), ("≤", r"\\le "), ("≥", r"\\ge "), (r"√\s*\(?(\w+)\)?", r"\\sqrt{\1}"),
        (r"\\(?:boxed|fbox|framebox)\s*\{", "{"),
        (r"(?<!\\)\$|(?<!\\)\\[()\[\]]|\*\*", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lr]?)(?![A-Za-z])\.?|\\(?:displaystyle|textstyle|limits)\b", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:geqslant|geq)(?![A-Za-z])", r"\\ge"), (r"\\(?:leqslant|leq)(?![A-Za-z])", r"\\le"),
        (r"\\(?:mbox|hbox|textrm|textbf|textit|textnormal|mathrm|mathbf)(?![A-Za-z])\s*", r"\\text"),
        (r"\\text\s*(?=\{)", r"\\text"),
        (r"\\langle", "("), (r"\\rangle", ")"), (r"\\l[cv]?brace", r"\\{"), (r"\\r[cv]?brace", r"\\}"),
        (r"\\!", ""), (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s+", " "), (r"\{,\}", ","),
        (r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<=[\s}])(?:and|or)(?=[\s\\])", ","),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°", r"\\text{degrees}"),
        (r"\\?%", r"\\text{percent}"),
        (r"\\\$|\bUSD\b", r"\\text{dollars}"), ("¢", r"\\text{cents}"),
        ("€", r"\\text{euros}"), ("£", r"\\text{sterling}"), (r"\\\\\s*$", ""),
    )
)  # fmt: skip

_UNITS = {
    word: name
    for name, words in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
        "mi": "mi mile", "mg": "mg milligram", "g": "g gm gram", "kg": "kg kilogram", "oz": "oz ounce",
        "lb": "lb pound", "ml": "ml milliliter millilitre", "l": "l liter litre", "s": "s sec second",
        "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month",
        "year": "year yr", "mph": "mph milesperhour miles/hour mi/h",
        "km/h": "km/h kph kmph kilometersperhour",
        "m/s": "m/s meterspersecond metrespersecond", "degrees": "degree deg", "radians": "radian rad",
        "percent": "percent", "dollars": "dollar usd", "cents": "cent", "euros": "euro eur",
        "sterling": "sterling gbp",
    }.items()
    for word in words.split()
}  # fmt: skip
_UNIT_AFTER = re.compile(
    r"(?P<value>.*?[\w})!.])\s*(?:\\text\{(?P<text>[^{}]*)\}|(?:\s|(?<=\d))(?P<words>[A-Za-z][A-Za-z/ ]+?))"
    r"\s*(?:\^\s*\{?(?P<power>[23])\}?)?\s*\.?"
)
_UNIT_BEFORE = re.compile(r"(?P<sign>-?)\s*\\text\{(?P<text>[^{}]*)\}\s*(?P<value>-?.*\d.*)")
_NO_UNIT = re.compile(
    r"\b(?:not?|less|fewer|more|greater|least|most|except|minus|plus|negative|to|half|dozens?|hundreds?|thousands?"
    r"|[mb]illions?|factorial)\b"
)
_BASE = re.compile(r"\(?(\d[\dA-F]*)\)?_\{?(\d+)\}?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_CHOICE = re.compile(r"(?:[Oo]ption|[Cc]hoice)?\(?([A-J])(?:[).:].*)?")

_COMMA, _CUP = re.compile(r"[,;]"), re.compile(r"\\cup(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!:\\])=|\\in(?![A-Za-z])")
_NAME = re.compile(
    r"\(?\\?[A-Za-z]+'*(?:_\{?[^{}=]*\}?)?(?:\([^()]*\))?(?:,\s*\\?[A-Za-z]\w*)*\)?|\\text\{[^{}]*\}|\\angle.*"
)
_FUNCTION = re.compile(r"([A-Za-z])\s*\(([a-z])\)")
_MULTIPLE = re.compile(r"-?[\d.]+\s*\\?[A-Za-z]\w*|[A-Za-z]\^.*")  # 2x = 6 does not answer 6
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:(?:, ?\d{3})+|(?: \d{3})+)(?![\d])")
_ONE_NUMBER = re.compile(rf"\W*(?:\\text\{{[^{{}}]*\}})?\s*-?{_GROUPED.pattern}(?:\.\d+)?[^\d,]*")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(rf"({_DECIMAL})(?:(?:(?:\\times|\\cdot|\*)10\^|[eE])\{{?([+-]?\d{{1,3}})\}}?)?")
_RATIO = re.compile(rf"([+-]?)(?:\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}|\(?({_DECIMAL})/({_DECIMAL})\)?)")
_MIXED = re.compile(r"(-?)(\d+)\s*(?:\\frac\s*\{(\d+)\}\s*\{(\d+)\}|(?<=\s)(\d+)/(\d+))")


def same_answer(got: str, gold: str, seconds: int | None = 5) -> Verdict:
    """Whether two answers are the same; None if one cannot be read.

    `1,234` is one number, or a list of two: answers are the same if they are so in one of both readings.
    `seconds` bound each call of computer algebra by math-verify's own alarm (in the main thread alone).
    """
    return _compared(got, gold, partial(_algebra, seconds=seconds))


def same_text(got: str, gold: str) -> Verdict:
    """The same without computer algebra. Raises NeedsAlgebra where it would be asked."""
    if max(len(got), len(gold)) > SHORT and got != gold:
        raise NeedsAlgebra(got, gold)
    try:
        return _compared(got, gold, _no_algebra)
    except NeedsAlgebra:
        raise NeedsAlgebra(got, gold) from None


def _compared(got: str, gold: str, algebra: Callable[[str, str], Verdict]) -> Verdict:
    if max(len(got), len(gold)) > LONGEST:
        return True if got == gold else None
    got, gold = clean(got), clean(gold)
    if not got or not gold:
        return None
    token = _ALGEBRA.set(algebra)
    try:
        verdict = True if _key(got) == _key(gold) else _same(got, gold)
        grouped = tuple(_GROUPED.sub(_digits, text) for text in (got, gold))
        return verdict if verdict or grouped == (got, gold) else _same(*grouped)
    finally:
        _ALGEBRA.reset(token)


def _no_algebra(got: str, gold: str) -> Verdict:
    raise NeedsAlgebra(got, gold)


def is_list(gold: str) -> bool:
    """Whether a gold answer is several answers, such as `1, 2` or `\\pm 3`, and not one number."""
    gold = clean(gold[:LONGEST])
    return len(_members(gold)) > 1 and not _ONE_NUMBER.fullmatch(gold)


def clean(text: str) -> str:
    """The answer without mathematics' dollar signs, spacing and sizing commands, in one notation."""
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    return _bare(re.sub(r"\s+", " ", text).strip().rstrip(".,;:").strip())


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[, ]", "", match[0])


def _key(text: str) -> str:
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*(?=\{)", r"\\frac{\1}", re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text))
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text).replace(" ", "")


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of a text between separators outside all brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        found = separator.match(text, i) if depth == 0 else None
        if found:
            parts.append(text[start:i])
            i = start = found.end()
        else:
            depth += (text[i] in "([{") - (text[i] in ")]}")
            i += 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _inside(text: str, opening: str, closing: str) -> str | None:
    """What one pair of brackets holds that encloses the whole text."""
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing)):
        return None
    inner, depth = text[len(opening) : len(text) - len(closing)], 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
    return inner.strip() if depth == 0 else None


def _bare(text: str) -> str:
    """The text without braces or round brackets around one value."""
    if found := re.fullmatch(r"\\text\{([^{}]*\d[^{}]*)\}", text):
        return _bare(found[1].strip())
    for pair in ("{}", "()"):
        inner = _inside(text, *pair)
        if inner is not None and (pair == "{}" or len(_split(inner, _COMMA)) == 1):
            return _bare(inner)
    return text


def _members(text: str) -> list[str]:
    """The members of a list or set; `\\pm` stands for two."""
    parts = _split(text, _COMMA)
    if len(parts) == 1:
        sides = _split(parts[0], _EQUALS)
        inner = _inside(sides[-1], "\\{", "\\}") if 0 < len(sides) < 3 else None
        if inner is not None:
            parts = _split(inner, _COMMA)
    signs = (("\\pm", "+", "-"), ("\\mp", "-", "+"))
    out: list[str] = []
    for part in parts:
        both = [part, part] if "\\pm" in part else [part]
        for sign, plus, minus in signs:
            both = [
                re.sub(rf"\{sign}(?![A-Za-z])", new, text)
                for text, new in zip(both, (plus, minus), strict=False)
            ]
        out += [re.sub(r"(^|[=(]\s*)\+", r"\1", text) for text in both]
    return out


def _sequence(text: str) -> tuple[str, list[str]] | None:
    """Brackets and entries of a tuple or interval."""
    for pair in ("()", "[]", "(]", "[)"):
        inner = _inside(text, *pair)
        if inner is not None and len(entries := _split(inner, _COMMA)) > 1:
            return pair, entries
    return None


def _all(pairs: Sequence[tuple[str, str]]) -> Verdict:
    verdicts = [_same(clean(got), clean(gold)) for got, gold in pairs]
    return False if False in verdicts else None if None in verdicts else True


def _any_order(got: list[str], gold: list[str], same: Callable[[str, str], Verdict]) -> Verdict:
    if len(got) != len(gold):
        return False
    left, unread = list(got), False
    for want in gold:
        left.sort(key=lambda text: _key(text) != _key(want))  # the cheap candidate first
        for text in left:
            if verdict := same(text, want):
                left.remove(text)
                break
            unread |= verdict is None
        else:
            return None if unread else False
    return True


def _same(got: str, gold: str) -> Verdict:
    """Two cleaned answers of any structure."""
    gots, golds = _members(got), _members(gold)
    if len(gots) > 1 or len(golds) > 1:
        for one, several in ((got, golds), (gold, gots)):
            if (found := _sequence(one)) and found[0] == "()" and len(several) == len(found[1]):
                return _all(list(zip(*((found[1], golds) if one is got else (gots, found[1])), strict=True)))
        return _any_order(gots, golds, lambda a, b: _same_one(clean(a), clean(b)))
    return _same_one(clean(gots[0]), clean(golds[0])) if gots and golds else None


def _same_one(got: str, gold: str) -> Verdict:
    """Two answers that are no lists: equations, intervals, tuples, matrices, single values."""
    if _key(got) == _key(gold):
        return True
    ours, theirs = _split(got, _EQUALS), _split(gold, _EQUALS)
    if len(ours) == 2 and _NAME.fullmatch(ours[1]) and not _NAME.fullmatch(ours[0]):
        ours.reverse()  # 3 = x
    if len(ours) > 1 and len(theirs) > 1:
        ours = _renamed(ours, theirs[0])
        ours[0], theirs[0] = (re.sub(r"_(?:\w|\{.*?\})$", "", _key(side[0])) for side in (ours, theirs))
        if ours[0] == theirs[0]:
            return _same(clean(ours[-1]), clean(theirs[-1]))
        named = _NAME.fullmatch(ours[0]) and _NAME.fullmatch(theirs[0])
        return False if named else _ALGEBRA.get()(got, gold)
    if len(theirs) > 1:
        return _same(got, clean(theirs[-1])) if _NAME.fullmatch(theirs[0]) else _ALGEBRA.get()(got, gold)
    if len(ours) > 1:
        return False if _MULTIPLE.fullmatch(ours[0]) else _same(clean(ours[-1]), gold)
    unions = _split(got, _CUP), _split(gold, _CUP)
    if max(map(len, unions)) > 1:
        return _any_order(*unions, _same_one)
    if (a := _sequence(got)) and (b := _sequence(gold)):
        equal = a[0] == b[0] and len(a[1]) == len(b[1])
        return _all(list(zip(a[1], b[1], strict=True))) if equal else False
    if (p := _MATRIX.fullmatch(got)) and (q := _MATRIX.fullmatch(gold)):
        rows = [[row.split("&") for row in m[2].strip().removesuffix("\\\\").split("\\\\")] for m in (p, q)]
        if [*map(len, rows[0])] != [*map(len, rows[1])]:
            return False
        return _all([pair for r, s in zip(*rows, strict=True) for pair in zip(r, s, strict=True)])
    return _same_value(got, gold)


def _renamed(ours: list[str], other: str) -> list[str]:
    """`f(n) = n + 1` with the other side's variable, `f(x) = x + 1`, where that cannot clash."""
    a, b = _FUNCTION.fullmatch(ours[0]), _FUNCTION.fullmatch(other)
    if not (a and b and a[1] == b[1]) or re.search(rf"(?<![A-Za-z\\]){b[2]}(?![A-Za-z])", ours[-1]):
        return ours
    return [re.sub(rf"(?<![A-Za-z\\]){a[2]}(?![A-Za-z])", b[2], side) for side in ours]


def _same_value(got: str, gold: str) -> Verdict:
    if (choice := _CHOICE.fullmatch(_key(gold))) and len(_key(gold)) < 4:
        found = _CHOICE.fullmatch(_key(got))
        return bool(found and found[1] == choice[1])
    (a, unit_a), (b, unit_b) = _unit(got), _unit(gold)
    if unit_a and unit_b and unit_a != unit_b:
        return False
    x, y = rational(a), rational(b)
    if x is not None and y is not None:
        if unit_a == unit_b or "percent" not in (unit_a, unit_b):
            return x == y
        if unit_b:  # 50% may be answered by 50 or 0.5
            return x == y or 100 * x == y
        return x == 100 * y or (x == y and abs(y) >= 1)  # 0.5% is not 0.5, though 50% may mean 50
    words = [_bare(_key(text)) for text in (a, b)]
    if _key(a) == _key(b) or words[0] == words[1]:
        return True
    for text, word in zip((a, b), words, strict=True):
        if _WORDS.fullmatch(word) and (len(word) > 3 or "\\text" in text):
            return re.sub("^(?:the|an?) ", "", words[0].casefold()) == words[1].casefold()
    return _ALGEBRA.get()(a, b)


def _unit(text: str) -> tuple[str, str | None]:
    """A value and its unit by a short name; a unit that is not in the table counts as none."""
    if found := _BASE.fullmatch(text.replace(" ", "")):
        return found[1], f"base {found[2]}"
    for pattern in (_UNIT_BEFORE, _UNIT_AFTER):
        if not (found := pattern.fullmatch(text)):
            continue
        groups = found.groupdict()
        value = groups.get("sign", "") + groups["value"].strip()
        words = (groups.get("text") or groups.get("words") or "").strip(" .").casefold()
        power = groups.get("power") or ""
        if _NO_UNIT.search(words):
            continue
        for word, exponent in (("square", "2"), ("sq.", "2"), ("sq", "2"), ("cubic", "3")):
            if words.startswith(word + " "):
                words, power = words[len(word) :], exponent
        words = words.replace(" ", "")
        name = _UNITS.get(words) or _UNITS.get(words.removesuffix("s"))
        if groups.get("words") and (rational(value) is None or (not name and len(words) < 4)):
            continue
        if groups.get("words") and len(words) < 2:
            continue
        return _bare(value), name and name + power
    return text, None


def rational(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number or power-of-ten notation."""
    text = text.strip()
    if len(text) > 200:
        return None
    try:
        if found := _MIXED.fullmatch(text):
            sign, whole, *parts = found.groups()
            top, bottom = (int(part) for part in parts if part)
            if top < bottom:
                return (-1 if sign else 1) * (int(whole) + Fraction(top, bottom))
        text = _key(text)
        if found := _NUMBER.fullmatch(text):
            return Fraction(found[1]) * Fraction(10) ** int(found[2] or 0)
        if found := _RATIO.fullmatch(text):
            over, under = (Fraction(part) for part in found.groups()[1:] if part)
            return (-1 if found[1] == "-" else 1) * over / under
    except (ValueError, ZeroDivisionError):
        return None
    return None


def _algebra(got: str, gold: str, seconds: int | None) -> Verdict:
    """The verdict of math-verify on two single values; it reads neither prose nor units here."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, Symbol

    rules = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="all")
    config = [LatexExtractionConfig(normalization_config=rules)]
    a, b = (
        parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=seconds)
        for text in (got, gold)
    )
    if not a or not b:
        return None
    limit = {"timeout_seconds": seconds}
    equal = bool(verify(b, a, float_rounding=10, allow_set_relation_comp=True, **limit))
    sides = a[0], b[0]
    if equal or not any(isinstance(side, Symbol) for side in sides):
        return equal
    # math-verify compares a bare symbol as text.
    return all(isinstance(side, Expr) for side in sides) and bool(verify(b[0] + 1, a[0] + 1, **limit))
