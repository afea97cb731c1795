"""Whether a model is trained on the tokens that it later meets: LLaMA-Factory's template and the chat's.

    check = template_parity(ModelRef("tiny:student-s"), "qwen", Prompts(path="tiny:train"), extra={})
    check.problems       -> []
    check.after_end      -> "\\n"          trained after the end-of-turn token, never generated

For sample conversations, the tokens that LLaMA-Factory's own supervised processor makes (data/template.py,
data/processor/supervised.py) must be: the prompt as `apply_chat_template(..., add_generation_prompt=True)`
gives it to our backends and to lm-eval, the response's tokens, and a token at which generation stops.
Importing llamafactory takes 13 to 20 s, nearly all of this check's time.
"""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cache
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any, NamedTuple

from ..errors import UserError, first_line, nearest
from ..inputs.chat import Chat, load_chat, opened_thought, row_lengths, stop_tokens
from ..inputs.problems import Prompts, chat
from ..inputs.references import ModelRef
from ..system.files import read_beside
from .arrange import row_tokens

NO_CUTOFF = 2**20
COPY = "parity"  # the name of our copy of a template, into which LLaMA-Factory writes its arguments
SHOWN = 16  # tokens of a difference that are quoted
TRIED = 3  # templates that a refusal names
SYSTEM = "Be brief."  # stands for any system message of a recipe
SAMPLES = read_beside(__file__)
# LLaMA-Factory's data arguments that change a template's tokens.
DATA_ARGUMENTS = ("default_system", "enable_thinking", "preserve_thinking", "train_on_prompt", "mask_history")


class Differs(UserError):
    """Training would see other tokens than inference does."""


class Parity(NamedTuple):
    """Problems in words, what training adds after the end of turn, and unknown keys of `extra`."""

    problems: list[str]
    after_end: str = ""
    unknown: Sequence[str] = ()


def sound_chat(model: ModelRef) -> Chat:
    """A model's tokenizer and chat template. UserError if engines read other tokens, lose text or do not end.

    They take transformers' tokenizer, which replaces parts of some by those of the class that the configs
    name: a DeepSeek one then drops all spaces (huggingface/transformers#45488). Text that becomes unknown or
    special tokens is lost too. Generation must stop at a token that the chat template ends a response with.
    """
    counter, theirs = load_chat(model), _tokenizer(model)
    end = counter.frame()[2] if counter.template else ""
    stops = stop_tokens(model, theirs.eos_token_id)
    written = theirs(end, add_special_tokens=False)["input_ids"]
    if end.strip() and not stops.intersection(written):
        only = ", ".join(repr(theirs.decode([stop])) for stop in sorted(stops)) or "no token (eos_token_id)"
        said = f"its chat template ends it with {end!r}, generation stops at {only}"
        cure = f"if it writes the former, set eos_token_id {written[0]} in a copy's generation_config.json"
        raise UserError(f"{model.ref}: no response would end: {said}; {cure}")
    for text in chain(*SAMPLES.values()):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        kept = theirs.decode(ids, skip_special_tokens=True)
        same = ids == counter.tokenizer.encode(text, add_special_tokens=False).ids
        if not same or kept != text:
            found = "loses text" if same else "gives other tokens than tokenizer.json"
            added = theirs.added_tokens_decoder.items()
            lost = [repr(token.content) for number, token in added if token.special and number in ids]
            special = f" (special tokens: {', '.join(lost)})" if lost else ""
            said = f"transformers' tokenizer {found}: {text!r} comes back as {kept!r}{special}"
            raise UserError(f"{model.ref}: {said}")
    return counter


def available() -> bool:
    """Whether llamafactory can be imported here (`engines:` may name one in another environment)."""
    return find_spec("llamafactory") is not None


def template_parity(
    model: ModelRef, template: str | None, prompts: Prompts, extra: Mapping[str, Any]
) -> Parity:
    """Compare a LLaMA-Factory template with a model's chat template on sample conversations.

    The conversations have the system message of `prompts`, or none: only what a recipe uses must agree. The
    first one that differs is told with the keys that mend it, and what cannot be compared. `extra` are the
    training's. Template None stands for the tokens that arrange.py writes.
    """
    try:
        unknown = _unknown_names(model, template, prompts, extra)
        return Parity([], "" if unknown else _after_end(model, template, prompts, extra), unknown)
    except (Differs, ValueError) as error:  # the latter of a template for images
        cure = f"{cures(model, prompts)}; train.check_template=false only warns"
        return Parity([f"{first_line(error)}; {cure}"])
    except (UserError, ImportError, OSError) as error:
        return Parity([first_line(error)])


