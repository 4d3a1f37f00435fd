"""Which methods rank above which over many tasks: mean ranks, Friedman's test, Nemenyi's critical difference.

    R_k   = mean over tasks of the rank of method k, 1 = best, ties share the mean of their ranks
    chi^2 = 12 T / (K (K + 1)) * (sum_k R_k^2 - K (K + 1)^2 / 4) / (1 - sum of (t^3 - t) over ties / (T (K^3 - K)))
    CD    = q sqrt(K (K + 1) / (6 T)),  q = the studentized range's quantile for K groups / sqrt(2)

Shapes: T tasks (or other units), K methods.

Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006, section 3.2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from experiments.framework.reporting.paired_tests import DECIMALS

if TYPE_CHECKING:
    import numpy as np


def ranks(scores: np.ndarray) -> np.ndarray:
    """(T, K) scores -> (T, K) ranks in each row, 1 = best; scores equal to 9 decimals share the mean of their ranks.

    Raises ValueError for scores that are no (T, K) table or not finite.
    """
    import numpy as np
    from scipy.stats import rankdata

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"ranks need a (tasks, methods) table of finite scores, not one of shape {scores.shape}")
    return rankdata(np.round(-scores, DECIMALS), axis=1)


def friedman(table: np.ndarray) -> tuple[float, float]:
    """(chi^2 corrected for ties, its p-value with K - 1 degrees of freedom) of (T, K) ranks.

    The null: on every task the methods' ranks are a random order. The chi^2 distribution is an approximation, rough
    for few tasks. (0, 1) where every row is one tie. Raises ValueError for fewer than three methods.
    """
    from scipy.stats import friedmanchisquare

    methods = table.shape[1]
    if methods < 3:
        raise ValueError(f"Friedman's test compares three or more methods, not {methods}; two are a paired test")
    if (table == table[:, :1]).all():
        return 0.0, 1.0
    result = friedmanchisquare(*table.T)
    return max(0.0, float(result.statistic)), float(result.pvalue)


def critical_difference(methods: int, tasks: int, *, alpha: float = 0.05) -> float:
    """The distance of two mean ranks from which on they differ at `alpha`, all pairs of K methods tested (Nemenyi).

    Raises ValueError for fewer than two methods, no task, or an alpha outside (0, 1).
    """
    from scipy.stats import studentized_range

    if methods < 2 or tasks < 1 or not 0 < alpha < 1:
        raise ValueError(
            "a critical difference needs two or more methods, one or more tasks, and an alpha between 0 and 1"
        )
    q = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))
