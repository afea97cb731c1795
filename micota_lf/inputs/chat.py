"""A model's tokenizer and chat template in seconds: prompts rendered, tokens counted, no model code loaded.

    chat = load_chat("tiny:student-s")
    chat.prompt([{"role": "user", "content": "What is 1+1?"}])    -> "<|im_start|>system\\n..."
    overlong(rows, chat, cutoff_len=512)                          -> Overlong(number=0, share=0.0, ...)

LLaMA-Factory cuts a row to `cutoff_len` without a word and the end-of-turn token goes first
(data/processor/supervised.py, infer_seqlen). `overlong` counts what it would count: the chat template's
prompt and the response with the template's ending, encoded apart, as LLaMA-Factory encodes them. That the
template named in the recipe gives the same tokens as the model's chat template is what `parity.py` checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..system.files import read_json
from .hub import model_file

THINK = "<think>"
BATCH_ROWS = 256  # texts encoded at once: bounds memory, keeps all cores busy
USER_MARK, RESPONSE_MARK = "USERMARK0", "RESPONSEMARK0"  # survive templates that strip or cut at <think>


@dataclass(frozen=True)
class Frame:
    """What a chat template puts around the user's message and the response."""

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class Overlong:
    """Rows that LLaMA-Factory would cut: how many of how many, their share, and the longest row's tokens."""

    number: int
    share: float
    longest: int
    rows: int


@dataclass(frozen=True)
class Chat:
    """A tokenizer (of the tokenizers library) with the chat template and special tokens of its model."""

    tokenizer: Any
    template: str | None
    special: dict[str, str]

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """The text that generation starts from; without a chat template, the last message alone."""
        return self._render(messages, True) if self.template else messages[-1]["content"]

    def counts(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text, without special tokens added."""
        texts, lengths = list(texts), []
        for start in range(0, len(texts), BATCH_ROWS):
            batch = texts[start : start + BATCH_ROWS]
            encoded = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            lengths += [len(encoding) for encoding in encoded]
        return lengths

    def longest_prompt(self, conversations: Iterable[list[dict[str, str]]]) -> int:
        """Tokens of the longest prompt."""
        return max(self.counts(self.prompt(messages) for messages in conversations), default=0)

    def frame(self, system: str | None = None) -> Frame:
        """The chat template's text around message and response; a thought that it opens is the response's.

        Raises UserError for a template that does not keep the messages as they are.
        """
        asked = [{"role": "user", "content": USER_MARK}]
        if system:
            asked.insert(0, {"role": "system", "content": system})
        prompt = self.prompt(asked)
        answered = [*asked, {"role": "assistant", "content": RESPONSE_MARK}]
        whole = self._render(answered, False) if self.template else RESPONSE_MARK
        if USER_MARK not in prompt or RESPONSE_MARK not in whole:
            raise UserError("the chat template does not keep the text of its messages")
        before, _, between = prompt.partition(USER_MARK)
        between = between.removesuffix(opened_thought(prompt))
        return Frame(before, between, whole.partition(RESPONSE_MARK)[2])

    def _render(self, messages: list[dict[str, str]], generation: bool) -> str:
        from .template import render  # not at the top: each step's process would pay for jinja2

        return render(self.template or "", messages, add_generation_prompt=generation, **self.special)


def load_chat(ref: str, revision: str | None = None) -> Chat:
    """The tokenizer and chat template of a local model or a hub id; UserError if it has no fast one."""
    from tokenizers import Tokenizer

    file = model_file(ref, "tokenizer.json", revision)
    if file is None:
        raise UserError(f"{ref}: has no tokenizer.json, or the hub cannot be reached")
    settings_file = model_file(ref, "tokenizer_config.json", revision)
    settings = read_json(settings_file) if settings_file else {}
    jinja = model_file(ref, "chat_template.jinja", revision)
    template = jinja.read_text(encoding="utf-8") if jinja else settings.get("chat_template")
    if isinstance(template, list):  # named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower one
        raise UserError(f"{ref}: tokenizer.json cannot be loaded: {str(error).splitlines()[0]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Chat(tokenizer, template, _special_tokens(settings))


def opened_thought(prompt: str) -> str:
    """The thought that a prompt opens at its end (`<think>` and blanks), or an empty string.

    The chat templates of R1-Distill and QwQ do this: the responses then lack the opening tag.
    """
    at = prompt.rfind(THINK)
    tail = prompt[at:] if at >= 0 else ""
    return tail if not tail[len(THINK) :].strip() else ""


def overlong(
    rows: Iterable[Mapping[str, str]], chat: Chat, cutoff_len: int, system: str | None = None
) -> Overlong:
    """How many rows (`prompt`, `response`) are longer than `cutoff_len` by LLaMA-Factory's count."""
    frame, rows = chat.frame(system), list(rows)
    prompts = chat.counts(frame.before + row["prompt"] + frame.between for row in rows)
    responses = chat.counts(row["response"] + frame.after for row in rows)
    lengths = [asked + answered for asked, answered in zip(prompts, responses, strict=True)]
    number = sum(length > cutoff_len for length in lengths)
    return Overlong(number, number / max(1, len(rows)), max(lengths, default=0), len(rows))


def overlong_problem(found: Overlong, cutoff_len: int) -> str | None:
    """The refusal of a corpus of which rows would be cut, or None."""
    if not found.number:
        return None
    return (
        f"train.cutoff_len: {found.number} of {found.rows} rows ({100 * found.share:.1f}%) are longer than "
        f"cutoff_len {cutoff_len} (longest {found.longest} tokens): raise train.cutoff_len to at least "
        f"{found.longest}, or lower filter.max_tokens"
    )


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like as chat templates are given them."""
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    texts = {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}
