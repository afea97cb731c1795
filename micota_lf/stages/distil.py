"""On-policy distillation: a student answers, and learns a teacher's view of each of its tokens.

In: a model, a teacher with the same tokens, a corpus, training settings. Out: `distil.yaml`,
`conversations.jsonl`, and `model/` as a training leaves it (stages/train.py). The engine is TRL's
GKDTrainer, which `gkd.py` starts:

    render(settings, student, teacher, directory)["arguments"]["lmbda"]

In a share `lmbda` of the batches the student answers the corpus' prompts itself, sampled as it is at that
moment; in the others it reads the corpus' responses. The loss is the generalised Jensen-Shannon divergence
between the two models' next tokens, mean over the response's (Agarwal et al., arXiv 2306.13649;
trl/trainer/gkd_trainer.py).
"""

from pathlib import Path
from typing import Any

from ..recipe.sections import Recipe, Train
from ..system.fields import identity
from ..system.files import read_beside, write_json, write_jsonl, write_yaml
from ..system.processes import engine_argv
from . import Context, Results, Settings, Stage, train
from .filter import whole_rows

CONVERSATIONS = "conversations.jsonl"


def settings(recipe: Recipe, spec: Train) -> Settings:
    """Of a step that distils: those of a training, how responses are sampled, how views are compared."""
    made = train.settings(recipe, spec)
    longest = recipe.on_policy.max_new_tokens or recipe.generation.max_tokens
    on_policy = {**identity(recipe.on_policy), "max_new_tokens": longest}
    how = {"engine": recipe.engines.trl, "train": made.how["train"] | {"enable_liger_kernel": False}}
    return made._replace(config=made.config | {"on_policy": on_policy}, how=made.how | how)


def render(made: Settings, student: str, teacher: str, directory: Path) -> dict[str, Any]:
    """What `gkd.py` reads: the models, the conversations, and arguments of TRL's GKDConfig."""
    values, fixed = {**made.config["train"], **made.how["train"]}, read_beside(__file__)
    zero = values["deepspeed"]
    arguments = {
        "output_dir": str(directory / train.STAGE.output),
        **fixed["arguments"],
        **{key: values[key] for key in fixed["taken"]},
        "gradient_accumulation_steps": made.how["gradient_accumulation_steps"],
        "gradient_checkpointing": not values["disable_gradient_checkpointing"],
        "save_steps": values["save_steps"] or train.SAVE_STEPS,
        "max_length": values["cutoff_len"],
        **made.config["on_policy"],
        **({} if zero == "none" else {"deepspeed": str(directory / f"ds_{zero}.json")}),
        **values["extra"],
    }
    models = {"student": student, "teacher": teacher}
    return {**models, "conversations": str(directory / CONVERSATIONS), "arguments": arguments}


def run(step: Context) -> Results:
    """Distil; a finished model is not made again."""
    here, made, given = step.directory, Settings(step.config, step.how), step.inputs
    model, processes = here / train.STAGE.output, step.how["processes"]
    system = [{"role": "system", "content": words}] if (words := step.config["system"]) else []
    rows = list(whole_rows(given["corpus"].ref))
    python, *words = engine_argv(step.how["engine"])
    if processes > 1 or step.how["train"]["deepspeed"] != "none":
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    if not train.is_complete(model):
        train.clear_unfinished(model)
        columns = {"user": "prompt", "assistant": "response"}
        turns = ([{"role": who, "content": row[key]} for who, key in columns.items()] for row in rows)
        write_jsonl(here / CONVERSATIONS, ({"messages": system + two} for two in turns))
        config = render(made, given["model"].resolved, given["teacher"].resolved, here)
        if file := config["arguments"].get("deepspeed"):
            write_json(file, train.deepspeed_config(step.how["train"]["deepspeed"]))
        write_yaml(here / "distil.yaml", config)
        step.engine([python, *words, "distil.yaml"], **step.env)
    results = train.finish(model)
    train.check_weights(model, given["model"])
    return results


def vocabulary_problem(ours: dict[str, int], theirs: dict[str, int]) -> str:
    """What is wrong with a teacher that has other tokens (ids by text) than its student; empty if nothing."""
    differing = [token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)]
    shown = ", ".join(map(repr, differing[:3]))
    return f"{len(differing)} tokens differ, such as {shown}; on_policy needs the same" if differing else ""


STAGE = Stage(run, train.progress, output=train.STAGE.output, relief=train.STAGE.relief)
