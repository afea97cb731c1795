"""What a recipe points to: a model, or a file of prompts or responses, and what it is known by.

    ModelRef("tiny:teacher").local            -> a directory of the tiny family that ships with this package
    ModelRef("./models/ta").resolved          -> its absolute path; relative ones start where we are
    ModelRef("models/ta").local               -> the same where that is there: a folder is never a hub id
    ModelRef("Qwen/Qwen2.5-3B", "abc").local  -> None: an id on the Hugging Face hub
    DataRef("tiny:two").local                 -> a JSON Lines file of the tiny family
    ModelRef("Qwen/Qwen2.5-3B").file("config.json")                 -> a path in the hub's cache, or None
    hub_problems({"students.x": ModelRef("Qwen/Qwen2.5-3B")})       -> {} if config and tokenizer are there

`identity` is what enters a step's hash: the content of local files, id and revision of hub ones, never the
path, so that moving a checkout re-runs nothing. Whether the hub is asked at all is huggingface_hub's own
business (HF_HUB_OFFLINE, HF_TOKEN).
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import first_line, nearest
from ..system.files import directory_digest, file_digest, read_beside, read_json
from ..tiny import TINY_ROOT

REASONS = read_beside(__file__)
HUB_SECONDS = 10.0  # for an answer that is only good to know


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
        named = self.ref.startswith(("/", "./", "../", "~")) or self.ref.endswith(".jsonl")
        if named or os.path.exists(self.ref):
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

    def file(self, name: str) -> Path | None:
        """A small file of the model, downloaded if that is on the hub; None if it cannot be had."""
        if self.local is not None:
            return self.local / name if (self.local / name).is_file() else None
        from huggingface_hub import errors, hf_hub_download

        with suppress(errors.EntryNotFoundError):  # or it is not in the cache and the hub is out of reach
            return Path(hf_hub_download(self.ref, name, revision=self.revision))
        return None

    def settings(self, name: str) -> dict[str, Any]:
        """What a JSON file of the model holds; nothing if it cannot be had."""
        return read_json(file) if (file := self.file(name)) else {}

    @property
    def positions(self) -> int | None:
        """How many tokens the model can see, prompt and response together, if its config says so."""
        config, key = self.settings("config.json"), "max_position_embeddings"
        limit: int | None = config.get(key) or config.get("text_config", {}).get(key)
        return limit

    def weights(self, offline: bool = False) -> Path:
        """Where the weights are: the model's directory, or the hub's snapshot (downloaded unless `offline`).

        Raises FileNotFoundError if the snapshot is not here and may not be, or cannot be, downloaded.
        """
        if self.local is not None:
            return self.local
        from huggingface_hub import snapshot_download

        how: dict[str, Any] = {"revision": self.revision, "local_files_only": offline}
        files = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(self.ref, allow_patterns=files, **how))

    def current_commit(self) -> str | None:
        """The commit that a hub id's revision names now; None if the hub cannot be asked."""
        from huggingface_hub import HfApi

        with suppress(Exception):  # of several libraries: each means that it is not known
            return HfApi().model_info(self.ref, revision=self.revision, timeout=HUB_SECONDS).sha
        return None


class DataRef(ModelRef):
    """A file of prompts, responses or a corpus (system/files.py), or a data set on the hub."""

    tiny: ClassVar[str] = "data/{}.jsonl"


def hub_problems(models: Mapping[str, ModelRef]) -> dict[str, str]:
    """One line for each role whose config or tokenizer cannot be had from the hub."""
    found, unreachable = dict[str, str](), False  # a hub out of reach is waited for once
    for role, model in models.items():
        if model.local:
            continue
        from huggingface_hub import constants, errors, hf_hub_download  # slow, and seldom needed

        try:
            for file in ("config.json", "tokenizer_config.json"):
                hf_hub_download(model.ref, file, revision=model.revision, local_files_only=unreachable)
        except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.HFValidationError) as error:
            unreachable = unreachable or isinstance(error, errors.LocalEntryNotFoundError)
            obstacle = REASONS["offline" if constants.HF_HUB_OFFLINE else "unreachable"]
            reason = next(REASONS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in REASONS)
            reason = reason.format(file=file, obstacle=obstacle, error=first_line(error))
            revision = f" (revision {model.revision})" if model.revision else ""
            beside = [str(path) for path in Path(model.ref).parent.glob("*/")] if "/" in model.ref else []
            hint = f"; {nearest(model.ref, beside)}" if beside else ""  # an id that was meant for a folder
            found[role] = f"{role}: {model.ref!r}{revision} {reason}{hint}"
    return found
