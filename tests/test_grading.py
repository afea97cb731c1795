"""Grading many responses: no answer hangs, fills or outlives it, and the number of workers changes nothing.

MICOTA_FUZZ sets the number of odd inputs (300; the full test is 10000).
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pebble.pool.process import PoolManager

from micota_lf.cli.main import main
from micota_lf.errors import UserError
from micota_lf.grading.answer import Grade, grade
from micota_lf.grading.equal import NeedsAlgebra, same_text
from micota_lf.grading.measures import (
    LEGACY_RULES,
    METRICS,
    Columns,
    asked_rows,
    loops,
    majority,
    measured_rows,
    response_metrics,
    token_counter,
)
from micota_lf.grading.notation import SHORT as SHORT_TEXT
from micota_lf.grading.workers import AHEAD_ROWS, Limits, Question, grade_rows, grade_safely
from micota_lf.inputs.problems import Benchmark
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Filter
from micota_lf.stages.filter import filter_responses
from micota_lf.system.files import read_jsonl, write_jsonl

FUZZ = int(os.environ.get("MICOTA_FUZZ") or 300)
SHORT = Limits(seconds=1.0)
REASONS = {"correct", "wrong", "no answer", "truncated", "unparseable", "timeout", "unreadable gold"}

HOSTILE = {
    "tower of exponents": "\\boxed{9^{9^{9^{9}}}}",
    "tower under a root": "\\boxed{\\sqrt{2^{3^{4^{5^{6}}}}}}",
    "factorial": "\\boxed{99999999!}",
    "factorial of a factorial": "\\boxed{((9!)!)!}",
    "long sum": "\\boxed{" + "x+" * 50_000 + "1}",
    "long fraction": "\\boxed{" + "\\frac{1" * 14_000 + "}" * 14_001,
    "deep braces": "\\boxed{" + "{" * 10_000 + "1" + "}" * 10_001,
    "deep parentheses": "\\boxed{" + "(" * 10_000 + "1" + ")" * 10_000 + "}",
    "unbalanced braces": "\\boxed{" + "{" * 10_000,
    "closing braces": "\\boxed{" + "}" * 10_000,
    "many boxes": "\\boxed{1" * 10_000,
    "control characters": "\\boxed{\x00\x01\x1b[2J\r\n\x7f}",
    "lone surrogates": "\\boxed{\ud800\udfff}",
    "right to left": "\\boxed{\u202e\u0663}",
    "code": "\\boxed{__import__('os').system('touch hacked')}",
    "template code": "\\boxed{{}.__class__.__mro__[1].__subclasses__()}",
    "10 MB without a box": "word " * 2_000_000,
    "10 MB of dollars": "$" * 10_000_000,
}


def graded(pairs, workers=None, limits=SHORT):
    return [one for _, (one,) in grade_rows(pairs, lambda pair: [Question(*pair)], workers, limits)]


def workers_of(pid):
    """Processes whose parent is `pid`."""
    done = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [int(child) for child, state in lines if "Z" not in state]


def graders_of(pid):
    return {child for child in workers_of(pid) if "popen_loky" in command_line(child)}


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def no_process_left():
    """Workers that a test started are gone at its end (the one kept for single responses stays)."""
    before = graders_of(os.getpid())
    yield
    assert graders_of(os.getpid()) <= before


@pytest.mark.slow
def test_hostile_answers_end_in_time_and_harm_no_other_row(tmp_path, monkeypatch, no_process_left):
    monkeypatch.chdir(tmp_path)
    pairs = []
    for text in HOSTILE.values():
        pairs += [("so \\boxed{0.125}", "\\frac{1}{8}"), (text, "3"), ("so \\boxed{7}", "8")]
    started = time.monotonic()
    results = graded(pairs, workers=2)
    assert time.monotonic() - started < 10 * SHORT.seconds * len(HOSTILE)
    assert [one.reason for one in results[::3]] == ["correct"] * len(HOSTILE)
    assert [one.reason for one in results[2::3]] == ["wrong"] * len(HOSTILE)
    reasons = dict(zip(HOSTILE, (one.reason for one in results[1::3]), strict=True))
    assert set(reasons.values()) <= REASONS - {"correct"}, reasons
    assert reasons["tower of exponents"] == reasons["factorial"] == "timeout"
    assert not any(one.symbolic for one in results[1::3])
    assert list(tmp_path.iterdir()) == []  # nothing in a box was run


@pytest.mark.slow
def test_what_a_pool_that_breaks_had_not_handed_out_is_asked_again(monkeypatch, no_process_left):
    found = PoolManager.find_expired_task
    breaks = [BrokenProcessPool("All workers expired")]  # as pebble says of a death that it sees too soon

    def expired(manager, worker):
        if breaks:
            raise breaks.pop()
        return found(manager, worker)

    monkeypatch.setattr(PoolManager, "find_expired_task", expired)
    more_than_a_pipe_holds = [(f"\\boxed{{{'x+' * 50_000}{n}}}", "3") for n in range(9)]
    first, *others = graded([("\\boxed{99999999!}", "3"), *more_than_a_pipe_holds], workers=1)
    assert not breaks and first.reason == "timeout"
    assert [one.reason for one in others] == ["unparseable"] * 9


def test_a_timeout_keeps_the_string_verdict(no_process_left):
    (one,) = graded([("\\boxed{99999999!}", "3")])
    assert one == Grade("99999999!", legacy=False, symbolic=False, reason="timeout", found_by="box")


MEMORY = """
import resource
from micota_lf.grading import workers as grading
pairs = [("\\\\boxed{2^{7000000000}}", "3"), ("\\\\boxed{\\\\sqrt{8}}", "2\\\\sqrt{2}")]
limits = grading.Limits(seconds=9, memory=2**28)
rows = grading.grade_rows(pairs, lambda pair: [grading.Question(*pair)], 1, limits)
print(*(one.symbolic for _, (one,) in rows))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
grading._limit(2**28)
kept = bytearray(2**27)
bytearray(2**28)
"""


@pytest.mark.slow
def test_memory_of_a_response_is_limited():
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.endswith("MemoryError\n") and ", line 11," in done.stderr, done.stderr
    verdicts, peak_mib = done.stdout.splitlines()
    assert verdicts == "False True" and int(peak_mib) < 600


def test_only_the_last_part_of_an_endless_response_is_graded():
    limits = Limits(characters=1000)
    early, late = "\\boxed{7}" + "x" * 2000, "x" * 2000 + "\\boxed{7}"
    assert [one.symbolic for one in graded([(early, "7"), (late, "7")], limits=limits)] == [False, True]


@pytest.mark.slow
def test_a_killed_worker_costs_the_row_that_it_was_at(no_process_left):
    pairs = [(f"\\boxed{{{n}\\sqrt{{8}}}}", f"{2 * n}\\sqrt{{2}}") for n in range(2, 8)]
    pairs[3] = ("\\boxed{99999999!}", "3")
    before = graders_of(os.getpid())

    def kill():
        wait_until(lambda: any(processor_seconds(one) > 10 for one in graders_of(os.getpid()) - before), 400)
        os.kill(*(graders_of(os.getpid()) - before), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    reasons = [one.reason for one in graded(pairs, workers=1, limits=Limits(seconds=60))]
    killer.join()
    assert reasons == ["correct"] * 3 + ["unparseable"] + ["correct"] * 2


def processor_seconds(pid):
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / 100
    except OSError:
        return 0


def test_the_death_of_an_idle_worker_costs_nothing():
    limits = Limits(seconds=7)  # no other test's worker
    before = graders_of(os.getpid())
    assert grade_safely(Question("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"), limits).symbolic
    os.kill(*(graders_of(os.getpid()) - before), signal.SIGKILL)
    time.sleep(1)
    assert grade_safely(Question("\\boxed{\\sqrt{18}}", "3\\sqrt{2}"), limits).symbolic


def test_an_answer_that_text_decides_starts_no_worker(monkeypatch):
    monkeypatch.setattr("pebble.ProcessPool.schedule", lambda *_, **__: pytest.fail("algebra"))
    same = {"0.5": "\\frac{1}{2}", "(1, 2)": "(1,2)", "2, 1": "1, 2", "5 cm": "5", "x = 3": "3", "-7": "7"}
    for got, gold in same.items():
        assert grade_safely(Question(f"\\boxed{{{got}}}", gold)).symbolic == (got != "-7")


def test_a_worker_that_has_grown_is_replaced_and_no_row_notices(no_process_left):
    pairs = [(f"\\boxed{{{n}}}", str(n)) for n in range(5)]
    always = Limits(answers=1)
    assert {one.reason for one in graded(pairs, 2, always)} == {"correct"}


def test_grades_come_in_order_while_rows_are_read_and_closing_ends_the_workers(no_process_left):
    read = []

    def endless():
        while True:
            read.append(0)
            yield len(read)

    rows = grade_rows(endless(), lambda n: [Question(f"\\boxed{{{n}}}", str(n))] * (n % 3), 2)
    for expected in range(1, 200):
        number, verdicts = next(rows)
        assert number == expected and [one.extracted for one in verdicts] == [str(number)] * (number % 3)
    assert len(read) < 200 + AHEAD_ROWS
    rows.close()


def test_an_error_while_rows_are_read_ends_the_workers(no_process_left):
    def broken():
        yield from range(100)
        raise KeyError("row")

    with pytest.raises(KeyError):
        list(grade_rows(broken(), lambda n: [Question(f"\\boxed{{{n}}}", "1")], 2))


SCRIPT = """
from micota_lf.grading.workers import Limits, Question, grade_rows
pairs = [("\\\\boxed{99999999!}", "3")] * 9
list(grade_rows(pairs, lambda pair: [Question(*pair)], 2, Limits(seconds=99)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(end):
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: graders_of(parent.pid))
        time.sleep(1)
        workers = graders_of(parent.pid)
        parent.send_signal(end)
        assert parent.wait(timeout=30) != 0
        wait_until(lambda: not any(map(alive, workers)))
    finally:
        parent.kill()
        parent.wait()


PIECES = [
    "\\boxed{", "\\fbox{", "\\boxed ", "{", "}", "(", ")", "[", "]", "$", "$$", "\\(", "\\)", "\\frac",
    "\\sqrt", "\\frac{1}{2}", "\\frac12", "^", "_", "^{", "9", "12", "0.5", "1,000", "-", "+", "=", "/",
    "!", "%", "x", "\\pi", "\\left(", "\\right)", "\\text{ cm}", "\\begin{pmatrix}", "\\end{pmatrix}", "&",
    "\\\\", "\\cup", "\\infty", "\\le", "\\{", "\\}", " ", "\n", "\x00", "\ud83d", "\u2212", "\u00bd",
    "\u0663", "so the answer is ", "<think>", "\\", "None", "nan", "oo", "lambda", "\\int_0^1", "\\sum",
    "\\log", "\\mathrm{d}", "\\%", "\\$", ";", ":", "or",
]  # fmt: skip


odd = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
odd_responses = (
    odd | odd.map(lambda text: f"\\boxed{{{text}}}") | odd.map(lambda text: f"The answer is {text}.")
)


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd_responses, odd, st.booleans(), st.sampled_from(["hendrycks", "number", "last_number"]))
def test_odd_inputs_crash_nothing(response, answer, truncated, rule):
    assert grade_safely(Question(response, answer, truncated, rule), SHORT).reason in REASONS


