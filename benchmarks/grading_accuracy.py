r"""How often graders are right on labelled responses: precision and recall, for each and by transformation.

    python benchmarks/grading_accuracy.py DIR   # DIR/{aime24,amc23,olympiadbench,math-500,gsm8k}/test.jsonl

Side by side: our two verdicts, math-verify alone, and the graders that lm-eval ships as hendrycks_math500,
minerva_math (exact_match) and aime24. hendrycks_math500 looks at the text between the first and the last `$`,
minerva_math only at `The final answer is ... I hope it is correct.`, which a quarter of the rows have.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from labelled import Labelled, labelled_rows

from micota_lf.grading.answer import grade
from micota_lf.inputs.problems import load_problems
from micota_lf.recipe.tasks import benchmark_named

BENCHMARKS = ("aime24", "amc23", "olympiadbench", "math-500", "gsm8k")
Grader = Callable[[str, str], bool]


def golds_of(folder: str) -> dict[str, list[str]]:
    """The gold answers of each benchmark in a folder."""
    return {
        name: [row["answer"] for row in load_problems(benchmark_named(name, None, folder))]
        for name in BENCHMARKS
    }


def own(verdict: str, response: str, gold: str) -> bool:
    """One of our verdicts; `legacy` by the rule of MATH-500."""
    return grade(response, gold).accepts(verdict)


def math_verify_alone(response: str, gold: str) -> bool:
    """math-verify with its defaults on the whole response, the gold answer in a box."""
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(response)))


def hendrycks(response: str, gold: str) -> bool:
    """lm-eval's hendrycks_math500."""
    from lm_eval.tasks.hendrycks_math.utils import process_results

    return bool(process_results({"solution": f"\\boxed{{{gold}}}"}, [response])["exact_match"])


def minerva(response: str, gold: str) -> bool:
    """lm-eval's minerva_math, exact_match."""
    from lm_eval.tasks.minerva_math.utils import get_unnormalized_answer, is_equiv, normalize_final_answer

    said = normalize_final_answer(get_unnormalized_answer(response))
    return bool(is_equiv(said, normalize_final_answer(gold)))


def aime(response: str, gold: str) -> bool:
    """lm-eval's aime24."""
    from lm_eval.tasks.aime.utils import process_results

    return bool(process_results({"answer": gold}, [response])["exact_match"])


GRADERS: dict[str, Grader] = {
    "legacy": partial(own, "legacy"),
    "symbolic": partial(own, "symbolic"),
    "math-verify": math_verify_alone,
    "hendrycks": hendrycks,
    "minerva": minerva,
    "aime24": aime,
}


def verdicts(rows: Iterable[Labelled], grader: Grader) -> list[bool]:
    """One grader's verdicts; a row on which it raises counts as not accepted."""
    found = []
    for row in rows:
        try:
            found.append(grader(row.response, row.gold))
        except Exception:  # other graders fail on what they do not expect
            found.append(False)
    return found


def precision_recall(rows: Iterable[Labelled], accepted: Iterable[bool]) -> tuple[float, float, int, int]:
    """Right among accepted, accepted among right, and both denominators."""
    pairs = [(row.correct, yes) for row, yes in zip(rows, accepted, strict=True)]
    both, yes, right = (
        sum(map(bool, x)) for x in ([c and a for c, a in pairs], [a for _, a in pairs], [c for c, _ in pairs])
    )
    return both / max(yes, 1), both / max(right, 1), yes, right


def table(rows: list[Labelled], accepted: Mapping[str, list[bool]]) -> str:
    """Precision and recall of each grader, then the share of right verdicts by transformation."""
    lines = [f"{len(rows)} rows, {sum(row.correct for row in rows)} right", ""]
    lines.append(f"{'':36}{'n':>6}" + "".join(f"{name:>13}" for name in accepted))
    scores = [precision_recall(rows, found) for found in accepted.values()]
    for title, share, n in (("precision (of accepted)", 0, 2), ("recall (of right)", 1, 3)):
        lines.append(f"{title:36}{'':>6}" + "".join(f"{score[share]:>13.2%}" for score in scores))
        lines.append(f"{'  n':36}{'':>6}" + "".join(f"{score[n]:>13}" for score in scores))
    kinds: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        kinds[not row.correct, row.kind].append(i)
    for (miss, kind), members in sorted(kinds.items()):
        cells = (sum(found[i] is not miss for i in members) / len(members) for found in accepted.values())
        title = f"{'must fail' if miss else 'must pass'}: {kind}"
        lines.append(f"{title:<36}{len(members):>6}" + "".join(f"{cell:>13.1%}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Print the table; with --errors, also each wrong verdict of `symbolic`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="benchmarks as NAME/test.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(GRADERS), default=list(GRADERS))
    parser.add_argument("--errors", action="store_true")
    args = parser.parse_args()
    rows = labelled_rows(golds_of(args.folder), args.seed)
    accepted = {name: verdicts(rows, GRADERS[name]) for name in args.only}
    print(table(rows, accepted))
    if args.errors:
        for row, yes in zip(rows, accepted["symbolic"], strict=True):
            if yes != row.correct:
                print(f"{row.kind} | {row.gold} | {row.response!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
