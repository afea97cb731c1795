"""Diagnosis: each signature on a run that was made to fail that way, with real engines; no false alarm."""

import random

import pytest
import yaml
from conftest import ROOT
from markupsafe import escape
from test_tables import Bench

from micota_lf import compile_plan, load_recipe
from micota_lf.cli.main import main
from micota_lf.reports import read
from micota_lf.reports.diagnose import SOURCES, diagnosis
from micota_lf.reports.outcomes import Outcomes
from micota_lf.system.files import read_jsonl, write_jsonl
from micota_lf.tiny import TINY_ROOT


def small(**train):
    return {"model": "tiny:gap/student-s", "train": train}


def merged(weight):
    merge = {"weight": weight, "density": 1.0, "dtype": "float32", "health_prompts": 0}
    return {"from": "assistant/strong", "merge": merge}


# Every way to fail, in as few steps as show them: one teacher, one corpus, one untrained student.
BROKEN = {
    "extends": str(ROOT / "recipes" / "tiny.yaml"),
    "name": "broken",
    "prompts": {"limit": 64},
    "students": {
        "student-l": None,
        "student-s": None,
        "parrot": small(num_train_epochs=16),  # long chains, learnt from 64 of them
        "novice": {
            "model": "tiny:student-s",
            "train": {"num_train_epochs": 16},
        },  # whose own had no doubt in them
        "assistant": {"train": {"learning_rate": 1e-3, "num_train_epochs": 10}},
        "hot": small(learning_rate=0.03),
        "burnt": small(learning_rate=1e30),
        "cold": small(learning_rate=1e-9),
        "other": small(template="default", check_template=False),
    },
    "assistants": {"ta": None, "same": merged(1.0), "weak": merged(0.05), "wild": merged(6.0)},
    "corpora": {
        "micota": None,
        "half": None,
        "short": None,
        "mix-long": None,
        "same": {"from": "same"},
        "few": {"from": "teacher", "filter": {"max_tokens": 95}},
        "none": {"from": "teacher", "filter": {"max_tokens": 20}},
        "odd": {"file": "odd.jsonl"},
    },
    "methods": {"Instruct": None, "Strong Teacher CoT": "strong", "Nothing": "none"},
    "tables": {
        "table1": {"others": []},
        "table2": {
            "assistant": ["Instruct", "Strong Teacher CoT"],
            "parrot": ["Instruct", "Strong Teacher CoT", "Nothing"],
            "others": ["Instruct", "Strong Teacher CoT"],
        },
        "table3": {"others": []},
    },
    "train": {"logging_steps": 1},
    "evaluation": {"limit": 200},
    "bpc": {"models": ["parrot"], "corpora": ["strong", "same", "few", "odd"], "limit": 20},
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The recipe, its workspace, and the diagnosis of its run, which does not end well."""
    home = tmp_path_factory.mktemp("broken")
    problems, draw = read_jsonl(TINY_ROOT / "data" / "gap" / "train.jsonl")[:24], random.Random(0)
    noise = ["".join(draw.choices("QZXJKV#@~^&", k=200)) for _ in problems]
    rows = [
        {
            "prompt": row["problem"],
            "response_tokens": 200,
            "answer": row["answer"],
            "response": f"{text} \\boxed{{{row['answer']}}}",
        }
        for row, text in zip(problems, noise, strict=True)
    ]
    write_jsonl(home / "odd.jsonl", rows)
    recipe, workspace = home / "broken.yaml", home / "runs"
    recipe.write_text(yaml.safe_dump(BROKEN))
    assert main(["run", str(recipe), "--workspace", str(workspace)]) == 1
    made = load_recipe(recipe)
    return recipe, workspace, diagnosis(Outcomes(made, compile_plan(made), workspace)).records


@pytest.mark.long
@pytest.mark.parametrize(
    ("signature", "where"),
    [
        ("overthinking", "assistant, Strong Teacher CoT"),
        ("copies_length", "parrot, Strong Teacher CoT"),
        ("collapse", "novice, Strong Teacher CoT"),
        ("truncated", "evaluate/hot/Strong Teacher CoT"),
        ("loops", "evaluate/wild"),
        ("few_kept", "few"),
        ("few_kept", "none"),
        ("far_corpus", "odd under parrot"),
        ("unshortened", "same"),
        ("forgot", "wild"),
        ("too_weak", "weak"),
        ("template", "students.other"),
        ("flat_loss", "cold/strong"),
        ("rising_loss", "hot/strong"),
        ("burst", "train/burnt/strong"),
        ("failed", "filter/none"),
    ],
)
def test_a_run_that_fails_this_way_bears_its_signature(signature, where, broken):
    *_, found = broken
    (one,) = [record for record in found if (record["signature"], record["where"]) == (signature, where)]
    assert one["evidence"] and one["tries"] and one["because"]


@pytest.mark.long
def test_what_is_sound_in_the_same_run_bears_none(broken):
    *_, found = broken
    borne = {(record["signature"], record["where"]) for record in found}
    sound = {
        "rising_loss": ["assistant/strong", "parrot/strong", "cold/strong"],
        "flat_loss": ["assistant/strong", "parrot/strong", "hot/strong"],
        "few_kept": ["strong", "odd", "same"],
        "truncated": ["generate/teacher", "evaluate/teacher", "evaluate/parrot/Instruct", "evaluate/same"],
        "loops": ["generate/teacher", "evaluate/teacher", "evaluate/parrot/Instruct"],
        "forgot": ["weak"],
        "too_weak": ["same"],
        "unshortened": ["weak", "wild"],
        "collapse": ["cold, Strong Teacher CoT"],
        "overthinking": ["cold, Strong Teacher CoT"],
        "far_corpus": ["strong under parrot", "same under parrot"],
    }
    assert not borne & {(signature, where) for signature, places in sound.items() for where in places}


@pytest.mark.long
def test_the_command_and_the_page_say_it_with_advice_that_names_keys_of_the_recipe(broken, capsys):
    recipe, workspace, found = broken
    assert main(["diagnose", str(recipe), "--workspace", str(workspace)]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith(f"broken: {len(found)} found in ")
        and "Collapse below the untrained model: hot" in said
    )
    assert "assistants.same.merge.weight" in said and "(now 1.0)" in said
    html = (workspace / "reports" / "broken" / "report.html").read_text()
    section = html[html.index('<section id="diagnosis">') :]
    assert [record["title"] for record in found if escape(record["title"]) not in section] == []
    assert 'data-method="Strong Teacher CoT" data-b="Instruct" data-filter="ba"' in section


def test_a_sound_run_has_no_diagnosis_and_no_section_of_it(tmp_path, capsys):
    made = Bench(tmp_path)
    made.finish("evaluate/student-s/Instruct", two="11100000", three="10000000")
    made.finish("evaluate/student-s/MiCoTA", two="11111110", three="11111100")
    made.finish("evaluate/student-s/Strong Teacher CoT", two="11110000", three="10000000")
    assert diagnosis(made.outcomes()).records == []
    assert main(["diagnose", str(ROOT / "recipes" / "tiny-no-gap.yaml"), "--workspace", str(tmp_path)]) == 0
    assert "tiny-no-gap: 0 found in 3 of 38 steps" in capsys.readouterr().out


def test_a_loss_within_noise_bears_no_signature(tmp_path):
    """Right less often than untrained, but by no more than chance allows."""
    made = Bench(tmp_path)
    made.finish("evaluate/student-s/Instruct", two="11110000", three="11110000")
    made.finish("evaluate/student-s/MiCoTA", two="11100000", three="11110000")
    assert not [one for one in diagnosis(made.outcomes()).records if one["signature"] == "collapse"]
    worse = Bench(tmp_path / "worse")
    worse.finish("evaluate/student-s/Instruct", two="1" * 20, three="1" * 20)
    worse.finish("evaluate/student-s/MiCoTA", two="0" * 20, three="0" * 20)
    (one,) = [one for one in diagnosis(worse.outcomes()).records if one["signature"] == "collapse"]
    assert "-100.0 points [-100.0, -8" in one["evidence"] and "n = 40" in one["evidence"]


def test_every_signature_has_a_reason_words_and_advice_and_limits_of_figures_that_exist():
    for name, spec in read("diagnose").items():
        assert spec["of"] in SOURCES and spec["title"] and spec["because"] and spec["says"] and spec["try"], (
            name
        )
        assert set(spec) <= {"title", "of", "at_least", "below", "because", "says", "try", "shows"}, name
