"""Who answers prompts: one module a backend, found by its name, each with a class `Backend`.

    with open_backend(ModelRef("tiny:teacher"), Generation(max_tokens=256)) as backend:
        for completion in backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])]):
            print(completion.text, completion.finish_reason)

    for completion in watched(completions, total=500, done=0):
        ...                          # says "128/500 responses, 2,345 tokens/s, 1.6% cut at the limit, ..."

A new backend is a module here, and its name's place in `Generation.backend`.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inputs.references import ModelRef
from ..recipe.sections import Engines, Generation

REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """One prompt: chat messages, or if it is `raw` the last one's text alone, without a chat template."""

    id: str
    messages: list[dict[str, str]]
    raw: bool = False

    @property
    def text(self) -> str:
        """What is asked, as a model without a chat template is given it."""
        return self.messages[-1]["content"]


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


@dataclass(frozen=True)
class Launch:
    """How a backend's own server is started: copies of the model, GPUs of each, and where its words go."""

    engine: str = Engines.vllm
    tensor_parallel: int = 1
    data_parallel: int = 1
    log: Path = Path("server.log")


DEFAULT_LAUNCH = Launch()


class Base:
    """What every backend is made from, and does."""

    def __init__(self, model: ModelRef, sampling: Generation, launch: Launch) -> None:
        self.model, self.sampling, self.launch, self.held = model, sampling, launch, ExitStack()

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion a request, as they finish, in any order.

        A request that fails yields a completion with `error` set and never ends the others.
        """
        raise NotImplementedError

    def numerics(self) -> dict[str, Any]:
        """What can change a last digit, and with it a greedy token: versions, dtype, parallelism, kernels."""
        return {}

    def close(self) -> None:
        """Free what the backend holds (memory, a server)."""
        self.held.close()


@contextmanager
def open_backend(model: ModelRef, sampling: Generation, launch: Launch = DEFAULT_LAUNCH) -> Iterator[Base]:
    """Open the backend that `sampling` names and close it on every way out."""
    module = import_module(f".{sampling.backend}", __name__)
    with closing(module.Backend(model, sampling, launch)) as backend:
        yield backend


def positions_needed(
    longest: int, sampling: Generation, limit: int | None, key: str = "generation.max_tokens"
) -> int:
    """Tokens of the longest prompt and a response to it.

    Raises UserError, naming the `key`, if they exceed the model's positions.
    """
    room, prompt = sampling.room(longest), f"the longest prompt ({longest} tokens)"
    if room < 1:
        raise UserError(f"generation.context_len: {sampling.context_len} leaves no room after {prompt}")
    if limit and longest + room > limit:
        raise UserError(f"{key}: {room} and {prompt} exceed the model's {limit} positions")
    return longest + room


def watched(completions: Iterable[Completion], total: int, done: int) -> Iterator[Completion]:
    """The completions; says every few seconds how far they are, how fast, how many cut, and the time left.

    `done` of the `total` were there before. The clock starts when the first one is asked for.
    """
    tokens = cut = 0
    started = last = time.monotonic()
    for new, completion in enumerate(completions, start=1):
        yield completion
        tokens += completion.response_tokens
        cut += completion.finish_reason == "length"
        now, left = time.monotonic(), total - done - new
        if now - last > REPORT_SECONDS or not left:
            last, spent = now, max(now - started, 1e-9)
            say(
                f"{done + new}/{total} responses, {tokens / spent:,.0f} tokens/s, "
                f"{cut / new:.1%} cut at the limit, about {spent / new * left:.0f} s left"
            )


def say(text: str) -> None:
    """One line on how generating goes, for people."""
    print(f"generate: {text}", file=sys.stderr, flush=True)
