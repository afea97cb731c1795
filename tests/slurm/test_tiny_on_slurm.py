"""The tiny recipe's whole plan as Slurm jobs, on a Slurm with accounting."""

import csv
from pathlib import Path

import pytest
from cluster import ask, cluster, why_not

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.run import slurm
from micota_lf.run.step import states
from micota_lf.stages import stage

WHY_NOT = why_not(accounting=True)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

TINY = Path(__file__).parent.parent.parent / "recipes" / "tiny-no-gap.yaml"
SMALL = ["prompts.limit=48", "evaluation.limit=12", "bpc.limit=6"]  # the same steps, less work in each


def test_the_tiny_recipes_plan_runs_to_its_end_with_accounting(tmp_path_factory, tmp_path):
    workspace = tmp_path / "runs"
    with cluster(tmp_path_factory.mktemp("cluster"), accounting=True):
        assert "sacct" in slurm.options(workspace, 2)
        words = ["--executor", "slurm", "--jobs", "2", "--workspace", str(workspace)]
        assert main(["run", str(TINY), *words, *SMALL]) == 0
        jobs = ask(
            "sacct", "--allocations", "--noheader", "--parsable2", "--format=State,JobName"
        ).splitlines()
    plan = compile_plan(load_recipe(TINY, SMALL))
    assert set(states(plan, workspace).values()) == {"done"}
    queued = [step for step in plan.steps.values() if not stage(step.kind).quick]
    assert len(jobs) == len(queued) and all(job.startswith("COMPLETED|micota-") for job in jobs)
    rows = list(csv.DictReader((workspace / "reports" / "tiny-no-gap" / "table2.csv").open()))
    assert {row["state"] for row in rows} == {"done"} and {row["n"] for row in rows} == {"12", "24"}
