"""The paper's numbers, checked against each other."""

import math

import pytest

from micota_lf.reports import paper, paper_row, read

SMALL = "Qwen/Qwen2.5-1.5B-Instruct"
R1, QWQ = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "Qwen/QwQ-32B"
COLUMNS = read("paper")["columns"]
ROWS = [
    (table, model, method)
    for table in ("table2", "table3")
    for model, methods in read("paper")[table].items()
    for method in methods
]


def paper_cell(table, model, method, column):
    return paper_row(table, model, method)[column]


def mean_of(row):
    scores = [row[column] for column in COLUMNS if column != "Average"]
    return sum(scores) / len(scores)


def fits(score, n):
    """Whether a score is k of n, rounded or truncated to two digits."""
    for k in range(math.floor(score * n / 100), math.ceil(score * n / 100) + 2):
        exact = 100 * k / n
        if abs(round(exact, 2) - score) < 0.005 or abs(math.floor(exact * 100 + 1e-6) / 100 - score) < 0.005:
            return True
    return False


def test_all_rows_are_there():
    assert len(ROWS) == 14 + 9
    assert (
        sum(len(kinds) for students in read("paper")["table1"].values() for kinds in students.values()) == 10
    )
    assert sum(len(models) for models in read("paper")["table4"].values()) == 20


@pytest.mark.parametrize(("table", "model", "method"), ROWS)
def test_every_average_follows_from_its_cells(table, model, method):
    row = paper_row(table, model, method)
    assert abs(mean_of(row) - row["Average"]) < 0.01 + 1e-9


def test_the_one_misprint_breaks_its_average_and_its_correction_mends_it():
    (misprint,) = read("paper")["misprints"]
    assert misprint["printed"] == 70.02
    row = paper_row(misprint["table"], misprint["model"], misprint["method"])
    printed = row | {misprint["column"]: misprint["printed"]}
    assert abs(mean_of(printed) - printed["Average"]) > 0.03
    assert not fits(printed["GSM8K"], read("paper")["problems"]["GSM8K"])
    assert row["GSM8K"] == 70.20


@pytest.mark.parametrize(("table", "model", "method"), ROWS)
def test_every_score_is_a_count_of_its_benchmark(table, model, method):
    for column in COLUMNS[:-1]:
        score, n = paper_cell(table, model, method, column), read("paper")["problems"][column]
        assert fits(score, n), (column, score)


def test_tables_2_and_3_agree():
    shared = [(m, k) for t, m, k in ROWS if t == "table3" and paper_row("table2", m, k)]
    assert len(shared) == 6
    for model, method in shared:
        assert paper_row("table2", model, method) == paper_row("table3", model, method)


def test_every_change_of_table_1_starts_from_the_students_own_average():
    for students in read("paper")["table1"].values():
        for student, kinds in students.items():
            base = paper_row("table2", student, "Instruct")
            for average, change in kinds.values():
                if base:
                    assert abs(base["Average"] + change - average) < 0.01 + 1e-9


def test_table_1_under_r1_holds_the_averages_of_tables_2_and_3():
    for student in ("Qwen/Qwen2.5-3B-Instruct", SMALL):
        strong = paper_cell("table2", student, "Strong Teacher CoT", "Average")
        half = paper_cell("table3", student, "Half-size CoT", "Average")
        assert paper("table1", R1, student, "Teacher")[0] == strong
        assert paper("table1", R1, student, "TA")[0] == half


def test_table_1_implies_two_untrained_14b_models():
    bases = [
        round(a - d, 2)
        for a, d in (paper("table1", t, "Qwen/Qwen2.5-14B-Instruct", "Teacher") for t in (QWQ, R1))
    ]
    assert bases == [52.18, 52.80]


def test_the_papers_claims_are_what_the_notes_say_of_them():
    def average(size, method):
        return paper_cell("table2", f"Qwen/Qwen2.5-{size}-Instruct", method, "Average")

    assert round(average("7B", "MiCoTA") - average("7B", "Instruct"), 2) == 3.47
    assert round(average("3B", "MiCoTA") - average("3B", "Instruct"), 2) == 3.93
    assert round(100 * (average("3B", "MiCoTA") / average("3B", "Instruct") - 1), 2) == 9.98
    assert round(100 * (average("3B", "MiCoTA") / average("3B", "Strong Teacher CoT") - 1), 1) == 35.6
    assert round(100 * (average("1.5B", "MiCoTA") / average("1.5B", "Strong Teacher CoT") - 1), 1) == 55.3
    half, ours = (
        paper_cell("table3", "Qwen/Qwen2.5-7B-Instruct", method, "GSM8K")
        for method in ("Half-size CoT", "MiCoTA")
    )
    assert half > ours
    text = " ".join(read("paper")["notes"])
    for figure in ("70.02", "52.18", "52.80", "3.93", "35.6%", "86.27"):
        assert figure in text


def test_what_the_paper_does_not_have_is_empty():
    assert paper_row("table3", SMALL, "Mix-Long") == {}
    assert paper_row("table2", "Qwen/Qwen2.5-0.5B-Instruct", "MiCoTA") == {}
    assert paper_row("baselines", SMALL, "MiCoTA") == {} == paper_row("columns", SMALL, "MiCoTA")
    assert paper("table1", QWQ, "Qwen/Qwen2.5-14B-Instruct", "TA") is None
    assert paper("table4", "MiCoTA", SMALL) == 0.14 and paper("table4", "Short", SMALL) is None
