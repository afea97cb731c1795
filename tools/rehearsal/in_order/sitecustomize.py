"""Gathers that are waited for at once, in a training's processes on CPUs (Python imports this by its name).

DeepSpeed 0.18.4 waits for the last of several gathers alone (runtime/zero/partition_parameters.py,
_allgather_params_coalesced), since on a GPU all others have ended by then. gloo's two threads end them in any
order: a weight is then read before it is there, which has left NaN and garbled tensors in a rehearsal.
"""

import os
from typing import Any

if "LOCAL_RANK" in os.environ:  # of torchrun's processes
    import torch.distributed

    _gather = torch.distributed.all_gather_into_tensor

    def _waited(*given: Any, **named: Any) -> Any:
        """The gather, once it has ended."""
        work = _gather(*given, **named)
        if work is not None:
            work.wait()
        return work

    torch.distributed.all_gather_into_tensor = _waited
