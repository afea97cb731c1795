"""Responses from OpenAI-compatible servers, one or many, any of which may be slow, fail or come back.

    sampling = Generation(backend="endpoint", endpoints=["http://a:8000", "http://b:8000"])
    with open_backend(ModelRef("Qwen/Qwen2.5-7B-Instruct"), sampling) as backend:
        for completion in backend.complete(requests):
            ...

    completion(request, answer, opened="")    -> Completion("a", "<think>...", "stop", 41, 812)

Each request goes to the server that is least busy, of those that have room. A success makes room for one
more; a server that says that it is full has room for one less. A request that fails is tried again, with
back-off; one that is refused (4xx) is an error at once. A server that fails time and again or hangs is taken
out, and back in once it lists the model again. With all of them out for GIVE_UP_SECONDS, what is left ends
as errors.
"""

import asyncio
import json
import os
import random
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.request import urlopen

import aiohttp

from ..errors import UserError
from ..inputs.chat import THINK, load_chat, opened_thought
from ..inputs.references import ModelRef
from ..recipe.sections import Generation
from ..system.files import digest
from . import Base, Completion, Launch, Request, say

# Twice vLLM's usual number of running sequences (256): a full server, and a queue that keeps it full.
ROOM, MOST_ROOM = 512, 4096
TRIES = 6
STRIKES = 3  # failures or unanswered probes in a row, after which a server is taken out
BACKOFF_SECONDS, LONGEST_BACKOFF = 1.0, 60.0
PROBE_SECONDS = 5.0
PROBE_TIMEOUT = 30.0  # seconds; also of connecting
KEEPALIVE_SECONDS = 3.0  # below the 5 s after which vLLM closes an idle connection
# A long response may wait behind others; servers that hang are noticed by probes.
REQUEST_SECONDS = 4 * 3600.0
GIVE_UP_SECONDS = 300.0
BATCH_SECONDS = 0.05  # what comes within it is given on together
BROKEN = (ValueError, LookupError, TypeError, AttributeError)  # of reading an answer of another shape


class Transient(Exception):
    """A failure that another try may heal."""


class Full(Transient):
    """The server is well, but has no room for the request now."""


@dataclass
class Server:
    """One endpoint and how it does; `out` says why it is asked nothing, and is empty while it is in."""

    url: str
    room: int  # for so many requests at a time
    model: str = ""
    out: str = "has not been asked"
    strikes: int = STRIKES
    asked: dict[asyncio.Task[Completion], tuple[Request, int]] = field(default_factory=dict)

    def strike(self, reason: str) -> None:
        """Count a failure, and take the server out after STRIKES in a row."""
        self.strikes += 1
        if self.strikes >= STRIKES and self.out != reason:
            say(f"{self.url} {reason}")
            self.out = reason

    def version(self) -> str:
        """What vLLM tells of itself; other servers tell nothing."""
        with suppress(OSError, *BROKEN), urlopen(f"{self.url}/version", timeout=PROBE_TIMEOUT) as response:
            return f"vllm {json.load(response)['version']}"
        return "unknown"


