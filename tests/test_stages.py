"""The stages on files, as functions and as commands, statistics and BPC arithmetic."""

import gzip
import itertools
import json
import math

import pytest

from micota_lf import StepFailed, UserError
from micota_lf.backends import Completion, Request, fake, open_backend
from micota_lf.cli.main import main
from micota_lf.grading.answer import grade
from micota_lf.grading.intervals import average_interval, mean_interval, pass_at, sampled, wilson
from micota_lf.inputs.problems import Prompts, load_problems
from micota_lf.inputs.references import ModelRef
from micota_lf.recipe.sections import Bpc, Filter, Generation
from micota_lf.stages.bpc import bits_per_character, finish
from micota_lf.stages.filter import filter_responses
from micota_lf.stages.generate import generate, response_summary, summary_lines
from micota_lf.stages.mix import mix_corpora, shares
from micota_lf.stages.overlap import overlap
from micota_lf.system.files import read_json, read_jsonl, write_jsonl


def generated(output, n=20, **more):
    prompts = Prompts("tiny:train", limit=n, **more)
    return generate(ModelRef("any"), prompts, output, Generation(backend="fake", max_tokens=64))


def test_generate_writes_one_row_a_problem_with_its_counts_and_status(tmp_path):
    summary = generated(tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert summary["responses"] == len(rows) == 20
    assert [row["id"] for row in rows] == [p["id"] for p in load_problems(Prompts("tiny:train", limit=20))]
    keys = {"id", "prompt", "response", "finish_reason", "prompt_tokens", "response_tokens", "status"}
    assert all(keys <= set(row) and row["status"] == "ok" for row in rows)


def test_a_summary_of_responses_tells_loops_from_plain_cuts(tmp_path):
    again = "Let me check that once more, as it may be wrong after all. " * 9
    cut = [response("loop", again, reason="length"), response("cut", "so", reason="length")]
    write_jsonl(tmp_path / "r.jsonl", [{"error": None, **row} for row in [*cut, response("ends", again)]])
    summary = response_summary(tmp_path / "r.jsonl")
    assert (summary["responses"], summary["truncated"], summary["loops"]) == (3, 2, 1)
    assert summary_lines(summary)[0].endswith("2 (66.7%) cut at the limit, 1 of them loops")


def test_a_killed_generation_resumes_by_id_and_drops_a_torn_last_line(tmp_path):
    out = tmp_path / "out.jsonl"
    generated(out)
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    out.write_text("".join(lines[:7]) + lines[7][:30])
    generated(out)
    assert sorted(out.read_text().splitlines()) == sorted(whole.splitlines())


def test_failed_rows_stay_visible_and_are_retried(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"

    def broken(self, requests):
        for n, request in enumerate(requests):
            yield Completion(request.id, error="no memory" if n % 2 else None, finish_reason="stop")

    with monkeypatch.context() as patch:
        patch.setattr(fake.Backend, "complete", broken)
        with pytest.raises(StepFailed, match=r"10 of 20 responses .* failed"):
            generated(out)
    assert sum(row["status"] == "error" for row in read_jsonl(out)) == 10
    assert generated(out)["responses"] == 20
    assert len({row["id"] for row in read_jsonl(out)}) == len(read_jsonl(out)) == 20


def test_responses_to_another_question_are_not_continued(tmp_path):
    generated(tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_text()
    with pytest.raises(UserError, match="template"):
        generated(tmp_path / "out.jsonl", template="{problem}?")
    with pytest.raises(UserError, match=r"limit: 20 -> 21; problems.tiny-train-0020: .\(absent\). -> "):
        generated(tmp_path / "out.jsonl", n=21)
    assert (tmp_path / "out.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("{\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is a list"),
        ('{"question": "x"}\n', "row 1: has no text in 'problem'"),
        (
            '{"id": 1, "problem": "a"}\n{"id": 1, "problem": "b"}\n',
            "row 2: has the same id '1' as an earlier row",
        ),
        (b'{"problem": "\xff"}\n', "cannot be read as UTF-8"),
    ],
)
def test_a_bad_prompt_file_is_one_line_and_code_2(tmp_path, capsys, text, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = ["generate", "--model", "tiny:student-s", "--prompts", str(path), "-o", str(tmp_path / "out")]
    assert main([*command, "generation.backend=fake", "generation.max_tokens=8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and str(path) in line
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_one_line_and_code_2(tmp_path, capsys):
    command = ["generate", "--model", "./nowhere", "--prompts", "tiny:train", "-o", str(tmp_path / "o")]
    assert main([*command, "generation.max_tokens=8"]) == 2
    assert capsys.readouterr().err == "micota: --model: no such model directory: ./nowhere\n"
    assert list(tmp_path.iterdir()) == []


def test_a_context_length_counts_the_prompt_and_cuts_no_other_response():
    """In one batch, in which the longer prompt has the least room."""
    requests = [Request(str(n), [{"role": "user", "content": "What is 1+1?" * n}]) for n in (1, 5)]

    def answers(**more):
        with open_backend(ModelRef("tiny:student-s"), Generation(dtype="float32", **more)) as backend:
            return {made.id: made for made in backend.complete(requests)}

    free = answers(max_tokens=60)
    context = free["5"].prompt_tokens + free["5"].response_tokens - 2
    bound = answers(max_tokens=60, context_len=context)
    for n, made in bound.items():
        room = min(60, context - made.prompt_tokens)
        assert made.response_tokens == min(free[n].response_tokens, room)
        assert free[n].text.startswith(made.text)
    assert (free["5"].finish_reason, bound["5"].finish_reason) == ("stop", "length")
    assert bound["1"] == free["1"]
    with pytest.raises(
        UserError, match=r"generation\.context_len: 9 leaves no room after the longest prompt"
    ):
        answers(context_len=9)


@pytest.mark.slow
def test_the_transformers_backend_is_greedy_and_does_not_depend_on_the_batch():
    problems = load_problems(Prompts("tiny:two", limit=6))
    requests = [Request(p["id"], [{"role": "user", "content": p["problem"]}]) for p in problems]
    texts = []
    for batch_size in (1, 6):
        sampling = Generation(max_tokens=48, dtype="float32", batch_size=batch_size)
        with open_backend(ModelRef("tiny:student-s"), sampling) as backend:
            texts.append(
                {c.id: (c.text, c.finish_reason, c.response_tokens) for c in backend.complete(requests)}
            )
    assert texts[0] == texts[1]
    assert all(0 < tokens <= 48 for _, _, tokens in texts[0].values())


@pytest.mark.slow
def test_generate_works_on_another_architecture_without_chat_template_and_any_problem_column(tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(ModelRef("tiny:teacher").resolved)
    tokenizer.chat_template = None
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, **size))
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    write_jsonl(tmp_path / "p.jsonl", [{"problem": f"What is {n}+{n}?", "level": n} for n in range(5)])
    command = ["generate", "--model", str(tmp_path / "llama"), "--prompts", str(tmp_path / "p.jsonl")]
    assert main([*command, "generation.max_tokens=7", "-o", str(tmp_path / "out")]) == 0
    rows = read_jsonl(tmp_path / "out" / "responses.jsonl")
    assert len({row["id"] for row in rows}) == 5
    assert all(0 < row["response_tokens"] <= 7 and row["answer"] is None for row in rows)


def test_a_token_limit_beyond_the_models_positions_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="exceed the model's"):
        generate(
            ModelRef("tiny:student-s"), Prompts("tiny:two", limit=2), tmp_path / "o.jsonl",
            Generation(max_tokens=10**6),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def response(row_id, text, answer="12", reason="stop", tokens=5, status="ok"):
    return {
        "id": row_id, "prompt": "p", "response": text, "answer": answer, "finish_reason": reason,
        "response_tokens": tokens, "status": status,
    }  # fmt: skip


def test_the_filter_keeps_equation_1_and_says_why_it_rejects_the_rest(tmp_path):
    rows = [
        response("right", "so \\boxed{12}"),
        response("wrong", "so \\boxed{13}"),
        response("cut", "so \\boxed{12", reason="length"),
        response("right but cut", "so \\boxed{12} and", reason="length"),
        response("long", "so \\boxed{12}", tokens=99),
        response("unboxed", "I give up"),
        response("failed", "", status="error"),
        response("symbolic", "so \\boxed{12.0}"),
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter("symbolic", 50))
    assert [row["id"] for row in read_jsonl(tmp_path / "c.jsonl")] == ["right", "symbolic"]
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "rejected.jsonl")}
    assert reasons == {
        "wrong": "wrong", "cut": "truncated", "right but cut": "truncated", "failed": "generation failed",
        "long": "longer than max_tokens", "unboxed": "no answer",
    }  # fmt: skip
    assert counts["legacy_and_symbolic_differ"] == 1 and counts["kept_not_right"] == 0
    legacy = filter_responses(tmp_path / "r.jsonl", tmp_path / "l.jsonl", Filter("legacy", 50))
    assert legacy["reasons"]["kept"] == 1
    anyhow = filter_responses(tmp_path / "r.jsonl", tmp_path / "n.jsonl", Filter("none", 50))
    assert anyhow["reasons"]["kept"] == 4 and anyhow["kept_not_right"] == 2
    cut = filter_responses(
        tmp_path / "r.jsonl", tmp_path / "k.jsonl", Filter("none", 50, keep_truncated=True)
    )
    assert cut["reasons"]["kept"] == 6 and cut["kept_truncated"] == 2 and cut["kept_not_right"] == 3
    write_jsonl(tmp_path / "r.jsonl", [{**rows[1], "answer": None}, rows[5]])
    unknown = filter_responses(tmp_path / "r.jsonl", tmp_path / "u.jsonl", Filter("none"))
    assert unknown["reasons"]["kept"] == 2 and unknown["kept_not_right"] == 1


def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_a_right_one():
    for n in range(1, 7):
        for right, k in itertools.product(range(n + 1), range(1, n + 1)):
            choices = [min(choice) < right for choice in itertools.combinations(range(n), k)]
            assert pass_at(k, right, n) == pytest.approx(sum(choices) / len(choices))
    rows = [
        {"symbolic": 1 / 3, "responses": 6, "majority": 1},
        {"symbolic": 0.0, "responses": 6, "majority": 0},
    ]
    found = sampled(rows, "symbolic")
    assert list(found) == ["pass@1", "pass@2", "pass@4", "pass@6", "maj@6"]
    assert found["maj@6"] == dict(zip(("mean", "low", "high"), (0.5, *wilson(1, 2)), strict=True))
    assert sampled([{"kept": 1.0, "responses": 1}], "kept") == {}


@pytest.mark.parametrize("backend", ["fake", "transformers"])
def test_several_responses_to_a_prompt_differ_go_on_after_a_crash_and_are_refused_if_greedy(
    tmp_path, backend, capsys
):
    prompts, out = Prompts("tiny:train", limit=2), tmp_path / "r.jsonl"
    sampling = Generation(backend, samples=5, temperature=20.0, max_tokens=12, batch_size=3, dtype="float32")
    generate(ModelRef("tiny:student-s"), prompts, out, sampling)
    rows = read_jsonl(out)
    ids = {f"{row['id']}#{n}" for row in load_problems(prompts) for n in range(1, 6)}
    assert {row["id"] for row in rows} == ids and len(rows) == 10
    for prompt in {row["prompt"] for row in rows}:
        assert len({row["response"] for row in rows if row["prompt"] == prompt}) >= 4
    write_jsonl(out, rows[:3])
    generate(ModelRef("tiny:student-s"), prompts, out, sampling)
    again = read_jsonl(out)
    assert {row["id"] for row in again} == ids and again[:3] == rows[:3]
    assert again[0]["response"] not in [
        row["response"] for row in again[3:6]
    ]  # no batch draws as the first did
    words = ["generate", "--model", "tiny:student-s", "--prompts", "tiny:train", "generation.samples=2"]
    assert main([*words, "-o", str(tmp_path / "greedy")]) == 2
    assert (
        "generation.samples: 2 greedy responses are the same: set generation.temp" in capsys.readouterr().err
    )


def test_of_several_right_responses_to_a_prompt_all_or_one_are_kept_and_the_counts_say_so(tmp_path):
    answered = {"a": [(12, 9), (13, 1), (12, 5)], "b": [(12, 3), (12, 3), (1, 1)], "c": [(1, 1)] * 3}
    rows = [
        {**response(f"{name}#{n}", f"so \\boxed{{{value}}}", tokens=tokens), "prompt": name}
        for name, answers in answered.items()
        for n, (value, tokens) in enumerate(answers, start=9)
    ]  # fmt: skip
    write_jsonl(tmp_path / "r.jsonl", reversed(rows))  # generation ends in any order
    kept = {}
    for choice in ("all", "shortest", "first"):
        rule = Filter(per_prompt=choice)
        counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", rule)
        kept[choice] = {row["id"] for row in read_jsonl(tmp_path / "c.jsonl")}
        assert (counts["prompts"], counts["prompts_kept"], counts["responses"]) == (3, 2, 9)
        means = {name: found["mean"] for name, found in counts["passed"].items()}
        assert means == {"pass@1": pytest.approx(4 / 9), "pass@2": 2 / 3, "pass@3": 2 / 3}
    assert kept == {
        "all": {"a#9", "a#11", "b#9", "b#10"},
        "shortest": {"a#11", "b#9"},
        "first": {"a#9", "b#9"},
    }
    assert counts["reasons"] == {"kept": 2, "not the first": 2, "wrong": 5}
    rule = Filter("none", per_prompt="first")
    unjudged = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", rule)
    assert unjudged["passed"] == {} and unjudged["reasons"]["kept"] == 3, "nothing was looked at"
    write_jsonl(tmp_path / "r.jsonl", [{"prompt": "p", "response": "so \\boxed{12}", "answer": "12"}])
    with pytest.raises(UserError, match="no 'response_tokens', which per_prompt shortest needs"):
        filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter(per_prompt="shortest"))


def test_a_cut_response_that_repeats_itself_is_rejected_as_a_loop(tmp_path):
    again = "Let me check that once more, as it may be wrong after all. " * 9
    rows = [
        response("loop", again, reason="length"),
        response("ends", again + "\\boxed{12}"),
        response("cut", "so", reason="length"),
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter())
    assert counts["reasons"] == {"kept": 1, "loops": 1, "truncated": 1} and not counts["passed"].get("pass@4")


def test_a_filter_that_keeps_nothing_is_an_error_that_names_the_reasons(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [response("a", "no idea")])
    with pytest.raises(UserError, match=r"no response passes the filter: {'no answer': 1}"):
        filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter())
    assert not (tmp_path / "c.jsonl").exists()


PROOF = "First show that the sum is even. Then add three and note that what is left must be a prime number."


def test_a_gold_answer_that_cannot_be_read_is_its_own_reason_and_is_named(tmp_path):
    rows = [response("a", "so \\boxed{12}"), response("b", "so \\boxed{12}", PROOF)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter())
    assert counts["reasons"] == {"kept": 1, "unreadable gold": 1}
    write_jsonl(tmp_path / "r.jsonl", rows[1:])
    with pytest.raises(UserError, match=r"{'unreadable gold': 1}.*cannot be read \(b: 'First show") as error:
        filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter())
    assert "an answer alone" in str(error.value) and "\n" not in str(error.value)


