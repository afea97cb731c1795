"""A server of our own: its arguments, its start, and that nothing of it outlives us; a stand-in for vLLM."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, TINY
from servers import STAND_IN, client_argv

from micota_lf import compile_plan, load_recipe
from micota_lf.backends import Launch
from micota_lf.backends.vllm import vllm_arguments
from micota_lf.errors import StepFailed, UserError
from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate
from micota_lf.system.fields import joined
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

PROMPTS = Prompts("tiny:two", limit=30)
SAMPLING = Generation(backend="vllm", max_tokens=200)


def respond(out, model="tiny:teacher", engine=STAND_IN, parallel=1, **more):
    """Responses through a server that is started for them."""
    return generate(
        ModelRef(model), PROMPTS, out, Generation(**{**asdict(SAMPLING), **more}), Launch(engine, 1, parallel)
    )


def processes(out):
    """The server's processes: they run in the output's directory, or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.cwd() == str(out.parent) or str(out.parent) in " ".join(process.cmdline())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(out):
    """Wait until none is left; False if that takes too long."""
    deadline = time.monotonic() + 40
    while processes(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes(out)


def started(out, engine=STAND_IN):
    """A client in a process of its own, once it has written rows."""
    argv = client_argv("tiny:teacher", asdict(PROMPTS), out, asdict(SAMPLING), engine=engine)
    client = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while not out.exists() or not out.stat().st_size:
        assert client.poll() is None
        time.sleep(0.02)
    return client


def complete(out, number=30):
    rows = read_jsonl(out)
    return len(rows) == len({row["id"] for row in rows}) == number


def test_a_server_is_started_asked_and_stopped(tmp_path):
    out = tmp_path / "out.jsonl"
    respond(out)
    assert complete(out) and gone(out)
    (numerics,) = read_json(out.with_suffix(".meta.json"))["numerics"]
    assert numerics == {
        "backend": "vllm", "versions": ["vllm 0.0"], "dtype": "bfloat16", "tensor_parallel": 1,
        "data_parallel": 1, "attention": "FLASH_ATTN", "batch_invariant": False,
    }  # fmt: skip
    assert respond(out, parallel=2, gpu_memory_utilization=0.5)["responses"] == 30  # how, not what


def test_the_seconds_of_a_generation_begin_once_the_server_is_up_and_are_those_of_all_answers(tmp_path):
    out, late = tmp_path / "out.jsonl", tmp_path / "late.py"
    program = Path(__file__).parent / "servers.py"
    server = f"os.execv({sys.executable!r}, [{sys.executable!r}, {str(program)!r}, *sys.argv[1:]])"
    late.write_text(f"import os, sys, time; time.sleep(3); {server}")
    began = time.monotonic()
    made = respond(out, engine=f"{sys.executable} {late} --pace 0.05")
    assert 30 * 0.05 <= made["generation_seconds"] < time.monotonic() - began - 3
    assert "generation_seconds" not in respond(out)  # nothing was left to do
    write_jsonl(out, read_jsonl(out)[:20])
    assert "generation_seconds" not in respond(out) and complete(out)  # ten of thirty


def test_a_server_that_cannot_start_is_shown_with_its_last_words_and_the_cause(tmp_path):
    out = tmp_path / "out.jsonl"
    assert respond(out, max_tokens=900)["responses"] == 30
    out.unlink()
    with pytest.raises(UserError, match="exceed the model's 1024 positions"):
        respond(out, max_tokens=1000)
    with pytest.raises(StepFailed, match="the vLLM server has died"):
        respond(out, engine=f"{sys.executable} -c exit(3)")
    with pytest.raises(StepFailed) as failed:
        respond(out, long_model(tmp_path / "long"), f"{STAND_IN} --max-model-len 4000", max_tokens=3000)
    said = str(failed.value)
    assert "ValueError: not enough memory for max_model_len" in said and "see above" in said
    assert "gpu_memory_utilization" in said and not out.exists() and gone(out)


def test_a_context_length_bounds_what_the_server_is_started_for(tmp_path):
    out, model = tmp_path / "out.jsonl", long_model(tmp_path / "long")
    with pytest.raises(StepFailed, match="not enough memory for max_model_len"):
        respond(out, model, max_tokens=3000)
    assert respond(out, model, max_tokens=3000, context_len=1000)["responses"] == 30
    with pytest.raises(
        UserError, match=r"generation\.context_len: 20 leaves no room after the longest prompt"
    ):
        respond(tmp_path / "other.jsonl", context_len=20)


def long_model(directory):
    """The tiny teacher with more positions, on paper."""
    shutil.copytree(ModelRef("tiny:teacher").local, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return str(directory)


def test_an_engine_that_is_not_installed_is_refused(tmp_path):
    with pytest.raises(UserError, match="'no-such-vllm' was not found"):
        respond(tmp_path / "out.jsonl", engine="no-such-vllm serve")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_client_that_is_ended_and_the_next_run_completes(tmp_path, number):
    out = tmp_path / "out.jsonl"
    stubborn = " --stubborn" if number == signal.SIGKILL else ""  # an engine that ignores SIGTERM
    client = started(out, engine=f"{STAND_IN} --pace 0.2{stubborn}")
    assert len(processes(out)) >= 3  # client, server, engine
    client.send_signal(number)
    assert client.wait(40) != 0 and gone(out)
    assert 0 < len(out.read_bytes().splitlines()) < 30
    respond(out)
    assert complete(out)


@pytest.mark.parametrize("both", [False, True], ids=["server", "server and client"])
def test_nothing_is_left_of_a_server_that_crashes_and_the_next_run_completes(tmp_path, both, capsys):
    out = tmp_path / "out.jsonl"
    client = started(out, engine=f"{STAND_IN} --pace 0.2")
    servers = [p for p in processes(out) if p.cmdline()[1:2] == [str(Path(__file__).parent / "servers.py")]]
    for victim in [*servers, *([psutil.Process(client.pid)] if both else [])]:
        with suppress(psutil.NoSuchProcess):  # the kernel was faster: its parent is gone
            victim.kill()
    assert client.wait(40) == (-signal.SIGKILL if both else 1) and gone(out)
    respond(out)
    assert complete(out)


def test_arguments_for_a_32b_model_on_eight_gpus():
    words = ["generation.backend=vllm", "hardware.gpus=8", "hardware.inference_gpus=2"]
    recipe = load_recipe(ROOT / "recipes" / "micota.yaml", words)
    plan = compile_plan(recipe)
    step = plan.steps[plan.slots["generate/qwq"]]
    launch = joined(Launch, step.how)
    assert (launch.tensor_parallel, launch.data_parallel, step.gpus) == (2, 4, 8)
    arguments = vllm_arguments(ModelRef("Qwen/QwQ-32B", "main"), recipe.generation, launch, 17408, 8000)
    assert arguments == [
        "--model", "Qwen/QwQ-32B", "--host", "127.0.0.1", "--port", "8000", "--dtype", "bfloat16",
        "--seed", "0", "--max-model-len", "17408", "--generation-config", "vllm",
        "--tensor-parallel-size", "2", "--data-parallel-size", "4", "--gpu-memory-utilization", "0.9",
        "--uvicorn-log-level", "warning",
        "--revision", "main", "--tokenizer-revision", "main",
    ]  # fmt: skip


@pytest.mark.skipif(
    "MICOTA_VLLM_GPU_PYTHON" not in os.environ,
    reason="MICOTA_VLLM_GPU_PYTHON names no Python with the GPU build of vLLM",
)
def test_vllm_0_20_2_accepts_these_arguments():
    arguments = vllm_arguments(ModelRef("Qwen/QwQ-32B"), Generation(), Launch("", 2, 4), 17408, 8000)
    program = Path(__file__).parent / "parse_vllm.py"
    argv = [os.environ["MICOTA_VLLM_GPU_PYTHON"], str(program), "serve", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Qwen/QwQ-32B 2 4 17408 vllm" in done.stdout


@pytest.mark.parametrize(
    "override",
    [
        "hardware.inference_gpus=4", "hardware.gpus=4", "generation.gpu_memory_utilization=0.8",
        "engines.vllm=vllm serve --enforce-eager", "generation.endpoints=[http://a:1]",
    ],
)  # fmt: skip
def test_parallelism_and_addresses_change_no_step(override):
    words = ["generation.backend=vllm", "train.per_device_train_batch_size=1", "hardware.gpus=8"]
    steps = compile_plan(load_recipe(TINY, words)).steps
    assert set(compile_plan(load_recipe(TINY, [*words, override])).steps) == set(steps)
    raw = compile_plan(load_recipe(TINY, [*words, "generation.prompt_format=raw"])).steps
    assert {s.kind for i, s in raw.items() if i not in steps} >= {"generate", "filter", "train"}
