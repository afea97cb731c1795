"""Backends that turn prompts into responses, behind the protocol of `protocol.py`.

with open_backend("tiny:teacher", Generation(max_tokens=256)) as backend:
    for completion in backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])]):
        print(completion.text, completion.finish_reason)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import metadata
from typing import Any

from .checks.hub import positions
from .checks.tokens import load_chat, opened_thought
from .engines import engine_argv
from .errors import UserError
from .files import digest
from .protocol import Backend, Completion, Launch, Request, check_positions
from .recipe import Generation
from .refs import resolve
from .server import Served, free_port, serving, vllm_arguments

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


class TransformersBackend:
    """Batched `generate` of Hugging Face transformers: the default without a GPU server."""

    def __init__(
        self, model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        path = resolve(model)
        self.sampling, self.batch_size = sampling, sampling.batch_size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", **options)
            loaded = AutoModelForCausalLM.from_pretrained(
                path, dtype=sampling.dtype, use_safetensors=True,
                device_map="auto" if torch.cuda.device_count() > 1 else self.device, **options,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--model {model}: cannot be loaded: {reason}") from error
        self.model = loaded.eval()
        shipped = self.model.generation_config.eos_token_id
        ends = shipped if isinstance(shipped, list) else [shipped]
        self.eos = {e for e in [*ends, self.tokenizer.eos_token_id] if e is not None}
        ids = (self.tokenizer.pad_token_id, *sorted(self.eos), 0)
        self.pad = next(token for token in ids if token is not None)
        greedy = sampling.temperature == 0
        chosen = {} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        # Replaces the model's own config: values that a call leaves out would be filled from it, and
        # Qwen2.5-Instruct ships a repetition penalty that changes even greedy output.
        self.model.generation_config = GenerationConfig(
            max_new_tokens=sampling.max_tokens, do_sample=not greedy, repetition_penalty=1.0,
            eos_token_id=sorted(self.eos), pad_token_id=self.pad, **chosen,
        )  # fmt: skip

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions a batch at a time; prompts of like length share a batch."""
        encoded = [(request.id, *self._encode(request)) for request in requests]
        encoded.sort(key=lambda entry: len(entry[1]))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        check_positions(max((len(ids) for _, ids, _ in encoded), default=0), self.sampling.max_tokens, limit)
        for start in range(0, len(encoded), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            try:
                yield from self._complete_batch(batch, start)
            except RuntimeError as error:  # out of memory, mostly: the other batches can still succeed
                reason = str(error).splitlines()[0]
                yield from (Completion(request_id, error=reason) for request_id, _, _ in batch)

    def numerics(self) -> dict[str, Any]:
        """Versions, device, dtype, attention and batch size, which sets the padding."""
        versions = {name: metadata.version(name) for name in ("transformers", "torch")}
        attention = self.model.config._attn_implementation
        return {
            **versions, "dtype": self.sampling.dtype, "device": self.device, "attention": attention,
            "batch_size": self.batch_size,
        }  # fmt: skip

    def close(self) -> None:
        """Drop the weights."""
        del self.model

    def _encode(self, request: Request) -> tuple[list[int], str]:
        """The prompt's tokens, and the thought that a chat template opens at its end."""
        if request.raw is not None:
            text = request.raw
        elif self.tokenizer.chat_template is None:
            text = request.messages[-1]["content"]
        else:
            text = self.tokenizer.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
        templated = request.raw is None and self.tokenizer.chat_template is not None
        ids: list[int] = self.tokenizer(text, add_special_tokens=not templated)["input_ids"]
        return ids, opened_thought(text) if templated else ""

    def _complete_batch(self, batch: list[tuple[str, list[int], str]], start: int) -> Iterator[Completion]:
        import torch

        width = max(len(ids) for _, ids, _ in batch)
        ids = torch.tensor([[self.pad] * (width - len(row)) + row for _, row, _ in batch], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for _, row, _ in batch], device=self.device
        )
        torch.manual_seed(self.sampling.seed + start)
        with torch.inference_mode():
            output = self.model.generate(input_ids=ids, attention_mask=mask)
        for (request_id, prompt, opened), row in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(row) if token in self.eos), None)
            kept = row if end is None else row[: end + 1]
            text = self.tokenizer.decode(kept if end is None else kept[:-1], skip_special_tokens=True)
            reason = "length" if end is None else "stop"
            yield Completion(request_id, opened + text, reason, len(prompt), len(kept))


class VllmBackend:
    """A vLLM server that lives as long as the backend, asked as any other endpoint is."""

    def __init__(
        self, model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None
    ) -> None:
        self.model, self.sampling, self.revision = model, sampling, revision
        self.launch, self.stack = launch or Launch(), ExitStack()
        self.command = engine_argv(self.launch.command)
        self.chat = load_chat(model, revision)
        self.served: Served | None = None

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
        self.served = self.stack.enter_context(serving([*self.command, *arguments], port, self.launch.log))
        sampling = replace(self.sampling, endpoints=[self.served.url], api_key_env=None)
        self.asked = EndpointBackend(path, sampling, self.revision, self.launch, self.served.check)
        return self.asked.complete(requests)

    def numerics(self) -> dict[str, Any]:
        """Version, dtype, parallelism, attention kernels, and whether batches were made not to matter."""
        return {
            **self.asked.numerics(), "dtype": self.sampling.dtype,
            "tensor_parallel": self.launch.tensor_parallel, "data_parallel": self.launch.data_parallel,
            "attention": self.served and self.served.attention(),
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1",
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
