"""Merges: models that do not fit are refused, and a merged model is whole, finite and able to stop."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from micota_lf import StepFailed, UserError, load_recipe
from micota_lf.cli.main import main
from micota_lf.inputs.references import ModelRef
from micota_lf.stages.merge import KINSHIP, answer_health, compare, cosine, finish, health_problems
from micota_lf.system.files import write_jsonl

BEFORE = ModelRef("tiny:assistant").local


def compatibility_problems(before, after, pretrained=None):
    models = {"before": before, "after": after, "pretrained": pretrained}
    return compare({role: model for role, model in models.items() if model})[0]


def change_weights(model, change):
    """Write `change(name, values)` over each tensor of a model."""
    values = {name: change(name, value) for name, value in load_file(model / "model.safetensors").items()}
    kept = {name: value for name, value in values.items() if value is not None}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def change_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def variant(directory, seed=0, noise=0.02):
    """The assistant with each weight moved a little: what a fine-tuning leaves."""
    shutil.copytree(BEFORE, directory)
    rng = np.random.default_rng(seed)
    change_weights(
        directory, lambda _, v: v + (noise * v.std() * rng.standard_normal(v.shape)).astype(v.dtype)
    )
    return directory


@pytest.fixture
def after(tmp_path):
    return variant(tmp_path / "after")


def reinitialised(directory, seed):
    """A model of the assistant's shape with random weights of its own, drawn as transformers draws them."""
    shutil.copytree(BEFORE, directory)
    rng = np.random.default_rng(seed)
    scale = json.loads((BEFORE / "config.json").read_text())["initializer_range"]
    change_weights(
        directory, lambda _, v: (scale * rng.standard_normal(v.shape)).astype(v.dtype) if v.ndim > 1 else v
    )
    return directory


def test_a_fine_tuned_model_fits_and_a_stranger_of_the_same_shape_is_refused(after, tmp_path):
    assert compatibility_problems(BEFORE, after, None) == []
    assert compatibility_problems(BEFORE, after, after) == []
    stranger = reinitialised(tmp_path / "stranger", seed=7)
    assert cosine(after, BEFORE) > 0.99 and abs(cosine(stranger, BEFORE)) < 0.05 < KINSHIP
    (line,) = compatibility_problems(BEFORE, stranger, None)
    assert line.startswith("merge: after is not fine-tuned from before: cosine of their weights")
    (line,) = compatibility_problems(BEFORE, after, stranger)
    assert line.startswith("merge: pretrained is not the origin of before")


def test_the_cosine_reads_bfloat16_and_float16_as_torch_does(tmp_path):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        copy = tmp_path / str(dtype)
        shutil.copytree(BEFORE, copy)
        cast = {name: value.to(dtype) for name, value in load_torch(copy / "model.safetensors").items()}
        save_torch(cast, copy / "model.safetensors")
        assert cosine(copy, BEFORE) == pytest.approx(1, abs=1e-5)
        assert compatibility_problems(BEFORE, copy, None) == []
        assert health_problems(copy, BEFORE) == []


def test_models_of_other_shapes_are_refused_by_their_configs(after):
    lines = compatibility_problems(BEFORE, ModelRef("tiny:student-m").local, None)
    assert "merge: after and before have different hidden_size: 64 and 96" in lines
    change_json(after / "config.json", architectures=["LlamaForCausalLM"], vocab_size=400)
    lines = compatibility_problems(BEFORE, after, None)
    assert [line.split(":")[1] for line in lines] == [
        " after and before have different architectures", " after and before have different vocab_size",
    ]  # fmt: skip


