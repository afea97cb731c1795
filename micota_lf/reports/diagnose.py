"""What went wrong in a run: signatures of failures, with their evidence and what to try.

    for found in diagnosis(Outcomes(recipe, plan, Path("runs"))).records:
        found["title"], found["where"], found["evidence"], found["tries"]
    -> "Collapse below the untrained model", "student-s, MiCoTA", "-52.5 points [-63.1, ...", ...

`diagnose.yaml` holds the signatures: whose figures they are over (a function here yields a record of figures
for each trained model, merge, corpus, training, ...), from which limits on they hold and why, how their
evidence reads, and what to try. A figure that is not known meets no limit, so a half run has one too.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean

from ..grading.intervals import wilson
from ..recipe.lineage import baseline, strong_teachers, table_names, table_rows, training_named
from ..stages.filter import KEPT
from ..stages.train import LOST, NO_NUMBER
from ..system.files import iter_jsonl, read_note
from . import read
from .outcomes import AVERAGE, Outcomes
from .page import curves
from .sheets import Record, Sheet, make_sheet
from .tables import accuracies, differences, shown_model

PART = 5  # losses are compared as means of a fifth of a training


def diagnosis(outcomes: Outcomes) -> Sheet:
    """A row for each model, corpus, merge or training that bears a signature; none for a sound run."""
    rows, figures = [], {of: list(source(outcomes)) for of, source in SOURCES.items()}
    for name, spec in (known := read("diagnose")).items():
        for one in figures[spec["of"]]:
            met = [one.get(key, -math.inf) >= limit for key, limit in spec["at_least"].items()]
            met += [one.get(key, math.inf) < limit for key, limit in spec["below"].items()]
            advice = [to.get(one.get("reason"), "") if isinstance(to, dict) else to for to in spec["try"]]
            texts = {"evidence": spec["says"], "tries": "; ".join(filter(None, advice))}
            if all(met):
                told = {key: text.format_map(one) for key, text in texts.items()}
                shown = {key: spec.get(key) for key in ("title", "because", "shows")}
                rows.append([{"signature": name, "state": "-", **shown, **one, **told}])
    return make_sheet("diagnosis", "diagnosis", rows, signatures=len(known))


def trained(outcomes: Outcomes) -> Iterator[Record]:
    """Each trained row of the tables that is evaluated, beside the untrained student and its teacher."""
    recipe = outcomes.recipe
    rows = dict.fromkeys(row for table in table_names(recipe) for row in table_rows(recipe, table))
    for student, method in rows:
        corpus, slot = recipe.methods[method], f"evaluate/{student}/{method}"
        if corpus is None or outcomes.results(slot) is None:
            continue
        teacher = next(iter(strong_teachers(recipe, corpus)), "")
        one: Record = {"where": f"{student}, {method}", "model": shown_model(recipe, student)}
        one |= {"student": student, "method": method, "corpus": corpus, "teacher": teacher}
        one |= _figures(outcomes, slot)
        one |= _beside(outcomes, slot, f"evaluate/{student}/{baseline(recipe)}", "before")
        yield one | _beside(outcomes, slot, f"evaluate/{teacher}", "teacher")


def merged(outcomes: Outcomes) -> Iterator[Record]:
    """Each assistant beside its start, its training and the corpus of that, as far as they are done."""
    for name, spec in outcomes.recipe.assistants.items():
        slot, one = f"evaluate/{name}", {"where": name, **vars(spec.merge)}
        if outcomes.results(slot):
            one |= _figures(outcomes, slot)
            one |= _beside(outcomes, slot, f"{slot}/before", "before")
            one |= _beside(outcomes, slot, f"{slot}/tuned", "tuned")
        learnt, made = training_named(outcomes.recipe, name), outcomes.results(f"generate/{name}")
        source = outcomes.results(f"filter/{learnt.corpus}") if learnt else None
        if made and source and (long := source["mean_response_tokens"]):
            short, kept = made["mean_response_tokens"], source["reasons"][KEPT]
            one |= {"short": short, "long": long, "corpus_share": short / long}
            one |= {"corpus": learnt.corpus if learnt else "", "made": made["responses"], "kept": kept}
        yield one


def answers(outcomes: Outcomes) -> Iterator[Record]:
    """Each model that has answered prompts or benchmarks: how many responses were cut, how many are loops."""
    for slot, made in outcomes.plan.slots.items():
        kind, _, name = slot.partition("/")
        asked = outcomes.plan.steps[made].kind in ("generate", "evaluate")
        results = outcomes.results(slot) if asked else None
        if not results or outcomes.plan.slots_of(made)[0] != slot:
            continue
        cells = [results] if "responses" in results else list(results.values())  # those are by task
        n = sum(cell.get("responses") or cell["n"] for cell in cells)
        counts = {what: sum(cell.get(what, 0) for cell in cells) for what in ("truncated", "loops")}
        student, _, method = name.partition("/")
        shown = {"method": method, "model": shown_model(outcomes.recipe, student)} if method else {}
        shares = {key: value for what in counts for key, value in _share(what, counts[what], n).items()}
        yield {"where": slot, "reason": kind, "n": n, **shares, **shown}


def filters(outcomes: Outcomes) -> Iterator[Record]:
    """Each filter that has ended, if it kept nothing too: what it kept, and why it left out most others."""
    for slot in (slot for slot in outcomes.plan.slots if slot.startswith("filter/")):
        file, results = outcomes.directory(slot) / "rejected.jsonl", outcomes.results(slot)
        left = iter_jsonl(file) if not results and file.is_file() else ()  # it is written before one fails
        reasons = Counter(results["reasons"] if results else (row["reason"] for row in left))
        kept, n = reasons.pop(KEPT, 0), sum(reasons.values())
        for reason, most in reasons.most_common(1):
            one = {"where": slot.partition("/")[2], "reason": reason, "most": most, "n": kept + n}
            yield one | _share("kept", kept, kept + n)


def distances(outcomes: Outcomes) -> Iterator[Record]:
    """Each corpus under each untrained student, beside the one of fewest bits per character, and its gain."""
    recipe, done = outcomes.recipe, outcomes.results
    gains = {(one["student"], one["corpus"]): one.get("before_gain_low", 0.0) for one in trained(outcomes)}
    made = {name: done(f"filter/{name}") or done(f"mix/{name}") for name in recipe.corpora}
    tokens = {name: results["mean_response_tokens"] for name, results in made.items() if results}
    for student in recipe.bpc.models:
        results = done(f"bpc/{student}") or {}
        named = {f"corpus{number}": name for number, name in enumerate(recipe.bpc.corpora)}
        nearest = min(results, key=lambda role: results[role]["mean"], default="")
        for role, found in results.items():
            one = {"where": f"{named[role]} under {student}", "nearest": named[nearest], **found}
            one |= {f"near_{key}": value for key, value in results[nearest].items()}
            one |= {"times": found["mean"] / one["near_mean"], "apart": found["low"] / one["near_high"]}
            one["length"] = tokens.get(named[role], 0) / (tokens.get(named[nearest]) or math.inf)
            yield one | {"helped": gains.get((student, named[role]), 0.0)}


def templates(outcomes: Outcomes) -> Iterator[Record]:
    """Each training's template that the preflight found to give other tokens than the model's own."""
    for line in (outcomes.results("preflight") or {}).get("warnings", ()):
        key, _, said = line.partition(": ")
        if key.startswith("train.template ("):
            yield {"where": key.partition("(")[2].rstrip(")"), "said": said}


def losses(outcomes: Outcomes) -> Iterator[Record]:
    """Each training: its loss at first, at last and at its highest, as means of a fifth of logged steps."""
    for name, line in curves(outcomes).items():
        logged, part = [loss for _, loss in line], math.ceil(len(line) / PART)
        means = [fmean(logged[n : n + part]) for n in range(len(logged) - part + 1)]
        one = {"where": name, "n": len(logged), "first": means[0], "last": means[-1], "peak": max(means)}
        first = means[0] or 1.0
        yield one | {"fall": 100 * (1 - means[-1] / first), "rise": max(means) / first}


def failures(outcomes: Outcomes) -> Iterator[Record]:
    """Each failed step, what it says, and whether (1 or 0) its learning rate can have done it."""
    for slot in (outcomes.plan.slots_of(made)[0] for made in outcomes.plan.steps):
        if error := read_note(outcomes.directory(slot) / "failed.json").get("error"):
            burst = any(mark in error for mark in (NO_NUMBER, LOST))
            yield {"where": slot, "said": error.splitlines()[0], "burst": burst}


SOURCES: dict[str, Callable[[Outcomes], Iterator[Record]]] = {
    one.__name__: one for one in (trained, merged, answers, filters, distances, templates, losses, failures)
}


def _share(name: str, count: float, n: int) -> Record:
    """A count of n, and its percent with a 95% interval."""
    low, high = wilson(count, n)
    values = {"share": count / n, "low": low, "high": high}
    return {name: round(count), **{f"{name}_{key}": 100 * value for key, value in values.items()}}


def _figures(outcomes: Outcomes, slot: str) -> Record:
    """Of a done evaluation: its average in percent with interval, tokens, reflection words a response, n."""
    average = accuracies(outcomes, slot)[-1]
    told = {key: 100 * average[key] for key in ("accuracy", "low", "high")}
    words = fmean(row["reflections"] for row in outcomes.problems(slot).values())
    return {**told, "tokens": average["tokens"], "n": average["n"], "reflections": words}


def _beside(outcomes: Outcomes, slot: str, other: str, name: str) -> Record:
    """Another slot's figures, the gain over it in points on the same problems, and the ratio of lengths."""
    if not (found := differences(outcomes, slot, other).get(AVERAGE)):
        return {}
    theirs, ours = _figures(outcomes, other), _figures(outcomes, slot)
    points = {"gain": "difference", "gain_low": "low", "gain_high": "high"}
    told = {key: 100 * found[part] for key, part in points.items()}
    told |= {**theirs, "ratio": ours["tokens"] / (theirs["tokens"] or math.inf)}
    told["more"] = ours["reflections"] - theirs["reflections"]
    return {f"{name}_{key}": value for key, value in told.items()}
