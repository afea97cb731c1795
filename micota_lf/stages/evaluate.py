"""Benchmarks through lm-evaluation-harness, with tasks that are rendered from the benchmarks' entries.

In: a model, task names. Out: lm-eval's own results under `lm_eval/`, its tasks under `tasks/`, and from its
samples, graded on all cores once it has ended: `samples.jsonl` (`task`, `id`, `target`, `legacy_rule`,
`response`, a row a problem), `problems.jsonl` (the same problems in the same order: `task`, `id` and the
numbers of grading/measures.py), `scores.json` (per task: n, correct by each grader, truncated, mean response
tokens and reflection words) and `numerics.json` (what last digits, and so greedy responses, depend on).

    evaluate_command(recipe, "/abs/model", "/abs/out")   -> ["lm_eval", "run", "--model", "hf", ...]
    tasks_folder()                                       -> a folder of all tasks, for --include_path
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from ..errors import StepFailed, UserError
from ..grading.measures import METRICS, VERDICTS, measured_rows
from ..grading.regrade import Columns, asked_rows
from ..grading.workers import Question
from ..inputs.benchmarks import Benchmark, benchmark_identity
from ..inputs.chat import load_chat
from ..inputs.references import ModelRef
from ..recipe.sections import Evaluation, Recipe
from ..recipe.tasks import TaskConfig, chosen_tasks, evaluated_benchmarks, known_tasks, own_contents
from ..system.files import Row, digest, read_json, read_jsonl, write_json, write_jsonl, write_text
from ..system.processes import engine_argv, log_tail, vllm_numerics
from . import LOG, Context, Results, Settings, Stage

SHARED = sorted((Path(__file__).parent / "tasks").glob("*.*"))  # what rendered tasks include and call


def evaluate_command(recipe: Recipe, model_path: str, output_dir: str) -> list[str]:
    """The lm_eval command line that evaluates a model on the recipe's benchmarks, and grades."""
    spec, (config, how, gpus) = recipe.evaluation, settings(recipe, recipe.hardware.gpus)
    step = Context(Path(output_dir), config, {"model": ModelRef(model_path)}, how, gpus)
    arguments = render(step, spec, tasks_folder(spec), config["tasks"], output_dir)
    return [*shlex.split(recipe.engines.lm_eval), *arguments, *generation_arguments(step)]


def settings(recipe: Recipe, gpus: int) -> Settings:
    """Of an evaluation: benchmarks and own task files enter by their content, not by where they are."""
    spec, prompts = recipe.evaluation, recipe.prompts
    tasks, found = chosen_tasks(spec), evaluated_benchmarks(spec)
    apart = {
        "prompts": {"template": prompts.template, "system": prompts.system},
        "tasks": list(tasks),
        "benchmarks": {name: benchmark_identity(one) for name, one in found.items()},
        "own_tasks": own_contents(tasks),
    }
    return Settings.of(
        spec, gpus=gpus, apart=apart, engine=recipe.engines.lm_eval,
        include_path=str(Path(spec.include_path).expanduser().absolute()) if spec.include_path else None,
        benchmarks=TypeAdapter(dict[str, Benchmark]).dump_python(found, exclude_defaults=True),
    )  # fmt: skip


def tasks_folder(spec: Evaluation | None = None) -> Path:
    """A folder of an evaluation's tasks, or of all that this package has: in the cache, known by content."""
    spec = spec or Evaluation()
    configs = chosen_tasks(spec) or known_tasks(spec)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    key = digest([configs, [file.read_text(encoding="utf-8") for file in SHARED]])
    return write_tasks(cache / "micota_lf" / f"tasks-{key}", configs)


def write_tasks(folder: Path, configs: Mapping[str, TaskConfig]) -> Path:
    """Write tasks into a folder, with what they include and call; return it."""
    for file in SHARED:
        write_text(folder / file.name, file.read_text(encoding="utf-8"))
    for name, config in configs.items():
        write_text(folder / f"{name}.yaml", yaml.safe_dump(config, sort_keys=False))
    return folder


