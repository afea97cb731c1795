"""Benchmarks through lm-evaluation-harness, with tasks that are rendered from the benchmarks' entries.

In: a model, task names. Out: lm-eval's own results under `lm_eval/`, its tasks under `tasks/`, and from its
samples, graded on all cores once it has ended: `samples.jsonl` (`task`, `id`, `problem`, `target`,
`legacy_rule`, `response`, a row a problem), `problems.jsonl` (the same problems in the same order: `task`,
`id` and the numbers of grading/measures.py; of a task that samples also how many `responses`, and its
`majority`), `scores.json` (per task: n, correct by each grader, truncated, loops, mean response tokens and
reflection words; of a task that samples pass@k by each grader and maj@k) and `numerics.json` (what last
digits, and so greedy responses, depend on).

With `evaluation.backend: vllm` lm-eval asks a vLLM server of our own, whose words go to `server.log`. Answers
are kept one by one in lm-eval's cache until the step is done: a killed one goes on where it was.

    evaluate_command(recipe, "/abs/model", "/abs/out")   -> ["lm_eval", "run", "--model", "hf", ...]
    tasks_folder()                                       -> a folder of all tasks, for --include_path
"""

import json
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..backends import Launch, endpoint, vllm
from ..errors import StepFailed, UserError
from ..grading.intervals import sampled
from ..grading.measures import METRICS, VERDICTS, Columns, asked_rows, majority, measured_rows
from ..grading.own import OwnVerdict
from ..grading.workers import Question
from ..inputs.chat import load_chat
from ..inputs.problems import Benchmark, Prompts, benchmark_identity, chat, load_problems
from ..inputs.references import ModelRef
from ..recipe.sections import OWN, Evaluation, Generation, Recipe
from ..recipe.tasks import TaskConfig, chosen_tasks, evaluated_benchmarks, known_tasks, own_contents
from ..system.fields import joined
from ..system.files import Row, digest, read_json, read_jsonl, write_json, write_jsonl, write_text, write_yaml
from ..system.processes import engine_argv, log_tail
from . import LOG, Context, Results, Settings, Stage

OURS = "_math.yaml"
SHARED = sorted((Path(__file__).parent / "tasks").glob("*.*"))  # what rendered tasks include and call


def evaluate_command(recipe: Recipe, model_path: str, output_dir: str) -> list[str]:
    """The lm_eval command line that evaluates a model on the recipe's benchmarks, and grades.

    It needs no server of ours: lm_eval runs the model, over at most `hardware.inference_gpus`.

    >>> from micota_lf import evaluate_command, load_recipe
    >>> evaluate_command(load_recipe("recipes/tiny.yaml"), "tiny:gap/student-s", "scores")[:4]
    ['lm_eval', 'run', '--model', 'hf']
    """
    hardware, spec = recipe.hardware, recipe.evaluation
    (config, how, _), gpus = settings(recipe), min(hardware.gpus, hardware.inference_gpus or 1)
    step = Context(Path(output_dir), config, {"model": ModelRef(model_path)}, how, gpus)
    arguments = render(step, spec, tasks_folder(spec), config["tasks"], output_dir)
    return [*shlex.split(recipe.engines.lm_eval), *arguments, *generation_arguments(step)]


