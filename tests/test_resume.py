"""Engines that die or lack memory: what is tried again, what is said, and what comes out."""

import os
import signal
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from safetensors.numpy import load_file
from test_arrange import corpus, trained

from micota_lf import StepFailed, UserError, compile_plan, load_recipe
from micota_lf.errors import EngineDied, OutOfMemory
from micota_lf.inputs.weights import ModelSize
from micota_lf.run import step as steps
from micota_lf.run.step import execute, failure_report
from micota_lf.stages import Context, Stage
from micota_lf.stages.train import save_steps
from micota_lf.system import processes
from micota_lf.system.files import read_json

# A llamafactory-cli whose Python has DeepSpeed, if ours has not.
DEEPSPEED = os.environ.get("MICOTA_DEEPSPEED") or ("llamafactory-cli" if find_spec("deepspeed") else "")
TWO = ["hardware.cpu_processes=2", "train.global_batch_size=4", "train.num_train_epochs=1"]
OFTEN = ["train.save_strategy=steps", "train.save_steps=2"]


def kill_a_rank_after_a_checkpoint(directory):
    """Kill one of a training's processes, or the only one, as soon as a checkpoint is whole."""
    while not list(directory.glob("model/checkpoint-*/trainer_state.json")):
        time.sleep(0.02)
    here = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == directory:
                here[int(entry.name)] = (entry / "cmdline").read_text()
    ranks = [pid for pid, words in here.items() if "\0-u\0" in words and "launcher.py" in words]
    os.kill(
        (ranks or [pid for pid, words in here.items() if "llamafactory-cli" in words])[-1], signal.SIGKILL
    )


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["none", "zero3"])
def test_a_training_that_dies_is_resumed_once_and_ends_as_an_undisturbed_one(zero, tmp_path):
    """One process without DeepSpeed (transformers resumes no more on CPUs), two with it."""
    if zero != "none" and not DEEPSPEED:
        pytest.skip("no DeepSpeed here, and MICOTA_DEEPSPEED names no llamafactory-cli that has it")
    words = [*TWO, *OFTEN, f"train.deepspeed={zero}", f"train.use_cpu={str(zero == 'none').lower()}"]
    words += ["hardware.cpu_processes=1"] if zero == "none" else [f"engines.llamafactory={DEEPSPEED}"]
    rows = corpus(tmp_path / "corpus.jsonl", 40)
    calm, results, _ = trained(tmp_path / "calm", rows, *words)
    assert len(calm) == 10 and read_json(tmp_path / "calm" / "done.json")["died"] is None
    hurt = tmp_path / "hurt"
    killer = threading.Thread(target=kill_a_rank_after_a_checkpoint, args=(hurt,), daemon=True)
    killer.start()
    found, after, _ = trained(hurt, rows, *words)
    how = "was killed" if zero == "none" else "ended with exit code 1"
    assert how in read_json(hurt / "done.json")["died"]
    log = (hurt / "log.txt").read_text()
    assert log.count(processes.BEGIN) == 2 and "the step is tried once more" in log
    assert "Resuming training from" in log
    assert found == pytest.approx(np.array(calm), rel=1e-6)
    assert after["trained_tokens"] == results["trained_tokens"]
    assert after["train_loss"] == pytest.approx(results["train_loss"], rel=1e-6)
    ours, theirs = (load_file(at / "model" / "model.safetensors") for at in (hurt, tmp_path / "calm"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert not list(hurt.glob("model/checkpoint-*"))


SHORT_OF_MEMORY = """
import os
if os.environ.get("RANK") == "1":
    import torch
    def backward(*words, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.49 GiB.")
    torch.Tensor.backward = backward
"""


@pytest.mark.slow
def test_too_little_memory_on_one_rank_is_said_with_the_keys_that_help_and_not_tried_again(
    tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(StepFailed) as caught:
        trained(tmp_path / "step", corpus(tmp_path / "corpus.jsonl", 8), *TWO)
    said = str(caught.value)
    assert "rank 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.49 GiB" in said
    assert "train.per_device_train_batch_size" in said and "train.enable_liger_kernel" in said
    assert failure_report(tmp_path / "step").startswith(said)
    assert (tmp_path / "step" / "log.txt").read_text().count(processes.BEGIN) == 1


@pytest.mark.parametrize(("raised", "times"), [
    (EngineDied("it died"), 2), (OutOfMemory("too little"), 1), (StepFailed("stopped"), 1),
    (UserError("wrong"), 1), (KeyboardInterrupt(), 1),
])  # fmt: skip
def test_only_an_engine_that_died_is_tried_again_and_only_once(raised, times, tmp_path, monkeypatch):
    tried = []

    def run(context):
        tried.append(1)
        raise raised

    monkeypatch.setattr(steps, "stage", lambda kind: Stage(run))
    plan = compile_plan(load_recipe(TINY))
    with pytest.raises(type(raised)):
        execute(plan.steps[plan.slots["filter/strong"]], {}, tmp_path / "step", {})
    assert len(tried) == times


@pytest.mark.parametrize(("code", "error"), [("9", EngineDied), ("TERM", StepFailed), ("INT", StepFailed)])
def test_an_engine_that_somebody_stopped_has_not_died(code, error, tmp_path):
    with pytest.raises(StepFailed) as caught:
        Context(tmp_path, {}, {}, {}).engine(["sh", "-c", f"kill -s {code} $$"])
    assert type(caught.value) is error


def test_what_an_earlier_attempt_said_is_no_reason_of_the_last_one(tmp_path):
    step = Context(tmp_path, {}, {}, {})
    with pytest.raises(OutOfMemory, match="rank 3: RuntimeError: CUDA out of memory"):
        step.engine(["sh", "-c", "echo '[rank3]: RuntimeError: CUDA out of memory'; exit 1"])
    with pytest.raises(EngineDied):
        step.engine(["sh", "-c", "echo 'ValueError: no'; exit 1"])
    assert processes.last_errors(tmp_path / "log.txt")[-1] == "ValueError: no"


def test_too_little_memory_on_another_machine_is_the_reason(tmp_path):
    """Its words are in a log of its own (system/machines.py)."""
    processes.run_logged(
        ["echo", "[rank9]: torch.OutOfMemoryError: CUDA out of memory."],
        tmp_path,
        tmp_path / "log-machine1.txt",
    )
    with pytest.raises(OutOfMemory, match=r"rank 9: torch\.OutOfMemoryError"):
        Context(tmp_path, {}, {}, {}).engine(["sh", "-c", "echo 'connection lost'; exit 1"])


def test_warnings_and_the_launcher_are_no_reason(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(
        "[rank1]: ValueError: the cause\n" + "noise\n" * 50
        + "<frozen runpy>:128: RuntimeWarning: 'a.b' found in sys.modules\n  warnings.warn(\n"
        + "subprocess.CalledProcessError: Command '['torchrun']' returned non-zero exit status 1.\n"
    )  # fmt: skip
    lines = processes.last_errors(log)
    assert lines == ["rank 1: ValueError: the cause", *["noise"] * 8]


def test_checkpoints_are_half_an_hour_apart_by_the_estimate():
    how = {
        "processes": 8,
        "nodes": 1,
        "tflops": 312 * 0.35,
        "train": {"disable_gradient_checkpointing": False},
    }
    tokens = 32 * 3700
    steps = save_steps(how, ModelSize(14.8e9), tokens)
    seconds = steps * 8 * 14.8e9 * tokens / (8 * 312e12 * 0.35)
    assert 0.95 < seconds / 1800 < 1.05 and 100 < steps < 130
    assert save_steps(how, ModelSize(1e15), tokens) == 1
    assert save_steps(how, None, tokens) == 500
