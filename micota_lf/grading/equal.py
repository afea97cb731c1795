r"""Whether two final answers are mathematically the same: structure first, computer algebra last.

    same_answer("x = 0.5", r"\frac{1}{2}")      -> True
    same_answer(r"5\text{ m}", r"5\text{ cm}")  -> False
    same_answer("(2, 1)", "(1, 2)")             -> False, and "2, 1" against "1, 2" -> True

Answers are taken apart into lists and sets (any order), tuples, intervals and matrices (in order), down to
single values. Rational values are compared exactly, so that 0.33 is not 1/3; words are compared as words; a
unit, a currency or a left side (`x =`) may be missing from one answer, but may not be another one. What
is left goes to math-verify (github.com/huggingface/Math-Verify).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .notation import SHORT, bare, clean, key, members, pattern, rational, readings, sequence, split, unit

UNREADABLE_GOLD = "unreadable gold"

Verdict = bool | str | None
"""None: neither text nor computer algebra can read the answer as mathematics; or a text that says why not."""

Pair = tuple[str, str]


class UnreadableGold(Exception):
    """The gold answer is not readable as mathematics."""


class NeedsAlgebra(Exception):
    """Text alone cannot tell whether the two answers, its arguments, are the same."""


def same_answer(got: str, gold: str, seconds: int | None = 5) -> Verdict:
    """Whether two answers are the same; None if the first cannot be read, UNREADABLE_GOLD if the second.

    `seconds` bound each call of computer algebra by math-verify's own alarm (in the main thread alone).
    """
    return Comparison(partial(_algebra, seconds=seconds)).verdict(got, gold)


def same_text(got: str, gold: str) -> Verdict:
    """The same without computer algebra. Raises NeedsAlgebra where it would be asked."""

    def needed(*values: str) -> Verdict:
        raise NeedsAlgebra(got, gold)

    long = max(len(got), len(gold)) > SHORT and got != gold
    return needed() if long else Comparison(needed).verdict(got, gold)


@dataclass(frozen=True)
class Comparison:
    """How two answers are compared: `algebra` judges the single values that text cannot tell apart."""

    algebra: Callable[[str, str], Verdict]

    def verdict(self, got: str, gold: str) -> Verdict:
        """Whether two answers as they stand are the same, in one of their readings (1,234 may be a list).

        UNREADABLE_GOLD if nothing can be the same as `gold`.
        """
        verdict: Verdict = got == gold or None
        try:
            for pair in dict.fromkeys(zip(readings(got), readings(gold), strict=False)):
                verdict = verdict or self._same(*pair)
        except UnreadableGold:
            return UNREADABLE_GOLD
        return verdict

    def _same(self, got: str, gold: str) -> Verdict:
        """Two cleaned answers of any structure; a tuple may be answered by a list in its order."""
        gots, golds = members(got), members(gold)
        if not golds:
            raise UnreadableGold
        if len(gots) <= 1 and len(golds) == 1:
            return self._same_one(clean(gots[0]), clean(golds[0])) if gots else None
        (a, ours), (b, theirs) = sequence(got), sequence(gold)
        for left, right in ((ours if a == "()" else [], golds), (gots, theirs if b == "()" else [])):
            if left and len(left) == len(right):
                return self._in_order(left, right)
        if len(gots) == 1:  # `1/2 or 0.5`
            return all(self._same_one(clean(gots[0]), clean(gold)) for gold in golds)
        return len(gots) == len(golds) and self._any_order(gots, golds)

    def _in_order(self, gots: list[str], golds: list[str]) -> Verdict:
        verdicts = [self._same(clean(got), clean(gold)) for got, gold in zip(gots, golds, strict=True)]
        return False if False in verdicts else None if None in verdicts else True

    def _any_order(self, gots: list[str], golds: list[str]) -> Verdict:
        left, wanted, unread = [clean(text) for text in gots], [clean(text) for text in golds], False
        for want in wanted:
            left.sort(key=lambda text: key(text) != key(want))  # the cheap candidate first
            for text in left:
                if verdict := self._same_one(text, want):
                    left.remove(text)
                    break
                unread |= verdict is None
            else:
                return None if unread else False
        return True

    def _same_one(self, got: str, gold: str) -> Verdict:
        """Two answers that are no lists: equations, intervals, tuples, matrices, single values."""
        if key(got) == key(gold):
            return True
        ours, theirs = split(got, "="), split(gold, "=")
        if len(ours) > 1 or len(theirs) > 1:
            return self._same_equation(got, gold, ours, theirs)
        (a, entries), (b, wanted) = sequence(got), sequence(gold)
        if a and b:
            return a == b and len(entries) == len(wanted) and self._in_order(entries, wanted)
        return self._same_value(got, gold)

    def _same_equation(self, got: str, gold: str, ours: list[str], theirs: list[str]) -> Verdict:
        """Two answers, of which one or both have several sides; a name alone may be left out."""
        if len(ours) == 2 and pattern("name").fullmatch(ours[1]) and not pattern("name").fullmatch(ours[0]):
            ours.reverse()  # 3 = x
        if len(ours) < 2:
            named = pattern("name").fullmatch(theirs[0])
            return self._same(got, clean(theirs[-1])) if named else self.algebra(got, gold)
        if len(theirs) < 2:
            return False if pattern("multiple").fullmatch(ours[0]) else self._same(clean(ours[-1]), gold)
        ours = _renamed(ours, theirs[0])
        left, right = (re.sub(r"_(?:\w|\{.*?\})$", "", key(side[0])) for side in (ours, theirs))
        if left == right:
            return self._same(clean(ours[-1]), clean(theirs[-1]))
        names = all(map(pattern("name").fullmatch, (left, right)))
        return False if names else self.algebra(got, gold)

    def _same_value(self, got: str, gold: str) -> Verdict:
        if (choice := pattern("choice").fullmatch(key(gold))) and (choice[2] or len(key(gold)) < 4):
            found = pattern("choice").fullmatch(key(got))
            return found[1] == choice[1] if found else bool(choice[2]) and self._same(got, choice[2])
        (a, unit_a), (b, unit_b) = unit(got), unit(gold)
        if unit_a and unit_b and unit_a != unit_b:
            return False
        x, y = rational(a), rational(b)
        if x is not None and y is not None:
            if x.denominator > 1 and abs(x - y) < abs(y) / 10**14:  # a float in full precision
                x = y
            if unit_a == unit_b or "percent" not in (unit_a, unit_b):
                return x == y
            if unit_b:  # 50% may be answered by 50 or 0.5
                return x == y or 100 * x == y
            return x == 100 * y or (x == y and abs(y) >= 1)  # 0.5% is not 0.5, though 50% may mean 50
        words = [bare(key(text)) for text in (a, b)]
        for text, word in zip((a, b), words, strict=True):
            if pattern("words").fullmatch(word) and (len(word) > 3 or "\\text" in text):
                return re.sub("^(?:the|an?) ", "", words[0].casefold()) == words[1].casefold()
        return self.algebra(a, b)


def _renamed(ours: list[str], other: str) -> list[str]:
    """`f(n) = n + 1` with the other side's variable, `f(x) = x + 1`, where that cannot clash."""
    a, b = pattern("function").fullmatch(ours[0]), pattern("function").fullmatch(other)
    if not (a and b and a[1] == b[1]) or re.search(rf"(?<![A-Za-z\\]){b[2]}(?![A-Za-z])", ours[-1]):
        return ours
    return [re.sub(rf"(?<![A-Za-z\\]){a[2]}(?![A-Za-z])", b[2], side) for side in ours]


def _algebra(got: str, gold: str, seconds: int | None) -> Verdict:
    """The verdict of math-verify on two single values; it reads neither prose nor units here."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, Symbol

    rules = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="all")
    config, limit = [LatexExtractionConfig(normalization_config=rules)], {"timeout_seconds": seconds}
    boxes = (f"\\boxed{{{text}}}" for text in (got, gold))
    a, b = (parse(box, config, "no_fallback", parsing_timeout=seconds) for box in boxes)
    if not b:
        raise UnreadableGold
    if not a:
        return None
    equal, sides = verify(b, a, float_rounding=10, allow_set_relation_comp=True, **limit), (a[0], b[0])
    expressions = all(isinstance(side, Expr) for side in sides)
    if not equal and expressions and any(isinstance(side, Symbol) for side in sides):
        equal = verify(b[0] + 1, a[0] + 1, **limit)  # math-verify compares a bare symbol as text
    return bool(equal)
