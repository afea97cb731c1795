"""Engines as commands: find them, name their versions, run one with a log, end it when we end.

argv = [*engine_argv("llamafactory-cli"), "train", "/abs/train.yaml"]
code = run_logged(argv, Path("/abs/step"), Path("/abs/step/log.txt"), OMP_NUM_THREADS="1")
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from ..errors import UserError

ENGINES = ("llamafactory", "mergekit", "lm_eval", "vllm", "transformers", "torch", "math-verify")
STOP_SECONDS = 10.0  # from SIGTERM to SIGKILL
# At a line's start, or after a logger's `[core.py:708] ` or PyTorch's `[rank0]: `.
NAMED_ERROR = re.compile(r"(?:^|\[rank(\d+)\]: |\]:? )([\w.]+Error: .+)", re.MULTILINE)
OUT_OF_MEMORY = re.compile("(?i)MemoryError|out of memory|not enough memory|can't allocate memory")
# What a log says of no cause: warnings and the line that they quote, the launcher of what failed, our words.
NOISE = re.compile(r"\w+Warning: |^\s*warnings\.warn|CalledProcessError|^micota( runs)?: ")
BEGIN = "micota runs: "  # a line of a log, before the words of an engine
GUARD = str(Path(__file__).with_name("guard.sh"))


def by_hand(argv: list[str], env: dict[str, str], cwd: Path) -> str:
    """A command as one shell line, to copy and run, with the environment variables that it adds."""
    words = [f"{key}={shlex.quote(value)}" for key, value in env.items()]
    return f"cd {shlex.quote(str(cwd))} && {' '.join([*words, shlex.join(argv)])}"


def engine_argv(command: str) -> list[str]:
    """An engine's command as an argument list, its program found beside our Python or on PATH."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"engines: {command!r}: {error}") from error
    if not words:
        raise UserError("engines: an empty command")
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(words[0], path=search)
    if program is None:
        raise UserError(f"engines: {words[0]!r} was not found; install it or name its command in `engines:`")
    return [program, *words[1:]]


def versions(packages: Iterable[str] = ENGINES) -> dict[str, str]:
    """Installed versions of packages by name; absent ones are left out."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def untested_versions() -> list[str]:
    """A line for each engine beside us whose version is not the one that this package names."""
    requirements = "\n".join(metadata.requires("micota_lf") or [])
    tested = dict(re.findall(r"^([\w-]+)(?:\[.*\])?==([\w.]+)", requirements, re.MULTILINE))
    return [
        f"{name} {found} is installed; micota_lf was tested with {tested[name]}"
        for name, version in versions(tested).items()
        if (found := version.partition("+")[0]) != tested[name]
    ]


def started(argv: list[str], cwd: Path, log: Path, **env: str) -> subprocess.Popen[bytes]:
    """A process in a session of its own, both outputs appended to `log`; the kernel kills it if we end."""
    with log.open("ab") as handle:
        return subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip


@contextmanager
def running(argv: list[str], cwd: Path, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with both outputs appended to `log`, of which nothing is left when the block ends.

    Its descendants are known by a variable in their environment: torchrun gives each worker a session of its
    own. A shell reads from a pipe that closes when the block ends and when we are killed, and ends what is
    left: the kernel would end the child alone, and its orphans would go on writing and hold their GPUs.
    """
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"{BEGIN}{shlex.join(argv)}\n")
    mark = f"MICOTA_ENGINE_{os.urandom(8).hex()}"
    child = started(argv, cwd, log, **{"PYTHONUNBUFFERED": "1", **env, mark: "1"})
    guard = ["/bin/sh", GUARD, f"{mark}=1"]
    with subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        try:
            yield child
        finally:
            _end_group(child)


def run_logged(argv: list[str], cwd: Path, log: Path, **env: str) -> int:
    """Run a command to its end with both outputs appended to `log`; return its exit code."""
    with running(argv, cwd, log, **env) as child:
        return child.wait()


def output_of(*argv: str, check: bool = True) -> str | None:
    """What a short command prints; None if it is absent, takes over a minute or, with `check`, fails."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=60).stdout
    return None


def ending(code: int) -> str:
    """How a process ended, in words, from its exit code; those of shells count from 128."""
    number = -code if code < 0 else code - 128
    name = {known.value: known.name for known in signal.Signals}.get(number)
    if number == signal.SIGKILL:
        return f"was killed (exit code {code}), by somebody or by the kernel for want of memory (see dmesg)"
    return f"was ended by {name} (exit code {code})" if name else f"ended with exit code {code}"


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End what is left of a child's process group, which may have outlived it, politely at first."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        for _ in range(int(STOP_SECONDS / 0.1)):
            leader.poll()  # reaps it
            os.killpg(leader.pid, 0)
            time.sleep(0.1)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def log_tail(log: Path, lines: int) -> str:
    """The last lines of a log, without progress bars' carriage returns."""
    if not log.is_file():
        return ""
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - 20_000))
        text = handle.read().decode("utf-8", errors="replace")
    return "\n".join(line.split("\r")[-1].rstrip() for line in text.rstrip().split("\n")[-lines:])


def last_errors(log: Path, lines: int = 8) -> list[str]:
    """The errors that a log names above its end, where the cause often stands, then its last lines.

    At most three errors with the ranks that raised them, and 400 characters of a line; noise is left out. A
    log that is empty or absent has none.
    """
    tail = [line for line in log_tail(log, 3 * lines).splitlines() if not NOISE.search(line)][-lines:]
    named = [error for error in _named_errors(log) if not NOISE.search(error)]
    above = [error for error in named if not any(error.partition(": ")[2] in line for line in tail)]
    return [line[:400] for line in [*above[-3:], *tail]]


def memory_errors(log: Path) -> list[str]:
    """The errors of an engine's last run that tell of too little memory, at most one a rank."""
    found = {error.partition(":")[0]: error for error in _named_errors(log) if OUT_OF_MEMORY.search(error)}
    return list(found.values())


def _named_errors(log: Path) -> list[str]:
    """Each different error that an engine's last run named, as `rank 1: ValueError: no`."""
    last = (log.read_text(errors="replace") if log.is_file() else "").rpartition(f"\n{BEGIN}")[2]
    ranked = ((f"rank {rank}: " if rank else "") + error for rank, error in NAMED_ERROR.findall(last))
    return list(dict.fromkeys(ranked))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the one that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG of linux/prctl.h