def odd_pair(seed):
    draw = random.Random(seed)
    answer = "".join(draw.choices(PIECES, k=draw.randint(0, 4)))
    inside = draw.choice([answer, "".join(draw.choices(PIECES, k=draw.randint(0, 12)))])
    return f"\\boxed{{{inside}}}", answer


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(no_process_left):
    pairs = [odd_pair(seed) for seed in range(300)]
    alone, together = graded(pairs, workers=1), graded(pairs, workers=3)
    assert alone == together and len(alone) == len(pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "others"), [(SHORT_TEXT, PIECES), (200_000, ["", "\\boxed", "answer "])])
def test_repeated_text_is_read_in_time_that_grows_with_its_length_alone(size, others):
    """In this process: no worker's timer guards what is decided from text."""
    for one, other in itertools.product(PIECES, others):
        text = (one + other) * (size // len(one + other))
        used = time.process_time()
        for response in (text, f"\\boxed{{{text}}}", f"the answer is {text}"):
            with contextlib.suppress(NeedsAlgebra):
                grade(response, text[:SHORT_TEXT], same=same_text)
        assert time.process_time() - used < 20, (one, other)  # quadratic ones took minutes


def test_one_response_is_graded_as_many_are_and_cannot_hang():
    assert grade_safely(Question("\\boxed{0.125}", "\\frac18")) == grade("\\boxed{0.125}", "\\frac18")
    assert grade_safely(Question("\\boxed{99999999!}", "3"), SHORT).reason == "timeout"
    assert grade_safely(Question("\\boxed{0.125}", "\\frac18"), SHORT).symbolic
    for n in range(200):
        assert grade_safely(Question("text " * 3000 + f"\\boxed{{{n}}}", str(n))).symbolic


def test_lm_evals_metrics_survive_a_hostile_answer(monkeypatch):
    monkeypatch.setattr(
        "micota_lf.grading.measures.grade_safely", lambda question: grade_safely(question, SHORT)
    )
    doc = {"answer": "3", "legacy_rule": "hendrycks", "tokenizer": None}
    found = response_metrics(doc, "Wait, \\boxed{99999999!}")
    assert found == {"legacy": 0, "symbolic": 0, "boxed": 0, "reflections": 1}


def words(texts):
    return [len(text.split()) for text in texts]


def test_measured_rows_are_lm_evals_metrics_and_their_means_over_several_responses():
    texts = ["Wait, \\boxed{003}"], ["a b c d \\boxed{\\frac{6}{2}}", "hmm"], [""]
    rows = [[Question(text, "3", legacy_rule="number") for text in several] for several in texts]
    measured, grades = zip(*measured_rows(rows, words, max_gen_toks=5), strict=True)
    first, several, empty = measured
    assert [one.found_by for one in grades[1]] == ["box", None]
    assert set(first) == set(METRICS)
    assert first == {
        "legacy": 1, "symbolic": 1, "boxed": 1, "reflections": 1, "response_tokens": 2, "truncated": 0,
        "loops": 0,
    }  # fmt: skip
    assert several == {
        "legacy": 0, "symbolic": 0.5, "boxed": 0.5, "reflections": 0.5, "response_tokens": 3,
        "truncated": 0.5, "loops": 0,
    }  # fmt: skip
    assert set(empty.values()) == {0}
    doc = {"answer": 3, "legacy_rule": "number", "max_gen_toks": 5}
    doc |= {"tokenizer": str(ModelRef("tiny:teacher").local), "tokenizer_revision": None}
    ((ours, _),) = measured_rows(rows[:1], token_counter(doc["tokenizer"]), 5)
    assert response_metrics(doc, rows[0][0].response) == ours


def test_a_loop_is_a_cut_response_that_repeats_its_last_passage_to_the_end():
    steps = " ".join(f"Wait, {n} + 17 = {n + 17}, so that is not it yet." for n in range(200))
    again = steps + " Let me check once more, then the sum is 40 and not 41." * 4
    assert [loops(text) for text in ("", "so 3", steps, again, again + " Let me check", "no " * 90)] == [
        False, False, False, True, True, True
    ]  # fmt: skip
    rows = [[Question(text, "3")] for text in (again, steps, "\\boxed{3}")]
    measured = [numbers for numbers, _ in measured_rows(rows, words, max_gen_toks=99)]
    assert [(row["truncated"], row["loops"]) for row in measured] == [(1, 1), (1, 0), (0, 0)]
    ((ended, _),) = measured_rows(rows[:1], words, max_gen_toks=10**6)
    assert ended["loops"] == 0  # it came to an end by itself


def grades(*answers):
    return [Grade(answer, False, answer in ("1/2", "0.5"), "") for answer in answers]


def test_the_majority_is_of_equal_answers_and_a_tie_counts_by_its_share():
    assert majority(grades("1/2", "3", "$0.5$", "4", "0.5")) == 1
    assert majority(grades("3", "1/2", "\\text{3}", None, None, None)) == 0  # no answer has no vote
    assert majority(grades("1/2", "3")) == majority(grades("3", "1/2")) == 0.5
    assert majority(grades(None, None)) == 0 and majority(grades("(" * 5000)) == 0


def test_a_sample_of_lm_eval_is_a_row_to_grade(tmp_path):
    samples = [
        {"doc": {"answer": "7", "legacy_rule": "number"}, "filtered_resps": ["x"]},
        {"doc": {}, "target": "8", "filtered_resps": [["x", "y"]]},
        {"target": ["9"], "filtered_resps": ["z"]},
    ]
    write_jsonl(tmp_path / "s.jsonl", samples)
    assert list(asked_rows(tmp_path / "s.jsonl", Columns(samples=True))) == [
        (samples[0], [Question("x", "7", False, "number")], False),
        (samples[1], [Question("x", "8"), Question("y", "8")], True),
        (samples[2], [Question("z", "9")], False),
    ]
    doc = {"answer": "7", "legacy_rule": "none"}
    write_jsonl(tmp_path / "s.jsonl", [{"doc": doc, "filtered_resps": ["x"]}])
    with pytest.raises(UserError, match="row 1: legacy_rule 'none' is none of hendrycks, number"):
        list(asked_rows(tmp_path / "s.jsonl", Columns(samples=True)))


@pytest.mark.parametrize("name", ["teacher", "assistant", "student-m", "student-s"])
def test_tokens_are_counted_as_transformers_counts_them(name):
    from transformers import AutoTokenizer

    path = str(ModelRef(f"tiny:{name}").local)
    theirs = AutoTokenizer.from_pretrained(path)
    texts = [
        "wait, \\boxed{6}", " What is 2+2?\n\n\tx", "\u00e9 \u201cq\u201d \u2026 \u221a2 \u2264 \u03c0",
        "\u4f60\u597d\uff0c\u4e16\u754c 12", "\u0639\u0631\u0628\u064a \u0661\u0662",
        "\U0001f600\U0001f468\u200d\U0001f469", "e\u0301 \u212b \ufb01", "<think>a</think><|im_end|>b",
        "", " \n ", "\u200b\u00a0x\u3000", "x" * 50,
    ]  # fmt: skip
    counts = [len(theirs(text, add_special_tokens=False, verbose=False).input_ids) for text in texts]
    assert token_counter(path)(texts) == counts


BARE = {"prompt": "p", "response": "so \\boxed{12}", "answer": 12}


def filtered(tmp_path, rows, rule):
    write_jsonl(tmp_path / "r.jsonl", rows)
    return filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", rule)


def test_the_filter_takes_responses_that_exist_already(tmp_path):
    rows = [
        BARE, {**BARE, "id": 7}, {**BARE, "finish_reason": "length"}, {**BARE, "answer": 13},
        {**BARE, "response_tokens": 9, "level": "hard"},
    ]  # fmt: skip
    counts = filtered(tmp_path, rows, Filter())
    assert counts["reasons"] == {"kept": 3, "truncated": 1, "wrong": 1}
    assert counts["mean_response_tokens"] is None, "of two rows it is not known"
    kept = read_jsonl(tmp_path / "c.jsonl")
    assert {row["finish_reason"] for row in kept} == {"stop"}
    assert 7 in [row["id"] for row in kept] and len({row["id"] for row in kept}) == 2
    assert [row.get("level") for row in kept if row["response_tokens"]] == ["hard"]
    assert filtered(tmp_path, [{"prompt": "p", "response": "r"}], Filter("none"))["reasons"] == {"kept": 1}


@pytest.mark.parametrize(
    ("change", "rule", "message"),
    [
        ({"prompt": None}, Filter(), "row 2: has no 'prompt'"),
        ({"response": None, "respones": "x"}, Filter(), "no 'response'; did you mean 'respones'"),
        ({"response": ["x"]}, Filter(), "row 2: 'response' is a list, not str"),
        ({"prompt": 3}, Filter("none"), "row 2: 'prompt' is a int, not str"),
        ({"answer": None}, Filter(), "row 2: has no 'answer', which verdict symbolic needs"),
        ({"response_tokens": None}, Filter(max_tokens=5), "no 'response_tokens', which max_tokens 5 needs"),
        ({"response_tokens": "9"}, Filter(), "row 2: 'response_tokens' is a str, not int"),
    ],
)
def test_a_row_that_the_filter_cannot_judge_is_named_with_its_file_and_column(
    tmp_path, change, rule, message
):
    row = {**BARE, "response_tokens": 1}
    with pytest.raises(UserError) as error:
        filtered(tmp_path, [row, {**row, **change}], rule)
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path / 'r.jsonl'}: row 2")
    assert not (tmp_path / "rejected.jsonl").exists()


