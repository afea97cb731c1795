"""A plan: content-addressed steps, each after its inputs, and the recipe's names for them.

    plan.steps[plan.slots["train/student-s/micota"]].config      -> what decides its outputs
    plan.steps[id].directory                                     -> "train/student-s-on-teacher-0123456789ab"

A step's id is the hash of its kind, its config and its inputs (other steps' ids, or the content or revision
of a model). GPU counts, batch splits, paths and logging stay outside, in `how`. Slots give steps the names
that the recipe uses for them; several slots can share a step, and steps of equal content are one step.
"""

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..errors import UserError, nearest
from ..inputs.references import DataRef, ModelRef
from ..system.files import digest

# Raise it when a step's outputs change for the same config: old steps are then left alone and made anew.
SCHEMA = 3


@dataclass(frozen=True)
class Input:
    """One input of a step: a `file` of another `step`, or a reference with its identity."""

    step: str = ""
    file: str = ""
    ref: str = ""
    revision: str | None = None
    data: bool = False
    identity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ref: ModelRef) -> "Input":
        """The input that a reference names; local paths are made absolute."""
        ours = ref.ref if ref.ref.startswith("tiny:") else ref.resolved
        return cls("", "", ours, ref.revision, isinstance(ref, DataRef), ref.identity())

    @property
    def reference(self) -> ModelRef:
        """The reference of an input that is no other step's."""
        return (DataRef if self.data else ModelRef)(self.ref, self.revision)


@dataclass(frozen=True)
class Step:
    """One unit of work in `<workspace>/<kind>/<label>-<id>/`."""

    id: str
    kind: str
    label: str
    config: dict[str, Any]
    inputs: dict[str, Input]
    how: dict[str, Any]
    gpus: int = 0
    threads: int = 1

    @property
    def name(self) -> str:
        """The step for people."""
        return f"{self.kind} {self.label}"

    @property
    def directory(self) -> str:
        """Where it lives below the workspace."""
        return f"{self.kind}/{self.label}-{self.id}"

    @property
    def needs(self) -> list[str]:
        """Ids of the steps that it reads."""
        return list(dict.fromkeys(given.step for given in self.inputs.values() if given.step))


def step_id(kind: str, config: dict[str, Any], inputs: dict[str, Input]) -> str:
    """The hash of what decides a step's outputs."""
    read = {role: [i.step, i.file] if i.step else i.identity for role, i in inputs.items()}
    return digest([SCHEMA, kind, config, read])


@dataclass(frozen=True)
class Plan:
    """All steps of a recipe, each after its inputs.

    `slots` maps the recipe's names to step ids; `tables` maps each table (`table1` to `table4`, `figures`,
    others that the recipe names) to the slots that fill it. `gpus` and `cores` are those of one machine.
    """

    recipe: str
    steps: dict[str, Step]
    slots: dict[str, str]
    tables: dict[str, list[str]]
    cores: int
    gpus: int

    def _repr_html_(self) -> str:
        """As notebooks show it: a row a step."""
        import pandas as pd

        rows = [{"step": self.slots_of(made)[0], **vars(step)} for made, step in self.steps.items()]
        columns = ["step", "kind", "id", "gpus", "threads"]
        return str(pd.DataFrame(rows, columns=columns).to_html(index=False))

    def inputs_of(self, step: Step, workspace: Path) -> dict[str, ModelRef]:
        """Each input of a step as an absolute path or a hub id."""

        def place(given: Input) -> ModelRef:
            if given.step:
                return ModelRef(str(workspace / self.steps[given.step].directory / given.file))
            return replace(given.reference, ref=given.reference.resolved)

        return {role: place(given) for role, given in step.inputs.items()}

    def slots_of(self, step_id: str) -> list[str]:
        """The recipe's names for a step."""
        return self._names[step_id]

    @cached_property
    def _names(self) -> defaultdict[str, list[str]]:
        """Of each step; looked up thousands of times in plans of many variants, once they are whole."""
        found = defaultdict[str, list[str]](list)
        for slot, made in self.slots.items():
            found[made].append(slot)
        return found

    @cached_property
    def gates(self) -> set[str]:
        """Ids of the steps that all others wait for, without reading them."""
        return {step.id for step in self.steps.values() if step.kind == "preflight"}

    def waits_for(self, step: Step) -> list[str]:
        """Ids of the steps that must be done before a step."""
        return [] if step.id in self.gates else [*self.gates, *step.needs]

    def select(self, targets: Iterable[str], argument: str = "--target") -> list[str]:
        """Ids of the steps that targets name: a table, an id, a kind, a label, or a slot or the start of one.

        Raises UserError, naming the command line's argument, for a target that names nothing.
        """
        chosen: dict[str, None] = {}
        for target in targets:
            found = [self.slots[slot] for slot in self.tables.get(target, ())]
            if target not in self.tables:
                start = target.rstrip("/") + "/"
                found = [made for slot, made in self.slots.items() if f"{slot}/".startswith(start)]
                found += [s.id for s in self.steps.values() if target in (s.id, s.kind, s.label, s.directory)]
                if not found:
                    hint = nearest(target, [*self.tables, *self.slots])
                    raise UserError(f"{argument}: {target!r} names no step; {hint}")
            chosen |= dict.fromkeys(found)
        return list(chosen)

    def needed(self, targets: Iterable[str] = (), done: Set[str] = frozenset()) -> list[str]:
        """The steps that targets name and those that they wait for (all without targets), in this order.

        Those that are `done` are left out, and wait for nothing.
        """
        wanted = (set(self.select(targets)) or set(self.steps)) - done
        for step in reversed(self.steps.values()):
            if step.id in wanted:
                wanted |= set(self.waits_for(step)) - done
        return [step_id for step_id in self.steps if step_id in wanted]


# Read from the JSON of a frozen plan and of a `step.json`; keys that come besides are left out.
PLAN, STEP = TypeAdapter(Plan), TypeAdapter(Step)
