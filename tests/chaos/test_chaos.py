"""The tiny recipe in a storm: processes killed at random moments, then the same results (`make chaos`).

MICOTA_KILLS (50) kills, at moments and of victims drawn with MICOTA_SEED (0), by which a storm is told, not
repeated: what is at work at a moment depends on the machine.
"""

import os
import random
import time
from collections import Counter

import pytest
from chaos import Storm, differences
from conftest import TINY

from micota_lf.cli.main import main

pytestmark = pytest.mark.slow

KILLS, SEED = int(os.environ.get("MICOTA_KILLS", "50")), int(os.environ.get("MICOTA_SEED", "0"))
# All of them how, not what. One training writes a checkpoint every few steps.
OFTEN = [
    "generation.batch_size=32",
    "train.save_strategy=steps",
    "train.save_steps=5",
    "train.logging_steps=1",
]
VICTIMS = ("runner", "snakemake", "step", "engine", "engine", "engine")
MEAN_SECONDS = 8.0  # between kills: engines take that long to load, most steps longer


def test_a_run_in_a_storm_ends_as_an_undisturbed_one(tmp_path):
    calm, disturbed = tmp_path / "calm", tmp_path / "storm"
    assert main(["run", str(TINY), "--workspace", str(calm), *OFTEN]) == 0
    storm, rng, hit = (
        Storm(["run", str(TINY), "--workspace", str(disturbed), *OFTEN], disturbed),
        random.Random(SEED),
        Counter(),
    )
    began, runs = time.monotonic(), 1
    storm.start()
    while hit.total() < KILLS:
        time.sleep(rng.expovariate(1 / MEAN_SECONDS))
        victim, n = rng.choice(VICTIMS), rng.randrange(8)
        command = storm.kill(victim, n)
        if command:
            hit[victim] += 1
            print(
                f"{time.monotonic() - began:6.0f} s: kill {hit.total()} of {victim}: {command[:150]}",
                flush=True,
            )
        if storm.runner.poll() is not None or (victim in ("runner", "snakemake") and command):
            code = storm.stop()
            assert code, "the run ended before the storm: raise MICOTA_KILLS' frequency"
            storm.start()
            runs += 1
    while storm.stop() != 0:
        storm.start()
        runs += 1
        assert runs < KILLS + 5, storm.log.read_text()[-5000:]
    print(f"{hit.total()} kills ({dict(hit)}) in {runs} runs, {time.monotonic() - began:.0f} s", flush=True)
    assert main(["verify", "--workspace", str(disturbed)]) == 0
    assert differences(calm, disturbed) == []
    assert not list(disturbed.glob("*/*/failed.json")) and not list(disturbed.rglob(".*.partial"))
    assert not list(disturbed.rglob("*.lease"))
