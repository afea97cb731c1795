"""Responses from OpenAI-compatible servers, one or many, any of which may be slow, fail or come back.

    sampling = Generation(backend="endpoint", endpoints=["http://a:8000", "http://b:8000"])
    for completion in EndpointBackend("Qwen/Qwen2.5-7B-Instruct", sampling).complete(requests):
        ...

Each server is asked as much as it takes: its window grows by one a success and is halved when it is full
or fails. A request that fails is tried again, with back-off; one that is refused (4xx) is an error at once.
A server that fails time and again or hangs is taken out, and back in once it lists the model again. With all
of them out for GIVE_UP_SECONDS, what is left ends as errors.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UserError
from ..inputs.chat import Chat, load_chat, opened_thought
from ..inputs.references import resolve
from ..recipe.sections import Generation
from . import api
from .progress import say
from .protocol import Completion, Launch, Request

# Twice vLLM's usual number of running sequences (256): a full server, and a queue that keeps it full.
WINDOW, LARGEST_WINDOW = 512.0, 4096.0
TRIES = 6
STRIKES = 3  # failures or unanswered probes in a row, after which a server is taken out
BACKOFF_SECONDS, LONGEST_BACKOFF = 1.0, 60.0
PROBE_SECONDS = 5.0
GIVE_UP_SECONDS = 300.0


@dataclass
class Server:
    """One endpoint and how it does; `out` says why it is asked nothing, and is empty while it is in."""

    api: api.Api
    window: float
    model: str = ""
    out: str = ""
    running: dict[asyncio.Task[None], Attempt] = field(default_factory=dict)
    strikes: int = 0
    silent: int = 0  # probes in a row without an answer
    cut: float = 0.0  # when the window was last halved


@dataclass
class Attempt:
    """A request and how often it has failed."""

    request: Request
    failures: int = 0


class EndpointBackend:
    """Completions of the servers that serve the model; `alive` may raise to end them all."""

    def __init__(
        self, model: str, sampling: Generation, revision: str | None = None, launch: Launch | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.model, self.sampling, self.alive = model, sampling, alive
        if not sampling.endpoints:
            raise UserError("generation.endpoints: the backend 'endpoint' needs at least one address")
        key = os.environ.get(sampling.api_key_env or "", "")
        if sampling.api_key_env and not key:
            raise UserError(f"generation.api_key_env: {sampling.api_key_env} is not set in the environment")
        self.chat = _chat_of(model, revision)
        templated = self.chat and self.chat.template
        asked = [{"role": "user", "content": "?"}]
        self.opened = opened_thought(self.chat.prompt(asked)) if self.chat and templated else ""
        self.plain = self.chat is not None and not templated  # a model that has no chat to be asked in
        window = WINDOW * (launch.data_parallel if launch else 1)
        urls = dict.fromkeys(url.rstrip("/").removesuffix("/v1") for url in sampling.endpoints)
        self.servers = [Server(api.Api(url, key), window) for url in urls]

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they come. Raises UserError if no endpoint serves the model."""
        stream = self._stream(iter(requests))

        async def following() -> list[Completion] | None:
            return await anext(stream, None)

        with asyncio.Runner() as runner:
            while (found := runner.run(following())) is not None:
                yield from found

    def numerics(self) -> dict[str, Any]:
        """The servers' versions where they tell them; the rest is theirs to know."""
        return {"versions": sorted({server.api.version() for server in self.servers if not server.out})}

    def close(self) -> None:
        """Nothing is held between calls."""

    def body(self, request: Request) -> dict[str, Any]:
        """What is posted for a request, except for the model's name."""
        if self.plain and request.raw is None:
            request = replace(request, raw=request.messages[-1]["content"])
        return api.body(request, self.sampling)

    async def _stream(self, fresh: Iterator[Request]) -> AsyncIterator[list[Completion]]:
        self.fresh, self.exhausted = fresh, False
        self.again, self.waiting = deque[Attempt](), 0
        self.done: asyncio.Queue[Completion | None] = asyncio.Queue()  # None: look around
        self.seen = time.monotonic()  # when a server was last in
        self.most = _largest_window(len(self.servers))
        async with self.servers[0].api.session() as self.http:
            for server in self.servers:
                server.out = await self._probe(server)
            if all(server.out for server in self.servers):
                raise UserError(f"generation.endpoints: {self._reasons()}")
            watches = [asyncio.create_task(self._watch(server)) for server in self.servers]
            try:
                while self._send():
                    found = [await self.done.get()]
                    while not self.done.empty():
                        found.append(self.done.get_nowait())
                    yield [completion for completion in found if completion]
                    self.alive()
            finally:
                for task in [*watches, *(task for server in self.servers for task in server.running)]:
                    task.cancel()

    def _send(self) -> bool:
        """Send what fits, to the least full server first; False if nothing is left or under way."""
        ready = [server for server in self.servers if not server.out]
        self.seen = time.monotonic() if ready else self.seen
        given_up = time.monotonic() - self.seen > GIVE_UP_SECONDS
        while (room := [server for server in ready if len(server.running) < server.window]) or given_up:
            attempt = self._next()
            if attempt is None:
                break
            if given_up:
                error = f"no endpoint is left: {self._reasons()}"
                self.done.put_nowait(Completion(attempt.request.id, error=error))
            else:
                server = min(room, key=lambda server: len(server.running) / server.window)
                server.running[asyncio.create_task(self._ask(server, attempt))] = attempt
        under_way = self.waiting or self.again or any(server.running for server in self.servers)
        return bool(under_way or not self.exhausted or not self.done.empty())

    def _next(self) -> Attempt | None:
        if self.again:
            return self.again.popleft()
        request = next(self.fresh, None)
        self.exhausted = request is None
        return Attempt(request) if request else None

    async def _ask(self, server: Server, attempt: Attempt) -> None:
        sent, request = time.monotonic(), attempt.request
        try:
            body = {"model": server.model, **self.body(request)}
            self.done.put_nowait(await server.api.ask(self.http, request, body, self.opened))
            server.strikes = 0
            server.window = max(server.window, min(server.window + 1, self.most))
        except api.Transient as error:
            self._failed(server, attempt, sent, error)
        finally:
            del server.running[asyncio.current_task()]  # type: ignore[arg-type]

    def _failed(self, server: Server, attempt: Attempt, sent: float, error: api.Transient) -> None:
        if sent > server.cut:  # one verdict on all that was under way together
            server.cut, server.window = time.monotonic(), max(1.0, server.window / 2)
            server.strikes += not error.overload
        if server.strikes >= STRIKES:
            self._turn(server, f"has failed {STRIKES} times in a row: {error}")
        # A full server may refuse a request many times before the window is small enough.
        attempt.failures += not error.overload or server.window == 1
        if attempt.failures >= TRIES:
            words = f"{error} (tried {TRIES} times)"
            self.done.put_nowait(Completion(attempt.request.id, error=words))
            return
        self.waiting += 1
        delay = min(LONGEST_BACKOFF, BACKOFF_SECONDS * 2**attempt.failures) * random.uniform(0.5, 1)
        asyncio.get_running_loop().call_later(delay, self._try_again, attempt)

    def _try_again(self, attempt: Attempt) -> None:
        self.waiting -= 1
        self.again.append(attempt)
        self.done.put_nowait(None)

    async def _watch(self, server: Server) -> None:
        """Take a server out that hangs, and back in once it answers."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            reason = await self._probe(server)
            server.silent = server.silent + 1 if reason else 0
            if server.silent == STRIKES and not server.out:
                for task, attempt in server.running.items():
                    task.cancel()
                    self._failed(server, attempt, 0.0, api.Transient(reason))
            if not reason or server.out or server.silent >= STRIKES:
                self._turn(server, reason)
            self.done.put_nowait(None)

    async def _probe(self, server: Server) -> str:
        """Why a server cannot be asked for the model, or an empty string."""
        try:
            listed = await server.api.served(self.http)
        except api.Transient as error:
            return str(error)
        names = [name for name in (self.model, resolve(self.model)) if name in listed]
        server.model = names[0] if names else ""
        return "" if names else f"does not serve {self.model}, only {', '.join(listed)}"

    def _turn(self, server: Server, out: str) -> None:
        if bool(out) != bool(server.out):
            say(f"{server.api.url} {out or 'is back'}")
        server.out, server.strikes = out, 0

    def _reasons(self) -> str:
        return "; ".join(f"{server.api.url} {server.out}" for server in self.servers)


def _chat_of(model: str, revision: str | None) -> Chat | None:
    try:
        return load_chat(model, revision)
    except (UserError, OSError, ValueError):  # a hosted model may have no public tokenizer
        say(f"{model} has no tokenizer here: a thought that its chat template opens is not given back")
        return None


def _largest_window(servers: int) -> float:
    """Requests that one server may be given at a time: each is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return LARGEST_WINDOW if hard < 0 else min(LARGEST_WINDOW, max(1, (hard - 256) // servers))
