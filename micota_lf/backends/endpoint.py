"""Responses from OpenAI-compatible servers, one or many, any of which may be slow, fail or come back.

    sampling = Generation(backend="endpoint", endpoints=["http://a:8000", "http://b:8000"])
    with open_backend(ModelRef("Qwen/Qwen2.5-7B-Instruct"), sampling) as backend:
        for completion in backend.complete(requests):
            ...

Each request goes to the server that is least busy, of those that have room. A success makes room for one
more; a server that says that it is full has room for one less. A request that fails is tried again, with
back-off; one that is refused (4xx) is an error at once. A server that fails time and again or hangs is taken
out, and back in once it lists the model again. With all of them out for GIVE_UP_SECONDS, what is left ends
as errors.
"""

import asyncio
import os
import random
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ..errors import UserError
from ..inputs.chat import load_chat, opened_thought
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from . import Backend as Base
from . import Completion, Launch, Request, api
from .progress import say

# Twice vLLM's usual number of running sequences (256): a full server, and a queue that keeps it full.
ROOM, MOST_ROOM = 512, 4096
TRIES = 6
BACKOFF_SECONDS, LONGEST_BACKOFF = 1.0, 60.0
PROBE_SECONDS = 5.0
GIVE_UP_SECONDS = 300.0
BATCH_SECONDS = 0.05  # what comes within it is given on together


class Backend(Base):
    """Completions of the servers that serve the model; `alive` may raise to end them all."""

    def __init__(
        self, model: ModelRef, sampling: Generation, launch: Launch, alive: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(model, sampling, launch)
        self.alive = alive
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
        self.most = MOST_ROOM if files < 0 else min(MOST_ROOM, max(1, (files - 256) // len(urls)))
        room = min(ROOM * launch.data_parallel, self.most)
        self.servers = [api.Server(url, self.key, room) for url in urls]

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they come. Raises UserError if no endpoint serves the model."""
        self.todo = deque((request, 0) for request in requests)  # with the number of failures
        self.found: list[Completion] = []
        left = len(self.todo)
        with asyncio.Runner() as runner:
            try:
                runner.run(self._start())
                while left:
                    runner.run(asyncio.sleep(BATCH_SECONDS))
                    found, self.found = self.found, []
                    yield from found
                    left -= len(found)
                    self.alive()
                    self._give_up()
            finally:
                self.todo.clear()  # nothing more is sent
                runner.run(self.http.close())

    def numerics(self) -> dict[str, Any]:
        """The servers' versions where they tell them; the rest is theirs to know."""
        return {"versions": sorted({server.version() for server in self.servers if not server.out})}

    def body(self, request: Request) -> dict[str, Any]:
        """What is posted for a request, except for the model's name."""
        return api.body(request, self.sampling, self.plain)

    async def _start(self) -> None:
        self.http = api.session(self.key)
        await asyncio.gather(*(self._look(server) for server in self.servers))
        if all(server.out for server in self.servers):
            raise UserError(f"generation.endpoints: {self._reasons()}")
        self.seen = time.monotonic()  # when a server was last in
        self.watches = [asyncio.create_task(self._watch(server)) for server in self.servers]
        self._send()

    def _send(self, *more: tuple[Request, int]) -> None:
        """Put requests to those that wait, and send what the servers have room for."""
        self.todo.extend(more)
        while self.todo and (free := [s for s in self.servers if not s.out and len(s.asked) < s.room]):
            server = min(free, key=lambda server: len(server.asked))
            request, failures = self.todo.popleft()
            body = {"model": server.model, **self.body(request)}
            task = asyncio.create_task(server.ask(self.http, request, body, self.opened))
            server.asked.add(task)
            task.add_done_callback(partial(self._receive, server, request, failures))

    def _receive(
        self, server: api.Server, request: Request, failures: int, task: asyncio.Task[Completion]
    ) -> None:
        server.asked.discard(task)
        try:
            self.found.append(task.result())
            server.strikes, server.room = 0, min(self.most, server.room + 1)
        except api.Transient as error:
            full = error.overload and server.room > 1
            if full:
                server.room -= 1
            else:
                server.strike(f"has failed {api.STRIKES} times in a row: {error}")
            self._retry(request, failures + (not full), str(error))
        except asyncio.CancelledError:  # the server has been taken out
            self._retry(request, failures + 1, "no answer")
        self._send()

    def _retry(self, request: Request, failures: int, reason: str) -> None:
        if failures == TRIES:
            self.found.append(Completion(request.id, error=f"{reason} (tried {TRIES} times)"))
            return
        delay = min(LONGEST_BACKOFF, BACKOFF_SECONDS * 2**failures) * random.uniform(0.5, 1)
        asyncio.get_running_loop().call_later(delay, self._send, (request, failures))

    async def _watch(self, server: api.Server) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._look(server)
            self._send()

    async def _look(self, server: api.Server) -> None:
        """Take a server in that lists the model, and out with all it has if it time and again does not."""
        try:
            server.model = await server.served(self.http, (self.model.ref, self.model.resolved))
        except api.Transient as error:
            server.strike(str(error))
            for task in server.asked if server.out else ():
                task.cancel()
            return
        if server.out:
            say(f"{server.url} answers")
        server.out, server.strikes = "", 0

    def _give_up(self) -> None:
        """Once all servers have been out for GIVE_UP_SECONDS, end what is left as errors."""
        if not all(server.out for server in self.servers):
            self.seen = time.monotonic()
        while time.monotonic() - self.seen > GIVE_UP_SECONDS and self.todo:
            request, _ = self.todo.popleft()
            self.found.append(Completion(request.id, error=f"no endpoint is left: {self._reasons()}"))

    def _reasons(self) -> str:
        return "; ".join(f"{server.url} {server.out}" for server in self.servers)
