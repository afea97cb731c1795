"""Grading: which answer a response gives, and whether it is the gold answer.

Accuracy on real problems needs a folder NAME/test.jsonl a benchmark, named by MICOTA_BENCHMARKS.
"""

import contextlib
import random
import subprocess
import sys

import pytest
import yaml
from conftest import BENCHMARKS, ROOT
from grading_accuracy import GRADERS, golds_of, precision_recall, verdicts
from labelled import labelled_rows

from micota_lf.grading.answer import final_answer, grade
from micota_lf.grading.equal import NeedsAlgebra, same_text
from micota_lf.grading.notation import rational

GOLDEN = ROOT / "tests/golden"
needs_data = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no folder of benchmark problems")

SAME = [
    # The official script's false negatives.
    ("1,000", "1000"), ("0.25", "\\frac14"), ("A", "\\text{(A)}"), ("5\\text{ cm}", "5"), ("10", "$10"),
    ("\\sqrt{2}/2", "\\frac{\\sqrt{2}}{2}"), ("n(n+1)/2", "\\frac{n(n+1)}{2}"), ("3, -3", "$3$,$-3$"),
    # Numbers.
    ("27", "27.0"), ("025", "25"), ("1{,}234{,}567", "1234567"), ("10\\,080", "10,\\!080"), ("1e3", "1000"),
    ("\u22125", "-5"), ("1 4/5", "1\\frac{4}{5}"), ("1.8", "1\\frac{4}{5}"), ("1.5\\times 10^3", "1500"),
    ("\\dfrac{-1}{2}", "-\\frac 12"), ("\\frac{2}{4}", "0.5"), ("5!", "120"), ("$5$.", "5"), ("+5", "5"),
    # Units, currency, percent, degrees.
    ("12 apples", "12"), ("\\text{13 apples}", "13"),
    ("$1,234.50", "1234.5"), ("\\$18.90", "18.9"), ("18 dollars", "\\$18"),
    ("62.5", "62.5%"), ("0.625", "62.5%"), ("50\\%", "50"), ("50\\%", "0.5"), ("90", "90^\\circ"),
    ("90°", "90^{\\circ}"), ("15 square centimeters", "15\\mbox{ cm}^2"), ("52", "52_8"),
    ("5.4¢", "5.4 cents"),
    # Words and letters.
    ("Evelyn", "\\text{Evelyn}"), ("\\textbf{(C)}\\ 12", "\\text{(C)}"), ("Option C", "C"),
    ("YES", "\\text{Yes}"),
    # Several answers, sets, tuples, intervals, matrices.
    ("2, 1", "1,2"), ("\\{2, 1\\}", "1,2"), ("x = 1 \\text{ or } x = 2", "1, 2"), ("\\pm 3", "3,-3"),
    ("1-\\sqrt{19}, 1+\\sqrt{19}", "1 \\pm \\sqrt{19}"),
    ("-2, 1-\\sqrt5, 1+\\sqrt5", "\\{1\\pm\\sqrt{5},-2\\}"),
    ("(8,18) and (2,32)", "(2,32), (8,18)"), ("\\left(1, \\frac12\\right)", "(1, 0.5)"),
    ("(x,y) = (3,2)", "(3,2)"), ("[-2,7]", "x \\in [-2,7]"), ("-2 \\le x \\le 7", "x \\in [-2,7]"),
    ("(3,\\infty)\\cup(-\\infty,2)", "(-\\infty, 2) \\cup (3, \\infty)"), ("[2,\\infty)", "k \\geqslant 2"),
    ("\\begin{bmatrix}0.2\\\\-3.6\\end{bmatrix}", "\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}"),
    # Equations and expressions.
    ("x = 3", "3"), ("3", "x=3"), ("3 = x", "3"), ("x = 1 + 2 = 3", "3"), ("f(n) = n + 1", "f(x)=x+1"),
    ("m=n^2-n-1", "$m_{\\max }=n^{2}-n-1$"), ("x+7", "4+x+3"), ("-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0"),
]  # fmt: skip

