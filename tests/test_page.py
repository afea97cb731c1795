"""The report as one page: what it says, what it holds, and that it opens without anything else."""

import asyncio
import base64
import gzip
import json
import re
import shutil
import subprocess

import aiohttp
import pytest
from conftest import ROOT, TINY
from test_tables import Bench

from micota_lf import sweep
from micota_lf.reports import page as pages
from micota_lf.reports.write import recipe_sheets, write_report
from micota_lf.system.files import read_jsonl, write_json, write_jsonl

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
    packed = re.search(r'<script type="application/octet-stream" id="data">(.*?)</script>', html, re.DOTALL)[
        1
    ]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


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
    assert "document.title" not in html and "<img" not in html and html.count("<script") == 2
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


def test_sections_without_a_number_are_named_and_left_out(bench):
    html = html_of(bench)
    assert 'id="table4"' not in html and "Table 4: bits per character (missing)" in html
    assert 'id="table2"' in html and 'id="diagnosis"' not in html


def test_models_that_the_last_runs_targets_leave_out_have_no_row(bench):
    write_json(
        bench.workspace / ".micota" / "last.json",
        {"name": "tiny-no-gap", "targets": ["evaluate/student-s/Mix-Long", "evaluate/student-s/Instruct"]},
    )
    sheet = next(one for one in recipe_sheets(bench.outcomes()) if one.name == "table2")
    rows = {(one["method"], one["state"]) for one in sheet.records}
    assert rows == {("Instruct", "done"), ("MiCoTA", "done"), ("Mix-Long", "missing")}
    write_json(bench.workspace / ".micota" / "last.json", {"name": "tiny-no-gap", "targets": []})
    assert len(next(one for one in recipe_sheets(bench.outcomes()) if one.name == "table2").lines) == 12


def test_a_difference_opens_the_problems_that_only_one_method_gets_right(bench):
    table = re.search(r'<section id="table2-differences">.*?</section>', html_of(bench), re.DOTALL)[0]
    first = re.search(r"<button type=\"button\" (.*?)>", table)[1]
    assert 'data-method="MiCoTA" data-b="Instruct"' in first and 'data-filter="ab"' in first


def test_the_page_says_how_the_merge_was_made_what_overlaps_and_where_values_come_from(bench):
    outcomes = bench.outcomes()
    merge, overlap = outcomes.directory("merge/ta"), outcomes.directory("overlap")
    health = {"prompts": 1, "ended": 1, "mean_response_tokens": 9.0}
    results = {"compatibility": {"cosine": {"after": 0.9987}}, "health": health}
    facts = {"seconds": 7200.0, "commands": ["mergekit-yaml merge.yaml model"], "host": "here"}
    facts |= {
        "outputs": {"model/config.json": {"bytes": 3, "sha256": "f" * 64}},
        "versions": {"mergekit": "0.1.5"},
    }
    write_json(merge / "done.json", {"results": results, **facts})
    answer = {
        "id": "p1",
        "prompt": "1+1?",
        "response": HOSTILE,
        "response_tokens": 9,
        "finish_reason": "stop",
    }
    write_jsonl(merge / "answers.jsonl", [answer])
    counts = {"problems": 8, "problems_shared": 1, "prompts_shared": 1, "identical": 0}
    found = {"prompts": 720, "ngram": 13, "benchmarks": {"tiny_two": counts}}
    write_json(overlap / "done.json", {"results": found})
    pair = {"benchmark": "tiny_two", "problem": "tiny-two-1", "prompt": "p1", "identical": False}
    write_jsonl(overlap / "pairs.jsonl", [{**pair, "ngram": "a run of <b>words</b>"}])
    html = html_of(bench)
    text = " ".join(re.sub("<[^>]+>", "", html).split())
    assert "by dare_ties, weight 0.5, density 0.5" in text and "with those before: 0.9987" in text
    assert "1 of 1 greedy answers ended" in text and HOSTILE not in html
    assert "<mark>a run of &lt;b&gt;words&lt;/b&gt;</mark>" in html and "1 of 8 problems share" in text
    assert "mergekit-yaml merge.yaml model" in html and "f" * 64 in html and "mergekit 0.1.5" in text
    assert "took 2.0 h" in text and "the plan's estimate for them was" in text
    row = re.search(r"<tr><td>assistants.ta.merge.weight</td>(.*?)</tr>", html)[1]
    assert row == "<td>0.5</td><td>none given</td><td>tiny-no-gap.yaml</td>"


def test_what_a_command_changes_is_not_said_to_come_from_the_paper(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"extends: {ROOT}/recipes/micota.yaml\nname: mine\ntables: {{table2: {{others: [MiCoTA]}}}}\n"
    )
    page = write_report(sweep(recipe, overrides=["train.learning_rate=3e-5"]), tmp_path / "runs").read_text()
    rows = dict(re.findall(r"<tr><td>(train\.\w+)</td><td>.*?</td><td>(.*?)</td>", page))
    assert rows["train.learning_rate"].startswith("changed (was paper: ")
    assert rows["train.weight_decay"].startswith("paper: appendix 6.2")


