"""The tables of a run as sheets, from what its steps left, whole or in part.

    accuracy_sheet(outcomes, "table2").records[0]["accuracy"]      # a share in [0, 1]

The average is the paper's, unweighted over the benchmarks.
"""

from collections.abc import Collection, Iterable
from itertools import product

from ..grading import intervals
from ..recipe.lineage import baseline, model_of, responses_slot, shown_teachers, strong_teachers, table_rows
from ..recipe.sections import Recipe
from ..run.step import DONE, MISSING
from . import paper, paper_row
from .outcomes import AVERAGE, Outcomes
from .sheets import Record, Sheet, make_sheet, short_name


def accuracy_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """A table of accuracies: Table 2 with the teachers and the merged assistants on top, or its like."""
    spec, shown, rows = outcomes.recipe.evaluation, evaluated_rows(outcomes.recipe, table), []
    for slot, model, method, told in shown:
        names, papers = {"model": model, "method": method + told}, paper_row(table, model, method)
        cells = accuracies(outcomes, slot)
        rows.append([{**names, **cell, "paper": papers.get(cell["benchmark"])} for cell in cells])
    problems = f"first {spec.limit} problems" if spec.limit else "all problems"
    slots = [slot for slot, *_ in shown]
    noted = {"problems": problems, "numerics": outcomes.numerics_note(slots)}
    noted["decoding"] = decoding(outcomes, slots)
    return make_sheet("accuracy", table, rows, outcomes.titles.values(), **vars(spec), **noted)


def decoding(outcomes: Outcomes, slots: Iterable[str]) -> str:
    """How the evaluations in slots got their responses, in words; tasks that sampled by their titles."""
    done, titles = [outcomes.results(slot) or {} for slot in slots], outcomes.recipe.evaluation.tasks
    asked = [task for task in titles if any(task in one for one in done)]
    found = [task for task in asked if any("sampled" in one.get(task, {}) for one in done)]
    if found and found == asked:
        return "means of sampled responses"
    named = ", ".join(titles[task] for task in found)
    return "greedy" + f" (but {named}: means of sampled responses)" * bool(found)


def evaluated_rows(recipe: Recipe, table: str) -> list[tuple[str, str, str, str]]:
    """Slot, model, method and what tells rows of the same method apart, of a table of accuracies."""
    shown = []
    if table == "table2":
        for name in shown_teachers(recipe):
            shown.append((f"evaluate/{name}", recipe.teachers[name].model, "Strong Teacher", ""))
        for name, (model, told) in assistants(recipe).items():
            shown.append((f"evaluate/{name}", model, "(Merged) Teacher Assistant", told))
    for student, method in table_rows(recipe, table):
        shown.append((f"evaluate/{student}/{method}", shown_model(recipe, student), method, ""))
    return shown


