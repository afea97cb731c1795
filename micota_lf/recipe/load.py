"""Reading a recipe: YAML layers in, one frozen `Recipe` out, or every error at once.

    recipe = load_recipe("recipes/tiny.yaml", ["generation.max_tokens=128"])

A layer is a file, each file that it `extends:` (once, even if several extend it), and last the overrides
(`key.path=value`). OmegaConf lays them over each other, pydantic checks what comes out, and an error names
the layer that holds the value. A teacher, student, assistant or corpus set to null in a later layer is
removed; `methods` and `tables` of a later file replace those of an earlier one. What the values mean
together is checked by `check.py`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache, reduce
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, nearest
from ..inputs.problems import Prompts
from ..system.files import NO_TEXT
from .check import semantic_problems
from .sections import Recipe

if TYPE_CHECKING:
    from pydantic import TypeAdapter

OVERRIDES = "command line"
MAX_NODES = 100_000  # of a file, its aliases written out
REMOVABLE = ("teachers", "students", "assistants", "corpora")
Layers = list[tuple[str, dict[str, Any]]]
Problems = list[tuple[str, str]]  # dotted key, words
# pydantic's error types in the words of this library, with its own figures in them.
WORDS = {
    "greater_than": "must be above {gt:g}", "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less", "finite_number": "must be a finite number",
    "literal_error": "must be {expected}", "string_unicode": NO_TEXT, "value_error": "{error}",
    "dataclass_type": "is not a mapping", "dict_type": "is not a mapping",
}  # fmt: skip


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load, check and freeze a recipe. Raises RecipeError with one line for each problem."""
    return load_layers(path, overrides)[0]


def load_layers(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Layers]:
    """The recipe as `load_recipe` gives it, and its layers, later ones last, as (file, raw values)."""
    problems: list[str] = []
    layers = _file_layers(Path(path), problems, (), set())
    if problems:  # without its files, most of a recipe would look missing
        raise RecipeError(problems)
    layers.append((OVERRIDES, _from_dots(overrides, problems)))
    recipe, found = _checked(*_merged([values for _, values in layers]))
    if recipe is not None:
        found += [(key, words) for key, _, words in map(_parted, semantic_problems(recipe))]
    problems += [f"{origin(layers, key) or path}: {key}: {words}" for key, words in found]
    if problems or recipe is None:
        raise RecipeError(list(dict.fromkeys(problems)))
    return recipe, layers


