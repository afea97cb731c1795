r"""Responses whose verdict is known: each made from a benchmark's gold answer by a stated transformation.

    rows = labelled_rows({"gsm8k": ["18", "1125"], "math-500": [r"\frac{1}{2}"]}, seed=0)
    rows[0]   # Labelled(response="... \boxed{18}", gold="18", correct=True, kind="as it is")

A rewriting (`correct=True`) keeps the value; a near miss (`correct=False`) changes it in one stated way. A
transformation applies to the golds whose notation it knows, and nothing in here uses the graders, so that
labels do not depend on them. Same golds and seed, same rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

PER_FORM = 24  # golds taken of each form
WRAPS = (
    "Adding these up gives the result.\n\nFinal Answer: The final answer is ${}$. I hope it is correct.",
    "So the value is found. Thus the answer is ${}$.",
    "Therefore we obtain\n$$\n{}\n$$",
    "<think>\nLet me see. Wait, that is 3 times 14.\n</think>\n\nThe answer is \\({}\\).",
)
UNITS = ("cm", "m", "km", "kg", "hours", "minutes", "dollars")
OTHER_UNIT = {
    "cm": "m", "m": "cm", "km": "cm", "kg": "hours", "hours": "minutes", "minutes": "hours",
    "dollars": "cents",
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """One response, the gold answer, whether it is right, and the transformation that made it."""

    response: str
    gold: str
    correct: bool
    kind: str


Case = tuple[bool, str, str]
"""Whether it is right, the kind, and the content of the box."""


def integers(gold: str) -> Iterator[Case]:
    """Of `18`, `-5` or `1,125`."""
    n = int(gold.replace(",", ""))
    yield True, "fraction that cancels", f"\\frac{{{3 * n}}}{{3}}"
    yield True, "point and zeros", f"{n}.00"
    yield True, "leading zeros", f"{'-' * (n < 0)}00{abs(n)}"
    yield True, "equation", f"x = {n}"
    yield True, "unit in text", f"{n}\\text{{ cm}}"
    yield True, "unit in words", f"{n} apples"
    yield True, "currency", f"\\${n}" if n >= 0 else f"-\\${-n}"
    yield True, "mathematics in the box", f"$ {n} $"
    yield True, "bold", f"\\mathbf{{{n}}}"
    if abs(n) > 999:
        yield True, "thousands separators", f"{n:,}"
        yield True, "thousands separators", f"{n:,}".replace(",", "{,}")
        yield True, "thousands separators", f"{n:,}".replace(",", "\\,")
    if n < 0:
        yield True, "unicode minus", f"\u2212{-n}"
    yield False, "off by one", str(n + 1)
    yield False, "off by one", f"{n - 1:,}"
    if n:
        yield False, "sign", str(-n)
        yield False, "order of magnitude", f"{10 * n:,}"
        yield False, "order of magnitude", _decimal(Fraction(n, 10)) or ""
        yield False, "one more answer", f"{n}, {-n}"
    yield False, "nearly equal decimal", f"{n}.01"


def fractions(gold: str) -> Iterator[Case]:
    r"""Of `\frac{14}{3}`, `-\frac{1}{2}` or `\frac43`."""
    sign, top, bottom = _ratio(gold)
    value = Fraction(top, bottom) * (-1 if sign else 1)
    yield True, "dfrac", f"{sign}\\dfrac{{{top}}}{{{bottom}}}"
    yield True, "tfrac and spaces", f"{sign} \\tfrac {{ {top} }} {{ {bottom} }}"
    yield True, "slash", f"{sign}{top}/{bottom}"
    yield True, "unreduced", f"{sign}\\frac{{{2 * top}}}{{{2 * bottom}}}"
    yield True, "equation", f"p = {sign}\\frac{{{top}}}{{{bottom}}}"
    yield True, "sign within", f"\\frac{{{sign}{top}}}{{{bottom}}}"
    if top > bottom:
        rest = f"\\frac{{{top % bottom}}}{{{bottom}}}"
        yield True, "mixed number", f"{sign}{top // bottom}{rest}"
    if exact := _decimal(value):
        yield True, "exact decimal", exact
    else:
        yield False, "rounded decimal", f"{float(value):.2f}"
    yield False, "sign", f"{'' if sign else '-'}\\frac{{{top}}}{{{bottom}}}"
    if top != bottom:
        yield False, "numerator and denominator swapped", f"{sign}\\frac{{{bottom}}}{{{top}}}"
    yield False, "off by one", f"{sign}\\frac{{{top + 1}}}{{{bottom}}}"
    yield False, "order of magnitude", f"{sign}\\frac{{{top}}}{{{10 * bottom}}}"


def decimals(gold: str) -> Iterator[Case]:
    """Of `1.25` or `.35625`."""
    value = Fraction(gold)
    yield True, "fraction", f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    yield True, "trailing zero", gold + "0"
    yield True, "leading zero", f"{'0' * gold.startswith('.')}{gold}"
    yield False, "order of magnitude", _decimal(value * 10) or ""
    yield False, "last digit", gold[:-1] + str((int(gold[-1]) + 1) % 10)
    yield False, "sign", f"-{gold}"


def angles(gold: str) -> Iterator[Case]:
    r"""Of `90^\circ`."""
    n = gold.strip("$").split("^")[0]
    for text in (n, f"{n}^{{\\circ}}", f"{n}\\text{{ degrees}}", f"{n}°", f"\\theta = {n}^\\circ"):
        yield True, "degrees", text
    yield False, "off by one", f"{Fraction(n) + 1}^\\circ"
    yield False, "wrong unit", f"{n}\\text{{ cm}}"


def percents(gold: str) -> Iterator[Case]:
    """Of `62.5%`."""
    n = re.sub(r"[^\d.]", "", gold)
    for text in (f"{n}\\%", f"{n} \\%", f"{n}\\text{{ percent}}", _decimal(Fraction(n) / 100) or ""):
        yield True, "percent", text
    yield False, "order of magnitude", f"{_decimal(Fraction(n) * 10)}\\%"
    yield False, "order of magnitude", f"{_decimal(Fraction(n) / 1000)}"


def quantities(gold: str) -> Iterator[Case]:
    r"""Of `5\text{ cm}`: units put behind integers, as (content, gold) with the gold's own unit."""
    n, unit = gold.split("\\text{ ")
    unit = unit.rstrip("}")
    yield True, "unit dropped", n
    yield True, "unit in other type", f"{n}~\\mathrm{{{unit}}}"
    yield True, "unit in words", f"{n} {unit}" if len(unit) > 1 else f"{n}\\mbox{{ {unit}}}"
    yield False, "wrong unit", f"{n}\\text{{ {OTHER_UNIT[unit]}}}"
    yield False, "off by one", f"{int(n) + 1}\\text{{ {unit}}}"


