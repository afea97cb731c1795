"""A vLLM server of our own: started, asked as any endpoint is, and gone with us, however we end.

    argv = [*engine_argv("vllm serve"), *vllm_arguments(model, sampling, launch, 18432, port)]
    with serving(argv, port, log) as (url, alive):
        requests.get(url + "/v1/models")

`processes.running` ends it and all its descendants, also when we are killed: vLLM's own children would
otherwise hold the GPUs' memory for a while.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ..errors import StepFailed
from ..inputs.chat import load_chat
from ..inputs.hub import positions
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from ..system.processes import engine_argv, last_errors, running, vllm_numerics
from . import Base, Completion, Launch, Request, endpoint, positions_needed

HOST = "127.0.0.1"
START_SECONDS = 3600.0  # 72B from a slow disk, then compilation
SPARE_TOKENS = 16  # special tokens that an engine may add to a prompt beyond our count
ADVICE = (
    "What helps most often: more GPUs a copy (hardware.inference_gpus), another share of their memory "
    "(generation.gpu_memory_utilization), a lower generation.max_tokens, vLLM's own options in engines.vllm"
)


class Backend(Base):
    """A vLLM server that lives as long as the backend."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Start the server with room for the longest of these prompts, then ask it."""
        command, chat = engine_argv(self.launch.engine), load_chat(self.model)
        requests, limit, port = list(requests), positions(self.model), free_port()
        prompts = (chat.prompt(r.messages) if r.raw is None else r.raw for r in requests)
        room = positions_needed(max(chat.counts(prompts)), self.sampling, limit) + SPARE_TOKENS
        arguments = vllm_arguments(self.model, self.sampling, self.launch, min(room, limit or room), port)
        server = serving([*command, *arguments], port, self.launch.log.absolute())
        url, alive = self.held.enter_context(server)
        sampling = replace(self.sampling, endpoints=[url], api_key_env=None)
        self.asked = endpoint.Backend(self.model, sampling, self.launch, alive)
        return self.asked.complete(requests)

    def numerics(self) -> dict[str, Any]:
        """Version, dtype, parallelism, attention kernels, and whether batches were made not to matter."""
        return {
            **self.asked.numerics(), "dtype": self.sampling.dtype,
            "tensor_parallel": self.launch.tensor_parallel, "data_parallel": self.launch.data_parallel,
            **vllm_numerics(self.launch.log),
        }  # fmt: skip


def vllm_arguments(
    model: ModelRef, sampling: Generation, launch: Launch, max_model_len: int, port: int
) -> list[str]:
    """Arguments for `vllm serve` and for `python -m vllm.entrypoints.openai.api_server` alike.

    `--generation-config vllm`: the model's own sampling values, such as Qwen's repetition penalty, are no
    defaults; its stop tokens still hold.
    """
    options: dict[str, Any] = {
        "model": model.resolved, "host": HOST, "port": port, "dtype": sampling.dtype, "seed": sampling.seed,
        "max-model-len": max_model_len, "generation-config": "vllm",
        "tensor-parallel-size": launch.tensor_parallel, "data-parallel-size": launch.data_parallel,
        "gpu-memory-utilization": sampling.gpu_memory_utilization, "uvicorn-log-level": "warning",
    }  # fmt: skip
    if model.revision:
        options |= {"revision": model.revision, "tokenizer-revision": model.revision}
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@contextmanager
def serving(argv: list[str], port: int, log: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a server until the block ends; it is healthy when the block begins. Its words go to `log`.

    The block is given its address, and a function that raises StepFailed, with the log's last words, if the
    server has died. So it does if the server dies first or is not there after START_SECONDS.
    """
    log.write_bytes(b"")
    url, deadline = f"http://{HOST}:{port}", time.monotonic() + START_SECONDS
    with running(argv, log.parent, log) as process:
        alive = partial(_check, process, log)
        while True:
            with suppress(OSError), urlopen(f"{url}/health", timeout=5):
                break
            alive(late=time.monotonic() > deadline)
            time.sleep(0.5)
        yield url, alive


def _check(process: subprocess.Popen[bytes], log: Path, late: bool = False) -> None:
    """Raise StepFailed, with the log's last words, if the server has died or it is too late."""
    dead = process.poll() is not None
    if dead or late:
        what = "the vLLM server has died" if dead else f"no vLLM server after {START_SECONDS:.0f} s"
        words = [f"    {line}" for line in last_errors(log)]
        raise StepFailed("\n".join([f"{what}; last lines of {log}:", *words, ADVICE]))


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
