"""What a recipe points to: a model, or a file of prompts or responses, and what it is known by.

    ModelRef("tiny:teacher").local            -> a directory of the tiny family that ships with this package
    ModelRef("./models/ta").resolved          -> its absolute path; relative ones start where we are
    ModelRef("Qwen/Qwen2.5-3B", "abc").local  -> None: an id on the Hugging Face hub
    DataRef("tiny:two").local                 -> a JSON Lines file of the tiny family

`identity` is what enters a step's hash: the content of local files, id and revision of hub ones, never the
path, so that moving a checkout re-runs nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..system.files import directory_digest, file_digest
from ..tiny import TINY_ROOT


@dataclass(frozen=True)
class ModelRef:
    """A model: its reference as a recipe has it, and the revision of a hub id."""

    ref: str
    revision: str | None = None
    tiny: ClassVar[str] = "models/{}"  # where the tiny family has it

    @property
    def local(self) -> Path | None:
        """The path that the reference names (it may not exist), or None for a hub id."""
        if self.ref.startswith("tiny:"):
            return TINY_ROOT / self.tiny.format(self.ref.removeprefix("tiny:"))
        if self.ref.startswith(("/", "./", "../", "~")) or self.ref.endswith(".jsonl"):
            return Path(self.ref).expanduser().absolute()
        return None

    @property
    def resolved(self) -> str:
        """What an engine is given: an absolute path, or the hub id."""
        return self.ref if self.local is None else str(self.local)

    @property
    def label(self) -> str:
        """Readable last part of the reference, fit for a directory name."""
        name = self.ref.removeprefix("tiny:").rstrip("/").split("/")[-1].removesuffix(".jsonl")
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-").lower() or "model"

    def identity(self) -> dict[str, Any]:
        """The hashed form: `{name, content}` of local files, `{name, revision}` of a hub id."""
        if (path := self.local) is None:
            return {"name": self.ref, "revision": self.revision}
        content = directory_digest(path) if path.is_dir() else file_digest(path)
        return {"name": path.name, "content": content}


@dataclass(frozen=True)
class DataRef(ModelRef):
    """A file of prompts, responses or a corpus (JSON Lines), or a data set on the hub."""

    tiny: ClassVar[str] = "data/{}.jsonl"