def generation_arguments(step: Context) -> list[str]:
    """Arguments of `lm_eval` for generation tasks: chat template, greedy unless a task samples."""
    prompts, most = step.config["prompts"], step.config["evaluation"]["max_gen_toks"]
    # Said outright: the hf backend would take the repetition penalty that the model ships.
    generation = {"max_gen_toks": most, "repetition_penalty": 1.0}
    known = {"benchmarks": step.how["benchmarks"], "template": prompts["template"], "max_gen_toks": most}
    system = ["--system_instruction", prompts["system"]] if prompts["system"] else []
    words = ["--gen_kwargs", json.dumps(generation), "--metadata", json.dumps(known)]
    return [*words, "--apply_chat_template", *system]


def render(
    step: Context, spec: Evaluation, folder: Path, tasks: Iterable[str], output: str, **vllm: Any
) -> list[str]:
    """Arguments that every use of lm_eval shares; JSON so that a path may hold commas.

    A model is split over the step's GPUs: by `parallelize`, or vLLM's tensor parallelism. vLLM would take
    sampling values that the model ships, and gets no max_model_len: the model's own holds every prompt that
    the preflight lets through, and lm-eval cuts prompts on the left to fit a smaller one. `vllm`: more of its
    engine arguments.
    """
    model, gpus = step.inputs["model"], step.gpus
    given: dict[str, Any] = {"pretrained": model.ref, "dtype": spec.dtype, "trust_remote_code": False}
    given |= {"revision": model.revision} if model.revision else {}
    if spec.backend == "vllm":
        engine = ["--model", "vllm", "--batch_size", "auto"]
        given |= {
            "tensor_parallel_size": step.how.get("tensor_parallel", max(1, gpus)), "seed": spec.seed,
            "generation_config": "vllm", "gpu_memory_utilization": spec.gpu_memory_utilization, **vllm,
        }  # fmt: skip
    else:
        device = "cuda" if gpus else "cpu"
        engine = ["--model", "hf", "--device", device, "--batch_size", str(spec.batch_size)]
        given |= {"parallelize": True} if gpus > 1 else {}  # models/huggingface.py
    limit = ["--limit", str(spec.limit)] if spec.limit else []
    return [
        "run", *engine, "--model_args", json.dumps(given), "--include_path", str(folder),
        "--output_path", output, "--log_samples", "--seed", str(spec.seed), *limit,
        "--tasks", ",".join(tasks),
    ]  # fmt: skip


def ask(step: Context, spec: Evaluation, tasks: Mapping[str, TaskConfig], *more: str, **vllm: Any) -> None:
    """Run lm_eval on tasks; samples of an interrupted run go first, so that old and new ones never mix."""
    output, folder = step.directory / "lm_eval", write_tasks(step.directory / "tasks", tasks)
    shutil.rmtree(output, ignore_errors=True)
    arguments = render(step, spec, folder, tasks, str(output), **vllm)
    step.engine([*engine_argv(step.how["engine"]), *arguments, *more])


def check(step: Context) -> None:
    """Raise UserError for a model of whose responses no tokens could be counted in the end."""
    load_chat(step.inputs["model"])


def run(step: Context) -> Results:
    """Let lm-eval ask the model without grading, then grade its samples."""
    tasks, given = step.config["tasks"], {key: step.how[key] for key in ("include_path", "benchmarks")}
    spec = step.section(Evaluation, tasks=dict.fromkeys(tasks, ""), **given)
    ask(step, spec, chosen_tasks(spec), *generation_arguments(step), "--predict_only")
    write_numerics(step, spec)
    try:
        return finish(step.directory, tasks, step.inputs["model"], spec.max_gen_toks)
    except UserError as error:  # hours after the start: what lm-eval left must not be taken for bad input
        raise StepFailed(f"lm_eval's samples cannot be graded: {error}") from error


