"""How many rows and tokens the steps of a plan handle, as far as that can be told before they run.

    volumes = Volumes(plan, recipe)
    volumes.responses(step)         # of a generate step: (12000, 4000.0)
    volumes.corpus(step_id)         # of a filter or mix step: (rows, mean response tokens)

Lengths are those of `estimates.response_tokens`, by the name of the model that responds: a teacher, a
student, a role of the assistant, or STUDENT/CORPUS. A trained model that is not named there responds as long
as the corpus that it has learnt from; any other one as `default_response_tokens` says.
"""

from __future__ import annotations

from ..inputs.references import local_path
from ..recipe.sections import ASSISTANT_MERGED, ASSISTANT_SFT, Problems, Recipe
from ..stages.evaluate import evaluated_benchmarks
from .compile import Plan, Step

Rows = tuple[float, float]  # rows, mean response tokens

DEFAULT_PROMPTS = 12000  # MATH's training problems as the paper uses them (section 4.2)
# Problems of the paper's benchmarks, which may still be on the hub.
KNOWN_PROBLEMS = {"aime24": 30, "amc23": 40, "olympiadbench": 675, "math-500": 500, "gsm8k": 1319}


class Volumes:
    """Rows and tokens of one plan's steps."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe = plan, recipe
        self.problems = sum(benchmark_problems(recipe).values())
        self.prompts = problem_count(recipe.prompts) or DEFAULT_PROMPTS

    def responses(self, step: Step) -> Rows:
        """Prompts that a generate step answers, and how long on average."""
        return self.prompts, min(self._length(step, "generate/"), step["config"]["max_tokens"])

    def answers(self, step: Step) -> Rows:
        """Problems that an evaluation asks, over all its tasks, and the length of an answer."""
        return self.problems, min(self._length(step, "evaluate/"), step["config"]["max_gen_toks"])

    def corpus(self, step_id: str) -> Rows:
        """Rows of a corpus if its filter keeps everything, and their mean response tokens."""
        step = self.plan["steps"][step_id]
        if step["kind"] == "generate":
            return self.responses(step)
        parts = [self.corpus(given["step"]) for given in step["inputs"].values()]
        if step["kind"] == "filter":
            return parts[0]
        ratios = step["config"]["ratios"]
        most = min(rows / ratio for (rows, _), ratio in zip(parts, ratios, strict=True))
        mean = sum(ratio * tokens for (_, tokens), ratio in zip(parts, ratios, strict=True))
        return step["config"]["size"] or most, mean

    def trained_tokens(self, step: Step) -> float:
        """Response tokens that a training sees in all its epochs or steps."""
        what = step["config"]["train"]
        rows, mean = self.corpus(step["inputs"]["corpus"]["step"])
        seen = rows * what["num_train_epochs"]
        if what["max_steps"] > 0:
            seen = what["max_steps"] * what["global_batch_size"]
        return float(seen * min(mean, what["cutoff_len"]))

    def scored_tokens(self, step: Step) -> float:
        """Response tokens of all corpora that a BPC step scores."""
        limit = step["config"]["limit"] or float("inf")
        corpora = [self.corpus(given["step"]) for role, given in step["inputs"].items() if role != "model"]
        return sum(min(rows, limit) * mean for rows, mean in corpora)

    def _length(self, step: Step, prefix: str) -> float:
        """Mean response tokens of the model that a generate or evaluate step asks."""
        known, given = self.recipe.estimates.response_tokens, step["inputs"]["model"]
        if "step" in given:
            names = self._slots(given["step"], "train/")
            names += [ASSISTANT_SFT for name in names if name.startswith(f"{ASSISTANT_SFT}/")]
            names += [ASSISTANT_MERGED for _ in self._slots(given["step"], "merge/")]
        else:  # `evaluate/STUDENT/METHOD` is the untrained student
            names = [name.split("/")[0] for name in self._slots(step["id"], prefix)]
        for name in names:
            if name in known:
                return known[name]
        learnt = self.plan["steps"][given["step"]]["inputs"].get("corpus") if "step" in given else None
        return self.corpus(learnt["step"])[1] if learnt else self.recipe.estimates.default_response_tokens

    def _slots(self, step_id: str, prefix: str) -> list[str]:
        slots = [slot for slot, made in self.plan["slots"].items() if made == step_id]
        return [slot.removeprefix(prefix) for slot in slots if slot.startswith(prefix)]


def problem_count(source: Problems) -> int | None:
    """Number of problems of a source: rows of a local file up to its limit; None for a hub id without one."""
    path = local_path(source.path, "data")
    if path is None or not path.is_file():
        return source.limit
    with path.open("rb") as handle:
        rows = sum(1 for line in handle if line.strip())
    return min(rows, source.limit or rows)


def benchmark_problems(recipe: Recipe) -> dict[str, int]:
    """Problems of each benchmark of the recipe's evaluation; one that is nowhere known counts as none."""
    counts = {}
    for name, benchmark in evaluated_benchmarks(recipe.evaluation).items():
        rows = problem_count(benchmark) or KNOWN_PROBLEMS.get(name, 0)
        counts[name] = min(rows, recipe.evaluation.limit or rows)
    return counts
