"""The real vLLM, on the CPU: `make test-vllm` makes its environment and names its Python.

The tiny family's heads are too small for vLLM's CPU attention, so a widened copy stands for it (benchmarks/
widened.py); that it answers as the original does is one of the claims.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, replace

import pytest
from conftest import ROOT
from servers import client_argv
from test_server import complete, gone, processes
from widened import widened

from micota_lf.backends import DEFAULT_LAUNCH, Launch, Request, endpoint, open_backend
from micota_lf.backends.vllm import serving, vllm_arguments
from micota_lf.errors import StepFailed
from micota_lf.inputs.problems import Prompts, chat, load_problems
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate
from micota_lf.system.files import read_json, read_jsonl
from micota_lf.system.machines import free_port

PYTHON = os.environ.get("MICOTA_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="MICOTA_VLLM_PYTHON names no Python with vLLM; `make test-vllm` makes one"
)
# Eager: compiling takes longer than all the answers.
ENGINE = f"{PYTHON} -m vllm.entrypoints.openai.api_server --enforce-eager"
PROMPTS = Prompts("tiny:three", limit=100)
ROWS = 320
GREEDY = Generation(max_tokens=190, dtype="float32")  # cuts about a third


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; a share of the machine's memory otherwise
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(widened("tiny:teacher", tmp_path_factory.mktemp("wide") / "teacher"))


def questions(sampling):
    raw = sampling.prompt_format == "raw"
    for row in load_problems(PROMPTS):
        yield Request(row["id"], chat(row["problem"], PROMPTS), raw)


def answers(model, sampling, launch=DEFAULT_LAUNCH):
    with open_backend(ModelRef(model), sampling, launch) as backend:
        return {c.id: c for c in backend.complete(questions(sampling))}, backend.numerics()


def transformers_tokens(model, sampling):
    """The tokens of each response by transformers, without the one that ends it."""
    with open_backend(ModelRef(model), sampling) as backend:
        decode, tokens = backend.tokenizer.decode, []
        backend.tokenizer.decode = lambda ids, **how: tokens.append(ids) or decode(ids, **how)
        return {c.id: tokens[n] for n, c in enumerate(backend.complete(questions(sampling)))}


@pytest.fixture(scope="module")
def local(model):
    """What transformers answers, by prompt format; and the model as it ships."""
    raw = replace(GREEDY, prompt_format="raw")
    return {"chat": answers(model, GREEDY)[0], "raw": answers(model, raw)[0],
            "as shipped": answers("tiny:teacher", GREEDY)[0]}  # fmt: skip


def test_a_widened_model_answers_as_the_original_does(local):
    assert local["chat"] == local["as shipped"]


def test_endpoint_answers_as_transformers_does_token_for_token(model, local, tmp_path, monkeypatch):
    """Equal texts, ends, token counts and tokens, in both prompt formats, and within a context length."""
    told, body, completion = {}, endpoint.Backend.body, endpoint.completion

    def read(request, answer, opened):
        told[request.id] = answer["choices"][0]["token_ids"]
        return completion(request, answer, opened)

    monkeypatch.setattr(endpoint.Backend, "body", lambda *asked: {**body(*asked), "return_token_ids": True})
    monkeypatch.setattr(endpoint, "completion", read)
    port = free_port()
    argv = [*ENGINE.split(), *vllm_arguments(ModelRef(model), GREEDY, Launch(), 512, port)]
    with serving(argv, port, tmp_path / "server.log") as (url, _):
        for prompt_format in ("chat", "raw"):
            asked = replace(GREEDY, backend="endpoint", endpoints=[url], prompt_format=prompt_format)
            found, numerics = answers(model, asked)
            assert found == local[prompt_format]
            assert {"stop", "length"} == {c.finish_reason for c in found.values()}
            tokens = {id: ids[:-1] if found[id].finish_reason == "stop" else ids for id, ids in told.items()}
            assert tokens == transformers_tokens(model, replace(GREEDY, prompt_format=prompt_format))
        bound = replace(GREEDY, prompt_format="raw", context_len=150)  # as the official code counts
        found, numerics = answers(model, replace(bound, backend="endpoint", endpoints=[url]))
        assert found == answers(model, bound)[0]
        assert max(c.prompt_tokens + c.response_tokens for c in found.values()) == 150
    assert numerics == {"versions": ["vllm 0.32.0"]} and gone(tmp_path / "-")


SAMPLING = Generation(backend="vllm", max_tokens=200, dtype="float32")
LAUNCH = Launch(f"{ENGINE} --max-num-seqs 16")
# One after the other: whatever the machine's pauses, a kill after the first few comes before the last.
SLOWLY = f"{ENGINE} --max-num-seqs 1"
TRAIN = Prompts("tiny:train", limit=ROWS)


@pytest.mark.long
def test_killed_as_client_as_server_and_as_both_it_completes_with_the_answers_of_transformers(
    model, tmp_path
):
    out, said, rows = tmp_path / "run" / "out.jsonl", tmp_path / "said", 0
    out.parent.mkdir()
    many = Prompts("tiny:train")
    argv = client_argv(model, asdict(many), out, asdict(SAMPLING), engine=SLOWLY)
    for victims in (["client"], ["server"], ["server", "client"]):
        with said.open("w") as log:
            client = subprocess.Popen(argv, cwd=ROOT, stderr=log, start_new_session=True)
        # New rows, so that the server answers.
        while not out.exists() or len(out.read_bytes().splitlines()) < rows + 5:
            assert client.poll() is None, said.read_text()
            time.sleep(0.05)
        (server,) = [p.pid for p in processes(out) if "vllm.entrypoints.openai.api_server" in p.cmdline()]
        assert len(processes(out)) >= 3  # client, server, vLLM's own
        for victim in victims:
            os.kill({"client": client.pid, "server": server}[victim], signal.SIGKILL)
        ended = client.wait(60)
        assert ended == (-signal.SIGKILL if "client" in victims else 1), len(out.read_bytes().splitlines())
        assert gone(out), processes(out)
        rows = len(out.read_bytes().splitlines()) - 1
        assert 0 < rows < 1200
    generate(ModelRef(model), many, out, SAMPLING, LAUNCH)
    assert complete(out, 1200) and gone(out)
    (numerics,) = read_json(out.with_suffix(".meta.json"))["numerics"]
    assert numerics["versions"] == ["vllm 0.32.0"] and numerics["dtype"] == "float32"
    local = tmp_path / "local.jsonl"
    generate(ModelRef(model), TRAIN, local, replace(SAMPLING, backend="transformers", batch_size=200))
    first = by_id(local)
    assert {id: row for id, row in by_id(out).items() if id in first} == first


def by_id(path):
    return {row["id"]: row for row in read_jsonl(path)}


def test_a_server_that_cannot_start_shows_why(model, tmp_path):
    long = widened("tiny:student-s", tmp_path / "long")
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4_000_000}))
    out = tmp_path / "out.jsonl"
    with pytest.raises(StepFailed) as failed:
        generate(ModelRef(str(long)), TRAIN, out, replace(SAMPLING, max_tokens=3_900_000), LAUNCH)
    said = str(failed.value)
    assert "KV cache" in said and "last lines of" in said and "generation.max_tokens" in said
    assert not out.exists() and gone(out)
