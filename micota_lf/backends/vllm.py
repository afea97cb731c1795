"""A vLLM server of our own: started, asked as any endpoint is, and gone with us, however we end.

    argv = [*engine_argv("vllm serve"), *vllm_arguments(model, sampling, launch, 18432, port)]
    with serving(argv, port, log) as (url, alive):
        requests.get(url + "/v1/models")

`processes.running` ends it and all its descendants, also when we are killed: vLLM's own children would
otherwise hold the GPUs' memory for a while.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ..errors import EngineDied, StepFailed
from ..inputs.chat import load_chat
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from ..system.files import read_beside
from ..system.machines import free_port
from ..system.processes import engine_argv, last_errors, memory_errors, running
from . import Base, Completion, Launch, Request, endpoint, positions_needed

HOST = "127.0.0.1"
START_SECONDS = 3600.0  # 72B from a slow disk, then compilation
SPARE_TOKENS = 16  # special tokens that an engine may add to a prompt beyond our count
ADVICE = read_beside(__file__)["advice"]


class Backend(Base):
    """A vLLM server that lives as long as the backend."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Start the server with room for the longest of these prompts, then ask it."""
        chat, requests = load_chat(self.model), list(requests)
        prompts = (r.text if r.raw else chat.prompt(r.messages) for r in requests)
        return self.start(chat.counts(prompts)).complete(requests)

    def start(self, prompts: list[int], *key: str) -> endpoint.Backend:
        """Serve with room for the longest of prompts of so many tokens and its response, until it is closed.

        Without prompts, for what the memory holds. Raises UserError, naming the `key`, if they do not fit.
        """
        command, port, limit = engine_argv(self.launch.engine), free_port(HOST), self.model.positions
        most = positions_needed(max(prompts, default=0), self.sampling, limit, *key) + SPARE_TOKENS
        room = min(most, limit or most) if prompts else "auto"
        arguments = vllm_arguments(self.model, self.sampling, self.launch, room, port)
        server = serving([*command, *arguments], port, self.launch.log.absolute())
        url, alive = self.held.enter_context(server)
        sampling = replace(self.sampling, endpoints=[url], api_key_env=None)
        self.asked = endpoint.Backend(self.model, sampling, self.launch, alive)
        return self.asked

    def numerics(self) -> dict[str, Any]:
        """Version, dtype, parallelism, attention kernels, and whether batches were made not to matter."""
        said = self.launch.log.read_text(errors="replace")  # of the kernels' name, as in `FLASH_ATTN`
        kernels = re.findall(r"Using (\w+) attention backend|AttentionBackendEnum\.(\w+)", said)
        return {
            "versions": [self.asked.servers[0].version()], "dtype": self.sampling.dtype,
            "tensor_parallel": self.launch.tensor_parallel, "data_parallel": self.launch.data_parallel,
            "attention": "".join(kernels[-1]) if kernels else None,
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1",
        }  # fmt: skip


def vllm_arguments(
    model: ModelRef, sampling: Generation, launch: Launch, max_model_len: int | str, port: int
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
    log.write_text(" ".join(argv) + "\n", encoding="utf-8")
    url, deadline = f"http://{HOST}:{port}", time.monotonic() + START_SECONDS
    with running(argv, log.parent, log) as process:

        def alive(late: bool = False) -> None:
            dead = process.poll() is not None
            if dead or late:
                what = "the vLLM server has died" if dead else f"no vLLM server after {START_SECONDS:.0f} s"
                lines = [f"{what}; last lines of {log}:", *(f"    {line}" for line in last_errors(log))]
                kind = EngineDied if dead and not memory_errors(log) else StepFailed
                raise kind("\n".join([*lines, f"What helps most often: {ADVICE}"]))

        while True:
            with suppress(OSError), urlopen(f"{url}/health", timeout=5):
                break
            alive(late=time.monotonic() > deadline)
            time.sleep(0.5)
        yield url, alive
