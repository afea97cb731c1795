"""Whether a model is trained on the tokens that it later meets: LLaMA-Factory's template and the chat's.

    check = template_parity("tiny:student-s", "qwen", Prompts(path="tiny:train"))
    check.problems       -> []
    check.after_end      -> "\\n"          trained after the end-of-turn token, never generated

For sample conversations, the tokens that LLaMA-Factory's own supervised processor makes (data/template.py,
data/processor/supervised.py) must be: the prompt as `apply_chat_template(..., add_generation_prompt=True)`
gives it to our backends and to lm-eval, the response's tokens, and a token at which generation stops.
Importing llamafactory takes 13 to 20 s, nearly all of this check's time.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from .errors import UserError
from .prompts import chat
from .recipe import Prompts
from .refs import resolve
from .tokens import load_chat, opened_thought, overlong

IGNORED = -100  # LLaMA-Factory's label of tokens without loss (extras/constants.py)
NO_CUTOFF = 2**20
SHOWN, SHOWN_CHARACTERS = 8, 60  # tokens and characters of a difference that are quoted
# Problem and response; the second has a thought, the third text outside ASCII.
SAMPLES = {
    "a plain answer": ("What is 1+1?", "It is two.\n\n\\boxed{2}"),
    "a thought": ("What is 2+3?", "<think>\nTwo and three.\n\nFive.\n</think>\n\n\\boxed{5}"),
    "symbols": (
        "Soit $x ∈ (0, ∞)$, $x² = ½$; 求 $|x|$ 🙂",
        "<think>\n√½ ≈ 0,7071…\n</think>\n\n$\\boxed{\\frac{1}{√2}}$ 。",
    ),
}
# LLaMA-Factory's data arguments that change a template's tokens.
DATA_ARGUMENTS = ("default_system", "enable_thinking", "preserve_thinking", "train_on_prompt", "mask_history")


@dataclass(frozen=True)
class Parity:
    """Problems in words, and what training adds after the end-of-turn token."""

    problems: list[str] = field(default_factory=list)
    after_end: str = ""


@dataclass(frozen=True)
class _Case:
    """One conversation: training's tokens and where their loss starts; inference's prompt and response."""

    training: list[int]
    loss_from: int
    prompt: list[int]
    response: list[int]
    opened: bool
    has_thought: bool


def available() -> bool:
    """Whether llamafactory can be imported here (`engines:` may name one in another environment)."""
    return find_spec("llamafactory") is not None


def template_parity(
    model: str,
    template: str,
    prompts: Prompts,
    revision: str | None = None,
    data_arguments: Mapping[str, Any] | None = None,
) -> Parity:
    """Compare a LLaMA-Factory template with a model's chat template on sample conversations.

    The conversations have the system message of `prompts`, or none: only what a recipe uses must agree.
    Raises UserError if the model's tokenizer or the template cannot be had.
    """
    from transformers import AutoTokenizer

    path, arguments = resolve(model), dict(data_arguments or {})
    original = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    if original.chat_template is None:
        raise UserError(f"{model}: has no chat template")
    if prompts.system:
        arguments.setdefault("default_system", prompts.system)
    stops = _stop_tokens(path, original, revision)
    words: dict[str, str] = {}  # a cause is named once, a difference shown for one sample
    after_end = ""
    counter = load_chat(model, revision)
    with _supervised(tokenizer, template, arguments) as (encode, rules):
        for name, (problem, response) in SAMPLES.items():
            messages = chat(problem, prompts)
            case = _case(original, messages, response, *encode(messages[-1]["content"], response))
            found, after_end = _compare(case, original, template, rules, stops)
            if tokenizer.chat_template != original.chat_template:
                replaced = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                if replaced != original.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                ):
                    found.append(f"template {template!r} replaces the model's chat template by another")
            row = {"prompt": messages[-1]["content"], "response": response}
            counted = overlong([row], counter, NO_CUTOFF, prompts.system).longest
            if not found and counted != len(case.training):
                found.append(f"LLaMA-Factory counts {len(case.training)} tokens, the chat template {counted}")
            for line in found:
                words.setdefault(
                    line.split(": ")[0] if "{sample}" in line else line, line.replace("{sample}", name)
                )
    return Parity(list(words.values()), after_end)


@contextlib.contextmanager
def _supervised(tokenizer: Any, template: str, arguments: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """LLaMA-Factory's supervised encoding as a function of prompt and response, and its template object."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    if template not in TEMPLATES:
        raise UserError(f"train.template: LLaMA-Factory has no template {template!r}")
    settings = DataArguments(template=template, cutoff_len=NO_CUTOFF, **arguments)
    logging.getLogger("llamafactory").setLevel(logging.ERROR)  # it announces every token that it looks at
    registered = TEMPLATES[template]
    TEMPLATES[template] = copy.deepcopy(registered)  # the arguments are written into it
    try:
        rules = get_template_and_fix_tokenizer(tokenizer, settings)
    finally:
        TEMPLATES[template] = registered
    processor = SupervisedDatasetProcessor(rules, tokenizer, None, settings)

    def encode(prompt: str, response: str) -> tuple[list[int], int]:
        row: dict[str, Any] = {f"_{key}": [None] for key in ("system", "tools", "images", "videos", "audios")}
        row["_prompt"] = [[{"role": "user", "content": prompt}]]
        row["_response"] = [[{"role": "assistant", "content": response}]]
        made = processor.preprocess_dataset(row)
        labels = made["labels"][0]
        return made["input_ids"][0], next((n for n, x in enumerate(labels) if x != IGNORED), len(labels))

    yield encode, rules


