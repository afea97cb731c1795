"""The report's numbers against hand-made verdicts: cells, differences, states, and what files they go to."""

import csv
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import TINY

from micota_lf import compile_plan, load_recipe, sweep
from micota_lf.grading.intervals import (
    average_interval,
    difference_interval,
    holm,
    least_difference,
    mcnemar,
    mean_interval,
    sampled,
    wilson,
)
from micota_lf.reports.figures import figure_sheet
from micota_lf.reports.outcomes import Outcomes
from micota_lf.reports.sheets import CELLS, csv_text, latex, markdown
from micota_lf.reports.tables import (
    accuracy_sheet,
    bpc_sheet,
    comparison_sheet,
    corpora_sheet,
    decoding,
    gap_sheet,
    samples_sheet,
)
from micota_lf.reports.write import recipe_sheets, write_report
from micota_lf.system.files import write_json, write_jsonl

TASKS = ("micota_tiny_two", "micota_tiny_three")


class Bench:
    """A workspace where evaluations are finished by hand: a verdict for each problem."""

    def __init__(self, workspace, *overrides, recipe=TINY):
        self.recipe = load_recipe(recipe, overrides)
        self.plan, self.workspace = compile_plan(self.recipe), workspace

    def outcomes(self):
        return Outcomes(self.recipe, self.plan, self.workspace)

    def finish(self, slot, **right):
        """Finish an evaluation with the verdicts of each task, as in two="1101"."""
        rows, scores, samples = [], {}, []
        for task in TASKS:
            verdicts = [int(c) for c in right[task.removeprefix("micota_tiny_")]]
            rows += [
                {"task": task, "id": str(n), "legacy": v, "symbolic": v, "truncated": n == 0,
                 "response_tokens": 10 * (n + 1), "reflections": 60 * n}
                for n, v in enumerate(verdicts)
            ]  # fmt: skip
            texts = [f"{slot}: \\boxed{{{v}}}" for v in verdicts]
            samples += [
                {**row, "problem": "1?", "target": "1", "response": t}
                for row, t in zip(rows[-len(texts) :], texts, strict=True)
            ]
            scores[task] = {
                "n": len(verdicts), "legacy": sum(verdicts), "symbolic": sum(verdicts), "truncated": 1,
                "mean_response_tokens": 5 * (len(verdicts) + 1),
            }  # fmt: skip
        directory = self.outcomes().directory(slot)
        directory.mkdir(parents=True)
        write_jsonl(directory / "problems.jsonl", rows)
        write_jsonl(directory / "samples.jsonl", samples)
        write_json(directory / "done.json", {"results": scores})


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.finish("evaluate/student-s/Instruct", two="1100", three="1000")
    made.finish("evaluate/student-s/MiCoTA", two="1111", three="1001")
    made.finish("evaluate/student-s/Strong Teacher CoT", two="0000", three="1000")
    return made


def records(sheet, **wanted):
    return [r for r in sheet.records if all(r.get(key) == value for key, value in wanted.items())]


def test_a_cell_has_its_share_interval_n_length_and_cut_and_the_average_is_unweighted(bench):
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    rows = records(sheet, model="tiny:student-s", method="MiCoTA")
    assert [row["accuracy"] for row in rows] == [1.0, 0.5, 0.75]
    assert (rows[1]["low"], rows[1]["high"]) == wilson(2, 4)
    assert (rows[2]["low"], rows[2]["high"]) == average_interval([(4, 4), (2, 4)])
    assert [row["n"] for row in rows] == [4, 4, 8] and rows[0]["cut"] == 0.25
    line = next(row for row in sheet.lines if row[:2] == ["student-s", "MiCoTA"])
    assert re.fullmatch(r"75\.0 \[[\d.]+, [\d.]+\]\nn=8, 25 tok, 25\.0% cut", line[-1])