@cache
def cures(model: ModelRef, prompts: Prompts) -> str:
    """In words, with which keys a training has the tokens of a model's chat template."""
    names = [*islice(fitting(model, prompts), TRIED)]
    with_system = [] if names else [*islice(fitting(model, replace(prompts, system=SYSTEM)), TRIED)]
    found = "" if names else "no template has the same tokens: "
    told = f", with prompts.system set {' or '.join(with_system)}" if with_system else ""
    return f"{found}try train.template={' or '.join([*names, 'null'])}{told}"


def fitting(model: ModelRef, prompts: Prompts) -> Iterator[str]:
    """The templates that have the tokens of a model's chat template, those named like it first."""
    with suppress(UserError):  # a chat template may refuse system messages
        for name in [name for name, share in agreement(model, prompts).items() if share == 1]:
            with suppress(Differs):
                _after_end(model, name, prompts, {})
                yield name


def _unknown_names(
    model: ModelRef, template: str | None, prompts: Prompts, extra: Mapping[str, Any]
) -> list[str]:
    """A line for a template and for each argument that LLaMA-Factory does not know (hparams/parser.py)."""
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams.parser import _TRAIN_ARGS, HfArgumentParser

    known = [action.dest for action in HfArgumentParser(_TRAIN_ARGS)._actions]
    asked = {f"extra.{key}: LLaMA-Factory has no such argument": (key, known) for key in extra}
    if template is not None and template not in TEMPLATES:
        said = f"template: LLaMA-Factory has no template {template!r}: {cures(model, prompts)}"
        asked[said] = (template, list(TEMPLATES))
    return [
        f"train.{said}; {nearest(key, names)}" for said, (key, names) in asked.items() if key not in names
    ]


def _after_end(model: ModelRef, template: str | None, prompts: Prompts, extra: Mapping[str, Any]) -> str:
    """What training adds after the end of turn. Raises Differs for the first difference."""
    original, tokenizer = _tokenizer(model), _tokenizer.__wrapped__(model)
    if original.chat_template is None:
        raise UserError(f"{model.ref}: has no chat template")
    system = {"default_system": prompts.system} if prompts.system else {}
    arguments = {**system, **{key: value for key, value in extra.items() if key in DATA_ARGUMENTS}}
    counter, after_end, name_of = load_chat(model), "", repr(template) if template else "null"
    rows = [{"prompt": chat(one, prompts)[-1]["content"], "response": two} for one, two in SAMPLES.values()]
    own = [asked + answered for asked, answered in row_tokens(rows, counter, prompts.system)]
    trained = _supervised(tokenizer, template, arguments, prompts) if template else own
    stops = stop_tokens(model, original.eos_token_id)  # as in backends/
    for (name, (problem, response)), training in zip(SAMPLES.items(), trained, strict=True):
        messages = chat(problem, prompts)
        prompt, saved = (
            one.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for one in (original, tokenizer)
        )
        if saved != prompt:  # LLaMA-Factory saves its own with the trained model
            raise Differs(f"template {name_of} replaces the model's chat template by another")
        # A thought that the prompt opens is not the response's.
        texts = prompt, response.removeprefix(opened_thought(prompt))
        asked, answered = (original(text, add_special_tokens=False)["input_ids"] for text in texts)
        found = _difference(training, original, prompt, asked + answered, stops)
        row = {"prompt": messages[-1]["content"], "response": response}
        (counted,) = row_lengths([row], counter, prompts.system)
        if not found and counted != len(training):
            found = f"LLaMA-Factory counts {len(training)} tokens, the chat template {counted}"
        if found:
            raise Differs(f"template {name_of}, {name}: {found}")
        after_end = original.decode(training[len(asked + answered) + 1 :])
    return after_end


