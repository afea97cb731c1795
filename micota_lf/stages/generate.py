"""Responses of one model to a file of problems, appended as they finish and resumed by id.

In: a model, a prompt set, how to sample. Out: `OUT.jsonl`, one row a problem, or `samples` rows with the ids
`ID#1`, `ID#2`, ...:

    {"id", "prompt", "response", "finish_reason", "prompt_tokens", "response_tokens",
     "status", "error", "answer"}

with status `ok` or `error`; `OUT.meta.json` with what was asked and, under `numerics`, by which engines.
A killed run is continued by running it again, on other GPUs
or endpoints too: finished rows are kept, a torn last line is dropped, failed rows are tried once more.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..backends import DEFAULT_LAUNCH, Completion, Launch, Request, open_backend, say, watched
from ..errors import StepFailed, UserError
from ..grading.measures import loops
from ..inputs.problems import Prompts, chat, load_problems, user_text
from ..inputs.references import ModelRef
from ..recipe.sections import Generation, Recipe
from ..system.fields import identity, joined
from ..system.files import Row, differences, digest, iter_jsonl, json_line, read_json, write_json, write_jsonl
from ..system.processes import log_tail
from . import LOG, Context, Results, Settings, Stage
from .filter import whole_rows

NAMED = 5  # of the values that differ, in an error


def settings(recipe: Recipe, template: str | None = None) -> Settings:
    """Of a step that generates, on GPUs or not; on how many, its model says (plan/costs.py).

    With a template, of one that writes the responses of a corpus anew.

    What is greedy has no seed of its own, so that runs with several seeds share it.
    """
    spec = recipe.generation if recipe.generation.temperature else replace(recipe.generation, seed=0)
    launch: dict[str, Any] = {"engine": recipe.engines.vllm} if spec.backend == "vllm" else {}
    gpus = 0 if spec.backend == "endpoint" else min(1, recipe.hardware.gpus)
    apart = {"rewrite": template} if template else {}
    return Settings.of(spec, recipe.prompts, gpus=gpus, apart=apart, **launch)


def run(step: Context, output: str = "responses.jsonl") -> Results:
    """A model's responses to prompts, in a file of the step's directory."""
    sampling, launch = step.section(Generation), joined(Launch, step.how)
    model, prompts, problems = step.inputs["model"], step.prompts, None
    if corpus := step.inputs.get("corpus"):
        problems = list(rewritings(corpus.resolved, step.config["rewrite"]))
        # What is asked is as long as two responses: the new one gets what room the model has left.
        sampling = replace(sampling, context_len=sampling.context_len or model.positions)
        prompts = replace(prompts, template="{problem}")
    with step.working():
        return generate(model, prompts, step.directory / output, sampling, launch, problems)


def rewritings(corpus: str | Path, template: str) -> Iterator[Row]:
    """What a model is asked to write each row of a corpus anew; under `prompt`, what the row answers."""
    parts = re.split(r"\{(prompt|response)\}", template)  # text, name, text, ...
    for row in whole_rows(corpus):
        shown = "".join(row[part] if n % 2 else part for n, part in enumerate(parts))
        yield {"id": row["id"], "problem": shown, "answer": row.get("answer"), "prompt": row["prompt"]}


def generate(
    model: ModelRef,
    prompts: Prompts,
    output: Path,
    sampling: Generation,
    launch: Launch = DEFAULT_LAUNCH,
    problems: list[Row] | None = None,
) -> Results:
    """Write a row for each response to a problem to `output` and return the counts and token statistics.

    The problems are those of `prompts`, or given.

    If all are made in one go, `generation_seconds` are among them: from the first request to the last answer,
    once the server is up. One process at a time: the step's lease sees to that. Raises UserError if `output`
    holds responses to another question, StepFailed if rows failed or the backend's server did.
    """
    bad: list[str] = []
    problems = problems or load_problems(prompts, bad)
    if bad:
        say(f"{len(bad)} bad rows left out, the first: {bad[0]}")
    asked = {
        **identity(sampling), **identity(prompts), "revision": prompts.revision, "model": model.ref,
        "model_revision": model.revision, "problems": {row["id"]: digest(row) for row in problems},
    }  # fmt: skip
    meta = output.with_suffix(".meta.json")
    before = read_json(meta) if output.is_file() and output.stat().st_size else {}
    if before and (changed := differences({key: before.get(key) for key in asked}, asked)):
        said = "; ".join([*changed[:NAMED], *(["..."] if len(changed) > NAMED else [])])
        raise UserError(f"{output}: holds responses to another request ({said}); choose another")
    done = {row["id"] for row in _finished(output)}
    numbers = [f"#{n + 1}" for n in range(sampling.samples)] if sampling.samples > 1 else [""]
    wanted = {row["id"] + number: row for row in problems for number in numbers}
    missing = {key: row for key, row in wanted.items() if key not in done}
    if not missing:
        return response_summary(output)
    say(f"{len(done)}/{len(wanted)} responses are there, {len(missing)} to generate")
    with open_backend(model, sampling, replace(launch, log=output.with_suffix(".server.log"))) as backend:
        raw = sampling.prompt_format == "raw"
        requests = [Request(key, chat(row["problem"], prompts), raw) for key, row in missing.items()]
        completions = watched(backend.complete(requests), len(wanted), len(done))
        began = time.monotonic()
        first = next(completions)  # a model or limit that is refused leaves no file behind
        numerics, known = {"backend": sampling.backend, **backend.numerics()}, before.get("numerics", [])
        write_json(meta, {**asked, "numerics": known + [numerics] * (numerics not in known)})
        write_jsonl(output, _finished(output))
        with output.open("a", encoding="utf-8") as handle:
            for completion in chain([first], completions):
                handle.write(json_line(_row(missing[completion.id], completion, prompts)))
                handle.flush()
        took = {} if before else {"generation_seconds": round(time.monotonic() - began, 2)}
    return response_summary(output) | took


def _row(problem: Row, completion: Completion, prompts: Prompts) -> Row:
    return {
        "id": completion.id,
        "prompt": problem.get("prompt") or user_text(problem["problem"], prompts.template),
        "response": completion.text, "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens, "response_tokens": completion.response_tokens,
        "status": "error" if completion.error else "ok", "error": completion.error,
        "answer": problem["answer"],
    }  # fmt: skip


def _finished(output: Path) -> Iterator[Row]:
    """The rows that need no second answer."""
    rows = iter_jsonl(output, repair=True) if output.is_file() else iter(())
    return (row for row in rows if row["status"] == "ok")


def response_summary(output: Path) -> dict[str, Any]:
    """Counts, mean tokens, cut ones, `loops` among them; `lengths`: how many have up to 2, 4, 8... tokens.

    Raises StepFailed if rows failed.
    """
    columns = ("id", "status", "error", "finish_reason", "response_tokens")
    rows, repeated = list[Row](), 0
    for row in iter_jsonl(output):
        rows.append({column: row[column] for column in columns})
        repeated += row["finish_reason"] == "length" and loops(row["response"])
    if failed := [row for row in rows if row["status"] != "ok"]:
        first = f"the first ({failed[0]['id']}) with: {failed[0]['error']}"
        again = "Run the same command again: it retries only those."
        raise StepFailed(f"{len(failed)} of {len(rows)} responses in {output} failed, {first}. {again}")
    lengths = Counter(1 << (row["response_tokens"] - 1).bit_length() for row in rows)
    return {
        "responses": len(rows),
        "mean_response_tokens": sum(row["response_tokens"] for row in rows) / len(rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "loops": repeated,
        "lengths": {str(bound): number for bound, number in sorted(lengths.items())},
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary in words: counts, the share cut at the limit, and how long responses are."""
    made = "{responses} responses, mean {mean_response_tokens:.1f} tokens, {truncated}".format(**summary)
    share = summary["truncated"] / summary["responses"]
    words = ", ".join(f"<={bound}: {count}" for bound, count in summary["lengths"].items())
    told = f"{made} ({share:.1%}) cut at the limit, {summary.get('loops', '?')} of them loops"
    return [told, f"response tokens: {words}"]


def progress(directory: Path) -> str:
    """What a step that generates said last, such as `128/500 responses, ...`; empty before the first."""
    said = re.findall(r"generate: (\d+/\d+ responses.*)", log_tail(directory / LOG, 50))
    return str(said[-1]) if said else ""


STAGE = Stage(run, progress=progress, output="responses.jsonl")
