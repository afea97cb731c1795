"""Responses from OpenAI-compatible servers, one or many, any of which may be slow, fail or come back.

    sampling = Generation(backend="endpoint", endpoints=["http://a:8000", "http://b:8000"])
    with open_backend(ModelRef("Qwen/Qwen2.5-7B-Instruct"), sampling) as backend:
        for completion in backend.complete(requests):
            ...

Each server has workers, each of which takes the next request, asks, and takes another. A success brings the
server one more; a worker that hears that the server is full ends. A request that fails is tried again, with
back-off; one that is refused (4xx) is an error at once. A server that fails time and again or hangs is taken
out, and back in once it lists the model again. With all of them out for GIVE_UP_SECONDS, what is left ends
as errors.
"""

import asyncio
import os
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..inputs.chat import load_chat, opened_thought
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from . import Completion, Launch, Request, api
from .progress import say

# Twice vLLM's usual number of running sequences (256): a full server, and a queue that keeps it full.
WORKERS, MOST_WORKERS = 512, 4096
TRIES = 6
STRIKES = 3  # failures or unanswered probes in a row, after which a server is taken out
BACKOFF_SECONDS, LONGEST_BACKOFF = 1.0, 60.0
PROBE_SECONDS = 5.0
GIVE_UP_SECONDS = 300.0


@dataclass
class Server(api.Api):
    """One endpoint and how it does; `out` says why it is asked nothing, and is empty while it is in."""

    allowed: int  # workers: requests at a time
    model: str = ""
    out: str = "has not been asked"
    strikes: int = STRIKES
    workers: set[asyncio.Task[None]] = field(default_factory=set)


class Backend:
    """Completions of the servers that serve the model; `alive` may raise to end them all."""

    found: list[Completion]

    def __init__(
        self, model: ModelRef, sampling: Generation, launch: Launch, alive: Callable[[], None] = lambda: None
    ) -> None:
        self.model, self.sampling, self.alive = model, sampling, alive
        if not sampling.endpoints:
            raise UserError("generation.endpoints: the backend 'endpoint' needs at least one address")
        self.key = os.environ.get(sampling.api_key_env or "", "")
        if sampling.api_key_env and not self.key:
            raise UserError(f"generation.api_key_env: {sampling.api_key_env} is not set in the environment")
        self.opened, self.plain = "", False
        try:
            chat = load_chat(model)
            self.opened = opened_thought(chat.prompt([{"role": "user", "content": "?"}]))
            self.plain = not chat.template
        except (UserError, OSError, ValueError):  # a hosted model may have no public tokenizer
            say(f"{model.ref} has no tokenizer here: a thought that its template opens is not given back")
        urls = dict.fromkeys(url.rstrip("/").removesuffix("/v1") for url in sampling.endpoints)
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # each request holds one
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self.most = MOST_WORKERS if files < 0 else min(MOST_WORKERS, max(1, (files - 256) // len(urls)))
        self.servers = [Server(url, self.key, min(WORKERS * launch.data_parallel, self.most)) for url in urls]

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they come. Raises UserError if no endpoint serves the model."""
        with asyncio.Runner() as runner:
            try:
                runner.run(self._start(list(requests)))
                while self.left or self.found:
                    runner.run(self.news.wait())
                    self.news.clear()
                    found, self.found = self.found, []
                    yield from found
                    self.alive()
                    self._give_up()
            finally:
                runner.run(self.http.close())

    def numerics(self) -> dict[str, Any]:
        """The servers' versions where they tell them; the rest is theirs to know."""
        return {"versions": sorted({server.version() for server in self.servers if not server.out})}

    def close(self) -> None:
        """Nothing is held between calls."""

    def body(self, request: Request) -> dict[str, Any]:
        """What is posted for a request, except for the model's name."""
        return api.body(request, self.sampling, self.plain)

    async def _start(self, requests: list[Request]) -> None:
        self.http, self.seen = api.session(self.key), time.monotonic()  # seen: when a server was last in
        self.todo = asyncio.Queue[tuple[Request, int]]()  # with the number of failures
        self.left, self.found, self.news = len(requests), [], asyncio.Event()
        for request in requests:
            self.todo.put_nowait((request, 0))
        await asyncio.gather(*(self._look(server) for server in self.servers))
        if all(server.out for server in self.servers):
            raise UserError(f"generation.endpoints: {self._reasons()}")
        self.watches = [asyncio.create_task(self._watch(server)) for server in self.servers]
        self._hire()

    def _hire(self) -> None:
        """Start the workers that are allowed, the servers in turn, so that they share what comes first."""
        while short := [s for s in self.servers if not s.out and len(s.workers) < s.allowed]:
            for server in short:
                server.workers.add(asyncio.create_task(self._work(server)))

    async def _work(self, server: Server) -> None:
        try:
            while not server.out and len(server.workers) <= server.allowed:
                request, failures = await self.todo.get()
                if server.out:
                    self.todo.put_nowait((request, failures))
                else:
                    await self._ask(server, request, failures)
        finally:
            server.workers.discard(asyncio.current_task())

    async def _ask(self, server: Server, request: Request, failures: int) -> None:
        try:
            body = {"model": server.model, **self.body(request)}
            self._end(await server.ask(self.http, request, body, self.opened))
            server.strikes, server.allowed = 0, min(self.most, server.allowed + 1)
            self._hire()
        except api.Transient as error:
            full = error.overload and server.allowed > 1
            if full:
                server.allowed -= 1
            else:
                self._strike(server, f"has failed {STRIKES} times in a row: {error}")
            self._retry(request, failures + (not full), str(error))
        except asyncio.CancelledError:
            self._retry(request, failures + 1, "no answer")
            raise

    def _retry(self, request: Request, failures: int, reason: str) -> None:
        if failures == TRIES:
            self._end(Completion(request.id, error=f"{reason} (tried {TRIES} times)"))
            return
        delay = min(LONGEST_BACKOFF, BACKOFF_SECONDS * 2**failures) * random.uniform(0.5, 1)
        asyncio.get_running_loop().call_later(delay, self.todo.put_nowait, (request, failures))

    def _end(self, completion: Completion) -> None:
        self.left -= 1
        self.found.append(completion)
        self.news.set()

    async def _watch(self, server: Server) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._look(server)
            self._hire()
            self.news.set()

    async def _look(self, server: Server) -> None:
        """Take a server in that lists the model, and out with all it has if it time and again does not."""
        try:
            listed = await server.served(self.http)
            server.model = next((n for n in (self.model.ref, self.model.resolved) if n in listed), "")
            if not server.model:
                raise api.Transient(f"does not serve {self.model.ref}, only {', '.join(listed)}")
        except api.Transient as error:
            self._strike(server, str(error))
            while server.out and server.workers:
                server.workers.pop().cancel()
            return
        if server.out:
            say(f"{server.url} answers")
        server.out, server.strikes = "", 0

    def _strike(self, server: Server, reason: str) -> None:
        server.strikes += 1
        if server.strikes >= STRIKES:
            if server.out != reason:
                say(f"{server.url} {reason}")
            server.out = reason
            self.news.set()

    def _give_up(self) -> None:
        """Once all servers have been out for GIVE_UP_SECONDS, end what is left as errors."""
        if not all(server.out for server in self.servers):
            self.seen = time.monotonic()
        while time.monotonic() - self.seen > GIVE_UP_SECONDS and not self.todo.empty():
            request, _ = self.todo.get_nowait()
            self._end(Completion(request.id, error=f"no endpoint is left: {self._reasons()}"))

    def _reasons(self) -> str:
        return "; ".join(f"{server.url} {server.out}" for server in self.servers)
