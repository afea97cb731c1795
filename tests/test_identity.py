"""What decides a step's identity: every field of a recipe, and the kinds of steps that it changes.

A field that has no line in FIELDS fails, so that a new one cannot be forgotten.
"""

import json
import re
from dataclasses import is_dataclass
from functools import cache
from typing import get_args, get_origin, get_type_hints

import pytest
from conftest import TINY

from micota_lf import Recipe, compile_plan, load_recipe
from micota_lf.system.fields import HOW, marked

# By field (`*` for a name): another value, the kinds of steps that it changes by itself (those that read them
# follow), and what else the recipe must say for the field to matter.
FIELDS = {
    "name": ("name=other", ""),
    "prompts.path": ("prompts.path=tiny:two", "generate merge overlap preflight"),
    "prompts.revision": (
        "prompts.revision=v1", "generate merge overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.subset": (
        "prompts.subset=a", "generate overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.split": ("prompts.split=b", "generate overlap preflight", "prompts.path=someone/problems"),
    "prompts.id_field": (
        "prompts.id_field=c", "generate overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.problem_field": (
        "prompts.problem_field=d", "generate overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.answer_field": (
        "prompts.answer_field=e", "generate overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.answer_format": (
        "prompts.answer_format=gsm8k", "generate overlap preflight",
        "prompts.path=someone/problems",
    ),
    "prompts.limit": ("prompts.limit=9", "generate overlap preflight"),
    "prompts.skip_bad": ("prompts.skip_bad=true", "generate overlap preflight"),
    "prompts.template": ("prompts.template=Q:{problem}", "evaluate generate overlap preflight"),
    "prompts.system": ("prompts.system=Brief", "evaluate generate overlap preflight train"),
    "teachers.*.model": ("teachers.teacher.model=tiny:student-m", "generate preflight"),
    "teachers.*.revision": (
        "teachers.teacher.revision=v1", "fetch preflight",
        "teachers.teacher.model=someone/teacher",
    ),
    "students.*.model": ("students.student-s.model=tiny:student-m", "preflight"),
    "students.*.revision": (
        "students.student-s.revision=v1", "fetch preflight",
        "students.student-s.model=someone/student",
    ),
    "students.*.train": ("students.student-s.train.seed=7", "train"),
    "students.*.train_for": ("students.student-s.train_for.micota.seed=7", "train"),
    "assistants.*.from_": ("assistants.ta.from=student-m/strong", "merge preflight"),
    "assistants.*.before": ("assistants.ta.before=student-m", "merge preflight"),
    "assistants.*.merge.preset": (
        "assistants.ta.merge.preset=pretrained", "fetch merge preflight",
        "assistants.ta.merge.pretrained_model=someone/base",
    ),
    "assistants.*.merge.pretrained_model": (
        "assistants.ta.merge.pretrained_model=someone/other", "fetch preflight",
        "assistants.ta.merge.preset=pretrained assistants.ta.merge.pretrained_model=someone/base",
    ),
    "assistants.*.merge.pretrained_revision": (
        "assistants.ta.merge.pretrained_revision=v1", "fetch preflight",
        "assistants.ta.merge.preset=pretrained assistants.ta.merge.pretrained_model=someone/base",
    ),
    "assistants.*.merge.merge_method": ("assistants.ta.merge.merge_method=ties", "merge"),
    "assistants.*.merge.weight": ("assistants.ta.merge.weight=0.4", "merge"),
    "assistants.*.merge.density": ("assistants.ta.merge.density=0.4", "merge"),
    "assistants.*.merge.normalize": ("assistants.ta.merge.normalize=true", "merge"),
    "assistants.*.merge.rescale": ("assistants.ta.merge.rescale=false", "merge"),
    "assistants.*.merge.lambda_": ("assistants.ta.merge.lambda=2", "merge"),
    "assistants.*.merge.dtype": ("assistants.ta.merge.dtype=bfloat16", "merge"),
    "assistants.*.merge.seed": ("assistants.ta.merge.seed=7", "merge"),
    "assistants.*.merge.health_prompts": ("assistants.ta.merge.health_prompts=2", ""),
    "assistants.*.merge.target_length_ratio": (
        "assistants.ta.merge.target_length_ratio=0.4", "choose",
        "assistants.ta.merge.weight=null assistants.ta.merge.target_length_ratio=0.5",
    ),
    "assistants.*.merge.probe_weights": (
        "assistants.ta.merge.probe_weights=[0.1,0.2]", "choose merge",
        "assistants.ta.merge.weight=null assistants.ta.merge.target_length_ratio=0.5",
    ),
    "assistants.*.merge.probe_prompts": (
        "assistants.ta.merge.probe_prompts=9", "generate sample",
        "assistants.ta.merge.weight=null assistants.ta.merge.target_length_ratio=0.5",
    ),
    "corpora.*.from_": ("corpora.short.from=teacher", "preflight"),
    "corpora.*.file": ("corpora.short.file=FILE corpora.short.from=null", "filter preflight"),
    "corpora.*.filter": ("corpora.short.filter.verdict=legacy", "filter"),
    "corpora.*.mix": ("corpora.mix-long.mix.strong=0.3 corpora.mix-long.mix.short=0.7", "mix"),
    "corpora.*.size": ("corpora.mix-long.size=50", "mix"),
    "corpora.*.seed": ("corpora.mix-long.seed=7", "mix"),
    "corpora.*.rewrites": ("corpora.short.rewrites=strong", "generate"),
    "corpora.*.template": (
        "corpora.short.template='{response}'", "generate", "corpora.short.rewrites=strong",
    ),
    "corpora.*.on_policy": ("corpora.micota.on_policy=teacher", "distil preflight"),
    "on_policy.lmbda": ("on_policy.lmbda=0.5", "distil", "corpora.micota.on_policy=teacher"),
    "on_policy.beta": ("on_policy.beta=0.1", "distil", "corpora.micota.on_policy=teacher"),
    "on_policy.temperature": ("on_policy.temperature=2", "distil", "corpora.micota.on_policy=teacher"),
    "on_policy.max_new_tokens": ("on_policy.max_new_tokens=9", "distil", "corpora.micota.on_policy=teacher"),
    "methods": ("methods.MiCoTA=strong", ""),
    "tables": ("tables.table3.others=[MiCoTA]", ""),
    "generation.backend": ("generation.backend=fake", "generate"),
    "generation.prompt_format": ("generation.prompt_format=raw", "generate"),
    "generation.max_tokens": ("generation.max_tokens=99", "filter generate preflight"),
    "generation.context_len": ("generation.context_len=999", "generate preflight"),
    "generation.temperature": ("generation.temperature=1", "generate"),
    "generation.top_p": ("generation.top_p=0.5", "generate"),
    "generation.samples": ("generation.samples=3", "generate", "generation.temperature=1"),
    "generation.seed": ("generation.seed=7", "generate", "generation.temperature=1"),
    "generation.dtype": ("generation.dtype=bfloat16", "generate"),
    "generation.batch_size": ("generation.batch_size=9", ""),
    "generation.gpu_memory_utilization": ("generation.gpu_memory_utilization=0.5", ""),
    "generation.endpoints": ("generation.endpoints=[http://a]", ""),
    "generation.api_key_env": ("generation.api_key_env=KEY", ""),
    "filter.verdict": ("filter.verdict=legacy", "filter"),
    "filter.per_prompt": ("filter.per_prompt=shortest", "filter"),
    "filter.max_tokens": ("filter.max_tokens=99", "filter preflight"),
    "filter.keep_truncated": ("filter.keep_truncated=true", "filter"),
    "filter.skip_bad": ("filter.skip_bad=true", "filter"),
    "train.global_batch_size": ("train.global_batch_size=32", "train"),
    "train.learning_rate": ("train.learning_rate=0.5", "train"),
    "train.num_train_epochs": ("train.num_train_epochs=5", "train"),
    "train.max_steps": ("train.max_steps=5", "train"),
    "train.lr_scheduler_type": ("train.lr_scheduler_type=linear", "train"),
    "train.warmup_steps": ("train.warmup_steps=0.3", "train"),
    "train.weight_decay": ("train.weight_decay=0.5", "train"),
    "train.max_grad_norm": ("train.max_grad_norm=0.5", "train"),
    "train.optim": ("train.optim=sgd", "train"),
    "train.adam_beta1": ("train.adam_beta1=0.5", "train"),
    "train.adam_beta2": ("train.adam_beta2=0.5", "train"),
    "train.cutoff_len": ("train.cutoff_len=999", "preflight train"),
    "train.template": ("train.template=chatml", "preflight train"),
    "train.finetuning_type": ("train.finetuning_type=freeze", "train"),
    "train.bf16": ("train.bf16=true", "train"),
    "train.packing": ("train.packing=true", "train"),
    "train.flash_attn": ("train.flash_attn=sdpa", "train"),
    "train.seed": ("train.seed=7", "train"),
    "train.extra": ("train.extra={neftune_noise_alpha: 5}", "preflight train"),
    "train.per_device_train_batch_size": ("train.per_device_train_batch_size=4", ""),
    "train.check_template": ("train.check_template=false", ""),
    "train.use_cpu": ("train.use_cpu=false", ""),
    "train.disable_gradient_checkpointing": ("train.disable_gradient_checkpointing=false", ""),
    "train.enable_liger_kernel": (
        "train.enable_liger_kernel=false", "", "hardware.gpus=1 train.use_cpu=false",
    ),
    "train.arrange": ("train.arrange=none", "", "hardware.cpu_processes=2"),
    "train.save_steps": ("train.save_steps=5", ""),
    "train.save_strategy": ("train.save_strategy=epoch", ""),
    "train.save_total_limit": ("train.save_total_limit=5", ""),
    "train.logging_steps": ("train.logging_steps=7", ""),
    "train.report_to": ("train.report_to=tensorboard", ""),
    "train.deepspeed": ("train.deepspeed=zero2", "", "train.use_cpu=false"),
    "evaluation.tasks": ("evaluation.tasks.micota_gsm8k=G", "evaluate overlap preflight"),
    "evaluation.benchmarks.*.path": (
        "evaluation.benchmarks.hub.path=someone/other", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.revision": (
        "evaluation.benchmarks.hub.revision=v1", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.subset": (
        "evaluation.benchmarks.hub.subset=a", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.split": (
        "evaluation.benchmarks.hub.split=b", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.id_field": (
        "evaluation.benchmarks.hub.id_field=c", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.problem_field": (
        "evaluation.benchmarks.hub.problem_field=d", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.answer_field": (
        "evaluation.benchmarks.hub.answer_field=e", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.limit": (
        "evaluation.benchmarks.hub.limit=9", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.skip_bad": (
        "evaluation.benchmarks.hub.skip_bad=true", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.answer_format": (
        "evaluation.benchmarks.hub.answer_format=gsm8k", "evaluate overlap preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.legacy_rule": (
        "evaluation.benchmarks.hub.legacy_rule=number", "evaluate overlap",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.problems": (
        "evaluation.benchmarks.hub.problems=9", "preflight",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.benchmarks.*.licence": (
        "evaluation.benchmarks.hub.licence=MIT", "",
        "evaluation.benchmarks.hub.path=someone/benchmark evaluation.tasks.micota_hub=H",
    ),
    "evaluation.data_dir": ("evaluation.data_dir=/data", ""),
    "evaluation.include_path": ("evaluation.include_path=FOLDER", ""),
    "evaluation.max_gen_toks": ("evaluation.max_gen_toks=99", "evaluate preflight"),
    "evaluation.limit": ("evaluation.limit=9", "evaluate"),
    "evaluation.verdict": ("evaluation.verdict=legacy", ""),
    "evaluation.overlap_words": ("evaluation.overlap_words=9", "overlap"),
    "evaluation.dtype": ("evaluation.dtype=bfloat16", "bpc evaluate"),
    "evaluation.seed": ("evaluation.seed=7", "evaluate", "evaluation.tasks.micota_tiny_two_avg=A"),
    "evaluation.samples": ("evaluation.samples=4", "evaluate", "evaluation.tasks.micota_tiny_two_avg=A"),
    "evaluation.temperature": (
        "evaluation.temperature=1", "evaluate",
        "evaluation.tasks.micota_tiny_two_avg=A",
    ),
    "evaluation.backend": ("evaluation.backend=vllm", "bpc evaluate"),
    "evaluation.batch_size": ("evaluation.batch_size=9", ""),
    "evaluation.gpu_memory_utilization": ("evaluation.gpu_memory_utilization=0.5", ""),
    "bpc.models": ("bpc.models=[teacher]", "bpc"),
    "bpc.corpora": ("bpc.corpora=[strong]", "bpc"),
    "bpc.log_base": ("bpc.log_base='2'", "bpc"),
    "bpc.unit": ("bpc.unit=bytes", "bpc"),
    "bpc.condition_on_prompt": ("bpc.condition_on_prompt=true", "bpc"),
    "bpc.limit": ("bpc.limit=9", "bpc"),
    "hardware.gpus": ("hardware.gpus=2", ""),
    "hardware.gpu_memory_gib": ("hardware.gpu_memory_gib=40", ""),
    "hardware.disk_gib": ("hardware.disk_gib=5", ""),
    "hardware.inference_gpus": ("hardware.inference_gpus=2", ""),
    "hardware.cpu_processes": ("hardware.cpu_processes=2", ""),
    "hardware.nodes": ("hardware.nodes=2", ""),
    "hardware.cores": ("hardware.cores=9", ""),
    "hardware.threads_per_step": ("hardware.threads_per_step=2", ""),
    "hardware.slurm": ("hardware.slurm={time: 2d}", ""),
    "hardware.train_gpus": ("hardware.train_gpus=1", "", "hardware.gpus=2"),
    "estimates.tflops": ("estimates.tflops=9", ""),
    "estimates.mfu": ("estimates.mfu=0.1", ""),
    "estimates.balance": ("estimates.balance=0.1", ""),
    "estimates.startup_minutes": ("estimates.startup_minutes=1", ""),
    "estimates.decode_tokens_per_second": ("estimates.decode_tokens_per_second=9", ""),
    "estimates.response_tokens": ("estimates.response_tokens={teacher: 9}", ""),
    "estimates.default_response_tokens": ("estimates.default_response_tokens=9", ""),
    "sources": ("sources.name=ours", ""),
    "variants": ("variants.prompts.limit=[1]", ""),
    "seed": ("seed=7", "merge mix train"),
    "seeds": ("seeds=[1,2]", "merge mix train"),  # the first one's
    "engines.llamafactory": ("engines.llamafactory=other", ""),
    "engines.mergekit": ("engines.mergekit=other", ""),
    "engines.lm_eval": ("engines.lm_eval=other", ""),
    "engines.vllm": ("engines.vllm=other", ""),
    "engines.trl": ("engines.trl=other", ""),
}  # fmt: skip
SPLIT = "train.per_device_train_batch_size=4"  # leaves room for other batches and devices


def walk(cls, at=""):
    """Every field below a section by its path, and whether it is marked as a way of running."""
    for name, hint in get_type_hints(cls).items():
        below = [hint, *get_args(hint)][-1]
        if is_dataclass(below):
            yield from walk(below, f"{at}{name}.*." if get_origin(hint) is dict else f"{at}{name}.")
        else:
            yield f"{at}{name}", name in marked(cls, HOW)


MARKED = dict(walk(Recipe))


@cache
def plan_of(*words):
    return compile_plan(load_recipe(TINY, [SPLIT, *words]))


def own(step):
    """What decides a step beside the steps that it reads."""
    inputs = {role: given.identity for role, given in step.inputs.items()}
    return json.dumps([step.kind, step.config, inputs], sort_keys=True)


def words_of(text):
    return re.split(r" (?=[a-z][\w.-]*=)", text) if text else []


def test_every_field_of_every_section_has_a_line():
    assert set(FIELDS) == set(MARKED)


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_value_changes_the_identity_of_exactly_the_steps_that_it_should(field, tmp_path):
    change, kinds, needed = (*FIELDS[field], "")[:3]
    rows, tasks = tmp_path / "r.jsonl", tmp_path / "tasks"
    rows.write_text('{"id": "a", "prompt": "p", "response": "r", "answer": "1"}\n')
    tasks.mkdir()
    change = change.replace("FILE", str(rows)).replace("FOLDER", str(tasks))
    before, after = plan_of(*words_of(needed)), plan_of(*words_of(needed), *words_of(change))
    known = {own(step) for step in before.steps.values()}
    assert {step.kind for step in after.steps.values() if own(step) not in known} == set(kinds.split())
    if MARKED[field]:
        assert set(after.steps) == set(before.steps)
