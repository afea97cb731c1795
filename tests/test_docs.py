"""The README and docs/: every command, Python block and recipe in them is run or at least parsed.

Commands are the lines of ```sh blocks. A cheap one is run for real, one that needs GPUs, a hub, Slurm or a
whole run is parsed by the real parser, its recipe loaded with its overrides, its targets found in the plan.
A command that no rule knows fails. ```yaml blocks say in their first line which recipe they are.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT

from micota_lf import compile_plan, load_recipe, sweep
from micota_lf.cli import commands as plain_commands
from micota_lf.cli import stages as stage_commands
from micota_lf.cli.main import main
from micota_lf.recipe.load import settings
from micota_lf.system.files import write_jsonl
from micota_lf.tiny import TINY_ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = (  # where their input is there
    "plan", "explain", "schema", "tasks", "report", "diagnose", "filter", "mix", "grade", "doctor", "init",
)  # fmt: skip
PARSED = ("run", "verify", "gc", "export", "generate", "train", "merge", "evaluate", "bpc", "preflight",
          "join", "sweep", "templates", "status")  # fmt: skip
STAGES = ("generate", "filter", "mix", "train", "merge", "evaluate", "bpc")
MORE_THAN_THIS_MACHINE = ("Qwen/",)  # in a stage command: a hub, a GPU or a server is needed


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def lines_of(page: Path) -> list[str]:
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def words_of(line: str) -> list[str]:
    words = shlex.split(line.removeprefix("nohup "), comments=True)
    return ["micota", *words[1:]] if Path(words[0]).name == "micota" else words


COMMANDS = list(dict.fromkeys((page.name, line) for page in PAGES for line in lines_of(page)))


@pytest.fixture
def tree(tmp_path, monkeypatch, gap_seeds) -> Path:
    """A copy of what the pages' relative paths name, with the pages' own recipes; we work in it."""
    for name in ("recipes", "data_info"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for page in PAGES:
        own = [block for block in blocks(page, "python") if block.startswith("# mine.py")]
        for block in [*blocks(page, "yaml"), *own]:
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    shutil.copytree(TINY_ROOT / "models" / "student-s", tmp_path / "recipes" / "models" / "my-model")
    rows = [
        {"prompt": f"What is {n}+1?", "response": f"\\boxed{{{n + 1}}}", "answer": n + 1} for n in range(5)
    ]
    write_jsonl(tmp_path / "recipes" / "responses.jsonl", rows)
    write_jsonl(tmp_path / "old.jsonl", [{"output": row["response"], "gold": row["answer"]} for row in rows])
    samples = [{"filtered_resps": [row["response"]], "doc": {"answer": row["answer"]}} for row in rows]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    write_jsonl(tmp_path / "problems.jsonl", [{"problem": row["prompt"]} for row in rows])
    for folder in ("long", "short"):
        write_jsonl(tmp_path / folder / "responses.jsonl", rows)
    for folder in ("kept", "kept-short"):
        whole = [{**row, "id": str(n), "response_tokens": 5} for n, row in enumerate(rows)]
        write_jsonl(tmp_path / folder / "corpus.jsonl", whole)
    write_jsonl(tmp_path / "four" / "responses.jsonl", [{**row, "response_tokens": 5} for row in rows])
    for workspace in ("runs", "pilot"):
        (tmp_path / workspace).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_micota(words: list[str]) -> None:
    """Run a command to its end."""
    if "-o" in words and words[0] in STAGES:  # `kept` and its like are there for later commands
        words[words.index("-o") + 1] += "-new"
    assert main(words) == 0


def parse_micota(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as `micota` does, load its recipe, look up its targets; do nothing."""
    parsed = []
    home = stage_commands if words[0] in (*STAGES, "templates") else plain_commands
    monkeypatch.setattr(home, "run" if words[0] == "sweep" else words[0], parsed.append)
    assert main(words) == 0
    (args,) = parsed
    if words[0] in STAGES:
        given = [word for word in args.overrides if not word.startswith("merge.")]
        merge = [f"assistants.it.{word}" for word in args.overrides if word.startswith("merge.")]
        assistants = {"it": {"from": ""}}
        settings(given + merge, name="stage", prompts={"path": ""}, assistants=assistants)
        return
    recipes = [*getattr(args, "recipes", []), *([args.recipe] if getattr(args, "recipe", None) else [])]
    for path in recipes:
        plan = sweep(path, overrides=getattr(args, "overrides", [])).plan
        plan.select([*getattr(args, "target", []), *([args.step] if hasattr(args, "step") else [])])
    assert recipes or words[0] in ("join", "templates") or words in (["verify", "--quick"], ["status"])


