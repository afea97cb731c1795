r"""Grading many responses, or one, so that no answer hangs, fills or ends the process that asked.

    for row, (verdict,) in grade_rows(rows, lambda row: [Question(row["response"], row["answer"])]):
        ...
    grade_safely(Question("so \\boxed{9^{9^{9^9}}}", "3")).reason   -> "timeout", after 10 s of computing

Most answers are judged here, from their text alone. Only pairs that computer algebra must compare go to
worker processes (pebble), for it can run for ever inside one C call, which no alarm interrupts: a worker has
a timer of processor time by which the kernel ends it, however busy the machine is, and a memory limit. The
answer that a worker dies of gets the reason `timeout` or `unparseable` and keeps its legacy verdict; no other
is touched. Workers are fresh interpreters (nothing is forked from a process that holds a GPU or threads, and
a script needs no `__main__` guard: joblib's start method) that the kernel ends with their parent.
"""

import logging
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeVar

from ..errors import MicotaError
from ..system.processes import die_with_parent
from .answer import TIMEOUT, UNPARSEABLE, Grade, grade
from .equal import NeedsAlgebra, Pair, Verdict, same_answer, same_text

AHEAD_ROWS, AHEAD_CHARACTERS = 2**11, 2**25  # how far text may get ahead of algebra
TRIES, BEAT_SECONDS = 5, 1.0  # how often a pair is asked whose pool breaks, how soon that is noticed

T = TypeVar("T")


class Limits(NamedTuple):
    """What one answer may take: processor time, memory above the worker's start, characters looked at.

    Eight times `seconds` on the clock end what waits instead of computing. Of a longer response only the last
    part is graded: that is where its answer is. A worker is replaced after `answers`.
    """

    seconds: float = 10.0
    memory: int = 2 * 2**30
    characters: int = 1_000_000
    answers: int = 5000


LIMITS = Limits()


class Question(NamedTuple):
    """A response to grade; arguments of `grade`."""

    response: str | None
    answer: str | None
    truncated: bool = False
    legacy_rule: str = "hendrycks"


class _Asked(NamedTuple):
    """A verdict to come, and the pool that it comes from."""

    future: Future[Verdict]
    pool: Any

    def result(self) -> Verdict:
        """The verdict. Raises BrokenProcessPool also of a pool that broke before it handed the pair out.

        Pebble ends none of the futures that then still wait in its queue.
        """
        while not wait([self.future], BEAT_SECONDS).done:
            if not self.pool.active:
                raise BrokenProcessPool("before a worker was asked")
        return self.future.result()


class _Waiting(NamedTuple):
    """A question whose answer only computer algebra can compare, and the verdict to come."""

    question: Question
    pair: Pair
    asked: _Asked


class Algebra:
    """Worker processes that compare pairs of answers; none is started before the first pair."""

    def __init__(self, workers: int, limits: Limits) -> None:
        self._limits, self._workers = limits, workers
        self._pool: Any = None
        self._compare = lru_cache(AHEAD_ROWS)(self._schedule)  # the same pairs come again, hostile ones too

    def close(self) -> None:
        """End the workers."""
        if self._pool:
            self._pool.stop()
            self._pool.join()

    def begin(self, question: Question) -> Grade | _Waiting:
        """The grade of a question whose text is enough; for any other, a worker is asked."""
        cut = question._replace(response=(question.response or "")[-self._limits.characters :])
        try:
            return grade(*cut, same=same_text)
        except NeedsAlgebra as needed:
            return _Waiting(cut, needed.args, self._compare(needed.args))
        except Exception:  # an odd text must not end the others
            return Grade(None, False, False, UNPARSEABLE)

    def end(self, begun: Grade | _Waiting) -> Grade:
        """The grade, once a worker has ended with the pair or by it."""
        if isinstance(begun, Grade):
            return begun
        verdict = self._verdict(begun.pair, begun.asked)
        return grade(*begun.question, same=lambda got, gold: verdict)

    def _verdict(self, pair: Pair, asked: _Asked) -> Verdict:
        for _ in range(TRIES):
            try:
                return asked.result()
            # By the death of an idle worker, or of one whose word that it took a pair is not read yet, as
            # a long text held up pebble's threads (find_expired_task).
            except BrokenProcessPool as error:
                broken = error
                if asked.pool is self._pool:
                    self._compare.cache_clear()
                asked = self._compare(pair)
            except Exception as error:  # of the comparison, or pebble's by the worker's end
                late = isinstance(error, TimeoutError) or getattr(error, "exitcode", 0) == -signal.SIGPROF
                return TIMEOUT if late else None
        raise MicotaError(f"grading processes do not start; is there memory for one? {broken}") from broken

    def _schedule(self, pair: Pair) -> _Asked:
        # Not at the top: most of our processes grade nothing, and these take as long as all the rest.
        from joblib.externals.loky.backend.context import get_context
        from pebble import ProcessPool

        seconds, memory, _, answers = self._limits
        if not (self._pool and self._pool.active):
            self.close()
            self._pool = ProcessPool(self._workers, answers, _limit, (memory,), get_context("loky"))
        return _Asked(self._pool.schedule(_compare, (*pair, seconds), timeout=8 * seconds), self._pool)


def grade_rows(
    rows: Iterable[T],
    questions: Callable[[T], Sequence[Question]],
    workers: int | None = None,
    limits: Limits = LIMITS,
) -> Iterator[tuple[T, list[Grade]]]:
    """Each row with the grades of its questions, in the order of the rows, while they are being read.

    Verdicts do not depend on `workers` (default: one a core); memory does not grow with the number of rows.
    """
    held: deque[tuple[T, list[Grade | _Waiting], int]] = deque()  # rows not yet given, their sizes
    ahead = 0
    with closing(Algebra(workers or len(os.sched_getaffinity(0)), limits)) as algebra:
        for row in rows:
            asked = questions(row)
            size = sum(len(question.response or "") for question in asked)
            held.append((row, [algebra.begin(question) for question in asked], size))
            ahead += size
            while held and (len(held) > AHEAD_ROWS or ahead > AHEAD_CHARACTERS or _graded(held[0][1])):
                row, begun, size = held.popleft()
                ahead -= size
                yield row, [algebra.end(one) for one in begun]
        for row, begun, _ in held:
            yield row, [algebra.end(one) for one in begun]


def _graded(begun: list[Grade | _Waiting]) -> bool:
    return all(isinstance(one, Grade) or one.asked.future.done() for one in begun)


def grade_safely(question: Question, limits: Limits = LIMITS) -> Grade:
    """The grade of one response; the worker that it may need is kept for the next one."""
    algebra = _kept_algebra(os.getpid(), limits)
    return algebra.end(algebra.begin(question))


@cache
def _kept_algebra(pid: int, limits: Limits) -> Algebra:
    return Algebra(1, limits)  # of this process: a fork's threads are gone


def _limit(memory: int) -> None:
    """Prepare a worker: its memory, its death with its parent, and the algebra on no answer's time."""
    die_with_parent()
    logging.disable()  # math-verify would say for each answer that its own alarms are off
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    same_answer("\\sin x", "\\cos x", seconds=None)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with open("/proc/self/statm") as handle:
        most = int(handle.read().split()[0]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def _compare(got: str, gold: str, seconds: float) -> Verdict:
    """A worker's task. One that ran out of memory is not used again."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return same_answer(got, gold, seconds=None)
    except MemoryError:
        os._exit(1)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
