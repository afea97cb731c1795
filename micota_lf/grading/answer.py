"""Is a response's final answer right? Two verdicts, always side by side.

    grade("... so \\\\boxed{0.5}", "1/2")   -> Grade("0.5", legacy=False, symbolic=True, reason="correct")

`legacy` is the rule of the paper's lineage, quirks included (github.com/Small-Model-Gap/
Small-Model-Learnability-Gap, lm_eval/tasks/{AIME,AMC,Olympiad,hendrycks_math_500}/utils.py): the last
`\\boxed` or `\\fbox` alone, compared with the gold answer as normalised strings. The normalisation is
Hendrycks's, which lm-eval ships. It never strips a bare `$`: on OlympiadBench, perfect answers boxed without
`$` score 409 of 675. GSM8K it scores by the last number of a response, boxed or not: `flexible-extract` of
lm-eval's gsm8k_cot_zeroshot, by which `$\\boxed{18}$.` ends in `$.` and is wrong.

`symbolic` asks whether the final answer is the same mathematics (`equal.py`). It is what the last box
holds, after `</think>` if there is one; without any box, what follows `the answer is`, `Answer:`, `####` or
the like; without those, the last expression of a text that has not been cut. An answer in prose never
outweighs a box, nor an earlier box the last. `found_by` says which rule it was; `boxed` is `symbolic` of
boxes alone. A gold answer is read by the same rules where it is a worked solution.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .equal import UNREADABLE_GOLD, Verdict, same_answer
from .notation import LONGEST, SHORT, is_list, pattern

UNPARSEABLE, TIMEOUT = "unparseable", "timeout"
BOX, STATEMENT, LAST = "box", "statement", "last expression"
REASONS: dict[Verdict, str] = {True: "correct", False: "wrong", None: UNPARSEABLE}
"""Words for a verdict; one that is a text says why there is none."""

Found = tuple[str | None, str | None]
"""An answer and the rule that found it; None and None where there is none."""

MOST_WORDS = 12
"""Of a gold answer that is no worked solution."""


@dataclass(frozen=True)
class Grade:
    """Verdicts on one response. `extracted` is the answer that `symbolic` looked at, `reason` explains it.

    `found_by` is the rule that found it: `box`, `statement` or `last expression`.
    """

    extracted: str | None
    legacy: bool
    symbolic: bool
    reason: str
    found_by: str | None = None

    def accepts(self, verdict: str) -> bool:
        """One verdict (`legacy`, `symbolic`, or `boxed`: this of answers in a box); `none` accepts all."""
        boxed = self.symbolic and self.found_by == BOX
        return {"none": True, "legacy": self.legacy, "symbolic": self.symbolic, "boxed": boxed}[verdict]


def grade(
    response: str | None,
    answer: str | None,
    truncated: bool = False,
    legacy_rule: str = "hendrycks",
    same: Callable[[str, str], Verdict] = same_answer,
) -> Grade:
    """Grade one response against its gold answer.

    A truncated response can still be right, but not by its last expression, which is no answer; `truncated`
    is its reason only where it is not. `legacy_rule`
    is a benchmark's (see `legacy_right`). `same` compares the final answer with the gold one, or says that
    this took too long (`timeout`); what it raises on odd text passes through (but not through `workers`).
    """
    response, answer = response or "", answer or ""
    gold = gold_answer(answer)
    final, rule = final_answer(response, is_list(gold or ""))
    legacy = legacy_right(response, gold or answer, legacy_rule)
    if truncated and rule == LAST:
        final = rule = None
    missing = UNREADABLE_GOLD if gold is None else "no answer"
    reason = missing if gold is None or final is None else REASONS.get(said := same(final, gold), str(said))
    right = reason == REASONS[True]
    return Grade(final, legacy, right, "truncated" if truncated and not right else reason, rule)


def final_answer(response: str, several: bool = False) -> Found:
    """What a response gives as its answer: its last box, else what it says the answer is, else None.

    An empty box is no answer. A last box that never closes leaves the response without one. With `several`,
    boxes that only a comma or an `and` parts count together.
    """
    ending = response.rpartition("</think>")[2]
    boxes = list(_boxes(response, len(response) - len(ending))) or list(_boxes(response, 0))
    if not boxes:
        return _unboxed(ending, several)
    *earlier, (start, _, answer) = boxes
    for before, end, content in reversed(earlier):
        if not several or answer is None or not pattern("joint").fullmatch(response, end, start):
            break
        start, answer = before, f"{content}, {answer}"
    return answer, answer and BOX


@lru_cache(1000)
def gold_answer(text: str) -> str | None:
    """The answer in a gold column's text: a worked solution's, else the whole text; None if that is prose."""
    final, rule = final_answer(text, several=True)
    whole = len(text) <= LONGEST and len(pattern("word").findall(text)) <= MOST_WORDS and text.strip()
    return final if rule in (BOX, STATEMENT) else whole or None


def unread_golds(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What to say of each row (`id`, `answer`) whose gold answer cannot be read."""
    unread = [row for row in rows if row.get("answer") and gold_answer(str(row["answer"])) is None]
    advice = "an answer alone, or a text with it in \\boxed{}, after #### or after `the answer is`, can be"
    return [f"cannot be read ({row['id']}: {row['answer']!r:.60}); {advice}" for row in unread]


