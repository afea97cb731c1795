"""How much of its GPUs a recipe's run uses: simulated, and by Snakemake itself with steps that only sleep.

    python benchmarks/schedule.py                         # table2 of recipes/micota.yaml; about 5 minutes
    python benchmarks/schedule.py --target table1 --hour 2 estimates.startup_minutes=10

Each step takes as long as the plan estimates, its engine's start included. In Snakemake's run an hour is
`--hour` seconds, so that the fractions of a second that Snakemake needs between steps weigh far more than in
earnest: the longer the hour, the nearer. The bound is what counts as work, GPU-hours without start-ups,
spread evenly over the GPUs. Before that come simulations with other numbers of copies of an evaluated model.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from micota_lf import compile_plan, load_recipe
from micota_lf.plan import costs
from micota_lf.plan.costs import estimate
from micota_lf.plan.plan import Plan
from micota_lf.plan.schedule import wall_hours
from micota_lf.run.snakemake import freeze, pending_steps, snakemake_argv

PAPER = Path(__file__).parent.parent / "recipes" / "micota.yaml"
RULES = {"half an hour each": 0.5, "a quarter": 0.25, "an hour": 1.0, "all GPUs": 1e-9, "one copy": math.inf}
# In the place of `micota step`: sleeps, and says when.
SLEEPER = """
import json, sys, time
from pathlib import Path
plan, step = Path(sys.argv[2]), sys.argv[3]
began = time.time()
time.sleep(json.loads((plan.parent / "seconds.json").read_text())[step])
(plan.parent / f"{step}.slept").write_text(json.dumps([began, time.time()]))
"""


def planned(path: Path, target: str, words: Sequence[str]) -> tuple[Plan, dict[str, float], float]:
    """A recipe's plan, the hours of each step that a target needs, and their GPU-hours without start-ups."""
    recipe = load_recipe(path, list(words))
    plan = compile_plan(recipe)
    costs = estimate(plan, recipe)
    pending = pending_steps(plan, Path("none"), [target])
    hours = {step_id: costs[step_id].hours or 0.0 for step_id in pending}
    return plan, hours, sum(costs[step_id].gpu_hours or 0.0 for step_id in pending)


def slept(plan: Plan, hours: dict[str, float], hour: float) -> float:
    """Hours from the first start to the last end under Snakemake; a step sleeps `hour` seconds for one."""
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        frozen = freeze(plan, workspace, list(hours))
        (frozen.parent / "seconds.json").write_text(json.dumps({i: h * hour for i, h in hours.items()}))
        (workspace / "stand-in" / "micota_lf").mkdir(parents=True)
        (workspace / "stand-in" / "micota_lf" / "__main__.py").write_text(SLEEPER)
        where = ["--cores", str(plan.cores), "--resources", f"gpu={plan.gpus}"]
        argv, env = snakemake_argv(frozen, workspace, where), {"PYTHONPATH": str(workspace / "stand-in")}
        subprocess.run(argv, env=os.environ | env, cwd=workspace, check=True, capture_output=True)
        times = [json.loads((frozen.parent / f"{step_id}.slept").read_text()) for step_id in hours]
    return float(max(end for _, end in times) - min(begin for begin, _ in times)) / hour


def row(name: str, wall: float, useful: float, gpus: int) -> str:
    """Wall-clock hours, and the bound's share of them."""
    return f"{name:28} {wall:6.2f} h, GPUs at work {useful / gpus / wall:.1%}"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="How much of its GPUs a recipe's run uses.")
    parser.add_argument("--recipe", type=Path, default=PAPER)
    parser.add_argument("--target", default="table2")
    parser.add_argument(
        "--hour", type=float, default=12.0, help="seconds that an hour sleeps in Snakemake's run"
    )
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    args = parser.parse_args()
    for name, limit in RULES.items():
        costs.EVALUATION_HOURS = limit
        plan, hours, useful = planned(args.recipe, args.target, args.overrides)
        print(row(f"evaluations: {name}", wall_hours(plan, hours), useful, plan.gpus))
    costs.EVALUATION_HOURS = RULES["half an hour each"]
    plan, hours, useful = planned(args.recipe, args.target, args.overrides)
    print(f"bound: {useful:.1f} GPU-hours over {plan.gpus} GPUs, {useful / plan.gpus:.2f} h")
    print(row("simulated", wall_hours(plan, hours), useful, plan.gpus), flush=True)
    print(row("Snakemake", slept(plan, hours, args.hour), useful, plan.gpus))


if __name__ == "__main__":
    main()
