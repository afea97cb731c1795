"""What is asked of a backend and what comes back.

    backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])])
    -> Completion("a", text="...", finish_reason="stop", prompt_tokens=12, response_tokens=30)

A backend yields completions as they finish, in any order, one for each request; a request that fails
yields a completion with `error` set and never ends the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..recipe.sections import Engines


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


@dataclass(frozen=True)
class Launch:
    """How a backend's own server is started: copies of the model, GPUs of each, and where its words go."""

    command: str = Engines.vllm
    tensor_parallel: int = 1
    data_parallel: int = 1
    log: Path = Path("server.log")


class Backend(Protocol):
    """What every backend does."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion a request, as they finish."""
        ...

    def numerics(self) -> dict[str, Any]:
        """What can change a last digit, and with it a greedy token: versions, dtype, parallelism, kernels."""
        ...

    def close(self) -> None:
        """Free what the backend holds (memory, a server)."""
        ...


def check_positions(longest: int, max_tokens: int, limit: int | None) -> None:
    """Raise UserError if the longest prompt and `max_tokens` exceed the model's positions."""
    if limit and longest + max_tokens > limit:
        raise UserError(
            f"--max-tokens: {max_tokens} and the longest prompt ({longest} tokens) "
            f"exceed the model's {limit} positions"
        )
