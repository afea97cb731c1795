"""Files of models that may be on the Hugging Face hub, and in one line why one cannot be had.

    model_file("Qwen/Qwen2.5-3B-Instruct", "config.json")     -> a path in the local cache, or None
    hub_problems({"students.x": ("Qwen/Qwen2.5-3B", None)})   -> {} if config and tokenizer are there

Whether the hub is asked at all is huggingface_hub's own business (HF_HUB_OFFLINE, HF_TOKEN).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..system.files import read_json
from .references import local_path

Reference = tuple[str, str | None]
"""A model's reference and revision."""


def model_file(ref: str, name: str, revision: str | None = None) -> Path | None:
    """A small file of a model, downloaded if the model is on the hub; None if it cannot be had."""
    directory = local_path(ref)
    if directory is not None:
        return directory / name if (directory / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(ref, name, revision=revision))
    except EntryNotFoundError:  # also raised if it is not in the cache and the hub is out of reach
        return None


def positions(ref: str, revision: str | None = None) -> int | None:
    """How many tokens a model can see, prompt and response together, if its config says so."""
    file = model_file(ref, "config.json", revision)
    config = read_json(file) if file else {}
    inner = config.get("text_config", {})
    limit: int | None = config.get("max_position_embeddings") or inner.get("max_position_embeddings")
    return limit


def weights_directory(ref: str, revision: str | None = None, offline: bool = False) -> Path:
    """Where a model's weights are: its directory, or the hub's snapshot (downloaded unless `offline`).

    Raises FileNotFoundError if the snapshot is not here and may not be, or cannot be, downloaded.
    """
    local = local_path(ref)
    if local is not None:
        return local
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    return Path(snapshot_download(ref, revision=revision, allow_patterns=patterns, local_files_only=offline))


def hub_problems(models: Mapping[str, Reference]) -> dict[str, str]:
    """One line for each role whose config or tokenizer cannot be had from the hub."""
    found: dict[str, str] = {}
    unreachable = False
    for role, (ref, revision) in models.items():
        if local_path(ref) is None:
            words, unreachable = _problem(ref, revision, unreachable)
            if words:
                found[role] = f"{role}: {ref!r}{f' (revision {revision})' if revision else ''} {words}"
    return found


def _problem(ref: str, revision: str | None, offline: bool) -> tuple[str | None, bool]:
    """Why a hub model cannot be had, and whether the hub is out of reach: it is not waited for twice."""
    from huggingface_hub import constants, errors, hf_hub_download

    for file in ("config.json", "tokenizer_config.json"):
        try:
            hf_hub_download(ref, file, revision=revision, local_files_only=offline)
        except errors.GatedRepoError:
            return "is gated: accept its terms on the hub and set HF_TOKEN", offline
        except errors.RepositoryNotFoundError:
            return "is not on the hub, or not for you: check the id; if it is private, set HF_TOKEN", offline
        except errors.RevisionNotFoundError:
            return "has no such revision on the hub", offline
        except errors.LocalEntryNotFoundError:
            if constants.HF_HUB_OFFLINE:
                return (
                    "is not in the local cache, and HF_HUB_OFFLINE is set: unset it or fetch it",
                    offline,
                )
            return "is not in the local cache, and the hub cannot be reached", True
        except errors.EntryNotFoundError:
            return f"has no {file} on the hub", offline
        except (errors.HFValidationError, errors.HfHubHTTPError) as error:
            return f"cannot be had from the hub: {str(error).splitlines()[0]}", offline
    return None, offline