def test_loops_are_shown_where_there_are_any_and_samples_have_a_sheet_of_their_own(bench):
    outcomes = bench.outcomes()
    assert samples_sheet(outcomes, outcomes.plan.slots).lines == []
    done = outcomes.directory("evaluate/student-s/MiCoTA") / "done.json"
    scores = json.loads(done.read_text())["results"]
    rows = [
        {"symbolic": 0.5, "responses": 4, "majority": 0.5},
        {"symbolic": 1.0, "responses": 4, "majority": 1},
    ]
    scores["micota_tiny_two"] |= {"loops": 1, "sampled": {"symbolic": sampled(rows, "symbolic")}}
    write_json(done, {"results": scores})
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    (line,) = [line for line in sheet.lines if line[:2] == ["student-s", "MiCoTA"]]
    assert [cell.rpartition("cut")[2] for cell in line[2:]] == [", 25.0% loops", "", ", 12.5% loops"]
    outcomes = bench.outcomes()
    sheet = samples_sheet(outcomes, outcomes.plan.slots)
    assert sheet.head[3:] == ["pass@1", "pass@2", "pass@4", "maj@4"]
    assert [line[0] for line in sheet.lines] == ["student-s/MiCoTA"]
    assert sheet.lines[0][3].startswith("75.0% [") and sheet.lines[0][4].startswith("91.7% [")
    assert sheet in list(recipe_sheets(outcomes))
    slots, (two, three) = ["evaluate/student-s/MiCoTA"], (bench.recipe.evaluation.tasks[one] for one in TASKS)
    assert decoding(outcomes, slots) == f"greedy (but {two}: means of sampled responses)"
    assert decoding(outcomes, ["evaluate/student-s/Instruct"]) == "greedy"
    scores["micota_tiny_three"] |= {"sampled": {"symbolic": sampled(rows, "symbolic")}}
    write_json(done, {"results": scores})
    assert decoding(bench.outcomes(), slots) == "means of sampled responses"
    assert three != two


def test_corpora_of_other_numerics_are_named_in_their_note(bench):
    for slot, backend in (("generate/teacher", "vllm"), ("generate/assistant/strong", "transformers")):
        assert "numerics" not in corpora_sheet(bench.outcomes()).note
        folder = bench.outcomes().directory(slot)
        write_json(folder / "done.json", {"results": {}})
        write_json(folder / "responses.meta.json", {"numerics": [{"backend": backend}]})
    assert corpora_sheet(bench.outcomes()).note.endswith(
        "**The sets of responses differ in numerics:** "
        "backend transformers (1 sets of responses), vllm (1 sets of responses)."
    )


def test_rows_that_a_filter_kept_although_they_are_not_right_are_counted(bench):
    found = {"responses": 9, "mean_response_tokens": 3.0, "reasons": {"kept": 7, "truncated": 2}}
    for slot, wrong in (("filter/strong", 3), ("filter/half", 0)):
        write_json(
            bench.outcomes().directory(slot) / "done.json", {"results": {**found, "kept_not_right": wrong}}
        )
    several = {"prompts": 4, "prompts_kept": 3, "passed": {"pass@1": {"mean": 0.5}, "pass@2": {"mean": 0.75}}}
    short = bench.outcomes().directory("filter/short") / "done.json"
    write_json(short, {"results": {**found, **several}})
    reasons = {row["corpus"]: row.get("reasons") for row in corpora_sheet(bench.outcomes()).records}
    assert reasons["short"] == "7 kept, 2 truncated; 3 of 4 prompts, pass@1 50.0%, pass@2 75.0%"
    assert reasons["strong"] == "7 kept, 2 truncated (3 kept are not right)"
    assert reasons["half"] == "7 kept, 2 truncated"


def test_rows_of_other_numerics_are_named_in_the_tables_note(bench):
    for method, copies in (("Instruct", 1), ("MiCoTA", 2)):
        where = bench.outcomes().directory(f"evaluate/student-s/{method}")
        numerics = {"backend": "transformers", "dtype": "float32", "data_parallel": copies}
        write_json(where / "numerics.json", numerics)
    assert "numerics" not in accuracy_sheet(bench.outcomes(), "table2").note
    write_json(where / "numerics.json", {"backend": "vllm", "dtype": "float32", "vllm": "0.20.2"})
    note = accuracy_sheet(bench.outcomes(), "table2").note
    assert note.endswith(
        "**The rows differ in numerics:** backend transformers (1 rows), vllm (1 rows); "
        "vllm 0.20.2 (1 rows), None (1 rows)."
    )


