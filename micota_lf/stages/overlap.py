"""Do training prompts overlap with benchmark problems? Shared n-grams of words, as GPT-3's report has them.

    overlap([{"id": "a", "problem": "..."}], {"gsm8k": [...]}, 13)

Words are what blanks part, in lower case and without punctuation at their ends (Brown et al. 2020, appendix
C, where n is 13). A problem shorter than n words overlaps only with one that has the very same words.
"""

import string
from collections import defaultdict

from ..inputs.problems import Benchmark, load_problems
from ..recipe.sections import Recipe
from ..system.files import Row, write_jsonl
from . import Context, Results, Settings, Stage


def settings(recipe: Recipe, evaluation: Settings) -> Settings:
    """Of a search among the benchmarks that evaluations with these settings ask."""
    apart = {"words": recipe.evaluation.overlap_words, "benchmarks": evaluation.config["benchmarks"]}
    return Settings.of(recipe.prompts, apart=apart, benchmarks=evaluation.how["benchmarks"])


def run(step: Context) -> Results:
    """Search the step's prompts; the pairs go to its `pairs.jsonl`, the counts are its results."""
    problems = {name: load_problems(Benchmark(**spec)) for name, spec in step.how["benchmarks"].items()}
    results, pairs = overlap(load_problems(step.prompts), problems, step.config["words"])
    write_jsonl(step.directory / "pairs.jsonl", pairs)
    return results


def words(text: str) -> tuple[str, ...]:
    """The words of a problem, in lower case, without punctuation at their ends."""
    return tuple(word for word in (raw.strip(string.punctuation) for raw in text.lower().split()) if word)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in their order; of a text with fewer, the text itself."""
    found = words(text)
    return [found[i : i + n] for i in range(max(1, len(found) - n + 1))]


def overlap(prompts: list[Row], benchmarks: dict[str, list[Row]], n: int) -> tuple[Results, list[Row]]:
    """Counts by benchmark, and one row a pair of a prompt and a benchmark problem that share an n-gram.

    Rows stand in the order of the benchmarks and of their ids, each with the problem's first shared n-gram.
    Counts are `problems` (of the benchmark), `problems_shared`, `prompts_shared`, `identical` (pairs with the
    same words throughout).
    """
    index: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for prompt in prompts:
        for gram in ngrams(prompt["problem"], n):
            index[gram].append(prompt)
    counts, pairs = Results(), list[Row]()
    for name, problems in benchmarks.items():
        found: dict[tuple[str, str], Row] = {}
        for problem in problems:
            for gram in ngrams(problem["problem"], n):
                for prompt in index.get(gram, ()):
                    same = words(prompt["problem"]) == words(problem["problem"])
                    pair = {"benchmark": name, "problem": problem["id"], "prompt": prompt["id"]}
                    pair |= {"identical": same, "ngram": " ".join(gram)}
                    found.setdefault((problem["id"], prompt["id"]), pair)
        counts[name] = {
            "problems": len(problems), "problems_shared": len({problem for problem, _ in found}),
            "prompts_shared": len({prompt for _, prompt in found}),
            "identical": sum(pair["identical"] for pair in found.values()),
        }  # fmt: skip
        pairs += [found[key] for key in sorted(found)]
    return {"prompts": len(prompts), "ngram": n, "benchmarks": counts}, pairs


STAGE = Stage(run, quick=True)
