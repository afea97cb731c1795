"""Grading many responses, or one, in processes of their own that no answer can hang or fill.

    for row, (verdict,) in grade_rows(rows, lambda row: [Question(row["response"], row["answer"])]):
        ...
    grade_safely(Question("so \\\\boxed{9^{9^{9^9}}}", "3")).symbolic   -> False, in 10 s at most

Computer algebra on a model's text can run for ever inside one C call, which no alarm interrupts. So a worker
has a timer of processor time by which the kernel ends it, however busy the machine is, and a memory limit. A
row that its worker dies of keeps its string verdict and gets the reason `timeout` or `unparseable`; the other
rows of its batch go to a fresh worker. Workers are new interpreters (nothing is forked from a process that
holds a GPU or threads) that the kernel ends with their parent. (math-verify's own alarms come after 5 s and
mean `wrong`; `timeout` is what they could not stop.)

Pools of the standard library and of pebble have no memory limit and no timer but the wall clock; pebble's
`map` also charges a timeout to a whole chunk and takes in all rows before the first (pebble/pool/process.py).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing.connection import Connection, Pipe, wait
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from .engines import die_with_parent
from .errors import MicotaError, UserError
from .grade import UNPARSEABLE, Grade, extract_boxed, grade, legacy_equal

TIMEOUT = "timeout"
BATCH_ROWS, BATCH_CHARACTERS = 32, 2**18  # what is sent to a worker at once
AHEAD_ROWS, AHEAD_CHARACTERS = 2**11, 2**25  # how far fast rows may get ahead of a slow one
START_SECONDS, IMPORT_SECONDS = 300.0, 20.0

T = TypeVar("T")
_LOCK = threading.Lock()


class Limits(NamedTuple):
    """What one response may take: processor time, memory above the worker's start, characters looked at.

    `wall_factor` times `seconds` on the clock (and some to load) end what waits instead of computing. Of a
    longer response only the last part is graded: that is where its answer is. A worker that has grown by
    `growth` bytes is replaced after the row, so that no row meets another's leftovers.
    """

    seconds: float = 10.0
    memory: int = 2 * 2**30
    characters: int = 1_000_000
    wall_factor: float = 6.0
    growth: int = 2**29


LIMITS = Limits()


class Question(NamedTuple):
    """A response to grade; arguments of `grade`. `lost` is why the algebra is not tried (again)."""

    response: str | None
    answer: str | None
    truncated: bool = False
    legacy_rule: str = "hendrycks"
    lost: str = ""


_Numbered = tuple[int, Question]


def grade_rows(
    rows: Iterable[T],
    questions: Callable[[T], Sequence[Question]],
    workers: int | None = None,
    limits: Limits = LIMITS,
) -> Iterator[tuple[T, list[Grade]]]:
    """Each row with the grades of its questions, in the order of the rows, while they are being read.

    Verdicts do not depend on `workers` (default: one a core); memory does not grow with the number of rows.
    """
    pool = Pool(workers or len(os.sched_getaffinity(0)), limits)
    held: deque[tuple[T, int, int]] = deque()  # rows read and not yet given, their questions and characters
    done: dict[int, Grade] = {}
    source, asked, given, characters, exhausted = iter(rows), 0, 0, 0, False
    try:
        while True:
            while (
                not exhausted and pool.hungry and asked < given + AHEAD_ROWS and characters < AHEAD_CHARACTERS
            ):
                batch: list[_Numbered] = []
                size = 0
                for row in source:
                    mine = questions(row)
                    length = sum(len(question.response or "") for question in mine)
                    held.append((row, len(mine), length))
                    batch += enumerate((_cut(question, limits) for question in mine), asked)
                    asked, size = asked + len(mine), size + length
                    if len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
                        break
                else:
                    exhausted = True
                characters += size
                for start in range(0, len(batch), BATCH_ROWS):
                    pool.give(batch[start : start + BATCH_ROWS])
            while held and all(number in done for number in range(given, given + held[0][1])):
                row, count, length = held.popleft()
                yield row, [done.pop(number) for number in range(given, given + count)]
                given, characters = given + count, characters - length
            if held:
                done.update(pool.results())
            elif exhausted:
                return
    finally:
        pool.close()


def grade_safely(question: Question, limits: Limits = LIMITS) -> Grade:
    """The grade of one response, from a worker that is kept for the next one."""
    with _LOCK:
        pool = _kept_pool(os.getpid(), limits)
        try:
            pool.give([(0, _cut(question, limits))])
            while not (results := pool.results()):
                continue
        except BaseException:
            _kept_pool.cache_clear()
            pool.close()
            raise
    return results[0][1]


@cache
def _kept_pool(pid: int, limits: Limits) -> Pool:
    pool = Pool(1, limits)
    atexit.register(pool.close)
    return pool


def _cut(question: Question, limits: Limits) -> Question:
    if len(question.response or "") <= limits.characters:
        return question
    return question._replace(response=(question.response or "")[-limits.characters :])


@dataclass(eq=False)
class _Worker:
    """One process, what it was given and has not answered, and when it is held to be stuck."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    deadline: float
    ready: bool = False
    batch: deque[_Numbered] = field(default_factory=deque)


