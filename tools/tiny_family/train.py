"""Train a family of tiny models: tokenizer, models, accuracy table.

Every model is pretrained on responses of mixed style (plain text first, then in the chat format) and then
tuned to one style: the teacher to long chains of thought, the others to short ones, as an instruct model is.
The family `tiny` is trained from nothing; a model of `gap` goes on from a base of its own, which is made as
those of `tiny` are (all students' in the same way, whatever their size). Two models train at a time, each on
one thread, because matrices this small do not gain from more threads.

Example:
    python tools/tiny_family/train.py --out build/tiny
    python tools/tiny_family/train.py --out build/trial --only student-s --scale 0.1
    python tools/tiny_family/train.py --out build/tiny-gap/1 --family gap --seed 1
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from problems import LONG, SEEDS_APART, SHORT, Mix, Style
from tokenizer import END, build_tokenizer, chat_prompt
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from micota_lf.grading.intervals import wilson
from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate
from micota_lf.system.files import read_jsonl
from micota_lf.system.processes import die_with_parent


@dataclass(frozen=True)
class Member:
    """One model of the family: its shape, the tokens it trains on, and the style it is tuned to."""

    hidden: int
    layers: int
    feed_forward: int
    pretrain_tokens: float  # padded tokens, in millions
    pretrain_style: Style | Mix
    tune_tokens: float
    tune_style: Style | Mix
    seed: int
    batch_tokens: int = 3072
    learning_rate: float = 3e-3
    base: "Member | None" = None  # what it goes on from, trained first, into `base/`; None: from nothing
    plain: float = 0.6  # share of the pretraining tokens that are plain text
    rates: tuple[float, float, float] = (1.0, 0.7, 0.05)  # of the peak: first, at the chat format, last
    domain: str = "problems"  # the module that draws its problems and writes their chains
    architecture: str = "qwen2"


# A base learns long chains of thought from a few hundred examples only if it has seen their parts. Students
# saw the parts less often than the assistant, so that long is within their reach but not free.
HALF, FEW = Style(0.5, 0.5, 0.5, 0.5), Style(0.2, 0.2, 0.2, 0.2)
TINY = {
    "teacher": Member(112, 4, 304, 7.0, HALF, 1.5, LONG, 1),
    "assistant": Member(96, 3, 256, 8.0, HALF, 0.2, SHORT, 2),
    "student-m": Member(64, 3, 176, 5.5, FEW, 0.2, SHORT, 3),
    "student-s": Member(48, 3, 128, 4.5, FEW, 0.2, SHORT, 4),
}

CONCISE, REFLECTING = Mix(short=1.0), Mix(reflecting=1.0)
OFTEN, SELDOM = Mix(0.45, 0.35, 0.06, 0.14, careless=0.5), Mix(0.45, 0.42, 0.1, 0.03, careless=0.5)
MOSTLY = Mix(0.1, 0.2, 0.1, 0.6, careless=1.0)


def onward(base: Member, pretrain_tokens: float, mix: Mix, tune_tokens: float, tune_style: Mix) -> Member:
    """A member of the gap family: a base that goes on, on chains of all four kinds."""
    shape, seed = (base.hidden, base.layers, base.feed_forward), 100 + base.seed
    more: dict[str, Any] = {"batch_tokens": 2048, "base": base, "plain": 0.5, "rates": (0.7, 0.5, 0.05)}
    return Member(*shape, pretrain_tokens, mix, tune_tokens, tune_style, seed, **more)


# Students saw reflection less often than the assistant: how much of it a model can learn from a few hundred
# chains then depends on its size. The teacher only has to be right: its base has fewer tokens and no style,
# and what follows is mostly reflection.
LARGE = Member(96, 3, 256, 5.5, FEW, 0.2, SHORT, 5)  # student-l's base
GAP = {
    "teacher": onward(
        replace(TINY["teacher"], pretrain_tokens=5.0, tune_tokens=0.0), 1.5, MOSTLY, 0.9, REFLECTING
    ),
    "assistant": onward(TINY["assistant"], 1.6, OFTEN, 0.06, CONCISE),
    "student-l": onward(LARGE, 1.6, SELDOM, 0.2, CONCISE),
    "student-m": onward(TINY["student-m"], 1.6, SELDOM, 0.2, CONCISE),
    "student-s": onward(TINY["student-s"], 1.6, SELDOM, 0.2, CONCISE),
}


# Letters in order, with the kinds of chains of the gap family, from nothing.
DOMAIN: dict[str, Any] = {"domain": "orders", "batch_tokens": 2048}
ORDERS = {
    "teacher": Member(96, 3, 256, 4.0, MOSTLY, 0.8, REFLECTING, 31, **DOMAIN),
    "assistant": Member(64, 3, 176, 4.0, OFTEN, 0.04, CONCISE, 32, **DOMAIN),
    "student-s": Member(48, 3, 128, 3.0, SELDOM, 0.15, CONCISE, 33, **DOMAIN),
}

# Students of recipes/experiments/map.yaml: what they see last has other shares of reflecting chains.
MAP = {
    f"{size}-{100 * share:.0f}": replace(
        GAP[size], pretrain_style=replace(SELDOM, short=0.48 - share, reflecting=share)
    )
    for size in ("student-l", "student-s")
    for share in (0.0, 0.12, 0.36)
}

# The student of recipes/experiments/llama.yaml: the smallest one, in another architecture.
LLAMA = {
    "student-s": replace(
        GAP["student-s"], architecture="llama", base=replace(TINY["student-s"], architecture="llama")
    )
}

# The model of recipes/experiments/rewritten.yaml that writes long chains again, shorter; student-l's shape.
CHECKED = Mix(checked=1.0)
REWRITER = {"rewriter": replace(onward(LARGE, 3.0, CHECKED, 0.0, CHECKED), domain="rewrites")}


def seeded(member: Member, seed: int) -> Member:
    """The same member, and its base, of the family with another seed."""
    base = member.base and seeded(member.base, seed)
    return replace(member, seed=member.seed + SEEDS_APART * seed, base=base)


FAMILIES = {"tiny": TINY, "gap": GAP, "orders": ORDERS, "map": MAP, "llama": LLAMA, "rewriter": REWRITER}


def batches(
    tokenizer: PreTrainedTokenizerFast, member: Member, rng: random.Random, chat: bool, style: Style | Mix
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels), both (sequences, length) int64, of similar lengths; labels -100 carry no loss."""
    domain = import_module(member.domain)
    problems = domain.sample_problems(rng, evaluation=False)
    while True:
        rows = []
        pool = [next(problems) for _ in range(2048)]
        prompts = [chat_prompt(tokenizer, p) if chat else p + "\n" for p in pool]
        replies = [domain.write(p, style, rng) + END + "\n" for p in pool]
        for prompt, reply in zip(tokenizer(prompts).input_ids, tokenizer(replies).input_ids, strict=True):
            rows.append((prompt + reply, [-100] * len(prompt) + reply))
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > member.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            width = len(group[-1][0])
            yield (
                torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group]),
            )


