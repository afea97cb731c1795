"""`micota doctor`: each thing that is amiss is named with the line to type, and nothing is left behind."""

import os
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from micota_lf.cli.main import main
from micota_lf.recipe.sections import Engines
from micota_lf.run import doctor


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function that examines a workspace and gives what was found by its name."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda workspace=tmp_path / "runs": {one.what: one for one in doctor.examine(workspace)}


def test_a_machine_as_it_should_be_has_nothing_amiss_and_nothing_is_written(found, tmp_path, capsys):
    assert all(one.ok is not False for one in found().values())
    assert not list(tmp_path.iterdir())
    assert main(["doctor", "--workspace", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    Python: 3.") and any(
        line.startswith("-     hub: HF_HUB") for line in lines
    )


def test_a_workspace_that_cannot_be_written_is_amiss_and_the_exit_code_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--workspace", str(tmp_path / "file" / "runs")]) == 1
    said = capsys.readouterr()
    assert f"AMISS workspace: {tmp_path / 'file'}: Not a directory; to mend it: another folder" in said.out
    assert said.err.startswith("1 of ") and said.err.rstrip().endswith("things are amiss: workspace")


def test_a_clock_that_differs_is_amiss(found, monkeypatch):
    ours = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: ours() - 60)
    assert found()["workspace"].ok is False and "its clock differs by 60 s" in found()["workspace"].found


def test_an_old_driver_is_amiss_and_the_line_to_type_is_the_makefiles(found, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ncase $1 in *driver*) echo 570.133.20;; *) echo 81559; echo 81559;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = found()
    assert seen["GPUs"].found == "80 GiB, 80 GiB" and seen["driver"].ok is False
    assert seen["driver"].cure == "sudo apt-get install nvidia-driver-580-server"


def test_an_engine_that_is_not_there_is_amiss(found, monkeypatch):
    monkeypatch.setattr(doctor, "Engines", lambda: Engines(mergekit="no-such-mergekit"))
    assert found()["no-such-mergekit"].ok is False and "make setup" in found()["no-such-mergekit"].cure


def test_a_hub_that_answers_is_there_and_a_token_is_never_shown(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        log_message = partial(print, end="")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["doctor", "--workspace", str(tmp_path)]) == 0
    server.shutdown()
    out = capsys.readouterr().out
    assert f"ok    hub: {constants.ENDPOINT}" in out and "ok    hub token: is set" in out
    assert "hf_secret" not in out
