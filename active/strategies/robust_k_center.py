"""Cover all of the pool but a few outliers with the smallest radius, by a mixed-integer program: robust k-center.

    min over u  of  delta      such that at most Xi rows i have   min_{c in L u u} |x_i - c| > delta,   |u| = b

For one radius delta the question is whether there are u_j in {0, 1} (row j is picked) and z_i in [0, 1] (row i is left
out) with

    sum_j u_j <= b,      sum_i z_i <= Xi,      z_i + sum_{j: |x_i - x_j| <= delta} u_j >= 1   for each row i that no
                                                                                             given centre covers
and the smallest such delta, one of the distances that exist, is found by bisection from the greedy radius down.

Source: Sener & Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018, equation 5
and Algorithm 2. The paper's assignments omega_ij are left out: a row needs one centre in reach, whichever it is.

Shapes: N pool samples, L given centres, F features.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.validation import how_many

if TYPE_CHECKING:
    from active.pool import Query

LARGEST = 3000  # rows: the program holds all pairs, and its time grows faster than they do
OUTLIERS = 0.01  # the strategy's share of the pool that need not be covered
SECONDS = 60.0  # the strategy's time limit

log = logging.getLogger(__name__)


@torch.no_grad()
def robust_k_center(
    pool: Tensor, centres: Tensor | None, budget: int, *, outliers: int, time_limit: float = SECONDS
) -> Tensor:
    """Rows of `pool` that cover it, but for `outliers` rows, with the smallest radius: LongTensor (min(budget, N),).

    pool: (N, F), N <= 3000. centres: (L, F), what is covered already; None or empty is a cold start. outliers: Xi, how
    many rows need not be covered; the paper takes 1e-4 N, which is 0 below 10,000. time_limit: seconds for the whole
    search. Where it ends the search, the best cover found so far is returned, at worst the greedy one, and a warning
    is logged with the gap that is left; only then can the answer depend on the machine's speed.

    Returns distinct rows, the farthest first: from the given centres, or on a cold start from the chosen row that is
    nearest to the pool's mean, each time the chosen row farthest from all before it, so that the beginning of a list
    covers too. Rows that the program does not need (a smaller cover will do) are the farthest from the cover.

    Bisection goes on between delta_greedy from above and, from below, delta_greedy / 2 if outliers = 0, else 0: the
    outliers can hold all of the greedy radius. Time: exponential at worst; memory O(N (N + L)).
    Raises ValueError on a pool of more than 3000 rows, a negative budget or number of outliers, a time limit that is
    not positive, shapes that do not fit, and NaN or infinity.
    Source: Sener & Savarese, ICLR 2018, equation 5 and Algorithm 2.
    """
    pool, centres = _checked(pool, centres)
    if not isinstance(outliers, int) or outliers < 0:
        raise ValueError(f"outliers must be a whole number of samples, 0 or more, not {outliers!r}")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be a positive number of seconds, not {time_limit!r}")
    budget = how_many(budget, len(pool))
    if budget == 0:
        return torch.empty(0, dtype=torch.long, device=pool.device)

    distances = _distances(pool, pool)  # (N, N)
    given = torch.full((len(pool),), torch.inf, dtype=torch.float64, device=pool.device)  # to the nearest given centre
    if len(centres):
        given = _distances(pool, centres).min(dim=1).values
    mean = pool.double().mean(dim=0, keepdim=True)  # (1, F)
    central = _distances(pool, mean)[:, 0]  # (N,)
    chosen = _greedy(distances, given, central, budget)
    greedy = _radius(distances, given, chosen, 0)

    deadline = time.monotonic() + time_limit
    best = _radius(distances, given, chosen, outliers)
    levels = torch.cat((distances.flatten(), given)).unique()  # ascending
    levels = levels[(levels >= (greedy / 2 if outliers == 0 else 0.0)) & (levels <= best)]
    low, high = 0, len(levels) - 1  # the answer is levels[low .. high]; levels[high] has a cover
    while low < high:
        middle = (low + high) // 2
        began = time.monotonic()
        found = _cover(distances, given, budget, outliers, float(levels[middle]), deadline - began)
        log.info("radius %.6g: %s, %.2f s", float(levels[middle]), _word(found), time.monotonic() - began)
        if isinstance(found, Tensor):
            chosen = found
            best = _radius(distances, given, chosen, outliers)
            high = int((levels <= best).sum()) - 1
        elif found:
            low = middle + 1
        else:
            break
    if low < high:
        log.warning(
            "robust k-center stopped at its limit of %g s: radius %.6g, and none below %.6g is possible (gap %.1f %%)",
            time_limit,
            best,
            float(levels[low]),
            100 * (1 - float(levels[low]) / best),
        )
    else:
        log.info("robust k-center: radius %.6g is the least (greedy, without outliers: %.6g)", best, greedy)

    nearest = torch.minimum(given, distances[:, chosen].min(dim=1).values) if len(chosen) else given
    spare = _greedy(distances, nearest.index_fill(0, chosen, -torch.inf), central, budget - len(chosen))
    chosen = torch.cat((chosen, spare))
    order = _greedy(distances[chosen][:, chosen], given[chosen], central[chosen], budget)
    return chosen[order]


def ask_robust_k_center(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Robust k-center on the features, 1 % of the pool left out, around the labelled features where there are some.

    Draws nothing at random. Raises ValueError on more than 3000 samples.
    """
    query = query.by_id()
    (features,) = query.need("features")
    centres = None
    if query.labelled_features is not None and len(query.labelled_features):
        (centres,) = query.need("labelled_features")
    return query.ids[robust_k_center(features, centres, budget, outliers=int(OUTLIERS * len(features)))]


