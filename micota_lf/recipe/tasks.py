"""The lm-eval tasks that an evaluation may name, as their configs, and the benchmarks that they read.

    chosen_tasks(Evaluation(tasks={"micota_tiny": "Tiny"}))       -> {"micota_tiny_two": {...}, ...}
    evaluated_benchmarks(Evaluation(tasks={"micota_gsm8k": ""}))  -> {"gsm8k": Benchmark("openai/gsm8k", ...)}
    benchmark_named("gsm8k", None, "/data")      -> that with /data/gsm8k/test.jsonl in place of its hub id

One entry `evaluation.benchmarks.NAME`, of a recipe or of the package's data_info, makes the task
`micota_NAME` (without the hyphens of NAME) and `micota_NAME_avg`, which samples. A file of data_info with
`evaluation.tasks` makes a group of these: `micota` of benchmarks.yaml, `micota_tiny` of tiny.yaml. Task files
of the user's own stand beside them, or in their place.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import UserError, must_know
from ..inputs.problems import Benchmark
from ..system.files import directory_digest
from .sections import Evaluation

DATA_INFO = Path(__file__).parent.parent / "data_info"
BENCHMARK = TypeAdapter(Benchmark)
TaskConfig = dict[str, Any]
"""A task's or a group's YAML, in lm-eval's key names; what it shares with others it includes."""


class _TaskYaml(yaml.SafeLoader):
    """YAML of lm-eval tasks, whose `!function` tags are left unread."""


_TaskYaml.add_multi_constructor("!", lambda loader, suffix, node: None)


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
    must_know(name, specs, "benchmarks")
    try:
        spec = BENCHMARK.validate_python(specs[name])
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise UserError(f"benchmark {name!r}: {'; '.join(problems)}") from error
    path = spec.source.local
    if path is None and data_dir:
        path = Path(data_dir).expanduser().absolute() / name / "test.jsonl"
    if path and not path.exists():
        raise UserError(f"benchmark {name!r}: no such file: {path}")
    return replace(spec, path=str(path)) if path and not spec.path.startswith("tiny:") else spec


def known_tasks(spec: Evaluation) -> dict[str, TaskConfig]:
    """All tasks and groups by name; an own file replaces ours. Raises UserError for a bad name or file."""
    found: dict[str, TaskConfig] = {}
    for stem, evaluation in package_evaluations().items():
        if tasks := evaluation.get("tasks"):
            name = "micota" if stem == "benchmarks" else f"micota_{stem}"
            found[name] = {"group": name, "include": "_group.yaml", "task": list(tasks)}
    for suffix, settings in (("_avg", sampling(spec)), ("", {})):
        for name in {**package_benchmarks(), **spec.benchmarks}:
            task, metadata = f"micota_{name.replace('-', '')}{suffix}", {"benchmark": name, "version": 1.0}
            found[task] = {"task": task, "include": "_math.yaml", "metadata": metadata, **settings}
    return found | _own_tasks(spec)


def sampling(spec: Evaluation) -> TaskConfig:
    """What a task that samples says beyond _math.yaml; `take_first_k` hands all to process_results."""
    kept = {"name": f"avg{spec.samples}", "filter": [{"function": "take_first_k", "k": spec.samples}]}
    generation = {"until": [], "do_sample": True, "temperature": spec.temperature, "top_p": 0.95}
    generation["max_gen_toks"] = spec.max_gen_toks
    return {"repeats": spec.samples, "generation_kwargs": generation, "filter_list": [kept]}


def own_contents(tasks: Mapping[str, TaskConfig]) -> list[str]:
    """What the user's own of these tasks are known by: digests of the directories that hold their files."""
    files = (Path(config["include"]) for config in tasks.values())
    return [directory_digest(folder) for folder in sorted({f.parent for f in files if f.is_absolute()})]


def chosen_tasks(spec: Evaluation) -> dict[str, TaskConfig]:
    """The evaluation's tasks, each group replaced by its members. Raises UserError for an unknown one."""
    known = known_tasks(spec)

    def expanded(names: Iterable[Any]) -> Iterator[tuple[str, TaskConfig]]:
        for named in names:
            name: Any = named.get("task") if isinstance(named, dict) else named
            must_know(name, known, "tasks")  # lm-eval's own have no gold answer that could be graded
            config = known[name]
            yield from expanded(config.get("task") or []) if "group" in config else [(name, config)]

    return dict(expanded(spec.tasks))


def evaluated_benchmarks(spec: Evaluation) -> dict[str, Benchmark]:
    """The benchmarks that the tasks read, by name, where they are.

    Raises UserError for an unknown task or benchmark.
    """
    metadata = (config.get("metadata") for config in chosen_tasks(spec).values())
    names = dict.fromkeys(known["benchmark"] for known in metadata if known and "benchmark" in known)
    return {name: benchmark_named(name, spec.benchmarks, spec.data_dir) for name in names}


def _own_tasks(spec: Evaluation) -> dict[str, TaskConfig]:
    """The user's own tasks and groups, included from where they are: the functions beside them are found."""
    found: dict[str, TaskConfig] = {}
    folder = Path(spec.include_path).expanduser().absolute() if spec.include_path else None
    if folder and not folder.is_dir():
        raise UserError(f"include_path: no such directory: {spec.include_path}")
    for file in sorted(folder.rglob("*.yaml")) if folder else ():
        try:
            raw = yaml.load(file.read_text(encoding="utf-8"), _TaskYaml)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
        if isinstance(raw, dict) and isinstance(name := raw.get("group") or raw.get("task"), str):
            if isinstance(base := raw.get("include"), str) and not (file.parent / base).is_file():
                ours = "(`micota tasks` says where ours are)"
                raise UserError(f"include_path: {file}: include: no such file beside it: {base} {ours}")
            kept = {key: raw[key] for key in ("group", "task", "metadata") if key in raw}
            found[name] = {**kept, "include": str(file)}
    return found
