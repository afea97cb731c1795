"""A model's tokenizer and chat template in seconds: prompts rendered, tokens counted, no model code loaded.

    chat = load_chat(ModelRef("tiny:student-s"))
    chat.prompt([{"role": "user", "content": "What is 1+1?"}])    -> "<|im_start|>system\\n..."
    row_lengths(rows, chat)                                       -> [412, 388, ...]

LLaMA-Factory cuts a row to `cutoff_len` without a word and the end-of-turn token goes first
(data/processor/supervised.py, infer_seqlen). `row_lengths` counts what it would count: the chat template's
prompt and the response with the template's ending, encoded apart, as LLaMA-Factory encodes them. That the
template named in the recipe gives the same tokens as the model's chat template is what parity.py checks.

Templates are rendered by transformers' own function, which needs no tokenizer of its classes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, first_line
from ..system.files import Row
from .references import ModelRef

THINK = "<think>"
BATCH_ROWS = 256  # texts encoded at once: bounds memory, keeps all cores busy
USER_MARK, RESPONSE_MARK = "USERMARK0", "RESPONSEMARK0"  # survive templates that strip or cut at <think>


@dataclass(frozen=True)
class Chat:
    """A tokenizer (of the tokenizers library) with the chat template and special tokens of its model."""

    tokenizer: Any
    template: str | None
    special: dict[str, str]

    def prompt(self, messages: list[dict[str, str]], generation: bool = True) -> str:
        """The text that generation starts from; without a chat template, the last message alone.

        `generation` is whether the template shall open the response. Raises UserError for what a template
        refuses: it is a program that came with a model, and runs in jinja2's sandbox.
        """
        if not self.template:
            return messages[-1]["content"]
        from transformers.utils.chat_template_utils import render_jinja_template

        given = {**self.special, "chat_template": self.template, "add_generation_prompt": generation}
        try:
            return str(render_jinja_template([messages], **given)[0][0])
        except Exception as error:  # jinja2's, and whatever an expression of the template may raise
            raise UserError(f"the chat template fails: {error}") from error

    def encoded(self, texts: Iterable[str]) -> Iterator[Any]:
        """The tokenizers library's encoding of each text (`ids`), without special tokens added."""
        texts = list(texts)
        for start in range(0, len(texts), BATCH_ROWS):
            batch = texts[start : start + BATCH_ROWS]
            yield from self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)

    def counts(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text."""
        return [len(encoding) for encoding in self.encoded(texts)]

    def frame(self, system: str | None = None) -> tuple[str, str, str]:
        """The chat template's text before the message, between it and the response, and after that.

        A thought that the template opens is the response's.

        Raises UserError for a template that does not keep the messages as they are.
        """
        asked = [{"role": "system", "content": system}] if system else []
        asked.append({"role": "user", "content": USER_MARK})
        prompt = self.prompt(asked)
        whole = self.prompt([*asked, {"role": "assistant", "content": RESPONSE_MARK}], generation=False)
        if USER_MARK not in prompt or RESPONSE_MARK not in whole:
            raise UserError("the chat template does not keep the text of its messages")
        before, _, between = prompt.partition(USER_MARK)
        between = between.removesuffix(opened_thought(prompt))
        return before, between, whole.partition(RESPONSE_MARK)[2]


def load_chat(model: ModelRef) -> Chat:
    """The tokenizer and chat template of a local model or a hub id; UserError if it has no fast one."""
    from tokenizers import Tokenizer

    file, jinja = model.file("tokenizer.json"), model.file("chat_template.jinja")
    if file is None:
        raise UserError(f"{model.ref}: has no tokenizer.json, or the hub cannot be reached")
    settings = model.settings("tokenizer_config.json")
    template = jinja.read_text(encoding="utf-8") if jinja else settings.get("chat_template")
    if isinstance(template, list):  # named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower one
        raise UserError(f"{model.ref}: tokenizer.json cannot be loaded: {first_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    texts = {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items()}
    return Chat(tokenizer, template, {key: text for key, text in texts.items() if isinstance(text, str)})


def opened_thought(prompt: str) -> str:
    """The thought that a prompt opens at its end (`<think>` and blanks), or an empty string.

    The chat templates of R1-Distill and QwQ do this: the responses then lack the opening tag.
    """
    opened = re.search(rf"{THINK}\s*\Z", prompt)
    return opened[0] if opened else ""


def stop_tokens(model: ModelRef, own: int | None) -> set[int]:
    """Tokens at which generation stops: those of a model's generation config, and its tokenizer's own.

    The engines make a generation config that a model lacks from its config.json.
    """
    config = model.settings("generation_config.json") or model.settings("config.json")
    shipped = config.get("eos_token_id")
    ends = [*(shipped if isinstance(shipped, list) else [shipped]), own]
    return {end for end in ends if end is not None}


def row_lengths(rows: Iterable[Row], chat: Chat, system: str | None = None) -> list[int]:
    """Tokens of each row (`prompt`, `response`) by LLaMA-Factory's count."""
    (before, between, after), rows = chat.frame(system), list(rows)
    prompts = chat.counts(before + row["prompt"] + between for row in rows)
    responses = chat.counts(row["response"] + after for row in rows)
    return [asked + answered for asked, answered in zip(prompts, responses, strict=True)]


def overlong_problem(lengths: list[int], cutoff_len: int) -> str | None:
    """The refusal of a corpus of which rows would be cut, or None."""
    number, rows = sum(length > cutoff_len for length in lengths), len(lengths)
    if not number:
        return None
    many = f"{number} of {rows} rows ({number / rows:.1%}) are longer than cutoff_len {cutoff_len}"
    advice = f"raise train.cutoff_len to at least {max(lengths)}, or lower filter.max_tokens"
    return f"train.cutoff_len: {many} (longest {max(lengths)} tokens): {advice}"
