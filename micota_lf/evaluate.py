"""Benchmarks through lm-evaluation-harness with this package's task files.

In: a model, task names. Out: lm-eval's own results under `lm_eval/`, and from them `samples.jsonl` (one row
a problem) and `scores.json` (per task: n, correct by each grader, mean response tokens, truncated).

    evaluate_command(recipe, "/abs/model", "/abs/out")   -> ["lm_eval", "run", "--model", "hf", ...]

lm-eval keeps neither token counts nor finish reasons, so both come from encoding the response again with
the model's tokenizer: `response_tokens` leaves out the end-of-turn token, and a response within 1% of
max_gen_toks counts as truncated.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .engines import log_tail
from .errors import StepFailed
from .files import Row, read_jsonl, write_json, write_jsonl
from .recipe import Evaluation, Recipe

TASKS_DIR = Path(__file__).parent / "tasks"
TRUNCATED_SHARE = 0.99
VERDICTS = ("legacy", "symbolic")


def evaluate_command(recipe: Recipe, model_path: str, output_dir: str) -> list[str]:
    """The lm_eval command line that evaluates a model on the recipe's benchmarks."""
    what = evaluation_settings(recipe.evaluation, recipe.prompts.system)
    how = {"batch_size": recipe.evaluation.batch_size, "gpus": recipe.hardware.gpus}
    return [
        *shlex.split(recipe.engines.lm_eval),
        *render(what, how, model_path, output_dir, include_path(recipe)),
    ]


def include_path(recipe: Recipe) -> str:
    """The folder of task files: the recipe's own, or the package's."""
    given = recipe.evaluation.include_path
    return str(Path(given).absolute()) if given else str(TASKS_DIR)


def evaluation_settings(spec: Evaluation, system: str | None) -> dict[str, Any]:
    """The hashed settings of an evaluation (not its columns' titles or the grader that fills the table)."""
    return {
        "tasks": list(spec.tasks), "max_gen_toks": spec.max_gen_toks, "limit": spec.limit,
        "dtype": spec.dtype, "seed": spec.seed, "system": system,
    }  # fmt: skip


def render(
    what: Mapping[str, Any], how: Mapping[str, Any], model_path: str, output_dir: str, tasks: str
) -> list[str]:
    """Arguments of `lm_eval` for generation tasks: zero-shot, chat template, greedy."""
    # Said outright: the hf backend would take the repetition penalty that the model ships.
    generation = {"max_gen_toks": what["max_gen_toks"], "do_sample": False, "repetition_penalty": 1.0}
    arguments = [
        *common_arguments(what, how, model_path, output_dir, tasks),
        "--tasks", ",".join(what["tasks"]),
        "--gen_kwargs", json.dumps(generation),
        "--apply_chat_template",
    ]  # fmt: skip
    return [*arguments, "--system_instruction", what["system"]] if what["system"] else arguments


def common_arguments(
    what: Mapping[str, Any], how: Mapping[str, Any], model_path: str, output_dir: str, tasks: str
) -> list[str]:
    """Arguments that every use of lm_eval shares; JSON so that a path may hold commas."""
    model_args = {"pretrained": model_path, "dtype": what["dtype"], "trust_remote_code": False}
    if how.get("revision"):
        model_args["revision"] = how["revision"]
    arguments = [
        "run", "--model", "hf", "--model_args", json.dumps(model_args), "--include_path", tasks,
        "--device", "cuda" if how["gpus"] else "cpu", "--batch_size", str(how["batch_size"]),
        "--output_path", output_dir, "--log_samples", "--seed", str(what["seed"]),
    ]  # fmt: skip
    return [*arguments, "--limit", str(what["limit"])] if what["limit"] else arguments


def finish_evaluation(directory: Path, model: str, max_gen_toks: int, tasks: list[str]) -> dict[str, Any]:
    """Turn lm-eval's sample files into `samples.jsonl` and `scores.json`; return the scores."""
    encode = token_counter(model)
    rows: list[Row] = []
    for task in tasks:
        for sample in lm_eval_samples(directory / "lm_eval", task):
            response = sample["filtered_resps"][0]
            tokens = encode(response)
            problem_id = sample["doc"].get("id", str(sample["doc_id"]))
            rows.append({
                "task": task, "id": problem_id, "target": sample["target"], "response": response,
                "response_tokens": tokens, "truncated": tokens >= TRUNCATED_SHARE * max_gen_toks,
                **{verdict: bool(sample[verdict]) for verdict in VERDICTS},
            })  # fmt: skip
    scores = {task: task_scores([row for row in rows if row["task"] == task]) for task in tasks}
    write_jsonl(directory / "samples.jsonl", rows)
    write_json(directory / "scores.json", scores)
    return scores


def task_scores(rows: list[Row]) -> dict[str, Any]:
    """Counts over the rows of one task: n, correct by each grader, truncated; mean response tokens."""
    return {
        "n": len(rows),
        **{verdict: sum(row[verdict] for row in rows) for verdict in VERDICTS},
        "truncated": sum(row["truncated"] for row in rows),
        "mean_response_tokens": sum(row["response_tokens"] for row in rows) / len(rows),
    }


def lm_eval_samples(output: Path, task: str) -> list[Row]:
    """The newest samples that lm-eval wrote for a task, in the order of the problems.

    lm-eval only warns, with exit code 0, if it cannot save them: their absence is a StepFailed.
    """
    files = sorted(output.glob(f"*/samples_{task}_*.jsonl"))
    rows = read_jsonl(files[-1]) if files else []
    if not rows:
        raise StepFailed(f"lm_eval left no samples of {task} in {output} (of a group, name the tasks)")
    return sorted(rows, key=lambda row: int(row["doc_id"]))


def evaluation_progress(directory: Path) -> str:
    """How far lm-eval's own progress bar in the log is, as `200/400 requests`."""
    bars = re.findall(r"Running \w+ requests:.*?(\d+/\d+) \[", log_tail(directory / "log.txt", 3))
    return f"{bars[-1]} requests" if bars else ""


def clear_unfinished_evaluation(directory: Path) -> None:
    """Remove samples of an interrupted run, so that old and new ones never mix."""
    shutil.rmtree(directory / "lm_eval", ignore_errors=True)


def token_counter(model: str) -> Any:
    """A function from text to its number of tokens, without special tokens, under a model's tokenizer."""
    from tokenizers import Tokenizer

    file = Path(model) / "tokenizer.json"
    # The tokenizers library alone: importing transformers would cost seconds in every step.
    tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(model)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