def test_the_filter_names_the_answers_that_it_could_not_judge(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.filter.grade_rows", lambda *rows: grade_rows(*rows, limits=SHORT))
    texts = {"a": "\\boxed{12}", "b": "\\boxed{99999999!}", "c": "\\boxed{\ud800}"}
    plain = {"prompt": "p", "answer": "12", "finish_reason": "stop", "response_tokens": 5}
    lines = [json.dumps({"id": name, "response": text, **plain}) for name, text in texts.items()]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter())
    assert counts["reasons"] == {"kept": 1, "timeout": 1, "unparseable": 1}
    assert [row["response"] for row in read_jsonl(tmp_path / "rejected.jsonl")] == [texts["b"], texts["c"]]


def run_grade(tmp_path, rows, *words):
    write_jsonl(tmp_path / "in.jsonl", rows)
    return main(["grade", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *words])


def test_grade_adds_four_columns_to_any_file(tmp_path, capsys):
    rows = [
        {"out": "so \\boxed{0.125}", "gold": "\\frac{1}{8}", "kept": [1, {"a": None}]},
        {"out": "so \\boxed{007}", "gold": 7, "finish_reason": "stop"},
        {"out": ["\\boxed{1}", None, "no"], "gold": ["2"]},
        {"out": [], "gold": "2"},
        {"out": "so \\boxed{1", "gold": "1.5", "finish_reason": "length"},
    ]
    words = ["--response-field", "out", "--answer-field", "gold", "--workers", "2", "--disagreements"]
    assert run_grade(tmp_path, rows, *words) == 0
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [{key: row[key] for key in given} for row, given in zip(found, rows, strict=True)] == rows
    assert [row["reason"] for row in found] == [
        "correct", "correct", ["wrong", "no answer", "no answer"], [], "truncated"
    ]  # fmt: skip
    assert found[2]["extracted"] == ["1", None, None] and found[3]["symbolic"] == []
    assert (found[0]["legacy"], found[0]["symbolic"], found[0]["extracted"]) == (False, True, "0.125")
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == ("row 1: symbolic right, legacy wrong: gold '\\\\frac{1}{8}', extracted '0.125', correct")
    assert second.startswith("row 2: symbolic right")
    assert last.endswith(
        "n=6, right: legacy 0, symbolic 2, 2 differ; 2 correct, 2 no answer, 1 truncated, 1 wrong"
    )
    assert run_grade(tmp_path, rows[1:2], *words, "--legacy-rule", "number") == 0
    assert read_jsonl(tmp_path / "out.jsonl")[0]["legacy"] is True


