"""Before the first GPU hour: tokens of training and inference, rows too long, budgets, the hub."""

import json
import shutil

import pytest
from conftest import TINY

from micota_lf import UserError, compile_plan, load_recipe
from micota_lf.backends import Request, open_backend
from micota_lf.cli.main import main
from micota_lf.inputs.chat import load_chat, row_lengths
from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import DataRef, ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.run.snakemake import freeze, pending_steps
from micota_lf.stages import Context, train
from micota_lf.stages.parity import template_parity
from micota_lf.stages.preflight import inspect, questions
from micota_lf.system.files import write_jsonl

STUDENT = ModelRef("tiny:student-s")
PROMPTS = Prompts("tiny:train")
PAPER = TINY.parent / "micota.yaml"


def with_template(directory, template, **config):
    """The small student with another chat template, and values laid over its config."""
    shutil.copytree(STUDENT.local, directory)
    (directory / "chat_template.jinja").write_text(template)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, **config}))
    return ModelRef(str(directory))


def preflight_report(directory, *overrides):
    plan = compile_plan(load_recipe(TINY, overrides))
    step = plan.steps[plan.slots["preflight"]]
    return inspect(Context(directory, step.config, plan.inputs_of(step, directory), step.how))


@pytest.fixture
def template():
    return (STUDENT.local / "chat_template.jinja").read_text()


@pytest.fixture
def opening(tmp_path, template):
    """A student whose chat template opens a thought in the prompt, as R1-Distill's and QwQ's do."""
    head, tail = template.rsplit("assistant\n", 1)
    return with_template(tmp_path / "opening", f"{head}assistant\n<think>\n{tail}")


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_qwens_template_trains_exactly_the_tokens_of_inference(system):
    check = template_parity(STUDENT, "qwen", Prompts("tiny:train", system=system), {})
    assert check.problems == [] and check.after_end == "\n"


def test_a_template_with_another_system_prompt_is_named(tmp_path, template):
    (line,) = template_parity(STUDENT, "qwen3_nothink", PROMPTS, {}).problems
    assert line.startswith("template 'qwen3_nothink', a plain answer: tokens differ from position ")
    assert "inference 'system\\nYou are Qwen" in line
    bare = "{% if messages[0]['role'] != 'system' %}{% endif %}" + template.split("{% endif %}", 1)[1]
    model = with_template(tmp_path / "bare", bare)
    (line,) = template_parity(model, "qwen", PROMPTS, {}).problems
    assert "training 'system\\nYou are Qwen" in line and "inference 'user\\n" in line
    assert template_parity(model, "qwen3_nothink", PROMPTS, {}).problems == []


def test_reasoning_templates_are_caught_at_their_empty_thought():
    prompts = Prompts("tiny:train", system="Be brief.")
    for extra in ({}, {"enable_thinking": False}):
        (line,) = template_parity(STUDENT, "qwen3", prompts, extra=extra).problems
        assert "training '<think>\\n\\n</think>" in line and "inference 'It is two" in line
    assert template_parity(STUDENT, "qwen", prompts, {}).problems == []  # no trace of the arguments is left


def test_other_families_templates_differ_at_a_named_position():
    lines = template_parity(STUDENT, "llama3", PROMPTS, {}).problems
    assert any("tokens differ from position 0: training '<|start_he" in line for line in lines)
    (line,) = template_parity(STUDENT, "default", PROMPTS, {}).problems
    assert line.startswith("template 'default' replaces the model's chat template by another; try")


@pytest.mark.slow
def test_names_that_llamafactory_does_not_know_are_told_once_with_the_nearest_and_those_that_fit(tmp_path):
    report = preflight_report(tmp_path, "train.template=smollmm", "train.extra.lr_rate=3")
    words = "train.template: LLaMA-Factory has no template 'smollmm': try train.template=qwen or null; "
    words += "did you mean 'smollm'?"
    extra = "train.extra.lr_rate: LLaMA-Factory has no such argument; did you mean 'learning_rate'?"
    assert report.problems == [extra, words]


