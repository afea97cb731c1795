"""The recipe: everything that decides a run's results, as frozen dataclasses.

One class a section of the YAML; field names are the YAML keys (`lambda_` and `from_` stand for `lambda`
and `from`, which Python reserves). Inside `train` and `merge` the keys are LLaMA-Factory's and
mergekit's own. Limits stand beside the fields and are checked by `load.py`, which builds these objects:

    recipe = load_recipe("recipes/tiny.yaml", ["students.student-s.train.learning_rate=1e-3"])
    recipe.students["student-s"].model
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

MISSING = "???"  # OmegaConf's mark of a value that must be given

Partial = dict[str, Any]
"""Some keys of `Train` or `Filter`, to be laid over the section's own values."""

# Roles of the teacher assistant that a corpus or a BPC table can name beside teachers and students.
ASSISTANT, ASSISTANT_SFT, ASSISTANT_MERGED = "assistant", "assistant-sft", "assistant-merged"
ASSISTANT_ROLES = (ASSISTANT, ASSISTANT_SFT, ASSISTANT_MERGED)

RATIO_TOLERANCE = 1e-6  # how far from 1 the ratios of a mix may add up


def limited(default: Any, check: Callable[[Any], bool], says: str) -> Any:
    """A field with a limit: `check(value)` must hold, else the error says `says`."""
    return field(default=default, metadata={"check": check, "says": says})


def positive(default: Any) -> Any:
    """A field whose value must be above zero."""
    return limited(default, lambda v: v > 0 and math.isfinite(v), "must be above 0")


def not_negative(default: Any) -> Any:
    """A field whose value must be zero or more."""
    return limited(default, lambda v: v >= 0 and math.isfinite(v), "must be 0 or more")


def share(default: Any) -> Any:
    """A field whose value must lie in [0, 1]."""
    return limited(default, lambda v: 0 <= v <= 1, "must lie between 0 and 1")


def partial_of(section: str) -> Any:
    """A mapping with some keys of another section, laid over it where it is used."""
    return field(default_factory=dict, metadata={"partial": section})


@dataclass(frozen=True)
class Problems:
    """Problems with answers: a JSONL file, `tiny:NAME`, or a data set id on the hub."""

    path: str = MISSING
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    id_field: str = "id"
    problem_field: str = "problem"
    answer_field: str = "answer"
    limit: int | None = positive(None)


@dataclass(frozen=True)
class Prompts(Problems):
    """Training problems and how a model is asked for a response to one."""

    # The official repository's instruction (OPPO-PersonalAI/MiCoTA); the paper does not give one.
    template: str = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
    system: str | None = None


@dataclass(frozen=True)
class Model:
    """A model that is used as it is: a strong teacher, or the short-CoT model of Mix-Long."""

    model: str = MISSING
    revision: str | None = None