def test_grade_reads_gold_answers_as_they_are_stored_and_says_what_found_the_answer(tmp_path, capsys):
    rows = [
        {"response": "A: 1125", "answer": "He has 1000 + 125 = <<1000+125=1125>>1125.\n#### 1,125"},
        {"response": "so \\boxed{1125}", "answer": "It is $\\boxed{1125}$."},
        {"response": ["so 2 or 3", None], "answer": ["2", "3"]},
    ]
    assert run_grade(tmp_path, rows, "--answer-format", "list") == 0
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [row["reason"] for row in found] == ["correct", "correct", ["correct", "no answer"]]
    assert [row["found_by"] for row in found] == ["statement", "box", ["last expression", None]]
    assert run_grade(tmp_path, rows[:1], "--answer-format", "gsm8k") == 0
    assert run_grade(tmp_path, rows[1:2], "--answer-format", "gsm8k") == 2
    assert "row 1: 'answer' has no answer after '####'" in capsys.readouterr().err
    proof = (
        "Show that it is even, then note that all of what is left must be a prime number by the lemma above."
    )
    assert run_grade(tmp_path, [{"response": "so 2", "answer": proof}]) == 0
    assert "1 unreadable gold" in capsys.readouterr().out


def test_a_response_that_was_cut_has_no_last_expression():
    rows = [[Question("one two 3", "3")], [Question("one two \\boxed{3}", "3")]]
    measured = [numbers for numbers, _ in measured_rows(rows, words, max_gen_toks=3)]
    assert [(one["symbolic"], one["truncated"]) for one in measured] == [(0, 1), (1, 1)]