def tuples(gold: str) -> Iterator[Case]:
    """Of `(3, \\frac{\\pi}{2})` or `(2,251,252)`."""
    parts = _parts(re.sub(r"^\(|\)$", "", _flat(gold)))
    joined = ", ".join(parts)
    yield True, "sized brackets", f"\\left( {joined} \\right)"
    yield True, "dfrac", f"({joined})".replace("\\frac", "\\dfrac")
    names = ", ".join("xyzuvwabcdefghijklmn"[: len(parts)])
    yield True, "equation", f"({names}) = ({joined})"
    if parts != parts[::-1]:
        yield False, "order of a tuple", f"({', '.join(parts[::-1])})"
    yield False, "one entry wrong", f"({', '.join([*parts[:-1], _other(parts[-1])])})"
    yield False, "one entry missing", f"({', '.join(parts[1:])})"


def lists(gold: str) -> Iterator[Case]:
    """Of `1,-2` or `$(2,4)$, $(3,5)$`: several answers in any order."""
    parts = _parts(_flat(gold))
    yield True, "spaces", ", ".join(parts)
    yield True, "order of a list", ", ".join(parts[::-1])
    yield True, "set", "\\{" + ", ".join(parts[::-1]) + "\\}"
    yield True, "and", ", ".join(parts[:-1]) + " \\text{ and } " + parts[-1]
    if not any("=" in part or "(" in part for part in parts):
        yield True, "equations", " \\text{ or } ".join(f"x = {part}" for part in parts)
    yield False, "one answer missing", ", ".join(parts[:-1])
    yield False, "one answer wrong", ", ".join([*parts[:-1], _other(parts[-1])])
    yield False, "one more answer", ", ".join([*parts, "987"])


