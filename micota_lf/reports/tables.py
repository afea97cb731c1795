"""The tables of a run as sheets, from what its steps left, whole or in part.

    accuracy_sheet(outcomes, "table2").records[0]["accuracy"]      # a share in [0, 1]

The average is the paper's, unweighted over the benchmarks.
"""

from collections.abc import Collection, Mapping

from ..grading.intervals import average_interval, least_difference, wilson
from ..recipe.lineage import baseline, model_of, shown_teachers, strong_teachers, table_rows
from ..recipe.sections import Recipe
from ..run.step import DONE
from ..system.files import Row
from .compare import average_difference, discordant
from .outcomes import AVERAGE, Outcomes
from .paper import paper, paper_row
from .sheets import Record, Sheet, make_sheet, short_name


def accuracy_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """A table of accuracies: Table 2 with the teachers and the merged assistants on top, or its like."""
    recipe, spec = outcomes.recipe, outcomes.recipe.evaluation
    shown = []  # model, method, what tells rows of the same method apart, slot
    if table == "table2":
        for name in shown_teachers(recipe):
            shown.append((recipe.teachers[name].model, "Strong Teacher", "", f"evaluate/{name}"))
        for name, (model, told) in assistants(recipe).items():
            shown.append((model, "(Merged) Teacher Assistant", told, f"evaluate/{name}"))
    for student, method in table_rows(recipe, table):
        shown.append((recipe.students[student].model, method, "", f"evaluate/{student}/{method}"))
    rows = [
        accuracies(outcomes, slot, {"model": model, "method": method + told}, paper_row(table, model, method))
        for model, method, told, slot in shown
    ]
    problems = f"first {spec.limit} problems" if spec.limit else "all problems"
    numerics = outcomes.numerics_note([slot for *_, slot in shown])
    values = {**vars(spec), "problems": problems, "numerics": numerics}
    return make_sheet("accuracy", table, rows, outcomes.titles.values(), **values)


def assistants(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """The model of each assistant, and what tells it from the others: its name; of a single one nothing."""
    several = len(recipe.assistants) > 1
    return {name: (model_of(recipe, name).model, f" ({name})" * several) for name in recipe.assistants}


def accuracies(outcomes: Outcomes, slot: str, names: Record, papers: Mapping[str, float]) -> list[Record]:
    """Records of an evaluation, one a benchmark and last their average, beside the paper's percent.

    `accuracy`, `low`, `high` and `cut` are shares; `least` is the smallest difference that the benchmark's
    problems can show (intervals.least_difference). One that is not done has its `state` alone.
    """
    spec, cells = outcomes.recipe.evaluation, dict[str, Record]()
    if results := outcomes.results(slot):
        cells = {task: _accuracy(results[task], spec.verdict) for task in spec.tasks}
        cells[AVERAGE] = _average(list(cells.values()))
    state = {"state": outcomes.state(slot)}
    return [
        {**names, "benchmark": title, **state, **cells.get(task, {}), "paper": papers.get(title)}
        for task, title in outcomes.titles.items()
    ]


def _accuracy(score: Row, verdict: str) -> Record:
    n, correct = score["n"], score[verdict]
    low, high = wilson(correct, n)
    return {
        "n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high,
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
    rows = [
        [_gap(outcomes, student, method, corpus)]
        for student, method in table_rows(recipe, "table1")
        if (corpus := recipe.methods[method])
    ]
    return make_sheet("gap", "table1", rows, **vars(recipe.evaluation))


def _gap(outcomes: Outcomes, student: str, method: str, corpus: str) -> Record:
    recipe, spec = outcomes.recipe, outcomes.recipe.corpora[corpus]
    slot, before = (f"evaluate/{student}/{name}" for name in (method, baseline(recipe)))
    teacher = next((recipe.teachers[name].model for name in strong_teachers(recipe, corpus)), "")
    source = "File" if spec.file else "Teacher" if spec.from_ in recipe.teachers else "TA"
    model, state = recipe.students[student].model, outcomes.state(slot)
    record: Record = {"student": model, "teacher": teacher, "corpus_from": source, "state": state}
    if printed := paper("table1", teacher, model, source):
        record |= {"paper_average": printed[0], "paper_delta": printed[1]}
    if state == DONE:
        average = accuracies(outcomes, slot, {}, {})[-1]
        record |= {"average": average["accuracy"], **{key: average[key] for key in ("low", "high", "n")}}
    if counts := discordant(outcomes, slot, before):
        delta, low, high = average_difference(counts)
        return record | {"delta": delta, "delta_low": low, "delta_high": high}
    start = outcomes.state(before) if before in outcomes.plan.slots else "no row"
    return record | {"delta_state": state if start == DONE else start}


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
            row.append({**names, **found, "paper": paper("table4", method, model)})
        rows.append(row)
    unit = next((cell["unit"] for row in rows for cell in row if "unit" in cell), "the unit of its steps")
    given = "given" if spec.condition_on_prompt else "without"
    return make_sheet("bpc", "table4", rows, map(short_name, models.values()), unit=unit, given=given)


def corpora_sheet(outcomes: Outcomes, steps: Collection[str] | None = None) -> Sheet:
    """One row a corpus: responses, rows kept, mean response tokens, and the responses by reason.

    Corpora that no training asks for are left out, and those that none of `steps` (ids; null: all) makes.
    """
    rows, corpora, plan = [], outcomes.recipe.corpora, outcomes.plan
    for name, spec in corpora.items():
        slot = f"{'mix' if spec.mix else 'filter'}/{name}"
        if plan.slots.get(slot) not in (plan.steps if steps is None else steps):
            continue
        parts = " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())
        record = {"corpus": name, "source": spec.from_ or spec.file or parts, "state": outcomes.state(slot)}
        if results := outcomes.results(slot):
            total = results["rows" if spec.mix else "responses"]
            counts = (
                dict(zip(spec.mix, results["rows_by_part"], strict=True)) if spec.mix else results["reasons"]
            )
            record |= {
                "responses": total, "kept": total if spec.mix else counts.get("kept", 0),
                "mean_response_tokens": results["mean_response_tokens"],
                "reasons": ", ".join(f"{count} {reason}" for reason, count in counts.items()),
            }  # fmt: skip
        rows.append([record])
    generations = [f"generate/{spec.from_}" for spec in corpora.values()]
    numerics = outcomes.numerics_note(generations, "sets of responses")
    return make_sheet("corpora", "corpora", rows, numerics=numerics)
