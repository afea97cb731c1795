"""The variants of a recipe side by side: means and intervals over seeds, and their course over a swept value.

One row a model and setting (all swept values but seeds, the recipe's or a section's). Several seeds have a
95% t interval over them, of the average over the benchmarks: it holds what problems, prompts, models and
trainings add, as far as seeds change them. A single seed has the interval over problems, and so has what
several seeds share, as it is one step.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import inf
from pathlib import Path

from ..grading.intervals import mean_interval
from ..plan.sweep import Variant
from ..recipe.lineage import baseline, evaluated_models, table_names, table_rows
from ..run.step import MISSING
from .outcomes import AVERAGE, Outcomes
from .sheets import Record, Sheet, make_sheet
from .tables import accuracies, differences

LIMITS = {"accuracy": (0.0, 100.0, 100), "difference": (-100.0, 100.0, 100), "mean": (0.0, inf, 1)}
"""Of what is shown: the least and the most that it can be, and what it is multiplied by."""


def variant_sheets(variants: Mapping[str, Variant], workspace: Path) -> Iterator[Sheet]:
    """Accuracy and length of each evaluated model; differences of a student's methods; BPC of corpora."""
    groups, settings = defaultdict[str, list[Outcomes]](list), dict[str, Record]()
    for values, recipe, plan in variants.values():
        swept = {key: value for key, value in values.items() if key.rpartition(".")[2] != "seed"}
        words = {key.rpartition(".")[2]: re.sub(r"[{}']", "", str(value)) for key, value in swept.items()}
        setting = ", ".join(map("=".join, words.items()))
        groups[setting].append(Outcomes(recipe, plan, workspace))
        at = next(iter(swept.values())) if len(swept) == 1 else setting
        settings[setting] = {"setting": setting, "at": at, **swept}
    tables = [table for table in table_names(recipe) if table != "table4"]
    models = dict.fromkeys(model for table in tables for model in evaluated_models(recipe, table))
    pairs = dict.fromkeys(pair for table in tables for pair in table_rows(recipe, table))
    last, none = dict([*pairs, *table_rows(recipe, "table2")]), baseline(recipe)
    sides = [(s, last[s], m) for s, m in pairs] + [(s, m, none) for s, m in pairs if (s, none) in pairs]
    compared = {f"{s}: {a} - {b}": (f"{s}/{a}", f"{s}/{b}") for s, a, b in sides if a != b}
    shown, differing, scored = [], [], []
    for setting, group in groups.items():
        for model in models:
            slot = f"evaluate/{model}"
            found = [accuracies(outcomes, slot)[-1] for outcomes in _apart(group, slot)]
            shown.append([{"row": model, **settings[setting], **_over_seeds("accuracy", found)}])
        for name, (ours, other) in compared.items():
            slots = f"evaluate/{ours}", f"evaluate/{other}"
            found = [differences(outcomes, *slots).get(AVERAGE, {}) for outcomes in _apart(group, *slots)]
            differing.append([{"row": name, **settings[setting], **_over_seeds("difference", found)}])
        for model, (number, corpus) in product(recipe.bpc.models, enumerate(recipe.bpc.corpora)):
            slot = f"bpc/{model}"
            results = (outcomes.results(slot) or {} for outcomes in _apart(group, slot))
            means = _over_seeds("mean", [one.get(f"corpus{number}", {}) for one in results])
            scored.append([{"row": f"{model}: {corpus}", **settings[setting], **means}])
    yield make_sheet("variants", "variants", shown)
    yield make_sheet("variant-differences", "variant-differences", differing)
    if scored:
        yield make_sheet("variant-bpc", "variant-bpc", scored, **vars(recipe.bpc))


def _apart(group: Sequence[Outcomes], *slots: str) -> list[Outcomes]:
    """Those of a group whose steps in these slots differ: of one that they share, seeds say nothing."""
    return list({tuple(map(one.plan.slots.get, slots)): one for one in group}.values())


def _over_seeds(key: str, found: Sequence[Record]) -> Record:
    """The mean over seeds, with its interval, of a share in percent or of BPC; of lengths and shares cut."""
    if not (done := [one for one in found if key in one]):
        return {"state": MISSING}
    least, most, scale = LIMITS[key]
    values = [scale * one[key] for one in done]
    low, high = (scale * done[0]["low"], scale * done[0]["high"])
    if len(done) > 1:
        low, high = mean_interval(values, least, most)
    means: Record = {n: sum(one[n] for one in done) / len(done) for n in ("tokens", "cut") if n in done[0]}
    middle = sum(values) / len(values)
    return {"seeds": len(done), "value": middle, "low": low, "high": high, "n": done[0]["n"], **means}
