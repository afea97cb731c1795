"""Evaluation and BPC by vLLM against the transformers backend, both real, on the CPU.

`make test-vllm` makes the environment that MICOTA_VLLM_PYTHON names.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from conftest import ROOT, TINY
from test_evaluation import kept
from test_server import gone, processes
from widened import widened

from micota_lf import evaluate_command, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.chat import THINK
from micota_lf.stages.evaluate import lm_eval_samples
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

PYTHON = os.environ.get("MICOTA_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="MICOTA_VLLM_PYTHON names no Python with vLLM (make test-vllm)"
)
# Eager: compiling takes longer than all the answers.
SERVER = f"{PYTHON} -m vllm.entrypoints.openai.api_server --enforce-eager"
IN_PROCESS = ["evaluation.backend=vllm", f"engines.lm_eval={PYTHON} -m lm_eval"]
EVALUATION = {"transformers": [], "vllm": ["evaluation.backend=vllm", f"engines.vllm={SERVER}"]}
BPC = {"transformers": [], "vllm": IN_PROCESS}
TASKS = ["micota_tiny_two", "micota_tiny_three"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """With a template that opens a thought, as R1-Distill's does, and sampling values to be left alone."""
    directory = widened("tiny:teacher", tmp_path_factory.mktemp("models") / "teacher")
    opens = "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text().rstrip("\n") + opens)
    shipped = directory / "generation_config.json"
    values = {"repetition_penalty": 1.3, "top_k": 2, "min_p": 0.5, "temperature": 2.0, "do_sample": True}
    shipped.write_text(json.dumps({**json.loads(shipped.read_text()), **values}))
    return str(directory)


@pytest.fixture(scope="module", autouse=True)
def environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # the task files' helpers, in vLLM's environment
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        yield


def arguments(model, out, *words, tasks=TASKS):
    settings = {"max_gen_toks": 320, "dtype": "float32", "batch_size": 50, "limit": 50}
    said = [f"evaluation.{key}={value}" for key, value in settings.items()]
    return ["evaluate", "--model", model, "--tasks", ",".join(tasks), "-o", str(out), *said, *words]


def found(out):
    """What an evaluation says of each problem."""
    files = (out / file for file in ("samples.jsonl", "problems.jsonl"))
    return [{**text, **row} for text, row in zip(*map(read_jsonl, files), strict=True)]


@pytest.fixture(scope="module")
def undisturbed(teacher, tmp_path_factory):
    """An evaluation by vLLM."""
    out = tmp_path_factory.mktemp("undisturbed") / "vllm"
    assert main(arguments(teacher, out, *EVALUATION["vllm"])) == 0
    return out


def test_vllm_by_server_or_in_lm_evals_process_and_transformers_give_the_same_greedy_answers(
    teacher, undisturbed, tmp_path
):
    local = tmp_path / "transformers"
    assert main(arguments(teacher, local, *EVALUATION["transformers"])) == 0
    rows = found(undisturbed)
    assert rows == found(local) and len(rows) == 100
    assert not any(THINK in row["response"] for row in rows)  # it stands in the prompt
    numerics = read_json(undisturbed / "numerics.json")
    assert numerics["versions"] == ["vllm 0.32.0"] and numerics["dtype"] == "float32"
    assert gone(undisturbed / "-")
    limits = ["evaluation.max_gen_toks=320", "evaluation.dtype=float32", "evaluation.limit=50"]
    recipe = load_recipe(TINY, [*IN_PROCESS, *limits])
    command = evaluate_command(recipe, teacher, str(tmp_path / "by hand"))
    subprocess.run([*command, "--predict_only"], check=True)
    by_hand = [row for task in TASKS for row in lm_eval_samples(tmp_path / "by hand", task)]
    assert [row["filtered_resps"][0] for row in by_hand] == [row["response"] for row in rows]


def test_killed_among_vllms_answers_it_goes_on_and_ends_as_an_undisturbed_one(teacher, undisturbed, tmp_path):
    out, said = tmp_path / "killed", tmp_path / "said"
    backend, engine = EVALUATION["vllm"]
    words = arguments(teacher, out, backend, f"{engine} --max-num-seqs 4")  # many waves
    with said.open("w") as log:
        argv = [sys.executable, "-m", "micota_lf", *words]
        client = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    while kept(out) < 10:
        assert client.poll() is None, said.read_text()
        time.sleep(0.1)
    # All at once, as a machine that goes down: by itself the engine could answer the rest before it notices.
    for process in processes(out / "-"):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert client.wait(60) == -signal.SIGKILL and gone(out / "-")
    answered = kept(out)
    assert main(words) == 0
    log = (out / "log.txt").read_text(errors="replace")
    cached, asked = map(int, re.findall(r"Cached requests: (\d+), Requests remaining: (\d+)", log)[-1])
    assert 10 <= answered <= cached < 100 and cached + asked == 100
    assert found(out) == found(undisturbed)


def test_vllm_answers_anew_each_time_that_a_task_samples(tmp_path):
    student, out = widened("tiny:student-s", tmp_path / "student"), tmp_path / "out"
    words = ["evaluation.limit=4", *EVALUATION["vllm"]]
    assert main(arguments(str(student), out, *words, tasks=["micota_tiny_two_avg"])) == 0
    several = [row["response"] for row in found(out)]
    assert [len(responses) for responses in several] == [16] * 4
    assert max(len(set(responses)) for responses in several) > 1  # one seed for all would make all the same


def test_bpc_by_vllms_prompt_log_probabilities_is_that_of_transformers(teacher, tmp_path):
    """The last text is longer than the model's 512 positions: both split it, vLLM one token earlier."""
    texts = ["So 12 + 30 = 42.", "<think>\n3 * 4 = 12\n</think>\n\\boxed{12}", "Wait, is it? " * 200]
    rows = [{"id": str(n), "prompt": "What is it?", "response": text} for n, text in enumerate(texts)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    values = {}
    for name, words in BPC.items():
        asked = ["--model", teacher, "--corpus", str(tmp_path / "corpus.jsonl"), "-o", str(tmp_path / name)]
        assert main(["bpc", *asked, "evaluation.dtype=float32", *words]) == 0
        values[name] = [row["bpc"] for row in read_jsonl(tmp_path / name / "texts.jsonl")]
    short, long = ({name: each[part] for name, each in values.items()} for part in (slice(2), slice(2, 3)))
    assert short["vllm"] == pytest.approx(short["transformers"], abs=1e-4) and len(short["vllm"]) == 2
    assert long["vllm"] == pytest.approx(long["transformers"], rel=1e-3) and len(long["vllm"]) == 1
