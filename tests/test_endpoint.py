"""Many requests to servers that fail: each is answered once, or its error is seen."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, TINY
from servers import ANSWER, FaultyServer, client_argv, completion

from micota_lf.backends import Request, endpoint, open_backend
from micota_lf.errors import StepFailed, UserError
from micota_lf.inputs.chat import load_chat
from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.load import load_recipe
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate, summary_lines
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

MODEL = ModelRef("m")
GARBAGE = ["<html>", {}, {"choices": []}, [], completion("chat", "half", reason="abort")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in (("BACKOFF_SECONDS", 0.01), ("PROBE_SECONDS", 0.05), ("GIVE_UP_SECONDS", 1.0)):
        monkeypatch.setattr(endpoint, name, value)


@pytest.fixture
def serve():
    """A function that starts servers, which end with the test."""
    started = []

    def start(*args, **more):
        started.append(FaultyServer(*args, **more))
        return started[-1]

    yield start
    for server in started:
        server.released.set()
        server.stop()


@pytest.fixture
def opening(tmp_path):
    """A student whose chat template opens a thought in the prompt, as R1-Distill's and QwQ's do."""
    directory = shutil.copytree(ModelRef("tiny:student-s").local, tmp_path / "opening")
    head, tail = (directory / "chat_template.jinja").read_text().rsplit("assistant\n", 1)
    (directory / "chat_template.jinja").write_text(f"{head}assistant\n<think>\n{tail}")
    return str(directory)


def asking(*servers, **more):
    """How responses come from these servers."""
    return Generation(backend="endpoint", endpoints=[server.url for server in servers], **more)


def asked(*servers, n=30, model="m", **more):
    """Completions by id; each id came exactly once."""
    requests = [Request(str(i), [{"role": "user", "content": f"prompt {i}"}]) for i in range(n)]
    with open_backend(ModelRef(model), asking(*servers, **more)) as backend:
        found = list(backend.complete(requests))
    assert sorted(c.id for c in found) == sorted(request.id for request in requests)
    return {c.id: c for c in found}


@pytest.mark.parametrize("fault", [500, 503, 429, 408, "drop", *GARBAGE], ids=str)
def test_a_request_that_fails_once_is_answered_all_the_same(serve, fault):
    server = serve(fault=lambda prompt, nth: fault if nth == 1 and prompt.endswith("3") else None)
    found = asked(server)
    assert all(c.text == ANSWER and c.error is None for c in found.values())
    assert server.asked["prompt 3"] == 2 and server.asked["prompt 4"] == 1


@pytest.mark.parametrize("fault", [500, "drop", "<html>"])
def test_a_request_that_always_fails_is_an_error_and_ends_no_other(serve, fault):
    server = serve(fault=lambda prompt, nth: fault if prompt == "prompt 3" else None)
    found = asked(server)
    assert server.asked["prompt 3"] == endpoint.TRIES and "(tried 6 times)" in found["3"].error
    assert [c.id for c in found.values() if c.error] == ["3"]


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_request_that_is_refused_is_an_error_at_once(serve, status):
    server = serve(fault=lambda prompt, nth: status if prompt == "prompt 3" else None)
    found = asked(server)
    assert server.asked["prompt 3"] == 1 and f"status {status}: " in found["3"].error


def test_a_server_that_takes_few_at_a_time_gets_few(serve):
    server = serve(delay=0.01)
    server.fault = lambda prompt, nth: 429 if server.busy > 4 else None
    found = asked(server, n=200)
    assert not any(c.error for c in found.values())


def test_servers_share_the_work_and_each_is_asked_so_much_at_a_time(serve, monkeypatch):
    monkeypatch.setattr(endpoint, "ROOM", 10)
    monkeypatch.setattr(endpoint, "MOST_ROOM", 10)
    servers = [serve(delay=0.05), serve(delay=0.05)]
    asked(*servers, n=200)
    # On a busy machine one of them may stand still for a while.
    assert all(20 < server.asked.total() < 180 and server.most_busy <= 10 for server in servers)


def test_few_requests_are_shared_too_and_all_run_at_once(serve):
    servers = [serve(delay=0.2), serve(delay=0.2)]
    asked(*servers, n=20)
    assert [server.asked.total() for server in servers] == [10, 10]
    assert all(server.most_busy == 10 for server in servers)


def test_a_server_that_was_full_gets_more_again(serve):
    server, later = serve(delay=0.01), []

    def fault(prompt, nth):
        if server.asked.total() > 600:  # the first 512 came at once
            later.append(server.busy)
        return 429 if not later and server.busy > 2 else None

    server.fault = fault
    found = asked(server, n=2000)
    assert not any(c.error for c in found.values()) and later[0] < 10 < max(later)


def test_a_server_that_dies_is_taken_out_and_comes_back(serve, monkeypatch, capsys):
    monkeypatch.setattr(endpoint, "ROOM", 4)
    monkeypatch.setattr(endpoint, "MOST_ROOM", 4)
    first, second = serve(delay=0.02), serve(delay=0.02)
    sampling = Generation(backend="endpoint", endpoints=[first.url, second.url + "/v1/"])
    requests = [Request(str(n), [{"role": "user", "content": str(n)}]) for n in range(400)]
    before = None
    found = []
    with open_backend(MODEL, sampling) as backend:
        for completion_ in backend.complete(requests):
            found.append(completion_)
            if len(found) == 40:
                second.stop()
            if len(found) == 160:
                before = second.asked.total()
                second.start(second.port)
    assert sorted(c.id for c in found) == sorted(r.id for r in requests)
    assert not any(c.error for c in found)
    assert second.asked.total() > before + 20
    said = capsys.readouterr().err
    assert f"{second.url} has failed 3 times in a row" in said and said.count(f"{second.url} answers") == 2


def test_what_a_hanging_server_holds_goes_to_another(serve, monkeypatch):
    monkeypatch.setattr(endpoint, "PROBE_TIMEOUT", 1.0)
    well, hanging = serve(), serve()
    # Once it is asked for a completion, its list of models hangs too.
    hanging.fault = lambda prompt, nth: (hanging.server.shutdown(), "hang")[1]
    found = asked(well, hanging)
    assert all(c.text == ANSWER for c in found.values()) and hanging.asked.total() > 0


def test_with_all_servers_gone_what_is_left_is_seen_and_the_next_run_completes(serve, tmp_path, capsys):
    server, out = serve(delay=0.05), tmp_path / "out.jsonl"
    prompts = Prompts("tiny:two", limit=40)
    sampling = asking(server)
    seen = itertools.count()
    server.fault = lambda prompt, nth: (server.stop(), "drop")[1] if next(seen) >= 12 else None
    with pytest.raises(StepFailed, match=r"of 40 responses in .* failed, the first .*no endpoint is left"):
        generate(MODEL, prompts, out, sampling)
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    other = serve()  # another address: how, not what
    assert generate(MODEL, prompts, out, asking(other))["responses"] == 40
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    assert {row["status"] for row in rows} == {"ok"} and 0 < other.asked.total() <= 40


def test_a_model_that_no_endpoint_serves_is_refused_and_each_is_named(serve, tmp_path):
    server, out = serve(model="other"), tmp_path / "out.jsonl"
    gone = serve()
    gone.stop()
    sampling = asking(server, gone)
    with pytest.raises(UserError) as caught:
        generate(MODEL, Prompts("tiny:two", limit=2), out, sampling)
    assert f"generation.endpoints: {server.url} does not serve m, only other" in str(caught.value)
    assert f"{gone.url} does not answer" in str(caught.value) and not out.exists()
    assert len(asked(server, serve(), n=4)) == 4  # one that serves it is enough
    assert not server.asked


def test_the_key_is_sent_and_told_to_nobody(serve, tmp_path, monkeypatch, capsys):
    server, out = serve(fault=lambda prompt, nth: 400 if nth == 1 else None), tmp_path / "out.jsonl"
    prompts, sampling = Prompts("tiny:two", limit=3), asking(server, api_key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="api_key_env: SOME_KEY is not set"):
        generate(MODEL, prompts, out, sampling)
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with pytest.raises(StepFailed) as failed:  # the server's refusal repeats the key
        generate(MODEL, prompts, out, sampling)
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in server.headers[:4])
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    told = "".join(capsys.readouterr()) + str(failed.value)
    assert "***" in files and "sk-secret" not in files + told
    assert generate(MODEL, prompts, out, sampling)["responses"] == 3


def test_an_address_with_a_password_is_refused():
    with pytest.raises(UserError, match=r"http\(s\) addresses? without user and password"):
        load_recipe(TINY, ["generation.backend=endpoint", "generation.endpoints=[http://user:pass@host]"])


def test_all_that_a_server_has_defaults_for_is_said(serve):
    server = serve()
    asked(server, n=1, max_tokens=7)
    path, body = server.bodies[0]
    seed = body.pop("seed")
    assert path == "/v1/chat/completions" and isinstance(seed, int)
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "prompt 0"}], "max_tokens": 7,
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("raw", [False, True])
def test_a_context_length_leaves_each_response_what_its_prompt_leaves(serve, raw):
    server, student = serve(model="tiny:student-s"), ModelRef("tiny:student-s")
    texts = {"short": "What is 1+1?", "long": "What is 1+1?" * 20}
    requests = [Request(i, [{"role": "user", "content": t}], raw) for i, t in texts.items()]
    with open_backend(student, asking(server, max_tokens=200, context_len=300)) as backend:
        assert all(not made.error for made in backend.complete(requests))
    counts = load_chat(student).counts
    for _, body in server.bodies:
        prompt = body["prompt"] if raw else load_chat(student).prompt(body["messages"])
        assert body["max_tokens"] == min(200, 300 - counts([prompt])[0])
    assert {body["max_tokens"] == 200 for _, body in server.bodies} == {True, False}


def test_a_context_length_needs_the_models_tokenizer(serve):
    with pytest.raises(UserError, match=r"generation.context_len: prompts cannot be counted: m: has no tok"):
        asked(serve(), context_len=300)


def test_the_raw_prompt_is_the_official_repositorys(serve, tmp_path):
    server = serve()
    write_jsonl(tmp_path / "p.jsonl", [{"problem": "What is 1+1?"}])
    sampling = Generation(backend="endpoint", endpoints=[server.url], prompt_format="raw")
    generate(MODEL, Prompts(str(tmp_path / "p.jsonl")), tmp_path / "out.jsonl", sampling)
    path, body = server.bodies[0]
    assert path == "/v1/completions" and body["prompt"] == (
        "What is 1+1?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"reasoning_content": "Hm."}, "<think>\nHm.\n</think>\n\n2"),
        ({"reasoning": "Hm."}, "<think>\nHm.\n</think>\n\n2"),
        ({}, "<think>\n2"),
        ({"content": "<think>\nHm.\n</think>2"}, "<think>\nHm.\n</think>2"),
        ({"content": None, "reasoning": "Hm"}, "<think>\nHm"),
    ],
)
def test_a_thought_is_whole_wherever_the_server_puts_it(serve, opening, message, text):
    answer = completion("chat", "2", **message)
    server = serve(model=opening, fault=lambda prompt, nth: answer)
    (made,) = asked(server, n=1, model=opening).values()
    assert made.text == text


def test_a_killed_client_goes_on_with_each_id_once_on_other_endpoints(serve, tmp_path):
    slow, out = serve(model="m", delay=0.3), tmp_path / "out.jsonl"
    seen = itertools.count()
    slow.fault = lambda prompt, nth: None if next(seen) < 9 else "hang"
    sampling = {"backend": "endpoint", "endpoints": [slow.url]}
    argv = client_argv("m", {"path": "tiny:two", "limit": 30}, out, sampling)
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL) as client:
        while not out.exists() or len(out.read_text().splitlines()) < 9:
            assert client.poll() is None
            time.sleep(0.02)
        os.kill(client.pid, signal.SIGKILL)
    out.write_bytes(out.read_bytes() + '{"id": "torn", "response": "½'.encode()[:-1])
    generate(MODEL, Prompts("tiny:two", limit=30), out, asking(serve(), serve()))
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 30


def test_a_set_resumed_with_other_numerics_lists_both(serve, tmp_path):
    server, out = serve(), tmp_path / "out.jsonl"
    server.fault = lambda prompt, nth: 400 if nth == 1 and server.asked.total() > 2 else None
    sampling = asking(server)
    with pytest.raises(StepFailed):
        generate(MODEL, Prompts("tiny:two", limit=4), out, sampling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint.Server, "version", lambda self: "vllm 9.9")
        generate(MODEL, Prompts("tiny:two", limit=4), out, sampling)
    assert read_json(out.with_suffix(".meta.json"))["numerics"] == [
        {"backend": "endpoint", "versions": ["vllm 0.0"]}, {"backend": "endpoint", "versions": ["vllm 9.9"]},
    ]  # fmt: skip


def test_a_prompt_file_that_changed_under_a_half_done_run_is_refused_with_the_ids(serve, tmp_path):
    rows = [{"id": f"p{n}", "problem": f"What is {n}?"} for n in range(6)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    out, prompts = tmp_path / "out.jsonl", Prompts(str(tmp_path / "p.jsonl"))
    sampling = Generation(backend="endpoint", endpoints=[serve().url])
    generate(MODEL, prompts, out, sampling)
    before = out.read_bytes()
    write_jsonl(
        tmp_path / "p.jsonl",
        [*rows[1:3], {"id": "p3", "problem": "What?"}, *rows[4:], {**rows[0], "id": "new"}],
    )
    with pytest.raises(UserError, match=r"problems.p0: .* -> ..absent.*p3: .*new: .\(absent\). -> "):
        generate(MODEL, prompts, out, sampling)
    assert out.read_bytes() == before


def test_progress_and_lengths_are_said(serve, tmp_path, capsys):
    server = serve(
        fault=lambda prompt, nth: completion("chat", "a b c", reason="length") if "1" in prompt else None
    )
    summary = generate(MODEL, Prompts("tiny:two", limit=20), tmp_path / "o.jsonl", asking(server))
    said = capsys.readouterr().err
    assert "generate: 20/20 responses, " in said and " tokens/s, " in said and "s left" in said
    counts, lengths = summary_lines(summary)
    assert "cut at the limit" in counts and "response tokens: <=4: " in lengths
    asked = json.loads((tmp_path / "o.meta.json").read_text())["problems"]
    assert asked.keys() == {row["id"] for row in read_jsonl(tmp_path / "o.jsonl")}