def _case(
    tokenizer: Any, messages: list[dict[str, str]], response: str, training: list[int], loss_from: int
) -> _Case:
    """The same conversation as inference has it; a thought that the prompt opens is not the response's."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tag, has_thought = opened_thought(text), response.startswith("<think>")
    answer = response.removeprefix(tag) if tag else response
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return _Case(training, loss_from, prompt, tokens, bool(tag), has_thought)


def _compare(
    case: _Case, tokenizer: Any, template: str, rules: Any, stops: set[int]
) -> tuple[list[str], str]:
    """Problems of one conversation (`{sample}` stands for its name), and the text after the end of turn."""
    found: list[str] = []
    if not tokenizer.decode(case.prompt).startswith(tokenizer.bos_token or "\0"):
        with_special = tokenizer(tokenizer.decode(case.prompt))["input_ids"]
        if len(with_special) > len(case.prompt):
            found.append(
                "the tokenizer adds a start token that the chat template has not: lm-eval would add it"
            )
    inference = case.prompt + case.response
    if case.training[: len(inference)] != inference:
        return [*found, _difference(case, tokenizer, template, rules)], ""
    ending = case.training[len(inference) :]
    if not ending:
        found.append(f"template {template!r} trains no end-of-turn token: responses would not end")
    elif ending[0] not in stops:
        at = ", ".join(repr(tokenizer.decode([stop])) for stop in sorted(stops))
        found.append(
            f"template {template!r} ends a response with {tokenizer.decode(ending[:1])!r}, but inference "
            f"stops at {at}"
        )
    return found, tokenizer.decode(ending[1:])


def _difference(case: _Case, tokenizer: Any, template: str, rules: Any) -> str:
    """Why training and inference differ: a known cause by its name, else the first differing tokens."""
    inference = case.prompt + case.response
    pairs = zip(case.training, inference, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(case.training), len(inference)))
    trained, prompt = tokenizer.decode(case.training), tokenizer.decode(case.prompt)
    system = rules.default_system
    if at < len(case.prompt) and system and system in trained and system not in prompt:
        return f"template {template!r} puts a default system prompt that the model's chat template does not"
    words = tuple(word.strip() for word in rules.thought_words)
    if not case.has_thought and all(word in trained for word in words):
        return f"template {template!r} puts an empty thought before a response that has none"
    if not case.has_thought and case.opened:
        return "the model's chat template opens a thought that a response without one does not go on from"
    if case.has_thought and (words[1] not in trained or rules.add_thought() in trained):
        return f"template {template!r} removes the thought from a response"
    extra = len(case.prompt) - case.loss_from
    if extra > 0 and case.prompt[:at] + case.prompt[at + extra :] == case.training[: case.loss_from]:
        added = tokenizer.decode(case.prompt[at : at + extra])
        return (
            f"the model's chat template puts {_short(added)} into the prompt, template {template!r} does not"
        )
    shown = [_short(tokenizer.decode(ids[at : at + SHOWN])) for ids in (case.training, inference)]
    return (
        f"template {template!r}, {{sample}}: tokens differ from position {at}: training {shown[0]}, "
        f"inference {shown[1]}"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


def _stop_tokens(path: str, tokenizer: Any, revision: str | None) -> set[int]:
    """Tokens at which generation stops: the generation config's and the tokenizer's, as in backends.py."""
    from transformers import GenerationConfig

    try:
        shipped = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:
        shipped = None
    ends = shipped if isinstance(shipped, list) else [shipped]
    return {end for end in [*ends, tokenizer.eos_token_id] if end is not None}
