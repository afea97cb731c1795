"""Stands in for LLaMA-Factory: `trainer.py EVENTS train train.yaml` in a step's directory.

Appends "begin NAME" and "end NAME" to the folder EVENTS' file `log`, waits for its file `go` in between, and
leaves what a finished training leaves; a step whose name begins with the words in its file `fail` ends with
code 1. Says "overlap NAME" if another one is at work in the same directory.
"""

import json
import os
import sys
import time
from pathlib import Path

from safetensors.numpy import save_file

events, here = Path(sys.argv[1]), Path.cwd()


def say(what):
    with (events / "log").open("a") as log:
        log.write(f"{what} {here.name} {os.environ['CUDA_VISIBLE_DEVICES']}\n")


try:
    (here / "at-work").touch(exist_ok=False)
except FileExistsError:
    say("overlap")
say("begin")
try:
    while not (events / "go").exists():
        time.sleep(0.1)
finally:
    (here / "at-work").unlink(missing_ok=True)
if (events / "fail").exists() and here.name.startswith((events / "fail").read_text()):
    sys.exit(1)
model = here / "model"
model.mkdir(exist_ok=True)
save_file({}, model / "model.safetensors")
(model / "all_results.json").write_text("{}")
(model / "trainer_state.json").write_text(json.dumps({"global_step": 1, "max_steps": 1}))
say("end")