def test_a_filter_can_ask_for_answers_in_a_box(tmp_path):
    rows = [response("a", "so \\boxed{12}"), response("b", "The answer is 12."), response("c", "so 12")]
    write_jsonl(tmp_path / "r.jsonl", rows)
    counts = filter_responses(tmp_path / "r.jsonl", tmp_path / "c.jsonl", Filter("boxed"))
    assert counts["reasons"] == {"kept": 1, "not in a box": 2}
    found = [row["found_by"] for name in ("c", "rejected") for row in read_jsonl(tmp_path / f"{name}.jsonl")]
    assert found == ["box", "statement", "last expression"]


def test_commands_leave_out_and_count_bad_rows_with_skip_bad_and_refuse_them_without(tmp_path, capsys):
    whole = response("a", "so \\boxed{12}")
    write_jsonl(tmp_path / "r.jsonl", [whole, {"prompt": "p"}, {**whole, "id": "b", "answer": "3"}])
    file, out = str(tmp_path / "r.jsonl"), tmp_path / "out"
    for command, words in (("filter --responses", "has no 'response'"), ("grade", "has no 'response'")):
        asked = [*command.split(), file, "-o", str(out / command)]
        assert main(asked) == 2 and f"{file}: row 2: {words}" in capsys.readouterr().err
        assert main([*asked, "--skip-bad"]) == 0
        assert "1 bad row" in capsys.readouterr().out.replace("rows", "row")
    *_, bad = read_jsonl(out / "filter --responses" / "rejected.jsonl")
    assert bad["reason"] == "bad row" and bad["error"].startswith(f"{file}: row 2: has no 'response'")
    counts = read_json(out / "filter --responses" / "counts.json")
    assert counts["responses"] == 3 and counts["reasons"] == {"bad row": 1, "kept": 1, "wrong": 1}
    assert [row["id"] for row in read_jsonl(out / "grade")] == ["a", "b"]


