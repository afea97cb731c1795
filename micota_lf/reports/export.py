"""A checkpoint of a finished step as a normal hub folder: weights, tokenizer, model card.

    export_model(outcomes, "5b521ed56eee", Path("out"))     # out/README.md, out/model.safetensors, ...
    push_model(Path("out"), "me/my-model")                  # through huggingface_hub

Only what loads the model is copied: optimizer states, logs, pickles and the engines' own files, which hold
local paths, stay behind.
"""

import shutil
from pathlib import Path

from ..errors import StepFailed, UserError
from ..run.step import finished
from ..run.workspace import damage
from ..stages.merge import TOKENIZER_FILES
from ..system.files import read_json, write_json, write_text
from .card import model_card
from .outcomes import Outcomes

LOADED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "tokenizer.model",
    "*.jinja", *TOKENIZER_FILES,
)  # fmt: skip


def export_model(outcomes: Outcomes, step_id: str, output: Path) -> None:
    """Copy a step's model to `output`, which appears by rename once it is whole.

    Raises UserError for a step that leaves no model, is not done or is damaged, and for an `output` in use.
    """
    step = outcomes.plan.steps[step_id]
    directory = outcomes.workspace / step.directory
    if step.kind not in ("train", "merge"):
        raise UserError(f"STEP: {step.name} leaves no model; name a train or merge step")
    if finished(directory) is None:
        raise UserError(f"STEP: {step.name} is not done; run it first")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"DIR: {output} exists and is not an empty directory")
    if problems := damage(directory):
        raise UserError(f"STEP: {directory} is damaged: {'; '.join(problems)}")
    card, partial = model_card(outcomes, step_id), output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in {file for pattern in LOADED for file in (directory / "model").glob(pattern)}:
        shutil.copyfile(file, partial / file.name)
    adapter = partial / "adapter_config.json"
    if adapter.is_file():  # peft writes the local path that it was trained from
        base = step.inputs["model"].identity.get("name")
        write_json(adapter, {**read_json(adapter), "base_model_name_or_path": base})
    write_text(partial / "README.md", card)
    partial.replace(output)


def refuse_push(repo: str) -> None:
    """Raise UserError for an upload that cannot succeed, before anything is written."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--push: {repo}: HF_HUB_OFFLINE is set; unset it to reach the hub")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push: {str(error).splitlines()[0]}") from error


def push_model(folder: Path, repo: str) -> None:
    """Upload an exported folder to a model repository, private if it is new.

    The token is huggingface_hub's own business (HF_TOKEN, `hf auth login`). Raises StepFailed if the hub
    refuses or is out of reach; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except Exception as error:  # of several libraries: each means that it is not on the hub
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepFailed(f"--push: {repo}: {reason}; to try again: hf upload {repo} {folder}") from error
