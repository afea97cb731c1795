"""Where a model or a prompt file named in a recipe really is.

A reference is one of

    tiny:teacher            a model (or data file) of the tiny family shipped in this package
    ./models/ta  /data/ta   a local directory or file; relative ones start at the current directory
    Qwen/Qwen2.5-3B         anything else: an id on the Hugging Face hub, with an optional revision

`identity` is what enters a step's hash: the content of local files, the id and revision of hub ones,
never the path, so that moving a checkout re-runs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .weights import tensors
from ..errors import UserError
from ..system.files import directory_digest, file_digest, read_json
from ..tiny import TINY_ROOT


def local_path(ref: str, kind: str = "models") -> Path | None:
    """The path that a reference names (it may not exist), or None for a hub id.

    `kind` is the folder of the tiny family to look in: `models` (directories) or `data` (JSONL).
    """
    if ref.startswith("tiny:"):
        name = ref.removeprefix("tiny:")
        return TINY_ROOT / kind / (f"{name}.jsonl" if kind == "data" else name)
    if ref.startswith(("/", "./", "../", "~")) or ref.endswith(".jsonl"):
        return Path(ref).expanduser().absolute()
    return None


def resolve(ref: str, kind: str = "models") -> str:
    """What an engine is given for a reference: an absolute path, or the hub id."""
    path = local_path(ref, kind)
    return ref if path is None else str(path)


def identity(ref: str, revision: str | None = None, kind: str = "models") -> dict[str, Any]:
    """The hashed form of a reference: `{name, content}` for local files, `{name, revision}` for a hub id."""
    path = local_path(ref, kind)
    if path is None:
        return {"name": ref, "revision": revision}
    content = directory_digest(path) if path.is_dir() else file_digest(path)
    return {"name": path.name, "content": content}


def slug(ref: str) -> str:
    """Readable last part of a reference, fit for a directory name."""
    name = ref.removeprefix("tiny:").rstrip("/").split("/")[-1].removesuffix(".jsonl")
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-").lower() or "model"


def model_problem(ref: str, chat: bool) -> str | None:
    """Why a local model directory cannot be used, or None. Hub ids are not looked up.

    Headers of weights are read, which shows files that were cut short, and no value.

    `chat` asks for a chat template too: without one, training and inference prompts differ silently.
    """
    path = local_path(ref)
    if path is None:
        return None
    if not path.is_dir():
        return f"no such model directory: {ref}"
    missing = [f for f in ("config.json", "tokenizer_config.json") if not (path / f).is_file()]
    if missing:
        return f"model directory {ref} lacks {' and '.join(missing)}"
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return f"model directory {ref} has no tokenizer"
    if not any(path.glob("*.safetensors")):
        return f"model directory {ref} has no safetensors weights"
    try:
        tensors(path)
        config, words = (_mapping(path / name) for name in ("config.json", "tokenizer_config.json"))
        if (path / "tokenizer.json").is_file() and "model" not in _mapping(path / "tokenizer.json"):
            return f"model directory {ref}: tokenizer.json is no tokenizer"
    except (UserError, ValueError) as error:
        return f"model directory {ref}: {error}"
    if "auto_map" in config and not _known_type(config):
        kind = config.get("model_type")
        return (
            f"model {ref} needs code of its own (auto_map), which is never run: no known model type {kind!r}"
        )
    if chat and not (path / "chat_template.jinja").is_file() and not words.get("chat_template"):
        return f"model {ref} has no chat template"
    return None


def _mapping(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is a {type(found).__name__}, not a JSON object")
    return found


def _known_type(config: dict[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING
