"""The kinds of steps, as data: how each is prepared, checked and watched.

`prepare` writes what the engine reads into the step's directory and returns the command to run (None if the
outputs are already complete); `follow` returns a second command on what the first one left, if the kind has
one; `finish` checks the outputs and returns the step's results, or raises
StepFailed; `progress` says in a few words how far a running step is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backends import progress
from ..errors import StepFailed, UserError
from ..inputs import chat as tokens
from ..inputs.benchmarks import benchmark_named, load_benchmark
from ..inputs.hub import weights_directory
from ..inputs.problems import load_problems
from ..recipe.sections import Prompts
from ..system.files import read_json, read_jsonl, write_json, write_jsonl
from ..system.processes import Job, cpu_env, engine_argv, own_argv
from . import bpc, evaluate, launch, merge, merge_check, overlap, preflight, train

Results = dict[str, Any]
ANSWERS = "answers.jsonl"  # of the merged model, to a few prompts


@dataclass(frozen=True)
class Context:
    """What a step works with: its directory, its settings, and its inputs as absolute paths or hub ids."""

    directory: Path
    config: dict[str, Any]
    inputs: dict[str, str]
    how: dict[str, Any]
    revisions: dict[str, str] = field(default_factory=dict)

    @property
    def lm_eval_how(self) -> dict[str, Any]:
        """`how` with the model's revision for lm-eval."""
        return {**self.how, "revision": self.revisions.get("model")}

    def job(self, argv: list[str], hub: bool = False, env: Mapping[str, str] | None = None) -> Job:
        """A command of this step, with the environment that its hardware and inputs call for.

        `hub` says that it may load something from the hub besides its inputs; `env` adds to the environment.
        """
        env = {**cpu_env(self.how["threads"], self.how["gpus"]), **(env or {})}
        if not hub and all(Path(given).is_absolute() for given in self.inputs.values()):
            env["HF_HUB_OFFLINE"] = "1"  # nothing to look up: do not wait for a hub
        return Job(argv, env)


