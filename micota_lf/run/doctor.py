"""What a machine has for a run, each thing with the line to type where it is amiss.

    for finding in examine(Path("runs")):
        print(finding.ok, finding.what, finding.found, finding.cure)

`ok` is None for what is amiss only for somebody who needs it: a GPU, a hub token, Slurm.
"""

import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, first_line
from ..recipe.sections import Engines
from ..system.machines import present_gpus
from ..system.processes import engine_argv, output_of, untested_versions, versions
from . import slurm

DRIVER = 580  # of NVIDIA: torch and vLLM in the locks are built for CUDA 13
HUB_SECONDS, CLOCK_SECONDS, LITTLE_GIB = 5.0, 5.0, 10.0


class Finding(NamedTuple):
    """One thing that was looked at: whether it is as it should be, what was found, what to type."""

    what: str
    ok: bool | None
    found: str
    cure: str = ""


def examine(workspace: Path) -> Iterator[Finding]:
    """Look at this machine and at what a workspace may hold; nothing is left behind."""
    here = sys.version_info[:2]
    yield Finding("Python", (3, 11) <= here < (3, 14), sys.version.split()[0], "make PYTHON=python3.12 setup")
    known, odd = versions(), untested_versions()
    names = ", ".join(f"{name} {version}" for name, version in known.items())
    yield Finding("engines", not odd, "; ".join(odd) or names, "make setup")
    for name in ("llamafactory", "mergekit", "lm_eval"):
        command = getattr(Engines(), name)
        try:
            yield Finding(command, True, engine_argv(command)[0])
        except UserError as error:
            yield Finding(command, False, str(error), "make setup, or name its command in `engines:`")
    yield from _gpus(known)
    yield from _hub()
    from huggingface_hub.constants import HF_HUB_CACHE

    for what, path in (("workspace", workspace), ("hub cache", Path(HF_HUB_CACHE))):
        yield _place(what, path)
    if shutil.which("sbatch"):
        try:
            slurm.check({}, 1)
            yield Finding("Slurm", True, output_of("sinfo", "--version") or "sbatch is there")
        except UserError as error:
            yield Finding("Slurm", None, str(error), "pip install 'micota_lf[slurm]'")
    else:
        yield Finding("Slurm", None, "no sbatch on PATH; runs stay on this machine")


def _gpus(known: dict[str, str]) -> Iterator[Finding]:
    gpus = present_gpus()
    if not gpus:
        yield Finding("GPUs", None, "none that nvidia-smi shows; recipes with hardware.gpus=0 run")
        return
    yield Finding("GPUs", True, ", ".join(f"{gib:.0f} GiB" for gib in gpus))
    asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    driver = (output_of(*asked, check=False) or "?").split("\n")[0]
    new = driver.split(".")[0].isdigit() and int(driver.split(".")[0]) >= DRIVER
    cure = f"sudo apt-get install nvidia-driver-{DRIVER}-server"
    yield Finding("driver", new, f"{driver} (at least {DRIVER})", cure)
    import torch

    yield Finding("CUDA", torch.cuda.is_available(), f"torch {torch.__version__}", "make GPU=1 setup")
    lacks = "not installed; generation.backend=vllm needs it"
    yield Finding("vLLM", "vllm" in known, known.get("vllm", lacks), "make GPU=1 setup")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", None, "HF_HUB_OFFLINE is set: models come from the cache alone")
    else:
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_SECONDS).close()
            yield Finding("hub", True, constants.ENDPOINT)
        except OSError as error:
            cure = "set HTTPS_PROXY or HF_ENDPOINT, or HF_HUB_OFFLINE=1 once models are in the cache"
            yield Finding("hub", None, f"{constants.ENDPOINT}: {first_line(error)}", cure)
    token = "is set" if get_token() else "none; gated models need one"
    yield Finding("hub token", get_token() is not None or None, token, "hf auth login")


def _place(what: str, path: Path) -> Finding:
    """Whether files can be written there, by a clock like ours, and how much fits."""
    home = next(one for one in (path, *path.parents) if one.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=home) as handle:
            late = os.stat(handle.name).st_mtime - time.time()
    except OSError as error:
        return Finding(what, False, f"{home}: {error.strerror}", f"another folder, or chmod u+rwx {home}")
    if abs(late) > CLOCK_SECONDS:
        return Finding(
            what, False, f"{home}: its clock differs by {late:.0f} s", "chronyc makestep, or ntpdate"
        )
    free = shutil.disk_usage(home).free / 2**30
    return Finding(
        what, free > LITTLE_GIB or None, f"{free:.0f} GiB free in {home}", "micota gc RECIPE --delete"
    )
