"""The tables of a run as sheets, from what its steps left, whole or in part.

A sheet has a head and rows of text for Markdown and LaTeX, and records of plain numbers for CSV. A cell whose
step is not done says so (missing, running, failed). An accuracy reads

    62.5 [55.6, 68.9]           percent right with its 95% Wilson interval (average: bootstrap)
    paper 60.00, +2.5 (noise)   the paper's value, ours minus it, and whether it lies in our interval
    n=200, 31 tok, 0.0% cut     problems, mean response tokens, share of responses cut at max_gen_toks

A benchmark with too few problems says so: `n=30 (too few to tell <20.0)`. The average is the paper's,
unweighted over the benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..grading.intervals import TELLING, average_interval, difference_interval, least_difference, wilson
from ..recipe.lineage import baseline, model_of, strong_teachers, table_rows
from ..recipe.sections import ASSISTANT_MERGED, Recipe
from ..run.step import DONE
from ..system.files import Row
from .outcomes import Outcomes
from .paper import paper_bpc, paper_cell, paper_delta

AVERAGE = "Average"
TITLES = {
    "table1": "Table 1: performance gap to the untrained student",
    "table2": "Table 2: accuracy",
    "table3": "Table 3: ablation",
    "table4": "Table 4: bits per character",
}


@dataclass(frozen=True)
class Sheet:
    """One table: `rows` of text under `head`, and `records` of plain numbers."""

    name: str
    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One accuracy: over one benchmark, or the unweighted average over all; shares lie in [0, 1].

    `least` is the smallest difference that the benchmark's problems can show (stats.least_difference).
    """

    state: str
    n: int = 0
    correct: float = 0
    accuracy: float = 0.0
    low: float = 0.0
    high: float = 0.0
    tokens: float = 0.0
    cut: float = 0.0
    paper: float | None = None
    least: float | None = None

    def text(self) -> str:
        """The cell in two or three lines."""
        if self.state != DONE:
            return self.state if self.paper is None else f"{self.state}\npaper {self.paper:.2f}"
        lines = [f"{100 * self.accuracy:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"]
        if self.paper is not None:
            lines.append(against_paper(100 * self.accuracy, self.paper, 100 * self.low, 100 * self.high))
        few = f" (too few to tell <{100 * self.least:.1f})" if self.least and self.least > TELLING else ""
        return "\n".join([*lines, f"n={self.n}{few}, {self.tokens:.0f} tok, {100 * self.cut:.1f}% cut"])


def against_paper(ours: float, paper: float, low: float, high: float, digits: int = 1) -> str:
    """The paper's value and ours minus it; `noise` if it lies within our interval."""
    noise = " (noise)" if low <= paper <= high else ""
    return f"paper {paper:.2f}, {ours - paper:+.{digits}f}{noise}"


def accuracy_sheet(outcomes: Outcomes, table: str) -> Sheet:
    """A table of accuracies: Table 2 with the teachers and the merged assistant on top, or its like."""
    recipe = outcomes.recipe
    titles = [*recipe.evaluation.tasks.values(), AVERAGE]
    rows, records, slots = [], [], []
    for model, method, slot in _accuracy_rows(recipe, table):
        slots.append(slot)
        cells = accuracy_cells(outcomes, slot, table, model, method)
        rows.append([short_name(model), method, *(cells[title].text() for title in titles)])
        records += [
            {"model": model, "method": method, "benchmark": title, **vars(cell)}
            for title, cell in cells.items()
        ]
    spec = recipe.evaluation
    note = (
        f"Percent right by the `{spec.verdict}` grader with a 95% Wilson interval (average: unweighted, "
        f"bootstrap), greedy, zero-shot, at most {spec.max_gen_toks} tokens, "
        f"{f'first {spec.limit} problems' if spec.limit else 'all problems'}. `tok` is the mean response "
        "length in the model's own tokens, `cut` the share of responses that hit the limit. `too few to "
        "tell`: no paired test can show a smaller difference (points) on so few problems."
        f"{outcomes.numerics_note(slots)}"
    )
    return Sheet(table, TITLES.get(table, table), note, ["Models", "Method", *titles], rows, records)


