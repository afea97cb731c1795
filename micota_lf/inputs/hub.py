"""Files of models that may be on the Hugging Face hub, and in one line why one cannot be had.

    model_file(ModelRef("Qwen/Qwen2.5-3B-Instruct"), "config.json")   -> a path in the local cache, or None
    hub_problems({"students.x": ModelRef("Qwen/Qwen2.5-3B")})         -> {} if config and tokenizer are there

Whether the hub is asked at all is huggingface_hub's own business (HF_HUB_OFFLINE, HF_TOKEN).
"""

from collections.abc import Mapping
from pathlib import Path

from ..system.files import read_json
from .references import ModelRef

# Why a file is not had, by the name of huggingface_hub's error, or else of what that derives from.
REASONS = {
    "GatedRepoError": "is gated: accept its terms on the hub and set HF_TOKEN",
    "RepositoryNotFoundError": "is not on the hub, or not for you: check the id; if private, set HF_TOKEN",
    "RevisionNotFoundError": "has no such revision on the hub",
    "LocalEntryNotFoundError": "is not in the local cache, and {obstacle}",
    "EntryNotFoundError": "has no {file} on the hub",
    "Exception": "cannot be had from the hub: {error}",
}
HUB_SECONDS = 10.0  # for an answer that is only good to know
OFFLINE = "HF_HUB_OFFLINE is set: unset it or fetch it"


def model_file(model: ModelRef, name: str) -> Path | None:
    """A small file of a model, downloaded if the model is on the hub; None if it cannot be had."""
    if model.local is not None:
        return model.local / name if (model.local / name).is_file() else None
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(model.ref, name, revision=model.revision))
    except errors.EntryNotFoundError:  # also raised if it is not in the cache and the hub is out of reach
        return None


def positions(model: ModelRef) -> int | None:
    """How many tokens a model can see, prompt and response together, if its config says so."""
    file = model_file(model, "config.json")
    config = read_json(file) if file else {}
    key = "max_position_embeddings"
    limit: int | None = config.get(key) or config.get("text_config", {}).get(key)
    return limit


def weights_directory(model: ModelRef, offline: bool = False) -> Path:
    """Where a model's weights are: its directory, or the hub's snapshot (downloaded unless `offline`).

    Raises FileNotFoundError if the snapshot is not here and may not be, or cannot be, downloaded.
    """
    if model.local is not None:
        return model.local
    from huggingface_hub import snapshot_download

    files = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    return Path(
        snapshot_download(model.ref, revision=model.revision, allow_patterns=files, local_files_only=offline)
    )


def current_commit(model: ModelRef) -> str | None:
    """The commit that a hub id's revision names now; None if the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(model.ref, revision=model.revision, timeout=HUB_SECONDS).sha
    except Exception:  # of several libraries: each means that it is not known
        return None


def hub_problems(models: Mapping[str, ModelRef]) -> dict[str, str]:
    """One line for each role whose config or tokenizer cannot be had from the hub."""
    found: dict[str, str] = {}
    unreachable = False  # a hub out of reach is waited for once
    for role, model in models.items():
        if model.local:
            continue
        from huggingface_hub import constants, errors, hf_hub_download  # slow, and seldom needed

        try:
            for file in ("config.json", "tokenizer_config.json"):
                hf_hub_download(model.ref, file, revision=model.revision, local_files_only=unreachable)
        except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.HFValidationError) as error:
            unreachable = unreachable or isinstance(error, errors.LocalEntryNotFoundError)
            obstacle = OFFLINE if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            reason = next(REASONS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in REASONS)
            reason = reason.format(file=file, obstacle=obstacle, error=str(error).split("\n")[0])
            revision = f" (revision {model.revision})" if model.revision else ""
            found[role] = f"{role}: {model.ref!r}{revision} {reason}"
    return found
