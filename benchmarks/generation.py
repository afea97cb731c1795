"""Our generation against vLLM used directly, on the same vLLM and model; and what the client itself costs.

    python benchmarks/generation.py --vllm .venv-vllm/bin/python [--prompts 1000] [--rounds 2]

Three contenders answer the same prompts, one after the other, `rounds` times: ours (`micota generate` with
the backend vllm, a row on disk for each response), the official script's loop (lock-step batches of 64
through LLM.generate), one LLM.generate over all prompts. Every response has its own length, drawn once from a
long-tailed distribution and enforced by max_tokens and ignore_eos for all three; ours gets it by a subclass
in this file, for it is no feature. Speed is output tokens a second from the first request to the last row on
disk, after load. Engine options are the same: eager, and as many sequences at a time. `--head 256` pads the
model more: equal answers, more arithmetic a token, so that the server's own work is a smaller part of it.

First, 10,000 responses of 16,000 characters come at once from a stub of a server: processor time of the
client for a request, and its memory as rows go by.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from widened import HEAD, widened

from micota_lf.backends import Completion, Launch, Request, endpoint
from micota_lf.inputs.chat import load_chat
from micota_lf.inputs.problems import Prompts, chat, load_problems
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate
from micota_lf.system.files import read_jsonl, write_jsonl
from micota_lf.system.machines import free_port

MEDIAN, SIGMA, SHORTEST, LONGEST = 80, 1.0, 8, 900  # tokens; log-normal, cut at both ends
SEQUENCES, POSITIONS = 256, 1024
STUB_ROWS, CHARACTERS = 10_000, 16_000


def lengths(number: int) -> list[int]:
    """Long-tailed response lengths, the same ones at each call."""
    draw = random.Random(0)
    return [int(min(LONGEST, max(SHORTEST, MEDIAN * draw.lognormvariate(0, SIGMA)))) for _ in range(number)]


def drawn(wanted: dict[str, int], starts: dict[str, float]) -> type[endpoint.Backend]:
    """The backend endpoint with a length of its own for each request; notes when the first one is sent."""

    class Drawn(endpoint.Backend):
        def body(self, request: Request) -> dict[str, Any]:
            return {**super().body(request), "max_tokens": wanted[request.id], "ignore_eos": True}

        def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
            starts["sent"] = time.perf_counter()
            for n, completion in enumerate(super().complete(requests)):
                yield completion
                if n == 0:  # the row is on disk when we are asked for the next one
                    starts["first row"] = time.perf_counter()

    return Drawn


def ours(model: str, prompts: Prompts, wanted: dict[str, int], engine: str, out: Path) -> dict[str, float]:
    """Seconds and tokens of `generate`, rows on disk."""
    starts: dict[str, float] = {}
    given = endpoint.Backend
    endpoint.Backend = drawn(wanted, starts)  # type: ignore[misc]
    sampling = Generation(backend="vllm", max_tokens=LONGEST, dtype="float32", gpu_memory_utilization=0.2)
    began = time.perf_counter()
    generate(ModelRef(model), prompts, out, sampling, Launch(engine))
    seconds = time.perf_counter() - starts["sent"]
    endpoint.Backend = given  # type: ignore[misc]
    tokens = sum(row["response_tokens"] for row in read_jsonl(out))
    first, start = starts["first row"] - starts["sent"], starts["first row"] - began
    return {"seconds": seconds, "tokens": tokens, "first": first, "first_from_start": start}


def against_vllm(python: str, number: int, rounds: int, head: int, folder: Path) -> None:
    """Print each contender's speed and ours over theirs."""
    model = str(widened("tiny:teacher", folder / "model", head))
    prompts = Prompts("tiny:train", limit=number)
    problems, drawn_lengths = load_problems(prompts), lengths(number)
    wanted = {row["id"]: n for row, n in zip(problems, drawn_lengths, strict=True)}
    options = {"max_num_seqs": SEQUENCES, "max_num_batched_tokens": 4096, "enforce_eager": True}
    flags = f"--max-num-seqs {SEQUENCES} --max-num-batched-tokens 4096 --enforce-eager"
    engine = {
        **options,
        "max_model_len": POSITIONS,
        "dtype": "float32",
        "seed": 0,
        "gpu_memory_utilization": 0.2,
    }
    rendered = [load_chat(ModelRef(model)).prompt(chat(row["problem"], prompts)) for row in problems]
    asked = folder / "asked.json"
    asked.write_text(json.dumps(
        {"model": model, "engine": engine, "prompts": rendered, "lengths": drawn_lengths}
    ))  # fmt: skip
    speeds: dict[str, list[float]] = {"ours": [], "loop": [], "once": []}
    print(
        f"{number} prompts, {sum(drawn_lengths)} output tokens: mean {mean(drawn_lengths):.0f}, median "
        f"{sorted(drawn_lengths)[number // 2]}, longest {max(drawn_lengths)}", flush=True,
    )  # fmt: skip
    for turn in range(rounds):
        for way in list(speeds)[turn % 3 :] + list(speeds)[: turn % 3]:  # none is always first
            if way == "ours":
                server = f"{python} -m vllm.entrypoints.openai.api_server {flags}"
                made = ours(model, prompts, wanted, server, folder / f"ours{turn}.jsonl")
                start = f"{made['first_from_start']:.0f} s with the start"
                words = f", first row after {made['first']:.2f} s ({start})"
            else:
                argv = [
                    python,
                    str(Path(__file__).parent / "offline.py"),
                    way,
                    str(asked),
                    str(folder / "o.json"),
                ]
                done = subprocess.run(
                    argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
                )
                made = json.loads(next(line for line in done.stdout.splitlines() if line[:2] == '{"'))
                words = ", first row at the end"
            assert made["tokens"] == sum(drawn_lengths), made
            speeds[way].append(made["tokens"] / made["seconds"])
            print(f"{way}: {speeds[way][-1]:,.0f} tokens/s in {made['seconds']:.1f} s{words}", flush=True)
    best = {way: max(found) for way, found in speeds.items()}
    for way, goal in (("loop", 1.3), ("once", 0.95)):
        print(f"ours / {way}: {best['ours'] / best[way]:.2f} (best of {rounds}; goal {goal})")