@cache
def agreement(model: ModelRef, prompts: Prompts) -> dict[str, float]:
    """By name of LLaMA-Factory's templates, most first, the share of the samples' tokens before a difference.

    It is 1 if all are the same and the end is one at which generation stops. `template_parity` looks closer:
    LLaMA-Factory may change the tokenizer too. Of equal ones those are first that are named like the model,
    templates for images, video or sound are left out: those need a processor beside the tokenizer.
    """
    from llamafactory.data.mm_plugin import BasePlugin
    from llamafactory.data.template import TEMPLATES

    templates = {name: one for name, one in TEMPLATES.items() if type(one.mm_plugin) is BasePlugin}
    tokenizer, counter = _tokenizer(model), load_chat(model)
    stops, found = stop_tokens(model, tokenizer.eos_token_id), dict.fromkeys(templates, 0.0)
    for problem, response in SAMPLES.values():
        messages = chat(problem, prompts)
        prompt = counter.prompt(messages)
        wanted = list(chain(*(one.ids for one in counter.encoded(
            [prompt, response.removeprefix(opened_thought(prompt))]
        ))))  # fmt: skip
        dialogue = [messages[-1], {"role": "assistant", "content": response}]
        for name, template in templates.items():
            made = list(chain(*template.encode_oneturn(tokenizer, dialogue, prompts.system)))
            pairs = enumerate(zip(made, wanted, strict=False))
            same = next((at for at, (one, two) in pairs if one != two), min(len(made), len(wanted)))
            ended = same == len(wanted) and bool(stops.intersection(made[same:]))
            found[name] += (same + ended) / (len(wanted) + 1) / len(SAMPLES)
    named = f"{model.settings('config.json').get('model_type')} {model.label}"
    rounded = {name: round(share, 6) for name, share in found.items()}
    near = {name: (-share, -SequenceMatcher(None, name, named).ratio()) for name, share in rounded.items()}
    return dict(sorted(rounded.items(), key=lambda one: near[one[0]]))


@cache
def _tokenizer(model: ModelRef) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.resolved, revision=model.revision, trust_remote_code=False)


def _difference(
    training: list[int], tokenizer: Any, prompt: str, inference: list[int], stops: set[int]
) -> str:
    """How training's tokens differ from inference's, or nothing."""
    plain, added = (len(tokenizer(prompt, add_special_tokens=more)["input_ids"]) for more in (False, True))
    if added > plain and not prompt.startswith(tokenizer.bos_token or "\0"):
        return "the tokenizer adds a start token that the chat template has not: lm-eval would add it"
    ending = training[len(inference) :]
    if training[: len(inference)] != inference:
        at = next(n for n, token in enumerate(inference) if training[n : n + 1] != [token])
        shown = [repr(tokenizer.decode(ids[at : at + SHOWN])) for ids in (training, inference)]
        return f"tokens differ from position {at}: training {shown[0]}, inference {shown[1]}"
    if not ending:
        return "no end-of-turn token is trained: responses would not end"
    if not stops.intersection(ending):
        wanted = ", ".join(repr(tokenizer.decode([stop])) for stop in sorted(stops))
        last = tokenizer.decode(ending[:1])
        return f"training ends a response with {last!r}, but inference stops at {wanted}"
    return ""


def _supervised(
    tokenizer: Any, template: str, arguments: Mapping[str, Any], prompts: Prompts
) -> list[list[int]]:
    """The samples' tokens by LLaMA-Factory's supervised encoding."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    settings = DataArguments(template=COPY, cutoff_len=NO_CUTOFF, **arguments)
    logging.getLogger("llamafactory").setLevel(logging.ERROR)  # it announces every token that it looks at
    TEMPLATES[COPY] = copy.deepcopy(TEMPLATES[template])
    rules = get_template_and_fix_tokenizer(tokenizer, settings)
    del TEMPLATES[COPY]
    columns = ("system", "tools", "images", "videos", "audios")
    rows: dict[str, Any] = {f"_{column}": [None] * len(SAMPLES) for column in columns}
    asked, answers = zip(*SAMPLES.values(), strict=True)
    rows["_prompt"] = [chat(problem, prompts)[-1:] for problem in asked]
    rows["_response"] = [[{"role": "assistant", "content": answer}] for answer in answers]
    processor = SupervisedDatasetProcessor(rules, tokenizer, None, settings)
    tokens: list[list[int]] = processor.preprocess_dataset(rows)["input_ids"]
    return tokens