@dataclass(frozen=True)
class Kind:
    """How steps of one kind are done."""

    prepare: Callable[[Context], Job | None]
    finish: Callable[[Context], Results]
    progress: Callable[[Path], str] = field(default=lambda directory: "")
    follow: Callable[[Context], Job | None] = field(default=lambda step: None)


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the flags of our own commands; null ones are left to their defaults, lists are repeated."""
    pairs = [(k, one) for k, v in settings.items() for one in (v if isinstance(v, list) else [v])]
    return [word for k, v in pairs if v is not None for word in (f"--{k.replace('_', '-')}", str(v))]


def _prepare_preflight(step: Context) -> Job | None:
    argv = preflight.prepare_preflight(step.directory, step.config, step.inputs, step.revisions)
    return step.job(argv) if argv else None


def _prepare_generate(step: Context) -> Job:
    output = {"output": step.directory / "responses.jsonl", **step.how["generate"]}
    pins = {"model": "model_revision", "prompts": "revision"}
    revisions = {pins[role]: revision for role, revision in step.revisions.items()}
    return step.job(own_argv("generate", *_flags({**step.inputs, **revisions, **step.config, **output})))


def _prepare_filter(step: Context) -> Job:
    output = {"output": step.directory / "corpus.jsonl"}
    return step.job(own_argv("filter", *_flags({**step.inputs, **step.config, **output})))


def _prepare_mix(step: Context) -> Job:
    settings = dict(step.config)
    parts = zip(step.inputs.values(), settings.pop("ratios"), strict=True)
    words = [word for path, ratio in parts for word in ("--part", f"{ratio}={path}")]
    output = {"output": step.directory / "corpus.jsonl"}
    return step.job(own_argv("mix", *words, *_flags({**settings, **output})))


def refuse_cut_rows(model: str, corpus: str, settings: Mapping[str, Any], revision: str | None) -> None:
    """Raise UserError if LLaMA-Factory would cut a row of the corpus: it says nothing, the end is lost."""
    settings = {**settings, **settings["extra"]}
    chat, rows = tokens.load_chat(model, revision), read_jsonl(corpus)
    found = tokens.overlong(rows, chat, settings["cutoff_len"], settings.get("default_system"))
    problem = tokens.overlong_problem(found, settings["cutoff_len"])
    if problem:
        raise UserError(problem)


def _prepare_train(step: Context) -> Job | None:
    model = step.directory / "model"
    if train.training_is_complete(model):
        return None  # LLaMA-Factory changes the outputs of a finished run that is launched again
    refuse_cut_rows(
        step.inputs["model"], step.inputs["corpus"], step.config["train"], step.revisions.get("model")
    )
    train.clear_unfinished_training(model)
    how = dict(step.how["train"])
    if "model" in step.revisions:
        how["model_revision"] = step.revisions["model"]
    train.write_training(
        step.directory, step.config["train"], how, step.inputs["model"], step.inputs["corpus"]
    )
    # Relative to the step's directory: the torchrun launcher splits its arguments at blanks.
    argv = [*engine_argv(step.how["engine"]), "train", "train.yaml"]
    return step.job(argv, env=launch.launch_env(step.how, argv[0]))


def refuse_merge(inputs: Mapping[str, str], revisions: Mapping[str, str]) -> dict[str, Any]:
    """Raise UserError for models that cannot be merged; return the facts of those that can."""
    models = {role: inputs[role] for role in ("before", "after", "pretrained") if role in inputs}
    paths = {role: weights_directory(ref, revisions.get(role)) for role, ref in models.items()}
    asked = (paths["before"], paths["after"], paths.get("pretrained"))
    problems = merge_check.compatibility_problems(*asked)
    if problems:
        raise UserError("\n".join(problems))
    return merge_check.compatibility_facts(*asked)


def _prepare_merge(step: Context) -> Job:
    settings = step.config["merge"]
    write_json(step.directory / "compatibility.json", refuse_merge(step.inputs, step.revisions))
    given = {r: f"{m}@{step.revisions[r]}" if r in step.revisions else m for r, m in step.inputs.items()}
    merge.write_merge(step.directory, settings, given["before"], given["after"], given.get("pretrained"))
    argv = [*engine_argv(step.how["engine"]), "merge.yaml", "model", "--random-seed", str(settings["seed"])]
    return step.job([*argv, "--quiet", "--num-threads", str(step.how["threads"])])


def _follow_merge(step: Context) -> Job | None:
    """Make the merged model whole, check its weights, and ask it for a few answers."""
    model, after = step.directory / "model", Path(step.inputs["after"])
    merge.finish_merge(model, after)
    problems = merge_check.health_problems(model, after, merge.TOKENIZER_FILES)
    if problems:
        raise StepFailed("\n".join(problems))
    if not step.config.get("health"):
        return None
    asked = {"model": model, "prompts": step.inputs["prompts"], **step.how["generate"]}
    asked |= {"revision": step.revisions.get("prompts"), "output": step.directory / ANSWERS}
    return step.job(own_argv("generate", *_flags({**asked, **step.config["health"]})))


def _finish_merge(step: Context) -> Results:
    results = merge.finish_merge(step.directory / "model", Path(step.inputs["after"]))
    results["compatibility"] = read_json(step.directory / "compatibility.json")
    asked = step.config.get("health")
    results["health"] = (
        merge_check.answer_health(step.directory / ANSWERS, asked["max_tokens"]) if asked else {"prompts": 0}
    )
    return results


def _prepare_evaluate(step: Context) -> Job:
    evaluate.clear_unfinished_evaluation(step.directory)
    output = str(step.directory / "lm_eval")
    arguments = evaluate.render(step.config, step.lm_eval_how, step.inputs["model"], output)
    return step.job([*engine_argv(step.how["engine"]), *arguments], hub=True)  # a task's data set


def _corpora(step: Context) -> dict[str, str]:
    return {role: path for role, path in step.inputs.items() if role != "model"}


def _prepare_bpc(step: Context) -> Job:
    evaluate.clear_unfinished_evaluation(step.directory)
    corpora = _corpora(step)
    tasks = bpc.write_bpc_tasks(step.directory, list(corpora.values()), step.config["condition_on_prompt"])
    arguments = bpc.render(step.config, step.lm_eval_how, step.inputs["model"], step.directory, tasks)
    return step.job([*engine_argv(step.how["engine"]), *arguments])


def _finish_overlap(step: Context) -> Results:
    given = {key: value for key, value in step.config.items() if key not in ("words", "benchmarks")}
    source = Prompts(step.inputs["prompts"], step.revisions.get("prompts"), **given)
    problems = {
        name: load_benchmark(benchmark_named(name, step.how["benchmarks"], None))
        for name in step.config["benchmarks"]
    }
    results, pairs = overlap.overlap(load_problems(source), problems, step.config["words"])
    write_jsonl(step.directory / "pairs.jsonl", pairs)
    return results


def _finish_evaluate(step: Context) -> Results:
    evaluate.write_numerics(step.directory, step.config, step.how)
    return evaluate.finish_evaluation(step.directory, step.config["tasks"])


KINDS: dict[str, Kind] = {
    "preflight": Kind(
        _prepare_preflight,
        lambda step: preflight.finish_preflight(step.directory, step.config, step.inputs, step.revisions),
    ),
    "generate": Kind(
        _prepare_generate,
        lambda step: progress.response_summary(step.directory / "responses.jsonl"),
        progress.generation_progress,
    ),
    "overlap": Kind(lambda step: None, _finish_overlap),
    "filter": Kind(_prepare_filter, lambda step: read_json(step.directory / "counts.json")),
    "mix": Kind(_prepare_mix, lambda step: read_json(step.directory / "counts.json")),
    "train": Kind(
        _prepare_train,
        lambda step: train.finish_training(step.directory / "model"),
        train.training_progress,
    ),
    "merge": Kind(_prepare_merge, _finish_merge, follow=_follow_merge),
    "evaluate": Kind(_prepare_evaluate, _finish_evaluate, evaluate.evaluation_progress),
    "bpc": Kind(
        _prepare_bpc,
        lambda step: bpc.finish_bpc(step.directory, step.config, list(_corpora(step))),
    ),
}
