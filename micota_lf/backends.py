"""Backends that turn prompts into responses, behind one small protocol.

    with open_backend("tiny:teacher", Generation(max_tokens=256)) as backend:
        for completion in backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])]):
            print(completion.text, completion.finish_reason)

A backend yields completions as they finish, in any order, one for each request; a request that fails
yields a completion with `error` set and never ends the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from .checks.tokens import opened_thought
from .errors import UserError
from .files import digest
from .recipe import Generation
from .refs import resolve


@dataclass(frozen=True)
class Request:
    """One prompt: chat messages, or with `raw` set its text as it is, without a chat template."""

    id: str
    messages: list[dict[str, str]]
    raw: str | None = None


@dataclass(frozen=True)
class Completion:
    """One response. Token counts are the model's own; `response_tokens` counts the end-of-turn token.

    Where the chat template opens a thought in the prompt (R1-Distill, QwQ: `<think>`), the text starts with
    it, so that the thought is whole; its tokens are the prompt's.
    """

    id: str
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    response_tokens: int = 0
    error: str | None = None


class Backend(Protocol):
    """What every backend does."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion a request, as they finish."""
        ...

    def close(self) -> None:
        """Free what the backend holds (memory, a server)."""
        ...


@contextmanager
def open_backend(model: str, sampling: Generation, revision: str | None = None) -> Iterator[Backend]:
    """Open the backend that `sampling` names and close it on every way out."""
    backend = BACKENDS[sampling.backend](model, sampling, revision)
    try:
        yield backend
    finally:
        backend.close()


class FakeBackend:
    """Instant responses that depend on the prompt and the seed alone: for tests and notebooks."""

    def __init__(self, model: str, sampling: Generation, revision: str | None = None) -> None:
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

    def close(self) -> None:
        """Nothing is held."""


class TransformersBackend:
    """Batched `generate` of Hugging Face transformers: the default without a GPU server."""

    def __init__(self, model: str, sampling: Generation, revision: str | None = None) -> None:
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
        self._check_budget(max((len(ids) for _, ids, _ in encoded), default=0))
        for start in range(0, len(encoded), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            try:
                yield from self._complete_batch(batch, start)
            except RuntimeError as error:  # out of memory, mostly: the other batches can still succeed
                reason = str(error).splitlines()[0]
                yield from (Completion(request_id, error=reason) for request_id, _, _ in batch)

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

    def _check_budget(self, longest: int) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit and longest + self.sampling.max_tokens > limit:
            raise UserError(
                f"--max-tokens: {self.sampling.max_tokens} and the longest prompt ({longest} tokens) "
                f"exceed the model's {limit} positions"
            )

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


BACKENDS: dict[str, Callable[..., Backend]] = {"transformers": TransformersBackend, "fake": FakeBackend}
