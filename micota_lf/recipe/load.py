"""Reading a recipe: YAML layers in, one frozen `Recipe` out, or every error at once.

    recipe = load_recipe("recipes/tiny.yaml", ["generation.max_tokens=128"])

A layer is a file, each file that it `extends:` (once, even if several extend it), and last the overrides
(`key.path=value`). Each layer is checked on its own, so that an error names the file that holds it. A
teacher, student or corpus set to null in a later layer is removed; `methods` and `tables` of a later file
replace those of an earlier one. What the values mean together is checked by `check.py`.
"""

from __future__ import annotations

import dataclasses
import io
import keyword
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .. import recipe as schema
from ..errors import RecipeError
from ..system.files import NO_TEXT, is_text
from .check import nearest, semantic_problems
from .sections import Recipe

OVERRIDES = "command line"
MAX_NODES = 100_000  # of a file, its aliases written out
REFUSED = object()  # a value of the wrong type: left out, so that the rest can still be checked


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load, check and freeze a recipe. Raises RecipeError with one line for each problem."""
    return load_layers(path, overrides)[0]


def load_layers(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[tuple[str, Any]]]:
    """The recipe as `load_recipe` gives it, and its layers, later ones last, as (file, checked values)."""
    problems: list[str] = []
    layers = _file_layers(Path(path), problems, (), set())
    if problems:  # without its files, most of a recipe would look missing
        raise RecipeError(problems)
    layers.append((OVERRIDES, _from_dots(overrides, problems)))
    checked = [(where, _checked_section(Recipe, raw, where, "", problems)) for where, raw in layers]
    recipe = _build([values for _, values in checked], str(path), problems)
    if recipe is not None and not problems:  # limits of interpolated values, which are known only now
        _checked_section(Recipe, dataclasses.asdict(recipe), str(path), "", problems)
    if recipe is not None:
        found = [problem.partition(": ") for problem in semantic_problems(recipe)]
        problems += [f"{origin(checked, key) or path}: {key}: {words}" for key, _, words in found]
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe, checked


def section_from(cls: type, items: Sequence[str], where: str = OVERRIDES) -> Any:
    """One section (such as `Train`) from `key=value` words. Raises RecipeError as `load_recipe` does."""
    problems: list[str] = []
    raw = _from_dots(items, problems)
    if problems:
        raise RecipeError(problems)
    return section_of(cls, raw, where)


def section_of(cls: type, raw: dict[str, Any], where: str = OVERRIDES) -> Any:
    """One section from a mapping, checked like a recipe. Raises RecipeError."""
    problems: list[str] = []
    values = _checked_section(cls, raw, where, "", problems)
    if problems:
        raise RecipeError(problems)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))


def _from_dots(items: Sequence[str], problems: list[str]) -> Any:
    """`key.path=value` words as a nested mapping."""
    layer = OmegaConf.create()
    for item in items:
        if "=" not in item:
            problems.append(f"{OVERRIDES}: {item!r} is not of the form key.path=value")
            continue
        try:
            layer.merge_with_dotlist([item])
        except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
            problems.append(f"{OVERRIDES}: {item!r}: {_first_line(error)}")
    return OmegaConf.to_container(layer)


def _file_layers(
    path: Path, problems: list[str], children: tuple[Path, ...], read: set[Path]
) -> list[tuple[str, Any]]:
    """The layers of a file that `children` extend: those that it extends first, then its own.

    A file in `read` has its layer already.
    """
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
    layers = []
    for parent in parents:
        layers += _file_layers(path.parent / parent, problems, (*children, home), read)
    return [*layers, (str(path), raw)]


def _read_yaml(path: Path) -> Any:
    """A file's YAML as plain data. Raises ValueError for aliases that explode and for endless nesting."""
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
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def _checked_section(cls: type, raw: Any, where: str, at: str, problems: list[str]) -> dict[str, Any]:
    """`raw` with every key known and every value of the right type and within its limit."""
    if not isinstance(raw, dict):
        problems.append(f"{where}: {at or 'recipe'}: {raw!r} is not a mapping")
        return {}
    fields, hints = _fields(cls)
    out: dict[str, Any] = {}
    for key, value in raw.items():
        path = f"{at}.{key}" if at else str(key)
        name = f"{key}_" if keyword.iskeyword(str(key)) else str(key)
        if name not in fields:
            problems.append(f"{where}: {path}: unknown key; {nearest(str(key), [_key(n) for n in fields])}")
            continue
        checked = _checked_value(fields[name], hints[name], value, (where, path, name), cls, problems)
        if checked is not REFUSED:
            out[name] = checked
    return out


