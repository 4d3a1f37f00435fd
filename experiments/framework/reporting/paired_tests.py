"""Is one method better than another? The signed-rank test of paired differences d_i = a_i - b_i, and many at once.

    W+ = sum of rank(|d_i|) over d_i > 0,  S = sum of the ranks
    p = P(|W - S/2| >= |W+ - S/2|),  where W has each rank with probability 1/2
    interval = mean(d) ± t_(n-1) s / sqrt(n)
    Holm, of p_(1) <= ... <= p_(m):  p'_(i) = max_(j <= i) min(1, (m - j + 1) p_(j))

Shapes: n pairs; m comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Differences closer than 10^-9 of their unit (percent points) are one: means of equal numbers differ by rounding.
DECIMALS = 9


def signed_rank_p(differences: Sequence[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test, exact for every n, ties and zeros too.

    Conditional on |d|: under the null each difference has either sign with probability 1/2. Ties share the mean of
    their ranks; zeros are ranked and then left out (Pratt), for without them the ranks of the others would say that
    differences of nothing were never seen. SciPy's is exact only without both. O(n^3) steps.

    Args:
        differences: n >= 1 finite numbers, one a pair.

    Returns:
        In (0, 1]; 1 where all are zero; never below 2^(1-n).

    Raises:
        ValueError: no difference, or one that is not finite.

    Source: Wilcoxon, Biometrics Bulletin 1945; zeros: Pratt, JASA 1959.
    """
    import numpy as np
    from scipy.stats import rankdata

    d = _checked(differences)
    doubled = np.rint(2 * rankdata(np.abs(d))).astype(np.int64)[d != 0]  # mean ranks are halves: now integers
    total = int(doubled.sum())
    observed = int(doubled[d[d != 0] > 0].sum())
    chance = np.zeros(total + 1)  # chance[w] = P(2 W = w)
    chance[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: len(chance) - rank]
        chance = 0.5 * (chance + shifted)
    far = np.abs(2 * np.arange(total + 1) - total) >= abs(2 * observed - total)
    return min(1.0, float(chance[far].sum()))


def t_interval(differences: Sequence[float], *, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean difference, in the unit of the differences; None for fewer than two.

    Raises ValueError for a difference that is not finite, or a level outside (0, 1).
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not {level}")
    d = _checked(differences)
    if len(d) < 2:
        return None
    half = float(t.ppf(0.5 + level / 2, len(d) - 1)) * float(d.std(ddof=1)) / math.sqrt(len(d))
    return float(d.mean()) - half, float(d.mean()) + half


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down procedure, in the order given.

    Rejecting those at most alpha keeps the chance of any false rejection at alpha, whatever the dependence.

    Raises ValueError for a number outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError("p-values lie in [0, 1]")
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, which in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[which]))
        corrected[which] = largest
    return corrected


def _checked(differences: Sequence[float]) -> np.ndarray:
    import numpy as np

    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise ValueError("a paired test needs one or more differences, all of them finite")
    return d.round(DECIMALS)
