r"""One notation for final answers: cleaned text, its parts, its unit, its exact value.

clean(r"\left(1,\ \dfrac12\right)")     -> r"(1, \frac12)"
split("1, (2, 3)", ",")                 -> ["1", "(2, 3)"]
unit(r"5\text{ cm}")                    -> ("5", "cm")
rational(r"1\frac{1}{2}")               -> Fraction(3, 2)
"""

import re
from contextlib import suppress
from fractions import Fraction
from itertools import accumulate

LONGEST = 1000
"""Characters of an answer that is still taken apart; a longer one is a response that repeats itself."""

SHORT = 200
"""Characters of an answer that are compared as text: no pattern takes long on so few."""

_CHARACTERS = str.maketrans("\u2212\u2012\u2013\u2014", "----") | str.maketrans({
    "π": "\\pi ", "∞": "\\infty ", "\u00d7": "\\times ", "\u222a": "\\cup ", "\u2208": "\\in ",
    "±": "\\pm ", "≤": "\\le ", "≥": "\\ge ",
})  # fmt: skip
_REWRITES = {
    r"√\s*\(?(\w+)\)?": r"\\sqrt{\1}", r"\\(?:boxed|fbox|framebox)\s*\{": "{",
    r"(?<!\\)\$|(?<!\\)\\[()\[\]]|\*\*": " ",
    r"\\(?:left|right|middle|[bB]igg?[lr]?)(?![A-Za-z])\.?|\\(?:displaystyle|textstyle|limits)\b": "",
    r"\\[dtc]frac(?![A-Za-z])": r"\\frac", r"\\([gl])eq(?:slant)?(?![A-Za-z])": r"\\\1e",
    r"\\(?:mbox|hbox|textrm|textbf|textit|textnormal|mathrm|mathbf)(?![A-Za-z])\s*": r"\\text",
    r"\\text\s*(?=\{)": r"\\text", r"\\langle": "(", r"\\rangle": ")",
    r"\\l[cv]?brace": r"\\{", r"\\r[cv]?brace": r"\\}",
    r"\\!": "", r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s+": " ", r"\{,\}": ",",
    r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<=[\s}])(?:and|or)(?=[\s\\])": ",",
    r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°": r"\\text{degrees}",
    r"\\?%": r"\\text{percent}", r"\\\$|\bUSD\b": r"\\text{dollars}", "¢": r"\\text{cents}",
    "€": r"\\text{euros}", "£": r"\\text{sterling}", r"\\\\\s*$": "",
}  # fmt: skip

# A unit's name, and other words for it; a plural `s` is dropped before they are looked up.
_UNITS = {
    word: words.split()[0]
    for words in (
        "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "km kilometer kilometre",
        "in inch inche", "ft foot feet", "yd yard", "mi mile", "mg milligram", "g gm gram", "kg kilogram",
        "oz ounce", "lb pound", "ml milliliter millilitre", "l liter litre", "s sec second", "min minute",
        "h hr hour", "day", "week", "month", "year yr", "mph milesperhour miles/hour mi/h", "percent",
        "km/h kph kmph kilometersperhour", "m/s meterspersecond metrespersecond", "degrees degree deg",
        "radians radian rad", "dollars dollar usd", "cents cent", "euros euro eur", "sterling gbp",
    )
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
_SHAPES = {"square": "2", "sq.": "2", "sq": "2", "cubic": "3"}
_BASE = re.compile(r"\(?(\d[\dA-F]*)\)?_\{?(\d+)\}?")

_SEPARATORS = {",": "[,;]", "=": r"(?<![<>!:\\])=|\\in(?![A-Za-z])", "\\cup": r"\\cup(?![A-Za-z])"}
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:(?:, ?\d{3})+|(?: \d{3})+)(?![\d])")  # or, with commas, a list
_ONE_NUMBER = re.compile(rf"\W*(?:\\text\{{[^{{}}]*\}})?\s*-?{_GROUPED.pattern}(?:\.\d+)?[^\d,]*")

_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(rf"({_DECIMAL})(?:(?:(?:\\times|\\cdot|\*)10\^|[eE])\{{?([+-]?\d{{1,3}})\}}?)?")
_RATIO = re.compile(rf"([+-]?)(?:\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}|\(?({_DECIMAL})/({_DECIMAL})\)?)")
_MIXED = re.compile(r"(-?)(\d+)\s*(?:\\frac\s*\{(\d+)\}\s*\{(\d+)\}|(?<=\s)(\d+)/(\d+))")


def clean(text: str) -> str:
    """The answer without mathematics' dollar signs, spacing and sizing commands, in one notation."""
    text = text.translate(_CHARACTERS)
    for pattern, new in _REWRITES.items():
        text = re.sub(pattern, new, text)
    return bare(re.sub(r"\s+", " ", text).strip().rstrip(".,;:").strip())


