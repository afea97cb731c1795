"""The recipe: everything that decides a run's results, as frozen dataclasses.

One class a section of the YAML; field names are the YAML keys (`lambda_` and `from_` stand for `lambda` and
`from`, which Python reserves). Inside `train` and `merge` the keys are LLaMA-Factory's and mergekit's own.
Limits and the marks `How` and `Apart` (what enters no step's identity; system/fields.py) stand in the types:

    recipe = load_recipe("recipes/tiny.yaml", ["students.student-s.train.learning_rate=1e-3"])
    recipe.students["student-s"].model
"""

import re
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, get_type_hints
from urllib.parse import urlsplit

from annotated_types import Ge, MinLen
from pydantic import AfterValidator, BeforeValidator, Strict, WithJsonSchema

from ..inputs.problems import Benchmark, Prompts
from ..inputs.references import ModelRef
from ..system import fields
from ..system.fields import Apart, Count, How, Natural, NotNegative, Part, Positive, Section, Share, keys_of
from ..system.files import read_beside
from .weighting import Weight

RATIO_TOLERANCE = 1e-6  # how far from 1 the ratios of a mix may add up
Dtype = Literal["bfloat16", "float16", "float32"]
NAMES = read_beside(__file__, "names")


class MergeMethod(NamedTuple):
    """A method of mergekit: its keys, of each model and of the merge, and whether it has a base model."""

    parameters: list[str]
    options: list[str]
    base: bool


MERGE_METHODS = {name: MergeMethod(**row) for name, row in NAMES["merge_methods"].items()}