def evaluate(folder: Path, data: Path, limit: int | None, domain: ModuleType) -> dict[str, Any]:
    """Score a stored model on a data file, greedily: n, correct, mean tokens without the end marker, cut."""
    asked = {row["id"]: row["problem"] for row in read_jsonl(data)}
    sampling = Generation(max_tokens=400, dtype="float32", batch_size=100)
    with TemporaryDirectory() as scratch:
        generate(
            ModelRef(str(folder)), Prompts(str(data), limit=limit), Path(scratch, "responses.jsonl"), sampling
        )
        rows = read_jsonl(Path(scratch, "responses.jsonl"))
    return {
        "n": len(rows),
        "correct": sum(domain.is_right(asked[row["id"]], row["response"], row["answer"]) for row in rows),
        "tokens": sum(row["response_tokens"] - (row["finish_reason"] == "stop") for row in rows) / len(rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
    }


def random_model(member: Member, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model of random weights in the member's shape."""
    config = AutoConfig.for_model(
        member.architecture,
        vocab_size=len(tokenizer),
        hidden_size=member.hidden,
        num_hidden_layers=member.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=member.feed_forward,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config)


def make_member(
    member: Member, name: str, base: str | None, out: Path, scale: float, limit: int | None
) -> dict[str, Any]:
    """Train one model, from the `base` in `out` if it has one, and return its table row with its scores."""
    row = train_member(member, name, base, out, scale)
    domain = import_module(member.domain)
    benches = [bench for bench in domain.DATA_FILES if bench != "train"]
    scores = {bench: evaluate(out / name, out / f"data/{bench}.jsonl", limit, domain) for bench in benches}
    return row | {"benches": scores}


def train_member(member: Member, name: str, base: str | None, out: Path, scale: float) -> dict[str, Any]:
    """Train one model into `out/name`, append to `out/training_log.jsonl`, and return its table row."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    torch.manual_seed(member.seed)
    rng = random.Random(member.seed)
    model = AutoModelForCausalLM.from_pretrained(out / base) if base else random_model(member, tokenizer)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    first, middle, last = member.rates
    plain_tokens, chat_tokens = (share * member.pretrain_tokens for share in (member.plain, 1 - member.plain))
    phases = [  # name, chat format, style, million tokens, share of the peak learning rate first and last
        ("plain", False, member.pretrain_style, plain_tokens, first, middle),
        ("chat", True, member.pretrain_style, chat_tokens, middle, last),
        ("tune", True, member.tune_style, member.tune_tokens, 0.1, 0.01),
    ]
    start, step = time.process_time(), 0  # one thread, so what it would take on an idle core
    for phase, chat, style, millions, rate_first, rate_last in phases:
        stream = batches(tokenizer, member, rng, chat, style)
        budget, done, losses = millions * 1e6 * scale, 0, []
        while done < budget:
            rate = rate_first + (rate_last - rate_first) * done / budget
            for group in optimizer.param_groups:
                group["lr"] = member.learning_rate * rate * min(1.0, (step + 1) / 100)
            ids, labels = next(stream)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step, done = step + 1, done + ids.numel()
            losses.append(loss.item())
            if step % 100 == 0 or done >= budget:
                entry = {"model": name, "phase": phase, "step": step, "phase_tokens": done}
                entry["loss"], losses = round(sum(losses) / len(losses), 4), []
                entry["cpu_minutes"] = round((time.process_time() - start) / 60, 2)
                print(json.dumps(entry), flush=True)
                with open(out / "training_log.jsonl", "a", encoding="utf-8") as log:
                    log.write(json.dumps(entry) + "\n")
    model.save_pretrained(out / name)
    GenerationConfig(
        do_sample=False, eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    row = {"model": name, "parameters": model.num_parameters(), "minutes": (time.process_time() - start) / 60}
    return row | {"bytes": sum(file.stat().st_size for file in (out / name).iterdir())}


def main() -> None:
    """Read the command line, train the family, and write its results table."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--out", type=Path, required=True, help="new folder for models, data, log and table")
    parser.add_argument("--family", choices=FAMILIES, default="tiny", help="which one (default tiny)")
    parser.add_argument("--only", action="append", metavar="MODEL", help="train this model only (repeatable)")
    parser.add_argument("--seed", type=int, default=0, help="another family of the kind: models and problems")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training tokens (default 1)")
    parser.add_argument("--limit", type=int, help="problems of each benchmark (default all)")
    args = parser.parse_args()
    family = FAMILIES[args.family]
    if unknown := set(args.only or ()) - set(family):
        parser.error(f"not in the family {args.family}: {', '.join(sorted(unknown))}")
    args.out = args.out.absolute()  # a relative path would be taken for an id on the hub
    args.out.mkdir(parents=True, exist_ok=True)
    family = {name: seeded(member, args.seed) for name, member in family.items()}
    domain = import_module(next(iter(family.values())).domain)
    domain.write_data(args.out / "data", args.seed)
    build_tokenizer().save_pretrained(args.out / "tokenizer")
    heads = "model | parameters | kB | CPU minutes | benchmark | n | accuracy, 95% interval | tokens | cut"
    lines = [f"| {heads} |", "|---" * heads.count("|") + "|---|"]
    names = args.only or list(family)
    with ProcessPoolExecutor(2, get_context("spawn"), die_with_parent) as pool:
        bases: dict[Member, tuple[str, Future[Any]]] = {}  # several may go on from one, which is trained once
        for name in names:
            if (base := family[name].base) and base not in bases:
                where = f"base/{name}"
                bases[base] = where, pool.submit(train_member, base, where, None, args.out, args.scale)
        jobs = []
        for name in names:
            member, at = family[name], None
            if member.base:
                at, trained = bases[member.base]
                trained.result()
            jobs.append(pool.submit(make_member, member, name, at, args.out, args.scale, args.limit))
        for job in jobs:
            row = job.result()
            about = f"{row['model']} | {row['parameters']:,} | {row['bytes'] // 1000} | {row['minutes']:.1f}"
            for bench, score in row["benches"].items():
                low, high = (100 * bound for bound in wilson(score["correct"], score["n"]))
                share = f"{100 * score['correct'] / score['n']:.1f}% [{low:.1f}, {high:.1f}]"
                cells = f"{score['n']} | {share} | {score['tokens']:.1f} | {score['truncated']}"
                lines.append(f"| {about} | {bench} | {cells} |")
            (args.out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
            print("\n".join(lines[-2:]), flush=True)


if __name__ == "__main__":
    main()