def test_a_cell_whose_step_is_not_done_says_its_state(bench):
    failed = bench.outcomes().directory("evaluate/student-m/MiCoTA")
    failed.mkdir(parents=True)
    write_json(failed / "failed.json", {"error": "x", "command": ""})
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    states = {(row[0], row[1]): set(row[2:]) for row in sheet.lines}
    assert states["student-m", "MiCoTA"] == {"failed"}
    assert states["student-m", "Instruct"] == {"missing"}


def test_table_1_is_the_difference_to_the_untrained_student_with_a_paired_interval(bench):
    (row,) = records(gap_sheet(bench.outcomes()), student="tiny:student-s", corpus_from="Teacher")
    assert row["average"] == 0.125 and row["delta"] == pytest.approx(0.125 - 0.375)
    assert (row["delta_low"], row["delta_high"]) == difference_interval([(0, 2, 4), (0, 0, 4)])
    assert row["teacher"] == "tiny:teacher" and "paper_delta" not in row
    missing = records(gap_sheet(bench.outcomes()), student="tiny:student-m")
    assert {row["state"] for row in missing} == {"missing"}
    unpaired = next(line for line in gap_sheet(bench.outcomes()).lines if line[0] == "student-m")
    assert unpaired[-2:] == ["missing", "missing"]


def test_the_last_method_is_tested_against_each_other_on_the_same_problems(bench):
    sheet = comparison_sheet(bench.outcomes(), "table2")
    rows = records(sheet, model="tiny:student-s", against="Strong Teacher CoT")
    two, three, average = rows
    assert (two["only_first"], two["only_second"], two["n"]) == (4, 0, 4)
    assert two["difference"] == 1.0 and three["difference"] == 0.25
    # Four cells are tested: p = 1/8 is the smallest, times 4.
    assert mcnemar(4, 0) == 0.125 and two["p_holm"] == 0.5
    assert average["difference"] == 0.625 and average["low"] > 0
    texts = {(row[0], row[1]): row[2:] for row in sheet.lines}
    assert texts["student-s", "MiCoTA - Strong Teacher CoT"][0] == "+100.0 p=0.5 (n too small)"
    assert set(texts["student-m", "MiCoTA - Instruct"]) == {"missing"}


def test_every_record_of_a_step_that_is_not_done_says_so_and_has_no_number(tmp_path):
    outcomes = Bench(tmp_path).outcomes()
    sheets = [accuracy_sheet(outcomes, "table2"), bpc_sheet(outcomes), corpora_sheet(outcomes)]
    sheets += [gap_sheet(outcomes), comparison_sheet(outcomes, "table3")]
    for sheet in sheets:
        assert sheet.records and {record["state"] for record in sheet.records} == {"missing"}, sheet.name
        assert not any(
            isinstance(value, int | float) for record in sheet.records for value in record.values()
        )
        assert all("missing" in line for line in sheet.lines)
    assert not figure_sheet(outcomes, "figure2").lines


def test_students_on_one_base_model_are_told_apart_in_every_table_figure_and_csv(tmp_path):
    other = "students.student-m={model: 'tiny:student-s', train: {learning_rate: 2e-3}}"
    bench = Bench(tmp_path, other)
    for slot in ("student-s/Instruct", "student-s/MiCoTA", "student-m/MiCoTA"):
        bench.finish(f"evaluate/{slot}", two="11", three="10")
    wanted = {"student-s (student-s)", "student-s (student-m)"}
    outcomes = bench.outcomes()
    made = [accuracy_sheet(outcomes, "table2"), comparison_sheet(outcomes, "table2"), gap_sheet(outcomes)]
    for sheet in [*made, figure_sheet(outcomes, "figure3")]:
        assert wanted <= {line[0] for line in sheet.lines}, sheet.name
        assert "student-s (student-m)" in csv_text(sheet), sheet.name
    assert wanted <= set(bpc_sheet(outcomes).head)


