"""Recipes that come with the package, wherever it is installed, and new ones.

recipe_file("recipes/tiny.yaml")         -> the file of this name from where we are, else the package's
new_recipe("mine", teacher="org/Large", students={"small": "org/Small"}, ...)      -> its text
"""

from collections.abc import Mapping
from os.path import exists, isfile
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def recipe_file(name: str | Path, home: Path = Path()) -> Path:
    """Where a recipe's file is: from `home`, or among those of the package if it is not there."""
    own, shipped = home / name, PACKAGE / name
    return shipped if isfile(shipped) and not exists(own) else own  # which take a name that is too long


def new_recipe(name: str, *, students: Mapping[str, str], gpus: int, **given: str) -> str:
    """The text of a recipe of the whole method, with comments.

    `given` are `file`, that it is meant for, `teacher`, `assistant` (models) and `prompts`. Models of the
    tiny family get its benchmarks and settings, others the paper's.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(PACKAGE / "recipe"), undefined=StrictUndefined, trim_blocks=True
    )
    tiny = given["teacher"].startswith("tiny:")
    text = jinja.get_template("new.yaml.jinja").render(
        name=name, students=students, gpus=gpus, tiny=tiny, **given
    )
    return f"{text}\n"
