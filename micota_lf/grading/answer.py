"""Is a response's final answer right? Two verdicts, always side by side.

    grade("... so \\\\boxed{0.5}", "1/2")   -> Grade("0.5", legacy=False, symbolic=True, reason="correct")

`legacy` is the rule of the paper's lineage, quirks included (github.com/Small-Model-Gap/
Small-Model-Learnability-Gap, lm_eval/tasks/{AIME,AMC,Olympiad,hendrycks_math_500}/utils.py): the last
`\\boxed` or `\\fbox` alone, compared with the gold answer as normalised strings. The normalisation is
Hendrycks's, which lm-eval ships. It never strips a bare `$`: on OlympiadBench, perfect answers boxed without
`$` score 409 of 675. (The lineage scores GSM8K by the last number of a response; here its box decides too.)

`symbolic` asks whether the final answer is the same mathematics (`equal.py`). It is what the last box
holds, after `</think>` if there is one; without any box, what follows `the answer is`. An answer in prose
never outweighs a box, nor an earlier box the last.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from .equal import Verdict, same_answer
from .notation import is_list

UNPARSEABLE, TIMEOUT = "unparseable", "timeout"
REASONS = {True: "correct", False: "wrong", None: UNPARSEABLE, TIMEOUT: TIMEOUT}

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s$]+")
_JOINT = re.compile(r"(?:[\s$.,;]|\\[()\[\],; ]|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\b[a-z]\s*=)*")
_SAID = re.compile(
    r"(?:\banswers?\b(?:[ \t]+[\w']+){0,8}?[ \t*]*(?:\b(?:is|are|(?:would|must|will) be)\b|[:=])"
    r"|final answer[ \t*]*\n|####)[ \t]*:?\s*(\S.*)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|(?<=\S)\s+(?:because|since|which)\b|\n")
_FILLERS = re.compile(
    r"^(?:(?:therefore|thus|then|simply|just|exactly|indeed|equal to|approximately)\b[ ,:]*)+"
)
_BARE_ANSWER = re.compile(r"[-\u2212+$\\(\[{.\d][^\n]{0,80}|[A-Z]\)?\.?")


@dataclass(frozen=True)
class Grade:
    """Verdicts on one response. `extracted` is the answer that `symbolic` looked at, `reason` explains it."""

    extracted: str | None
    legacy: bool
    symbolic: bool
    reason: str

    def accepts(self, verdict: str) -> bool:
        """The verdict of one grader (`legacy` or `symbolic`); `none` accepts all."""
        return verdict == "none" or bool(getattr(self, verdict))


def grade(
    response: str | None,
    answer: str | None,
    truncated: bool = False,
    legacy_rule: str = "hendrycks",
    same: Callable[[str, str], Verdict | str] = same_answer,
) -> Grade:
    """Grade one response against its gold answer.

    A truncated response can still be right; `truncated` is its reason only where it is not. `legacy_rule`
    is a benchmark's: `hendrycks`, or `number` for AIME, AMC and OlympiadBench. `same` compares the final
    answer with the gold one, or says that this took too long (`timeout`); what it raises on odd text passes
    through (`workers` lets nothing through).
    """
    response, answer = response or "", answer or ""
    boxed = extract_boxed(response)
    legacy = boxed is not None and legacy_equal(boxed, answer, legacy_rule)
    final = final_answer(response, is_list(answer))
    reason = "no answer" if final is None else REASONS[same(final, answer)]
    right = reason == REASONS[True]
    return Grade(final, legacy, right, "truncated" if truncated and not right else reason)


def final_answer(response: str, several: bool = False) -> str | None:
    """What a response gives as its answer: its last box, else what it says the answer is, else None.

    An empty box is no answer. A last box that never closes leaves the response without one. With `several`,
    boxes that only a comma or an `and` parts count together.
    """
    ending = response.rpartition("</think>")[2]
    boxes = list(_boxes(response, len(response) - len(ending))) or list(_boxes(response, 0))
    if not boxes:
        return _said(ending)
    *earlier, (start, _, answer) = boxes
    for before, end, content in reversed(earlier):
        if not several or answer is None or not _JOINT.fullmatch(response, end, start):
            break
        start, answer = before, f"{content}, {answer}"
    return answer


def _boxes(text: str, at: int) -> Iterator[tuple[int, int, str | None]]:
    """Start, end and content of each outermost box from `at` that is not empty; None if it never closes."""
    while match := _BOX.search(text, at):
        at = match.end()
        if text.startswith("{", at):
            end = _closing_brace(text, at)
            content, at = text[at + 1 : end].strip(), end + 1
            if content:
                yield match.start(), at, content if end < len(text) else None
        elif match[0][-1].isspace() and (bare := _UNBRACED.match(text, at)):
            yield match.start(), bare.end(), bare[0].rstrip(".,;")


def _closing_brace(text: str, at: int) -> int:
    """Where the brace at `at` is closed; the end of the text if it never is."""
    depth = 0
    for brace in _BRACE.finditer(text, at):  # no copy of the text: there may be a box every few characters
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return len(text)


def _said(text: str) -> str | None:
    """The answer that prose gives: after the last `the answer is`, or the whole text if that is no prose."""
    # In one blank or line end each: runs of them would make the search quadratic.
    text = re.sub(r"\s+", lambda run: "\n" if "\n" in run[0] else " ", text)
    if said := _SAID.findall(text):
        return _FILLERS.sub("", _SENTENCE_END.split(said[-1].strip("* "))[0].strip("* ")) or None
    return text.strip() if _BARE_ANSWER.fullmatch(text.strip()) else None


def extract_boxed(response: str) -> str | None:
    """The content of the last `\\boxed` or `\\fbox` as the lineage's scripts cut it out, or None.

    A `\\boxed` wins over any `\\fbox`, and a `\\boxed ` with a space over any other; a box within a box ends
    their run and has no answer here.
    """
    text = _hendrycks().last_boxed_only_string(response)
    if text is None or "\\fbox{" in text[1:]:
        return None
    content = str(text)[len("\\fbox{" if text.startswith("\\fbox{") else "\\boxed{") :]
    return content if text.startswith("\\boxed ") else content[:-1]


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


@cache
def _hendrycks() -> ModuleType:
    package = find_spec("lm_eval")
    assert package and package.origin
    # By its path, as lm-eval itself loads task helpers: importing the package would take 3 s.
    path = Path(package.origin).with_name("tasks") / "hendrycks_math" / "utils.py"
    helpers = ModuleType("hendrycks_math_utils")
    SourceFileLoader(helpers.__name__, str(path)).exec_module(helpers)
    return helpers