def test_the_refusal_of_a_template_names_the_keys_that_mend_it(tmp_path, template):
    (line,) = template_parity(STUDENT, "qwen3", PROMPTS, {}).problems
    assert line.endswith("; try train.template=qwen or null; train.check_template=false only warns")
    (line,) = template_parity(STUDENT, "qwen2_vl", PROMPTS, {}).problems
    assert line.startswith("Processor was not found") and "; try train.template=qwen or null;" in line
    own = with_template(tmp_path / "own", template.replace("You are Qwen, created by Alibaba Cloud.", "Hm."))
    (line,) = template_parity(own, "qwen", PROMPTS, {}).problems
    said, _, names = line.partition("; no template has the same tokens: try train.template=null, ")
    assert "tokens differ" in said and names.startswith("with prompts.system set qwen or qwen3_nothink or ")
    assert template_parity(own, "qwen", Prompts("tiny:train", system="Be brief."), {}).problems == []
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (line,) = template_parity(with_template(tmp_path / "no", refusing + ODD), "qwen", PROMPTS, {}).problems
    assert "; no template has the same tokens: try train.template=null; train.check" in line


def test_a_reasoning_template_is_refused_for_the_variant_that_adds_no_empty_thought(tmp_path, template):
    bare = "{% if messages[0]['role'] != 'system' %}{% endif %}" + template.split("{% endif %}", 1)[1]
    model = with_template(tmp_path / "qwen3-mini", bare)
    for extra in ({}, {"enable_thinking": False}, {"enable_thinking": None}):
        (line,) = template_parity(model, "qwen3", PROMPTS, extra).problems
        assert "training '<think>\\n\\n</think>" in line and "; try train.template=qwen3_nothink or " in line
    assert template_parity(model, "qwen3_nothink", PROMPTS, {}).problems == []


def test_an_end_at_which_inference_does_not_stop_is_named(tmp_path, template):
    model = with_template(tmp_path / "m", template)
    for file, key, value in (("tokenizer_config.json", "eos_token", "<|endoftext|>"),
                             ("generation_config.json", "eos_token_id", [0])):  # fmt: skip
        values = json.loads((tmp_path / "m" / file).read_text())
        (tmp_path / "m" / file).write_text(json.dumps({**values, key: value}))
    (line,) = template_parity(model, "qwen", PROMPTS, {}).problems
    assert line == (
        "template 'qwen', a plain answer: training ends a response with '<|im_end|>', but inference stops at "
        "'<|endoftext|>'; no template has the same tokens: try train.template=null; "
        "train.check_template=false only warns"
    )


def test_a_chat_template_that_opens_a_thought_trains_the_same_tokens_for_thoughts_alone(opening):
    (line,) = template_parity(opening, "qwen", PROMPTS, {}).problems
    assert "a plain answer" in line and "training 'It is two" in line and "inference '<think>\\n" in line


def test_responses_get_the_opened_thought_back(opening):
    messages = [{"role": "user", "content": "What is 1+1?"}]
    sampling = Generation(max_tokens=8, dtype="float32")
    texts = {}
    for model in (opening, STUDENT):
        with open_backend(model, sampling) as backend:
            (made,) = backend.complete([Request("a", messages)])
            text = {"role": "user", "content": "What is 1+1?\n<think>\n"}
            (raw,) = backend.complete([Request("b", [text], raw=True)])
        texts[model] = made.text
        assert made.response_tokens <= 8 and not raw.text.startswith("<think>")
    assert texts[opening].startswith("<think>\n") and not texts[STUDENT].startswith("<think>")


def rows(number):
    texts = ["<think>\n1+1, ½ ∑\n\n2\n</think>\n\\boxed{2}", "\n\nleading", "plain " * 40]
    return [{"prompt": f"What is {n}+1?", "response": texts[n % 3]} for n in range(number)]


