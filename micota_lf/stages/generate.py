"""Responses of one model to a file of problems, appended as they finish and resumed by id.

In: a model, a prompt set, how to sample. Out: `OUT.jsonl`, one row a problem:

    {"id", "prompt", "response", "finish_reason", "prompt_tokens", "response_tokens",
     "status", "error", "answer"}

with status `ok` or `error`; `OUT.meta.json` with what was asked and, under `numerics`, by which engines.
A killed run is continued by running it again, on other GPUs
or endpoints too: finished rows are kept, a torn last line is dropped, failed rows are tried once more.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..backends import DEFAULT_LAUNCH, Completion, Launch, Request, open_backend
from ..backends.progress import Progress, generation_progress, response_summary, say
from ..errors import UserError
from ..inputs.problems import Prompts, chat, load_problems, user_text
from ..inputs.references import ModelRef
from ..recipe.sections import Generation, Recipe
from ..system.fields import identity, joined
from ..system.files import Row, digest, iter_jsonl, json_line, read_json, write_json, write_jsonl
from . import Context, Results, Settings, Stage

NAMED_IDS = 5  # of problems that differ, in an error


def settings(recipe: Recipe) -> Settings:
    """Of a step that generates; its GPUs are those of one copy of the model, with vLLM of all copies."""
    hardware, backend = recipe.hardware, recipe.generation.backend
    one = min(hardware.inference_gpus, hardware.gpus)
    gpus = one * {"endpoint": 0, "vllm": hardware.gpus // max(1, one)}.get(backend, 1)
    return asking(recipe, recipe.generation, recipe.prompts, gpus)


def asking(recipe: Recipe, sampling: Generation, prompts: Prompts, gpus: int) -> Settings:
    """How a model is asked on so many GPUs: vLLM splits it over some and serves copies of it."""
    launch: dict[str, Any] = {}
    if sampling.backend == "vllm":
        split = max(1, min(recipe.hardware.inference_gpus, gpus))
        copies = max(1, gpus // split)
        launch = {"engine": recipe.engines.vllm, "tensor_parallel": split, "data_parallel": copies}
    return Settings.of(sampling, prompts, gpus=gpus, **launch)


def respond(step: Context, output: Path) -> Results:
    """Generate as a step says, from its inputs `model` and `prompts`."""
    sampling, launch = step.section(Generation), joined(Launch, step.how)
    with step.working():
        return generate(step.inputs["model"], step.prompts, output, sampling, launch)


def generate(
    model: ModelRef,
    prompts: Prompts,
    output: str | Path,
    sampling: Generation,
    launch: Launch = DEFAULT_LAUNCH,
) -> Results:
    """Write one row a problem to `output` and return the counts and token statistics.

    One process at a time: the step's lease sees to that. Raises UserError if `output` holds responses to
    another question, StepFailed if rows failed or the backend's server did.
    """
    if sampling.prompt_format == "raw" and prompts.system:
        raise UserError("prompt_format: raw prompts have no place for prompts.system")
    problems, output = load_problems(prompts), Path(output)
    asked = {
        **identity(sampling), **identity(prompts), "revision": prompts.revision, "model": model.ref,
        "model_revision": model.revision, "problems": {row["id"]: digest(row) for row in problems},
    }  # fmt: skip
    with ExitStack() as stack:
        done = _finished_ids(output, asked)
        by_id = {row["id"]: row for row in problems if row["id"] not in done}
        if by_id:
            say(f"{len(done)}/{len(problems)} responses are there, {len(by_id)} to generate")
            launch = replace(launch, log=output.with_suffix(".server.log"))
            backend = stack.enter_context(open_backend(model, sampling, launch))
            completions = backend.complete([_request(row, prompts, sampling) for row in by_id.values()])
            progress = Progress(len(problems), len(done))  # a server has started: no part of the speed
            for n, completion in enumerate(completions):
                if n == 0:  # not before: a model or limit that is refused leaves no file behind
                    numerics = {"backend": sampling.backend, **backend.numerics()}
                    handle = stack.enter_context(_appendable(output, asked, numerics))
                handle.write(json_line(_row(by_id[completion.id], completion, prompts)))
                handle.flush()
                progress.add(completion)
    return response_summary(output)


def _request(problem: Row, prompts: Prompts, sampling: Generation) -> Request:
    raw = user_text(problem["problem"], prompts.template) if sampling.prompt_format == "raw" else None
    return Request(problem["id"], chat(problem["problem"], prompts), raw)


def _row(problem: Row, completion: Completion, prompts: Prompts) -> Row:
    return {
        "id": completion.id, "prompt": user_text(problem["problem"], prompts.template),
        "response": completion.text, "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens, "response_tokens": completion.response_tokens,
        "status": "error" if completion.error else "ok", "error": completion.error,
        "answer": problem["answer"],
    }  # fmt: skip


def _finished_ids(output: Path, asked: Row) -> set[str]:
    """Ids of the rows that need no second answer. Raises UserError if they answer another request."""
    if not output.exists() or not output.stat().st_size:
        return set()
    before = read_json(output.with_suffix(".meta.json"))
    changed = [
        f"{key}: {before.get(key)!r} then, {value!r} now"
        for key, value in asked.items()
        if key != "problems" and before.get(key) != value
    ]
    then, now = before["problems"], asked["problems"]
    for word, ids in (("added", now.keys() - then), ("removed", then.keys() - now),
                      ("changed", {key for key in now.keys() & then if now[key] != then[key]})):  # fmt: skip
        names = ", ".join([*sorted(ids)[:NAMED_IDS], *(["..."] if len(ids) > NAMED_IDS else [])])
        changed += [f"{len(ids)} {word}: {names}"] if ids else []
    if changed:
        raise UserError(
            f"{output}: holds responses to another request ({'; '.join(changed)}); choose another"
        )
    return {row["id"] for row in iter_jsonl(output, repair=True) if row["status"] == "ok"}


def _appendable(output: Path, asked: Row, numerics: Row) -> IO[str]:
    """The output opened for more rows, holding exactly the finished ones, with what was asked beside it."""
    meta = output.with_suffix(".meta.json")
    resumed = output.is_file() and output.stat().st_size > 0
    known = read_json(meta)["numerics"] if resumed else []
    write_json(meta, {**asked, "numerics": known + [numerics] * (numerics not in known)})
    rows = iter_jsonl(output, repair=True) if resumed else iter(())
    write_jsonl(output, (row for row in rows if row["status"] == "ok"))
    return output.open("a", encoding="utf-8")


def run(step: Context) -> Results:
    """The step: a model's responses to prompts."""
    return respond(step, step.directory / STAGE.output)


STAGE = Stage(run, progress=generation_progress, output="responses.jsonl")