def test_other_tensors_and_other_vocabularies_are_refused(after):
    change_weights(after, lambda name, v: None if name == "model.norm.weight" else v)
    (line,) = compatibility_problems(BEFORE, after, None)
    assert "differ in 1 tensor(s), the first: model.norm.weight is None and (96,)" in line
    shutil.rmtree(after)
    variant(after)
    tokenizer = json.loads((after / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    one, other = list(words)[-2:]
    words[one], words[other] = words[other], words[one]
    (after / "tokenizer.json").write_text(json.dumps(tokenizer))
    (line,) = compatibility_problems(BEFORE, after, None)
    assert "have tokenizers of different vocabulary" in line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_found(after, value):
    def spoil(name, v):
        if name == "model.norm.weight":
            v[-1] = value
        return v

    change_weights(after, spoil)
    assert health_problems(after, BEFORE) == ["the merged model's model.norm.weight is not finite"]


def test_a_merged_model_that_lacks_a_tensor_is_found_and_one_that_stops_elsewhere_is_mended(after):
    change_weights(after, lambda name, v: None if name == "model.norm.weight" else v)
    change_json(after / "config.json", eos_token_id=0)
    change_json(after / "generation_config.json", eos_token_id=[0])
    assert health_problems(after, BEFORE) == ["the merged model lacks the tensor model.norm.weight"]
    finish(after, BEFORE)
    assert json.loads((after / "config.json").read_text())["eos_token_id"] == 2
    assert (after / "generation_config.json").read_bytes() == (BEFORE / "generation_config.json").read_bytes()


def test_a_merged_model_of_which_no_answer_ends_fails(tmp_path):
    def rows(*reasons):
        write_jsonl(tmp_path / "a.jsonl", [{"finish_reason": r, "response_tokens": 8} for r in reasons])

    rows("length", "stop")
    health = answer_health(tmp_path / "a.jsonl")
    assert health == {"prompts": 2, "ended": 1, "mean_response_tokens": 8}
    rows("length", "length")
    with pytest.raises(StepFailed, match="none of the merged model's 2 greedy answers ended within 8 tokens"):
        answer_health(tmp_path / "a.jsonl")


def test_micota_merge_refuses_models_that_do_not_fit_before_it_writes_anything(tmp_path, capsys):
    words = ["--before", "tiny:assistant", "--after", "tiny:student-m", "-o", str(tmp_path / "merged")]
    assert main(["merge", *words]) == 2
    assert "micota: merge: after and before have different hidden_size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_pretrained_preset_keeps_the_assistants_tokenizer_and_stop_tokens(after, tmp_path, capsys):
    """A base model ends its texts with another token, has no chat template, and mergekit copies that."""
    base = variant(tmp_path / "base", seed=5)
    change_json(base / "config.json", eos_token_id=0)
    change_json(base / "generation_config.json", eos_token_id=[0])
    (base / "chat_template.jinja").unlink()
    (base / "special_tokens_map.json").write_text("{}")
    out = tmp_path / "merged"
    words = ["--before", "tiny:assistant", "--after", str(after), "-o", str(out), "--prompts", "tiny:train"]
    words += ["generation.max_tokens=320", "generation.dtype=float32", "merge.preset=pretrained"]
    words += [f"merge.pretrained_model={base}", "merge.dtype=float32", "merge.health_prompts=3"]
    assert main(["merge", *words]) == 0
    assert "all finite; " in capsys.readouterr().out
    results = json.loads((out / "done.json").read_text())["results"]
    assert results["health"]["prompts"] == 3 and results["health"]["ended"] > 0
    assert min(results["compatibility"]["cosine"].values()) > 0.99
    assert results["compatibility"]["dtypes"] == {key: ["F32"] for key in ("before", "after", "pretrained")}
    model = out / "model"
    for name in ("chat_template.jinja", "tokenizer.json", "generation_config.json"):
        assert (model / name).read_bytes() == (after / name).read_bytes()
    assert not (model / "special_tokens_map.json").exists()
    assert json.loads((model / "config.json").read_text())["eos_token_id"] == 2
    assert health_problems(model, after) == []


def test_health_prompts_decide_whether_the_plan_asks_for_answers():
    from conftest import TINY

    from micota_lf import compile_plan

    for number in (4, 0):
        plan = compile_plan(
            load_recipe(TINY, [f"assistants.ta.merge.health_prompts={number}", "hardware.gpus=1"])
        )
        step = plan.steps[plan.slots["merge/ta"]]
        assert bool(number) == bool(step.how["health"]) == bool(step.gpus)
    assert step.config.keys() == {"merge"} and "health_prompts" not in step.config["merge"]
    with pytest.raises(UserError, match="health_prompts"):
        load_recipe(TINY, ["assistants.ta.merge.health_prompts=-1"])


@pytest.mark.long
def test_a_merged_model_that_failed_its_questions_is_asked_again_and_not_merged_again(tmp_path, capsys):
    out = tmp_path / "merged"
    words = ["merge", "--before", "tiny:assistant", "--after", "tiny:assistant", "--prompts", "tiny:two"]
    words += ["merge.dtype=float32", "generation.dtype=float32", "-o", str(out)]
    assert main([*words, "generation.max_tokens=2"]) == 1
    assert "answers ended within 2 tokens" in capsys.readouterr().err
    weights = out / "model" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert main([*words, "generation.max_tokens=99"]) == 0
    assert "4 of 4 answers ended" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == made
    assert (out / "log.txt").read_text().count("micota runs: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "learnt"),
    [
        ("[0, 1]", {"layers.0.": 0, "layers.1.": 0.5, "layers.2.": 1, "embed_tokens": 0, "model.norm": 0}),
        ("[{filter: mlp, value: [0.5, 1]}, {value: 0}]", {"0.mlp": 0.5, "2.mlp": 1, "attn": 0, "norm": 0}),
    ],
)
def test_a_weight_by_layer_or_part_is_the_share_of_what_was_learnt_there(after, tmp_path, weight, learnt):
    words = ["merge", "--before", "tiny:assistant", "--after", str(after), "-o", str(tmp_path / "out")]
    exact = ["merge.merge_method=task_arithmetic", "merge.dtype=float32", "merge.health_prompts=0"]
    assert main([*words, *exact, f"merge.weight={weight}"]) == 0
    models = (BEFORE, after, tmp_path / "out" / "model")
    start, tuned, merged = (load_file(model / "model.safetensors") for model in models)
    for part, share in learnt.items():
        names = [name for name in start if part in name]
        assert names
        for name in names:
            wanted = start[name] + share * (tuned[name] - start[name])
            np.testing.assert_allclose(merged[name], wanted, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("merge.preset=pretrained", "merge.pretrained_model: the preset 'pretrained' needs one"),
        ("merge.merge_method=sce", "merge.merge_method: has no weight, so it needs the preset 'pretrained'"),
    ],
)
def test_a_merge_that_cannot_be_is_one_line_and_leaves_nothing(tmp_path, capsys, given, said):
    words = ["merge", "--before", "tiny:assistant", "--after", "tiny:assistant", "-o", str(tmp_path / "out")]
    assert main([*words, given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"micota: command line: assistants.it.{said}"
    assert not (tmp_path / "out").exists()