def test_a_training_that_would_cut_rows_is_refused_with_the_length_that_it_needs(tmp_path, capsys):
    write_jsonl(tmp_path / "c.jsonl", rows(30))
    words = ["--model", STUDENT.ref, "--corpus", str(tmp_path / "c.jsonl"), "-o", str(tmp_path / "out")]
    lengths = row_lengths(rows(30), load_chat(STUDENT))
    longest = max(lengths)
    assert sum(length > longest - 1 for length in lengths) == 7  # prompts of two digits
    settings = ["train.use_cpu=true", "train.bf16=false", f"train.cutoff_len={longest - 1}"]
    assert main(["train", *words, *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("micota: train.cutoff_len: 7 of 30 rows (23.3%) are longer than cutoff_len")
    assert f"raise train.cutoff_len to at least {longest}, or lower filter.max_tokens" in line
    assert not (tmp_path / "out").exists()
    settings[-1] = "train.template=qwen3"
    assert main(["train", *words, *settings]) == 2
    assert "train.template: template 'qwen3', a plain answer: tokens differ" in capsys.readouterr().err


def test_a_plans_training_step_refuses_rows_that_would_be_cut(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", rows(3))
    inputs = {"model": STUDENT, "corpus": DataRef(str(tmp_path / "c.jsonl"))}
    recipe = load_recipe(TINY, ["train.cutoff_len=100"])
    settings = train.settings(recipe, recipe.train)
    with pytest.raises(UserError, match=r"1 of 3 rows \(33.3%\) are longer than cutoff_len 100"):
        train.STAGE.run(Context(tmp_path / "step", settings.config, inputs, settings.how))
    assert not (tmp_path / "step").exists()


@pytest.mark.slow
def test_a_preflight_kept_in_a_workspace_is_the_runs_own(tmp_path, capsys):
    words = ["preflight", str(TINY), "--workspace", str(tmp_path)]
    assert main([*words, "train.cutoff_len=200"]) == 0
    assert "warning: train.cutoff_len: 200 is less than" in capsys.readouterr().out
    plan = compile_plan(load_recipe(TINY, ["train.cutoff_len=200"]))
    assert plan.slots["preflight"] not in pending_steps(plan, tmp_path)
    assert main([*words, "train.template=qwen3"]) == 2
    assert "template 'qwen3', a plain answer: tokens differ" in capsys.readouterr().err


@pytest.mark.slow
def test_a_template_that_differs_is_only_warned_of_where_the_recipe_says_so(capsys):
    words = ["train.template=qwen3_nothink", "train.check_template=false"]
    assert main(["preflight", str(TINY), *words]) == 0
    assert "warning: train.template (students.assistant): template 'qwen3_nothink'" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_run_would_refuse_on_this_machine_is_warned_of_as_the_recipe_may_be_for_another(capsys):
    words = ["train.report_to=trackio", "evaluation.backend=vllm", "engines.vllm=no-such-vllm serve"]
    assert main(["preflight", str(TINY), *words]) == 0
    out = capsys.readouterr().out
    said = [line.partition("a run ends at once: ")[2] for line in out.splitlines() if "this machine" in line]
    assert sorted(line.split(";")[0] for line in said) == [
        "engines: 'no-such-vllm' was not found",
        "train.report_to: trackio, but the package trackio is not installed",
    ]


@pytest.mark.slow
def test_the_tiny_recipe_has_no_problems_and_the_command_says_what_was_looked_at(capsys):
    assert main(["preflight", str(TINY)]) == 0
    out = capsys.readouterr().out
    assert "prompts: 720, the longest has 58 tokens" in out and out.endswith("no problems\n")
    assert "train.template (students.student-s): 'qwen' gives the tokens of the chat template" in out
    assert "warning" not in out


@pytest.mark.slow
def test_every_problem_is_a_line_with_its_key_and_the_code_is_2(capsys, tmp_path, template):
    short = with_template(tmp_path / "short", template, max_position_embeddings=64)
    write_jsonl(
        tmp_path / "bench.jsonl", [{"id": 1, "problem": "What is " + "1+" * 400 + "1?", "answer": "401"}]
    )
    words = [
        f"students.short.model={short.ref}", "students.gone.model=nobody/nothing", "train.template=chatml",
        "generation.max_tokens=1000", "evaluation.max_gen_toks=500", "train.cutoff_len=600",
        f"evaluation.benchmarks.tiny_two.path={tmp_path / 'bench.jsonl'}",
    ]  # fmt: skip
    assert main(["preflight", str(TINY), *words]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert any(
        line.startswith("micota: students.gone: 'nobody/nothing' is not in the local cache") for line in lines
    )
    words = "1000 and the longest prompt (58 tokens) exceed the 1024 positions of students.assistant"
    assert f"micota: generation.max_tokens: {words}" in lines
    (line,) = [line for line in lines if "students.short" in line and "positions" in line]
    assert line.startswith("micota: evaluation.max_gen_toks: 500 and the longest prompt (8")
    assert any("evaluation.max_gen_toks" in line and "teachers.teacher" in line for line in lines)
    assert any("template 'chatml' replaces the model's chat template" in line for line in lines)
    words = "warning: train.cutoff_len: 600 is less than the longest row that students.assistant may meet"
    assert words in printed.out


def test_a_pretrained_model_that_does_not_fit_the_assistant_is_found_before_the_merge(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    words = ["assistants.ta.merge.preset=pretrained", "assistants.ta.merge.pretrained_model=tiny:"]
    report = preflight_report(tmp_path, words[0], words[1] + "student-m")
    at = "assistants.ta.merge.pretrained_model: merge: pretrained and before"
    assert report.problems[0] == f"{at} have different hidden_size: 64 and 96"
    report = preflight_report(tmp_path, words[0], words[1] + "assistant")
    assert report.problems == []
    assert "train.template: not compared, llamafactory cannot be imported here" in report.facts


def test_the_preflight_is_the_plans_first_step_and_every_pending_step_waits_for_it(tmp_path):
    plan = compile_plan(load_recipe(TINY))
    first = plan.slots["preflight"]
    assert next(iter(plan.steps)) == first
    pending = pending_steps(plan, tmp_path, ["filter/strong"])
    todo = json.loads(freeze(plan, tmp_path, pending).read_text())["pending"]
    assert todo[first]["after"] == [] and len(todo) == 3
    assert all(first in step["after"] for made, step in todo.items() if made != first)
    done = tmp_path / plan.steps[first].directory / "done.json"
    done.parent.mkdir(parents=True)
    done.write_text('{"results": {}}')
    assert first not in pending_steps(plan, tmp_path)
    assert not any(first in step.needs for step in plan.steps.values())


def test_what_the_preflight_looks_at_is_all_that_decides_its_identity():
    first = questions(load_recipe(TINY))[0].config
    for override, same in [
        ("train.learning_rate=0.5", True),
        ("generation.seed=3", True),
        ("assistants.ta.merge.weight=0.3", True),
        ("train.cutoff_len=400", False),
        ("filter.max_tokens=100", False),
        ("students.student-s.train.extra.enable_thinking=false", False),
    ]:
        assert (questions(load_recipe(TINY, [override]))[0].config == first) == same, override


def doctored(directory, tokenizer=lambda values: None, file="tokenizer.json", **config):
    """The small student with a changed tokenizer.json, and values laid over its tokenizer's config."""
    model = with_template(directory, (STUDENT.local / "chat_template.jinja").read_text())
    for name, change in ((file, tokenizer), ("tokenizer_config.json", lambda values: values.update(config))):
        values = json.loads((directory / name).read_text())
        change(values)
        (directory / name).write_text(json.dumps(values))
    return model


def special_thoughts(values):
    made = {"content": "<think>", "id": len(values["model"]["vocab"]) + len(values["added_tokens"])}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    values["added_tokens"].append({**made, **flags, "special": True})


def special_spaces(values):
    """As a tokenizer whose every blank was declared a special token."""
    values["added_tokens"].append({
        "id": values["model"]["vocab"]["\u0120"], "content": " ", "special": True, "single_word": False,
        "lstrip": False, "rstrip": False, "normalized": False,
    })  # fmt: skip


def no_symbols(values):
    values["normalizer"] = {"type": "Replace", "pattern": {"String": "\u221e"}, "content": ""}


def foreign_class(directory):
    """As the DeepSeek tokenizers of issue 45488: byte-level, under the name of a class for SentencePiece."""
    model = doctored(directory, tokenizer_class="LlamaTokenizerFast")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    return model


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (foreign_class, "gives other tokens than tokenizer.json: 'What is 1+1?' comes back as 'Whatis1+1?'"),
        (lambda path: doctored(path, special_thoughts), "loses text: '<think>\\nTwo and three."),
        (
            lambda path: doctored(path, special_spaces),
            "loses text: 'What is 1+1?' comes back as 'Whatis1+1?' (special tokens: ' ')",
        ),
        (lambda path: doctored(path, no_symbols), "loses text: 'Soit $x \u2208 (0, \u221e)$"),
    ],
    ids=["another class", "special tokens", "special spaces", "lost characters"],
)
@pytest.mark.parametrize("role", ["teachers.teacher", "students.student-s"])
def test_a_tokenizer_that_the_engines_read_otherwise_or_that_loses_text_is_refused(
    tmp_path, monkeypatch, role, make, found
):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    model = make(tmp_path / "m")
    (line,) = preflight_report(tmp_path / "step", f"{role}.model={model.ref}").problems
    assert line.startswith(f"{role}: {model.ref}: transformers' tokenizer {found}")


@pytest.mark.parametrize("role", ["teachers.teacher", "students.student-s"])
def test_an_end_that_the_chat_template_never_writes_is_refused_with_both(tmp_path, monkeypatch, capsys, role):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    model = doctored(tmp_path / "m", eos_token="<|endoftext|>")
    shipped = tmp_path / "m" / "generation_config.json"
    shipped.write_text(json.dumps({"eos_token_id": [0]}))
    (line,) = preflight_report(tmp_path / "step", f"{role}.model={model.ref}").problems
    said = "its chat template ends it with '<|im_end|>\\n', generation stops at '<|endoftext|>'"
    assert line.startswith(f"{role}: {model.ref}: no response would end: {said}; if it writes the former, ")
    end = load_chat(model).tokenizer.token_to_id("<|im_end|>")
    assert line.endswith(f"set eos_token_id {end} in a copy's generation_config.json")
    words = ["evaluate", "--model", model.ref, "--tasks", "micota_tiny_two", "-o", str(tmp_path / "out")]
    assert main(words) == 2 and said in capsys.readouterr().err
    shipped.write_text(json.dumps({"eos_token_id": [0, end]}))
    assert preflight_report(tmp_path / "step", f"{role}.model={model.ref}").problems == []
    shipped.unlink()
    doctored(tmp_path / "without", lambda values: values.pop("eos_token_id"), "config.json", eos_token=None)
    (tmp_path / "without" / "generation_config.json").unlink()
    (line,) = preflight_report(tmp_path / "step", f"{role}.model={tmp_path / 'without'}").problems
    assert "generation stops at no token (eos_token_id); " in line


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Only user turns') }}", "Only user turns"),
        ("{{ 1 + none }}", "unsupported operand type"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_a_chat_template_that_fails_is_a_line_with_the_models_key(tmp_path, monkeypatch, template, reason):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    model = with_template(tmp_path / "m", template)
    (line,) = preflight_report(tmp_path / "step", f"teachers.teacher.model={model.ref}").problems
    assert line.startswith(f"teachers.teacher: the chat template fails: {reason}")


def test_a_template_that_takes_no_system_message_is_refused_where_the_recipe_has_one(
    tmp_path, monkeypatch, template
):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    model = with_template(tmp_path / "m", refusing + template)
    words = [f"teachers.teacher.model={model.ref}"]
    assert preflight_report(tmp_path / "step", *words).problems == []
    (line,) = preflight_report(tmp_path / "step", *words, "prompts.system='Be brief.'").problems
    assert line == "teachers.teacher: the chat template fails: no system"


class Hub:
    """Stands for the data sets of the hub, by their ids: columns and rows of GSM8K, or an error."""

    def __init__(self, monkeypatch, **rows):
        self.rows, self.asked = rows, []
        monkeypatch.setattr("datasets.load_dataset", self.load)

    def load(self, path, subset, split, revision):
        self.asked.append((path, subset, split, revision))
        if path not in self.rows:
            raise ConnectionError(f"no {path} here")
        return [{"question": f"What is {n}+1?", "answer": f"#### {n + 1}"} for n in range(self.rows[path])]


def hub_words(name, **more):
    keys = {"path": name, "problem_field": "question", "answer_field": "answer", "answer_format": "gsm8k"}
    words = [f"evaluation.benchmarks.{name}.{key}={value}" for key, value in {**keys, **more}.items()]
    return [*words, f"evaluation.tasks.micota_{name}=Hub"]


def test_benchmarks_on_the_hub_are_loaded_and_counted_before_any_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    hub = Hub(monkeypatch, found=674, right=30)
    words = [
        *hub_words("found", problems=675, subset="main", revision="v1"),
        *hub_words("right", problems=30),
    ]
    report = preflight_report(tmp_path, *words)
    assert report.problems == [] and report.warnings == [
        "evaluation.benchmarks.found.problems: 675 are expected, found holds 674"
    ]
    assert hub.asked == [("found", "main", "test", "v1"), ("right", None, "test", None)]
    report = preflight_report(tmp_path, *hub_words("found"), *hub_words("gone"), *hub_words("lost"))
    at = "evaluation.benchmarks."
    assert report.problems == [
        f"{at}{name}: '{name}' could not be loaded from the hub: no {name} here; "
        "evaluation.data_dir may name a folder with NAME/test.jsonl"
        for name in ("gone", "lost")
    ]
    report = preflight_report(tmp_path, *hub_words("found", answer_field="solution"))
    assert report.problems == [f"{at}found: found: row 1: 'solution' holds no answer: None"]


PROOF = "First show that the sum is even. Then add three and note that what is left must be a prime number."


def test_prompts_whose_gold_answers_cannot_be_read_are_refused_unless_nobody_judges(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, [{"id": n, "problem": "What is 1+1?", "answer": PROOF} for n in "ab"])
    (line,) = preflight_report(tmp_path, f"prompts.path={path}").problems
    assert line.startswith(f"prompts: {path}: 2 of 2 gold answers cannot be read (a: 'First show")
    assert "after ####" in line
    report = preflight_report(tmp_path, f"prompts.path={path}", "filter.verdict=none")
    assert report.problems == [] and "2 of 2 gold answers" in report.warnings[0]
    solved = [{"id": "b", "problem": "What is 1+1?", "answer": "One and one are <<1+1=2>>2.\n#### 2"}]
    write_jsonl(path, [{"id": "a", "problem": "What is 1+1?", "answer": PROOF}, *solved])
    report = preflight_report(tmp_path, f"prompts.path={path}")
    assert report.problems == [] and "1 of 2 gold answers" in report.warnings[0]
    write_jsonl(path, solved)
    assert preflight_report(tmp_path, f"prompts.path={path}").warnings == []


def test_a_limit_of_a_benchmark_is_that_of_its_longest_prompt_and_expects_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    rows = [{"id": n, "problem": "What is " + "1+" * (300 * n) + "1?", "answer": "1"} for n in (0, 1)]
    write_jsonl(tmp_path / "bench.jsonl", rows)
    words = [f"evaluation.benchmarks.tiny_two.path={tmp_path / 'bench.jsonl'}", "evaluation.max_gen_toks=700"]
    words.append("evaluation.benchmarks.tiny_two.problems=2")
    problems = preflight_report(tmp_path / "step", *words).problems
    assert problems and all("700 and the longest prompt (6" in line for line in problems)
    report = preflight_report(tmp_path / "step", *words, "evaluation.benchmarks.tiny_two.limit=1")
    assert report.problems == report.warnings == []


def test_the_papers_benchmarks_say_how_many_problems_they_should_have():
    found = {name: spec.problems for name, spec in load_recipe(PAPER).evaluation.benchmarks.items()}
    assert found == {"aime24": 30, "amc23": 40, "olympiadbench": 675, "math-500": 500, "gsm8k": 1319}


def test_a_context_length_is_what_the_longest_prompt_and_its_response_share(tmp_path, monkeypatch):
    monkeypatch.setattr("micota_lf.stages.parity.available", lambda: False)
    words = ["generation.max_tokens=1024", "generation.context_len=1024"]  # of the models' positions
    report = preflight_report(tmp_path, *words)
    assert report.problems == []
    words = "generation.max_tokens: 966 and the longest prompt (58 tokens) fit into the 1024 positions of "
    assert sum(line.startswith(words) for line in report.facts) == 3
    problems = preflight_report(tmp_path, "generation.context_len=58").problems
    assert len(problems) == 3 and all(line.startswith("generation.context_len: 0 and") for line in problems)


@pytest.mark.slow
def test_a_failed_preflight_ends_the_run_with_its_lines(tmp_path, capsys):
    words = ["--workspace", str(tmp_path), "--target", "filter/strong", "train.template=qwen3"]
    assert main(["run", str(TINY), *words]) == 1
    error = capsys.readouterr().err
    assert "step preflight failed: train.template (students.assistant): template 'qwen3', a plain" in error
    assert "2 steps that need others could not run" in error
    assert [path.name for path in tmp_path.glob("*/*/step.json")] == ["step.json"]


ODD = (
    "{{ '[[' }}{% for m in messages %}{{ m['role'] + '>> ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' <<' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant>> ' }}{% endif %}"
)


def test_a_model_that_no_template_fits_is_trained_with_its_own_chat_template(tmp_path, capsys):
    model = with_template(tmp_path / "odd", ODD)
    (line,) = template_parity(model, "qwen", PROMPTS, {}).problems
    assert "; no template has the same tokens: try train.template=null; train.check_template" in line
    assert template_parity(model, None, PROMPTS, {}).problems == []
    write_jsonl(tmp_path / "c.jsonl", [{"prompt": "Say A", "response": "A"}] * 8)
    words = ["--model", model.ref, "--corpus", str(tmp_path / "c.jsonl"), "-o", str(tmp_path / "out")]
    words += ["train.use_cpu=true", "train.bf16=false", "train.template=null", "train.global_batch_size=4"]
    words += ["train.num_train_epochs=10", "train.learning_rate=3.0e-3", "train.enable_liger_kernel=false"]
    assert main(["train", *words]) == 0, capsys.readouterr().err
    trained = ModelRef(str(tmp_path / "out" / "model"))
    assert load_chat(trained).template == ODD
    with open_backend(trained, Generation(max_tokens=16, dtype="float32")) as backend:
        (made,) = backend.complete([Request("a", [{"role": "user", "content": "Say A"}])])
    assert (made.text, made.finish_reason) == ("A", "stop")


def test_a_template_of_null_is_refused_beside_packing(tmp_path, capsys):
    write_jsonl(tmp_path / "c.jsonl", rows(3))
    words = ["--model", STUDENT.ref, "--corpus", str(tmp_path / "c.jsonl"), "-o", str(tmp_path / "out")]
    assert main(["train", *words, "train.template=null", "train.packing=true"]) == 2
    assert "train.template: null cannot go with train.packing" in capsys.readouterr().err


def test_the_templates_that_fit_a_model_are_listed_first(capsys):
    assert main(["templates", STUDENT.ref]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "qwen: equal" and "null, its own: equal" in lines
    assert any(line.startswith("equal once prompts.system is set: ") and "chatml" in line for line in lines)
    assert main(["templates", STUDENT.ref, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["templates"]["qwen"] == "equal" and "chatml_de" in found["equal_with_system"]
