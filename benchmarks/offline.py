"""vLLM without a server, as benchmarks/generation.py compares us with; run by a Python that has vLLM.

    python benchmarks/offline.py loop|once ASKED.json OUT.json

`loop` is the official script's way: lock-step batches of 64 through LLM.generate; `once` gives LLM.generate
all prompts. Both write once, at the end. Prints seconds after load and output tokens as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

LOCK_STEP = 64


def main(way: str, asked: str, out: str) -> None:
    """Load, generate, write."""
    from vllm import LLM, SamplingParams

    given = json.loads(Path(asked).read_text())
    llm = LLM(given["model"], generation_config="vllm", **given["engine"])
    sampling = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in given["lengths"]]
    prompts = given["prompts"]
    size = LOCK_STEP if way == "loop" else len(prompts)
    started, rows = time.perf_counter(), []
    for at in range(0, len(prompts), size):
        outputs = llm.generate(prompts[at : at + size], sampling[at : at + size], use_tqdm=False)
        rows += [(output.outputs[0].text, len(output.outputs[0].token_ids)) for output in outputs]
    Path(out).write_text(json.dumps(rows))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "tokens": sum(tokens for _, tokens in rows)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