def check_make(words: list[str]) -> None:
    """The target is there and its `SET=` fits the paper's recipe; making nothing."""
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = next((word.removeprefix("SET=") for word in words if word.startswith("SET=")), "")
    load_recipe(ROOT / "recipes" / "micota.yaml", given.split())


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The script is there and its help names the flags."""
    monkeypatch.setattr(sys, "argv", [words[0], "--help"])
    monkeypatch.syspath_prepend(str((ROOT / words[0]).parent))
    with suppress(SystemExit):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    said = capsys.readouterr().out
    assert all(word in said for word in words if word.startswith("-"))


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:60]}" for page, line in COMMANDS])
def test_every_command_runs_or_parses(page, line, tree, monkeypatch, capsys):
    program, *words = words_of(line.partition(" > ")[0])  # where its words go is not of interest here
    if program == "make":
        check_make(words)
    elif program == "python":
        check_script(words, monkeypatch, capsys)
    elif program == "lm_eval":
        pytest.skip("a test of its own, which starts lm-eval")
    elif program == "micota" and "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            main(words)
    elif program == "micota" and words[0] in RUN:
        run_micota(words)
    elif program == "micota" and words[0] in PARSED:
        parse_micota(words, monkeypatch)
    else:
        pytest.fail(f"{page}: no rule for {line!r}: say in tests/test_docs.py how it is checked")


@pytest.mark.slow
def test_the_page_of_stages_runs_from_its_first_command_to_its_last(tree):
    for folder in ("long", "short", "kept", "kept-short"):
        shutil.rmtree(tree / folder)
    done = []
    for line in lines_of(ROOT / "docs" / "stages.md"):
        program, *words = words_of(line)
        if program != "micota" or words[0] not in STAGES or "--help" in words:
            continue
        if not any(mark in line for mark in MORE_THAN_THIS_MACHINE):
            assert main(words) == 0, line
            done.append(words[0])
    assert set(done) == set(STAGES)


@pytest.mark.slow
def test_lm_eval_takes_the_command_of_the_docs(tree):
    line = next(line for page, line in COMMANDS if line.startswith("lm_eval"))
    (tree / "aime24").mkdir()
    write_jsonl(tree / "aime24" / "test.jsonl", [{"id": 1, "problem": "What is 1+1?", "answer": "2"}])
    line = line.replace("MODEL", str(TINY_ROOT / "models" / "assistant")).replace("DIR", str(tree))
    line = line.replace("--tasks micota ", "--tasks micota_aime24 ")
    bin_folder = Path(sys.executable).parent
    line = line.replace("lm_eval", str(bin_folder / "lm_eval"), 1)
    line = line.replace("$(micota tasks)", f"$({sys.executable} -m micota_lf tasks)")
    small = " --limit 1 --device cpu --gen_kwargs max_gen_toks=16"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line + small], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "micota_aime24" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_the_preflight_of_the_docs_finds_no_problem(tree, capsys):
    assert main(["preflight", "recipes/tiny.yaml"]) == 0
    assert "no problems" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tree):
    names: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_recipes_that_load(page, tree):
    for block in blocks(page, "yaml"):
        assert compile_plan(load_recipe(block.splitlines()[0].removeprefix("# "))).steps


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_are_of_known_kinds_and_links_lead_somewhere(page):
    text = page.read_text()
    assert set(re.findall(r"^```(\w*)", text, re.MULTILINE)) <= {"sh", "python", "yaml", "text", ""}
    assert not re.search(r"^```$\n(?:\.venv/bin/)?(?:micota|make|python) ", text, re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, section = link.partition("#")
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if section else []
        slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not section or section in slugs, link


def test_a_swapped_student_shares_all_other_steps(tree):
    """The README's and the recipes page's claims of what is new."""
    tiny, mine = (compile_plan(load_recipe(f"recipes/{name}.yaml")) for name in ("tiny", "mine"))
    new = {slot for slot, made in mine.slots.items() if made not in tiny.steps}
    assert new and all(re.match(r"preflight|train/mine/|evaluate/mine/|bpc/mine", slot) for slot in new)
    paper, qwen3 = (compile_plan(load_recipe(f"recipes/{name}.yaml")) for name in ("micota", "qwen3"))
    fresh = [step.kind for made, step in qwen3.steps.items() if made not in paper.steps]
    assert len(qwen3.steps) == 88 and len(fresh) == 16
    counts = {kind: fresh.count(kind) for kind in set(fresh)}
    assert counts == {"preflight": 1, "fetch": 1, "train": 6, "evaluate": 7, "bpc": 1}


def test_the_example_of_explain_changes_a_value(tree):
    line = next(line for _, line in COMMANDS if " explain " in line)
    _, _, path, slot, override = words_of(line)
    before, after = (compile_plan(load_recipe(path, given)) for given in ([], [override]))
    old, new = (plan.steps[plan.slots[slot]].config["train"]["learning_rate"] for plan in (before, after))
    assert f"train.learning_rate: {old!r} -> {new!r}" in (ROOT / "docs" / "running.md").read_text()


def test_the_generated_files_are_current(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe_reference.py", "--check"])
    runpy.run_path(str(ROOT / "tools" / "recipe_reference.py"), run_name="__main__")
    assert main(["schema"]) == 0
    words = "run: micota schema > recipes/recipe.schema.json"
    assert (ROOT / "recipes" / "recipe.schema.json").read_text() == capsys.readouterr().out, words


def test_shipped_recipes_name_the_schema():
    for path in [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("data_info/*.yaml")]:
        named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
        assert named and (path.parent / named[1]).samefile(ROOT / "recipes" / "recipe.schema.json"), path
