"""Bits per character of corpora under a model: the paper's equation 3 and Table 4, through lm-eval.

    BPC(T) = - sum_i log p(w_i | w_1 .. w_{i-1}) / length(T)

T is a corpus row's response. By default, as the equation is written: natural logarithm, length in characters,
and no prompt before T (its first token is conditioned on the model's BOS, or EOS where there is none, as
lm-eval's rolling log-likelihood does). A corpus' value is the mean over its texts. Texts longer than the
model's context are split into windows, never cut (lm_eval utils.get_rolling_token_windows); with
`condition_on_prompt` lm-eval would cut them on the left, so keep them within the context.

In: a model, corpora. Out: `bpc.json` (per corpus: mean, 95% interval, n, unit) and `texts.jsonl`.
"""

import math
from pathlib import Path

from ..grading.intervals import mean_interval
from ..recipe.sections import Bpc, Evaluation, Recipe
from ..recipe.tasks import TaskConfig
from ..system.files import Row, write_json, write_jsonl
from . import Context, Results, Settings, Stage
from .evaluate import ask, lm_eval_samples, progress
from .filter import whole_rows

COLUMNS = ("id", "prompt", "response")


def settings(recipe: Recipe) -> Settings:
    """Of a step that scores corpora: what runs the model decides values too, as numerics differ."""
    spec = recipe.evaluation
    apart = {"evaluation": {"dtype": spec.dtype, "backend": spec.backend}}
    gpus = min(1, recipe.hardware.gpus)  # as the model needs: plan/costs.py
    return Settings.of(recipe.bpc, spec, gpus=gpus, apart=apart, engine=recipe.engines.lm_eval)


def run(step: Context) -> Results:
    """Let lm-eval score all corpora under the model, each as a task."""
    settings = step.section(Bpc)
    spec = step.section(Evaluation, seed=0, limit=settings.limit)
    prompted = {"output_type": "loglikelihood", "doc_to_text": "{{prompt}}"}
    own, template = (prompted, ["--apply_chat_template"]) if settings.condition_on_prompt else ({}, [])
    corpora = {role: given.ref for role, given in step.inputs.items() if role != "model"}
    tasks: dict[str, TaskConfig] = {}
    for number, corpus in enumerate(corpora.values()):
        # These columns alone, as JSON Lines: lm-eval would stumble over other formats, and over mixed types.
        name, copy = f"micota_bpc_{number}", step.directory / f"corpus{number}.jsonl"
        write_jsonl(copy, ({key: str(row[key]) for key in COLUMNS} for row in whole_rows(corpus)))
        files = {"data_files": {"test": str(copy)}}
        tasks[name] = {"task": name, "include": "_bpc.yaml", "dataset_kwargs": files, **own}
    # vLLM sets no memory aside for log-probabilities of prompts: 4 bytes a token and word of the vocabulary.
    ask(step, spec, tasks, *template, max_num_batched_tokens=2048)
    return finish(step.directory, settings, dict(zip(corpora, tasks, strict=True)))


def bits_per_character(nll_nats: float, text: str, log_base: str = "e", unit: str = "characters") -> float:
    """Equation 3 for one text: `nll_nats` in the given base, over its characters or UTF-8 bytes."""
    length = len(text) if unit == "characters" else len(text.encode("utf-8"))
    return nll_nats / (math.log(2) if log_base == "2" else 1.0) / length


def finish(directory: Path, settings: Bpc, tasks: dict[str, str]) -> Results:
    """Turn lm-eval's samples into `texts.jsonl` and `bpc.json`; return the latter. `tasks` are by corpus.

    Empty responses have no BPC and are left out; `n` counts the texts that were measured.
    """
    rows: list[Row] = []
    summary: Results = {}
    for corpus, task in tasks.items():
        values = []
        for sample in lm_eval_samples(directory / "lm_eval", task):
            doc, nll = sample["doc"], sample["nll"]
            if text := doc["response"]:
                values.append(bits_per_character(nll, text, settings.log_base, settings.unit))
                row = {"corpus": corpus, "id": doc.get("id", sample["doc_id"])}
                rows.append({**row, "nll_nats": nll, "bpc": values[-1]})
        low, high = mean_interval(values, least=0.0)
        unit = f"{'bits' if settings.log_base == '2' else 'nats'} per {settings.unit[:-1]}"
        mean = sum(values) / len(values)
        summary[corpus] = {"mean": mean, "low": low, "high": high, "n": len(values), "unit": unit}
    write_jsonl(directory / "texts.jsonl", rows)
    write_json(directory / "bpc.json", summary)
    return summary


STAGE = Stage(run, progress=progress)