def _server(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be http(s) addresses without user and password")
    return url


def _steps(number: int) -> int:
    if not number:
        raise ValueError("must be -1 (no limit) or above 0")
    return number


def _verdict(name: str) -> str:
    own = re.search(OWN_VERDICT, name)
    if name not in VERDICTS and not own:
        raise ValueError(f"must be one of {', '.join(VERDICTS)}, or a function of one's own, FILE.py:NAME")
    if own and not Path(name.rpartition(":")[0]).is_file():
        raise ValueError("names no file that is there (from a recipe, with ./ before it)")
    return name


def _judging(verdict: str) -> str:
    if verdict == "none":
        raise ValueError("judges nothing")
    return verdict


def _extra(values: dict[str, Any]) -> dict[str, Any]:
    problems = [f"set train.{key} instead" for key in values if key in get_type_hints(Train)]
    problems += [f"{key} follows from the recipe or the step" for key in values if key in NAMES["decided"]]
    if problems:
        raise ValueError(f"overrides what the recipe states: {'; '.join(problems)}")
    return {key: value for key, value in values.items() if value is not None}  # null removes


def _dotted(values: Any) -> Any:
    return dict(fields.leaves(values)) if isinstance(values, dict) else values


def _name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{,99}", name):
        raise ValueError("names directories: at most 100 letters, digits, dots, hyphens and underscores")
    return name


Name = Annotated[str, AfterValidator(_name)]
GRADERS, OWN, OWN_VERDICT = ("legacy", "symbolic", "boxed"), "own", r"\.py:\w+$"
VERDICTS = (*GRADERS, "none")
_VERDICT_SCHEMA = WithJsonSchema({"anyOf": [{"enum": VERDICTS}, {"type": "string", "pattern": OWN_VERDICT}]})
Verdict = Annotated[str, AfterValidator(_verdict), _VERDICT_SCHEMA]
"""Who says whether a response is right: a grader, or a function of the user's own, `FILE.py:NAME`."""


class Model(Section):
    """A model that is used as it is: a strong teacher, or the short-CoT model of Mix-Long."""

    model: str
    revision: str | None = None

    @property
    def reference(self) -> ModelRef:
        """The model and its revision."""
        return ModelRef(self.model, self.revision)


class Generation(Section):
    """How responses are sampled. Greedy and 16K tokens are the paper's (section 4.2).

    `vllm` starts a server of its own on the step's GPUs; `endpoint` asks OpenAI-compatible servers that run
    already, those of `endpoints` that serve the model. `prompt_format: raw` gives the prompt as plain text,
    as the official repository does, instead of through the model's chat template. `context_len` limits the
    tokens of prompt and response together, as that repository's max_model_len does.
    """

    backend: Literal["transformers", "vllm", "endpoint", "fake"] = "transformers"
    prompt_format: Literal["chat", "raw"] = "chat"
    max_tokens: Count = 16384
    context_len: Count | None = None
    temperature: NotNegative = 0.0
    top_p: Share = 1.0
    samples: Count = 1
    """Responses to each prompt; several need a temperature."""
    seed: Natural = 0
    dtype: Dtype = "bfloat16"
    batch_size: How[Count] = 64
    """Of `transformers`."""
    gpu_memory_utilization: How[Part] = 0.9
    """Of `vllm`."""
    endpoints: How[list[Annotated[str, AfterValidator(_server)]]] = field(default_factory=list)
    api_key_env: How[str | None] = None
    """The environment variable that holds the endpoints' key."""

    def room(self, prompt: int) -> int:
        """How many tokens a response to a prompt of so many may have; not above 0 if there is no room."""
        return min(self.max_tokens, self.context_len - prompt) if self.context_len else self.max_tokens


class Filter(Section):
    """Which responses become training rows (paper equation 1): right, finished, not too long.

    `verdict` names the grader that decides (`boxed` is `symbolic` of answers in a box alone); `none` keeps
    wrong answers too, as section 3.3 of the paper does for the MiCoTA corpus if it is read literally. A
    function of one's own, `FILE.py:NAME`, is given each row and says True, False or why it is rejected.
    `max_tokens` is L_max; null is generation's own. Of several such responses to a prompt, `per_prompt`
    keeps all, the one of fewest tokens, or the first of those that were asked for. With `keep_truncated`,
    responses that were cut are kept like others. `skip_bad` leaves out, and counts, rows of a file that lack
    what is needed, where the first one would be an error.
    """

    verdict: Verdict = "symbolic"
    max_tokens: Count | None = None
    keep_truncated: bool = False
    skip_bad: bool = False
    per_prompt: Literal["all", "shortest", "first"] = "all"


class Train(Section):
    """Supervised fine-tuning, in LLaMA-Factory's key names; `global_batch_size` is ours (appendix 6.2).

    The gradient accumulation is derived: global_batch_size / (per_device_train_batch_size x devices).
    Without `check_template`, a template that trains other tokens than inference meets is only warned of.
    `extra` takes any other LLaMA-Factory argument that neither the recipe states nor the library decides.
    LoRA is refused: its adapters could be neither evaluated nor merged.

    `arrange` says how several processes share a global batch: `order` gives a micro-step rows of like length,
    `pack` lets short rows share a sequence too, apart from each other (slow without flash-attn), `none` does
    neither. `auto` is `pack` on GPUs with flash-attn, else `order`. Losses and gradients differ by rounding
    alone (stages/arrange.py); so they do with `enable_liger_kernel`, the fused loss.
    """

    global_batch_size: Count = 32
    learning_rate: Positive = 1.0e-5
    num_train_epochs: Positive = 2.0
    max_steps: Annotated[int, Strict(), Ge(-1), AfterValidator(_steps)] = -1
    lr_scheduler_type: str = "cosine"
    warmup_steps: NotNegative = 0.0
    weight_decay: NotNegative = 0.01
    max_grad_norm: NotNegative = 1.0
    optim: str = "adamw_torch"
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.999
    cutoff_len: Count = 16384
    template: str | None = "qwen"
    """LLaMA-Factory's name; null: the model's own chat template, with which the library writes the tokens."""
    finetuning_type: Literal["full", "freeze"] = "full"
    bf16: bool = True
    packing: bool = False
    flash_attn: str = "auto"
    seed: Natural = 42
    extra: Annotated[dict[str, Any], AfterValidator(_extra)] = field(default_factory=dict)
    per_device_train_batch_size: How[Count] = 1
    deepspeed: How[Literal["none", "zero2", "zero3"]] = "none"
    check_template: How[bool] = True
    use_cpu: How[bool] = False
    disable_gradient_checkpointing: How[bool] = False
    enable_liger_kernel: How[bool] = True
    """Where there are GPUs."""
    arrange: How[Literal["auto", "none", "order", "pack"]] = "auto"
    save_steps: How[Count | None] = None
    """Null: about every 30 minutes by the estimates; 500 without GPUs."""
    # YAML reads an unquoted `no` as false.
    save_strategy: How[
        Annotated[Literal["no", "steps", "epoch"], BeforeValidator(lambda v: "no" if v is False else v)]
    ] = "steps"
    save_total_limit: How[Count | None] = 1
    logging_steps: How[Count] = 1
    report_to: How[Literal["none", "tensorboard", "wandb", "mlflow", "swanlab", "trackio"]] = "none"


# Some keys of a section, to be laid over its own values; and one of the names of MERGE_METHODS.
FilterKeys: TypeAlias = dict[str, Any]
TrainKeys: TypeAlias = dict[str, Any]
MergeMethodName: TypeAlias = str
Values = Annotated[list[Any], MinLen(1)]
Variants = Annotated[dict[str, Values], BeforeValidator(_dotted)]
if not TYPE_CHECKING:
    FilterKeys, TrainKeys = keys_of(Filter), keys_of(Train)
    MergeMethodName = Literal[*MERGE_METHODS]


class Merge(Section):
    """Merging an assistant before and after fine-tuning, in mergekit's key names (paper section 3.2).

    `instruct`: one task vector over the assistant's starting point; weight 0.5 halves it.
    `pretrained`: two vectors (before, after) over `pretrained_model`, where TIES' sign consensus acts.
    `health_prompts` of the recipe's prompts are answered greedily by the merged model; the step fails if no
    answer ends. 0 asks none.

    With `target_length_ratio`, the run finds the weight at which responses are that share as long as those of
    the fine-tuned model (`from`): it merges at each of `probe_weights`, and these models and the merged one
    answer `probe_prompts` prompts greedily (stages/sample.py), in place of `health_prompts`.
    """

    preset: Literal["instruct", "pretrained"] = "instruct"
    pretrained_model: Apart[str | None] = None
    pretrained_revision: Apart[str | None] = None
    merge_method: MergeMethodName = "dare_ties"
    weight: Weight | None = None
    """Null: 0.5, or what `target_length_ratio` finds. By layer or part of a layer: recipe/weighting.py."""
    density: Part = 0.5
    normalize: bool = False
    rescale: bool = True
    lambda_: float = 1.0
    dtype: Dtype = "bfloat16"
    seed: Natural = 42
    health_prompts: How[Natural] = 4
    target_length_ratio: Apart[Part | None] = None
    probe_weights: Apart[Annotated[list[float], MinLen(1)]] = field(default_factory=NAMES["probes"].copy)
    probe_prompts: Apart[Annotated[int, Ge(2), Strict()]] = 128

    @property
    def pretrained(self) -> ModelRef | None:
        """The model that both task vectors start from, with the preset of that name."""
        given = self.pretrained_model if self.preset == "pretrained" else None
        return ModelRef(given, self.pretrained_revision) if given else None


class Assistant(Section):
    """A teacher assistant: the training that `from` names (STUDENT/CORPUS), merged with its start.

    With `before`, two models that exist already, a teacher or an untrained student each: `from` is then the
    one with long chains of thought, `before` the one with short ones.
    """

    from_: str
    before: str | None = None
    merge: Merge = field(default_factory=Merge)

    @property
    def start(self) -> str:
        """The name of the model that it is merged with."""
        return self.before or self.from_.partition("/")[0]


class Corpus(Section):
    """Training rows: the filtered responses of a model (`from`) or of a `file`, or a `mix` of other corpora.

    `from` names a teacher, a student (untrained), STUDENT/CORPUS (the student trained on that corpus) or an
    assistant. A file holds responses that exist already: JSON Lines with `prompt`, `response` and, for a
    filter by verdict, `answer`.

    With `rewrites`, the name of a corpus, the model does not answer the prompts: it is shown each row of that
    corpus by `template` and writes its response anew, shorter or otherwise.

    With `on_policy`, the name of any model, students do not learn the rows: they answer the rows' prompts
    themselves, and learn how likely that model finds each of their tokens (the section `on_policy`).
    """

    from_: str | None = None
    file: str | None = None
    filter: FilterKeys = field(default_factory=dict)
    mix: dict[str, Part] = field(default_factory=dict)
    size: Count | None = None
    seed: Natural = 0
    rewrites: str | None = None
    template: str = NAMES["rewrite"]
    on_policy: str | None = None


class OnPolicy(Section):
    """On-policy distillation (Agarwal et al., arXiv 2306.13649), in the key names of TRL's GKDConfig.

    `lmbda` is the share of batches that the student answers itself, at `temperature`; in the others it reads
    the corpus. `beta` lies between the divergence from the teacher's (0) and from the student's (1) side.
    `max_new_tokens` is of the student's responses (null: generation.max_tokens). All else is `train`'s.
    """

    lmbda: Share = 1.0
    beta: Share = 0.5
    temperature: Positive = 1.0
    max_new_tokens: Count | None = None


class Student(Model):
    """A model to distil into. `train_for` overrides `train` by corpus name or by teacher name."""

    train: TrainKeys = field(default_factory=dict)
    train_for: dict[str, TrainKeys] = field(default_factory=dict)


class Evaluation(Section):
    """lm-eval tasks (name to column title) and how they are run; `verdict` fills the table.

    `benchmarks` says where the tasks' problems are (a benchmark NAME, here or in the package's data_info, is
    the task `micota_NAME`; a task file of `include_path` names its benchmark in its metadata); with
    `data_dir`, those on the hub are read from `data_dir/NAME/test.jsonl` instead. Training prompts are
    searched for runs of `overlap_words` words that they share with test problems (null: they are not).
    `backend` is how a model is run, for BPC too: by lm-eval with transformers, or by vLLM, whose server on
    the step's GPUs lm-eval asks (for BPC, vLLM runs in lm-eval's own process). Tasks that sample
    (`micota_NAME_avg`) ask each problem `samples` times at `temperature`; the others are greedy.
    """

    tasks: Apart[dict[str, str]] = field(default_factory=dict)
    benchmarks: Apart[dict[Name, Benchmark]] = field(default_factory=dict)
    data_dir: Apart[str | None] = None
    include_path: Apart[str | None] = None
    max_gen_toks: Count = 16384
    limit: Count | None = None
    verdict: Apart[Annotated[Verdict, AfterValidator(_judging)]] = "symbolic"
    overlap_words: Apart[Count | None] = 13
    dtype: Dtype = "bfloat16"
    seed: Natural = 1234
    samples: Count = 16
    temperature: Positive = 0.6
    """With top_p 0.95 that of R1's evaluations (arXiv 2501.12948, section 3)."""
    backend: Literal["transformers", "vllm"] = "transformers"
    batch_size: How[Count] = 32
    """Of `transformers`."""
    gpu_memory_utilization: How[Part] = 0.9
    """Of `vllm`."""

    @property
    def column(self) -> str:
        """Where an evaluation's numbers have the verdict: its name, or `own`."""
        return OWN if ":" in self.verdict else self.verdict


class Bpc(Section):
    """Bits per character (paper equation 3, Table 4) of corpora under untrained models.

    The equation says "log" and "characters"; the paper's values (0.11 to 0.26) fit the natural
    logarithm, so `e` is the default although the unit is then nats per character.
    """

    models: Apart[list[str]] = field(default_factory=list)
    corpora: Apart[list[str]] = field(default_factory=list)
    log_base: Annotated[Literal["e", "2"], BeforeValidator(str)] = "e"
    unit: Literal["characters", "bytes"] = "characters"
    condition_on_prompt: bool = False
    limit: Count | None = None


class Hardware(Section):
    """What the run may use. None of it enters a step's identity.

    `gpus` are those of one machine; a training uses `train_gpus` of them (null: all) on each of `nodes`
    machines, with one process a GPU. A step that generates, evaluates or scores splits its model over
    `inference_gpus` (null: the fewest of 1, 2, 4, 8 at which the weights take half of their memory at most).
    With vLLM there are several such copies: to generate, as many as there are GPUs for; to evaluate, so many
    that it is estimated to take half an hour. Without GPUs a training has `cpu_processes` a machine.
    `disk_gib` is what the run may take of each disk, for quotas and file systems that grow (null: all that
    is free).

    With several nodes, `micota run` starts the training's part on its own machine and waits for the others,
    on each of which `micota join WORKSPACE` runs (docs/cluster.md). With NODE_RANK, MASTER_ADDR and
    MASTER_PORT in its environment it waits for nobody: the scheduler or the user starts train.yaml there.

    `slurm` holds sbatch's long options for every job of `micota run --executor slurm` (partition, account,
    time such as 12h or 2d, mem, ...); CPUs (`threads_per_step`) and GPUs are asked for without it.
    """

    gpus: How[Natural] = 0
    gpu_memory_gib: How[Positive] = 80.0
    disk_gib: How[Positive | None] = None
    train_gpus: How[Natural | None] = None
    inference_gpus: How[Count | None] = None
    cpu_processes: How[Count] = 1
    nodes: How[Count] = 1
    cores: How[Count] = 2
    threads_per_step: How[Count] = 1
    slurm: How[dict[str, Any]] = field(default_factory=dict)


class Estimates(Section):
    """Figures behind the GPU-hours of `micota plan`; replace them by what a pilot measured.

    `tflops` (peak, bf16), `mfu` (share of it that a GPU at work reaches in training) and `balance` (share of
    a training's time in which GPUs wait for no other, as rows of a batch differ in length) give training
    times, `decode_tokens_per_second` (output tokens a second and GPU of a 1B model; inversely proportional to
    parameters) generation times. `startup_minutes` pass in each step on GPUs before its engine is at work:
    vLLM took 3.6 to start a 70B model on 8 GPUs, its first answer up to one more (vllm issue 19824).
    `response_tokens` are mean lengths by the name of the model that responds.
    """

    tflops: How[Positive] = 312.0
    mfu: How[Positive] = 0.35
    balance: How[Part] = 0.9
    decode_tokens_per_second: How[Positive] = 15000.0
    startup_minutes: How[NotNegative] = 4.0
    response_tokens: How[dict[str, int]] = field(default_factory=dict)
    default_response_tokens: How[Count] = 1000


class Engines(Section):
    """Commands of the engines; an entry may be several words, as in `conda run -n lf llamafactory-cli`."""

    llamafactory: How[str] = "llamafactory-cli"
    mergekit: How[str] = "mergekit-yaml"
    lm_eval: How[str] = "lm_eval"
    vllm: How[str] = "vllm serve"
    trl: How[str] = "python -m micota_lf.stages.gkd"


class Recipe(Section):
    """One run of the method. The sections are described by their classes.

    `name` names the report's directory. `methods` maps the name of a table's row to a corpus (null: the
    student untrained); without it, the paper's rows hold whose corpora there are. `tables` maps a table to
    the methods of each student in it (`others`: of every student that it does not name); without it, the
    paper's Tables 1 to 3 hold all students. `sources` says where values come from (`micota plan
    --sources`).

    `variants` gives keys several values each: a run is then one of every combination, in one plan whose equal
    steps are one, and the report compares them. `seed` is that of everything random, in place of each
    section's own, and `seeds` are several such runs, over which the report has intervals. `${seed}` stands
    for it elsewhere, as in a model's path.

    >>> from micota_lf import load_recipe
    >>> recipe = load_recipe("recipes/tiny.yaml")
    >>> recipe.name, [*recipe.students], recipe.corpora["micota"].from_
    ('tiny', ['student-l', 'student-s', 'assistant'], 'ta')
    """

    name: Name
    prompts: Prompts
    teachers: dict[Name, Model] = field(default_factory=dict)
    students: dict[Name, Student] = field(default_factory=dict)
    assistants: dict[Name, Assistant] = field(default_factory=dict)
    corpora: dict[Name, Corpus] = field(default_factory=dict)
    methods: dict[str, str | None] = field(default_factory=NAMES["methods"].copy)
    tables: dict[Name, dict[str, list[str]]] = field(default_factory=dict)
    generation: Generation = field(default_factory=Generation)
    filter: Filter = field(default_factory=Filter)
    train: Train = field(default_factory=Train)
    on_policy: OnPolicy = field(default_factory=OnPolicy)
    evaluation: Evaluation = field(default_factory=Evaluation)
    bpc: Bpc = field(default_factory=Bpc)
    hardware: Hardware = field(default_factory=Hardware)
    estimates: Estimates = field(default_factory=Estimates)
    sources: dict[str, str] = field(default_factory=dict)
    variants: Variants = field(default_factory=dict)
    """Dotted keys, each with a list of values."""
    seed: Natural | None = None
    """Null: each section's own."""
    seeds: list[Natural] = field(default_factory=list)
    engines: Engines = field(default_factory=Engines)
