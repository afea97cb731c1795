"""The changes that CONTRIBUTING.md shows: each is applied as it stands there to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
CHANGES = dict(re.findall(r"^## (?:A|An) ([\w ]+).*?\n\n```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
"""Diffs by the words with which their headings begin."""

TRIED = {
    "step kind": """
from micota_lf.stages import Context, stage
from micota_lf.system.files import write_jsonl
plan = micota_lf.compile_plan(recipe)
assert plan.steps[plan.slots["lengths/strong"]].needs == [plan.slots["filter/strong"]]
write_jsonl(here / "c.jsonl", [{"response_tokens": n} for n in range(1, 10)])
step = Context(here, {}, {"corpus": DataRef(str(here / "c.jsonl"))}, {})
found = stage("lengths").run(step)
assert found["rows"] == 9 and found["deciles"][4] == 5
""",
    "benchmark": """
from micota_lf.recipe.tasks import evaluated_benchmarks, known_tasks
spec = replace(recipe.evaluation, tasks={"micota_tiny_seen": "Seen", "micota_tiny_seen_avg": "Seen16"})
assert {*spec.tasks} <= {*known_tasks(spec)}
assert len(load_problems(evaluated_benchmarks(spec)["tiny_seen"])) > 700
""",
    "generation backend": """
from micota_lf.backends import Request, open_backend
spec = replace(micota_lf.load_recipe(TINY, ["generation.backend=echo"]).generation, max_tokens=2)
with open_backend(ModelRef("m"), spec) as backend:
    (found,) = backend.complete([Request("a", [{"role": "user", "content": "one two three"}])])
assert (found.text, found.finish_reason) == ("one two", "length")
""",
    "merge method of mergekit": """
from mergekit.config import MergeConfiguration
changed = micota_lf.load_recipe(TINY, ["assistants.ta.merge.merge_method=breadcrumbs"])
rendered = micota_lf.merge_config(changed, "ta")
assert MergeConfiguration.model_validate(rendered).merge_method == "breadcrumbs" and rendered["base_model"]
assert rendered["models"][0]["parameters"] == {"weight": 0.5, "density": 0.5}
""",
    "table": """
from micota_lf.reports.outcomes import Outcomes
from micota_lf.reports.write import write_report
report = write_report(micota_lf.sweep(TINY), here).with_suffix(".md").read_text()
assert "## Trainings" in report and "| train/student-s/micota | missing |" in report
""",
}
BEFORE = """
import sys
from dataclasses import replace
from pathlib import Path
import micota_lf
from micota_lf.inputs.problems import load_problems
from micota_lf.inputs.references import DataRef, ModelRef
here, TINY = Path(sys.argv[1]), sys.argv[2]
assert Path(micota_lf.__file__).is_relative_to(here)
recipe = micota_lf.load_recipe(TINY)
"""


def replaced(lines: list[str], hunk: list[str]) -> list[str]:
    """Lines of a file with a hunk put in where its old lines stand, which is one place."""
    old = [line[1:] for line in hunk if line[:1] in " -"]
    places = [at for at in range(len(lines)) if lines[at : at + len(old)] == old]
    assert len(places) == 1, f"stands in {len(places)} places: {old}"
    new = [line[1:] for line in hunk if line[:1] in " +"]
    return [*lines[: places[0]], *new, *lines[places[0] + len(old) :]]


def files_of(diff: str) -> dict[str, list[list[str]]]:
    """The hunks of each file of a diff, by its path."""
    found: dict[str, list[list[str]]] = {}
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            hunks = found.setdefault(line.removeprefix("+++ b/"), [[]])
        elif line.startswith("@@"):
            hunks.append([])
        elif not line.startswith("--- "):
            hunks[-1].append(line)
    return found


def test_every_change_is_tried():
    assert set(TRIED) == set(CHANGES)


CASES = [pytest.param(name, marks=pytest.mark.slow if "mergekit" in name else ()) for name in CHANGES]


@pytest.mark.parametrize("name", CASES)
def test_a_change_applies_to_at_most_two_source_files_and_works(name, tmp_path):
    for folder in ("micota_lf", "data_info", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    changed = files_of(CHANGES[name])
    assert len(changed) <= 2
    for path, hunks in changed.items():
        file = tmp_path / path
        lines = file.read_text().splitlines() if file.is_file() else []
        for hunk in filter(None, hunks):
            lines = replaced(lines, hunk) if lines else [line.removeprefix("+") for line in hunk]
        file.write_text("\n".join(lines) + "\n")
        if file.suffix == ".py":
            words = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", file]
            subprocess.run(words, check=True)
    tried, tiny = BEFORE + TRIED[name], tmp_path / TINY.relative_to(ROOT)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", tried, tmp_path, tiny], cwd=tmp_path, env=env, check=True)
