"""The builders render what LLaMA-Factory, mergekit and lm-eval read: compared with files kept in golden/."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import TINY

from micota_lf import (
    UserError,
    compile_plan,
    dataset_info,
    evaluate_command,
    load_recipe,
    merge_config,
    train_config,
)

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    return yaml.safe_load((GOLDEN / name).read_text())


def test_train_config_of_a_student_matches_its_golden_file(tiny):
    assert train_config(tiny, "student-s", "micota", model_path="/models/student-s") == golden("train.yaml")


def test_train_config_of_the_assistant_uses_its_own_settings():
    words = ["students.assistant.train.learning_rate=3e-4", "train.per_device_train_batch_size=4"]
    config = train_config(load_recipe(TINY, [*words, "hardware.gpus=2"]), "assistant", "strong")
    assert config["learning_rate"] == 3e-4
    assert config["gradient_accumulation_steps"] * 2 * config["per_device_train_batch_size"] == 16


def test_a_system_message_reaches_training_generation_and_evaluation():
    recipe = load_recipe(TINY, ["prompts.system=Be brief."])
    assert train_config(recipe, "student-s", "micota")["default_system"] == "Be brief."
    assert "Be brief." in evaluate_command(recipe, "/m", "/o")
    plan = compile_plan(recipe)
    assert plan.steps[plan.slots["generate/teacher"]].config["prompts"]["system"] == "Be brief."


def test_unknown_names_are_user_errors(tiny):
    with pytest.raises(UserError, match="corpora: unknown name 'nothing'"):
        train_config(tiny, "student-s", "nothing")
    with pytest.raises(UserError, match="assistants: unknown name 'tb'; "):
        merge_config(tiny, "tb")


def test_extra_arguments_reach_llamafactory_unchanged():
    recipe = load_recipe(
        TINY, ["train.extra.neat_packing=true", "students.student-s.train.extra.pure_bf16=true"]
    )
    config = train_config(recipe, "student-s", "micota")
    assert config["neat_packing"] is True and config["pure_bf16"] is True


def test_merge_config_of_the_instruct_preset_matches_its_golden_file(tiny):
    assert merge_config(tiny, "ta", before="/models/ta", after="/runs/ta-sft") == golden(
        "merge_instruct.yaml"
    )


def test_merge_config_of_the_pretrained_preset_has_two_vectors_over_it():
    words = ["assistants.ta.merge.preset=pretrained", "assistants.ta.merge.pretrained_model=tiny:assistant"]
    recipe, models = load_recipe(TINY, words), {"before": "/models/ta", "after": "/runs/ta-sft"}
    config = merge_config(recipe, "ta", **models, pretrained="/models/ta-pre")
    assert config == golden("merge_pretrained.yaml")


def test_dataset_info_names_the_columns_that_llamafactory_would_otherwise_demand():
    assert dataset_info({"corpus": "/data/corpus.jsonl"}) == golden("dataset_info.yaml")


def test_evaluate_command_matches_its_golden_file(tiny):
    command = evaluate_command(tiny, "/models/student-s", "/runs/eval")
    tasks = command.index("--include_path") + 1
    assert Path(command[tasks], "_math.yaml").is_file()
    command[tasks] = "TASKS"
    assert command == golden("evaluate.yaml")


def test_the_evaluate_command_splits_a_model_over_the_inference_gpus_by_either_engine(tiny):
    hardware = replace(tiny.hardware, gpus=8, inference_gpus=2)
    found = {}
    for backend in ("transformers", "vllm"):
        spec = replace(tiny.evaluation, backend=backend)
        command = evaluate_command(replace(tiny, hardware=hardware, evaluation=spec), "/models/s", "/runs/e")
        found[backend] = json.loads(command[command.index("--model_args") + 1])
    assert found["transformers"]["parallelize"] and found["vllm"]["tensor_parallel_size"] == 2
    assert found["vllm"]["generation_config"] == "vllm"  # not the sampling values that a model ships
