"""The tables of a run as sheets, from what its steps left, whole or in part.

    accuracy_sheet(outcomes, "table2").records[0]["accuracy"]      # a share in [0, 1]

The average is the paper's, unweighted over the benchmarks.
"""

from collections.abc import Iterator, Mapping

from ..grading.intervals import average_interval, difference_interval, least_difference, wilson
from ..recipe.lineage import baseline, model_of, shown_teachers, strong_teachers, table_rows
from ..recipe.sections import Corpus, Recipe
from ..run.step import DONE
from ..system.files import Row
from .outcomes import Outcomes
from .paper import paper_bpc, paper_delta, paper_row
from .sheets import Record, Sheet, make_sheet, short_name


def accuracy_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """A table of accuracies: Table 2 with the teachers and the merged assistants on top, or its like."""
    spec = outcomes.recipe.evaluation
    rows, slots = [], []
    for model, method, name, slot in _accuracy_rows(outcomes.recipe, table):
        slots.append(slot)
        names = {"model": model, "method": method + name}
        rows.append(accuracies(outcomes, slot, names, paper_row(table, model, method)))
    problems = f"first {spec.limit} problems" if spec.limit else "all problems"
    values = {**vars(spec), "problems": problems, "numerics": outcomes.numerics_note(slots)}
    return make_sheet("accuracy", table, rows, outcomes.titles, **values)


def _accuracy_rows(recipe: Recipe, table: str) -> Iterator[tuple[str, str, str, str]]:
    """Model, method, what tells rows of the same method apart, and slot of each row."""
    if table == "table2":
        for name in shown_teachers(recipe):
            yield recipe.teachers[name].model, "Strong Teacher", "", f"evaluate/{name}"
        for name, (model, told) in assistants(recipe).items():
            yield model, "(Merged) Teacher Assistant", told, f"evaluate/{name}"
    for student, method in table_rows(recipe, table):
        yield recipe.students[student].model, method, "", f"evaluate/{student}/{method}"


