"""Is a response's final answer right? Two verdicts, always side by side.

    grade("... so \\\\boxed{0.5}", "1/2")   -> Grade("0.5", legacy=False, symbolic=True, reason="correct")

`legacy` is the rule of the paper's lineage, quirks included (github.com/Small-Model-Gap/
Small-Model-Learnability-Gap, lm_eval/tasks/{AIME,AMC,Olympiad,hendrycks_math_500}/utils.py): the last
`\\boxed` or `\\fbox` alone, compared with the gold answer as normalised strings. The normalisation is
Hendrycks's, which lm-eval ships. It never strips a bare `$`: on OlympiadBench, perfect answers boxed without
`$` score 409 of 675. (The lineage scores GSM8K by the last number of a response; here its box decides too.)

`symbolic` is math-verify on the whole response, which also knows that 0.25 is 1/4; equal strings, `$` aside,
need no computer algebra.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import UserError

Reason = str
_BARE_DOLLAR = re.compile(r"(?<!\\)\$")  # one that marks mathematics, not an amount
CORRECT, WRONG, NO_ANSWER, TRUNCATED = "correct", "wrong", "no answer", "truncated"


@dataclass(frozen=True)
class Grade:
    """Verdicts on one response; `reason` explains the symbolic one."""

    extracted: str | None
    legacy: bool
    symbolic: bool
    reason: Reason

    def accepts(self, verdict: str) -> bool:
        """The verdict of one grader (`legacy` or `symbolic`); `none` accepts all."""
        return verdict == "none" or bool(getattr(self, verdict))


def grade(
    response: str | None, answer: str | None, truncated: bool = False, legacy_rule: str = "hendrycks"
) -> Grade:
    """Grade one response against its gold answer.

    A truncated response can still be right; `truncated` is its reason only where it is not. `legacy_rule`
    is a benchmark's: `hendrycks`, or `number` for AIME, AMC and OlympiadBench.
    """
    response, answer = response or "", answer or ""
    extracted = extract_boxed(response)
    legacy = extracted is not None and legacy_equal(extracted, answer, legacy_rule)
    symbolic = bool(answer) and (_same_text(extracted, answer) or _symbolic(response, answer))
    if symbolic:
        reason = CORRECT
    elif truncated:
        reason = TRUNCATED
    else:
        reason = NO_ANSWER if extracted is None else WRONG
    return Grade(extracted, legacy, symbolic, reason)


def extract_boxed(response: str) -> str | None:
    """The content of the last `\\boxed` or `\\fbox` as the lineage's scripts cut it out, or None.

    A `\\boxed` wins over any `\\fbox`, and a `\\boxed ` with a space over any other; a box within a box ends
    their run and has no answer here.
    """
    boxed = _hendrycks().last_boxed_only_string(response)
    if boxed is None:
        return None
    text = str(boxed)
    if "\\fbox{" in text:
        return text[len("\\fbox{") : -1] if text.startswith("\\fbox{") else None
    if text.startswith("\\boxed "):
        return text[len("\\boxed ") :]
    return text[len("\\boxed{") : -1]


def legacy_equal(extracted: str, answer: str, rule: str = "hendrycks") -> bool:
    """Whether two answers are equal for the lineage: after Hendrycks's normalisation of both.

    `number` first drops leading zeros, and everything from the first point if only zeros follow it.
    """
    if rule == "number":
        extracted, answer = _bare_number(extracted), _bare_number(answer)
    return bool(_hendrycks().is_equiv(extracted, answer))


def _bare_number(text: str) -> str:
    text = text.lstrip("0")
    whole, *after = text.split(".")
    return whole if after and not after[0].strip("0") else text


def _same_text(extracted: str | None, answer: str) -> bool:
    """Whether a box holds the gold answer after Hendrycks's normalisation, `$` and a final point aside."""
    if extracted is None:
        return False
    bare = [_BARE_DOLLAR.sub("", text).strip().rstrip(".") for text in (extracted, answer)]
    return bool(bare[0]) and bool(_hendrycks().is_equiv(*bare))


def _symbolic(response: str, answer: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{answer}}}"), parse(response)))


@cache
def _hendrycks() -> ModuleType:
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        raise UserError("lm_eval is not installed; its Hendrycks helpers are needed for grading")
    # By its path, as lm-eval itself loads task helpers: importing the package would take 3 s.
    path = Path(package.origin).with_name("tasks") / "hendrycks_math" / "utils.py"
    spec = importlib.util.spec_from_file_location("hendrycks_math_utils", path)
    assert spec and spec.loader
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    return helpers
