"""Functions that rendered task files name: loading problems, metrics, log-likelihoods.

A copy of this file lies beside them; lm-eval imports it by its path, so it imports the package absolutely.
"""

from typing import Any

from datasets import Dataset

from micota_lf.grading.measures import mean_metrics, response_metrics, usable_tokenizer
from micota_lf.inputs.problems import Prompts, load_problems, user_text
from micota_lf.recipe.sections import Evaluation
from micota_lf.recipe.tasks import benchmark_named


def load(benchmark: str, **metadata: Any) -> dict[str, Dataset]:
    """The problems of a benchmark as lm-eval's `test` split.

    lm-eval calls this with the task's metadata, over it the model's arguments (`pretrained`, `tokenizer`,
    `revision`), and over these the JSON of `--metadata`: `benchmarks` (a recipe's), `data_dir`, `template`,
    `max_gen_toks` (if `--gen_kwargs` changes it). `process_results` sees nothing but a document, so what it
    needs is in each.
    """
    spec = benchmark_named(benchmark, metadata.get("benchmarks"), metadata.get("data_dir"))
    template = metadata.get("template") or Prompts.template
    revision = None if metadata.get("tokenizer") else metadata.get("revision")
    known = {
        "legacy_rule": spec.legacy_rule,
        "tokenizer": usable_tokenizer(metadata.get("tokenizer") or metadata.get("pretrained"), revision),
        "tokenizer_revision": revision,
        "max_gen_toks": int(metadata.get("max_gen_toks") or Evaluation.max_gen_toks),
    }
    docs = [{**row, "prompt": user_text(row["problem"], template), **known} for row in load_problems(spec)]
    return {"test": Dataset.from_list(docs)}


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """The metrics of a problem's response, or their means over its k responses (filter take_first_k).

    A step of this package leaves it out (`--predict_only`) and grades all samples at the end, on all cores.
    """
    responses = results[0] if isinstance(results[0], list) else results[:1]
    return mean_metrics([response_metrics(doc, response) for response in responses])


def negative_log_likelihood(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Negative log-likelihood of one text in nats; `loglikelihood` adds whether it is the greedy text."""
    value = results[0]
    return {"nll": -float(value[0] if isinstance(value, tuple) else value)}