def test_grade_reads_lm_evals_samples(tmp_path, capsys):
    doc = {"id": "a", "answer": "7", "legacy_rule": "number"}
    rows = [
        {"doc_id": 0, "doc": doc, "target": "", "filtered_resps": ["\\boxed{007}"], "legacy": 0},
        {"doc_id": 1, "doc": {"problem": "p"}, "target": "8", "filtered_resps": ["\\boxed{008}"]},
        {"doc_id": 2, "doc": doc, "target": "", "filtered_resps": [["\\boxed{7}", "\\boxed{8}"]]},
    ]
    assert run_grade(tmp_path, rows, "--samples") == 0
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [row["legacy"] for row in found] == [True, False, [True, False]]
    assert [row["symbolic"] for row in found] == [True, True, [True, False]]
    assert run_grade(tmp_path, [{"response": "x", "answer": "y"}], "--samples") == 2
    assert "row 1: has no 'filtered_resps'" in capsys.readouterr().err


def test_a_graded_file_says_which_responses_were_too_long_to_read(tmp_path):
    rows = [{"response": "x" * 1_000_001 + "\\boxed{7}", "answer": "7"}, {"response": "7", "answer": "8"}]
    assert run_grade(tmp_path, rows) == 0
    long, short = read_jsonl(tmp_path / "out.jsonl")
    assert long["graded_characters"] == 1_000_000 and long["symbolic"] and "graded_characters" not in short