def assistants(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """The model of each assistant, and what tells it from the others: its name; of a single one nothing."""
    several = len(recipe.assistants) > 1
    return {name: (model_of(recipe, name).model, f" ({name})" * several) for name in recipe.assistants}


def accuracies(
    outcomes: Outcomes, slot: str, names: Record, papers: Mapping[str, float] | None = None
) -> list[Record]:
    """Records of an evaluation, one a benchmark and last their average, beside the paper's percent.

    `accuracy`, `low`, `high` and `cut` are shares; `least` is the smallest difference that the benchmark's
    problems can show (intervals.least_difference). One that is not done has its `state` alone.
    """
    spec, results = outcomes.recipe.evaluation, outcomes.results(slot)
    if results is None:
        cells: list[Record] = [{"state": outcomes.state(slot)}] * len(outcomes.titles)
    else:
        cells = [_accuracy(results[task], spec.verdict) for task in spec.tasks]
        cells.append(_average(cells))
    return [
        {**names, "benchmark": title, **cell, "paper": (papers or {}).get(title)}
        for title, cell in zip(outcomes.titles, cells, strict=True)
    ]


def _accuracy(score: Row, verdict: str) -> Record:
    n, correct = score["n"], score[verdict]
    low, high = wilson(correct, n)
    return {
        "state": DONE, "n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high,
        "tokens": score["mean_response_tokens"], "cut": score["truncated"] / n, "paper": None,
        "least": least_difference(n),
    }  # fmt: skip


def _average(cells: list[Record]) -> Record:
    low, high = average_interval([(cell["correct"], cell["n"]) for cell in cells])
    sums = {key: sum(cell[key] for cell in cells) for key in ("n", "correct", "accuracy", "tokens", "cut")}
    means = {key: sums[key] / len(cells) for key in ("accuracy", "tokens", "cut")}
    return {**cells[0], **sums, **means, "low": low, "high": high, "least": None}


def gap_sheet(outcomes: Outcomes) -> Sheet:
    """Table 1: averages of trained students and their difference to the untrained student (equation 2)."""
    recipe = outcomes.recipe
    trained = [row for row in table_rows(recipe, "table1") if recipe.methods[row[1]]]
    rows = [[_gap(outcomes, student, method)] for student, method in trained]
    return make_sheet("gap", "table1", rows, **vars(recipe.evaluation))


def _gap(outcomes: Outcomes, student: str, method: str) -> Record:
    recipe, slot = outcomes.recipe, f"evaluate/{student}/{method}"
    model, corpus = recipe.students[student].model, recipe.methods[method] or ""
    teacher = next((recipe.teachers[name].model for name in strong_teachers(recipe, corpus)), "")
    spec = recipe.corpora[corpus]
    source = "File" if spec.file else "Teacher" if spec.from_ in recipe.teachers else "TA"
    average, before = accuracies(outcomes, slot, {})[-1], f"evaluate/{student}/{baseline(recipe)}"
    record = {"student": model, "teacher": teacher, "corpus_from": source, "state": average["state"]}
    if paper := paper_delta(teacher, model, source):
        record |= {"paper_average": paper[0], "paper_delta": paper[1]}
    if average["state"] == DONE:
        record |= {"average": average["accuracy"], **{key: average[key] for key in ("low", "high", "n")}}
    if counts := discordant(outcomes, slot, before):
        delta, low, high = average_difference(counts)
        return record | {"delta": delta, "delta_low": low, "delta_high": high}
    state = outcomes.state(before) if before in outcomes.plan.slots else "no row"
    return record | {"delta_state": record["state"] if state == DONE else state}


def bpc_sheet(outcomes: Outcomes) -> Sheet:
    """Table 4: mean BPC of each corpus under each untrained model."""
    recipe, spec = outcomes.recipe, outcomes.recipe.bpc
    titles = {corpus: method for method, corpus in reversed(recipe.methods.items()) if corpus}
    models = {f"bpc/{name}": model_of(recipe, name).model for name in spec.models}
    rows = []
    for number, corpus in enumerate(spec.corpora):
        row, method = [], titles.get(corpus, corpus)
        for slot, model in models.items():
            found = (outcomes.results(slot) or {}).get(f"corpus{number}", {})
            names = {"corpus": method, "model": model, "state": outcomes.state(slot)}
            row.append({**names, **found, "paper": paper_bpc(method, model)})
        rows.append(row)
    unit = next((cell["unit"] for row in rows for cell in row if "unit" in cell), "the unit of its steps")
    given = "given" if spec.condition_on_prompt else "without"
    return make_sheet("bpc", "table4", rows, list(map(short_name, models.values())), unit=unit, given=given)


def corpora_sheet(outcomes: Outcomes) -> Sheet:
    """One row a corpus: responses, rows kept, mean response tokens, and the responses by reason."""
    rows, corpora = [], outcomes.recipe.corpora
    for name, spec in corpora.items():
        slot = f"{'mix' if spec.mix else 'filter'}/{name}"
        if slot in outcomes.plan.slots:  # otherwise no training asks for it
            parts = " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())
            source = spec.from_ or spec.file or parts
            record = {"corpus": name, "source": source, "state": outcomes.state(slot)}
            rows.append([record | _corpus_counts(outcomes.results(slot), spec)])
    generations = [f"generate/{spec.from_}" for spec in corpora.values()]
    numerics = outcomes.numerics_note(generations, "sets of responses")
    return make_sheet("corpora", "corpora", rows, numerics=numerics)


def _corpus_counts(results: Row | None, spec: Corpus) -> Record:
    if not results:
        return {}
    reasons = dict(zip(spec.mix, results["rows_by_part"], strict=True)) if spec.mix else results["reasons"]
    total = results["rows" if spec.mix else "responses"]
    kept = total if spec.mix else reasons.get("kept", 0)
    return {
        "responses": total, "kept": kept, "mean_response_tokens": results["mean_response_tokens"],
        "reasons": ", ".join(f"{count} {reason}" for reason, count in reasons.items()),
    }  # fmt: skip


def discordant(outcomes: Outcomes, first: str, second: str) -> dict[str, tuple[int, int, int]]:
    """By task: problems that only the first slot's model got right, only the second's, and all of them.

    Only problems that both have answered count; empty if a step is not done.
    """
    ours, theirs = outcomes.problems(first), outcomes.problems(second)
    verdict, counts = outcomes.recipe.evaluation.verdict, {}
    for task in outcomes.recipe.evaluation.tasks:
        shared = [key for key in ours if key[0] == task and key in theirs]
        both = [(ours[key][verdict], theirs[key][verdict]) for key in shared]
        if both:
            counts[task] = (sum(a > b for a, b in both), sum(a < b for a, b in both), len(both))
    return counts


def average_difference(counts: Mapping[str, tuple[int, int, int]]) -> tuple[float, float, float]:
    """The unweighted mean over benchmarks of the paired differences of `discordant`, with its interval."""
    value = sum((gained - lost) / n for gained, lost, n in counts.values()) / len(counts)
    return value, *difference_interval(list(counts.values()))
