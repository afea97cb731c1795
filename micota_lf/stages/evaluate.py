"""Benchmarks through lm-evaluation-harness with this package's task files.

In: a model, task names. Out: lm-eval's own results under `lm_eval/`, and from its samples `samples.jsonl`
(one row a problem, with the response), `problems.jsonl` (the same without texts), `scores.json` (per task: n,
correct by each grader, truncated, mean response tokens and reflection words; see `metrics.py`) and
`numerics.json` (what last digits, and with them greedy responses, depend on).

    evaluate_command(recipe, "/abs/model", "/abs/out")   -> ["lm_eval", "run", "--model", "hf", ...]
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import StepFailed, UserError
from ..grading.measures import METRICS, VERDICTS
from ..inputs.benchmarks import (
    benchmark_identity,
    benchmark_named,
    expand_groups,
    task_benchmarks,
    task_configs,
)
from ..recipe.sections import Benchmark, Evaluation, Prompts, Recipe
from ..system.files import Row, directory_digest, read_json, read_jsonl, write_json, write_jsonl
from ..system.processes import log_tail, vllm_numerics

TASKS_DIR = Path(__file__).parent / "tasks"


def evaluate_command(recipe: Recipe, model_path: str, output_dir: str) -> list[str]:
    """The lm_eval command line that evaluates a model on the recipe's benchmarks."""
    spec = recipe.evaluation
    what = evaluation_settings(spec, recipe.prompts)
    how = evaluation_how(spec) | {"gpus": recipe.hardware.gpus}
    return [*shlex.split(recipe.engines.lm_eval), *render(what, how, model_path, output_dir)]


def task_folder(spec: Evaluation) -> Path:
    """The folder of task files: the user's own, or the package's."""
    return Path(spec.include_path).absolute() if spec.include_path else TASKS_DIR


def evaluated_benchmarks(spec: Evaluation) -> dict[str, Benchmark]:
    """The benchmarks that the tasks read, by name, where they are.

    Raises UserError for an unknown task or benchmark.
    """
    configs = task_configs(task_folder(spec))
    tasks = expand_groups(spec.tasks, configs)
    unknown = [task for task in tasks if task not in configs]  # lm-eval's own give no verdicts
    if unknown:
        known = ", ".join(name for name in configs)
        raise UserError(f"tasks: {unknown[0]!r} has no file in {task_folder(spec)}; known: {known}")
    names = task_benchmarks(tasks, configs)
    return {name: benchmark_named(name, spec.benchmarks, spec.data_dir) for name in names}


def evaluation_settings(spec: Evaluation, prompts: Prompts) -> dict[str, Any]:
    """The hashed settings of an evaluation (not its columns' titles or the grader that fills the table).

    Task files and benchmarks enter by their content, not by where they are.
    """
    folder = task_folder(spec)
    benchmarks = {name: benchmark_identity(found) for name, found in evaluated_benchmarks(spec).items()}
    return {
        "tasks": expand_groups(spec.tasks, task_configs(folder)), "task_files": directory_digest(folder),
        "benchmarks": benchmarks, "max_gen_toks": spec.max_gen_toks, "limit": spec.limit,
        "dtype": spec.dtype, "seed": spec.seed, "system": prompts.system, "template": prompts.template,
        **engine_settings(spec),
    }  # fmt: skip


def engine_settings(spec: Evaluation) -> dict[str, Any]:
    """The hashed setting of what runs the model: its numerics differ. Only there if it is not the default."""
    return {} if spec.backend == Evaluation.backend else {"backend": spec.backend}


def engine_how(spec: Evaluation) -> dict[str, Any]:
    """Settings of what runs the model that decide no result."""
    return {"batch_size": spec.batch_size, "gpu_memory_utilization": spec.gpu_memory_utilization}


def evaluation_how(spec: Evaluation) -> dict[str, Any]:
    """Settings that decide no result: batch size, memory, and where task files and problems are."""
    plain = asdict(Benchmark(path=""))
    given = {
        name: {key: value for key, value in asdict(found).items() if value != plain[key]}
        for name, found in evaluated_benchmarks(spec).items()
    }
    return {**engine_how(spec), "include_path": str(task_folder(spec)), "benchmarks": given}


def render(what: Mapping[str, Any], how: Mapping[str, Any], model_path: str, output_dir: str) -> list[str]:
    """Arguments of `lm_eval` for generation tasks: zero-shot, chat template, greedy unless a task samples."""
    # Said outright: the hf backend would take the repetition penalty that the model ships.
    generation = {"max_gen_toks": what["max_gen_toks"], "repetition_penalty": 1.0}
    metadata = {
        "benchmarks": how["benchmarks"],
        "template": what["template"],
        "max_gen_toks": what["max_gen_toks"],
    }
    arguments = [
        *common_arguments(what, how, model_path, output_dir, how["include_path"]),
        "--tasks", ",".join(what["tasks"]),
        "--gen_kwargs", json.dumps(generation),
        "--metadata", json.dumps(metadata),
        "--apply_chat_template",
    ]  # fmt: skip
    return [*arguments, "--system_instruction", what["system"]] if what["system"] else arguments


