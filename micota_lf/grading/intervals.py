"""Intervals for the tables, all at 95%, from scipy.special (scipy.stats takes a second to import) and numpy.

wilson(130, 200)          -> (0.581, 0.713)   accuracy of one cell
average_interval([...])   -> interval of an unweighted mean over benchmarks
mcnemar(7, 1)             -> 0.070            p that two methods are right equally often, on the same problems
least_difference(30)      -> 0.2              what 30 problems can show at best
"""

from collections.abc import Sequence
from statistics import fmean, stdev

CONFIDENCE = 0.95
SIGNIFICANCE = 1 - CONFIDENCE
TELLING = 0.05
"""A difference in accuracy that a benchmark should be able to show: the paper's are mostly smaller."""

RESAMPLES = 2000


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion p = correct / n, in [0, 1] (Wilson 1927).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile of 97.5%. `correct` is
    a fraction where each problem has several responses; the interval is then too wide, because means of
    several responses vary less than single ones.
    """
    from scipy.special import ndtri

    z, share = float(ndtri((1 + CONFIDENCE) / 2)), correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of a mean: m +- t s / sqrt(n), t of n - 1 degrees of freedom (Student 1908).

    Equal to the value itself for a single one.
    """
    from scipy.special import stdtrit

    mean, n = fmean(values), len(values)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / n**0.5 if n > 1 else 0.0
    return mean - half, mean + half


def average_interval(cells: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979) of the unweighted mean of several accuracies, given as (correct, n).

    Problems are resampled within each benchmark. It is the difference from a method that is never right.
    """
    return difference_interval([(correct, 0, n) for correct, n in cells])


def difference_interval(counts: Sequence[tuple[float, int, int]]) -> tuple[float, float]:
    """Percentile bootstrap of the unweighted mean, over benchmarks, of paired differences in accuracy.

    Each benchmark is (gained, lost, n): problems that only the first method got right, only the second, all
    problems. They are resampled within a benchmark, with both verdicts: a multinomial draw of these counts.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    draws = [
        rng.multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], RESAMPLES) @ [1, -1, 0] / n
        for gained, lost, n in counts
    ]
    low, high = np.quantile(np.mean(draws, axis=0), [SIGNIFICANCE / 2, 1 - SIGNIFICANCE / 2])
    return float(low), float(high)


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