def test_the_legacy_rules_are_the_same_for_benchmarks_samples_and_the_command(tmp_path):
    known = get_args(get_type_hints(Benchmark)["legacy_rule"])
    flag = json.loads((ROOT / "micota_lf/cli/commands.json").read_text())["flags"]["legacy rule"]
    assert known == LEGACY_RULES == tuple(flag["choices"])
    rows = [{"response": "It is 1,450 dollars.", "answer": "1450"}]
    verdicts = []
    for rule in known:
        assert run_grade(tmp_path, rows, "--legacy-rule", rule) == 0
        verdicts += [row["legacy"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert verdicts == [False, False, True]


GOOD = '{"response": "\\\\boxed{1}", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD * 99 + '{"respones": "1", "answer": "1"}',
            "row 100: has no 'response' (--response-field); did",
        ),
        (GOOD + '{"response": "1", "Answer": "1"}', "row 2: has no 'answer' (--answer-field); did you mean"),
        (GOOD + '{"response": 3, "answer": "1"}', "row 2: the response is a int, not text"),
        (GOOD + '{"response": "3", "answer": null}', "row 2: 'answer' holds no answer: None"),
        (GOOD + "\n{oops", "line 3 is not JSON"),
        (GOOD + "[1]", "line 2 is a list"),
        ("", "holds no rows"),
    ],
)
def test_a_bad_file_to_grade_is_one_line_and_code_2_and_nothing_is_written(tmp_path, capsys, text, message):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(text)
    assert main(["grade", str(path), "-o", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and str(path) in line
    assert list(tmp_path.iterdir()) == [path]