def test_several_assistants_are_told_apart_and_none_leaves_the_teacher_of_the_first_method(
    tmp_path, recipe_file
):
    second = "assistants.other={from: student-m/strong}"
    two = Bench(tmp_path, second)
    for slot in ("evaluate/ta", "evaluate/ta/before", "evaluate/other", "evaluate/other/tuned"):
        two.finish(slot, two="11", three="10")
    lines = [line[:2] for line in accuracy_sheet(two.outcomes(), "table2").lines]
    assert lines[:3] == [
        ["teacher", "Strong Teacher"], ["assistant", "(Merged) Teacher Assistant (ta)"],
        ["student-m", "(Merged) Teacher Assistant (other)"],
    ]  # fmt: skip
    assert [line[:2] for line in figure_sheet(two.outcomes(), "figure2").lines] == [
        ["assistant", "before (ta)"], ["assistant", "merged (ta)"],
        ["student-m", "fine-tuned (other)"], ["student-m", "merged (other)"],
    ]  # fmt: skip
    bare = recipe_file(
        assistants={"ta": None}, corpora={"half": None, "micota": None}, bpc={"corpora": ["strong"]},
        methods={"Instruct": None, "Strong Teacher CoT": "strong"},
    )  # fmt: skip
    none = Bench(tmp_path / "none", recipe=bare)
    lines = [line[:2] for line in accuracy_sheet(none.outcomes(), "table2").lines]
    assert lines[0] == ["teacher", "Strong Teacher"] and lines[1][1] == "Instruct"


def test_a_corpus_of_given_responses_is_no_teachers(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"prompt": "1 + 1", "response": "2", "answer": "2"}])
    file = str(tmp_path / "mine.jsonl")
    words = [f"corpora.strong={{from: null, file: {file}}}", "assistants.ta.from=assistant/short"]
    made = Bench(tmp_path / "runs", *words)
    (row,) = records(gap_sheet(made.outcomes()), student="tiny:student-s", corpus_from="File")
    assert row["teacher"] == ""
    assert records(corpora_sheet(made.outcomes()), corpus="strong")[0]["source"] == file


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0
    assert mcnemar(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)


def test_few_problems_can_show_large_differences_only(bench):
    assert [least_difference(n) for n in (30, 40, 600)] == [0.2, 0.15, 0.01]
    assert mcnemar(6, 0) < 0.05 <= mcnemar(5, 0)
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    line = next(row for row in sheet.lines if row[:2] == ["student-s", "MiCoTA"])
    assert "n=4 (too few to tell <100.0), " in line[2]
    many = records(sheet, model="tiny:student-s", method="MiCoTA")[0] | {
        "n": 600,
        "least": least_difference(600),
    }
    assert CELLS["accuracy"](many).endswith("n=600, 25 tok, 25.0% cut")


def test_holm_steps_down_and_never_decreases():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_paired_interval_is_narrower_than_two_independent_ones_would_suggest():
    low, high = difference_interval([(30, 10, 400)])
    assert 0.015 < low < 0.05 < high < 0.085


