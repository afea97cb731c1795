"""From finished steps to tables and figures."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def read(name: str) -> Any:
    """A YAML file of this folder: `paper`, the paper's numbers, or `sheets`, how the report's tables read."""
    return yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
