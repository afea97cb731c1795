"""The kinds of steps: one module a kind, found by its name.

    stage("filter").run(step)      -> the step's results, or StepFailed or UserError

A new kind is a module here with a `STAGE`, and a line in plan/compile.py that makes such steps.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import EngineDied, OutOfMemory, StepFailed
from ..grading.own import OwnVerdict, own_verdict
from ..inputs.problems import Prompts
from ..inputs.references import ModelRef
from ..recipe.sections import OWN
from ..system.fields import identity, joined, running
from ..system.processes import by_hand, ending, memory_errors, run_logged

T = TypeVar("T")
Results = dict[str, Any]
LOG, LOGS = "log.txt", "log*.txt"  # others are of other machines
STOPPED = (signal.SIGINT, signal.SIGTERM)  # by somebody who wants it to end
SHOWN_RANKS = 2


class Settings(NamedTuple):
    """What a step is made with: what decides its outputs, what does not, and its GPUs."""

    config: dict[str, Any]
    how: dict[str, Any] = {}  # noqa: RUF012 - never changed
    gpus: int = 0

    @classmethod
    def of(cls, *sections: Any, gpus: int = 0, apart: dict[str, Any] | None = None, **how: Any) -> "Settings":
        """Sections of the recipe, each under its class's name; `apart` decides outputs too, `how` none."""
        named = {type(section).__name__.lower(): section for section in sections}
        config = {name: identity(section) for name, section in named.items()}
        ways = {name: way for name, section in named.items() if (way := running(section))}
        return cls({**config, **(apart or {})}, {**ways, **how}, gpus)


@dataclass
class Context:
    """What a step works with: its directory, its settings, its inputs (absolute paths or hub ids), its GPUs.

    `config` decides what comes out, `how` does not. `commands` are those of the engines that were started,
    `engine_seconds` what they and models in this process took, `died` how an engine ended before it was tried
    again.
    """

    directory: Path
    config: dict[str, Any]
    inputs: dict[str, ModelRef]
    how: dict[str, Any]
    gpus: int = 0
    threads: int = 1
    env: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    engine_seconds: float = 0.0
    died: str | None = None

    def section(self, cls: type[T], **apart: Any) -> T:
        """A section of the recipe as `Settings.of` has split it; `apart` are fields that it leaves out."""
        name = cls.__name__.lower()
        return joined(cls, self.config[name], self.how.get(name, {}), apart)

    @property
    def prompts(self) -> Prompts:
        """The section of that name, for the step's input `prompts`."""
        source = self.inputs["prompts"]
        return self.section(Prompts, path=source.ref, revision=source.revision)

    @property
    def own_verdict(self) -> OwnVerdict | None:
        """The verdict of the user's own that the step's input of that name has, if there is one."""
        file = self.inputs.get("verdict")
        return own_verdict(Path(file.resolved), self.config[OWN]) if file else None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count what is done here as the engine's time."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.engine_seconds += time.monotonic() - start

    def engine(self, argv: list[str], **env: str) -> None:
        """Run an engine in the step's directory, its words in `log.txt`; StepFailed if it fails."""
        self.commands.append(by_hand(argv, {**self.env, **env}, self.directory))
        with self.working():
            code = run_logged(argv, self.directory, self.directory / LOG, **{**self.env, **env})
        if not code:
            return
        said = f"{Path(argv[0]).name} {ending(code)}"
        if short := [line for log in sorted(self.directory.glob(LOGS)) for line in memory_errors(log)]:
            raise OutOfMemory("; ".join([said, *(line[:400] for line in short[:SHOWN_RANKS])]))
        raise StepFailed(said) if -code in STOPPED else EngineDied(said)


@dataclass(frozen=True)
class Stage:
    """How steps of one kind are done.

    `run` refuses inputs before it writes anything, `progress` says in a few words how far a running step is.
    A `quick` one takes seconds on a CPU: on Slurm it runs where `micota run` does. `hub` says that it may
    load something from the hub besides its inputs. Other steps read its `output`, a file or a directory.
    `relief` says which keys to change if the engine had too little memory.
    """

    run: Callable[[Context], Results]
    progress: Callable[[Path], str] = lambda directory: ""
    quick: bool = False
    hub: bool = False
    output: str = ""
    relief: str = "more memory"


def stage(kind: str) -> Stage:
    """The stage of a kind of steps."""
    found: Stage = import_module(f".{kind}", __name__).STAGE
    return found
