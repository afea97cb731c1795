"""Reading a recipe: YAML layers in, one frozen `Recipe` out, or every error at once.

    recipe = load_recipe("recipes/tiny.yaml", ["generation.max_tokens=128"])

A layer is a file, each file that it `extends:` (once, even if several extend it), and last the overrides
(`key.path=value`). A file that is not there is the package's of that name (shipped.py). They are laid over
the defaults and each other, OmegaConf resolves `${...}`, pydantic checks what comes out, and an error names
the layer that holds the value. A named entry that a later layer sets to null is removed, and a mapping of
names or a list is emptied; `methods` and `tables` of a later file replace those of an earlier one. What the
values mean together is checked by `check.py`.

A recipe's `sources` says where its values come from (`micota plan RECIPE --sources`): keys to words such as
`paper: appendix 6.2`. A key stands for all below it, and the longest that fits counts; what a later layer
sets is no longer what that source says.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial, reduce
from itertools import product, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from ..errors import RecipeError, UserError, first_line, nearest
from ..inputs.problems import Prompts
from ..system.fields import leaves
from ..system.files import read_beside
from .check import semantic_problems, settings_problems
from .sections import NAMES, Recipe
from .shipped import recipe_file

RECIPE = TypeAdapter(Recipe)
OVERRIDES, VARIANTS = "command line", "variants"
NAME_CHARACTERS = 100  # of a variant's, which names directories
MAX_NODES = 100_000  # of a file, its aliases written out
PATHS = (  # keys that may hold one
    "model", "pretrained_model", "path", "file", "data_dir", "include_path", "verdict",
)  # fmt: skip
Layer = tuple[str, dict[str, Any]]
Layers = list[Layer]
Given = str | Path | Mapping[str, Any]
Overrides = Sequence[str] | Mapping[str, Any]
MAPPING = "(mapping)"  # in place of the file of a recipe that is none
WORDS = read_beside(__file__)


class Sourced(NamedTuple):
    """A value, the file that sets it (`default` if none does), and where it comes from."""

    key: str
    value: Any
    set_in: str
    source: str


def load_recipe(given: Given, overrides: Overrides = ()) -> Recipe:
    """Load, check and freeze a recipe: a file, or its sections as a mapping, whose paths start where we are.

    Overrides are `key.path=value` words, or a mapping of keys to values. Raises RecipeError with one line for
    each problem.

    >>> from micota_lf import load_recipe
    >>> load_recipe("recipes/tiny.yaml", ["assistants.ta.merge.weight=0.4"]).assistants["ta"].merge.weight
    0.4
    >>> sections = {"extends": "recipes/tiny.yaml", "name": "mine", "prompts": {"limit": 100}}
    >>> load_recipe(sections, {"train.learning_rate": 2e-3}).prompts.limit
    100
    """
    return load_layers(given, overrides)[0]


def load_layers(given: Given, overrides: Overrides = ()) -> tuple[Recipe, Layers]:
    """The recipe as `load_recipe` gives it, and its layers, later ones last, as (file, raw values)."""
    layers: dict[Path, Layer] = {}
    path, sections = (Path(MAPPING), given) if isinstance(given, Mapping) else (recipe_file(given), None)
    if problems := list(_read_layers(path, layers, sections=sections)):  # else most would look missing
        raise RecipeError(problems)
    return _frozen([*layers.values()], in_words(overrides), str(path), semantic_problems)


def in_words(overrides: Overrides) -> Sequence[str]:
    """Overrides as `key.path=value` words."""
    if not isinstance(overrides, Mapping):
        return overrides
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def variants_of(recipe: Recipe, layers: Layers) -> dict[str, tuple[dict[str, Any], Recipe]]:
    """By name the values and the recipe of each combination of a recipe's `variants` and `seeds`.

    Without these, the recipe alone, under an empty name. A name holds the keys' last parts, as in
    `weight=0.3,seed=1`. Raises RecipeError for a variant that cannot be.
    """
    swept: dict[str, list[Any]] = {**recipe.variants, **({"seed": recipe.seeds} if recipe.seeds else {})}
    found: dict[str, tuple[dict[str, Any], Recipe]] = {}
    for chosen in product(*swept.values()):
        values = dict(zip(swept, chosen, strict=True))
        words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
        name = re.sub(r"[^\w.,=+-]+", "_", name)[:NAME_CHARACTERS]
        check = partial(semantic_problems, known=recipe)
        made = _frozen(layers, words, VARIANTS, check)[0] if words else recipe
        found[name if name not in found else f"{name}-{len(found)}"] = values, made
    return found


def settings(overrides: Sequence[str], **given: Any) -> Recipe:
    """A recipe of settings alone, for one stage: values are checked, names and files are not."""
    return _frozen([("", given)], overrides, OVERRIDES, settings_problems)[0]


def schema() -> dict[str, Any]:
    """The JSON Schema of recipe files: a file may leave out anything that another one gives."""

    def loosened(node: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in node.items() if key != "required"}
        if isinstance(entry := kept.get("additionalProperties"), dict):  # null removes
            kept["additionalProperties"] = {"anyOf": [entry, {"type": "null"}]}
        if kept.get("type") in ("object", "array") and "properties" not in kept:
            kept["type"] = [kept["type"], "null"]
        return kept

    made = json.loads(json.dumps(RECIPE.json_schema()), object_hook=loosened)
    files = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    made["properties"]["extends"] = {"anyOf": files, "description": "Recipe files laid below this one."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def origin(layers: Layers, key: str) -> str | None:
    """The last layer (as `load_layers` gives them) that sets a dotted key, or what it lies in, or None."""
    for where, values in reversed(layers):
        given = (f"{leaf}." for leaf, _ in leaves(values))
        if any(f"{key}.".startswith(leaf) or leaf.startswith(f"{key}.") for leaf in given):
            return where
    return None


def source_rows(recipe: Recipe, layers: Layers) -> list[Sourced]:
    """One row a value of the recipe, in its own order; the source of one that has none is empty."""
    order = {where: n for n, (where, _) in enumerate(layers)}
    stated = {key: where for where, values in layers for key in values.get("sources", {})}
    rows = []
    for key, value in leaves(asdict(recipe)):
        set_in = origin(layers, key)
        if key.split(".")[0] == "sources" or (set_in is None and value in (None, {}, [])):
            continue  # nothing is said there
        found = max((k for k in recipe.sources if f"{key}.".startswith(f"{k}.")), key=len, default="")
        source = recipe.sources.get(found, "")
        if source and set_in and order[set_in] > order[stated[found]]:
            source = f"changed (was {source})"
        rows.append(Sourced(key, value, set_in or "default", source))
    return rows


def _frozen(
    layers: Layers, overrides: Sequence[str], file: str, check: Callable[[Recipe], Iterable[str]]
) -> tuple[Recipe, Layers]:
    """The recipe that layers and overrides make, and all its layers. Raises RecipeError for what is wrong."""
    problems: list[str] = []
    layers = [*layers, (VARIANTS if file == VARIANTS else OVERRIDES, _from_dots(overrides, problems))]
    found: dict[str, str] = {}  # by dotted key
    values = _merged(layers)
    if file != VARIANTS and isinstance(seeds := values["seeds"], list) and seeds:
        values["seed"] = seeds[0]  # files by `${seed}` need be there for the variants alone
    recipe = _checked(_resolved(values, found), found)
    recipe = recipe and _shown(recipe, layers)
    lines = [f"{key}: {words}" for key, words in found.items()] + list(check(recipe) if recipe else ())
    problems += [f"{origin(layers, line.partition(': ')[0]) or file}: {line}" for line in lines]
    if problems or not recipe:
        raise RecipeError(list(dict.fromkeys(problems)))
    if recipe.seed is not None:
        whole = RECIPE.dump_python(recipe, by_alias=True)
        recipe = RECIPE.validate_python({**_seeded(whole, recipe.seed), "sources": recipe.sources})
    return recipe, layers


def _seeded(node: Any, seed: int) -> Any:
    """Values with every seed among them set."""
    known = node.items() if isinstance(node, dict) else ()
    return {key: seed if key == "seed" else _seeded(value, seed) for key, value in known} if known else node


def _from_dots(items: Sequence[str], problems: list[str]) -> Any:
    """`key.path=value` words as a nested mapping."""
    layer = OmegaConf.create()
    for item in items:
        try:
            if "=" not in item:
                raise ValueError("not of the form key.path=value")
            layer.merge_with_dotlist([item])
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            problems.append(f"{OVERRIDES}: {item!r}: {first_line(error)}")
    return OmegaConf.to_container(layer)


def _read_layers(
    path: Path,
    layers: dict[Path, Layer],
    children: tuple[Path, ...] = (),
    sections: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Read the layers of a file that `children` extend: those that it extends first, then its own.

    `sections` stand for a file's text. Yields what is wrong with the files.
    """
    try:
        raw, home = _read(path, sections), path.resolve()
        if home in children:
            raise UserError("extends: the file extends itself")
        given = raw.pop("extends", None) or []
        parents = given if isinstance(given, list) else [given]
        if not all(isinstance(parent, str) for parent in parents):
            raise UserError(f"extends: {given!r} is not a file name or a list of them")
    except UserError as error:
        yield f"{path}: {error}"
    else:
        if home not in layers:
            for parent in parents:
                yield from _read_layers(recipe_file(parent, path.parent), layers, (*children, home))
            layers[home] = (str(path), raw)


