"""The project's own files: what a fresh clone relies on."""

import re
import subprocess
import tomllib

from conftest import ROOT

from micota_lf import load_recipe


def test_the_lock_names_exact_versions_and_no_index():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+(\[[a-z,]+\])?==[\w.]+", line) for line in lines), lines
    locked = dict(line.split("==") for line in lines)
    assert locked["llamafactory"] == "0.9.5" and locked["mergekit"] == "0.1.5"
    assert locked["lm-eval"] == "0.4.13" and locked["torch"] == "2.11.0"


def test_the_lock_holds_what_the_package_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[=<>]", line)[0] for line in project["dependencies"]}
    locked = {re.split(r"[\[=]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert wanted <= locked
    assert not any(name.startswith("vllm") for name in locked)  # an extra: it needs a GPU


def test_every_recipe_loads_and_its_header_says_how_to_run_it():
    for path in (ROOT / "recipes").glob("*.yaml"):
        load_recipe(path)
        for word in ("Paper row:", "Hardware:", "Command:", "Override:"):
            assert word in path.read_text()[:900], (path, word)


def test_the_readme_tree_names_every_module_once():
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("## The tree") :]
    for module in (ROOT / "micota_lf").glob("*.py"):
        if not module.name.startswith("__"):
            assert len(re.findall(rf"^  {module.name} ", tree, re.MULTILINE)) == 1, module.name


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "clean", "tiny-family"):
        assert f"make {target} " in done.stdout


def test_no_module_reaches_up():
    """Imports point one way: the command line, then stages and steps, then recipe and files."""
    order = [
        {"errors", "stats", "recipe", "locks", "paper"}, {"files", "lineage", "engines", "launch"},
        {"refs", "grade", "gpus"}, {"prompts", "mix", "filter", "metrics", "overlap", "models"},
        {"benchmarks"}, {"evaluate"}, {"check"}, {"load", "backends", "bpc", "train", "merge"},
        {"generate", "plan", "sources"}, {"kinds", "volumes"}, {"steps", "estimate"},
        {"runs", "explain", "outcomes", "commands", "pilot"}, {"tables"}, {"compare", "figures"},
        {"report"}, {"show"}, {"cli"},
    ]  # fmt: skip
    floor = {name: level for level, names in enumerate(order) for name in names}
    for path in (ROOT / "micota_lf").glob("*.py"):
        if path.stem.startswith("__"):
            continue
        for line in re.findall(r"^\s*from \.(\w*) import (.+)$", path.read_text(), re.MULTILINE):
            names = [line[0]] if line[0] else [w.strip() for w in line[1].split(",")]
            for name in names:
                if name in floor:
                    assert floor[name] <= floor[path.stem], f"{path.name} imports {name}"