def settings(recipe: Recipe) -> Settings:
    """Of an evaluation: benchmarks and own task files enter by their content, not by where they are.

    On how many GPUs, its model says (plan/costs.py). Unless a task samples, it has no seed of its own.
    """
    spec, prompts = recipe.evaluation, recipe.prompts
    tasks, found = chosen_tasks(spec), evaluated_benchmarks(spec)
    if all(config["include"] == OURS and "repeats" not in config for config in tasks.values()):
        spec = replace(spec, **{key: getattr(Evaluation, key) for key in ("seed", "samples", "temperature")})
    apart = {
        "prompts": {"template": prompts.template, "system": prompts.system},
        "tasks": list(tasks),
        "benchmarks": {name: benchmark_identity(one) for name, one in found.items()},
        "own_tasks": own_contents(tasks),
    }
    server = {"server": recipe.engines.vllm} if spec.backend == "vllm" else {}
    return Settings.of(
        spec, gpus=min(1, recipe.hardware.gpus), apart=apart, engine=recipe.engines.lm_eval, **server,
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
        write_yaml(folder / f"{name}.yaml", config)
    return folder


def generation_arguments(step: Context) -> list[str]:
    """Arguments of `lm_eval` for generation tasks: chat template, greedy unless a task samples."""
    prompts, most = step.config["prompts"], step.config["evaluation"]["max_gen_toks"]
    # Said outright: the hf backend would take the repetition penalty that the model ships.
    generation = {"max_gen_toks": most, "repetition_penalty": 1.0}
    if step.config["evaluation"]["backend"] == "vllm":
        # As lm-eval has them for vLLM itself; and one seed would make all that a server samples the same.
        generation |= {"skip_special_tokens": False, "spaces_between_special_tokens": False, "seed": None}
    known = {"benchmarks": step.how["benchmarks"], "template": prompts["template"], "max_gen_toks": most}
    system = ["--system_instruction", prompts["system"]] if prompts["system"] else []
    words = ["--gen_kwargs", json.dumps(generation), "--metadata", json.dumps(known)]
    return [*words, "--apply_chat_template", *system]


def render(
    step: Context, spec: Evaluation, folder: Path, tasks: Iterable[str], output: str, **more: Any
) -> list[str]:
    """Arguments that every use of lm_eval shares; JSON so that a path may hold commas.

    A model is split over the step's GPUs: by `parallelize`, or vLLM's tensor parallelism. vLLM would take
    sampling values that the model ships, and gets no max_model_len: the model's own holds every prompt that
    the preflight lets through, and lm-eval cuts prompts on the left to fit a smaller one. `more`: engine
    arguments of vLLM in lm-eval's process, or with a `base_url` of lm-eval's client.
    """
    model, gpus = step.inputs["model"], step.gpus
    given: dict[str, Any] = {"pretrained": model.ref, "dtype": spec.dtype, "trust_remote_code": False}
    given |= {"revision": model.revision} if model.revision else {}
    if "base_url" in more:
        engine, given = ["--model", "local-chat-completions"], given | more
    elif spec.backend == "vllm":
        engine = ["--model", "vllm", "--batch_size", "auto"]
        given |= {
            "tensor_parallel_size": max(1, gpus), "seed": spec.seed,
            "generation_config": "vllm", "gpu_memory_utilization": spec.gpu_memory_utilization, **more,
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


def ask(step: Context, spec: Evaluation, tasks: Mapping[str, TaskConfig], *words: str, **more: Any) -> None:
    """Run lm_eval on tasks; samples of an interrupted run go first, so that old and new ones never mix."""
    output, folder = step.directory / "lm_eval", write_tasks(step.directory / "tasks", tasks)
    shutil.rmtree(output, ignore_errors=True)
    arguments = render(step, spec, folder, tasks, str(output), **more)
    step.engine([*engine_argv(step.how["engine"]), *arguments, *words])


def ask_server(step: Context, spec: Evaluation, tasks: Mapping[str, TaskConfig], *words: str) -> Results:
    """Let lm_eval ask a vLLM server of our own; return what its numerics depend on.

    A server that dies fails every request, and lm_eval with them within seconds: its words are raised then.
    """
    launch = joined(Launch, step.how, {"engine": step.how["server"], "log": step.directory / "server.log"})
    sampling = joined(Generation, vars(spec), {"max_tokens": spec.max_gen_toks})
    with closing(vllm.Backend(step.inputs["model"], sampling, launch)) as backend:
        asked = backend.start(prompt_tokens(step, tasks), "evaluation.max_gen_toks")
        client = {"num_concurrent": asked.servers[0].room, "timeout": endpoint.REQUEST_SECONDS}
        try:
            ask(step, spec, tasks, *words, base_url=f"{asked.servers[0].url}/v1/chat/completions", **client)
        except StepFailed:
            asked.alive()
            raise
        return backend.numerics()


def prompt_tokens(step: Context, tasks: Mapping[str, TaskConfig]) -> list[int]:
    """Of each prompt of the tasks; none with tasks of the user's own, whose prompts lm-eval alone knows."""
    read, prompts = load_chat(step.inputs["model"]), Prompts("", **step.config["prompts"])
    if any(Path(config["include"]).is_absolute() for config in tasks.values()):
        return []
    benchmarks = [Benchmark(**one) for one in step.how["benchmarks"].values()]
    asked = (chat(row["problem"], prompts) for one in benchmarks for row in load_problems(one))
    return read.counts(map(read.prompt, asked))


def kept_answers(directory: Path) -> list[str]:
    """lm_eval's argument that keeps each answer in a file below `directory`.

    One that cannot be read goes first: it is written without waiting for the disk (sqlitedict), so that a
    machine that goes down, though no killed process, may tear it.
    """
    try:  # the name is from evaluator.py of lm_eval
        with closing(sqlite3.connect(directory / "answers_rank0.db")) as cache:
            cache.execute("SELECT max(value) FROM unnamed").fetchone()
    except sqlite3.DatabaseError:  # or there is none yet
        shutil.rmtree(directory, ignore_errors=True)
    return ["--use_cache", str(directory / "answers")]


def run(step: Context) -> Results:
    """Let lm-eval ask the model without grading, then grade its samples."""
    tasks, cache = step.config["tasks"], step.directory / "cache"
    spec = step.section(Evaluation, tasks=dict.fromkeys(tasks, ""), **step.how)
    prompt_tokens(step, chosen_tasks(spec))  # UserError at once if they or the tokens cannot be had
    words = [*generation_arguments(step), "--predict_only", *kept_answers(cache)]
    asking = ask_server if spec.backend == "vllm" else ask
    write_numerics(step, spec, asking(step, spec, chosen_tasks(spec), *words))
    try:
        scores = finish(step.directory, tasks, step.inputs["model"], spec.max_gen_toks, step.own_verdict)
    except UserError as error:  # hours after the start: what lm-eval left must not be taken for bad input
        raise StepFailed(f"lm_eval's samples cannot be graded: {error}") from error
    shutil.rmtree(cache, ignore_errors=True)
    return scores


def finish(
    directory: Path, tasks: list[str], model: ModelRef, max_gen_toks: int, own: OwnVerdict | None = None
) -> Results:
    """Grade lm-eval's samples; write what the module's docstring names, and return the scores.

    Raises UserError for samples without a text or an answer (the document's, else the task's target).
    """
    asked: list[tuple[str, Row, list[Question], bool]] = []
    for task in tasks:
        found = asked_rows(newest_samples(directory / "lm_eval", task), Columns(samples=True))
        asked += sorted(((task, *one) for one in found), key=lambda one: int(one[1]["doc_id"]))
    measured = measured_rows([one[2] for one in asked], load_chat(model).counts, max_gen_toks)
    samples, problems = list[Row](), list[Row]()
    for (task, sample, questions, several), (numbers, grades) in zip(asked, measured, strict=True):
        known = {"task": task, "id": sample["doc"].get("id", str(sample["doc_id"]))}
        told: Row = {"response": [one.response for one in questions]}
        told |= {part: [vars(one)[part] for one in grades] for part in ("extracted", "reason", "found_by")}
        if own:  # the share that it says True of
            said = [own({**sample["doc"], "response": one.response}) is True for one in questions]
            numbers[OWN] = sum(said) / len(said)
        asked_for = {"problem": sample["doc"].get("problem"), "target": questions[0].answer}
        graded = {**asked_for, "legacy_rule": questions[0].legacy_rule}
        samples.append({**known, **graded, **(told if several else {key: told[key][0] for key in told})})
        together = {"responses": len(grades), "majority": majority(grades)} if several else {}
        problems.append({**known, **numbers, **together})
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
    """Of one task: n problems; sums of verdicts, truncated and loops (fractions where a task samples); means.

    `sampled`, where it does, is by verdict what grading/intervals.py says of its problems.
    """
    sums = {name: sum(row[name] for row in rows) for name in (*METRICS, OWN) if name in rows[0]}
    more: Results = {f"mean_{name}": sums[name] / len(rows) for name in ("response_tokens", "reflections")}
    verdicts = [name for name in (*VERDICTS, OWN) if name in sums]
    if "responses" in rows[0]:
        more["sampled"] = {name: sampled(rows, name) for name in verdicts}
    return {"n": len(rows), **{name: sums[name] for name in (*verdicts, "truncated", "loops")}, **more}


def write_numerics(step: Context, spec: Evaluation, server: Results | None) -> None:
    """Write `numerics.json`: engine, dtype, parallelism, versions, GPU, and vLLM's attention kernels.

    Without a `server`, which knows its own, versions are those of lm-eval's environment, from its results;
    null if not said.
    """
    found = sorted(step.directory.glob("lm_eval/*/results_*.json"))
    results = read_json(found[-1]) if found else {}
    said = dict(re.findall(r"(GPU 0: |\btorch==)(.+)", results.get("pretty_env_info", "")))
    numerics = server or {
        "dtype": spec.dtype, "gpus": step.gpus, "batch_size": spec.batch_size,
        "torch": said.get("torch=="), "transformers": results.get("transformers_version"),
    }  # fmt: skip
    gpu = said.get("GPU 0: ") if step.gpus else None
    write_json(step.directory / "numerics.json", {"backend": spec.backend, "gpu": gpu, **numerics})


def progress(directory: Path) -> str:
    """How far lm-eval's own progress bar in the log is, as `200/400 requests`."""
    bars = re.findall(r"(?:requests|Requesting API):.*?(\d+/\d+) \[", log_tail(directory / LOG, 3))
    return f"{bars[-1]} requests" if bars else ""


STAGE = Stage(run, progress, hub=True, relief=vllm.ADVICE)  # a task's data set
