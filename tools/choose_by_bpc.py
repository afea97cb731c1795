"""A corpus of the responses that a student finds likeliest: of each prompt, the one with the lowest BPC.

    python tools/choose_by_bpc.py runs recipes/tiny.yaml --under student-s -o lowest.jsonl bpc.limit=null

In: a workspace in which the recipe's BPC under that student is done (`micota run RECIPE --target table4`),
with the responses of all the corpora that it scores. Out: rows of these corpora, one a prompt, only of
prompts that each corpus answers. It prints how many come from which corpus, their mean BPC and length. Among
several responses of one model (`generation.samples`) it chooses likewise; with `--highest` the unlikeliest.

With `--within 0.05`, a prompt gives one of two responses whose lengths in tokens differ by at most 5%, of all
such pairs those with the most different BPC: the likelier one, or with `--highest` the other. So both choices
have the same prompts and nearly the same tokens; prompts without such a pair are left out.

With `--below 0.45`, all responses of a lower BPC are taken, so several of a prompt or none.
"""

import argparse
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

from micota_lf import results
from micota_lf.errors import must_know
from micota_lf.reports.outcomes import Outcomes
from micota_lf.system.files import Row, iter_jsonl, write_jsonl


def scored_rows(outcomes: Outcomes, student: str) -> dict[str, list[Row]]:
    """By prompt the rows of all corpora, each with its `bpc` and its `corpus`."""
    recipe, found = outcomes.recipe, defaultdict[str, list[Row]](list)
    values: dict[tuple[str, str], float] = {}
    for row in iter_jsonl(outcomes.directory(f"bpc/{student}") / "texts.jsonl"):
        values[row["corpus"], str(row["id"])] = row["bpc"]
    for number, name in enumerate(recipe.bpc.corpora):
        kind = "mix" if recipe.corpora[name].mix else "filter"
        for row in iter_jsonl(outcomes.directory(f"{kind}/{name}") / "corpus.jsonl"):
            if (value := values.get((f"corpus{number}", str(row["id"])))) is not None:
                found[row["prompt"]].append(row | {"bpc": value, "corpus": name})
    return found


def bpc_of(row: Row) -> float:
    """A row's bits per character."""
    return float(row["bpc"])


def of_one_length(rows: list[Row], within: float) -> list[Row]:
    """Of the pairs of rows whose lengths differ by a share `within` at most, that of most different BPC."""
    pairs = [sorted(pair, key=bpc_of) for pair in combinations(rows, 2)]
    lengths = [sorted(row["response_tokens"] for row in pair) for pair in pairs]
    near = [pair for pair, (short, long) in zip(pairs, lengths, strict=True) if long <= (1 + within) * short]
    return max(near, key=lambda pair: bpc_of(pair[1]) - bpc_of(pair[0]), default=[])


def main() -> None:
    """Choose, write, and say what was chosen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--under", required=True, help="one of the recipe's bpc.models")
    parser.add_argument("--highest", action="store_true", help="the highest BPC in place of the lowest")
    parser.add_argument("--within", type=float, metavar="SHARE", help="one of two of nearly the same length")
    parser.add_argument("--below", type=float, metavar="BPC", help="all responses below it, not one a prompt")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_intermixed_args()
    _, outcomes = next(results(args.recipe, args.overrides, args.workspace).outcomes())
    recipe = outcomes.recipe
    must_know(args.under, recipe.bpc.models, "bpc.models")
    if not outcomes.results(f"bpc/{args.under}"):
        parser.error(f"{args.workspace}: bpc/{args.under} is not done there: micota run ... --target table4")
    prompts = scored_rows(outcomes, args.under)
    if args.below is not None:
        chosen = [row for rows in prompts.values() for row in rows if bpc_of(row) < args.below]
    else:
        corpora, choose = set(recipe.bpc.corpora), max if args.highest else min
        whole = [rows for rows in prompts.values() if {row["corpus"] for row in rows} == corpora]
        if args.within is not None:
            whole = [pair for rows in whole if (pair := of_one_length(rows, args.within))]
        chosen = [choose(rows, key=bpc_of) for rows in whole]
    if not chosen:
        parser.error("no response is such a one, with a score in every corpus; is bpc.limit null?")
    write_jsonl(args.output, chosen)
    counts = ", ".join(
        f"{count} {name}" for name, count in Counter(r["corpus"] for r in chosen).most_common()
    )
    bpc, tokens = (sum(row[key] for row in chosen) / len(chosen) for key in ("bpc", "response_tokens"))
    answered = len({row["prompt"] for row in chosen})
    print(f"{args.output}: {len(chosen)} rows, {answered} of {len(prompts)} prompts: {counts}")
    print(f"mean BPC {bpc:.4f}, mean response tokens {tokens:.1f}")


if __name__ == "__main__":
    main()