def _read(path: Path, sections: Mapping[str, Any] | None = None) -> Any:
    """A file's YAML as plain data. Raises UserError saying what is wrong with it."""
    try:
        text = yaml.safe_dump(sections) if sections is not None else path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if node and not isinstance(node, yaml.MappingNode):
            raise UserError("a recipe is a mapping of sections")
        if _nodes(node, {}) > MAX_NODES:
            raise UserError(f"aliases: written out, they make more than {MAX_NODES} values")
        return _rooted(OmegaConf.to_container(OmegaConf.create(text)), path.absolute().parent)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UserError("cannot be read: nested too deeply") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {first_line(error)}") from error


def _rooted(value: Any, home: Path, key: str = "") -> Any:
    """A file's values, the paths among them absolute: relative ones start where the file is.

    A path begins with `./` or `../`, or is that of something that is there.
    """
    if isinstance(value, dict):
        return {name: _rooted(one, home, str(name).rpartition(".")[2]) for name, one in value.items()}
    if isinstance(value, list):
        return [_rooted(one, home, key) for one in value]
    if not (key in PATHS and isinstance(value, str) and value):
        return value
    named = value.startswith(("./", "../")) or os.path.exists(home / value)
    return str(home / value) if named else value


def _nodes(node: Any, known: dict[int, float]) -> float:
    """How many nodes a YAML tree has with its aliases written out; infinite for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def _merged(layers: Layers) -> dict[str, Any]:
    """The layers laid over the defaults and each other."""
    made = asdict(Recipe("", Prompts("")))
    del made["name"], made["prompts"]["path"]
    for where, layer in layers:
        if where not in (OVERRIDES, VARIANTS):
            # The rows of tables are one list: a file that gives them replaces those of the files that it
            # extends, and with its own methods it leaves their tables behind.
            made |= {key: {} for key in ("methods", "tables") if key in layer or "methods" in layer}
        made = _laid(made, layer)
    return made


def _laid(below: Any, above: Any) -> Any:
    """A value over another: mappings are joined, anything else replaces."""
    if not isinstance(above, dict):
        return above
    below = below if isinstance(below, dict) else {}
    return {**below, **{str(key): _laid(below.get(str(key)), value) for key, value in above.items()}}


def _resolved(values: dict[str, Any], found: dict[str, str]) -> Any:
    """The values with `${...}` written out; what cannot be is left out."""
    if "${" not in str(values):  # most recipes: OmegaConf takes half the time of a variant
        return values
    config = OmegaConf.create(values)
    while True:
        try:
            return OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            found[str(error.full_key).replace("[", ".").replace("]", "")] = first_line(error)
            del error.parent_node[error.key]


def _shown(recipe: Recipe, layers: Layers) -> Recipe:
    """The recipe without methods and rows of tables that nobody means to show.

    A null method is the student untrained. So it removes one that has a corpus in an earlier layer or in the
    paper: nobody calls the untrained student by its name. Those of the paper's methods that no layer states
    are left out if the recipe has not their corpus.
    """

    def given(key: str) -> list[tuple[str, Any]]:
        return [pair for _, layer in layers if isinstance(v := layer.get(key), dict) for pair in v.items()]

    learnt = {name for name, corpus in (*NAMES["methods"].items(), *given("methods")) if corpus}
    stated = {name for name, _ in given("methods")}
    gone = {name for name, corpus in recipe.methods.items() if corpus is None and name in learnt}
    gone |= {n for n, corpus in NAMES["methods"].items() if corpus and corpus not in recipe.corpora} - stated
    methods = {name: corpus for name, corpus in recipe.methods.items() if name not in gone}
    lost = {name for name, _ in given("students")} - recipe.students.keys()
    tables = {
        table: {who: [m for m in shown if m not in gone] for who, shown in rows.items() if who not in lost}
        for table, rows in recipe.tables.items()
    }
    return replace(recipe, methods=methods, tables=tables)


def _checked(values: dict[str, Any], found: dict[str, str]) -> Recipe | None:
    """The recipe; what is wrong with single values is added to what has been found.

    A value that is refused is left out, so that what the others mean together can be checked too; there is no
    recipe where a mapping is none, or one that has no default is missing. A null that removes is left out
    too, and not wrong.
    """
    for _ in range(2):
        try:
            return RECIPE.validate_python(values)
        except ValidationError as error:
            refused = error.errors(include_url=False)
        for one in refused:
            place: list[Any] = [part for part in one["loc"] if part != "[key]"]
            *path, last = takewhile(lambda part: isinstance(part, str), place)  # of a list, all of it goes
            value = reduce(lambda node, part: node.get(part, {}), path, values).pop(last, place)
            empties = one["type"] in ("dict_type", "list_type") and value is None and not _known_keys(place)
            if not empties and (value is not None or _known_keys(path)):
                found.setdefault(".".join(map(str, place)), _words(one, place))
        if any(one["type"] in ("dataclass_type", "dict_type") and one["input"] for one in refused):
            break
    return None


def _words(error: Any, place: Sequence[Any]) -> str:
    """An error of pydantic in words."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        hint = nearest(str(place[-1]), known := _known_keys(place[:-1]))
        more = "extra" in known and hint.startswith("known")
        return f"unknown key; {hint}{'; `extra` takes other arguments of LLaMA-Factory' if more else ''}"
    if error["type"].startswith("missing"):
        return "missing, and it has no default"
    words = WORDS.get(error["type"], "").format(**error.get("ctx", {}))
    return f"{error['input']!r} {words or error['msg'].removeprefix('Input ')}"


def _known_keys(place: Sequence[str]) -> Iterable[str]:
    """Keys of the section at a place, from the schema; none of a mapping whose keys are names."""
    whole = node = RECIPE.json_schema()
    for part in place:
        node = node.get("properties", {}).get(part) or node["additionalProperties"]
        node = whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return list(node.get("properties", ()))