def gap_sheet(outcomes: Outcomes, table: str = "table1") -> Sheet:
    """Table 1: averages of trained students and their difference to the untrained student (equation 2)."""
    recipe = outcomes.recipe
    base, rows, records = baseline(recipe), [], []
    for student, method in table_rows(recipe, table):
        corpus, model = recipe.methods[method], recipe.students[student].model
        if corpus is None:
            continue
        teacher = next((recipe.teachers[name].model for name in strong_teachers(recipe, corpus)), "")
        source = "Teacher" if recipe.corpora[corpus].from_ in recipe.teachers else "TA"
        slot, before = f"evaluate/{student}/{method}", f"evaluate/{student}/{base}"
        cell = accuracy_cells(outcomes, slot)[AVERAGE]
        record: dict[str, Any] = {
            "student": model, "teacher": teacher, "corpus_from": source, "state": cell.state,
        }  # fmt: skip
        paper = paper_delta(teacher, model, source)
        if paper:
            record |= {"paper_average": paper[0], "paper_delta": paper[1]}
        average, delta = cell.state, outcomes.state(before) if before in outcomes.plan["slots"] else "no row"
        if cell.state == DONE:
            average = f"{100 * cell.accuracy:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
            record |= {"average": cell.accuracy, "low": cell.low, "high": cell.high, "n": cell.n}
            counts = discordant(outcomes, slot, before)
            if counts:
                value, low, high = average_difference(counts)
                record |= {"delta": value, "delta_low": low, "delta_high": high}
                delta = difference_text(value, low, high)
        if paper:
            average += f"\npaper {paper[0]:.2f}"
            delta += f"\npaper {paper[1]:+.2f}"
        rows.append([short_name(model), f"+{source}", short_name(teacher), average, delta])
        records.append(record)
    note = (
        f"Average over the benchmarks in percent by the `{recipe.evaluation.verdict}` grader, and its "
        "difference to the untrained student, with 95% bootstrap intervals (the difference over the same "
        "problems). +Teacher: trained on the strong teacher's responses, +TA: on those of the intermediate "
        "teacher trained on them."
    )
    head = ["Student", "Trained on", "Strong teacher", AVERAGE, "Delta"]
    return Sheet(table, TITLES["table1"], note, head, rows, records)


def bpc_sheet(outcomes: Outcomes) -> Sheet:
    """Table 4: mean BPC of each corpus under each untrained model."""
    recipe, spec = outcomes.recipe, outcomes.recipe.bpc
    titles = {corpus: method for method, corpus in reversed(recipe.methods.items()) if corpus}
    rows, records, unit = [], [], ""
    for number, corpus in enumerate(spec.corpora):
        method = titles.get(corpus, corpus)
        row = [method]
        for name in spec.models:
            slot, model = f"bpc/{name}", model_of(recipe, name).model
            results = outcomes.results(slot)
            found = results[f"corpus{number}"] if results else {}
            paper = paper_bpc(method, model)
            text = outcomes.state(slot)
            if found:
                unit = found["unit"]
                text = f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
            if found and paper is not None:
                text += "\n" + against_paper(found["mean"], paper, found["low"], found["high"], digits=3)
            row.append(f"{text}\nn={found['n']}" if found else text)
            state = DONE if found else outcomes.state(slot)
            records.append({"corpus": method, "model": model, "state": state, **found, "paper": paper})
        rows.append(row)
    given = "given its prompt" if spec.condition_on_prompt else "without its prompt"
    note = (
        f"Mean over texts of equation 3 in {unit or 'the unit of its steps'}, with a 95% t interval; T is a "
        f"response {given}. Lower means closer to the untrained model's own distribution."
    )
    head = ["Corpus", *(short_name(model_of(recipe, name).model) for name in spec.models)]
    return Sheet("table4", TITLES["table4"], note, head, rows, records)


def corpora_sheet(outcomes: Outcomes) -> Sheet:
    """One row a corpus: responses, rows kept, mean response tokens, and the responses by reason."""
    recipe = outcomes.recipe
    rows, records = [], []
    for name, spec in recipe.corpora.items():
        slots = [f"{kind}/{name}" for kind in ("filter", "mix") if f"{kind}/{name}" in outcomes.plan["slots"]]
        if not slots:
            continue  # no training asks for it
        source = spec.from_ or " + ".join(f"{ratio:g} {part}" for part, ratio in spec.mix.items())
        results = outcomes.results(slots[0])
        record: dict[str, Any] = {"corpus": name, "source": source, "state": outcomes.state(slots[0])}
        if results:
            record |= _corpus_counts(results, list(spec.mix))
            rows.append([
                name, source, str(record["responses"]), str(record["kept"]),
                f"{record['mean_response_tokens']:.1f}", record["reasons"],
            ])  # fmt: skip
        else:
            rows.append([name, source, record["state"], "", "", ""])
        records.append(record)
    generations = [f"generate/{spec.from_}" for spec in recipe.corpora.values()]
    note = (
        "What each training set holds: responses generated, rows kept, mean response tokens of the kept rows "
        "(in the generating model's tokens), and the responses by reason."
    ) + outcomes.numerics_note(generations, "sets of responses")
    head = ["Corpus", "From", "Responses", "Kept", "Mean tokens", "Reasons"]
    return Sheet("corpora", "Corpora", note, head, rows, records)


