"""Backends that turn prompts into responses, behind the protocol of `protocol.py`.

with open_backend("tiny:teacher", Generation(max_tokens=256)) as backend:
    for completion in backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])]):
        print(completion.text, completion.finish_reason)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ..inputs.chat import load_chat
from ..inputs.hub import positions
from ..inputs.references import resolve
from ..recipe.sections import Generation
from ..system.files import digest
from ..system.processes import engine_argv, vllm_numerics
from .protocol import Backend, Completion, Launch, Request, check_positions
from .transformers import TransformersBackend
from .vllm import free_port, serving, vllm_arguments

__all__ = ["BACKENDS", "Backend", "Completion", "Launch", "Request", "open_backend"]

SPARE_TOKENS = 16  # special tokens that an engine may add to a prompt beyond our count


@contextmanager
def open_backend(
    model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None
) -> Iterator[Backend]:
    """Open the backend that `sampling` names and close it on every way out."""
    backend = BACKENDS[sampling.backend](model, sampling, revision, launch or Launch())
    try:
        yield backend
    finally:
        backend.close()


class FakeBackend:
    """Instant responses that depend on the prompt and the seed alone: for tests and notebooks."""

    def __init__(
        self, model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None
    ) -> None:
        self.model, self.sampling = model, sampling

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield a short text with a boxed number between 0 and 99."""
        for request in requests:
            prompt = request.raw or request.messages[-1]["content"]
            rng = random.Random(digest([self.model, prompt, self.sampling.seed]))
            words = f"Let me think. The answer is \\boxed{{{rng.randrange(100)}}}.".split(" ")
            kept = words[: self.sampling.max_tokens]
            reason = "stop" if len(kept) == len(words) else "length"
            yield Completion(request.id, " ".join(kept), reason, len(prompt.split()), len(kept))

    def numerics(self) -> dict[str, Any]:
        """No arithmetic."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


class VllmBackend:
    """A vLLM server that lives as long as the backend, asked as any other endpoint is."""

    def __init__(
        self, model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None
    ) -> None:
        self.model, self.sampling, self.revision = model, sampling, revision
        self.launch, self.stack = launch or Launch(), ExitStack()
        self.command = engine_argv(self.launch.command)
        self.chat = load_chat(model, revision)

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Start the server with room for the longest of these prompts, then ask it."""
        from .endpoint import EndpointBackend

        requests = list(requests)
        raw = self.chat.counts([request.raw for request in requests if request.raw is not None])
        templated = (request.messages for request in requests if request.raw is None)
        longest = max([self.chat.longest_prompt(templated), *raw])
        limit, length = positions(self.model, self.revision), longest + self.sampling.max_tokens
        check_positions(longest, self.sampling.max_tokens, limit)
        length, port = min(length + SPARE_TOKENS, limit or length + SPARE_TOKENS), free_port()
        path = resolve(self.model)
        arguments = vllm_arguments(path, self.sampling, self.revision, self.launch, length, port)
        served = self.stack.enter_context(serving([*self.command, *arguments], port, self.launch.log))
        sampling = replace(self.sampling, endpoints=[served.url], api_key_env=None)
        self.asked = EndpointBackend(path, sampling, self.revision, self.launch, served.check)
        return self.asked.complete(requests)

    def numerics(self) -> dict[str, Any]:
        """Version, dtype, parallelism, attention kernels, and whether batches were made not to matter."""
        return {
            **self.asked.numerics(), "dtype": self.sampling.dtype,
            "tensor_parallel": self.launch.tensor_parallel, "data_parallel": self.launch.data_parallel,
            **vllm_numerics(self.launch.log),
        }  # fmt: skip

    def close(self) -> None:
        """Stop the server."""
        self.stack.close()


def _endpoint(model: str, sampling: Generation, revision: str | None, launch: Launch) -> Backend:
    from .endpoint import EndpointBackend  # aiohttp is not loaded for the others

    return EndpointBackend(model, sampling, revision)


BACKENDS: dict[str, Callable[[str, Generation, str | None, Launch], Backend]] = {
    "transformers": TransformersBackend, "vllm": VllmBackend, "endpoint": _endpoint, "fake": FakeBackend,
}  # fmt: skip