OWN = """
def brief(row):
    return True if len(row["response"]) < 20 else "wordy"

def broken(row):
    return row["gold"]
"""


def test_a_function_of_ones_own_decides_what_is_kept_and_is_known_by_its_content(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    rows = [response("a", "so \\boxed{7}"), response("b", "let me think, so \\boxed{12}")]
    write_jsonl("r.jsonl", [{**row, "answer": None} for row in rows])
    words = ["filter", "--responses", "r.jsonl", "-o"]
    assert main([*words, "out", "filter.verdict=./mine.py:brief"]) == 0
    assert [row["id"] for row in read_jsonl("out/corpus.jsonl")] == ["a"]
    assert [row["reason"] for row in read_jsonl("out/rejected.jsonl")] == ["wordy"]
    (tmp_path / "moved.py").write_text(OWN)
    assert main([*words, "out", "filter.verdict=moved.py:brief"]) == 2  # the file's name is its own, too
    (tmp_path / "mine.py").write_text(OWN.replace("20", "99"))
    assert main([*words, "out", "filter.verdict=./mine.py:brief"]) == 2
    assert "holds the outputs of other settings" in capsys.readouterr().err
    for verdict, said in {
        "mine.py:broken": "mine.py: broken({'id': 'a'", "mine.py:brif": "brif cannot be had: KeyError",
        "nowhere.py:brief": "names no file", "brief": "must be one of legacy, symbolic, boxed, none, or",
    }.items():  # fmt: skip
        assert main([*words, "other", f"filter.verdict={verdict}"]) == 2
        error = capsys.readouterr().err
        assert "verdict: " in error and said in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_function_of_ones_own_judges_an_evaluation_beside_the_graders(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def right(row):\n    return row['problem'][-1] == '?'\n")
    words = ["--model", "tiny:student-s", "--tasks", "micota_tiny_two", "-o", str(tmp_path / "out")]
    limits = ["evaluation.limit=4", "evaluation.max_gen_toks=32", "evaluation.dtype=float32"]
    assert main(["evaluate", *words, *limits, f"evaluation.verdict={tmp_path}/mine.py:right"]) == 0
    score = read_json(tmp_path / "out" / "scores.json")["micota_tiny_two"]
    assert score["n"] == score["own"] == 4 and score["symbolic"] < 4
    assert [row["own"] for row in read_jsonl(tmp_path / "out" / "problems.jsonl")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "gold", "legacy", "symbolic"),
    [
        ("\\boxed{1} no, \\boxed{2}", "2", True, True),
        ("\\boxed{0.25}", "\\frac14", False, True),
        ("\\boxed{\\fbox{3}}", "3", False, True),
        ("\\boxed{7", "7", False, False),
        ("the answer is 3", "3", False, True),
        ("", "3", False, False),
        (None, "3", False, False),
    ],
)
def test_both_verdicts_are_given_side_by_side(text, gold, legacy, symbolic):
    result = grade(text, gold)
    assert (result.legacy, result.symbolic) == (legacy, symbolic)


def corpus(path, name, n):
    write_jsonl(
        path, [{"id": f"{name}{i}", "prompt": "p", "response": "r", "response_tokens": 4} for i in range(n)]
    )


def test_a_mix_keeps_its_ratios_and_is_the_same_for_a_seed(tmp_path):
    corpus(tmp_path / "long.jsonl", "l", 30)
    corpus(tmp_path / "short.jsonl", "s", 100)
    parts = [str(tmp_path / "long.jsonl"), str(tmp_path / "short.jsonl")]
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        counts = mix_corpora(parts, [0.2, 0.8], tmp_path / name / "corpus.jsonl", seed=seed)
        texts.append((tmp_path / name / "corpus.jsonl").read_text())
        assert counts["rows_by_part"] == [25, 100]
    assert texts[0] == texts[1] != texts[2]
    ids = [row["id"] for row in read_jsonl(tmp_path / "a" / "corpus.jsonl")]
    assert len(set(ids)) == 125
    with pytest.raises(UserError, match="need 40 of"):
        mix_corpora(parts, [0.2, 0.8], tmp_path / "d.jsonl", size=200)
    with pytest.raises(UserError, match="add up to 1"):
        mix_corpora(parts, [0.4, 0.4], tmp_path / "d.jsonl")


def test_a_corpus_may_be_several_parts_of_a_mix(tmp_path):
    corpus(tmp_path / "c.jsonl", "c", 30)
    counts = mix_corpora(2 * [str(tmp_path / "c.jsonl")], [0.5, 0.5], tmp_path / "out.jsonl", size=20)
    assert counts["rows_by_part"] == [10, 10]


def test_rows_from_elsewhere_are_mixed_and_scored_without_ids_and_counts(tmp_path):
    rows = [{"prompt": f"What is {n}+1?", "response": str(n + 1)} for n in range(4)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    counts = mix_corpora([str(tmp_path / "r.jsonl")], [1.0], tmp_path / "out.jsonl")
    assert counts["rows"] == 4 and len({row["id"] for row in read_jsonl(tmp_path / "out.jsonl")}) == 4
    assert counts["mean_response_tokens"] is None, "not known, and not 0"
    samples = [{"doc_id": n, "doc": row, "nll": 2.0} for n, row in enumerate(rows)]
    write_jsonl(tmp_path / "lm_eval" / "m" / "samples_t_2026-01-01T00-00-00.jsonl", samples)
    assert finish(tmp_path, Bpc(), {"c": "t"})["c"]["mean"] == 2.0
    assert [row["id"] for row in read_jsonl(tmp_path / "texts.jsonl")] == [0, 1, 2, 3]


@pytest.mark.long
def test_a_corpus_of_another_format_is_trained_on_and_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with gzip.open("own.csv.gz", "wt") as handle:
        handle.write("prompt,response,note\nWhat is 1+1?,2,\nWhat is 2+1?,3,odd\n")
    words = ["--model", "tiny:student-s", "--corpus", "own.csv.gz"]
    small = ["train.max_steps=1", "train.global_batch_size=2", "train.bf16=false", "train.use_cpu=true"]
    assert main(["train", *words, *small, "-o", "trained"]) == 0
    assert main(["bpc", *words, "evaluation.dtype=float32", "-o", "bpc"]) == 0
    assert read_json("bpc/done.json")["results"]["corpus0"]["n"] == 2


def test_shares_add_up_to_the_total():
    assert shares([0.2, 0.8], 7) == [1, 6]
    assert shares([1 / 3, 1 / 3, 1 / 3], 100) == [34, 33, 33]


def test_bpc_of_a_hand_computed_text():
    """Three tokens at probability 1/2 each over `añb`: 3 ln 2 nats, 3 characters, 4 bytes."""
    nll = 3 * math.log(2)
    assert bits_per_character(nll, "añb") == pytest.approx(math.log(2))
    assert bits_per_character(nll, "añb", log_base="2") == pytest.approx(1.0)
    assert bits_per_character(nll, "añb", log_base="2", unit="bytes") == pytest.approx(0.75)


def test_intervals_match_known_values():
    low, high = wilson(130, 200)
    assert (round(low, 4), round(high, 4)) == (0.5816, 0.7127)
    assert wilson(0, 30)[0] == 0 and wilson(30, 30)[1] == 1
    assert wilson(12, 30) < wilson(12.5, 30) < wilson(13, 30)  # a mean over several responses a problem
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841377, 2 + 2.4841377))
    low, high = average_interval([(130, 200), (50, 200)])
    standard_error = math.sqrt(0.65 * 0.35 / 200 + 0.25 * 0.75 / 200) / 2
    assert low < 0.45 < high and high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