def discordant(outcomes: Outcomes, first: str, second: str) -> dict[str, tuple[int, int, int]]:
    """By task: problems that only the first slot's model got right, only the second's, and all of them.

    Only problems that both have answered count; empty if a step is not done.
    """
    ours, theirs = outcomes.problems(first), outcomes.problems(second)
    verdict = outcomes.recipe.evaluation.verdict
    counts = {}
    for task in outcomes.recipe.evaluation.tasks:
        both = [key for key in ours if key[0] == task and key in theirs]
        if both:
            gained = sum(ours[key][verdict] > theirs[key][verdict] for key in both)
            lost = sum(ours[key][verdict] < theirs[key][verdict] for key in both)
            counts[task] = (gained, lost, len(both))
    return counts


def average_difference(counts: dict[str, tuple[int, int, int]]) -> tuple[float, float, float]:
    """The unweighted mean over benchmarks of the paired differences of `discordant`, with its interval."""
    value = sum((gained - lost) / n for gained, lost, n in counts.values()) / len(counts)
    return value, *difference_interval(list(counts.values()))


def difference_text(value: float, low: float, high: float) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{noise_word(low, high)}"


def noise_word(low: float, high: float) -> str:
    """` (noise)` for a difference whose interval holds zero."""
    return " (noise)" if low <= 0 <= high else ""


def short_name(model: str) -> str:
    """A model's reference as tables show it."""
    return model.rstrip("/").split("/")[-1].removeprefix("tiny:")


def _accuracy_rows(recipe: Recipe, table: str) -> Iterator[tuple[str, str, str]]:
    """Model, method and slot of each row."""
    if table == "table2":
        for name in strong_teachers(recipe, recipe.assistant.corpus):
            yield recipe.teachers[name].model, "Strong Teacher", f"evaluate/{name}"
        yield recipe.assistant.model, "(Merged) Teacher Assistant", f"evaluate/{ASSISTANT_MERGED}"
    for student, method in table_rows(recipe, table):
        yield recipe.students[student].model, method, f"evaluate/{student}/{method}"


def accuracy_cells(
    outcomes: Outcomes, slot: str, table: str = "", model: str = "", method: str = ""
) -> dict[str, Cell]:
    """The cells of an evaluation by column title; with a table's name, beside the paper's values."""
    spec, results = outcomes.recipe.evaluation, outcomes.results(slot)
    papers = {
        title: paper_cell(table, model, method, title) if table else None
        for title in [*spec.tasks.values(), AVERAGE]
    }
    if results is None:
        now = outcomes.state(slot)
        return {title: Cell(now, paper=paper) for title, paper in papers.items()}
    cells = {title: _cell(results[task], spec.verdict, papers[title]) for task, title in spec.tasks.items()}
    each = list(cells.values())
    low, high = average_interval([(cell.correct, cell.n) for cell in each])
    accuracy, tokens, cut = (
        sum(values) / len(each) for values in zip(*((c.accuracy, c.tokens, c.cut) for c in each), strict=True)
    )
    n, correct = sum(c.n for c in each), sum(c.correct for c in each)
    return {**cells, AVERAGE: Cell(DONE, n, correct, accuracy, low, high, tokens, cut, papers[AVERAGE])}


def _cell(score: Row, verdict: str, paper: float | None) -> Cell:
    n, correct = score["n"], score[verdict]
    low, high = wilson(correct, n)
    tokens, cut = score["mean_response_tokens"], score["truncated"] / n
    return Cell(DONE, n, correct, correct / n, low, high, tokens, cut, paper, least_difference(n))


def _corpus_counts(results: Row, mix: list[str]) -> Row:
    if mix:
        reasons = dict(zip(mix, results["rows_by_part"], strict=True))
        total = kept = results["rows"]
    else:
        reasons, total = results["reasons"], results["responses"]
        kept = reasons.get("kept", 0)
    return {
        "responses": total, "kept": kept, "mean_response_tokens": results["mean_response_tokens"],
        "reasons": ", ".join(f"{count} {reason}" for reason, count in reasons.items()),
    }  # fmt: skip
