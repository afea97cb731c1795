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


MODULES = {
    ".".join(path.relative_to(ROOT / "micota_lf").with_suffix("").parts): path
    for folder in (".", "checks", "costs", "reports")
    for path in (ROOT / "micota_lf" / folder).glob("*.py")
    if not path.stem.startswith("__")
}


def test_the_readme_tree_names_every_module_once():
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("## The tree") :]
    for name, module in MODULES.items():
        indent = "    " if "." in name else "  "
        assert len(re.findall(rf"^{indent}{module.name} ", tree, re.MULTILINE)) == 1, name


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "clean", "tiny-family"):
        assert f"make {target} " in done.stdout


def test_no_module_reaches_up():
    """Imports point one way: the command line, then stages and steps, then recipe and files."""
    order = [
        {"errors", "equal", "recipe", "locks", "reports.stats", "reports.paper"},
        {"checks.template", "checks.weights"},
        {"files", "lineage", "engines", "launch"}, {"refs", "grade", "gpus", "slurm"}, {"grading"},
        {"checks.hub", "checks.merge_check", "costs.models"}, {"checks.tokens"},
        {"prompts", "mix", "filter", "metrics", "overlap"},
        {"benchmarks"}, {"evaluate"}, {"check"}, {"protocol"},
        {"api", "server", "local", "progress"}, {"endpoint"},
        {"load", "backends", "bpc", "train", "merge", "sources", "regrade"},
        {"checks.parity"}, {"checks.probe"}, {"checks.preflight"}, {"generate", "plan"},
        {"kinds", "costs.volumes"}, {"steps", "costs.estimate"},
        {"runs", "explain", "commands", "costs.pilot", "reports.outcomes", "upkeep"}, {"reports.tables"},
        {"reports.compare", "reports.figures"}, {"reports.report"}, {"reports.card"}, {"show", "export"},
        {"cli"},
    ]  # fmt: skip
    floor = {name: level for level, names in enumerate(order) for name in names}
    assert set(floor) == set(MODULES)
    for name, path in MODULES.items():
        for dots, module, names in re.findall(r"^\s*from (\.+)([\w.]*) import (.+)$", path.read_text(), re.M):
            here = name.split(".")[: -len(dots)]
            found = [module] if module in floor or "." in module else []
            for word in found or ([module] if module else [w.strip() for w in names.split(",")]):
                full = ".".join([*here, word])
                for target in (full, *(f"{full}.{w.strip()}" for w in names.split(","))):
                    if target in floor:
                        assert floor[target] <= floor[name], f"{name} imports {target}"
