"""What the library costs beside its engines: planning, a run with nothing to do, and a whole run.

    python benchmarks/orchestration.py            # the four figures; about 8 minutes on 2 cores
    python benchmarks/orchestration.py --no-run   # the first three

Planned: `micota plan` of a recipe with 1,000 steps, and of one with 100 variants. Nothing to do: `micota run`
where all of 60 steps are done. All are whole processes, Python's start included. Overhead: the demo, one step
at a time, against the time that its engines took by their own steps' records: their processes, and models in
a step's own process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from micota_lf import compile_plan, load_recipe, sweep
from micota_lf.plan.plan import Plan
from micota_lf.system.files import write_json

TINY = Path(__file__).parent.parent / "recipes" / "tiny-no-gap.yaml"


def recipe_of(steps: int, folder: Path) -> tuple[Path, Plan]:
    """The tiny recipe with so many students, of the same model and other seeds, that it has `steps` steps."""
    path, students = folder / f"steps{steps}.yaml", 0
    while True:
        students += 1
        given = {f"s{n}": {"model": "tiny:student-s", "train": {"seed": n}} for n in range(students)}
        path.write_text(yaml.safe_dump({"extends": str(TINY), "students": given}))
        if students >= (steps - 40) // 8:
            plan = compile_plan(load_recipe(path))
            if len(plan.steps) >= steps:
                return path, plan


def seconds(*words: str) -> float:
    """Wall time of a `micota` command, which must succeed."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "micota_lf", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def planned(folder: Path) -> tuple[int, float]:
    """Steps, and seconds of `micota plan`."""
    path, plan = recipe_of(1000, folder)
    return len(plan.steps), seconds("plan", str(path), "--workspace", str(folder / "none"))


def variants_planned(folder: Path) -> tuple[int, float]:
    """Steps of 20 merge weights times 5 seeds, and seconds of `micota plan`."""
    words = [f"variants.assistants.ta.merge.weight={[n / 20 for n in range(1, 21)]}", "seeds=[1,2,3,4,5]"]
    steps = len(sweep(TINY, overrides=words).plan.steps)
    return steps, seconds("plan", str(TINY), *words, "--workspace", str(folder / "none"))


def nothing_to_do(folder: Path) -> tuple[int, float]:
    """Steps, and seconds of `micota run` where all are done."""
    path, plan = recipe_of(60, folder)
    workspace = folder / "finished"
    for step in plan.steps.values():
        write_json(workspace / step.directory / "done.json", {"results": {}})
    report = workspace / "reports" / plan.recipe / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    return len(plan.steps), seconds("run", str(path), "--workspace", str(workspace))


def overhead(folder: Path) -> tuple[float, float, int]:
    """Wall time of the demo, seconds of its engines, steps."""
    workspace = folder / "demo"
    wall = seconds("run", str(TINY), "--workspace", str(workspace), "--jobs", "1")
    done = [json.loads(path.read_text()) for path in workspace.glob("*/*/done.json")]
    return wall, sum(record["engine_seconds"] for record in done), len(done)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="What the library costs beside its engines.")
    parser.add_argument("--no-run", action="store_true", help="leave out the demo")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps, took = planned(folder)
        print(f"micota plan, {steps} steps: {took:.1f} s (goal 4 s)", flush=True)
        steps, took = variants_planned(folder)
        print(f"micota plan, 100 variants, {steps} steps: {took:.1f} s (goal 10 s)", flush=True)
        steps, took = nothing_to_do(folder)
        print(f"micota run, {steps} of {steps} steps done: {took:.1f} s (goal 3 s)", flush=True)
        if args.no_run:
            return
        wall, engines, steps = overhead(folder)
        each = f"{(wall - engines) / steps:.2f} s a step"
        print(f"demo, {steps} steps one at a time: {wall:.0f} s, engines {engines:.0f} s")
        print(f"over them: {wall / engines - 1:.1%}, {each} (goal 3%)")


if __name__ == "__main__":
    main()
