"""A vLLM server of our own: started, waited for, and gone with us, however we end.

    argv = [*engine_argv("vllm serve"), *vllm_arguments(model, sampling, None, launch, 18432, port)]
    with serving(argv, port, log) as server:
        requests.get(server.url + "/v1/models")

`engines.running` ends it and all processes of its group, also when we are killed: vLLM's own children would
otherwise hold the GPUs' memory for a while.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ..errors import StepFailed
from ..recipe.sections import Generation
from ..system.processes import log_tail, running
from .protocol import Launch

HOST = "127.0.0.1"
START_SECONDS = 3600.0  # 72B from a slow disk, then compilation
ADVICE = (
    "What helps most often: more GPUs a copy (hardware.inference_gpus), another share of their memory "
    "(generation.gpu_memory_utilization), a lower generation.max_tokens, vLLM's own options in engines.vllm"
)


def vllm_arguments(
    model: str, sampling: Generation, revision: str | None, launch: Launch, max_model_len: int, port: int
) -> list[str]:
    """Arguments for `vllm serve` and for `python -m vllm.entrypoints.openai.api_server` alike.

    `--generation-config vllm`: the model's own sampling values, such as Qwen's repetition penalty, are no
    defaults; its stop tokens still hold.
    """
    options: dict[str, Any] = {
        "model": model, "host": HOST, "port": port, "dtype": sampling.dtype, "seed": sampling.seed,
        "max-model-len": max_model_len, "generation-config": "vllm",
        "tensor-parallel-size": launch.tensor_parallel, "data-parallel-size": launch.data_parallel,
        "gpu-memory-utilization": sampling.gpu_memory_utilization, "uvicorn-log-level": "warning",
    }  # fmt: skip
    if revision:
        options |= {"revision": revision, "tokenizer-revision": revision}
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise StepFailed, with the log's last words, if the server has died."""
        if self.process.poll() is not None:
            raise StepFailed(f"the vLLM server has died{_last_words(self.log)}")


@contextmanager
def serving(argv: list[str], port: int, log: Path) -> Iterator[Served]:
    """Run a server until the block ends; it is healthy when the block begins. Its words go to `log`.

    Raises StepFailed with the last of them if it dies first, or is not there after START_SECONDS.
    """
    log = log.absolute()
    log.write_bytes(b"")
    with _orderly_end(), running(argv, log.parent, log) as process:
        served = Served(f"http://{HOST}:{port}", process, log)
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(served.url):
            served.check()
            if time.monotonic() > deadline:
                raise StepFailed(f"no vLLM server after {START_SECONDS:.0f} s{_last_words(log)}")
            time.sleep(0.5)
        yield served


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM end this process by an exception, so that the server is stopped before we are gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _last_words(log: Path) -> str:
    """The errors that a log names (the cause stands far above its end), its last lines, and advice."""
    text = log.read_text(errors="replace")
    errors = dict.fromkeys(re.findall(r"(?:^|\] )([\w.]+Error: .+)", text, re.MULTILINE))
    lines = [*list(errors)[-3:], f"last lines of {log}:", *log_tail(log, 8).splitlines()]
    return "\n".join([":", *(f"    {line[:400]}" for line in lines), ADVICE])