def finish(directory: Path, tasks: list[str], model: ModelRef, max_gen_toks: int) -> Results:
    """Grade lm-eval's samples; write what the module's docstring names, and return the scores.

    Raises UserError for samples without a text or an answer (the document's, else the task's target).
    """
    asked: list[tuple[str, Row, list[Question], bool]] = []
    for task in tasks:
        found = asked_rows(newest_samples(directory / "lm_eval", task), Columns(samples=True))
        asked += sorted(((task, *one) for one in found), key=lambda one: int(one[1]["doc_id"]))
    measured = measured_rows([one[2] for one in asked], load_chat(model).counts, max_gen_toks)
    samples, problems = list[Row](), list[Row]()
    for (task, sample, questions, several), numbers in zip(asked, measured, strict=True):
        known = {"task": task, "id": sample["doc"].get("id", str(sample["doc_id"]))}
        texts, first = [question.response for question in questions], questions[0]
        graded = {"target": first.answer, "legacy_rule": first.legacy_rule}
        samples.append({**known, **graded, "response": texts if several else texts[0]})
        problems.append({**known, **numbers})
    write_jsonl(directory / "samples.jsonl", samples)
    write_jsonl(directory / "problems.jsonl", problems)
    scores = {task: task_scores([row for row in problems if row["task"] == task]) for task in tasks}
    write_json(directory / "scores.json", scores)
    return scores


def newest_samples(output: Path, task: str) -> Path:
    """The newest samples that lm-eval wrote for a task.

    lm-eval only warns, with exit code 0, if it cannot save them: their absence is a StepFailed.
    """
    # With the date: the name of one task may begin with that of another.
    files = sorted(output.glob(f"*/samples_{task}_[0-9][0-9][0-9][0-9]-[0-9][0-9]-*.jsonl"))
    if not (files and files[-1].stat().st_size):
        raise StepFailed(f"lm_eval left no samples of {task} in {output} (of a group, name the tasks)")
    return files[-1]


def lm_eval_samples(output: Path, task: str) -> list[Row]:
    """The newest samples that lm-eval wrote for a task, in the order of the problems."""
    return sorted(read_jsonl(newest_samples(output, task)), key=lambda row: int(row["doc_id"]))


def task_scores(rows: list[Row]) -> dict[str, Any]:
    """Of one task: n problems; sums of verdicts and truncated (fractions where a task samples); means."""
    sums = {name: sum(row[name] for row in rows) for name in METRICS}
    means = {f"mean_{name}": sums[name] / len(rows) for name in ("response_tokens", "reflections")}
    return {"n": len(rows), **{name: sums[name] for name in (*VERDICTS, "truncated")}, **means}


def write_numerics(step: Context, spec: Evaluation) -> None:
    """Write `numerics.json`: engine, dtype, parallelism, versions, GPU, and vLLM's attention kernels.

    Versions are those of lm-eval's own environment, from its results and vLLM's log; null if not said.
    """
    found = sorted(step.directory.glob("lm_eval/*/results_*.json"))
    results = read_json(found[-1]) if found else {}
    machine, log = results.get("pretty_env_info", ""), step.directory / LOG

    def said(pattern: str, text: str) -> str | None:
        return next(iter(re.findall(pattern, text)), None)

    numerics = {
        "backend": spec.backend, "dtype": spec.dtype, "gpus": step.gpus,
        "gpu": said(r"GPU 0: (.+)", machine) if step.gpus else None,
        "torch": said(r"\btorch==(\S+)", machine), "transformers": results.get("transformers_version"),
    }  # fmt: skip
    if spec.backend == "vllm":
        version = said(r"LLM engine \(v([\w.+]+)\)", log.read_text(errors="replace"))
        numerics |= {"vllm": version, **vllm_numerics(log)}
    else:
        numerics["batch_size"] = spec.batch_size
    write_json(step.directory / "numerics.json", numerics)


def progress(directory: Path) -> str:
    """How far lm-eval's own progress bar in the log is, as `200/400 requests`."""
    bars = re.findall(r"Running \w+ requests:.*?(\d+/\d+) \[", log_tail(directory / LOG, 3))
    return f"{bars[-1]} requests" if bars else ""


STAGE = Stage(run, check, progress, hub=True)  # a task's data set
