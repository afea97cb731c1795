"""Claims about the tiny family: its problems, its tokenizer, its shipped files."""

import json
import random
import re

import pytest
from chains import dissect, measures
from problems import (
    DATA_FILES,
    INSTRUCTION,
    LONG,
    SHORT,
    Mix,
    Style,
    is_evaluation,
    operations_of,
    sample_problems,
    write_chain,
    write_cot,
    write_data,
    write_prompts,
)
from transformers import AutoTokenizer

from micota_lf.inputs.problems import Prompts
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Generation
from micota_lf.stages.generate import generate
from micota_lf.system.files import read_jsonl
from micota_lf.tiny import TINY_ROOT

MIXED = Style(0.5, 0.5, 0.5, 0.5)
FAMILIES = {  # folder of models/ -> what a demo of that family takes
    ".": ("teacher", "assistant", "student-m", "student-s"),
    "gap": ("teacher", "assistant", "student-l", "student-m", "student-s"),
    "orders": ("teacher", "assistant", "student-s"),
}
MODELS = [TINY_ROOT / "models" / folder / name for folder, names in FAMILIES.items() for name in names]
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


def read_rows(name):
    return [json.loads(line) for line in (TINY_ROOT / f"data/{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_ROOT / "models/teacher")


def test_training_problems_never_meet_evaluation_problems():
    stream = sample_problems(random.Random(5), (1, 2, 3), evaluation=False)
    trained = {next(stream) for _ in range(5000)} | {row["problem"] for row in read_rows("train")}
    evaluated = {row["problem"] for name in ("two", "three") for row in read_rows(name)}
    assert not trained & evaluated
    assert not any(map(is_evaluation, trained))
    assert all(map(is_evaluation, evaluated))


def test_the_generator_repeats_itself_for_a_seed():
    def draw(seed):
        rng = random.Random(seed)
        problems = sample_problems(rng, (2, 3), evaluation=False)
        return [write_cot(next(problems), MIXED, rng) for _ in range(50)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("style", [SHORT, LONG, MIXED], ids=["short", "long", "mixed"])
def test_every_chain_of_thought_is_true_and_ends_in_the_boxed_answer(style):
    rng = random.Random(6)
    problems = sample_problems(rng, (1, 2, 3), evaluation=False)
    for _ in range(500):
        problem = next(problems)
        expression = problem.removeprefix("What is ").removesuffix("?")
        response = write_cot(problem, style, rng)
        assert response.endswith(f"\\boxed{{{eval(expression)}}}.")
        chains = re.findall(r"-?\d+(?:[-+=]+\d+)+", response)
        assert len(chains) >= len(operations_of(problem))
        for chain in chains:
            assert len({eval(part) for part in chain.split("=")}) == 1, (chain, response)


def false_lines(lines):
    """Of those, the equations that do not hold."""
    chains = {line: re.findall(r"-?\d+(?:[-+=]+\d+)+", line) for line in lines}
    return [k for k, found in chains.items() for c in found if len({eval(side) for side in c.split("=")}) > 1]


@pytest.mark.parametrize("kind", ["short", "split", "checked", "reflecting"])
def test_every_chain_of_the_gap_family_ends_right_and_a_careless_pass_slips_once_and_is_done_again(kind):
    rng, redone = random.Random(8), 0
    problems = sample_problems(rng, (2, 3), evaluation=False)
    for _ in range(300):
        problem = next(problems)
        expression = problem.removeprefix("What is ").removesuffix("?")
        response = write_chain(problem, Mix(**{kind: 1.0}), rng)
        lines = response.splitlines()
        assert lines[-1] == f"So the answer is \\boxed{{{eval(expression)}}}."
        if kind != "short":
            assert sum(line.startswith("Tens") for line in lines) >= len(operations_of(problem))
        again = [n for n, line in enumerate(lines) if line.startswith("Wait")]
        if not again:
            assert not false_lines(lines)
            continue
        redone += 1
        (at,) = again
        end, first = re.fullmatch(r"Wait, (-?\d+) is not (\d+)\.", lines[at]).groups()
        assert len(false_lines(lines[:at])) == 1 and not false_lines(lines[at:])
        assert end != first and expression.startswith(first)
        assert lines[at - 1].endswith(f"={end}.") and lines[-2].endswith(f"={first}.")
    assert (redone > 150) == (kind == "reflecting")


def test_no_problem_turns_negative_on_the_way():
    problems = sample_problems(random.Random(7), (3,), evaluation=False)
    assert all(step[3] >= 0 for _ in range(500) for step in operations_of(next(problems)))


def test_shipped_data_is_what_the_generator_writes(tmp_path):
    write_data(tmp_path)
    write_data(tmp_path / "gap", seed=1)
    for name, (count, _, _) in DATA_FILES.items():
        for file in (f"{name}.jsonl", f"gap/{name}.jsonl"):
            assert (TINY_ROOT / "data" / file).read_bytes() == (tmp_path / file).read_bytes()
        assert len({row["problem"] for row in read_rows(name)}) == count


def test_more_prompts_are_the_shipped_ones_and_then_others(tmp_path):
    write_prompts(tmp_path, 1300, seed=1)
    shipped, more = (read_jsonl(home / "train.jsonl") for home in (TINY_ROOT / "data/gap", tmp_path))
    assert more[: len(shipped)] == shipped and len({row["problem"] for row in more}) == 1300
    assert not any(is_evaluation(row["problem"]) for row in more)


def test_another_seed_has_other_problems_of_the_same_sides(tmp_path):
    write_data(tmp_path, seed=1)
    for name, (count, _, _) in DATA_FILES.items():
        found = {row["problem"] for row in read_jsonl(tmp_path / f"{name}.jsonl")}
        assert len(found) == count and len(found & {row["problem"] for row in read_rows(name)}) < count / 10
        assert {is_evaluation(problem) for problem in found} == {name != "train"}


@pytest.mark.parametrize("folder", FAMILIES)
def test_a_family_ships_at_most_8_megabytes_and_only_what_loading_needs(folder):
    needed = {"config.json", "generation_config.json", "model.safetensors"}
    needed |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    home, names = TINY_ROOT / "models" / folder, FAMILIES[folder]
    others = set(FAMILIES) - {"."} if folder == "." else set()
    assert {path.name for path in home.iterdir()} == {*names, *others}
    files = [path for name in names for path in (home / name).iterdir()]
    assert {(path.parent.name, path.name) for path in files} == {(n, file) for n in names for file in needed}
    assert (
        sum(path.stat().st_size for path in [*files, *(TINY_ROOT / "data" / folder).glob("*.jsonl")])
        <= 8_000_000
    )


def test_all_models_share_one_tokenizer():
    assert len({(model / "tokenizer.json").read_bytes() for model in MODELS}) == 1


@pytest.mark.parametrize(
    "text", ["78-22=56.\nSo", "  two  spaces\t\n\n", "naïve 数学 🙂 \\frac{1}{2} <think>", "e\u0301"]
)
def test_the_tokenizer_round_trips_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_tokenizer_gives_every_digit_a_token_and_common_words_one(tokenizer):
    assert tokenizer.tokenize("1234") == list("1234")
    assert len(tokenizer.tokenize(SYSTEM)) == len(SYSTEM.split()) + SYSTEM.count(".") + SYSTEM.count(",")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("system", [None, "Be brief."], ids=["default-system", "own-system"])
def test_the_chat_template_renders_what_llamafactory_trains_on(tokenizer, system):
    data = pytest.importorskip("llamafactory.data.template")
    arguments = pytest.importorskip("llamafactory.hparams").DataArguments(template="qwen")
    turns = [
        {"role": "user", "content": "What is 1+2+3?" + INSTRUCTION},
        {"role": "assistant", "content": "1+2=3.\n3+3=6.\nSo the answer is \\boxed{6}."},
        {"role": "user", "content": "Thanks, 数学!"},
        {"role": "assistant", "content": "Bye."},
    ]
    template = data.get_template_and_fix_tokenizer(
        AutoTokenizer.from_pretrained(tokenizer.name_or_path), arguments
    )
    pairs = template.encode_multiturn(tokenizer, turns, system=system)
    messages = ([{"role": "system", "content": system}] if system else []) + turns
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert [token for pair in pairs for ids in pair for token in ids] == whole
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert prompt == whole[: len(prompt)]
    assert whole[len(prompt) :] == pairs[-1][1]


@pytest.mark.parametrize("student", ["student-s", "gap/student-s"])
def test_a_shipped_student_answers_problems_in_short_and_stops(tmp_path, student):
    sampling = Generation(max_tokens=60, dtype="float32")
    generate(ModelRef(f"tiny:{student}"), Prompts("tiny:two", limit=40), tmp_path / "out.jsonl", sampling)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert all(row["finish_reason"] == "stop" for row in rows)
    right = sum(row["response"].endswith(f"\\boxed{{{row['answer']}}}.") for row in rows)
    assert right >= 8  # 20%: far above chance, far below what the README reports


def test_a_chain_is_taken_apart_and_its_slips_are_counted():
    rng, problem = random.Random(3), "What is 38+47-22?"
    chain = dissect(problem, write_chain(problem, Mix(reflecting=1.0, careless=1.0), rng))
    first, second = chain.passes
    assert (first.result, second.result, chain.boxed, chain.gold) == (53, 63, 63, 63)
    counts = {name: (k, n) for name, k, n in measures([chain])}
    assert counts["operations that are false"] == (1, 4) and counts["- number 1 of a first pass"] == (1, 1)
    assert counts["wrong first pass is noticed"] == counts["- and the answer is right then"] == (1, 1)
    assert counts["carried wrongly"] == (0, 2) and counts["checks that are false"][0] == 0
    text = "38+47=85.\n80-22=58.\nWait, 1 is not 38.\n38+47=84.\nSo the answer is \\boxed{6}."
    counts = {name: (k, n) for name, k, n in measures([dissect("What is 38+47?", text)])}
    assert counts["operations that are false"] == (1, 3) and counts["carried wrongly"] == (1, 1)
    assert counts["answer is right"] == (0, 1) and counts["last pass right, answer wrong"] == (0, 1)
