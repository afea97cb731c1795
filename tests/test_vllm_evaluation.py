"""Evaluation and BPC by lm-eval's vLLM backend against its transformers backend, both real, on the CPU.

`make test-vllm` makes the environment that MICOTA_VLLM_PYTHON names.
"""

import os

import pytest
from conftest import ROOT
from widened import widened

from micota_lf.cli.main import main
from micota_lf.system.files import read_json, read_jsonl, write_jsonl

PYTHON = os.environ.get("MICOTA_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="MICOTA_VLLM_PYTHON names no Python with vLLM (make test-vllm)"
)
BACKENDS = {"transformers": [], "vllm": ["evaluation.backend=vllm", f"engines.lm_eval={PYTHON} -m lm_eval"]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return str(widened("tiny:teacher", tmp_path_factory.mktemp("models") / "teacher"))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the task files' helpers, in vLLM's environment
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB


def test_vllm_and_transformers_give_the_same_greedy_answers_to_a_benchmark(teacher, tmp_path):
    samples = {}
    for name, words in BACKENDS.items():
        asked = [
            "--model",
            teacher,
            "--tasks",
            "micota_tiny_two,micota_tiny_three",
            "-o",
            str(tmp_path / name),
        ]
        settings = {"max_gen_toks": 320, "dtype": "float32", "batch_size": 50, "limit": 50}
        said = [f"evaluation.{key}={value}" for key, value in settings.items()]
        assert main(["evaluate", *asked, *said, *words]) == 0
        files = (tmp_path / name / file for file in ("samples.jsonl", "problems.jsonl"))
        samples[name] = [{**text, **row} for text, row in zip(*map(read_jsonl, files), strict=True)]
        assert read_json(tmp_path / name / "numerics.json")["backend"] == name
    assert samples["vllm"] == samples["transformers"] and len(samples["vllm"]) == 100
    assert read_json(tmp_path / "vllm" / "numerics.json")["vllm"]


def test_bpc_by_vllms_prompt_log_probabilities_is_that_of_transformers(teacher, tmp_path):
    """The last text is longer than the model's 512 positions: both split it, vLLM one token earlier."""
    texts = ["So 12 + 30 = 42.", "<think>\n3 * 4 = 12\n</think>\n\\boxed{12}", "Wait, is it? " * 200]
    rows = [{"id": str(n), "prompt": "What is it?", "response": text} for n, text in enumerate(texts)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    values = {}
    for name, words in BACKENDS.items():
        asked = ["--model", teacher, "--corpus", str(tmp_path / "corpus.jsonl"), "-o", str(tmp_path / name)]
        assert main(["bpc", *asked, "evaluation.dtype=float32", *words]) == 0
        values[name] = [row["bpc"] for row in read_jsonl(tmp_path / name / "texts.jsonl")]
    short, long = ({name: each[part] for name, each in values.items()} for part in (slice(2), slice(2, 3)))
    assert short["vllm"] == pytest.approx(short["transformers"], abs=1e-4) and len(short["vllm"]) == 2
    assert long["vllm"] == pytest.approx(long["transformers"], rel=1e-3) and len(long["vllm"]) == 1
