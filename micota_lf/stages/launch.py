"""How a training is started on several processes, GPUs or machines: torchrun's environment, DeepSpeed's file.

    launch_env({"processes": 8, "nodes": 1, "train": {"deepspeed": "zero3"}}, "/venv/bin/llamafactory-cli")
        -> {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "8", "NNODES": "1", "NODE_RANK": "0", "PATH": ...}
    deepspeed_config("zero3")

LLaMA-Factory's `train` command starts torchrun itself when FORCE_TORCHRUN is set, and takes the rest from
these variables (llamafactory launcher.py). Without GPUs it needs NPROC_PER_NODE: its default is their number.
"""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError

# Which machine this is, and where the first one listens: the user's or the scheduler's to say.
RENDEZVOUS = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
STAGES = {"zero2": 2, "zero3": 3}


def launch_env(how: Mapping[str, Any], program: str) -> dict[str, str]:
    """Environment that starts LLaMA-Factory's `program` on a step's processes; empty for a single one.

    Raises UserError if DeepSpeed is asked for and absent, or if several machines are and the environment
    does not say which one this is.
    """
    processes, nodes, stage = how["processes"], how["nodes"], how["train"]["deepspeed"]
    if processes * nodes == 1 and stage == "none":
        return {}
    if stage != "none":
        _need_deepspeed(stage, program)
    # torchrun is looked up on PATH, where an environment that is not activated does not stand.
    path = os.pathsep.join([str(Path(program).parent), os.environ.get("PATH", os.defpath)])
    env = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(processes), "NNODES": str(nodes), "PATH": path}
    if nodes == 1:
        return {**env, "NODE_RANK": "0"}  # said outright, like NNODES: the user's environment may differ
    missing = [name for name in RENDEZVOUS if not os.environ.get(name)]
    if missing:
        raise UserError(f"hardware.nodes: {nodes}, but {', '.join(missing)} is not set in the environment")
    return {**env, **{name: os.environ[name] for name in RENDEZVOUS}}


def deepspeed_config(stage: str) -> dict[str, Any]:
    """DeepSpeed's configuration for `zero2` (optimizer and gradients split) or `zero3` (weights too).

    Values of "auto" are filled in by transformers from the training arguments, so that batch sizes, clipping
    and precision are stated once. Keys: deepspeed.ai/docs/config-json.
    """
    zero: dict[str, Any] = {
        "stage": STAGES[stage],
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if stage == "zero3":
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,  # else the saved model holds no weights
        }
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
    }


def _need_deepspeed(stage: str, program: str) -> None:
    ours = Path(program).parent == Path(sys.executable).parent  # an engine elsewhere has its own packages
    if ours and find_spec("deepspeed") is None:
        raise UserError(
            f"train.deepspeed: {stage}, but the package deepspeed is not installed; "
            "pip install 'micota_lf[gpu]', or set train.deepspeed=none"
        )
