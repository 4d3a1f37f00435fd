"""Ask for samples whose gradients would be large and differ: k-means++ on gradient embeddings (BADGE).

    g_i = a_i (x) h_i,   a_i = p_i - onehot(argmax_c p_ic)            the loss's gradient in the last layer's weights,
                                                                      were the most likely class the label
    u_1 = argmax_i |g_i|,   P(u_t = i) = D_i^2 / sum_j D_j^2,   D_i = min_{s < t} |g_i - g_{u_s}|

Source: Ash, Zhang, Krishnamurthy, Langford & Agarwal, Deep Batch Active Learning by Diverse, Uncertain Gradient Lower
Bounds, ICLR 2020, Algorithm 1. The first pick is that of the authors' code; the paper draws it as k-means++ does.

Nothing of size C F is made for a sample: with <g, g'> = <a, a'> <h, h'> and |g|^2 = |a|^2 |h|^2,

    |g - g'|^2 = |g|^2 + |g'|^2 - 2 <a, a'> <h, h'>  >=  |g|^2 + |g'|^2 - 2 |<a, a'>| |h| |h'|

Most samples are told by the right side, a product of C terms, that the new pick is no nearer than those before; of the
others most are by the left one. Those that come nearer get their distance in float64, from differences, which leave
nothing to cancel where two samples nearly coincide:

    g - g' = (a - a') (x) h + a' (x) (h - h')

Shapes: N samples, C classes, F features, S samples of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.coreset import CHUNK, full_precision
from active.strategies.validation import check_probabilities, how_many
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query


@torch.no_grad()
def badge(probs: Tensor, features: Tensor, budget: int, generator: torch.Generator) -> Tensor:
    """Rows drawn by k-means++ on gradient embeddings: LongTensor (min(budget, N),), in pick order, distinct.

    probs: (N, C), C >= 2, each row a distribution. features: (N, F), the last layer's input; may be a memory-mapped
    file. generator: one number a pick is drawn from it, but for the first pick, which is the row of the largest |g|,
    the lowest of several. Rows of no gradient (one-hot probabilities) are one point, at 0: one of them may be drawn.
    When all rows that are left coincide with picks, the rest of the budget is filled with the lowest of them.
    Time: O(N C) a pick and O(F) for each sample that may have come nearer; memory O(N C) beside the features.
    Raises ValueError on a negative budget, shapes that do not fit, a row that is no distribution, and NaN or infinity.
    Source: Ash et al., ICLR 2020, Algorithm 1.
    """
    if features.ndim != 2 or len(features) != len(probs):
        raise ValueError(f"features {tuple(features.shape)} must be (samples, features) of {len(probs)} samples")
    check_probabilities(probs)
    budget = how_many(budget, len(probs))
    picks = torch.empty(budget, dtype=torch.long, device=features.device)
    draws = torch.rand(max(0, budget - 1), generator=generator, dtype=torch.float64, device=generator.device).tolist()
    if budget == 0:
        return picks
    gradients = _Gradients(probs.detach().to(features.device), features.detach())
    squares = gradients.squares
    picks[0] = squares.argmax()
    nearest = torch.full_like(squares, torch.inf)  # (N,) squared distance to the nearest pick
    for t in watched(range(1, budget), "k-means++", budget - 1):
        gradients.come_nearer(nearest, picks[t - 1])
        nearest[picks[t - 1]] = 0
        if not bool((nearest > 0).any()):
            left = torch.ones_like(nearest, dtype=torch.bool).index_fill(0, picks[:t], False)
            picks[t:] = left.nonzero()[: budget - t, 0]
            break
        picks[t] = _drawn(nearest, draws[t - 1])
    return picks


def _drawn(shares: Tensor, draw: float) -> Tensor:
    """The row on which `draw` in [0, 1) falls when each has its share (N,) of the way: never one without a share."""
    sums = shares.cumsum(dim=0)
    row = torch.searchsorted(sums, draw * sums[-1], right=True)
    # The product may round up to the sum of all: then it is the last row that has a share.
    return row if int(row) < len(sums) else shares.nonzero()[-1, 0]


def ask_badge(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """k-means++ on the gradient embeddings of probs and features."""
    query = query.by_id()
    probs, features = query.need("probs", "features")
    check_probabilities(probs, ids=query.ids)
    return query.ids[badge(probs, features, budget, generator)]


class _Gradients:
    """Gradient embeddings g_i = a_i (x) h_i in their factors: probs (N, C), features (N, F)."""

    def __init__(self, probs: Tensor, features: Tensor) -> None:
        self.probs, self.features = probs, features
        self.likely = probs.argmax(dim=1, keepdim=True)  # (N, 1)
        # Products are in float32 where the samples are, unless a setting of torch may shorten them.
        narrow = (torch.float32, torch.float16, torch.bfloat16) if full_precision(features.device) else ()
        self.work = torch.float32 if probs.dtype in narrow and features.dtype in narrow else torch.float64
        self.a = probs.to(self.work, copy=True)  # (N, C)
        self.a.scatter_add_(1, self.likely, self.a.new_full((1, 1), -1).expand_as(self.likely))
        self.a_sq = torch.empty(len(probs), dtype=torch.float64, device=probs.device)
        self.h_sq = torch.empty_like(self.a_sq)
        for rows in torch.arange(len(probs), device=probs.device).split(CHUNK):
            a, h = self.factors(rows)
            self.a_sq[rows], self.h_sq[rows] = a.square().sum(dim=1), h.square().sum(dim=1)
        if not bool(torch.isfinite(self.h_sq).all()):
            row = int((~torch.isfinite(self.h_sq)).nonzero()[0, 0])
            raise ValueError(f"row {row} of features has a NaN or infinite feature, or one too large to be squared")
        self.squares = self.a_sq * self.h_sq  # (N,) |g|^2

    def factors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """a (S, C) and h (S, F) of these rows, in float64."""
        a = self.probs[rows].double()
        a.scatter_add_(1, self.likely[rows], a.new_full((1, 1), -1).expand(len(rows), 1))
        return a, self.features[rows].double()

    def come_nearer(self, nearest: Tensor, pick: Tensor) -> None:
        """Squared distances (N,) to the nearest of some rows become, in place, those with the row `pick` among them."""
        g2 = self.squares[pick]
        kind, terms = torch.finfo(self.work), self.a.shape[1] + self.features.shape[1]
        lengths = self.h_sq.sqrt() * self.h_sq[pick].sqrt()  # (N,) |h| |h'|
        # The rounding of a product of F terms is at most about F eps |h| |h'|; what is too small for the precision is
        # lost besides.
        slack = 4 * (terms + 32) * (kind.eps * self.squares.sqrt() * g2.sqrt() + kind.tiny * (1 + lengths))
        reach = self.squares + g2 - nearest - slack  # (N,): nearer only if 2 <a, a'> <h, h'> >= reach
        aa = (self.a @ self.a[pick]).double()  # (N,)
        rows = (~(2 * aa.abs() * lengths < reach)).nonzero()[:, 0]
        h_pick = self.features[pick].to(self.work)
        for block in rows.split(CHUNK):
            hh = (self.features[block].to(self.work) @ h_pick).double()  # (S,)
            nearer = block[~(2 * aa[block] * hh < reach[block]) | ~hh.isfinite()]  # a product may overflow
            if len(nearer):
                nearest[nearer] = torch.minimum(nearest[nearer], self.distances(nearer, pick))

    def distances(self, rows: Tensor, pick: Tensor) -> Tensor:
        """|g - g'|^2 of these rows to the row `pick`, in float64, 0 where both factors are the same: (S,)."""
        (a, h), (a_pick, h_pick) = self.factors(rows), self.factors(pick[None])
        da, dh = a - a_pick, h - h_pick  # (S, C), (S, F)
        cross = (da @ a_pick[0]) * (h * dh).sum(dim=1)
        both = da.square().sum(dim=1) * self.h_sq[rows] + dh.square().sum(dim=1) * self.a_sq[pick]
        return (both + 2 * cross).clamp(min=0)
