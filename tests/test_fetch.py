"""Models of the hub: fetched once, whole, at one recorded commit, from a hub on this machine."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from conftest import ROOT, TINY
from local_hub import Handler, commit_of, local_hub
from safetensors.numpy import save_file

from micota_lf import UserError, load_recipe
from micota_lf.inputs.references import ModelRef
from micota_lf.inputs.weights import model_problem
from micota_lf.plan.compile import compile_plan
from micota_lf.system.files import read_json, write_json

WORDS = ["students.student-s.model=acme/student"]
RUN = """
import sys
from pathlib import Path
from micota_lf import compile_plan, load_recipe
from micota_lf.run.step import finished, run_step
from micota_lf.stages.fetch import moved
recipe, workspace, *words = sys.argv[1:]
plan = compile_plan(load_recipe(recipe, words))
(step,) = (step for step in plan.steps.values() if step.kind == "fetch")
run_step(plan, step.id, Path(workspace))
print(moved(finished(Path(workspace) / step.directory)["results"]))
"""


def publish(root, change="", megabytes=0):
    """Put a model on the hub; `change` makes it another one. Returns its commit."""
    folder = root / "models" / "acme" / "student" / "new"
    shutil.copytree(ModelRef("tiny:student-s").local, folder)
    (folder / "generation_config.json").write_text(f'{{"_from": "{change}"}}')
    if megabytes:
        save_file({"more": np.zeros(megabytes * 10**6, np.int8)}, folder / "more.safetensors")
    return folder.rename(folder.with_name(commit_of(folder))).name


def fetch(url, place, *words):
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(place / "hf"), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", RUN, str(TINY), str(place / "runs"), *WORDS, *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True)


def made(place):
    return next((place / "runs").glob("fetch/*/done.json")).parent


def test_all_that_reads_a_model_of_the_hub_reads_what_one_step_has_fetched(tmp_path):
    plan = compile_plan(load_recipe(TINY, WORDS))
    fetched = plan.steps[plan.slots["fetch/acme/student"]]
    for slot in ("train/student-s/micota", "evaluate/student-s/Instruct"):
        step = plan.steps[plan.slots[slot]]
        assert step.inputs["model"].step == fetched.id
        assert plan.inputs_of(step, tmp_path)["model"].ref == str(tmp_path / fetched.directory / "model")
    served = compile_plan(load_recipe(TINY, ["teachers.teacher.model=acme/t", "generation.backend=endpoint",
                                             "generation.endpoints=[http://a]"]))  # fmt: skip
    assert served.steps[served.slots["generate/teacher"]].inputs["model"].ref == "acme/t"


@pytest.mark.slow
def test_a_commit_is_recorded_and_one_that_has_moved_is_named_and_not_used(tmp_path):
    commit = publish(tmp_path / "hub")
    with local_hub(tmp_path / "hub") as url:
        assert fetch(url, tmp_path).stdout.strip() == "None"
        record = read_json(made(tmp_path) / "done.json")
        assert record["results"]["commit"] == commit and "model/model.safetensors" in record["outputs"]
        now = publish(tmp_path / "hub", "another")
        said = fetch(url, tmp_path).stdout
        assert f"acme/student has moved on the hub: {commit[:12]} was fetched" in said and now[:12] in said
        assert (made(tmp_path) / "model").resolve().name == commit
        pinned = fetch(url, tmp_path / "pinned", f"students.student-s.revision={commit}")
        assert (
            pinned.stdout.strip() == "None" and (made(tmp_path / "pinned") / "model").resolve().name == commit
        )


@contextmanager
def breaking_hub(root, sent):
    """A hub that breaks off in the middle of a large file, once; `sent` gets where each answer began."""

    class Breaking(Handler):
        def send_file(self, place, name):
            if self.command != "GET" or name != "more.safetensors":
                return super().send_file(place, name)
            size = (place / name).stat().st_size
            start = self.headers.get("Range", "bytes=0-")[6:].split("-")[0]
            sent.append(int(start))
            if len(sent) > 1:
                return super().send_file(place, name)
            self.head(200, size, {"ETag": '"broken"', "X-Repo-Commit": place.name})
            self.wfile.write((place / name).read_bytes()[: size // 2])
            self.close_connection = True
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Breaking, root=root)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_download_that_breaks_goes_on_where_it_was_and_a_hub_that_is_gone_is_told(tmp_path):
    publish(tmp_path / "hub", megabytes=40)  # the client writes 10 MB at a time
    sent = []
    with breaking_hub(tmp_path / "hub", sent) as url:
        assert fetch(url, tmp_path).returncode == 0
    assert sent[0] == 0 and sent[1] > 0
    gone = fetch(url, tmp_path / "later")
    assert gone.returncode and "StepFailed: acme/student: " in gone.stderr
    assert "what has arrived is kept" in gone.stderr


def test_a_model_that_lacks_a_weight_file_of_its_index_is_refused(tmp_path):
    shutil.copytree(ModelRef("tiny:student-s").local, tmp_path / "model")
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    write_json(tmp_path / "model" / "model.safetensors.index.json", {"weight_map": shards})
    said = model_problem(ModelRef(str(tmp_path / "model")), chat=True)
    assert said.endswith("lacks 1 of 2 weight files, the first: model-2.safetensors")
    with pytest.raises(UserError, match=r"students.student-s.model: .* lacks 1 of 2"):
        load_recipe(TINY, [f"students.student-s.model={tmp_path / 'model'}"])