def _checked_value(
    spec: dataclasses.Field[Any],
    hint: Any,
    value: Any,
    place: tuple[str, str, str],
    cls: type,
    problems: list[str],
) -> Any:
    """One value, checked by its field; nested sections are walked."""
    where, path, name = place
    section = getattr(schema, spec.metadata["partial"]) if "partial" in spec.metadata else hint
    item = get_args(hint)[1] if get_origin(hint) is dict else None
    many = dataclasses.is_dataclass(item) or get_origin(item) is dict
    if many:
        section = section if "partial" in spec.metadata else item
    if dataclasses.is_dataclass(section) and isinstance(section, type):
        if not many:
            return _checked_section(section, value, where, path, problems)
        if not isinstance(value, dict):
            problems.append(f"{where}: {path}: {value!r} is not a mapping of names")
            return {}
        return {
            str(k): None if v is None else _checked_section(section, v, where, f"{path}.{k}", problems)
            for k, v in value.items()
        }
    if isinstance(value, str) and "${" in value:
        return value  # an interpolation: typed when the layers are merged
    if value is False and "no" in get_args(hint):
        value = "no"  # YAML reads an unquoted `no` as false
    try:
        leaf = OmegaConf.merge(_blank(cls), {name: value})
        typed = OmegaConf.to_container(leaf)[name]  # type: ignore[index, call-overload]
    except (OmegaConfBaseException, TypeError) as error:
        problems.append(f"{where}: {path}: {value!r}: {_first_line(error)}")
        return REFUSED
    if isinstance(typed, float) and not math.isfinite(typed):
        problems.append(f"{where}: {path}: {value!r} must be a finite number")
        return REFUSED
    if isinstance(typed, str) and not is_text(typed):
        problems.append(f"{where}: {path}: {value!r} {NO_TEXT}")
        return REFUSED
    check = spec.metadata.get("check")
    if check and typed is not None and not check(typed):
        problems.append(f"{where}: {path}: {value!r} {spec.metadata['says']}")
    return typed


def _build(layers: list[dict[str, Any]], where: str, problems: list[str]) -> Recipe | None:
    """Merge checked layers into the frozen recipe; None, with the reasons added, if that cannot be done."""
    *files, overrides = layers
    # The rows of tables are one list: a file that gives them replaces those of the files that it extends, and
    # with its own methods a file leaves theirs behind.
    methods: dict[str, str | None] = schema.paper_methods()
    tables: dict[str, Any] = {}
    for layer in files:
        methods, tables = layer.get("methods", methods), {} if "methods" in layer else tables
        tables = layer.get("tables", tables)
    for layer in files:
        layer |= {"methods": methods, "tables": tables}
    plain = OmegaConf.to_container(OmegaConf.merge(*files, overrides))
    assert isinstance(plain, dict)
    gone = {name for name, spec in (plain.get("students") or {}).items() if spec is None}
    for section in ("teachers", "students", "corpora"):
        plain[section] = {k: v for k, v in (plain.get(section) or {}).items() if v is not None}
    for rows in plain["tables"].values():
        for student in gone & set(rows or {}):
            del rows[student]
    try:
        config = OmegaConf.merge(OmegaConf.structured(Recipe), plain)
        missing = sorted(OmegaConf.missing_keys(config))
        # A key whose value was refused is left out of the build: it has its line already.
        problems += [
            f"{where}: {key}: missing, and it has no default"
            for key in missing
            if not any(f": {key}:" in problem for problem in problems)
        ]
        built = None if missing else OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        at = f"{error.full_key}: " if error.full_key else ""
        problems.append(f"{where}: {at}{_first_line(error)}")
        return None
    assert built is None or isinstance(built, Recipe)
    return built


def origin(layers: Sequence[tuple[str, Any]], key: str) -> str | None:
    """The last layer (as `load_layers` gives them) that sets a dotted key, or None."""
    for where, values in reversed(layers):
        node = values
        for part in key.split("."):
            name = f"{part}_" if keyword.iskeyword(part) else part
            node = node.get(name, layers) if isinstance(node, dict) else layers
        if node is not layers:
            return str(where)
    return None


@cache
def _blank(cls: type) -> Any:
    return OmegaConf.structured(cls)


@cache
def _fields(cls: type) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}, get_type_hints(cls)


def _key(name: str) -> str:
    """The YAML key of a field name (`from_` is written `from`)."""
    return name.removesuffix("_")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
