"""Diagnosis: each signature on a run that was made to fail that way, with real engines, and none on a sound one."""

import json
import random
import shutil

import pytest
import yaml
from conftest import ROOT
from test_tables import Bench

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.reports import read
from micota_lf.reports.diagnose import SOURCES, diagnosis
from micota_lf.reports.outcomes import Outcomes
from micota_lf.system.files import write_json, write_jsonl
from micota_lf.tiny import TINY_ROOT

GAP = ROOT / "recipes" / "tiny.yaml"
MERGE = {"density": 1.0, "dtype": "float32", "health_prompts": 0}
SMALL = {"model": "tiny:gap/student-s"}
# What is shared by the broken run and the sound one: the steps are the cheapest that show it.
COMMON = {
    "extends": str(GAP),
    "tables": {"table1": {"others": []}, "table3": {"others": []}},
    "train": {"logging_steps": 1},
}
