"""Evaluations that are killed and go on: the real lm-eval with a stand-in for vLLM, and with transformers."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from conftest import ROOT, TINY
from servers import STAND_IN
from test_server import gone, processes

from micota_lf import compile_plan, load_recipe
from micota_lf.backends.vllm import SPARE_TOKENS
from micota_lf.cli.main import main
from micota_lf.inputs.chat import load_chat
from micota_lf.inputs.problems import Prompts, chat, load_problems
from micota_lf.inputs.references import ModelRef
from micota_lf.stages import evaluate
from micota_lf.system.files import read_json

PROBLEMS = 120
ENGINES = {
    "vllm": ["evaluation.backend=vllm", f"engines.vllm={STAND_IN} --echo --pace 0.1"],
    "transformers": ["evaluation.batch_size=4", "evaluation.dtype=float32"],
}
VICTIMS = {"vllm": ["lm_eval", "server", "micota"], "transformers": ["lm_eval", "micota"]}


def arguments(out, *words):
    """Of `micota`: an evaluation of so many problems."""
    asked = ["evaluate", "--model", "tiny:student-s", "--tasks", "micota_tiny_two", "-o", str(out)]
    return [*asked, f"evaluation.limit={PROBLEMS}", "evaluation.max_gen_toks=64", *words]


def kept(out):
    """How many answers have been kept so far."""
    try:
        with closing(sqlite3.connect(f"file:{out}/cache/answers_rank0.db?mode=ro", uri=True)) as cache:
            return cache.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    except sqlite3.Error:
        return 0


def process_of(name, out):
    """One of the run's processes, by what it runs."""
    words = {"lm_eval": "bin/lm_eval", "server": "servers.py"}[name]
    return next(p.pid for p in processes(out / "-") if any(word.endswith(words) for word in p.cmdline()[1:2]))


def longest_prompt():
    """Tokens of the benchmark's longest prompt."""
    prompts, chats = Prompts("tiny:two"), load_chat(ModelRef("tiny:student-s"))
    return max(chats.counts(chats.prompt(chat(row["problem"], prompts)) for row in load_problems(prompts)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", [pytest.param("vllm", marks=pytest.mark.long), "transformers"])
def test_killed_it_asks_only_what_is_missing_and_ends_as_an_undisturbed_one(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out, whole, said = tmp_path / "killed", tmp_path / "whole", tmp_path / "said"
    argv = [sys.executable, "-m", "micota_lf", *arguments(out, *ENGINES[backend])]
    for victim in VICTIMS[backend]:
        with said.open("w") as log:
            client = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        for _ in range(1 if victim == "micota" else 2):  # an engine that died is tried once more
            before = kept(out)
            while kept(out) < before + 5:
                assert client.poll() is None, said.read_text()
                time.sleep(0.05)
            assert re.fullmatch(r"\d+/\d+ requests", evaluate.progress(out))
            os.kill(client.pid if victim == "micota" else process_of(victim, out), signal.SIGKILL)
        assert client.wait(60) == (-signal.SIGKILL if victim == "micota" else 1)
        if victim != "micota":
            reason = "lm_eval was killed" if victim == "lm_eval" else "the vLLM server has died"
            assert reason in read_json(out / "failed.json")["error"]
        assert gone(out / "-"), processes(out / "-")
    answered = kept(out)
    assert answered < PROBLEMS
    for directory in (out, whole):
        assert main(arguments(directory, *ENGINES[backend])) == 0
    log = (out / "log.txt").read_text(errors="replace")
    cached, asked = map(int, re.findall(r"Cached requests: (\d+), Requests remaining: (\d+)", log)[-1])
    assert cached >= answered and cached + asked == PROBLEMS
    if backend == "vllm":
        served = [line for line in (out / "server.log").read_text().splitlines() if line.startswith("asked")]
        assert len(served) == asked
        command = read_json(whole / "done.json")["commands"][-1]
        assert '"num_concurrent": 512' in command and '"seed": null' in command
        started = (whole / "server.log").read_text().splitlines()[0]
        assert f"--max-model-len {longest_prompt() + 64 + SPARE_TOKENS} --generation-config vllm" in started
    for name in ("samples.jsonl", "problems.jsonl", "scores.json", "numerics.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (out / "cache").exists()
    outputs = [sorted(read_json(directory / "done.json")["outputs"]) for directory in (out, whole)]
    assert outputs[0] == outputs[1] == ["numerics.json", "problems.jsonl", "samples.jsonl", "scores.json"]


def test_kept_answers_that_cannot_be_read_are_forgotten_and_others_are_not(tmp_path):
    from sqlitedict import SqliteDict  # lm-eval's cache

    file = tmp_path / "cache" / "answers_rank0.db"
    words = ["--use_cache", str(tmp_path / "cache" / "answers")]
    assert evaluate.kept_answers(tmp_path / "cache") == words and not file.exists()
    file.parent.mkdir()
    with SqliteDict(file, autocommit=True) as cache:
        for number in range(99):
            cache[str(number)] = "answer" * 1000
    evaluate.kept_answers(tmp_path / "cache")
    assert kept(tmp_path) == 99
    whole = file.read_bytes()
    for torn in (whole[: len(whole) // 2], b"no database" * 100, whole[:20_000] + bytes(len(whole) - 20_000)):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(torn)
        evaluate.kept_answers(tmp_path / "cache")
        assert not file.exists()


def test_what_cannot_be_served_is_refused_with_its_key(tmp_path, capsys):
    for word, said in {
        "evaluation.max_gen_toks=1000": "evaluation.max_gen_toks: 1000 and the longest prompt",
        "engines.vllm=no-such-server": "engines: 'no-such-server' was not found",
    }.items():
        words = arguments(tmp_path / word, "evaluation.backend=vllm", f"engines.vllm={STAND_IN}", word)
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_an_evaluation_is_split_and_served_as_its_step_says_and_known_by_neither():
    plans = [
        compile_plan(
            load_recipe(
                TINY,
                ["evaluation.backend=vllm", "hardware.gpus=2", "hardware.train_gpus=1", f"hardware.{key}"],
            )
        )
        for key in ("inference_gpus=1", "inference_gpus=2")
    ]
    one, two = (plan.steps[plan.slots["evaluate/student-s/Instruct"]] for plan in plans)
    assert one.id == two.id and two.how["server"] == "vllm serve"
    assert (two.gpus, two.how["tensor_parallel"], two.how["data_parallel"]) == (2, 2, 1)
    assert (one.gpus, one.how["tensor_parallel"]) == (1, 1)
    tiny = compile_plan(load_recipe(TINY))
    assert "server" not in tiny.steps[tiny.slots["evaluate/student-s/Instruct"]].how