def key(text: str) -> str:
    """The text without blanks, optional braces and `\\text`: equal keys are equal answers."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*(?=\{)", r"\\frac{\1}", re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text))
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text).replace(" ", "")


def ungrouped(text: str) -> str:
    """The text with `1,234` and `1 234` written as 1234."""
    return _GROUPED.sub(lambda number: re.sub("[, ]", "", number[0]), text)


def split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators outside all brackets; empty ones are left out.

    A separator is `,` (and `;`), `=` (and `\\in`) or `\\cup`.
    """
    parts, depth, start = [], 0, 0
    for found in re.finditer(rf"[()\[\]{{}}]|{_SEPARATORS[separator]}", text):
        if found[0] in "([{" or found[0] in ")]}":
            depth += 1 if found[0] in "([{" else -1
        elif depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def inside(text: str, opening: str, closing: str) -> str | None:
    """What one pair of brackets holds that encloses the whole text."""
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing)):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    depths = [0, *accumulate((char in "([{") - (char in ")]}") for char in inner)]
    return inner.strip() if min(depths) == depths[-1] == 0 else None


def bare(text: str) -> str:
    """The text without braces or round brackets around one value."""
    if found := re.fullmatch(r"\\text\{([^{}]*\d[^{}]*)\}", text):
        return bare(found[1].strip())
    for pair in ("{}", "()"):
        inner = inside(text, *pair)
        if inner is not None and (pair == "{}" or len(split(inner, ",")) == 1):
            return bare(inner)
    return text


def members(text: str) -> list[str]:
    """The members of a list or set; `\\pm` stands for two."""
    parts = split(text, ",")
    if len(parts) == 1:
        sides = split(parts[0], "=")
        inner = inside(sides[-1], "\\{", "\\}") if 0 < len(sides) < 3 else None
        if inner is not None:
            parts = split(inner, ",")
    found: list[str] = []
    for part in parts:
        for plus, minus in ("+-", "-+") if "\\pm" in part else ("+-",):
            signed = re.sub(r"\\mp(?![A-Za-z])", minus, re.sub(r"\\pm(?![A-Za-z])", plus, part))
            found.append(re.sub(r"(^|[=(]\s*)\+", r"\1", signed))
    return found


def is_list(gold: str) -> bool:
    """Whether a gold answer is several answers, such as `1, 2` or `\\pm 3`, and not one number."""
    gold = clean(gold[:LONGEST])
    return len(members(gold)) > 1 and not _ONE_NUMBER.fullmatch(gold)


def sequence(text: str) -> tuple[str, list[str]]:
    """Brackets and entries of a tuple or interval; both empty for anything else."""
    for pair in ("()", "[]", "(]", "[)"):
        inner = inside(text, *pair)
        if inner is not None and len(entries := split(inner, ",")) > 1:
            return pair, entries
    return "", []


def unit(text: str) -> tuple[str, str | None]:
    """A value and its unit by a short name; a unit that is not in the table counts as none."""
    if found := _BASE.fullmatch(text.replace(" ", "")):
        return found[1], f"base {found[2]}"
    for found in filter(None, (_UNIT_BEFORE.fullmatch(text), _UNIT_AFTER.fullmatch(text))):
        groups = found.groupdict(default="")
        value = groups.get("sign", "") + groups["value"].strip()
        unmarked = groups.get("words", "")  # words that no \text marks as a unit
        words = (groups["text"] or unmarked).strip(" .").casefold()
        if _NO_UNIT.search(words):
            continue
        shape, blank, measure = words.partition(" ")
        power = groups.get("power", "")
        if blank and shape in _SHAPES:
            words, power = measure, _SHAPES[shape]
        words = words.replace(" ", "")
        name = _UNITS.get(words) or _UNITS.get(words.removesuffix("s"))
        if unmarked and (rational(value) is None or len(words) < (2 if name else 4)):
            continue
        return bare(value), name and name + power
    return text, None


def rational(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number or power-of-ten notation."""
    text = text.strip()
    if len(text) > SHORT:
        return None
    with suppress(ValueError, ZeroDivisionError):
        if found := _MIXED.fullmatch(text):
            sign, whole, *parts = found.groups()
            top, bottom = (int(part) for part in parts if part)
            if top < bottom:
                return (-1 if sign else 1) * (int(whole) + Fraction(top, bottom))
        text = key(text)
        if found := _NUMBER.fullmatch(text):
            return Fraction(found[1]) * Fraction(10) ** int(found[2] or 0)
        if found := _RATIO.fullmatch(text):
            over, under = (Fraction(part) for part in found.groups()[1:] if part)
            return (-1 if found[1] == "-" else 1) * over / under
    return None
