"""Whether a model is trained on the tokens that it later meets: LLaMA-Factory's template and the chat's.

    check = template_parity(ModelRef("tiny:student-s"), "qwen", Prompts(path="tiny:train"))
    check.problems       -> []
    check.after_end      -> "\\n"          trained after the end-of-turn token, never generated
    python -m micota_lf.stages.parity asked.json found.json     # several, in a process of their own

For sample conversations, the tokens that LLaMA-Factory's own supervised processor makes (data/template.py,
data/processor/supervised.py) must be: the prompt as `apply_chat_template(..., add_generation_prompt=True)`
gives it to our backends and to lm-eval, the response's tokens, and a token at which generation stops.
Importing llamafactory takes 13 to 20 s, nearly all of this check's time.
"""

import copy
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UserError, nearest
from ..inputs.chat import load_chat, opened_thought, row_lengths
from ..inputs.problems import Prompts, chat
from ..inputs.references import ModelRef
from ..system.files import read_json, write_json

NO_CUTOFF = 2**20
SHOWN = 16  # tokens of a difference that are quoted
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
    """Problems in words, what training adds after the end of turn, and unknown keys of `extra`."""

    problems: list[str] = field(default_factory=list)
    after_end: str = ""
    unknown: list[str] = field(default_factory=list)


def available() -> bool:
    """Whether llamafactory can be imported here (`engines:` may name one in another environment)."""
    return find_spec("llamafactory") is not None


def template_parity(
    model: ModelRef, template: str, prompts: Prompts, extra: Mapping[str, Any] = MappingProxyType({})
) -> Parity:
    """Compare a LLaMA-Factory template with a model's chat template on sample conversations.

    The conversations have the system message of `prompts`, or none: only what a recipe uses must agree. The
    first one that differs is told, and what cannot be compared. `extra` are the training's.
    """
    unknown = _unknown_names(template, extra)
    try:
        return Parity(unknown=unknown) if unknown else _compared(model, template, prompts, extra)
    except (UserError, OSError, ValueError) as error:
        return Parity([str(error).splitlines()[0]])


def _compared(model: ModelRef, template: str, prompts: Prompts, extra: Mapping[str, Any]) -> Parity:
    from transformers import AutoTokenizer

    counter, after_end = load_chat(model), ""
    original, tokenizer = (
        AutoTokenizer.from_pretrained(model.resolved, revision=model.revision, trust_remote_code=False)
        for _ in range(2)
    )
    if original.chat_template is None:
        raise UserError(f"{model.ref}: has no chat template")
    system = {"default_system": prompts.system} if prompts.system else {}
    arguments = {**system, **{key: value for key, value in extra.items() if key in DATA_ARGUMENTS}}
    encode, stops = _supervised(tokenizer, template, arguments), _stop_tokens(model, original)
    for name, (problem, response) in SAMPLES.items():
        messages = chat(problem, prompts)
        prompt, saved = (
            one.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for one in (original, tokenizer)
        )
        if saved != prompt:  # LLaMA-Factory saves its own with the trained model
            return Parity([f"template {template!r} replaces the model's chat template by another"])
        training = encode(messages[-1]["content"], response)
        found, after_end = _differences(training, original, prompt, response, stops)
        row = {"prompt": messages[-1]["content"], "response": response}
        (counted,) = row_lengths([row], counter, prompts.system)
        if not found and counted != len(training):
            found = f"LLaMA-Factory counts {len(training)} tokens, the chat template {counted}"
        if found:
            return Parity([f"template {template!r}, {name}: {found}"])
    return Parity([], after_end)