def intervals(gold: str) -> Iterator[Case]:
    r"""Of `(-\infty, 2) \cup (3, \infty)` or `[-2,7]`."""
    parts = [part.strip() for part in _flat(gold).rstrip(".").split("\\cup")]
    yield True, "sized brackets", " \\cup ".join(f"\\left{p[:-1]}\\right{p[-1]}" for p in parts)
    yield True, "membership", "x \\in " + " \\cup ".join(parts)
    if len(parts) > 1:
        yield True, "order of a union", " \\cup ".join(parts[::-1])
        yield False, "part missing", parts[0]
    closed = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if "infty" not in parts[0].split(",")[0]:
        yield False, "bracket kind", " \\cup ".join([closed[parts[0][0]] + parts[0][1:], *parts[1:]])
    else:
        yield False, "bracket kind", " \\cup ".join([parts[0][:-1] + closed[parts[0][-1]], *parts[1:]])


def words(gold: str) -> Iterator[Case]:
    r"""Of `\text{Evelyn}` or `\text{(C)}`."""
    word = gold[len("\\text{") : -1]
    if word.startswith("("):
        letter = word[1]
        for text in (letter, word, f"\\text{{{letter}}}", f"\\textbf{{{word}}}", f"\\mathrm{{{letter}}}"):
            yield True, "letter of a choice", text
        for other in "ABCDE".replace(letter, ""):
            yield False, "letter of a choice", f"\\text{{({other})}}"
    else:
        for text in (word, word.lower(), f"\\textbf{{{word}}}", f"\\mbox{{{word}}}", f"\\text{{ {word} }}"):
            yield True, "word", text
        for other in ("Carla", "west", "odd", word[::-1], word[1:] + word[0]):
            if other.lower() != word.lower():
                yield False, "word", f"\\text{{{other}}}"


def surds(gold: str) -> Iterator[Case]:
    r"""Of `3\sqrt{13}`."""
    found = re.fullmatch(r"(\d+) ?\\sqrt ?\{?(\d+)\}?", _flat(gold))
    assert found
    a, b = int(found[1]), int(found[2])
    yield True, "under one root", f"\\sqrt{{{a * a * b}}}"
    yield True, "times", f"{a} \\cdot \\sqrt{{{b}}}"
    yield True, "short root", f"{a}\\sqrt {b}" if b < 10 else f"{a} \\sqrt{{{b}}}"
    yield True, "rational denominator", f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}"
    yield False, "off by one", f"{a}\\sqrt{{{b + 1}}}"
    yield False, "off by one", f"{a + 1}\\sqrt{{{b}}}"
    yield False, "sign", f"-{a}\\sqrt{{{b}}}"
    yield False, "rounded decimal", f"{a * b**0.5:.3f}"


def matrices(gold: str) -> Iterator[Case]:
    """Of a column or square `pmatrix`."""
    inner = re.sub(r"\\(?:begin|end)\{pmatrix\}", "", gold).strip()
    cells = re.split(r"(\\\\|&)", inner)
    yield True, "other brackets", f"\\begin{{bmatrix}}{inner}\\end{{bmatrix}}"
    ratios = re.sub(r"(-?)(\d+)/(\d+)", r"\1\\dfrac{\2}{\3}", inner)
    yield True, "fractions", f"\\begin{{pmatrix}} {ratios} \\end{{pmatrix}}"
    yield True, "equation", f"\\mathbf{{v}} = {gold}"
    changed = "".join([*cells[:-1], _other(cells[-1].strip())])
    yield False, "one entry wrong", f"\\begin{{pmatrix}} {changed} \\end{{pmatrix}}"
    if [cell.strip() for cell in cells] != [cell.strip() for cell in cells[::-1]]:
        yield False, "order of entries", f"\\begin{{pmatrix}} {''.join(cells[::-1])} \\end{{pmatrix}}"


def pairs(gold: str) -> Iterator[Case]:
    r"""Of `1 \pm \sqrt{19}`."""
    plus, minus = (gold.replace("\\pm", sign) for sign in "+-")
    yield True, "both signs", f"{plus}, {minus}"
    yield True, "both signs", f"{minus} \\text{{ and }} {plus}"
    yield False, "one sign", plus
    yield False, "off by one", gold.replace("\\pm", "+ 1 \\pm")