def test_variants_have_a_page_with_their_course_and_a_link_to_each(tmp_path):
    swept = sweep(TINY, {"assistants.ta.merge.weight": [0.3, 0.5]})
    for name, one in swept.variants.items():
        made = Bench(tmp_path, "assistants.ta.merge.weight=" + name.partition("=")[2])
        assert made.plan == one.plan
        made.finish("evaluate/student-s/MiCoTA", two="1110" if "0.3" in name else "1000", three="1000")
    page = write_report(swept, tmp_path)
    html = page.read_text()
    assert page.name == "report.html" and "<polyline" in html and "weight=0.5" in html
    table = html[html.index("<table") : html.index("</table>")]
    assert (
        "missing" not in table and table.count("student-s/MiCoTA") == 2 and "more rows have no number" in html
    )
    links = re.findall(r'href="([^#"]+)"', html)
    assert len(links) == 2 and all((page.parent / link.replace("%3D", "=")).is_file() for link in links)


def test_the_page_of_the_papers_recipe_with_long_responses_stays_below_5_mb(tmp_path):
    made = Bench(tmp_path, recipe=ROOT / "recipes" / "micota.yaml")
    tasks = list(made.recipe.evaluation.tasks)
    for slot in (slot for slot in made.plan.slots if slot.startswith("evaluate/")):
        directory = made.outcomes().directory(slot)
        keys = [(task, str(n)) for task in tasks for n in range(15)]
        numbers = {"legacy": 1, "symbolic": 1, "truncated": 0, "response_tokens": 4000, "reflections": 3}
        write_jsonl(directory / "problems.jsonl", [{"task": task, "id": n, **numbers} for task, n in keys])
        text = {"problem": "What is it?", "target": "1", "response": "Wait, that is not so. " * 700}
        write_jsonl(directory / "samples.jsonl", [{"task": task, "id": n, **text} for task, n in keys])
        score = {"n": 15, "legacy": 15, "symbolic": 15, "truncated": 0, "mean_response_tokens": 4000.0}
        write_json(directory / "done.json", {"results": dict.fromkeys(tasks, score), "seconds": 60.0})
    html = write_report(sweep(ROOT / "recipes" / "micota.yaml"), tmp_path).read_text()
    assert len(html.encode()) < 5_000_000 and len(cases_of(html)) == 75


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_in_a_browser_the_responses_of_two_methods_stand_side_by_side(bench):
    samples = bench.outcomes().directory("evaluate/student-s/MiCoTA") / "samples.jsonl"
    write_jsonl(samples, [{**row, "response": HOSTILE} for row in read_jsonl(samples)])
    page = write_report(sweep(TINY), bench.workspace)
    argv = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=9000",
        "--dump-dom",
    ]
    argv.append(page.as_uri())
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '<span id="place" aria-live="polite">1 of 16</span>' in shown and "taken</title>" not in shown
    left = re.search(r'id="left">(.*?)</div>', shown, re.DOTALL)[1]
    assert "<strong>student-s, MiCoTA: " in left and "<mark>wait</mark>" in left and "&lt;/script&gt;" in left
    assert '<span class="fork" title="here they part">' in left


class Keys:
    """A page in headless Chromium that is given nothing but keys (DevTools protocol)."""

    def __init__(self, socket):
        self.socket, self.sent = socket, 0

    async def call(self, method, **values):
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": values})
        while (said := await self.socket.receive_json()).get("id") != self.sent:
            pass
        return said["result"]

    async def press(self, key, times=1):
        code = {"Tab": 9, "Enter": 13, "ArrowDown": 40, " ": 32}[key]
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                more = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
                values = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **more}
                await self.call("Input.dispatchKeyEvent", **values)

    async def said(self, expression):
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")


async def by_keyboard(page, home, steps):
    """What `steps` returns, which is given a page's Keys."""
    argv = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    child = await asyncio.create_subprocess_exec(
        *argv, f"--user-data-dir={home}", page.as_uri(), stderr=subprocess.DEVNULL
    )
    try:
        port = home / "DevToolsActivePort"
        while not (port.is_file() and len(port.read_text().split()) == 2):
            await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session:
            tabs: list = []
            while not tabs:
                asked = await session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json")
                tabs = [tab for tab in await asked.json() if tab["url"] == page.as_uri()]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                keys = Keys(socket)
                while not await keys.said("cases.length"):
                    await asyncio.sleep(0.1)
                return await steps(keys)
    finally:
        child.terminate()
        await child.wait()


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_by_keyboard_alone_a_cell_is_reached_seen_and_opened(bench, tmp_path):
    page = write_report(sweep(TINY), bench.workspace)

    async def steps(keys):
        focus = "document.activeElement"
        for _ in range(60):
            await keys.press("Tab")
            if await keys.said(f"{focus}.dataset.method") == "Instruct":
                break
        outline = await keys.said(
            f"getComputedStyle({focus}).outlineStyle + getComputedStyle({focus}).outlineWidth"
        )
        await keys.press("Enter")
        chosen = await keys.said(
            "[at('a'), at('task')].map(one => one.selectedOptions[0].textContent).join()"
        )
        reached = await keys.said(f"{focus}.id")
        await keys.press("Enter")
        place = await keys.said("at('place').textContent")
        after = []
        for _ in range(3):
            await keys.press("Tab")
            after.append(await keys.said(f"{focus}.getAttribute('aria-label')"))
        return outline, chosen, reached, place, after

    outline, chosen, reached, place, after = asyncio.run(
        asyncio.wait_for(by_keyboard(page, tmp_path / "profile", steps), 120)
    )
    assert outline == "solid2px" and chosen == "student-s: Instruct,Two-step"
    assert reached == "next" and place == "2 of 8"
    assert after[:2] == ["response of Instruct", "response of MiCoTA"]