def settings(overrides: Sequence[str], **given: Any) -> Recipe:
    """A recipe of settings alone, for one stage: values that need no other are checked, names are not."""
    problems: list[str] = []
    layers: Layers = [("", given), (OVERRIDES, _from_dots(overrides, problems))]
    recipe, found = _checked(*_merged([values for _, values in layers]))
    problems += [f"{OVERRIDES}: {key}: {words}" for key, words in found]
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def schema() -> dict[str, Any]:
    """The JSON Schema of recipe files: a file may leave out anything that another one gives."""
    made = _adapter().json_schema()

    def loosened(node: Any) -> Any:
        if isinstance(node, list):
            return [loosened(one) for one in node]
        if not isinstance(node, dict):
            return node
        return {key: loosened(value) for key, value in node.items() if key != "required"}

    made = loosened(made)
    for name in REMOVABLE:  # null removes
        entries = made["properties"][name]
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], {"type": "null"}]}
    files: list[Any] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    made["properties"]["extends"] = {"anyOf": files, "description": "Recipe files laid below this one."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def origin(layers: Layers, key: str) -> str | None:
    """The last layer (as `load_layers` gives them) that sets a dotted key, or None."""
    for where, values in reversed(layers):
        node: Any = values
        for part in key.split("."):
            node = node.get(part, layers) if isinstance(node, dict) else layers
        if node is not layers:
            return where
    return None


def _parted(problem: str) -> tuple[str, str, str]:
    return problem.partition(": ")


def _from_dots(items: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """`key.path=value` words as a nested mapping."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    layer = OmegaConf.create()
    for item in items:
        if "=" not in item:
            problems.append(f"{OVERRIDES}: {item!r} is not of the form key.path=value")
            continue
        try:
            layer.merge_with_dotlist([item])
        except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
            problems.append(f"{OVERRIDES}: {item!r}: {_first_line(error)}")
    made: Any = OmegaConf.to_container(layer)
    return {str(key): value for key, value in made.items()}


def _file_layers(path: Path, problems: list[str], children: tuple[Path, ...], read: set[Path]) -> Layers:
    """The layers of a file that `children` extend: those that it extends first, then its own.

    A file in `read` has its layer already.
    """
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        home = path.resolve()
        if home in children:
            problems.append(f"{path}: extends: the file extends itself")
        if home in read:
            return []
        read.add(home)
        raw = _read_yaml(path)
    except (YAMLError, OmegaConfBaseException) as error:
        problems.append(f"{path}: not valid YAML: {' '.join(str(error).split())}")
        return []
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {_first_line(error)}")
        return []
    if not isinstance(raw, dict):
        problems.append(f"{path}: a recipe is a mapping of sections")
        return []
    given = raw.pop("extends", None) or []
    parents = given if isinstance(given, list) else [given]
    if not all(isinstance(parent, str) for parent in parents):
        problems.append(f"{path}: extends: {given!r} is not a file name or a list of them")
        return []
    below = [_file_layers(path.parent / parent, problems, (*children, home), read) for parent in parents]
    return [*(layer for layers in below for layer in layers), (str(path), raw)]


def _read_yaml(path: Path) -> Any:
    """A file's YAML as plain data. Raises ValueError for aliases that explode and for endless nesting."""
    import yaml
    from omegaconf import OmegaConf

    text = path.read_text(encoding="utf-8")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if isinstance(node, yaml.ScalarNode):
            return node.value  # OmegaConf would make it a key
        if _nodes(node, {}) > MAX_NODES:
            raise ValueError(f"aliases: written out, they make more than {MAX_NODES} values")
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _nodes(node: Any, known: dict[int, float]) -> float:
    """How many nodes a YAML tree has with its aliases written out; infinite for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = node.value if hasattr(node, "value") and isinstance(node.value, list) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def _merged(layers: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], Problems]:
    """The layers laid over the defaults and each other, interpolations resolved, what is null removed."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    defaults = asdict(Recipe("", Prompts("")))
    for required in (defaults, defaults["prompts"]):
        del required["name" if "name" in required else "path"]
    *files, overrides = layers
    # The rows of tables are one list: a file that gives them replaces those of the files that it extends, and
    # with its own methods a file leaves theirs behind.
    rows: dict[str, Any] = {"methods": defaults.pop("methods"), "tables": defaults.pop("tables")}
    for layer in files:
        rows = {**rows, **({"tables": {}} if "methods" in layer else {})}
        rows |= {key: layer[key] for key in rows if key in layer}
    plain = [{key: value for key, value in layer.items() if key not in rows} for layer in files]
    config = OmegaConf.merge(defaults, *plain, rows, overrides)
    problems: Problems = []
    made: Any = None
    while made is None:
        try:
            made = OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            problems.append((str(error.full_key), _first_line(error)))
            home, _, key = str(error.full_key).rpartition(".")
            del OmegaConf.select(config, home)[key]
    gone = {name for name, spec in (made["students"] or {}).items() if spec is None}
    for key in REMOVABLE:
        if isinstance(made[key] or {}, dict):
            made[key] = {name: spec for name, spec in (made[key] or {}).items() if spec is not None}
    for table in made["tables"].values() if isinstance(made["tables"], dict) else ():
        for student in gone & set(table if isinstance(table, dict) else ()):
            del table[student]
    return {str(key): value for key, value in made.items()}, problems


def _checked(values: dict[str, Any], found: Problems) -> tuple[Recipe | None, Problems]:
    """The recipe and what is wrong with single values, as (key, words).

    A value that is refused is left out, so that what the others mean together can be checked too; where one
    that has no default is missing, there is no recipe.
    """
    from pydantic import ValidationError

    while True:
        try:
            return _adapter().validate_python(values), found
        except ValidationError as error:
            refused = error.errors(include_url=False)
            found += [one for one in map(_described, refused) if one[0] not in dict(found)]
            if any(one["type"].startswith("missing") for one in refused):
                return None, found
            for one in refused:  # of a list, all of it goes
                *path, last = map(str, takewhile(lambda part: isinstance(part, str), one["loc"]))
                reduce(lambda node, part: node.get(part, {}), path, values).pop(last, None)


def _described(error: Any) -> tuple[str, str]:
    """An error of pydantic as a dotted key and words."""
    place = [part for part in error["loc"] if part != "[key]"]
    key = ".".join(map(str, place))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return key, f"unknown key; {nearest(str(place[-1]), _known_keys(place[:-1]))}"
    if error["type"].startswith("missing"):
        return key, "missing, and it has no default"
    words = WORDS.get(error["type"], "").format(**error.get("ctx", {}))
    return key, f"{error['input']!r} {words or error['msg'].removeprefix('Input ')}"


def _known_keys(place: list[str]) -> Iterator[str]:
    """Keys of the section at a place, from the schema."""
    whole = _adapter().json_schema()
    node = whole
    for part in (*place, None):
        while "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        if part is not None:
            node = node.get("properties", {}).get(part) or node["additionalProperties"]
    yield from node["properties"]


@cache
def _adapter() -> TypeAdapter[Recipe]:
    from pydantic import TypeAdapter

    return TypeAdapter(Recipe)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
