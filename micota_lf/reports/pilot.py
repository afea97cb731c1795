"""What finished steps say of the figures behind an estimate: the calibration by a pilot.

    measured(Path("runs"))      # ["estimates.mfu=0.31", "estimates.response_tokens.r1=5210", ...]

The words can be laid over a recipe. Speeds come from steps that ran on GPUs in one go, and from the time in
which they generated or trained; what they took besides is their start-up. Lengths come from every generate
step, the last finished one of a name. A generation ends with its longest answers, when few sequences run: the
fewer prompts, the slower it looks.
"""

from pathlib import Path
from statistics import median

from ..inputs.weights import BILLION, directory_size, model_size, training_flops
from ..plan.plan import Input
from ..recipe.sections import Estimates
from ..run.step import finished
from ..system.files import read_json


def measured(workspace: Path) -> list[str]:
    """Overrides `estimates...=value` for what the workspace's steps have measured.

    Decoding: tokens x billions of parameters / (seconds x GPUs). Training: FLOPs / (seconds x GPUs x tflops),
    what GPUs waited for each other included. Start-up: the median over the steps.
    """
    lengths: dict[str, int] = {}
    startups = list[float]()
    decoded = decoding = flops = training = 0.0
    done = [*workspace.glob("generate/*/done.json"), *workspace.glob("train/*/done.json")]
    for path in sorted(done, key=lambda path: path.stat().st_mtime):
        record, step = finished(path.parent) or {}, read_json(path.with_name("step.json"))
        results, how, given = record["results"], record["how"], Input(**step["inputs"]["model"])
        gpus, mean = record["gpus"] * how.get("nodes", 1), results.get("mean_response_tokens")
        if mean is not None:
            lengths |= {slot.partition("/")[2]: round(mean) for slot in step.get("slots", ())}
        size = model_size(given.reference)
        for made in workspace.glob(f"*/*-{given.step}/{given.file}") if given.step else ():
            size = directory_size(made)  # of the weights that another step left
        at_work = results.get("train_seconds" if mean is None else "generation_seconds")
        if not (size and at_work and gpus) or record.get("resumed"):
            continue
        startups.append((record["seconds"] - at_work) / 60)
        if mean is not None:
            decoded += results["responses"] * mean * size.parameters / BILLION
            decoding += at_work * gpus
        elif trained := results.get("trained_tokens"):
            flops += training_flops(size, how["train"], trained)
            training += at_work * gpus
    words, tflops = [], Estimates().tflops
    if training:  # the share means something only beside the peak that it is a share of
        words = [f"estimates.tflops={tflops:g}", f"estimates.mfu={flops / training / tflops / 1e12:.3g}"]
        words.append("estimates.balance=1")
    if decoding:
        words.append(f"estimates.decode_tokens_per_second={float(f'{decoded / decoding:.3g}'):g}")
    if startups:
        words.append(f"estimates.startup_minutes={median(startups):.3g}")
    return words + [f"estimates.response_tokens.{name}={length}" for name, length in sorted(lengths.items())]
