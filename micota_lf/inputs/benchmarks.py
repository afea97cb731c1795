"""Benchmarks: where their problems are, how their answers are read, and which tasks use them.

In: a `Benchmark` of a recipe or of `data_info/*.yaml`. Out: rows `{id, problem, answer}`.

    spec = package_benchmarks()["gsm8k"]
    load_benchmark(located(spec, "gsm8k", "/data"))   # from /data/gsm8k/test.jsonl instead of the hub
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..recipe.sections import Benchmark
from ..system.files import Row
from .problems import load_problems
from .references import identity, local_path

DATA_INFO = Path(__file__).parent.parent / "data_info"
# Which rows of the hub's data set: without meaning for a local file.
HUB_FIELDS = ("subset", "split", "revision")


@cache
def package_benchmarks() -> dict[str, Benchmark]:
    """The benchmarks that this package's `data_info/*.yaml` describe, by name."""
    found: dict[str, Benchmark] = {}
    for file in sorted(DATA_INFO.glob("*.yaml")):
        section = yaml.safe_load(file.read_text(encoding="utf-8")).get("evaluation") or {}
        found |= {name: Benchmark(**spec) for name, spec in (section.get("benchmarks") or {}).items()}
    return found


def benchmark_named(name: str, given: Mapping[str, Any] | None, data_dir: str | None) -> Benchmark:
    """A benchmark by name: of those given (plain mappings), else the package's; read from `data_dir`."""
    specs: dict[str, Any] = {**package_benchmarks(), **(given or {})}
    if name not in specs:
        raise UserError(f"benchmark {name!r} is unknown; known: {', '.join(specs)}")
    spec = specs[name]
    if not isinstance(spec, Benchmark):
        unknown = set(spec) - {field.name for field in fields(Benchmark)}
        if unknown or "path" not in spec:
            what = f"unknown keys {sorted(unknown)}" if unknown else "no path"
            raise UserError(f"benchmark {name!r}: {what}")
        spec = Benchmark(**spec)
    return located(spec, name, data_dir)


def located(spec: Benchmark, name: str, data_dir: str | None) -> Benchmark:
    """The benchmark with its local file made absolute; `data_dir/NAME/test.jsonl` replaces a hub id.

    Raises UserError if a local file is not there.
    """
    path = local_path(spec.path, "data")
    if path is None and data_dir:
        path = Path(data_dir).expanduser().absolute() / name / "test.jsonl"
    if path is None:
        return spec
    if not path.is_file():
        raise UserError(f"benchmark {name!r}: no such file: {path}")
    return spec if spec.path.startswith("tiny:") else replace(spec, path=str(path))


def load_benchmark(spec: Benchmark) -> list[Row]:
    """Rows `{id, problem, answer}`. Raises UserError naming the source, the row and the column."""
    return load_problems(spec, lambda value: read_answer(value, spec.answer_format))


def read_answer(value: Any, answer_format: str) -> str:
    """The gold answer as text, from the answer column's value. Raises ValueError saying what is wrong.

    `plain`: text or a number, where a float without a fraction is an integer (AMC's 27.0 is 27).
    `gsm8k`: what follows the last `####`, without thousands separators, as GSM8K's own evaluation reads it.
    `list`: several answers joined by commas; one is kept as it stands.
    """
    if answer_format == "list" and isinstance(value, list) and value:
        return ", ".join(read_answer(item, "plain") for item in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"holds no answer: {value!r}")
    text = str(value).strip()
    if answer_format != "gsm8k":
        return text
    _, mark, final = text.rpartition("####")
    if not mark or not final.strip():
        raise ValueError("has no answer after '####'")
    return final.strip().replace(",", "")


def benchmark_identity(spec: Benchmark) -> dict[str, Any]:
    """What decides a benchmark's problems and verdicts, for a step's hash: content, never a path."""
    known = {key: value for key, value in asdict(spec).items() if key not in ("path", "revision", "licence")}
    if local_path(spec.path, "data"):
        known = {key: value for key, value in known.items() if key not in HUB_FIELDS}
    return known | identity(spec.path, spec.revision, "data")


class _TaskYaml(yaml.SafeLoader):
    """YAML of lm-eval tasks, whose `!function` tags are left unread."""


_TaskYaml.add_multi_constructor("!", lambda loader, suffix, node: None)


def task_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The task and group files of a folder, by name, each as it stands (without what it includes)."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        try:
            raw = yaml.load(path.read_text(encoding="utf-8"), _TaskYaml)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        name = (raw.get("group") or raw.get("task")) if isinstance(raw, dict) else None
        if isinstance(name, str):
            found[name] = raw
    return found


def expand_groups(tasks: Iterable[str], configs: Mapping[str, dict[str, Any]]) -> list[str]:
    """The tasks with each group replaced by its members."""
    out: list[str] = []
    for name in tasks:
        raw = configs.get(name, {})
        if "group" not in raw:
            out.append(name)
            continue
        members = [item.get("task") if isinstance(item, dict) else item for item in raw.get("task") or []]
        out += expand_groups((member for member in members if isinstance(member, str)), configs)
    return list(dict.fromkeys(out))


def task_benchmarks(tasks: Iterable[str], configs: Mapping[str, dict[str, Any]]) -> list[str]:
    """Names of the benchmarks that the tasks' own metadata names."""
    metadata = [configs.get(name, {}).get("metadata") or {} for name in tasks]
    return list(dict.fromkeys(raw["benchmark"] for raw in metadata if "benchmark" in raw))
