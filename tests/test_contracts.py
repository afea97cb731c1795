"""The installed engines accept what we render, with their own parsers."""

import pytest
import yaml
from conftest import TINY

from micota_lf import load_recipe, merge_config, train_config
from micota_lf.grading.measures import METRICS
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.lineage import trainings
from micota_lf.recipe.sections import MERGE_METHODS
from micota_lf.stages.evaluate import tasks_folder


def test_every_training_yaml_passes_llamafactorys_own_parser(tiny, tmp_path):
    from llamafactory.hparams import get_train_args

    asked = trainings(tiny)
    assert ("assistant", "strong") in asked and ("student-s", "micota") in asked
    for student, corpus in asked:
        config = train_config(tiny, student, corpus, output_dir=str(tmp_path / "new"))
        text = yaml.safe_dump(config)
        model_args, data_args, training_args, finetuning_args, _ = get_train_args(yaml.safe_load(text))
        assert training_args.learning_rate == config["learning_rate"]
        assert training_args.gradient_accumulation_steps == config["gradient_accumulation_steps"]
        assert data_args.template == "qwen" and data_args.cutoff_len == 512
        assert finetuning_args.finetuning_type == "full" and finetuning_args.stage == "sft"
        assert model_args.trust_remote_code is False


def test_a_key_that_llamafactory_does_not_know_is_refused_by_it(tiny, tmp_path):
    from llamafactory.hparams import get_train_args

    config = train_config(tiny, "student-s", "micota", output_dir=str(tmp_path / "new"))
    with pytest.raises(ValueError, match="lerning_rate"):
        get_train_args({**config, "lerning_rate": 1.0})


WAYS = [(m, p) for m in MERGE_METHODS for p in ("instruct", "pretrained") if (m, p) != ("sce", "instruct")]


@pytest.mark.parametrize(("method", "preset"), WAYS)
def test_every_merge_config_survives_mergekits_own_class_key_for_key(method, preset):
    from mergekit.config import MergeConfiguration

    words = [f"merge_method={method}", f"preset={preset}", "pretrained_model=tiny:assistant"]
    recipe = load_recipe(TINY, [f"assistants.ta.merge.{word}" for word in words])
    config = merge_config(recipe, "ta", before="/m/ta", after="/m/sft", pretrained="/m/pre")
    parsed = MergeConfiguration.model_validate(config)
    back = yaml.safe_load(parsed.to_yaml())
    assert back == config


def test_every_merge_parameter_is_one_that_the_method_reads():
    from mergekit import merge_methods

    for method in MERGE_METHODS:
        spec = {"merge_method": method, "preset": "pretrained", "pretrained_model": "tiny:assistant"}
        recipe = load_recipe(TINY, {f"assistants.ta.merge.{key}": value for key, value in spec.items()})
        config = merge_config(recipe, "ta")
        known = merge_methods.get(method).spec
        assert set(config["parameters"]) <= {p.name for p in known.shared_parameters}
        per_model = {key for model in config["models"] for key in model["parameters"]}
        assert per_model <= {p.name for p in known.input_parameters}


def test_every_task_builds_with_its_problems_and_prompt(tiny, tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    metadata = {"pretrained": ModelRef("tiny:student-s").resolved, "max_gen_toks": 12}
    folder = str(tasks_folder(tiny.evaluation))
    manager = TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
    loaded = manager.load(list(tiny.evaluation.tasks))
    assert set(loaded["tasks"]) == set(tiny.evaluation.tasks)
    for task in loaded["tasks"].values():
        doc = task.test_docs()[0]
        assert task.doc_to_text(doc) == tiny.prompts.template.replace("{problem}", doc["problem"])
        assert task.config.generation_kwargs["until"] == []
        assert task.config.generation_kwargs["do_sample"] is False
        assert task.config.num_fewshot == 0
        right = task.process_results(doc, [f"so \\boxed{{{doc['answer']}}}"])
        wrong = task.process_results(doc, [f"wait, so \\boxed{{{doc['answer']}1}} and so on and so on."])
        assert set(right) == set(wrong) == set(METRICS) == set(task.aggregation())
        assert (right["legacy"], right["symbolic"], right["truncated"], right["reflections"]) == (1, 1, 0, 0)
        assert (wrong["legacy"], wrong["symbolic"], wrong["truncated"], wrong["reflections"]) == (0, 0, 1, 1)
        assert wrong["response_tokens"] > 12 > right["response_tokens"]