def equations(gold: str) -> Iterator[Case]:
    """Of `k=n+1` or `f(x)=x+1`."""
    left, right = _flat(gold).split("=")
    yield True, "right side alone", right
    yield True, "spaces", f"{left} = {right}"
    yield True, "terms moved", f"{left} = {right} + 7 - 7"
    yield False, "sign", f"{left} = -({right})"
    yield False, "off by one", f"{left} = {right} + 1"
    yield False, "order of magnitude", f"{left} = 10({right})"


def polynomials(gold: str) -> Iterator[Case]:
    r"""Of `x^3+3x-6`, `2^{1009}` or `\binom{2n}{n}`."""
    text = _flat(gold)
    yield True, "spaces", re.sub(r"([+-])", r" \1 ", text)
    yield True, "terms moved", f"{text} + 3 - 3"
    yield True, "equation", f"y = {text}"
    yield False, "off by one", f"{text} + 1"
    yield False, "sign", f"-({text})"
    yield False, "order of magnitude", f"10({text})"


def bases(gold: str) -> Iterator[Case]:
    """Of `52_8`."""
    digits, base = gold.replace("{", "").replace("}", "").split("_")
    yield True, "base in braces", f"{digits}_{{{base}}}"
    yield False, "another base", f"{digits}_{int(base) + 1}"
    yield False, "off by one", f"{int(digits) + 1}_{base}"


FORMS: dict[str, tuple[str, Callable[[str], Iterator[Case]]]] = {
    "integer": (r"-?\d+|\d{1,3}(?:,\d{3})+", integers),
    "fraction": (r"-?\\d?frac ?(?:\{\d+\} ?\{\d+\}|\d ?\d)", fractions),
    "decimal": (r"\d*\.\d*[1-9]", decimals),
    "angle": (r"[\d.]+\^\{?\\circ\}?", angles),
    "percent": (r"[\d.]+ ?\\?%", percents),
    "quantity": (r"\d+\\text\{ \w+\}", quantities),
    "list": (
        r"(?!.*(?:\\\$|\[|\\in|pm|\\\{))[^()=,]*[^()=,\d][^()=,]*(?:, ?[^()=,]+)+"
        r"|-?\d+(?:, -?\d+)+|-?\d{1,2}(?:,-?\d{1,2})+",
        lists,
    ),
    "list of tuples": (r"\([^()]*\)(?:, ?\([^()]*\))+", lists),
    "interval": (r"[(\[][^()\[\]]*\\infty[^()\[\]]*[)\]](?: ?\\cup ?[(\[][^()\[\]]*[)\]])*", intervals),
    "closed interval": (r"\[[^\[\]()]*[)\]]|\([^\[\]()]*\]", intervals),
    "tuple": (r"\((?:[^()]|\([^()]*\))*,(?:[^()]|\([^()]*\))*\)", tuples),
    "word": (r"\\text\{(?:[A-Za-z]+|\([A-E]\))\}", words),
    "surd": (r"\d+ ?\\sqrt ?\{?\d+\}?", surds),
    "matrix": (r"\\begin\{pmatrix\}.*\\end\{pmatrix\}", matrices),
    "both signs": (r"\d+ \\pm [^,]*", pairs),
    "equation": (r"[a-zA-Z](?:\([a-z]\))?=[^=,]*", equations),
    "polynomial": (r"(?=.*[a-z])(?!.*\\(?:text|mbox|ge))[\w +^{}()\\/-]*[\w})]", polynomials),
    "base": (r"\d+_\{?\d\}?", bases),
}
"""Of each form of gold: the notation, without `$`, and its transformations. The first that fits counts."""


def form_of(gold: str) -> str | None:
    """The form of a gold answer, or None if no transformation knows its notation."""
    if "\\!" in gold:
        return None
    return next((name for name, (notation, _) in FORMS.items() if re.fullmatch(notation, _flat(gold))), None)


