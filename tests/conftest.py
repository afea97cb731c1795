"""Shared by all tests: the tiny recipe, and cheap variants of it."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from micota_lf import Recipe, load_recipe
from micota_lf.system.files import read_jsonl, write_jsonl
from micota_lf.tiny import TINY_ROOT

ROOT = Path(__file__).parent.parent
TINY = ROOT / "recipes" / "tiny-no-gap.yaml"
# Real benchmark problems, as NAME/test.jsonl; tests that need them are skipped where they are not.
BENCHMARKS = Path(os.environ.get("MICOTA_BENCHMARKS") or ROOT.parent / "shared" / "data")

# Nothing is asked of the hub: models and problems ship with the package. Before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell's background job ignores SIGINT, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first; those that share a fixture of their module in one worker, so that it is made once."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
            item.add_marker(pytest.mark.timeout(3600))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        made = item._fixtureinfo.name2fixturedefs.values() if hasattr(item, "_fixtureinfo") else ()
        if any(given[-1].scope == "module" for given in made):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return load_recipe(TINY)


@pytest.fixture
def gap_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped gap models in the place of those that `make tiny-gap`, `tiny-map` and so on make."""
    for seed in (1, 11, 12, 13, 14, 15, 21, 22, 23):
        made = tmp_path / "tiny-gap" / str(seed)
        shutil.copytree(TINY_ROOT / "models/gap", made, copy_function=os.symlink)
        (made / "data").symlink_to(TINY_ROOT / "data/gap")
        (made / "base").symlink_to(TINY_ROOT / "models/gap")
    monkeypatch.setenv("TINY_GAP", str(tmp_path / "tiny-gap"))
    monkeypatch.setenv("TINY_LLAMA", str(tmp_path / "tiny-gap" / "1"))
    monkeypatch.setenv("TINY_REWRITER", str(tmp_path / "tiny-rewriter"))
    (tmp_path / "tiny-rewriter").mkdir()
    (tmp_path / "tiny-rewriter/rewriter").symlink_to(TINY_ROOT / "models/gap/student-l")
    monkeypatch.setenv("TINY_PROMPTS", str(TINY_ROOT / "data/gap"))
    monkeypatch.setenv("TINY_BPC", str(tmp_path / "tiny-bpc"))
    chosen = read_jsonl(TINY_ROOT / "data/gap/train.jsonl")[:3]
    rows = [row | {"prompt": row["problem"], "response": f"\\boxed{{{row['answer']}}}"} for row in chosen]
    for name in ("lowest", "highest", "below", "likely", "unlikely"):
        write_jsonl(tmp_path / "tiny-bpc" / f"{name}.jsonl", rows)
    monkeypatch.setenv("TINY_MAP", str(tmp_path / "tiny-map"))
    for size in "ls":
        for share in (0, 12, 36):
            made = tmp_path / "tiny-map" / f"student-{size}-{share}"
            made.parent.mkdir(exist_ok=True)
            made.symlink_to(TINY_ROOT / "models/gap" / f"student-{size}")


@pytest.fixture
def recipe_file(tmp_path: Path):
    """A function that writes a recipe extending the tiny one and returns its path."""

    def write(**sections) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"extends": str(TINY), **sections}))
        return path

    return write