class Pool:
    """Worker processes, started as batches come in, that outlive what they are given or are replaced."""

    def __init__(self, size: int, limits: Limits) -> None:
        self._size, self._limits, self._pid = size, limits, os.getpid()
        self._queue: deque[list[_Numbered]] = deque()
        self._workers: list[_Worker] = []

    @property
    def hungry(self) -> bool:
        """Whether a worker could go idle before the next results."""
        return len(self._queue) < self._size

    def give(self, batch: list[_Numbered]) -> None:
        """Add numbered questions to those to be graded."""
        if batch:
            self._queue.append(batch)
            self._feed()

    def results(self) -> list[tuple[int, Grade]]:
        """Some numbered grades, after waiting for them; perhaps none yet."""
        found: list[tuple[int, Grade]] = []
        self._feed()
        busy = [worker for worker in self._workers if worker.batch or not worker.ready]
        pause = min((worker.deadline for worker in busy), default=0) - time.monotonic()
        readable = wait([worker.pipe for worker in busy], max(0.0, pause))
        for worker in busy:
            if worker.pipe in readable:
                self._read(worker, found)
            elif time.monotonic() >= worker.deadline:
                self._lose(worker, found, TIMEOUT)
        self._feed()
        return found

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        if os.getpid() == self._pid:  # not a fork's, which has inherited the object alone
            for worker in self._workers:
                _end(worker)
        self._workers.clear()
        self._queue.clear()

    def _feed(self) -> None:
        """Give waiting batches to idle workers; start workers for what is left."""
        for worker in list(self._workers):
            if worker.process.poll() is not None and not worker.batch and worker.ready:
                _end(worker)
                self._workers.remove(worker)
            elif worker.ready and not worker.batch and self._queue:
                worker.batch.extend(self._queue.popleft())
                worker.deadline = self._deadline()
                try:
                    worker.pipe.send([question for _, question in worker.batch])
                except OSError:  # it has ended in between; its end of file says how
                    continue
        coming = sum(not worker.ready for worker in self._workers)
        while coming < len(self._queue) and len(self._workers) < self._size:
            self._workers.append(_start(self._limits))
            coming += 1

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.wall_factor * self._limits.seconds + IMPORT_SECONDS

    def _read(self, worker: _Worker, found: list[tuple[int, Grade]]) -> None:
        try:
            while worker.pipe.poll():
                answer = worker.pipe.recv()
                if worker.ready:
                    found.append((worker.batch.popleft()[0], answer))
                elif answer:
                    raise UserError(answer)
                worker.ready, worker.deadline = True, self._deadline()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(START_SECONDS)  # it is ending; how, says what its row has done to it
            self._lose(worker, found)

    def _lose(self, worker: _Worker, found: list[tuple[int, Grade]], reason: str = "") -> None:
        """Put back what a dead or stuck worker had; the row that it was at is not tried in full again."""
        if not worker.ready:
            raise MicotaError("a grading process did not start; is there memory for one more Python?")
        code = _end(worker)
        self._workers.remove(worker)
        rest = list(worker.batch)
        if rest and code != 0:  # 0: it has ended by itself, between two rows
            (number, question), *rest = rest
            reason = reason or (TIMEOUT if code == -signal.SIGPROF else UNPARSEABLE)
            if question.lost:
                found.append((number, Grade(None, False, False, question.lost)))
            else:
                self._queue.appendleft([(number, question._replace(lost=reason))])
        if rest:
            self._queue.appendleft(rest)