def labelled_rows(golds: Mapping[str, Sequence[str]], seed: int = 0) -> list[Labelled]:
    """All rows from the gold answers of some benchmarks."""
    rng = random.Random(seed)
    by_form: dict[str, list[str]] = {name: [] for name in FORMS}
    for answers in golds.values():
        for gold in answers:
            if form := form_of(gold):
                by_form[form].append(gold)
    rows: list[Labelled] = []
    for form, known in by_form.items():
        chosen = sorted(set(known))
        rng.shuffle(chosen)
        chosen = chosen[: (4 if form == "integer" else 1) * PER_FORM]
        if form == "integer":  # few golds name their units, so some integers get one
            small = [gold for gold in chosen if len(gold) < 5 and not gold.startswith("-")][:PER_FORM]
            by_form["quantity"] += [f"{int(gold)}\\text{{ {rng.choice(UNITS)}}}" for gold in small]
        for gold in chosen:
            cases = [case for case in FORMS[form][1](_flat(gold)) if case[2]]
            for correct, kind, box in cases:
                rows.append(Labelled(_wrapped(rng, f"\\boxed{{{box}}}"), gold, correct, kind))
            rows += _responses(rng, gold, [box for correct, _, box in cases if not correct])
    return rows


def _wrapped(rng: random.Random, box: str) -> str:
    return rng.choice(WRAPS).replace("{}", box)


def _responses(rng: random.Random, gold: str, misses: Sequence[str]) -> Iterator[Labelled]:
    """The gold answer and a near miss in different places of a response: which one is its answer?"""
    right, wrong = _flat(gold), rng.choice(misses)
    good, bad = f"\\boxed{{{right}}}", f"\\boxed{{{wrong}}}"
    every = [
        (True, "as it is", _wrapped(rng, good)),
        (True, "last box", f"First I thought ${bad}$. But that is wrong. In fact it is ${good}$."),
        (True, "box within thoughts", f"<think>Let me see: ${good}$.</think>\n\nI am done."),
        (True, "box after thoughts", f"<think>Perhaps ${bad}$?</think>\n\nThe answer is ${good}$."),
        (True, "space before brace", f"So it is $\\boxed {{{right}}}$."),
        (True, "fbox in a box", f"Hence $\\boxed{{\\fbox{{{right}}}}}$."),
        (True, "prose", f"We are done. The answer is ${right}$."),
        (True, "prose", f"**Final answer:** ${right}$"),
        (False, "an earlier box is right", f"It seems to be ${good}$. No, wait. It is ${bad}$."),
        (False, "a thought is right", f"<think>That is ${good}$.</think>\n\nThe answer is ${bad}$."),
        (False, "prose is right", f"The answer is ${right}$, as I said.\n\n$${bad}$$"),
        (False, "prose", f"We are done. The answer is ${wrong}$."),
        (False, "no answer", f"We start from ${right}$ and then"),
        (False, "unfinished box", f"So the answer is $\\boxed{{{right}"),
        (False, "nothing", ""),
    ]
    for correct, kind, text in rng.sample(every, 5):
        yield Labelled(text, gold, correct, kind)


def _flat(gold: str) -> str:
    """The gold answer without mathematics' dollar signs and sized brackets."""
    text = re.sub(r"(?<!\\)\$|\\left(?![a-z])|\\right(?![a-z])|\\!", "", gold)
    return text.strip().removeprefix("\\quad")


def _ratio(gold: str) -> tuple[str, int, int]:
    found = re.search(r"\{?(\d+?)\}? ?\{?(\d+)\}?$", gold.strip("$").split("frac")[1].strip())
    assert found
    return ("-" if "-" in gold else "", int(found[1]), int(found[2]))


def _decimal(value: Fraction) -> str | None:
    """The value as a decimal if that is exact within twelve places."""
    scaled = value * 10**12
    if scaled.denominator != 1:
        return None
    text = f"{abs(scaled.numerator):013d}"
    return f"{'-' * (value < 0)}{text[:-12]}.{text[-12:].rstrip('0') or '0'}"


def _parts(text: str) -> list[str]:
    """Split at commas outside all brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _other(part: str) -> str:
    """Another value of the same notation."""
    if part.startswith("("):
        return f"({_other(part[1:-1].split(',')[0])}{part[1:-1][len(part[1:-1].split(',')[0]) :]})"
    return str(int(part) + 1) if re.fullmatch(r"-?\d+", part) else f"{part} + 1"
