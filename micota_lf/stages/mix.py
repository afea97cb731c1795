"""A corpus mixed from others at stated ratios (Mix-Long of Li et al., arXiv 2502.12143).

    mix_corpora(["long.jsonl", "short.jsonl"], [0.2, 0.8], "corpus.jsonl", seed=0)

Each part is sampled without replacement and independently of the others, so a problem can occur once in
every part. Without a size, the mix is the largest that the ratios allow.
"""

import random
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe.sections import RATIO_TOLERANCE
from ..system.files import Row, write_json, write_jsonl
from . import Context, Results, Stage
from .filter import mean_tokens, whole_rows


def run(step: Context) -> Results:
    """Mix the step's parts, in their order, into its `corpus.jsonl`."""
    parts = [part.resolved for part in step.inputs.values()]
    return mix_corpora(parts, output=step.directory / STAGE.output, **step.config)


def mix_corpora(
    parts: list[str], ratios: list[float], output: str | Path, seed: int = 0, size: int | None = None
) -> dict[str, Any]:
    """Write the mixed rows, shuffled, each with the `part` it came from; return the counts.

    Raises UserError if the ratios do not add up to 1 or a part has too few rows for `size`.
    """
    if abs(sum(ratios) - 1) > RATIO_TOLERANCE or not all(ratio > 0 for ratio in ratios):
        raise UserError(f"--part: ratios {ratios} must be above 0 and add up to 1")
    corpora = [sorted(whole_rows(path), key=lambda row: str(row["id"])) for path in parts]
    total = size or min(int(len(rows) / ratio + 1e-9) for rows, ratio in zip(corpora, ratios, strict=True))
    counts = shares(ratios, total)
    mixed: list[Row] = []
    for number, (path, rows, count) in enumerate(zip(parts, corpora, counts, strict=True)):
        if count > len(rows):
            raise UserError(f"--size: {total} rows need {count} of {path}, which has {len(rows)}")
        chosen = random.Random(f"{seed}/{number}").sample(rows, count)
        mixed += [{**row, "part": number} for row in chosen]
    if not mixed:
        raise UserError(f"{', '.join(parts)}: too few rows to mix at these ratios")
    random.Random(seed).shuffle(mixed)
    summary: dict[str, Any] = {"rows": len(mixed), "rows_by_part": counts, "seed": seed}
    summary["mean_response_tokens"] = mean_tokens(mixed)
    write_jsonl(output, mixed)
    write_json(Path(output).with_name("counts.json"), summary)
    return summary


def shares(ratios: list[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, as near to the ratios as can be (largest remainder)."""
    counts = [int(ratio * total + 1e-9) for ratio in ratios]
    by_rest = sorted(range(len(ratios)), key=lambda i: counts[i] - ratios[i] * total)
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    return counts


STAGE = Stage(run, quick=True, output="corpus.jsonl")
