"""One OpenAI-compatible server: what is posted, how an answer is read, why it cannot be asked.

body(Request("a", messages), sampling)    -> {"messages": [...], "max_tokens": 16384, "temperature": 0.0, ...}
completion(request, answer, opened="")    -> Completion("a", "<think>...", "stop", 41, 812)
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import aiohttp

from ..inputs.chat import THINK
from ..recipe.sections import Generation
from ..system.files import digest
from . import Completion, Request
from .progress import say

PROBE_TIMEOUT = 30.0  # seconds; also of connecting
KEEPALIVE_SECONDS = 3.0  # below the 5 s after which vLLM closes an idle connection
# A long response may wait behind others; servers that hang are noticed by probes.
REQUEST_SECONDS = 4 * 3600.0
STRIKES = 3  # failures or unanswered probes in a row, after which a server is taken out
BROKEN = (ValueError, LookupError, TypeError, AttributeError)  # of reading an answer of another shape


class Transient(Exception):
    """A failure that another try may heal; `overload` says that the server is well but full."""

    def __init__(self, reason: str, overload: bool = False) -> None:
        super().__init__(reason)
        self.overload = overload


def session(key: str) -> aiohttp.ClientSession:
    """Connections that show a key, if there is one; without a limit, as the caller has one."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
    limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=PROBE_TIMEOUT)
    return aiohttp.ClientSession(connector=connector, headers=headers, timeout=limits)


@dataclass
class Server:
    """A server and how it does; `out` says why it is asked nothing, and is empty while it is in.

    The key is sent and never told. `room` is for how many requests at a time.
    """

    url: str
    key: str
    room: int
    model: str = ""
    out: str = "has not been asked"
    strikes: int = STRIKES
    asked: set[asyncio.Task[Completion]] = field(default_factory=set)

    def strike(self, reason: str) -> None:
        """Count a failure, and take the server out after STRIKES in a row."""
        self.strikes += 1
        if self.strikes >= STRIKES and self.out != reason:
            say(f"{self.url} {reason}")
            self.out = reason

    async def served(self, http: aiohttp.ClientSession, names: Sequence[str]) -> str:
        """The first of a model's names that the server lists. Raises Transient with the reason if none is."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        with _failures("list of models at /v1/models"):
            async with http.get(f"{self.url}/v1/models", timeout=timeout) as response:
                if response.status in (401, 403):
                    refused = f"refuses the key (status {response.status})"
                    raise Transient(f"{refused}: generation.api_key_env names its variable")
                listed = [entry["id"] for entry in json.loads(await response.read())["data"]]
            if found := [name for name in names if name in listed]:
                return found[0]
            raise Transient(f"does not serve {names[0]}, only {', '.join(listed)}")

    async def ask(
        self, http: aiohttp.ClientSession, request: Request, body: dict[str, Any], opened: str
    ) -> Completion:
        """One completion, with an error if it is refused (4xx). Raises Transient for what may pass."""
        path = "completions" if "prompt" in body else "chat/completions"
        with _failures("completion"):
            async with http.post(f"{self.url}/v1/{path}", json=body) as response:
                status, text = response.status, await response.read()
            if status == 200:
                return completion(request, json.loads(text), opened)
        words = f"status {status}: {' '.join(text.decode(errors='replace').split())[:500]}"
        words = words.replace(self.key, "***") if self.key else words
        if status in (408, 429) or status >= 500:
            raise Transient(words, overload=status in (408, 429))
        return Completion(request.id, error=words)

    def version(self) -> str:
        """What vLLM tells of itself; other servers tell nothing."""
        try:
            with urlopen(f"{self.url}/version", timeout=PROBE_TIMEOUT) as response:
                return f"vllm {json.load(response)['version']}"
        except (OSError, *BROKEN):
            return "unknown"


def body(request: Request, sampling: Generation, plain: bool = False) -> dict[str, Any]:
    """What is posted, `plain` to a model that has no chat to be asked in.

    Everything that a server may have its own default for is said outright.
    """
    chat = request.raw is None and not plain
    return {
        **({"messages": request.messages} if chat else {"prompt": request.text}),
        "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "seed": int(digest([sampling.seed, request.id], 7), 16),  # whatever the order of the rows
    }  # fmt: skip


def completion(request: Request, answer: dict[str, Any], opened: str) -> Completion:
    """The completion in a server's answer, its thought whole; ValueError or the like if there is none.

    `opened` is the thought that the chat template opens in the prompt: the text lacks it. A thought that a
    reasoning parser has split off is put back.
    """
    choice, usage = answer["choices"][0], answer["usage"]
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):  # such as `abort`, of a server that is being stopped
        raise ValueError(f"finish_reason {reason!r}")
    message = choice.get("message") or {"content": choice["text"]}
    text = message["content"] or ""
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        text = f"{THINK}\n{thought}" + (f"\n</think>\n\n{text}" if text else "")
    elif request.raw is None and not text.startswith(THINK):
        text = opened + text
    return Completion(request.id, text, reason, usage["prompt_tokens"], usage["completion_tokens"])


@contextmanager
def _failures(wanted: str) -> Iterator[None]:
    """Raise Transient for no answer at all, and for one that is not what was wanted."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"does not answer: {str(error) or type(error).__name__}") from error
    except BROKEN as error:
        raise Transient(f"its answer is no {wanted}: {error!r}") from error
