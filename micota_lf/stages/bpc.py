"""Bits per character of corpora under a model: the paper's equation 3 and Table 4, through lm-eval.

    BPC(T) = - sum_i log p(w_i | w_1 .. w_{i-1}) / length(T)

T is a corpus row's response. By default, as the equation is written: natural logarithm, length in characters,
and no prompt before T (its first token is conditioned on the model's BOS, or EOS where there is none, as
lm-eval's rolling log-likelihood does). A corpus' value is the mean over its texts. Texts longer than the
model's context are split into windows, never cut (lm_eval utils.get_rolling_token_windows); with
`condition_on_prompt` lm-eval would cut them on the left, so keep them within the context.

In: a model, corpora. Out: `bpc.json` (per corpus: mean, 95% interval, n, unit) and `texts.jsonl`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..grading.intervals import mean_interval
from ..recipe.sections import Bpc, Evaluation
from ..system.files import Row, write_json, write_jsonl, write_text
from .evaluate import TASKS_DIR, common_arguments, engine_settings, lm_eval_samples


def bpc_settings(spec: Bpc, evaluation: Evaluation) -> dict[str, Any]:
    """The hashed settings of a BPC measurement, by the engine that evaluates."""
    return {
        "log_base": spec.log_base, "unit": spec.unit, "condition_on_prompt": spec.condition_on_prompt,
        "limit": spec.limit, "dtype": evaluation.dtype, "seed": 0,
        **engine_settings(evaluation),
    }  # fmt: skip


def write_bpc_tasks(directory: Path, corpora: Sequence[str], conditional: bool) -> list[str]:
    """Write one lm-eval task file a corpus into `directory/tasks`; return the tasks' names.

    The data files are absolute because lm-eval resolves them against the current directory.
    """
    import yaml

    names = [f"micota_bpc_{number}" for number in range(len(corpora))]
    for name, corpus in zip(names, corpora, strict=True):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": corpus}},
            "test_split": "test",
            "output_type": "loglikelihood" if conditional else "loglikelihood_rolling",
            "doc_to_text": "{{prompt}}" if conditional else "",
            "doc_to_target": "{{response}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "nll", "aggregation": "mean", "higher_is_better": False}],
            "metadata": {"version": 1.0},
        }
        # `!function` is lm-eval's own tag: a safe dumper has no form for it.
        text = yaml.safe_dump(task, sort_keys=False)
        text += "process_results: !function utils.negative_log_likelihood\n"
        write_text(directory / "tasks" / f"{name}.yaml", text)
    write_text(directory / "tasks" / "utils.py", (TASKS_DIR / "utils.py").read_text(encoding="utf-8"))
    return names


def render(
    what: Mapping[str, Any], how: Mapping[str, Any], model: str, directory: Path, tasks: Sequence[str]
) -> list[str]:
    """Arguments of `lm_eval` for the task files that `write_bpc_tasks` wrote."""
    output = str(directory / "lm_eval")
    # vLLM sets no memory aside for log-probabilities of prompts: 4 bytes a token and word of the vocabulary.
    chunks = {"max_num_batched_tokens": 2048}
    arguments = common_arguments(what, how, model, output, str(directory / "tasks"), chunks)
    arguments += ["--tasks", ",".join(tasks)]
    return [*arguments, "--apply_chat_template"] if what["condition_on_prompt"] else arguments


def bits_per_character(nll_nats: float, text: str, log_base: str = "e", unit: str = "characters") -> float:
    """Equation 3 for one text: `nll_nats` in the given base, over its characters or UTF-8 bytes."""
    length = len(text) if unit == "characters" else len(text.encode("utf-8"))
    return nll_nats / (math.log(2) if log_base == "2" else 1.0) / length


def finish_bpc(directory: Path, what: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Turn lm-eval's samples into `texts.jsonl` and `bpc.json`; return the latter.

    Empty responses have no BPC and are left out; `n` counts the texts that were measured.
    """
    rows: list[Row] = []
    summary = {}
    for number, name in enumerate(names):
        values = []
        for sample in lm_eval_samples(directory / "lm_eval", f"micota_bpc_{number}"):
            text = sample["doc"]["response"]
            if not text:
                continue
            values.append(bits_per_character(sample["nll"], text, what["log_base"], what["unit"]))
            rows.append(
                {"corpus": name, "id": sample["doc"]["id"], "nll_nats": sample["nll"], "bpc": values[-1]}
            )
        low, high = mean_interval(values)
        summary[name] = {
            "mean": sum(values) / len(values), "low": low, "high": high, "n": len(values),
            "unit": f"{'bits' if what['log_base'] == '2' else 'nats'} per {what['unit'][:-1]}",
        }  # fmt: skip
    write_jsonl(directory / "texts.jsonl", rows)
    write_json(directory / "bpc.json", summary)
    return summary