def _boxes(text: str, at: int) -> Iterator[tuple[int, int, str | None]]:
    """Start, end and content of each outermost box from `at` that is not empty; None if it never closes."""
    while match := pattern("box").search(text, at):
        at = match.end()
        if text.startswith("{", at):
            end = _closing_brace(text, at)
            content, at = text[at + 1 : end].strip(), end + 1
            if content:
                yield match.start(), at, content if end < len(text) else None
        elif match[0][-1].isspace() and (bare := pattern("unbraced").match(text, at)):
            yield match.start(), bare.end(), bare[0].rstrip(".,;")


def _closing_brace(text: str, at: int) -> int:
    """Where the brace at `at` is closed; the end of the text if it never is."""
    depth = 0
    for brace in pattern("brace").finditer(text, at):  # in no copy: there may be a box every few characters
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return len(text)


def _unboxed(text: str, several: bool) -> Found:
    """The answer of a text without boxes: what it says the answer is, else its last expression."""
    # In one blank or line end each: runs of them would make the search quadratic.
    text = pattern("blank").sub(lambda run: "\n" if "\n" in run[0] else " ", text).strip()
    for stated in [*pattern("statement").finditer(text)][-1:]:
        said = pattern("filler").sub("", text[stated.end() :], count=1)
        sentence = pattern("sentence end").split(said)[0].strip("* ")
        if pattern("formula").fullmatch(sentence):
            return sentence, STATEMENT
        if found := pattern("several").match(said):
            return found[0], STATEMENT
        if sentence and not pattern("prose").match(sentence):
            return sentence, STATEMENT
    found_all = pattern("several" if several else "expression").finditer(text)
    expressions = [one[0] for one in found_all if one[0] == text or not pattern("variable").match(one[0])]
    if not expressions or pattern("unfinished").search(text[-SHORT:]):
        return None, None
    *earlier, last = re.split(f",?\\s*{pattern('and').pattern}\\s*", expressions[-1])
    # `n = 2 and n = 5` are two answers, `k = 2 and n = 5` is one.
    apart = not several and "=" in last and last.split("=")[0] not in [one.split("=")[0] for one in earlier]
    return last if apart else expressions[-1], LAST


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


def legacy_right(response: str, answer: str, rule: str = "hendrycks") -> bool:
    """The lineage's verdict: whether box and gold answer are equal after Hendrycks's normalisation of both.

    `number` (AIME, AMC, OlympiadBench) first drops leading zeros, and everything from the first point if only
    zeros follow it. `last_number` (GSM8K) compares the last number of the response with the gold text.
    """
    if rule == "last_number":
        pattern, ignored = _last_number()
        compared = [["[invalid]", *map("".join, pattern.findall(response))][-1], answer]
        for noise in ignored:
            compared = [re.sub(noise, "", text) for text in compared]
        return compared[0] == compared[1]
    boxed = extract_boxed(response)
    if boxed is not None and rule == "number":
        boxed, answer = _bare_number(boxed), _bare_number(answer)
    return bool(_hendrycks().is_equiv(boxed, answer))


def _bare_number(text: str) -> str:
    text = text.lstrip("0")
    whole, *after = text.split(".")
    return whole if after and not after[0].strip("0") else text


def _lm_eval_task(name: str) -> str:
    """A file of lm-eval's tasks, by its path, as lm-eval loads them: importing the package would take 3 s."""
    package = find_spec("lm_eval")
    assert package and package.origin
    return str(Path(package.origin).with_name("tasks") / name)


@cache
def _hendrycks() -> ModuleType:
    helpers = ModuleType("hendrycks_math_utils")
    SourceFileLoader(helpers.__name__, _lm_eval_task("hendrycks_math/utils.py")).exec_module(helpers)
    return helpers


@cache
def _last_number() -> tuple[re.Pattern[str], list[str]]:
    """What `flexible-extract` takes for a number, and what its exact_match leaves out of both texts."""
    task = yaml.safe_load(Path(_lm_eval_task("gsm8k/gsm8k-cot-zeroshot.yaml")).read_text(encoding="utf-8"))
    filters = {entry["name"]: entry["filter"][0] for entry in task["filter_list"]}
    pattern = re.compile(filters["flexible-extract"]["regex_pattern"])
    return pattern, task["metric_list"][0]["regexes_to_ignore"]
