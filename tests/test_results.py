"""Python's way to a run: recipes from mappings, and results as data frames."""

import pytest
import yaml
from conftest import ROOT, TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from micota_lf import RecipeError, UserError, load_recipe, results, run_recipe, sweep
from micota_lf.reports.outcomes import Outcomes
from micota_lf.reports.results import RAW
from micota_lf.reports.track import log_scores
from micota_lf.reports.write import recipe_sheets

WORDS = {
    "prompts.limit": 24, "evaluation.limit": 6, "generation.backend": "fake", "filter.verdict": "none",
    "corpora": {"half": None, "micota": None, "mix-long": None, "short": None}, "assistants.ta": None,
    "methods": {"Instruct": None, "Strong Teacher CoT": "strong"}, "tables": None, "train.max_steps": 2,
    "train.logging_steps": 1,
    "bpc": {"models": [], "corpora": []}, "students.student-m": None,
}  # fmt: skip


def test_a_recipe_may_be_a_mapping_and_overrides_too(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "recipes")
    overrides = {"train.learning_rate": 2e-3, "students": {"student-s": {"train": {"seed": 3}}}}
    made = load_recipe({"extends": TINY.name, "name": "mine"}, overrides)
    words = ["name=mine", "train.learning_rate=2e-3", "students.student-s.train.seed=3"]
    assert made == load_recipe(TINY, words)
    assert load_recipe(yaml.safe_load(TINY.read_text())) == load_recipe(TINY)
    with pytest.raises(
        RecipeError, match=r"^\(mapping\): train.lr: unknown key; did you mean 'learning_rate'"
    ):
        load_recipe({"extends": TINY.name, "train": {"lr": 1}})
    with pytest.raises(RecipeError, match=r"^command line: train.lr: unknown key"):
        load_recipe(TINY, {"train.lr": 1})


def test_results_of_nothing_are_frames_of_states(tmp_path):
    found = results(TINY, WORDS, tmp_path)
    assert set(found.frame("steps").state) == {"missing"} == set(found.frame("table2").state)
    assert found.frame("problems").empty and found.frame("curves").empty
    with pytest.raises(UserError, match=r"'tabel2'.*did you mean 'table2'"):
        found.frame("tabel2")


def test_a_notebook_shows_recipe_plan_tables_and_results_as_html(tmp_path):
    found = results(TINY, {"students.student-s.model": "<b>&model"}, tmp_path)
    recipe, plan = found.swept.recipe, found.swept.plan
    assert "model: &lt;b&gt;&amp;model" in recipe._repr_html_() and "<b>" not in recipe._repr_html_()
    assert (
        plan._repr_html_().count("<tr") == 1 + len(plan.steps)
        and "train/student-s/micota" in plan._repr_html_()
    )
    whole, (table, *_) = found._repr_html_(), recipe_sheets(Outcomes(recipe, plan, tmp_path))
    assert table._repr_html_() in whole and whole.count("<table>") == len(found.names) - len(RAW)
    assert table._repr_html_().count("<tr>") == 1 + len(table.lines) and "<b>" not in whole


@pytest.mark.long
def test_a_run_from_python_gives_frames_that_agree_with_its_tables(tmp_path):
    said = []
    words = {**WORDS, "train.report_to": "tensorboard"}
    found = run_recipe(TINY, words, targets=["table2"], workspace=tmp_path, say=said.append)
    assert any("steps to do" in line for line in said) and (tmp_path / "reports").is_dir()
    table, problems = found.frame("table2"), found.frame("problems")
    averages = table[(table.benchmark == "Average") & table.model.str.endswith("student-s")]
    for row in averages.itertuples():
        mine = problems[(problems.student == "student-s") & (problems.method == row.method)]
        assert len(mine) == row.n == 12
        assert mine.groupby("task").symbolic.mean().mean() == pytest.approx(row.accuracy)
    assert list(found.frame("curves").training.unique()) and set(found.frame("steps").state) >= {"done"}
    assert not [line for line in said if "no scores were logged" in line]
    logged = EventAccumulator(str(tmp_path / "reports" / "tiny-no-gap" / "trackers" / "tiny-no-gap")).Reload()
    (event,) = logged.Scalars("evaluate/student-s/Strong Teacher CoT/Average")
    assert event.value == pytest.approx(averages[averages.method == "Strong Teacher CoT"].accuracy.item())
    said.clear()
    run_recipe(TINY, words, targets=["table2"], workspace=tmp_path, say=said.append)
    assert not said, "nothing was left to do"


def test_a_tracker_that_is_out_of_reach_costs_a_line_and_no_run(tmp_path):
    (tmp_path / "reports").write_text("a file where TensorBoard wants a folder")
    swept = sweep(TINY, overrides=["train.report_to=tensorboard"])
    (line,) = log_scores(Outcomes(swept.recipe, swept.plan, tmp_path), tmp_path / "reports")
    assert line == "tensorboard: NotADirectoryError(20, 'Not a directory')"
    assert not list(log_scores(Outcomes(load_recipe(TINY), swept.plan, tmp_path), tmp_path))
