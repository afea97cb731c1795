"""Responses of one model to a file of problems, appended as they finish and resumed by id.

In: a model, a prompt set, how to sample. Out: `OUT.jsonl`, one row a problem:

    {"id", "prompt", "response", "finish_reason", "prompt_tokens", "response_tokens",
     "status", "error", "answer"}

with status `ok` or `error`, and `OUT.meta.json` with what was asked. A killed run is continued by running
it again: finished rows are kept, a torn last line is dropped, failed rows are tried once more.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from .backends import Request, open_backend
from .errors import StepFailed, UserError
from .files import Row, digest, read_json, read_jsonl, write_json, write_jsonl
from .prompts import chat, load_problems, user_text
from .recipe import Generation, Prompts

REPORT_SECONDS = 5.0


def generate(
    model: str, prompts: Prompts, output: str | Path, sampling: Generation, revision: str | None = None
) -> dict[str, Any]:
    """Write one row a problem to `output` and return the counts and token statistics.

    Raises UserError if `output` holds responses to another question, StepFailed if rows failed.
    """
    problems, output = load_problems(prompts), Path(output)
    asked = {
        **asdict(sampling), **asdict(prompts), "model": model, "model_revision": revision,
        "prompts": len(problems), "problems": digest(problems),
    }  # fmt: skip
    for how in ("batch_size", "path"):
        del asked[how]
    done = _finished_rows(output, asked)
    todo = [row for row in problems if row["id"] not in done]
    by_id = {row["id"]: row for row in problems}
    requests = [Request(row["id"], chat(row["problem"], prompts)) for row in todo]
    if requests:
        _say(f"{len(done)} of {len(problems)} responses are there; {len(requests)} to generate")
        with ExitStack() as stack:
            backend = stack.enter_context(open_backend(model, sampling, revision))
            started = last = time.monotonic()
            for n, completion in enumerate(backend.complete(requests), start=1):
                if n == 1:  # not before: a model or limit that is refused leaves no file behind
                    handle = stack.enter_context(_appendable(output, asked, done))
                problem = by_id[completion.id]
                row: Row = {
                    "id": completion.id, "prompt": user_text(problem["problem"], prompts.template),
                    "response": completion.text, "finish_reason": completion.finish_reason,
                    "prompt_tokens": completion.prompt_tokens, "response_tokens": completion.response_tokens,
                    "status": "error" if completion.error else "ok", "error": completion.error,
                    "answer": problem["answer"],
                }  # fmt: skip
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
                handle.flush()
                if time.monotonic() - last > REPORT_SECONDS:
                    last = time.monotonic()
                    left = (last - started) / n * (len(requests) - n)
                    _say(f"{len(done) + n}/{len(problems)} responses, about {left:.0f} s left")
    return response_summary(output)


def response_summary(output: str | Path) -> dict[str, Any]:
    """Counts, mean tokens and the share that hit the limit. Raises StepFailed if rows failed."""
    rows = read_jsonl(output)
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        raise StepFailed(
            f"{len(failed)} of {len(rows)} responses in {output} failed, the first ({failed[0]['id']}) with: "
            f"{failed[0]['error']}. Run the same command again: it retries only those."
        )
    lengths = [row["response_tokens"] for row in rows]
    return {
        "responses": len(rows),
        "mean_response_tokens": sum(lengths) / len(lengths),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
    }


def generation_progress(directory: Path) -> str:
    """`128/500 responses` from a step's directory, or an empty string before the first."""
    try:
        total = json.loads((directory / "responses.meta.json").read_text())["prompts"]
        with (directory / "responses.jsonl").open("rb") as handle:
            return f"{sum(1 for _ in handle)}/{total} responses"
    except (OSError, ValueError, KeyError):
        return ""


def _finished_rows(output: Path, asked: dict[str, Any]) -> dict[str, Row]:
    """Rows by id that need no second answer. Raises UserError if they answer another request."""
    if not output.exists() or not output.stat().st_size:
        return {}
    meta = output.with_suffix(".meta.json")
    if not meta.is_file():
        raise UserError(f"{output}: exists without {meta.name}, which says what was asked; choose another -o")
    before = read_json(meta)
    changed = [key for key in asked if before.get(key) != asked[key]]
    if changed:
        key = changed[0]
        raise UserError(
            f"{output}: holds responses to another request: {', '.join(changed)} differ "
            f"({key}: {before.get(key)!r} then, {asked[key]!r} now); choose another -o or remove it"
        )
    return {row["id"]: row for row in read_jsonl(output, repair=True) if row["status"] == "ok"}


def _appendable(output: Path, asked: dict[str, Any], finished: dict[str, Row]) -> IO[str]:
    """The output opened for more rows, holding exactly the finished ones, with its meta file beside it."""
    write_json(output.with_suffix(".meta.json"), asked)
    write_jsonl(output, finished.values())
    return output.open("a", encoding="utf-8")


def _say(text: str) -> None:
    print(f"generate: {text}", file=sys.stderr, flush=True)
