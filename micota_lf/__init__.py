"""MiCoTA distillation (arXiv 2507.01887) with LLaMA-Factory, mergekit, vLLM and lm-evaluation-harness.

from micota_lf import load_recipe, train_config, compile_plan

recipe = load_recipe("recipes/tiny.yaml")
train_config(recipe, "student-s", "micota")     # a plain dict in LLaMA-Factory's key names
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"


@cache
def _homes() -> dict[str, str | None]:
    """The module of each public name, as `__init__.pyi` states them for type checkers too."""
    import ast

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {n.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for n in node.names}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is asked for: each step of a run is a process, and needs few of them."""
    if name == "__all__":
        return list(_homes())
    if name in _homes():
        return getattr(import_module(f".{_homes()[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
