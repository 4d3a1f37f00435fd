"""Cover the pool: ask for the sample farthest from everything labelled or already asked for, again and again.

    u_t = argmax_i min_{c in L u {u_1 .. u_{t-1}}} |x_i - c|

A 2-approximation of the smallest covering radius. Source: Sener & Savarese, Active Learning for Convolutional Neural
Networks: A Core-Set Approach, ICLR 2018, Algorithm 1 (k-Center-Greedy).

The greedy is lazy and exact. A sample's distance to its nearest centre only falls as centres are added, so an old value
bounds the new one from above, and only samples whose bound is on top need a fresh one. Bounds are refreshed a shortlist
at a time by one product, |x|^2 + |c|^2 - 2 <x, c> plus the most that rounding can have taken away; the few samples that
are then on top get the distance itself, from differences in float64. So rounding of the product never decides a pick.

Shapes: N pool samples, L centres, F features, S shortlist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.chance import how_many

if TYPE_CHECKING:
    from active.pool import Query

SHORTLIST = 32  # bounds refreshed at first; doubled as long as a pick is not settled
CHUNK = 1024  # rows of the pool and of the given centres that meet in one product


def k_center_greedy(pool: Tensor, centres: Tensor | None, budget: int) -> Tensor:
    """Rows of `pool` picked farthest-first: LongTensor (min(budget, N),), in pick order, distinct, lowest row on ties.

    pool: (N, F). centres: (L, F), what is covered already; None or empty is a cold start, whose first pick is the row
    nearest to the pool's mean: the centre that a single l2 ball around all of the pool would like, and one that depends
    neither on the order of the rows nor on chance. Only distances of equal float64 value tie.
    Time: at most one product of (N, F) by (F,) a pick, usually a fraction; memory O(N F + S F), nothing of size N x F
    inside the loop, and the given centres are met in blocks. Raises ValueError on a negative budget, on shapes that do
    not fit and on NaN or infinity.
    """
    if pool.ndim != 2:
        raise ValueError(f"pool must be (samples, features), not {tuple(pool.shape)}")
    if centres is None:
        centres = pool[:0]
    if centres.ndim != 2 or (len(centres) and centres.shape[1] != pool.shape[1]):
        raise ValueError(f"centres {tuple(centres.shape)} must have the features of pool {tuple(pool.shape)}")
    for name, values in (("pool", pool), ("centres", centres)):
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0, 0])
            raise ValueError(f"row {row} of {name} has a NaN or an infinite feature")
    budget = how_many(budget, len(pool))
    picks = torch.empty(budget, dtype=torch.long, device=pool.device)
    if budget == 0:
        return picks
    pool, centres = pool.detach(), centres.detach().to(pool.device)
    start = 0
    if len(centres) == 0:
        picks[0] = _nearest_to_mean(pool)
        start = 1
        centres = pool[picks[:1]]

    # Products lose digits far from the origin, so they are taken about the mean; in float64, which no setting of
    # torch's matmul precision shortens.
    mean = pool.mean(dim=0, dtype=torch.float64)  # (F,)
    x = pool - mean  # (N, F)
    x_sq = x.square().sum(dim=1)  # (N,)
    given = len(centres)
    c = x.new_empty(given + budget - start, x.shape[1])  # the given centres, then the picks
    c[:given] = centres - mean
    c_sq = c.new_empty(len(c))
    c_sq[:given] = c[:given].square().sum(dim=1)
    origin = torch.empty_like(c)  # the same rows, not centred
    origin[:given] = centres

    bound = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)  # >= distance to the nearest centre
    exact = bound.clone()  # that distance among the first `exact_to` centres
    bound_to = torch.zeros(len(x), dtype=torch.long, device=x.device)  # how many centres `bound` has met
    exact_to = bound_to.clone()
    for rows in torch.arange(len(x), device=x.device).split(CHUNK):
        for first in range(0, given, CHUNK):
            last = min(first + CHUNK, given)
            met = _upper_bounds(x[rows], x_sq[rows], c[first:last], c_sq[first:last])
            bound[rows] = torch.minimum(bound[rows], met)
    bound_to[:] = given
    if start:
        bound[picks[0]] = -torch.inf

    now = given
    for t in range(start, budget):
        shortlist, few = SHORTLIST, 1
        while True:
            # The first of the largest bounds. Once it is exact it wins: every other sample is at most as far,
            # and an equal one has a higher row.
            top = bound.argmax()
            if int(exact_to[top]) == now:
                break
            if int(bound_to[top]) == now:
                rows = _top(bound, few, top)
                rows = rows[(bound_to[rows] == now) & (exact_to[rows] < now) & (bound[rows] >= 0)]
                since = int(exact_to[rows].min())
                met = _distances(pool[rows], origin[since:now])
                exact[rows] = torch.minimum(exact[rows], met)
                bound[rows] = exact[rows]
                exact_to[rows] = now
                few = min(2 * few, CHUNK)
            else:
                rows = _top(bound, shortlist, top)
                rows = rows[(bound_to[rows] < now) & (bound[rows] >= 0)]
                # Rows that were refreshed long ago meet many centres, the others few: not in one product.
                lag = now - bound_to[rows]
                for group in (rows[lag <= 8], rows[lag > 8]):
                    if len(group):
                        since = int(bound_to[group].min())
                        met = _upper_bounds(x[group], x_sq[group], c[since:now], c_sq[since:now])
                        bound[group] = torch.minimum(bound[group], met)
                        bound_to[group] = now
                shortlist = min(2 * shortlist, CHUNK)
        picks[t] = top
        bound[top] = -torch.inf
        c[now] = x[top]
        c_sq[now] = x_sq[top]
        origin[now] = pool[top]
        now += 1
    return picks


def ask_k_center(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Greedy k-center on the features, around the labelled features where there are some; draws nothing at random."""
    query = query.by_id()
    (features,) = query.need("features")
    centres = None
    if query.labelled_features is not None and len(query.labelled_features):
        (centres,) = query.need("labelled_features")
    return query.ids[k_center_greedy(features, centres, budget)]


