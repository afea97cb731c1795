"""The rows of a training on several processes, so arranged that none of them waits for long.

In: a corpus, a seed, a global batch and how many processes split it. Out: all epochs as one data set of
tokens (`tokens/`), which LLaMA-Factory reads in its order (`tokenized_path`, `disable_shuffling`).

    batches = global_batches(12000, seed=42, epochs=2.0, max_steps=-1, size=32)   # row numbers, a list a step
    arrange(lengths, batches, 32, devices=8, micro_steps=4, room=24576).share     # 0.9 of the work is useful

With one row a GPU, a micro-step lasts as long as its longest row, since all processes meet at every layer
(ZeRO-3) or gradient. So each global batch, cut from the same seeded shuffle as ever, is divided into
micro-steps of like length; with `packs`, some short rows share a sequence, in which none of them sees another
(LLaMA-Factory's neat_packing: positions start anew, which FlashAttention-2 reads as borders).

The method stays: transformers divides the summed loss of an optimizer step by its tokens on all devices
(Trainer._get_num_items_in_batch), so its loss and gradient are those of any order but for rounding. An
epoch's last batch holds the rows that are left, as on one process; blanks, of which no token is trained, fill
it up, where accelerate would repeat the epoch's first rows. Random dropout would fall on other rows.
"""

import math
from collections.abc import Sequence
from heapq import heapreplace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ..inputs.chat import Chat
from ..system.files import Row

PAD = 8  # LLaMA-Factory pads sequences to a multiple of it (train/sft/workflow.py)
IGNORED = -100  # the label of a token that is not trained
GOOD_SHARE = 0.9  # of useful work; rows that share a sequence need more memory for a better one
Pack = list[int]
"""Numbers of the rows that share a sequence; none is a blank."""


class Arranged(NamedTuple):
    """Packs in the order in which they are trained, micro-steps of a batch, useful share of the work."""

    packs: list[Pack]
    micro_steps: int
    share: float
    shared: bool = False
    """Whether rows share sequences."""


def global_batches(rows: int, seed: int, epochs: float, max_steps: int, size: int) -> list[list[int]]:
    """The rows of each optimizer step, as transformers and accelerate draw them.

    Each epoch is torch's permutation for the seed plus the epoch's number (accelerate data_loader.py,
    SeedableRandomSampler), cut into batches (transformers trainer.py, set_initial_training_values).
    """
    import torch

    steps_an_epoch = math.ceil(rows / size)
    steps = max_steps if max_steps > 0 else math.ceil(epochs * steps_an_epoch)
    found: list[list[int]] = []
    for epoch in range(math.ceil(steps / steps_an_epoch)):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        found += [order[start : start + size] for start in range(0, rows, size)]
    return found[:steps]


def arrange(
    lengths: Sequence[int], batches: list[list[int]], size: int, devices: int, micro_steps: int, room: int = 0
) -> Arranged:
    """Divide batches of `size` into packs, longest first, so that a micro-step's consecutive ones are alike.

    Rows stay single, or share sequences of at most `room` tokens, as few as give GOOD_SHARE; then there are
    fewer micro-steps than the `micro_steps` of single ones.
    """
    best = Arranged([], 0, 0.0)
    for fewer in range(micro_steps, 0, -1):
        count = devices * fewer if fewer < micro_steps else size
        ordered = [_packs(lengths, batch, count) for batch in batches]
        sums = [[sum(lengths[row] for row in pack) for pack in batch] for batch in ordered]
        if fewer < micro_steps and max(map(max, sums)) > room:
            break
        share = _share(sums, count // fewer)
        if share > best.share:
            best = Arranged([p for batch in ordered for p in batch], fewer, share, fewer < micro_steps)
        if share >= GOOD_SHARE:
            break
    return best


def _packs(lengths: Sequence[int], batch: list[int], count: int) -> list[Pack]:
    """`count` packs of a batch, the longest first: each row, from the longest on, goes to the shortest."""
    found: list[tuple[int, int, Pack]] = [(0, number, []) for number in range(count)]
    for row in sorted(batch, key=lambda row: (-lengths[row], row)):
        tokens, number, pack = found[0]
        heapreplace(found, (tokens + lengths[row], number, [*pack, row]))
    return [pack for *_, pack in sorted(found, key=lambda one: (-one[0], one[1]))]


def _share(sums: list[list[int]], width: int) -> float:
    """The tokens of all packs over those that are waited for, `width` packs a micro-step."""
    steps = [batch[start : start + width] for batch in sums for start in range(0, len(batch), width)]
    return sum(map(sum, steps)) / sum(width * max(step) for step in steps)


def row_tokens(rows: list[Row], chat: Chat, system: str | None) -> list[tuple[list[int], list[int]]]:
    """Tokens of each row's prompt and of its response with the end of turn, by the model's chat template."""
    before, between, after = chat.frame(system)
    texts = ([before + row["prompt"] + between for row in rows], [row["response"] + after for row in rows])
    return list(zip(*([one.ids for one in chat.encoded(some)] for some in texts), strict=True))


def write_tokens(
    path: Path, rows: list[Row], chat: Chat, system: str | None, made: Arranged, together: int
) -> None:
    """Write the data set that LLaMA-Factory would make of these packs (data/processor/supervised.py).

    Those that a process takes `together` are filled up to one length, as LLaMA-Factory would, but the mask
    does not say so: the filling comes after all that is trained, which cannot see it, and only where nothing
    is masked does SDPA use its flash kernel (transformers masking_utils.py, _ignore_causal_mask_sdpa).
    """
    import datasets

    pairs = row_tokens(rows, chat, system)
    packs = [[pairs[row] for row in pack] for pack in made.packs]
    used = [sum(map(len, chain(*pack))) for pack in packs]
    most = [max(1, *used[n // together * together :][:together]) for n in range(len(used))]
    lengths = [math.ceil(tokens / PAD) * PAD for tokens in most]
    found = [_features(pack, made.shared, length) for pack, length in zip(packs, lengths, strict=True)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(found)}).save_to_disk(path)


def _features(pack: list[tuple[list[int], list[int]]], shared: bool, length: int) -> dict[str, Any]:
    """One sequence of a length; where rows share it its mask numbers them, and 0 is padding.

    A blank is a row of which no token is trained.
    """
    import numpy as np

    ids, labels, mask, positions = list[int](), list[int](), list[int](), list[int]()
    for number, (asked, answered) in enumerate(pack or [([0] * length, [])], 1):
        ids += asked + answered
        labels += [IGNORED] * len(asked) + answered
        mask += [number if shared else 1] * (len(ids) - len(mask))
        positions += range(len(ids) - len(positions))
    fill = {"input_ids": (ids, 0), "labels": (labels, IGNORED), "attention_mask": (mask, 0 if shared else 1)}
    fill |= {"position_ids": (positions, 0)} if shared else {}
    padded = {name: values + [value] * (length - len(values)) for name, (values, value) in fill.items()}
    return {name: np.array(values, np.int32) for name, values in padded.items()}
