"""Who answers prompts: one module a backend, found by its name, each with a class `Backend`.

    with open_backend(ModelRef("tiny:teacher"), Generation(max_tokens=256)) as backend:
        for completion in backend.complete([Request("a", [{"role": "user", "content": "What is 1+1?"}])]):
            print(completion.text, completion.finish_reason)

A new backend is a module here, and its name's place in `Generation.backend`.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inputs.references import ModelRef
from ..recipe.sections import Engines, Generation


@dataclass(frozen=True)
class Request:
    """One prompt: chat messages, or with `raw` set its text as it is, without a chat template."""

    id: str
    messages: list[dict[str, str]]
    raw: str | None = None

    @property
    def text(self) -> str:
        """What is asked, as a model without a chat template is given it."""
        return self.messages[-1]["content"] if self.raw is None else self.raw


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