def _nearest_to_mean(pool: Tensor) -> Tensor:
    """The row of pool (N, F) nearest to the mean of the rows, the lowest on ties."""
    mean = pool.mean(dim=0, dtype=torch.float64)  # (F,)
    return torch.cat([_distances(rows, mean[None]) for rows in pool.split(CHUNK)]).argmin()


def _distances(x: Tensor, c: Tensor) -> Tensor:
    """Distance of each of x (S, F) to the nearest of c (M, F): (S,). From differences, so that equal rows tie."""
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    x = x.double()
    for block in c.split(CHUNK):
        d = torch.cdist(x, block, compute_mode="donot_use_mm_for_euclid_dist")  # (S, block)
        nearest = torch.minimum(nearest, d.min(dim=1).values)
    return nearest


def _upper_bounds(x: Tensor, x_sq: Tensor, c: Tensor, c_sq: Tensor) -> Tensor:
    """No less than the distance of each of x (S, F) to the nearest of c (M, F), by one product: (S,) float64.

    The rounding of a dot product of F terms is at most about F eps |x| |c|; centring and the norms add a few eps.
    """
    d2 = torch.addmm(c_sq, x, c.T, alpha=-2) + x_sq[:, None]  # (S, M)
    slack = 2 * (x.shape[1] + 16) * torch.finfo(x.dtype).eps
    d2 = d2.min(dim=1).values.clamp(min=0) + slack * (x_sq + c_sq.max())  # (S,)
    return torch.nan_to_num(d2, nan=torch.inf).sqrt()  # squares that overflow bound nothing


def _top(bound: Tensor, count: int, first: Tensor) -> Tensor:
    """Rows of the `count` largest bounds, `first` among them whatever ties there are."""
    rows = bound.topk(min(count, len(bound))).indices
    return rows if bool((rows == first).any()) else torch.cat((rows, first[None]))