class Backend(Base):
    """Completions of the servers that serve the model; `alive` may raise to end them all."""

    def __init__(
        self, model: ModelRef, sampling: Generation, launch: Launch, alive: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(model, sampling, launch)
        self.alive = alive
        self.key = os.environ.get(sampling.api_key_env or "", "")
        if sampling.api_key_env and not self.key:
            raise UserError(f"generation.api_key_env: {sampling.api_key_env} is not set in the environment")
        self.opened, self.plain = "", False
        try:
            self.chat = load_chat(model)
            self.opened = opened_thought(self.chat.prompt([{"role": "user", "content": "?"}]))
            self.plain = not self.chat.template
        except (UserError, OSError, ValueError) as error:  # a hosted model may have no public tokenizer
            if sampling.context_len:
                raise UserError(f"generation.context_len: prompts cannot be counted: {error}") from error
            say(f"{model.ref} has no tokenizer here: a thought that its template opens is not given back")
        urls = dict.fromkeys(url.rstrip("/").removesuffix("/v1") for url in sampling.endpoints)
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # each request holds one
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        self.most = MOST_ROOM if files < 0 else min(MOST_ROOM, max(1, (files - 256) // len(urls)))
        room = min(ROOM * launch.data_parallel, self.most)
        self.servers = [Server(url, room) for url in urls]

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they come. Raises UserError if no endpoint serves the model."""
        self.todo = deque((request, 0) for request in requests)  # with the number of failures
        self.found: list[Completion] = []
        self.seen, left = time.monotonic(), len(self.todo)  # seen: when a server was last in
        with asyncio.Runner() as runner:
            work = runner.get_loop().create_task(self._work())
            try:
                while left:
                    runner.run(asyncio.wait([work], timeout=BATCH_SECONDS))
                    if work.done():  # it only ends with an error
                        work.result()
                    found, self.found = self.found, []
                    yield from found
                    left -= len(found)
                    self.alive()
                    self._give_up()
            finally:
                self.todo.clear()  # nothing more is sent

    def numerics(self) -> dict[str, Any]:
        """The servers' versions where they tell them; the rest is theirs to know."""
        return {"versions": sorted({server.version() for server in self.servers if not server.out})}

    def body(self, request: Request) -> dict[str, Any]:
        """What is posted for a request, except for the model's name.

        Everything that a server may have its own default for is said outright.
        """
        sampling, chat = self.sampling, not (request.raw or self.plain)
        read = sampling.context_len and [self.chat.prompt(request.messages) if chat else request.text]
        # A start token that the server may add to a raw prompt is not counted.
        room = sampling.room(self.chat.counts(read)[0] if read else 0)
        return {
            **({"messages": request.messages} if chat else {"prompt": request.text}),
            "max_tokens": room, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            "seed": int(digest([sampling.seed, request.id], 7), 16),  # whatever the order of the rows
        }  # fmt: skip

    async def _work(self) -> None:
        """Send requests, and watch the servers, until it is cancelled."""
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=PROBE_TIMEOUT),
        ) as self.http:
            await asyncio.gather(*(self._look(server) for server in self.servers))
            if all(server.out for server in self.servers):
                raise UserError(f"generation.endpoints: {self._reasons()}")
            self._send()
            await asyncio.gather(*(self._watch(server) for server in self.servers))

    def _send(self, *more: tuple[Request, int]) -> None:
        """Put requests to those that wait, and send what the servers have room for."""
        self.todo.extend(more)
        while self.todo and (free := [s for s in self.servers if not s.out and len(s.asked) < s.room]):
            server = min(free, key=lambda server: len(server.asked))
            request, failures = self.todo.popleft()
            task = asyncio.create_task(self._ask(server, request))
            server.asked[task] = request, failures
            task.add_done_callback(partial(self._receive, server))

    async def _ask(self, server: Server, request: Request) -> Completion:
        """One completion, with an error if it is refused (4xx). Raises Transient for what may pass."""
        body = {"model": server.model, **self.body(request)}
        path = "completions" if "prompt" in body else "chat/completions"
        with _failures("completion"):
            async with self.http.post(f"{server.url}/v1/{path}", json=body) as response:
                status, text = response.status, await response.read()
            if status == 200:
                return completion(request, json.loads(text), self.opened)
        words = f"status {status}: {' '.join(text.decode(errors='replace').split())[:500]}"
        words = words.replace(self.key, "***") if self.key else words  # it is told to nobody
        if status in (408, 429):
            raise Full(words)
        if status >= 500:
            raise Transient(words)
        return Completion(request.id, error=words)

    def _receive(self, server: Server, task: asyncio.Task[Completion]) -> None:
        request, failures = server.asked.pop(task)
        try:
            self.found.append(task.result())
            server.strikes, server.room = 0, min(self.most, server.room + 1)
        except Transient as error:
            if full := isinstance(error, Full) and server.room > 1:
                server.room -= 1
            else:
                server.strike(f"has failed {STRIKES} times in a row: {error}")
            self._retry(request, failures + (not full), str(error))
        except asyncio.CancelledError:
            if server.out:  # otherwise the run ends
                self._retry(request, failures + 1, "no answer")
        except Exception as error:  # nobody expects it, and the request would be waited for without end
            self.found.append(Completion(request.id, error=repr(error)))
        self._send()

    def _retry(self, request: Request, failures: int, reason: str) -> None:
        if failures == TRIES:
            self.found.append(Completion(request.id, error=f"{reason} (tried {TRIES} times)"))
            return
        delay = min(LONGEST_BACKOFF, BACKOFF_SECONDS * 2**failures) * random.uniform(0.5, 1)
        asyncio.get_running_loop().call_later(delay, self._send, (request, failures))

    async def _watch(self, server: Server) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._look(server)
            self._send()

    async def _look(self, server: Server) -> None:
        """Take a server in that lists the model, and out with all it has if it time and again does not."""
        try:
            server.model = await self._served(server)
        except Transient as error:
            server.strike(str(error))
            for task in server.asked if server.out else ():
                task.cancel()
            return
        if server.out:
            say(f"{server.url} answers")
        server.out, server.strikes = "", 0

    async def _served(self, server: Server) -> str:
        """The name by which a server lists the model. Raises Transient with the reason if it does not."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        with _failures("list of models at /v1/models"):
            async with self.http.get(f"{server.url}/v1/models", timeout=timeout) as response:
                if response.status in (401, 403):
                    refused = f"refuses the key (status {response.status})"
                    raise Transient(f"{refused}: generation.api_key_env names its variable")
                listed = [entry["id"] for entry in json.loads(await response.read())["data"]]
        for name in (self.model.ref, self.model.resolved):
            if name in listed:
                return name
        raise Transient(f"does not serve {self.model.ref}, only {', '.join(listed)}")

    def _give_up(self) -> None:
        """Once all servers have been out for GIVE_UP_SECONDS, end what is left as errors."""
        if not all(server.out for server in self.servers):
            self.seen = time.monotonic()
        while time.monotonic() - self.seen > GIVE_UP_SECONDS and self.todo:
            request, _ = self.todo.popleft()
            self.found.append(Completion(request.id, error=f"no endpoint is left: {self._reasons()}"))

    def _reasons(self) -> str:
        return "; ".join(f"{server.url} {server.out}" for server in self.servers)


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
    elif not (request.raw or text.startswith(THINK)):
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