def _unknown_names(template: str, extra: Mapping[str, Any]) -> list[str]:
    """A line for a template and for each argument that LLaMA-Factory does not know (hparams/parser.py)."""
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams.parser import _TRAIN_ARGS
    from transformers import HfArgumentParser

    known = [action.dest for action in HfArgumentParser(_TRAIN_ARGS)._actions]
    asked = {f"extra.{key}: LLaMA-Factory has no such argument": (key, known) for key in extra}
    asked[f"template: LLaMA-Factory has no template {template!r}"] = (template, list(TEMPLATES))
    return [
        f"train.{said}; {nearest(key, names)}" for said, (key, names) in asked.items() if key not in names
    ]


def _differences(
    training: list[int], tokenizer: Any, prompt: str, response: str, stops: set[int]
) -> tuple[str, str]:
    """How training's tokens differ from inference's (or nothing), and what training adds at the end."""
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    more = len(tokenizer(prompt)["input_ids"]) > len(asked)
    if more and not prompt.startswith(tokenizer.bos_token or "\0"):
        return "the tokenizer adds a start token that the chat template has not: lm-eval would add it", ""
    # A thought that the prompt opens is not the response's.
    answer = response.removeprefix(opened_thought(prompt))
    inference = asked + tokenizer(answer, add_special_tokens=False)["input_ids"]
    ending = training[len(inference) :]
    if training[: len(inference)] != inference:
        both = zip(training, inference, strict=False)
        at = next((n for n, (a, b) in enumerate(both) if a != b), min(len(training), len(inference)))
        shown = [repr(tokenizer.decode(ids[at : at + SHOWN])) for ids in (training, inference)]
        return f"tokens differ from position {at}: training {shown[0]}, inference {shown[1]}", ""
    if not ending:
        return "no end-of-turn token is trained: responses would not end", ""
    if ending[0] not in stops:
        wanted = ", ".join(repr(tokenizer.decode([stop])) for stop in sorted(stops))
        last = tokenizer.decode(ending[:1])
        return f"training ends a response with {last!r}, but inference stops at {wanted}", ""
    return "", tokenizer.decode(ending[1:])


def _supervised(
    tokenizer: Any, template: str, arguments: Mapping[str, Any]
) -> Callable[[str, str], list[int]]:
    """LLaMA-Factory's supervised encoding as a function from prompt and response to tokens."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    settings = DataArguments(template=template, cutoff_len=NO_CUTOFF, **arguments)
    logging.getLogger("llamafactory").setLevel(logging.ERROR)  # it announces every token that it looks at
    registered = TEMPLATES[template]
    TEMPLATES[template] = copy.deepcopy(registered)  # the arguments are written into it
    try:
        rules = get_template_and_fix_tokenizer(tokenizer, settings)
    finally:
        TEMPLATES[template] = registered
    processor = SupervisedDatasetProcessor(rules, tokenizer, None, settings)

    def encode(prompt: str, response: str) -> list[int]:
        row: dict[str, Any] = {f"_{key}": [None] for key in ("system", "tools", "images", "videos", "audios")}
        row["_prompt"] = [[{"role": "user", "content": prompt}]]
        row["_response"] = [[{"role": "assistant", "content": response}]]
        tokens: list[int] = processor.preprocess_dataset(row)["input_ids"][0]
        return tokens

    return encode


def _stop_tokens(model: ModelRef, tokenizer: Any) -> set[int]:
    """Tokens at which generation stops: the generation config's and the tokenizer's, as in backends/."""
    from transformers import GenerationConfig

    try:
        shipped = GenerationConfig.from_pretrained(model.resolved, revision=model.revision).eos_token_id
    except OSError:
        shipped = None
    ends = shipped if isinstance(shipped, list) else [shipped]
    return {end for end in [*ends, tokenizer.eos_token_id] if end is not None}


if __name__ == "__main__":
    questions = read_json(Path(sys.argv[1]))
    made = {
        key: template_parity(ModelRef(**one.pop("model")), prompts=Prompts(**one.pop("prompts")), **one)
        for key, one in questions.items()
    }
    write_json(Path(sys.argv[2]), {key: asdict(found) for key, found in made.items()})