def _start(limits: Limits) -> _Worker:
    ours, theirs = Pipe()
    path, given = [str(entry) for entry in sys.path], (theirs.fileno(), os.getpid(), tuple(limits))
    code = f"import sys; sys.path[:] = {path!r}; from micota_lf.grading import work; work{given!r}"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return _Worker(process, ours, time.monotonic() + START_SECONDS)


def _end(worker: _Worker) -> int:
    """Close, kill and reap a worker; its exit code."""
    worker.process.kill()  # nothing if it has ended
    worker.pipe.close()
    return worker.process.wait()


def work(handle: int, parent: int, limits: tuple[Any, ...]) -> None:
    """A worker's life: batches of questions from the pipe, one grade back for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _alarms_by_processor_time()
    die_with_parent()
    logging.disable()
    with Connection(handle) as pipe:
        pipe.send(_warm_up())
        seconds, memory, _, _, growth = Limits(*limits)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = _used_memory() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
        start = _peak_memory()
        while os.getppid() == parent:
            try:
                batch: list[Question] = pipe.recv()
            except (EOFError, OSError):
                return
            for question in batch:
                signal.setitimer(signal.ITIMER_PROF, seconds)
                result = _by_strings(question)
                if not (result.legacy or question.lost or "math_verify" in sys.modules):
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    grade("\\boxed{\\sin x}", "\\cos x")  # loads the algebra on no row's time
                    signal.setitimer(signal.ITIMER_PROF, seconds)
                result = result if question.lost else _grade(question, result)
                signal.setitimer(signal.ITIMER_PROF, 0)
                pipe.send(result)
                if _peak_memory() > start + growth:
                    return


def _warm_up() -> str:
    """Load the graders; what is missing, in words."""
    if "datasets" not in sys.modules:  # lm-eval's helper imports it for one annotation: seconds a worker
        sys.modules["datasets"] = SimpleNamespace(Dataset=object)  # type: ignore[assignment]
    try:
        grade("\\boxed{1}", "1")
    except MicotaError as error:
        return str(error)
    return ""


def _grade(question: Question, by_strings: Grade) -> Grade:
    response, answer, truncated, legacy_rule, _ = question
    try:
        return grade(response, answer, truncated, legacy_rule)
    except Exception as error:
        timed_out = type(error).__name__ == "TimeoutException"  # math-verify's
        return replace(by_strings, reason=TIMEOUT if timed_out else UNPARSEABLE)


def _by_strings(question: Question) -> Grade:
    """What needs no algebra: the answer's text and the legacy verdict."""
    try:
        extracted = extract_boxed(question.response or "")
        legacy = extracted is not None and legacy_equal(
            extracted, question.answer or "", question.legacy_rule
        )
    except Exception:
        return Grade(None, False, False, question.lost)
    return Grade(extracted, legacy, False, question.lost)


def _alarms_by_processor_time() -> None:
    """Have math-verify's alarms, 5 s by the clock, count like our timer, so that load changes no verdict."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # for one that comes late
    signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.SIGALRM))
    signal.alarm = lambda seconds: int(signal.setitimer(signal.ITIMER_VIRTUAL, seconds)[0])


def _used_memory() -> int:
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[0]) * resource.getpagesize()


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