def _is_server(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


@dataclass(frozen=True)
class Generation:
    """How responses are sampled. Greedy and 16K tokens are the paper's (section 4.2).

    `vllm` starts a server of its own on the step's GPUs; `endpoint` asks OpenAI-compatible servers that run
    already, those of `endpoints` that serve the model. `prompt_format: raw` gives the prompt as plain text,
    as the official repository does, instead of through the model's chat template.
    """

    backend: Literal["transformers", "vllm", "endpoint", "fake"] = "transformers"
    prompt_format: Literal["chat", "raw"] = "chat"
    max_tokens: int = positive(16384)
    temperature: float = not_negative(0.0)
    top_p: float = share(1.0)
    seed: int = not_negative(0)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    # Below: how, not what. These do not enter a step's identity.
    batch_size: int = positive(64)  # of `transformers`
    gpu_memory_utilization: float = limited(0.9, lambda v: 0 < v <= 1, "must lie in (0, 1]")  # of `vllm`
    endpoints: list[str] = field(
        default_factory=list,
        metadata={
            "check": lambda urls: all(map(_is_server, urls)),
            "says": "must be http(s) addresses without user and password",
        },
    )
    api_key_env: str | None = None  # the environment variable that holds the endpoints' key


def sampling_settings(sampling: Generation) -> dict[str, Any]:
    """The settings that decide responses, for hashes; a value that came later is there only if it is set."""
    settings = asdict(sampling)
    for how in ("batch_size", "gpu_memory_utilization", "endpoints", "api_key_env"):
        del settings[how]
    if settings["prompt_format"] == Generation.prompt_format:
        del settings["prompt_format"]
    return settings


@dataclass(frozen=True)
class Filter:
    """Which responses become training rows (paper equation 1): right, finished, not too long.

    `verdict` names the grader that decides; `none` keeps wrong answers too, as section 3.3 of the paper
    does for the MiCoTA corpus if it is read literally. `max_tokens` is L_max; null is generation's own.
    """

    verdict: Literal["legacy", "symbolic", "none"] = "symbolic"
    max_tokens: int | None = positive(None)


@dataclass(frozen=True)
class Train:
    """Supervised fine-tuning, in LLaMA-Factory's key names; `global_batch_size` is ours.

    The gradient accumulation is derived: global_batch_size / (per_device_train_batch_size x devices).
    Without `check_template`, a template that trains other tokens than inference meets is only warned of.
    `extra` takes any other LLaMA-Factory argument.
    """

    global_batch_size: int = positive(32)
    learning_rate: float = positive(1.0e-5)
    num_train_epochs: float = positive(2.0)
    max_steps: int = limited(-1, lambda v: v == -1 or v > 0, "must be -1 (no limit) or above 0")
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = not_negative(0.0)
    weight_decay: float = not_negative(0.01)
    max_grad_norm: float = not_negative(1.0)
    optim: str = "adamw_torch"
    adam_beta1: float = share(0.9)
    adam_beta2: float = share(0.999)
    cutoff_len: int = positive(16384)
    template: str = "qwen"
    finetuning_type: Literal["full", "lora", "freeze"] = "full"
    bf16: bool = True
    packing: bool = False
    flash_attn: str = "auto"
    seed: int = not_negative(42)
    extra: dict[str, Any] = field(default_factory=dict)
    # Below: how, not what. These do not enter a step's identity.
    per_device_train_batch_size: int = positive(1)
    deepspeed: Literal["none", "zero2", "zero3"] = "none"
    check_template: bool = True
    use_cpu: bool = False
    disable_gradient_checkpointing: bool = False
    save_steps: int = positive(500)
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_total_limit: int | None = positive(1)
    logging_steps: int = positive(1)


@dataclass(frozen=True)
class Merge:
    """Merging the assistant before and after fine-tuning, in mergekit's key names.

    `instruct`: one task vector over the assistant's starting point; weight 0.5 halves it.
    `pretrained`: two vectors (before, after) over `pretrained_model`, where TIES' sign consensus acts.
    `health_prompts` of the recipe's prompts are answered greedily by the merged model; the step fails if no
    answer ends. 0 asks none.
    """

    preset: Literal["instruct", "pretrained"] = "instruct"
    pretrained_model: str | None = None
    pretrained_revision: str | None = None
    merge_method: Literal["dare_ties", "dare_linear", "ties", "task_arithmetic", "linear"] = "dare_ties"
    weight: float = 0.5
    density: float = limited(0.5, lambda v: 0 < v <= 1, "must lie in (0, 1]")
    normalize: bool = False
    rescale: bool = True
    lambda_: float = 1.0
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = not_negative(42)
    health_prompts: int = not_negative(4)


@dataclass(frozen=True)
class Assistant:
    """The teacher assistant: fine-tuned on `corpus`, then merged with its earlier self."""

    model: str = MISSING
    revision: str | None = None
    corpus: str = MISSING
    train: Partial = partial_of("Train")
    merge: Merge = field(default_factory=Merge)


@dataclass(frozen=True)
class Corpus:
    """Training rows: the filtered responses of one model (`from`), or a mix of other corpora."""

    from_: str | None = None
    filter: Partial = partial_of("Filter")
    mix: dict[str, float] = field(default_factory=dict)
    size: int | None = positive(None)
    seed: int = not_negative(0)


@dataclass(frozen=True)
class Student:
    """A model to distil into. `train_for` overrides `train` by corpus name or by teacher name."""

    model: str = MISSING
    revision: str | None = None
    train: Partial = partial_of("Train")
    train_for: dict[str, Partial] = partial_of("Train")


@dataclass(frozen=True)
class Benchmark(Problems):
    """Test problems of one benchmark, and how its answer column is read.

    `answer_format`: `plain` text or number, `gsm8k` (what follows `####`), `list` (several answers).
    `legacy_rule`: string match of the paper's lineage: `hendrycks`, or `number`, which first drops leading
    zeros and a trailing `.0`. A local file has no subset, split or revision.
    """

    split: str = "test"
    answer_format: Literal["plain", "gsm8k", "list"] = "plain"
    legacy_rule: Literal["hendrycks", "number"] = "hendrycks"
    licence: str = ""


@dataclass(frozen=True)
class Evaluation:
    """lm-eval tasks (name to column title) and how they are run; `verdict` fills the table.

    `benchmarks` says where the tasks' problems are (a task file names its benchmark in its metadata; one
    without an entry here is the package's); with `data_dir`, those on the hub are read from
    `data_dir/NAME/test.jsonl` instead. Training prompts are searched for runs of `overlap_words` words that
    they share with test problems (null: they are not). `backend` is how lm-eval runs a model, for BPC too:
    with transformers, or with vLLM in its own process.
    """

    tasks: dict[str, str] = field(default_factory=dict)
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    data_dir: str | None = None
    include_path: str | None = None
    max_gen_toks: int = positive(16384)
    limit: int | None = positive(None)
    verdict: Literal["legacy", "symbolic"] = "symbolic"
    overlap_words: int | None = positive(13)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = not_negative(1234)
    backend: Literal["transformers", "vllm"] = "transformers"
    # Below: how, not what.
    batch_size: int = positive(32)  # of `transformers`
    gpu_memory_utilization: float = limited(0.9, lambda v: 0 < v <= 1, "must lie in (0, 1]")  # of `vllm`


@dataclass(frozen=True)
class Bpc:
    """Bits per character (paper equation 3) of corpora under untrained models.

    The equation says "log" and "characters"; the paper's values (0.11 to 0.26) fit the natural
    logarithm, so `e` is the default although the unit is then nats per character.
    """

    models: list[str] = field(default_factory=list)
    corpora: list[str] = field(default_factory=list)
    log_base: Literal["e", "2"] = "e"
    unit: Literal["characters", "bytes"] = "characters"
    condition_on_prompt: bool = False
    limit: int | None = positive(None)


@dataclass(frozen=True)
class Hardware:
    """What the run may use. None of it enters a step's identity.

    `gpus` are those of one machine; a training uses `train_gpus` of them (null: all) on each of `nodes`
    machines, with one process a GPU, and a step that generates, evaluates or scores `inference_gpus`, over
    which the model is split; one that generates with vLLM takes as many such copies as there are GPUs for.
    Without GPUs a training has `cpu_processes` processes a machine.

    With several nodes, `micota run` starts the training's part on its own machine, and needs NODE_RANK,
    MASTER_ADDR and MASTER_PORT in its environment; starting the same step on the others is the scheduler's
    or the user's business (the step's train.yaml, with NODE_RANK=1 and so on).

    `slurm` holds sbatch's long options for every job of `micota run --executor slurm` (partition, account,
    time such as 12h or 2d, mem, ...); CPUs (`threads_per_step`) and GPUs are asked for without it.
    """

    gpus: int = not_negative(0)
    gpu_memory_gib: float = positive(80.0)
    train_gpus: int | None = not_negative(None)
    inference_gpus: int = positive(1)
    cpu_processes: int = positive(1)
    nodes: int = positive(1)
    cores: int = positive(2)
    threads_per_step: int = positive(1)
    slurm: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimates:
    """Figures behind the GPU-hours of `micota plan`; replace them by what a pilot measured.

    `tflops` (peak, bf16) and `mfu` (share of it reached in training) give training times,
    `decode_tokens_per_second` (output tokens a second and GPU of a 1B model; inversely proportional to
    parameters) generation times. `response_tokens` are mean lengths by the name of the model that responds.
    """

    tflops: float = positive(312.0)
    mfu: float = positive(0.35)
    decode_tokens_per_second: float = positive(15000.0)
    response_tokens: dict[str, int] = field(default_factory=dict)
    default_response_tokens: int = positive(1000)


@dataclass(frozen=True)
class Engines:
    """Commands of the engines; an entry may be several words, as in `conda run -n lf llamafactory-cli`."""

    llamafactory: str = "llamafactory-cli"
    mergekit: str = "mergekit-yaml"
    lm_eval: str = "lm_eval"
    vllm: str = "vllm serve"


def paper_methods() -> dict[str, str | None]:
    """Rows of the paper's Tables 2 and 3: method name to corpus (null: the student untrained)."""
    return {
        "Instruct": None,
        "Strong Teacher CoT": "strong",
        "Half-size CoT": "half",
        "Mix-Long": "mix-long",
        "MiCoTA": "micota",
    }


@dataclass(frozen=True)
class Recipe:
    """One run of the method. The sections are described by their classes.

    `methods` maps the name of a table's row to a corpus (null: the student untrained). `tables` maps a table
    to the methods of each student in it (`others`: of every student that it does not name); without it, the
    paper's Tables 1 to 3 hold all students. `sources` says where values come from (`micota plan --sources`).
    """

    name: str = limited(
        MISSING,
        lambda v: re.fullmatch(r"\w[\w.-]{,99}", v) is not None,
        "must be letters, digits, dots, hyphens and underscores, at most 100: it names directories",
    )
    teachers: dict[str, Model] = field(default_factory=dict)
    assistant: Assistant = field(default_factory=Assistant)
    students: dict[str, Student] = field(default_factory=dict)
    corpora: dict[str, Corpus] = field(default_factory=dict)
    methods: dict[str, str | None] = field(default_factory=dict)
    tables: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    prompts: Prompts = field(default_factory=Prompts)
    generation: Generation = field(default_factory=Generation)
    filter: Filter = field(default_factory=Filter)
    train: Train = field(default_factory=Train)
    evaluation: Evaluation = field(default_factory=Evaluation)
    bpc: Bpc = field(default_factory=Bpc)
    hardware: Hardware = field(default_factory=Hardware)
    estimates: Estimates = field(default_factory=Estimates)
    sources: dict[str, str] = field(default_factory=dict)
    engines: Engines = field(default_factory=Engines)