DIFFERENT = [
    ("-3", "3"), ("30", "3"), ("4", "3"), ("2/1", "1/2"), ("1,000", "1"), ("1.000", "1000"), ("0.33", "1/3"),
    ("0.333333333", "1/3"), ("0.0000671", ".0000672"), ("1.7320508", "\\sqrt{3}"), ("1.0000001", "1"),
    ("5 \\text{ m}", "5\\text{ cm}"), ("5 m^2", "5\\text{ cm}^2"), ("\\$5.4", "5.4\\text{ cents}"),
    ("5 \\%", "5^\\circ"), ("0.5\\%", "0.5"), ("50\\%", "0.05"), ("52_9", "52_8"), ("6", "6m"), ("2x", "2"),
    ("(2,1)", "(1,2)"), ("[0,1]", "(0,1)"), ("(1,0)", "(0,1)"), ("1,2,3", "1,2"), ("1,2", "1,2,3"),
    ("12", "1,2"),
    ("1,1", "1"), ("3", "\\pm 3"), ("3 or 5", "5"), ("x = 1", "y = 1"), ("2x = 6", "6"), ("x \\neq 5", "5"),
    ("seat", "\\text{east}"), ("\\text{(B)}", "\\text{(C)}"), ("(B) 5", "(C)"), ("\\text{none}", "0"),
    ("5\\text{ million}", "5"), ("5\\text{ or more}", "5"), ("\\text{not }5", "5"),
    ("k", "5"),
    ("\\begin{pmatrix}1 & 2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("x+1", "x-1"),
    ("n", "m"),
    ("f(x)=2x", "f(x)=x"), ("\\sqrt{2}", "\\sqrt{3}"), ("1.0.7", "1"), ("", "0"), ("1/0", "0"), ("?", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("box", "gold"), SAME)
def test_the_same_mathematics_in_another_notation_is_right(box, gold):
    result = grade(f"So it is $\\boxed{{{box}}}$.", gold)
    assert (result.symbolic, result.reason) == (True, "correct")


@pytest.mark.parametrize(("box", "gold"), DIFFERENT)
def test_what_only_looks_alike_is_not_right(box, gold):
    result = grade(f"So it is $\\boxed{{{box}}}$.", gold)
    assert not result.symbolic and result.reason in ("wrong", "unparseable", "no answer")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed 4 but \\boxed{5}", "5"),  # for the lineage, a box with a space is always the last
        ("$\\boxed {\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed{1} then \\fbox{3}", "3"),
        ("\\boxed{\\fbox{3}}", "\\fbox{3}"),
        ("\\boxed{\\{1, 2\\}} so", "\\{1, 2\\}"),
        ("Answer in \\boxed{}: \\boxed{6}. I used \\boxed{}.", "6"),
        ("<think>\\boxed{1}</think> It is \\boxed{2}.", "2"),
        ("<think>\\boxed{1}</think> The answer is 2.", "1"),
        ("<think>\\boxed{1}", "1"),
        ("\\boxed{1} no, \\boxed{2", None),
        ("The answer is 5. So \\boxed{6}.", "6"),
        ("The answer is 5.", "5"),
        ("**Answer:** $\\frac12$", "$\\frac12$"),
        ("First the answer is 4, but\nthe final answer is $5$. I hope it is correct.", "$5$"),
        ("#### 1,125", "1,125"),
        ("<think>The answer is 4.</think> The answer is 3.50 dollars", "3.50 dollars"),
        ("42", "42"),
        ("There are 5 cases, and 3 remain.", "3 remain"),
        ("There are 5 cases, and", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box_or_else_what_is_said_to_be_it(response, answer):
    assert final_answer(response)[0] == answer


def test_boxes_in_a_row_count_together_where_the_gold_is_several_answers():
    response = "so $\\boxed{3}$ and $\\boxed{-3}$."
    assert grade(response, "3,-3").symbolic and grade(response, "-3").symbolic
    assert not grade("\\boxed{3}, but no: \\boxed{-3}", "3,-3").symbolic


@pytest.mark.parametrize(
    ("response", "gold", "truncated", "symbolic", "reason"),
    [
        ("\\boxed{5}", "5", False, True, "correct"),
        ("\\boxed{5} and so", "5", True, True, "correct"),
        ("\\boxed{6}", "5", False, False, "wrong"),
        ("\\boxed{6} and so", "5", True, False, "truncated"),
        ("\\boxed{5", "5", True, False, "truncated"),
        ("\\boxed{5", "5", False, False, "no answer"),
        ("no idea", "5", False, False, "no answer"),
        ("\\boxed{\\frac{)(}}", "5", False, False, "unparseable"),
        ("\\boxed{" + "1 + " * 400 + "}", "5", False, False, "unparseable"),
        ("\\boxed{5}", "", False, False, "unreadable gold"),
        ("\\boxed{5}", None, False, False, "unreadable gold"),
        ("\\boxed{5}", "\\frac{)(}", False, False, "unreadable gold"),
        ("\\boxed{5}", "Add 3 and 4. " * 9, False, False, "unreadable gold"),
        ("\\boxed{5}", "1 + " * 400, False, False, "unreadable gold"),
        (None, "5", False, False, "no answer"),
        (None, None, False, False, "unreadable gold"),
        ("So 5 apples", "5", False, True, "correct"),
        ("So 5 apples", "5", True, False, "truncated"),
        ("The answer is 5.", "5", True, True, "correct"),
    ],
)
def test_each_verdict_has_its_reason(response, gold, truncated, symbolic, reason):
    result = grade(response, gold, truncated)
    assert (result.symbolic, result.reason) == (symbolic, reason)


@pytest.mark.parametrize(
    ("response", "found_by", "boxed"),
    [
        ("The answer is 4. So \\boxed{5}.", "box", True),
        ("The answer is 5.", "statement", False),
        ("Two and three are 5.", "last expression", False),
        ("I do not know.", None, False),
        ("\\boxed{5", None, False),
    ],
)
def test_a_grade_says_which_rule_found_the_answer(response, found_by, boxed):
    result = grade(response, "5")
    assert result.found_by == found_by and result.accepts("boxed") is boxed
    assert result.accepts("symbolic") is (found_by is not None) and result.accepts("none")


def labelled_cases(name, kind):
    """Response, gold answer and whether it is right, of one kind in a file of cases."""
    cases = yaml.safe_load((GOLDEN / name).read_text(encoding="utf-8"))[kind]
    for label, lines in cases.items():
        for line in lines.strip().splitlines():
            answer, gold = (text.strip().replace("\u23ce", "\n") for text in line.split(" => "))
            yield f"So it is $\\boxed{{{answer}}}$." if kind == "boxed" else answer, gold, label == "right"


@pytest.mark.parametrize(("kind", "least"), [("boxed", 0.995), ("prose", 0.98)])
@pytest.mark.parametrize("name", ["answers.yaml", "answers_kept.yaml"])
def test_answers_in_prose_and_golds_as_people_store_them_are_read(name, kind, least):
    cases = list(labelled_cases(name, kind))
    wrong = [case for case in cases if grade(case[0], case[1]).symbolic is not case[2]]
    assert 1 - len(wrong) / len(cases) >= least, wrong
    assert not [case for case in wrong if not case[2]]  # no near miss is right


def test_common_answers_need_no_computer_algebra():
    program = (
        "import sys; from micota_lf.grading.answer import grade\n"
        "pairs = [('1,125', '1125'), ('0.5', '1/2'), ('4', '5'), ('x = 3', '$3$'), ('2, 1', '1,2')]\n"
        "print([grade(f'\\\\boxed{{{a}}}', b).symbolic for a, b in pairs], 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, False, True, True] False"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1/3", "1/3"), ("-\\frac12", "-1/2"), (".5", "1/2"), ("2\\frac{1}{2}", "5/2"), ("1.5e-3", "3/2000")],
)
def test_rational_values_are_exact(text, value):
    assert str(rational(text)) == value


def test_no_text_makes_grading_fail():
    rng = random.Random(0)
    pieces = [
        "\\boxed{", "\\boxed ", "}", "{", "\\frac", "\\text{", "$", "\\$", ",", "(", ")", "[", "]", "=", "1",
        "12", "x", "\\pm",
        "\\cup", "\\in", "%", "\\\\", "&", " and ", "</think>", "_", "^", "-", "/", "\\", "\\{", "\\}",
        ".", "cm", "\\begin{pmatrix}", "\\end{pmatrix}", "1,000", "^\\circ", "e", "answer is ", "####", " ",
    ]  # fmt: skip
    for _ in range(3000):
        response, gold = ("".join(rng.choices(pieces, k=rng.randint(0, n))) for n in (20, 5))
        with contextlib.suppress(NeedsAlgebra):
            grade(response, gold, same=same_text)


@needs_data
@pytest.mark.slow
def test_symbolic_is_nearly_always_right_on_labelled_responses_and_more_often_than_legacy():
    rows = labelled_rows(golds_of(str(BENCHMARKS)))
    assert len(rows) >= 2000 and rows == labelled_rows(golds_of(str(BENCHMARKS)))
    scores = {name: precision_recall(rows, verdicts(rows, GRADERS[name])) for name in ("legacy", "symbolic")}
    assert min(scores["symbolic"][:2]) >= 0.995
    assert all(
        ours > theirs for ours, theirs in zip(scores["symbolic"][:2], scores["legacy"][:2], strict=True)
    )