def test_two_problems_are_never_certain():
    """A share of none or all, and two methods that agree, once had an interval of no width."""
    for right in (0, 2):
        low, high = average_interval([(right, 2), (right, 2)])
        assert low < right / 2 < high or (low, high)[right // 2] == right / 2
        assert high - low > 0.4
    low, high = difference_interval([(0, 0, 2)])
    assert -1 < low == -high < -0.5
    assert mean_interval([0.2, 0.9], least=0.0)[0] == 0.0
    assert mean_interval([0.5], least=0.0) == (0.0, math.inf)


SIZES = [(2,), (5,), (2, 2), (10, 30), (30, 40), (200, 200), (500,), (30, 40, 500, 500, 1319)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_intervals_hold_the_truth_as_often_as_they_say(sizes):
    """By simulation: 95% on average over the shares from 0 to 1, and nowhere far less."""
    rng, draws = np.random.default_rng(2), 1000

    def held(interval, chances):
        """How often an interval holds what `chances`, of one or of both methods, mean."""
        counts = [rng.multinomial(n, [*chances, 1 - sum(chances)], draws)[:, : len(chances)] for n in sizes]
        truth = chances[0] - sum(chances[1:])
        found = (
            [(*map(int, row), n) for row, n in zip(rows, sizes, strict=True)]
            for rows in zip(*counts, strict=True)
        )
        bounds = [interval(cells) for cells in found]
        return sum(low - 1e-9 <= truth <= high + 1e-9 for low, high in bounds) / draws

    averages = [held(average_interval, [share]) for share in np.linspace(0, 1, 21)]
    shares = (0, 0.01, 0.1, 0.3, 0.6, 1)
    differences = [held(difference_interval, [a, b]) for a in shares for b in shares if a + b <= 1]
    assert np.mean(averages) > 0.925 and min(averages) > 0.85
    assert np.mean(differences) > 0.945 and min(differences) > 0.91


def test_the_papers_value_stands_beside_ours_with_the_difference(tmp_path):
    bench = Bench(
        tmp_path, "students.student-s.model=Qwen/Qwen2.5-3B-Instruct", "evaluation.tasks.micota_tiny_two=AIME"
    )
    bench.finish("evaluate/student-s/MiCoTA", two="1111000000", three="1100000000")
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    row = next(row for row in sheet.lines if row[:2] == ["Qwen2.5-3B-Instruct", "MiCoTA"])
    assert "paper 13.33, +26.7" in row[2] and "paper" not in row[3] and "paper 43.29, -13.3 (noise)" in row[4]
    instruct = next(row for row in sheet.lines if row[:2] == ["Qwen2.5-3B-Instruct", "Instruct"])
    assert instruct[2] == "missing\npaper 3.33"


def test_the_report_is_written_as_markdown_csv_latex_and_images(bench):
    report = write_report(sweep(TINY), bench.workspace).with_suffix(".md")
    text = report.read_text()
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Figure 3", "Figure 4", "Corpora", "Overlap"):
        assert re.search(rf"^## {title}", text, re.MULTILINE), title
    for name in ("table1", "table2", "table3", "table4", "table2-differences", "corpora"):
        list(csv.DictReader((report.parent / f"{name}.csv").open()))
        assert r"\begin{tabular}" in (report.parent / f"{name}.tex").read_text()
    assert (report.parent / "figure3.svg").is_file() and not (report.parent / "figure2.svg").exists()
    drawn = ElementTree.parse(report.parent / "table2.svg").getroot()
    shown = [title.text.split(": ")[0].split(", ") for title in drawn.findall("{*}g/{*}title")]
    legend = [text.text for text in drawn.findall("{*}g/{*}text[@x='736']")]
    assert ["student-s", "MiCoTA"] in shown and sorted(legend) == sorted(
        {word for one in shown for word in one}
    )
    (figure,) = csv.DictReader((report.parent / "figure4.csv").open())
    assert figure["unit"] == "reflections" and float(figure["right"]) == 0.75 and figure["n"] == "8"


def test_methods_beyond_the_colours_are_drawn_hollow(tmp_path):
    names = [*load_recipe(TINY).methods, "six", "seven", "eight"]
    methods = dict.fromkeys(names, "strong") | {"Instruct": None}
    others = f"tables.table2.others=[{', '.join(names)}]"
    bench = Bench(tmp_path, f"methods={json.dumps(methods)}", others)
    for name in ("Instruct", "eight"):
        bench.finish(f"evaluate/student-s/{name}", two="1100", three="1000")
    swept = sweep(TINY, overrides=[f"methods={json.dumps(methods)}", others])
    report = write_report(swept, bench.workspace)
    drawn = ElementTree.parse(report.parent / "table2.svg").getroot().findall("{*}g[{*}text]")
    marks = {one.find("{*}text").text: one.attrib for one in drawn if "stroke" in one.attrib}
    assert marks["eight"] == {"fill": "none", "stroke": marks["Instruct"]["fill"]}
    assert marks["seven"]["fill"] == marks["seven"]["stroke"] != marks["student-s"]["fill"]


def test_latex_escapes_what_latex_would_read(bench):
    sheet = accuracy_sheet(bench.outcomes(), "table2")
    text = latex(sheet)
    body = text[text.index("\\toprule") :]
    assert not re.search(r"(?<!\\)%", body) and body.count(r"\\") >= len(sheet.lines)
    assert markdown(sheet).count("\n") == len(sheet.lines) + 1