def stub_server() -> None:
    """A server that answers everything at once with a long text; prints its port."""
    from aiohttp import web

    text = "Wait, let me check. " * (CHARACTERS // 20)
    usage = {"prompt_tokens": 40, "completion_tokens": CHARACTERS // 4}

    async def complete(request: web.Request) -> web.Response:
        await request.read()
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub"}]})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)


def client_costs(folder: Path) -> None:
    """Print processor time a request and memory as rows go by."""
    write_jsonl(folder / "p.jsonl", ({"problem": f"What is {n}+1?"} for n in range(STUB_ROWS)))
    port, out, memory = free_port(), folder / "stub.jsonl", []
    server = subprocess.Popen([sys.executable, __file__, "--stub", str(port)])
    try:
        sampling = Generation(backend="endpoint", endpoints=[f"http://127.0.0.1:{port}"])
        time.sleep(3)

        class Watched(endpoint.Backend):
            def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
                for n, completion in enumerate(super().complete(requests), start=1):
                    if n % (STUB_ROWS // 4) == 0 or n == 500:
                        memory.append((n, resident()))
                    yield completion

        given = endpoint.Backend
        endpoint.Backend = Watched  # type: ignore[misc]
        Watched(ModelRef("stub"), sampling, Launch())  # imports are no cost of a request
        began, spent = time.perf_counter(), time.process_time()
        generate(ModelRef("stub"), Prompts(str(folder / "p.jsonl")), out, sampling)
        endpoint.Backend = given  # type: ignore[misc]
        spent, took = time.process_time() - spent, time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()
    print(
        f"client: {1000 * spent / STUB_ROWS:.2f} ms of processor time a request, "
        f"{STUB_ROWS / took:.0f} requests/s"
    )
    print("memory: " + ", ".join(f"{mib:.0f} MiB after {n} rows" for n, mib in memory))


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Read the arguments and run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vllm", help="a Python that has vLLM; without it only the client's costs are measured"
    )
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--head", type=int, default=HEAD, help="attention head size (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        client_costs(Path(folder))
        if args.vllm:
            against_vllm(args.vllm, args.prompts, args.rounds, args.head, Path(folder))


if __name__ == "__main__":
    stub_server() if sys.argv[1:2] == ["--stub"] else main()
