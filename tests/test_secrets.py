"""Tokens in the environment stay there: a run writes them to no file, no log and no command line."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from conftest import TINY

SECRETS = {
    "HF_TOKEN": "hf_plantedTokenOfTheHub0123456789", "OPENAI_API_KEY": "sk-plantedKeyOfAnotherService",
    "WANDB_API_KEY": "0123456789abcdefplantedWandbKey0123456789",
}  # fmt: skip
QUICK = [
    "generation.backend=fake", "filter.verdict=none", "prompts.limit=20", "engines.lm_eval=/bin/false",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_that_works_and_one_that_fails_write_no_token_anywhere(tmp_path):
    targets = ["--target", "mix/mix-long", "--target", "evaluate/student-s/Instruct"]
    words = ["run", str(TINY), "--workspace", str(tmp_path / "runs"), *targets, *QUICK]
    with (tmp_path / "out.txt").open("wb") as out:
        runner = subprocess.Popen(
            [sys.executable, "-m", "micota_lf", *words],
            env={**os.environ, **SECRETS}, cwd=tmp_path, stdout=out, stderr=out,
        )  # fmt: skip
        arguments = set()
        while runner.poll() is None:
            for process in psutil.Process(runner.pid).children(recursive=True):
                try:
                    arguments.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
            time.sleep(0.3)
    text = (tmp_path / "out.txt").read_text()
    assert runner.returncode == 1 and "step evaluate/student-s/Instruct failed" in text, text
    assert any("micota_lf step" in line for line in arguments)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = {path.name for path in files}
    expected = {"done.json", "failed.json", "step.json", "log.txt", "snakemake.log", "report.md", "last.json"}
    assert expected <= written
    for name, secret in SECRETS.items():
        assert not any(secret in line for line in arguments), name
        assert [path for path in files if secret.encode() in path.read_bytes()] == [], name
