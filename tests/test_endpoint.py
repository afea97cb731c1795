"""Many requests to servers that fail: each is answered once, or its error is seen."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from servers import ANSWER, FaultyServer, completion
from test_preflight import opening, template  # noqa: F401  (fixtures)

from micota_lf import StepFailed, UserError
from micota_lf.backends import api, endpoint
from micota_lf.backends.opening import Request, open_backend
from micota_lf.cli.main import main
from micota_lf.recipe.sections import Generation, Prompts
from micota_lf.stages.generate import generate
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

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


def asked(*servers, n=30, model="m", **more):
    """Completions by id; each id came exactly once."""
    requests = [Request(str(i), [{"role": "user", "content": f"prompt {i}"}]) for i in range(n)]
    sampling = Generation(backend="endpoint", endpoints=[server.url for server in servers], **more)
    with open_backend(model, sampling) as backend:
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


def test_servers_share_the_work_and_never_hold_all_of_it(serve, monkeypatch):
    monkeypatch.setattr(endpoint, "WINDOW", 10)
    monkeypatch.setattr(endpoint, "LARGEST_WINDOW", 10)
    servers, taken = [serve(delay=0.01), serve(delay=0.01)], []

    def requests():
        for n in range(200):
            taken.append(n)
            yield Request(str(n), [{"role": "user", "content": str(n)}])

    sampling = Generation(backend="endpoint", endpoints=[server.url for server in servers])
    with open_backend("m", sampling) as backend:
        for n, _ in enumerate(backend.complete(requests()), start=1):
            assert len(taken) <= n + 60  # two windows, and what is answered but not handed on yet
    assert all(60 < server.asked.total() < 140 and server.most_busy <= 10 for server in servers)


def test_a_server_that_dies_is_taken_out_and_comes_back(serve, monkeypatch, capsys):
    monkeypatch.setattr(endpoint, "WINDOW", 4)
    monkeypatch.setattr(endpoint, "LARGEST_WINDOW", 4)
    first, second = serve(delay=0.02), serve(delay=0.02)
    sampling = Generation(backend="endpoint", endpoints=[first.url, second.url + "/v1/"])
    requests = [Request(str(n), [{"role": "user", "content": str(n)}]) for n in range(400)]
    before = None
    found = []
    with open_backend("m", sampling) as backend:
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
    assert f"{second.url} has failed 3 times in a row" in said and f"{second.url} is back" in said


def test_what_a_hanging_server_holds_goes_to_another(serve, monkeypatch):
    monkeypatch.setattr(api, "PROBE_TIMEOUT", 1.0)
    well, hanging = serve(), serve()
    # Once it is asked for a completion, its list of models hangs too.
    hanging.fault = lambda prompt, nth: (hanging.server.shutdown(), "hang")[1]
    found = asked(well, hanging)
    assert all(c.text == ANSWER for c in found.values()) and hanging.asked.total() > 0


def test_with_all_servers_gone_what_is_left_is_seen_and_the_next_run_completes(serve, tmp_path, capsys):
    server, out = serve(delay=0.05), tmp_path / "out.jsonl"
    prompts = Prompts("tiny:two", limit=40)
    sampling = Generation(backend="endpoint", endpoints=[server.url])
    seen = itertools.count()
    server.fault = lambda prompt, nth: (server.stop(), "drop")[1] if next(seen) >= 12 else None
    with pytest.raises(StepFailed, match=r"of 40 responses in .* failed, the first .*no endpoint is left"):
        generate("m", prompts, out, sampling)
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    other = serve()  # another address: how, not what
    assert (
        generate("m", prompts, out, Generation(backend="endpoint", endpoints=[other.url]))["responses"] == 40
    )
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    assert {row["status"] for row in rows} == {"ok"} and 0 < other.asked.total() <= 40


def test_a_model_that_no_endpoint_serves_is_refused_and_each_is_named(serve, tmp_path):
    server, out = serve(model="other"), tmp_path / "out.jsonl"
    gone = serve()
    gone.stop()
    sampling = Generation(backend="endpoint", endpoints=[server.url, gone.url])
    with pytest.raises(UserError) as caught:
        generate("m", Prompts("tiny:two", limit=2), out, sampling)
    assert f"generation.endpoints: {server.url} does not serve m, only other" in str(caught.value)
    assert f"{gone.url} does not answer" in str(caught.value) and not out.exists()
    assert len(asked(server, serve(), n=4)) == 4  # one that serves it is enough
    assert not server.asked


def test_the_key_is_sent_and_told_to_nobody(serve, tmp_path, monkeypatch, capsys):
    server, out = serve(fault=lambda prompt, nth: 400 if nth == 1 else None), tmp_path / "out.jsonl"
    words = ["generate", "--model", "m", "--prompts", "tiny:two", "--limit", "3", "--backend", "endpoint"]
    words += ["--endpoints", server.url, "--api-key-env", "SOME_KEY", "-o", str(out)]
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert main(words) == 2
    assert "api_key_env: SOME_KEY is not set" in capsys.readouterr().err
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    assert main(words) == 1  # the server's refusal repeats the key
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in server.headers[:4])
    told = capsys.readouterr()
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "***" in files and "sk-secret" not in files + told.out + told.err
    assert main(words) == 0


def test_an_address_with_a_password_is_refused(capsys, tmp_path):
    words = ["generate", "--model", "m", "--prompts", "tiny:two", "--backend", "endpoint"]
    assert main([*words, "--endpoints", "http://user:pass@host", "-o", str(tmp_path / "o.jsonl")]) == 2
    assert "must be http(s) addresses without user and password" in capsys.readouterr().err


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


def test_the_raw_prompt_is_the_official_repositorys(serve, tmp_path):
    server = serve()
    write_jsonl(tmp_path / "p.jsonl", [{"problem": "What is 1+1?"}])
    sampling = Generation(backend="endpoint", endpoints=[server.url], prompt_format="raw")
    generate("m", Prompts(str(tmp_path / "p.jsonl")), tmp_path / "out.jsonl", sampling)
    path, body = server.bodies[0]
    assert path == "/v1/completions" and body["prompt"] == (
        "What is 1+1?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    with pytest.raises(UserError, match=r"prompt_format: raw prompts have no place for prompts\.system"):
        generate("m", Prompts("tiny:two", system="Be brief."), tmp_path / "other.jsonl", sampling)


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
def test_a_thought_is_whole_wherever_the_server_puts_it(serve, opening, message, text):  # noqa: F811
    answer = completion("chat", "2", **message)
    server = serve(model=opening, fault=lambda prompt, nth: answer)
    (made,) = asked(server, n=1, model=opening).values()
    assert made.text == text


def test_a_killed_client_goes_on_with_each_id_once_on_other_endpoints(serve, tmp_path):
    slow, out = serve(model="m", delay=0.3), tmp_path / "out.jsonl"
    seen = itertools.count()
    slow.fault = lambda prompt, nth: None if next(seen) < 9 else "hang"
    words = ["generate", "--model", "m", "--prompts", "tiny:two", "--limit", "30", "--backend", "endpoint"]
    argv = [sys.executable, "-m", "micota_lf", *words, "-o", str(out), "--endpoints"]
    with subprocess.Popen([*argv, slow.url], cwd=ROOT, stderr=subprocess.DEVNULL) as client:
        while not out.exists() or len(out.read_text().splitlines()) < 9:
            assert client.poll() is None
            time.sleep(0.02)
        os.kill(client.pid, signal.SIGKILL)
    out.write_bytes(out.read_bytes() + '{"id": "torn", "response": "½'.encode()[:-1])
    assert main([*argv[3:], serve().url, "--endpoints", serve().url]) == 0
    rows = read_jsonl(out)
    assert len(rows) == len({row["id"] for row in rows}) == 30


def test_a_set_resumed_with_other_numerics_lists_both(serve, tmp_path):
    server, out = serve(), tmp_path / "out.jsonl"
    server.fault = lambda prompt, nth: 400 if nth == 1 and server.asked.total() > 2 else None
    sampling = Generation(backend="endpoint", endpoints=[server.url])
    with pytest.raises(StepFailed):
        generate("m", Prompts("tiny:two", limit=4), out, sampling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.Api, "version", lambda self: "vllm 9.9")
        generate("m", Prompts("tiny:two", limit=4), out, sampling)
    assert read_json(out.with_suffix(".meta.json"))["numerics"] == [
        {"backend": "endpoint", "versions": ["vllm 0.0"]}, {"backend": "endpoint", "versions": ["vllm 9.9"]},
    ]  # fmt: skip


def test_a_prompt_file_that_changed_under_a_half_done_run_is_refused_with_the_ids(serve, tmp_path):
    rows = [{"id": f"p{n}", "problem": f"What is {n}?"} for n in range(6)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    out, prompts = tmp_path / "out.jsonl", Prompts(str(tmp_path / "p.jsonl"))
    sampling = Generation(backend="endpoint", endpoints=[serve().url])
    generate("m", prompts, out, sampling)
    before = out.read_bytes()
    write_jsonl(
        tmp_path / "p.jsonl",
        [*rows[1:3], {"id": "p3", "problem": "What?"}, *rows[4:], {**rows[0], "id": "new"}],
    )
    with pytest.raises(UserError, match="1 added: new; 1 removed: p0; 1 changed: p3"):
        generate("m", prompts, out, sampling)
    assert out.read_bytes() == before


def test_progress_and_lengths_are_said(serve, tmp_path, capsys):
    server = serve(
        fault=lambda prompt, nth: completion("chat", "a b c", reason="length") if "1" in prompt else None
    )
    words = ["generate", "--model", "m", "--prompts", "tiny:two", "--limit", "20", "--backend", "endpoint"]
    assert main([*words, "--endpoints", server.url, "-o", str(tmp_path / "o.jsonl")]) == 0
    told = capsys.readouterr()
    assert "generate: 20/20 responses, " in told.err and " tokens/s, " in told.err and "s left" in told.err
    assert "cut at the limit" in told.out and "response tokens: <=4: " in told.out
    assert json.loads((tmp_path / "o.prompts.json").read_text()).keys() == {
        row["id"] for row in read_jsonl(tmp_path / "o.jsonl")
    }
