"""Benchmarks: where their problems are, and how their answers are read.

In: a `Benchmark` of a recipe or of `data_info/*.yaml`. Out, as of any problems: rows `{id, problem, answer}`.

    load_problems(package_benchmarks()["gsm8k"])
    load_problems(benchmark_named("gsm8k", None, "/data"))    # /data/gsm8k/test.jsonl instead of the hub
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from ..system.fields import Apart, Count, identity
from .problems import Problems

DATA_INFO = Path(__file__).parent.parent / "data_info"


class Benchmark(Problems):
    """Test problems of one benchmark, and how its answer column is read.

    `answer_format`: `plain` text or number, `gsm8k` (what follows `####`), `list` (several answers).
    `legacy_rule`: string match of the paper's lineage: `hendrycks`; `number`, which first drops leading zeros
    and a trailing `.0`; or `last_number`, which looks at no box (GSM8K). `problems` is how many there should
    be: another number is warned of. A local file has no subset, split or revision.
    """

    split: str = "test"
    answer_format: Literal["plain", "gsm8k", "list"] = "plain"
    legacy_rule: Literal["hendrycks", "number", "last_number"] = "hendrycks"
    licence: Apart[str] = ""
    problems: Apart[Count | None] = None

    def answer_text(self, value: Any) -> str:
        """The gold answer as text, from the answer column's value. Raises ValueError saying what is wrong.

        `plain`: text or a number, where a float without a fraction is an integer (AMC's 27.0 is 27).
        `gsm8k`: what follows the last `####`, without thousands separators, as GSM8K's evaluation reads it.
        `list`: several answers joined by commas; one is kept as it stands.
        """
        if self.answer_format == "list" and isinstance(value, list) and value:
            return ", ".join(map(replace(self, answer_format="plain").answer_text, value))
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise ValueError(f"holds no answer: {value!r}")
        if self.answer_format != "gsm8k":
            return str(value).strip()
        _, mark, final = str(value).rpartition("####")
        if not mark or not final.strip():
            raise ValueError("has no answer after '####'")
        return final.strip().replace(",", "")


@cache
def package_evaluations() -> dict[str, dict[str, Any]]:
    """What `evaluation` holds in each of this package's `data_info/*.yaml`, by the file's name."""
    files = sorted(DATA_INFO.glob("*.yaml"))
    return {f.stem: yaml.safe_load(f.read_text(encoding="utf-8")).get("evaluation", {}) for f in files}


@cache
def package_benchmarks() -> dict[str, Benchmark]:
    """The benchmarks that this package's `data_info/*.yaml` describe, by name."""
    described = [found.get("benchmarks", {}) for found in package_evaluations().values()]
    return {name: Benchmark(**spec) for specs in described for name, spec in specs.items()}


def benchmark_named(name: str, given: Mapping[str, Any] | None, data_dir: str | None) -> Benchmark:
    """A benchmark by name, with its local path made absolute: of those given, else the package's.

    Given ones may be plain mappings. With `data_dir`, `data_dir/NAME/test.jsonl` replaces a hub id.
    Raises UserError for a name or a key that is unknown, and for a local file that is not there.
    """
    specs = {**package_benchmarks(), **(given or {})}
    if name not in specs:
        raise UserError(f"benchmark {name!r} is unknown; known: {', '.join(specs)}")
    try:
        spec = TypeAdapter(Benchmark).validate_python(specs[name])
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise UserError(f"benchmark {name!r}: {'; '.join(problems)}") from error
    path = spec.source.local
    if path is None and data_dir:
        path = Path(data_dir).expanduser().absolute() / name / "test.jsonl"
    if path and not path.is_file():
        raise UserError(f"benchmark {name!r}: no such file: {path}")
    return replace(spec, path=str(path)) if path and not spec.path.startswith("tiny:") else spec


def benchmark_identity(spec: Benchmark) -> dict[str, Any]:
    """What decides a benchmark's problems and verdicts, for a step's hash: content, never a path."""
    place = ("subset", "split") if spec.source.local else ()
    return {key: value for key, value in identity(spec).items() if key not in place} | spec.source.identity()
