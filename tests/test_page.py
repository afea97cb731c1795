"""The report as one page: what it says, what it holds, and that it opens without anything else."""

import json
import re
import shutil
import subprocess

import pytest
from conftest import TINY
from test_tables import Bench

from micota_lf import sweep
from micota_lf.reports import page as pages
from micota_lf.reports.write import write_report
from micota_lf.system.files import read_jsonl, write_jsonl

CHROMIUM = shutil.which("chromium")
HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)> wait"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.finish("evaluate/student-s/Instruct", two="11000000", three="10000000")
    made.finish("evaluate/student-s/MiCoTA", two="11111110", three="11111100")
    return made


def html_of(bench):
    return write_report(sweep(TINY), bench.workspace).read_text()


def cases_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    )


def test_the_page_begins_with_the_answer_its_interval_and_its_n(bench):
    answer = re.search(r'<ul class="answer">.*?</p>', html_of(bench), re.DOTALL)[0]
    text = " ".join(re.sub("<[^>]+>", "", answer).split())
    assert text.startswith("student-s: MiCoTA is right on 81.2% [") and "62.5 points [+" in text
    assert "above Instruct" in text and "n = 16, by the symbolic grader" in text


def test_the_best_is_bold_the_second_underlined_and_each_cell_opens_its_problems(bench):
    cells = re.findall(r'<button type="button" (data-.*?) class="(.*?)">([\d.]+)<', html_of(bench), re.DOTALL)
    shown = [(re.search('data-method="(.*?)"', data)[1], looks, value) for data, looks, value in cells[:6]]
    assert shown[0] == ("Instruct", "second", "25.0") and ("MiCoTA", "best", "87.5") in shown


def test_the_page_asks_for_nothing_and_text_of_models_stays_text(bench):
    samples = bench.outcomes().directory("evaluate/student-s/MiCoTA") / "samples.jsonl"
    write_jsonl(samples, [{**row, "response": HOSTILE} for row in read_jsonl(samples)])
    html = html_of(bench)
    assert HOSTILE not in html and "<img" not in html and html.count("<script") == 2
    cases = cases_of(html)
    assert len(cases) == 16 and cases[0]["by"]["tiny:student-s"]["MiCoTA"][-1] == HOSTILE
    assert not re.search(r"""(?:src|href)=["'](?!#)""", html) and "@import" not in html


def test_of_more_responses_than_fit_the_page_has_some_and_says_so(bench, monkeypatch):
    monkeypatch.setattr(pages, "CASE_BYTES", 1000)
    html = html_of(bench)
    assert 0 < len(cases_of(html)) < 16 and f"{len(cases_of(html))} of 16 problems, drawn at random" in html


def test_a_run_that_has_not_begun_has_a_page_without_empty_sections(tmp_path):
    html = html_of(Bench(tmp_path))
    assert 'id="cases"' not in html and 'class="answer"' not in html and 'id="training"' not in html
    assert "missing" in html and "Where it comes from" in html


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_in_a_browser_the_responses_of_two_methods_stand_side_by_side(bench):
    samples = bench.outcomes().directory("evaluate/student-s/MiCoTA") / "samples.jsonl"
    write_jsonl(samples, [{**row, "response": HOSTILE} for row in read_jsonl(samples)])
    page = write_report(sweep(TINY), bench.workspace)
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '<span id="place" aria-live="polite">1 of 16</span>' in shown and "taken</title>" not in shown
    left = re.search(r'id="left">(.*?)</div>', shown, re.DOTALL)[1]
    assert "<strong>MiCoTA: " in left and "<mark>wait</mark>" in left and "&lt;/script&gt;" in left