def _cover(
    distances: Tensor, given: Tensor, budget: int, outliers: int, radius: float, seconds: float
) -> Tensor | bool:
    """At most `budget` rows that leave at most `outliers` rows farther than `radius` from all centres.

    True where there are none, False where the solver could not tell in time. distances: (N, N); given: (N,).
    """
    import numpy as np
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    if seconds <= 0:
        return False
    open_rows = (given > radius).nonzero()[:, 0]  # (M,)
    n, m = len(distances), len(open_rows)
    if m <= outliers:
        return open_rows[:0]
    within = sparse.csr_array((distances[open_rows] <= radius).cpu().numpy().astype(np.float64))  # (M, N)
    left_out = sparse.eye_array(m, format="csr")
    sums = np.eye(2)[:, np.repeat([0, 1], [n, m])]  # (2, N + M): the picks, the rows left out
    constraints = [
        LinearConstraint(sparse.hstack((within, left_out), format="csr"), lb=1),
        LinearConstraint(sums, ub=np.array([budget, outliers], dtype=np.float64)),
    ]
    cost = np.concatenate((np.zeros(n), np.ones(m)))  # fewest outliers: any answer will do
    result = milp(
        cost,
        integrality=np.concatenate((np.ones(n), np.zeros(m))),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": seconds},
    )
    if result.x is not None:
        chosen = torch.from_numpy(np.flatnonzero(result.x[:n] > 0.5)).to(given.device)
        # The solver keeps its constraints to a tolerance; what counts is what is covered.
        if len(chosen) <= budget and _radius(distances, given, chosen, outliers) <= radius:
            return chosen
    return bool(result.status == 2)


def _word(found: Tensor | bool) -> str:
    return "covers" if isinstance(found, Tensor) else "covers not" if found else "undecided"


def _greedy(distances: Tensor, nearest: Tensor, central: Tensor, budget: int) -> Tensor:
    """Farthest-first on the matrix of distances (N, N), as `k_center_greedy`: (budget,).

    nearest: (N,), to the nearest centre that there is; infinite without any, then the row of least `central` (N,) is
    the first; -inf for rows that are out.
    """
    picks: list[Tensor] = []
    for _ in range(budget):
        pick = central.argmin() if bool((nearest == torch.inf).all()) else nearest.argmax()
        picks.append(pick)
        nearest = torch.minimum(nearest, distances[:, pick]).index_fill(0, pick, -torch.inf)
    return torch.stack(picks) if picks else torch.empty(0, dtype=torch.long, device=distances.device)


def _radius(distances: Tensor, given: Tensor, chosen: Tensor, outliers: int) -> float:
    """The largest distance of a row to its nearest centre when the `outliers` largest are left out."""
    nearest = torch.cat((given[:, None], distances[:, chosen]), dim=1).min(dim=1).values  # (N,)
    return float(nearest.sort(descending=True).values[outliers]) if outliers < len(nearest) else 0.0


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| from differences in float64, so that equal rows are at 0: (N, M)."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _checked(pool: Tensor, centres: Tensor | None) -> tuple[Tensor, Tensor]:
    if pool.ndim != 2:
        raise ValueError(f"pool must be (samples, features), not {tuple(pool.shape)}")
    if len(pool) > LARGEST:
        raise ValueError(
            f"robust k-center solves a program over all pairs: at most {LARGEST} samples, not {len(pool)}; "
            "take k_center, or a part of the pool"
        )
    if centres is None or len(centres) == 0:
        centres = pool[:0]
    if centres.ndim != 2 or centres.shape[1] != pool.shape[1]:
        raise ValueError(f"centres {tuple(centres.shape)} must have the features of pool {tuple(pool.shape)}")
    for name, values in (("pool", pool), ("centres", centres)):
        fine = torch.isfinite(values).all(dim=1)
        if not bool(fine.all()):
            raise ValueError(f"row {int((~fine).nonzero()[0, 0])} of {name} has a NaN or an infinite feature")
    return pool, centres.to(pool.device)
