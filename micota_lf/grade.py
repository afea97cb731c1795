"""Is a response's final answer right? Two verdicts, always side by side.

    grade("... so \\\\boxed{0.5}", "1/2")   -> Grade("0.5", legacy=False, symbolic=True, reason="correct")

`legacy` is the rule of the paper's lineage: the last `\\boxed` or `\\fbox`, compared as normalised strings
(lm_eval tasks/hendrycks_math/utils.py). `symbolic` is math-verify on the whole response, which also knows
that 0.25 is 1/4. Both helpers are used as they are shipped.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import UserError

Reason = str
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


def grade(response: str | None, answer: str | None, truncated: bool = False) -> Grade:
    """Grade one response against its gold answer.

    A truncated response can still be right; `truncated` is its reason only where it is not.
    """
    response, answer = response or "", answer or ""
    extracted = extract_boxed(response)
    legacy = extracted is not None and bool(_hendrycks().is_equiv(extracted, answer))
    # Equal after normalisation: no need for a computer algebra system.
    symbolic = bool(answer) and (legacy or _symbolic(response, answer))
    if symbolic:
        reason = CORRECT
    elif truncated:
        reason = TRUNCATED
    else:
        reason = NO_ANSWER if extracted is None else WRONG
    return Grade(extracted, legacy, symbolic, reason)


def extract_boxed(response: str) -> str | None:
    """The content of the last `\\boxed{}` or `\\fbox{}`, or None (also where the helper gives up)."""
    helpers = _hendrycks()
    try:
        boxed = helpers.last_boxed_only_string(response)
        return None if boxed is None else str(helpers.remove_boxed(boxed))
    except AssertionError:  # `\fbox` and malformed boxes end the lineage's own script here
        return None


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