def assistants(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """The model of each assistant, and what tells it from the others: its name; of a single one nothing."""
    several = len(recipe.assistants) > 1
    return {name: (model_of(recipe, name).model, f" ({name})" * several) for name in recipe.assistants}


def shown_model(recipe: Recipe, name: str) -> str:
    """The model behind a name; with the name, if tables would show another student's model like it."""
    model = model_of(recipe, name).model
    alike = [one for one in recipe.students.values() if short_name(one.model) == short_name(model)]
    return model if len(alike) < 2 else f"{model} ({name})"


def accuracies(outcomes: Outcomes, slot: str) -> list[Record]:
    """Records of an evaluation, one a benchmark and last their average.

    `accuracy`, `low`, `high`, `cut` and `loops` are shares; `least` is the smallest difference that the
    benchmark's problems can show (intervals.least_difference). One that is not done has its `state` alone.
    """
    spec, cells = outcomes.recipe.evaluation, dict[str, Record]()
    if results := outcomes.results(slot):
        for task in spec.tasks:
            score, n, correct = results[task], results[task]["n"], results[task][spec.column]
            low, high = intervals.wilson(correct, n)
            cells[task] = {
                "n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high,
                "tokens": score["mean_response_tokens"], "cut": score["truncated"] / n,
                "loops": score.get("loops", 0) / n, "paper": None, "least": intervals.least_difference(n),
            }  # fmt: skip
        bounds = intervals.average_interval([(cell["correct"], cell["n"]) for cell in cells.values()])
        cells[AVERAGE] = _average(cells, bounds, ("n", "correct"), ("accuracy", "tokens", "cut", "loops"))
    state = outcomes.state(slot)
    return [
        {"benchmark": title, "state": state, **cells.get(task, {})} for task, title in outcomes.titles.items()
    ]


def samples_sheet(outcomes: Outcomes, slots: Iterable[str]) -> Sheet:
    """pass@k and maj@k of the evaluations in slots, on the tasks that sample; empty without any."""
    spec, rows = outcomes.recipe.evaluation, []
    for slot, (task, title) in product(slots, spec.tasks.items()):
        score = (outcomes.results(slot) or {}).get(task, {})
        if found := score.get("sampled", {}).get(spec.column):
            names = {"row": slot.partition("/")[2], "benchmark": title, "n": score["n"], "state": "-"}
            rows.append((names, found))
    measures = dict.fromkeys(measure for _, found in rows for measure in found)
    cells = [[{**row, "measure": one, **found.get(one, {})} for one in measures] for row, found in rows]
    return make_sheet("samples", "samples", cells, measures, **vars(spec))


def _average(
    cells: dict[str, Record], bounds: tuple[float, float], sums: Iterable[str], means: Iterable[str]
) -> Record:
    """One record of all benchmarks: sums of some columns, unweighted means of others, the interval given."""
    totals = {key: sum(cell[key] for cell in cells.values()) for key in (*sums, *means)}
    return totals | {key: totals[key] / len(cells) for key in means} | {"low": bounds[0], "high": bounds[1]}


def comparison_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """Each student's last method of a table (the paper's MiCoTA) against every other, on the same problems.

    A benchmark's difference has the exact McNemar p value, adjusted by Holm over all benchmark cells of the
    table; that of the average has a 95% interval (intervals.difference_interval).
    """
    recipe, titles, rows = outcomes.recipe, outcomes.titles, []
    pairs = table_rows(recipe, table)
    last = dict(pairs)
    for student, other in dict.fromkeys(pairs):
        if other == (ours := last[student]):
            continue
        names = {"model": shown_model(recipe, student), "method": ours, "against": other}
        cells = differences(outcomes, f"evaluate/{student}/{ours}", f"evaluate/{student}/{other}")
        states = (outcomes.state(f"evaluate/{student}/{method}") for method in (ours, other))
        missing = {"state": next((state for state in states if state != DONE), MISSING)}
        rows.append([{**names, "benchmark": titles[task], **cells.get(task, missing)} for task in titles])
    tested = [cell for row in rows for cell in row if "only_first" in cell]
    values = intervals.holm([intervals.mcnemar(cell["only_first"], cell["only_second"]) for cell in tested])
    for cell, value in zip(tested, values, strict=True):
        cell["p_holm"] = value
    noted = {"tests": len(tested), "significance": intervals.SIGNIFICANCE, "telling": 100 * intervals.TELLING}
    sheet = make_sheet("differences", table, rows, titles.values(), **vars(recipe.evaluation), **noted)
    return sheet._replace(name=f"{table}-differences", title=f"{sheet.title}: differences")


def differences(outcomes: Outcomes, first: str, second: str) -> dict[str, Record]:
    """How much more often the first of two slots' models is right, on the problems that both have answered.

    By task, and last their average with its interval; empty if a step is not done.
    """
    ours, theirs, spec = outcomes.problems(first), outcomes.problems(second), outcomes.recipe.evaluation
    cells, counts = dict[str, Record](), []
    for task in spec.tasks:
        shared = [key for key in ours if key[0] == task and key in theirs]
        both = [(ours[key][spec.column], theirs[key][spec.column]) for key in shared]
        if n := len(both):
            gained, lost = sum(a > b for a, b in both), sum(a < b for a, b in both)
            counts.append((gained, lost, n))
            told = {"only_first": gained, "only_second": lost, "n": n}
            cells[task] = {"difference": (gained - lost) / n, **told}
    if cells:
        cells[AVERAGE] = _average(cells, intervals.difference_interval(counts), ("n",), ("difference",))
    return cells


def gap_sheet(outcomes: Outcomes) -> Sheet:
    """Table 1: averages of trained students and their difference to the untrained student (equation 2)."""
    recipe, rows = outcomes.recipe, []
    for student, method in table_rows(recipe, "table1"):
        corpus = recipe.methods[method]
        if not corpus:
            continue
        slot, before = (f"evaluate/{student}/{name}" for name in (method, baseline(recipe)))
        spec, model, state = recipe.corpora[corpus], shown_model(recipe, student), outcomes.state(slot)
        teacher = next((recipe.teachers[name].model for name in strong_teachers(recipe, corpus)), "")
        source = "File" if spec.file else "Teacher" if spec.from_ in recipe.teachers else "TA"
        record: Record = {"student": model, "teacher": teacher, "corpus_from": source, "state": state}
        if printed := paper("table1", teacher, model, source):
            record |= {"paper_average": printed[0], "paper_delta": printed[1]}
        if state == DONE:
            average = accuracies(outcomes, slot)[-1]
            record |= {"average": average["accuracy"], **{key: average[key] for key in ("low", "high", "n")}}
        if change := differences(outcomes, slot, before).get(AVERAGE):
            bounds = {f"delta_{key}": change[key] for key in ("low", "high")}
            record |= {"delta": change["difference"], **bounds}
        else:
            start = outcomes.state(before) if before in outcomes.plan.slots else "no row"
            record["delta_state"] = state if start == DONE else start
        rows.append([record])
    return make_sheet("gap", "table1", rows, **vars(recipe.evaluation))


def bpc_sheet(outcomes: Outcomes) -> Sheet:
    """Table 4: mean BPC of each corpus under each untrained model."""
    recipe, spec, rows = outcomes.recipe, outcomes.recipe.bpc, []
    titles = {corpus: method for method, corpus in reversed(recipe.methods.items()) if corpus}
    models = {f"bpc/{name}": shown_model(recipe, name) for name in spec.models}
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


def models_sheet(outcomes: Outcomes) -> Sheet:
    """The commits of the models that come from the hub."""
    rows = []
    for slot in (slot for slot in outcomes.plan.slots if slot.startswith("fetch/")):
        record = {"id": slot.removeprefix("fetch/"), "state": outcomes.state(slot)}
        rows.append([record | (outcomes.results(slot) or {})])
    return make_sheet("models", "models", rows)


def lengths_sheet(outcomes: Outcomes) -> Sheet:
    """The probes of each merge whose weight a run finds, and what the chosen one is like; else empty."""
    rows: list[list[Record]] = []
    for name in outcomes.recipe.assistants:
        for slot in (f"choose/{name}", f"merge/{name}"):
            points = (outcomes.results(slot) or {}).get("curve", [])
            rows += [[{"assistant": name, "state": "-", **point}] for point in points]
    slots = (slot for slot in outcomes.plan.slots if slot.startswith(("sample/", "choose/")))
    told = [f"{slot}: {found['told']}" for slot in slots if (found := outcomes.results(slot))]
    return make_sheet("lengths", "lengths", rows, told="; ".join(told))


def corpora_sheet(outcomes: Outcomes, steps: Collection[str] | None = None) -> Sheet:
    """One row a corpus: responses, rows kept, mean response tokens, and the responses by reason.

    Corpora that no training asks for are left out, and those that none of `steps` (ids; null: all) makes.
    """
    rows, corpora, plan = [], outcomes.recipe.corpora, outcomes.plan
    for name, spec in corpora.items():
        slot = f"{'mix' if spec.mix else 'filter'}/{name}"
        if plan.slots.get(slot) not in (plan.steps if steps is None else steps):
            continue
        source = spec.file or " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())
        if spec.from_:
            source = f"{spec.from_} of {spec.rewrites}" if spec.rewrites else spec.from_
        record = {"corpus": name, "source": source, "state": outcomes.state(slot)}
        if results := outcomes.results(slot):
            if spec.mix:
                total = kept = results["rows"]
                counts = dict(zip(spec.mix, results["rows_by_part"], strict=True))
            else:
                total, kept, counts = results["responses"], results["reasons"]["kept"], results["reasons"]
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            odd = {"not right": results.get("kept_not_right"), "cut": results.get("kept_truncated")}
            told = ", ".join(f"{number} kept are {what}" for what, number in odd.items() if number)
            reasons += f" ({told})" if told else ""
            if passed := [f", {name} {one['mean']:.1%}" for name, one in results.get("passed", {}).items()]:
                reasons += "; {prompts_kept} of {prompts} prompts".format(**results) + "".join(passed)
            mean = results["mean_response_tokens"]
            record |= {"responses": total, "kept": kept, "mean_response_tokens": mean, "reasons": reasons}
            record["tokens"] = "not known" if mean is None else f"{mean:.1f}"
        rows.append([record])
    generations = (responses_slot(outcomes.recipe, name) for name in corpora)
    numerics = outcomes.numerics_note(generations, "sets of responses")
    return make_sheet("corpora", "corpora", rows, numerics=numerics)