@pytest.mark.parametrize(
    "command",
    [
        "plan",
        "run",
        "explain",
        "report",
        "preflight",
        "doctor",
        "status",
        "verify",
        "gc",
        "export",
        "generate",
        "filter",
        "grade",
        "mix",
        "train",
        "merge",
        "evaluate",
        "bpc",
    ],
)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  micota {command}" in capsys.readouterr().out


def test_a_step_directory_of_other_settings_is_not_reused(tmp_path, capsys):
    corpus(tmp_path / "c.jsonl", "c", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "step.json").write_text(json.dumps({"id": "other"}))
    words = ["--responses", str(tmp_path / "c.jsonl"), "-o", str(tmp_path / "out")]
    assert main(["filter", *words, "filter.verdict=none"]) == 2
    assert "holds the outputs of other settings" in capsys.readouterr().err
    assert main(["filter", *words, "filter.verdicts=none"]) == 2
    assert "did you mean 'verdict'?" in capsys.readouterr().err


def test_filter_and_mix_are_commands_that_write_a_corpus_and_are_done_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("r.jsonl", [response("a", "so \\boxed{12}"), response("b", "so \\boxed{12.0}")])
    corpus(tmp_path / "c.jsonl", "c", 9)
    command = ["filter", "--responses", "r.jsonl", "filter.verdict=legacy", "-o", "kept"]
    assert main(command) == main(command) == 0
    assert "kept: 2 responses judged by legacy: 1 correct, 1 kept" in capsys.readouterr().out
    assert [row["id"] for row in read_jsonl("kept/corpus.jsonl")] == ["a"]
    assert read_json("kept/done.json")["results"] == read_json("kept/counts.json")
    parts = ["--part", "0.25=kept/corpus.jsonl", "--part", "0.75=c.jsonl"]
    assert main(["mix", *parts, "--seed", "1", "-o", "mixed"]) == 0
    assert capsys.readouterr().out == "mixed: 4 rows, [1, 3] by part\n"
    assert len(read_jsonl("mixed/corpus.jsonl")) == 4
    assert main(["mix", *parts, "--size", "8", "-o", "more"]) == 2
    assert "--size: 8 rows need 2 of" in capsys.readouterr().err and not (tmp_path / "more").exists()


def test_overlap_gives_each_pair_once_in_order_with_its_first_shared_run():
    prompts = [
        {"id": "b", "problem": "How many apples has Ann, if Bob ate two?"},
        {"id": "a", "problem": "So: how many apples has Ann?"},
        {"id": "c", "problem": "Add."},
    ]
    problems = [
        {"id": "2", "problem": "add"}, {"id": "1", "problem": "HOW MANY APPLES HAS ANN"},
        {"id": "3", "problem": "Bob ate two."},
    ]  # fmt: skip
    results, pairs = overlap(prompts, {"made": problems}, 4)
    assert results == {
        "prompts": 3, "ngram": 4,
        "benchmarks": {"made": {"problems": 3, "problems_shared": 2, "prompts_shared": 3, "identical": 1}},
    }  # fmt: skip
    run = {"benchmark": "made", "problem": "1", "identical": False, "ngram": "how many apples has"}
    assert pairs == [
        run | {"prompt": "a"}, run | {"prompt": "b"},
        {"benchmark": "made", "problem": "2", "prompt": "c", "identical": True, "ngram": "add"},
    ]  # fmt: skip
