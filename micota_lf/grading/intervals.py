"""Intervals for the tables, all at 95%, from scipy.special (scipy.stats takes a second to import).

wilson(130, 200)          -> (0.581, 0.713)   accuracy of one cell
average_interval([...])   -> interval of an unweighted mean over benchmarks
sampled(rows, "symbolic") -> {"pass@1": {"mean": 0.375, "low": ..., "high": ...}, ..., "maj@16": ...}
mcnemar(7, 1)             -> 0.070            p that two methods are right equally often, on the same problems
least_difference(30)      -> 0.2              what 30 problems can show at best
"""

from collections.abc import Mapping, Sequence
from math import comb, hypot, inf
from statistics import fmean, stdev

SIGNIFICANCE = 0.05
TELLING = 0.05
"""A difference in accuracy that a benchmark should be able to show: the paper's are mostly smaller."""

Z = 1.959963984540054
"""The normal quantile of 97.5%."""


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion p = correct / n, in [0, 1] (Wilson 1927).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile of 97.5%. `correct` is
    a fraction where each problem has several responses; the interval is then too wide, because means of
    several responses vary less than single ones.
    """
    share = correct / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * (share * (1 - share) / n + Z * Z / (4 * n * n)) ** 0.5
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def pass_at(k: int, right: int, n: int) -> float:
    """The unbiased estimate of pass@k, the chance that one of k responses is right at least.

    1 - C(n-c, k) / C(n, k) from n responses of which c are right (Chen et al. 2021, arXiv 2107.03374).
    """
    return 1 - comb(n - right, k) / comb(n, k)


def sampled(problems: Sequence[Mapping[str, float]], verdict: str) -> dict[str, dict[str, float]]:
    """Shares `mean`, `low`, `high` over problems: of pass@1, 2, 4, ... n, and of maj@n where it is known.

    A problem has its number of `responses`, the share of them that is right by a verdict, and perhaps its
    `majority` (measures.py); n is the fewest responses that one has. Empty where that is 1. Intervals are
    Wilson's: too wide for pass@1, as for any mean of several responses, but never of no width, as Student's
    are where all pass.
    """
    counts = [(round(one[verdict] * one["responses"]), round(one["responses"])) for one in problems]
    n = min(responses for _, responses in counts)
    tries = sorted({2**power for power in range(n.bit_length())} | {n})
    values = {f"pass@{k}": [pass_at(k, *count) for count in counts] for k in tries}
    if all("majority" in one for one in problems):
        values[f"maj@{n}"] = [one["majority"] for one in problems]
    found = {name: (fmean(each), *wilson(sum(each), len(each))) for name, each in values.items() if n > 1}
    return {name: {"mean": mean, "low": low, "high": high} for name, (mean, low, high) in found.items()}


def mean_interval(values: Sequence[float], least: float = -inf, most: float = inf) -> tuple[float, float]:
    """Student's t interval of a mean: m +- t s / sqrt(n), t of n - 1 degrees of freedom (Student 1908).

    It ends at the `least` and the `most` that a value can be. A single value says nothing about its spread.
    """
    from scipy.special import stdtrit

    mean, n = fmean(values), len(values)
    half = float(stdtrit(n - 1, 1 - SIGNIFICANCE / 2)) * stdev(values) / n**0.5 if n > 1 else inf
    return max(least, mean - half), min(most, mean + half)


def average_interval(cells: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Interval of the unweighted mean of accuracies, given as (correct, n), from their Wilson intervals."""
    return _of_mean([(correct / n, *wilson(correct, n)) for correct, n in cells])


def difference_interval(counts: Sequence[tuple[int, int, int]]) -> tuple[float, float]:
    """Interval of the unweighted mean, over benchmarks, of paired differences in accuracy.

    Each benchmark is (gained, lost, n): problems that only the first method got right, only the second, all
    problems. Its own interval is Bonett's and Price's (2012): Wald's, after one more problem was gained and
    one more lost. So it has a width where both methods agree on all n.
    """
    return _of_mean([((gained - lost) / n, *_paired(gained, lost, n)) for gained, lost, n in counts])


def _paired(gained: int, lost: int, n: int) -> tuple[float, float]:
    middle, discordant = (gained - lost) / (n + 2), (gained + lost + 2) / (n + 2)
    half = Z * ((discordant - middle**2) / (n + 2)) ** 0.5
    return max(-1.0, middle - half), min(1.0, middle + half)


def _of_mean(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Interval of the mean of independent values from their own (Zou and Donner 2008), as (value, low, high).

    The distances to one side add up in squares. A single part keeps its interval.
    """
    mean, n = fmean(value for value, _, _ in parts), len(parts)
    down, up = hypot(*(v - low for v, low, _ in parts)), hypot(*(high - v for v, _, high in parts))
    return mean - down / n, mean + up / n


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test (McNemar 1947): 2 P(X <= min(gained, lost)), at most 1.

    X is binomial with gained + lost tries and probability 1/2, as in scipy.stats.binomtest; pairs on which
    both methods agree say nothing.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def least_difference(n: int) -> float:
    """The smallest difference of two accuracies on the same n problems that `mcnemar` can call significant.

    That is where all discordant pairs favour one method: the least k with 2 / 2^k below 5%, over n; 1 if n
    problems can show nothing. One response a problem is assumed, and no correction for many tests.
    """
    return min(1.0, next(k for k in range(1, 100) if mcnemar(k, 0) < SIGNIFICANCE) / n)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979): in ascending order, the running maximum of (m - i) p_i.

    They come back in the order given.
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