def common_arguments(
    what: Mapping[str, Any],
    how: Mapping[str, Any],
    model_path: str,
    output_dir: str,
    tasks: str,
    vllm: Mapping[str, Any] | None = None,
) -> list[str]:
    """Arguments that every use of lm_eval shares; JSON so that a path may hold commas.

    A model is split over the step's GPUs: by `parallelize`, or vLLM's tensor parallelism. vLLM would take
    sampling values that the model ships, and gets no max_model_len: the model's own holds every prompt that
    the preflight lets through, and lm-eval cuts prompts on the left to fit a smaller one. `vllm`: more of its
    engine arguments.
    """
    model_args: dict[str, Any] = {
        "pretrained": model_path, "dtype": what["dtype"], "trust_remote_code": False,
    }  # fmt: skip
    if how.get("revision"):
        model_args["revision"] = how["revision"]
    if what.get("backend") == "vllm":
        model_args |= {
            "tensor_parallel_size": max(1, how["gpus"]), "generation_config": "vllm", "seed": what["seed"],
            "gpu_memory_utilization": how["gpu_memory_utilization"], **(vllm or {}),
        }  # fmt: skip
        engine = ["--model", "vllm", "--batch_size", "auto"]
    else:
        if how["gpus"] > 1:
            model_args["parallelize"] = True  # models/huggingface.py
        device = "cuda" if how["gpus"] else "cpu"
        engine = ["--model", "hf", "--device", device, "--batch_size", str(how["batch_size"])]
    arguments = [
        "run", *engine, "--model_args", json.dumps(model_args), "--include_path", tasks,
        "--output_path", output_dir, "--log_samples", "--seed", str(what["seed"]),
    ]  # fmt: skip
    return [*arguments, "--limit", str(what["limit"])] if what["limit"] else arguments


def finish_evaluation(directory: Path, tasks: list[str]) -> dict[str, Any]:
    """Turn lm-eval's samples into `samples.jsonl`, `problems.jsonl` and `scores.json`; return the scores."""
    rows: list[Row] = []
    for task in tasks:
        for sample in lm_eval_samples(directory / "lm_eval", task):
            missing = [name for name in METRICS if name not in sample]
            if missing:
                raise StepFailed(
                    f"lm_eval's samples of {task} have no {', '.join(missing)}: its task file must compute "
                    "them as utils.process_results of `micota tasks` does, with a tokenizer that loads"
                )
            rows.append({
                "task": task, "id": sample["doc"].get("id", str(sample["doc_id"])),
                "target": sample["doc"].get("answer", sample["target"]),
                "response": sample["filtered_resps"][0], **{name: sample[name] for name in METRICS},
            })  # fmt: skip
    scores = {task: task_scores([row for row in rows if row["task"] == task]) for task in tasks}
    write_jsonl(directory / "samples.jsonl", rows)
    write_jsonl(
        directory / "problems.jsonl", ({key: row[key] for key in ("task", "id", *METRICS)} for row in rows)
    )
    write_json(directory / "scores.json", scores)
    return scores


def write_numerics(directory: Path, what: Mapping[str, Any], how: Mapping[str, Any]) -> None:
    """Write `numerics.json`: engine, dtype, parallelism, versions, GPU, and vLLM's attention kernels.

    Versions are those of lm-eval's own environment, from its results and vLLM's log; null if not said.
    """
    backend = what.get("backend", Evaluation.backend)
    found = sorted(directory.glob("lm_eval/*/results_*.json"))
    results = read_json(found[-1]) if found else {}
    machine, log = results.get("pretty_env_info", ""), (directory / "log.txt").read_text(errors="replace")

    def said(pattern: str, text: str) -> str | None:
        match = re.search(pattern, text)
        return match[1] if match else None

    numerics = {
        "backend": backend, "dtype": what["dtype"], "gpus": how["gpus"],
        "gpu": said(r"GPU 0: (.+)", machine) if how["gpus"] else None,
        "torch": said(r"\btorch==(\S+)", machine), "transformers": results.get("transformers_version"),
    }  # fmt: skip
    if backend == "vllm":
        numerics["vllm"] = said(r"LLM engine \(v([\w.+]+)\)", log)
        numerics |= vllm_numerics(directory / "log.txt")
    else:
        numerics["batch_size"] = how["batch_size"]
    write_json(directory / "numerics.json", numerics)


def task_scores(rows: list[Row]) -> dict[str, Any]:
    """Of one task: n problems; sums of verdicts and truncated (fractions where a task samples); means."""
    return {
        "n": len(rows),
        **{name: sum(row[name] for row in rows) for name in (*VERDICTS, "truncated")},
        "mean_response_tokens": sum(row["response_tokens"] for row in rows) / len(rows),
        "mean_reflections": sum(row["reflections"] for row in rows) / len(rows),
    }


def lm_eval_samples(output: Path, task: str) -> list[Row]:
    """The newest samples that lm-eval wrote for a task, in the order of the problems.

    lm-eval only warns, with exit code 0, if it cannot save them: their absence is a StepFailed.
    """
    # With the date: the name of one task may begin with that of another.
    files = sorted(output.glob(f"*/samples_{task}_[0-9][0-9][0-9][0-9]-[0-9][0-9]-*.jsonl"))
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
