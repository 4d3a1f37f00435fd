"""k-means: K centres that the samples are, weighted and squared, nearest to; Euclidean, or on the unit sphere.

    minimise  sum_i w_i min_k |x_i - c_k|^2

Lloyd's steps: every sample to its nearest centre, every centre to the weighted mean of its samples, until nothing
changes. cosine = True is spherical k-means: the same on unit rows x / |x|, with means scaled back to unit length, so
that the nearest centre is the one of the largest cosine: |x - c|^2 = 2 (1 - cos(x, c)). The start is greedy
k-means++: the next centre is drawn with probability w_i D_i^2, D_i the distance to the nearest centre so far; of a
few draws the best stays.

Rows are met in blocks: what is allocated is O(block (K + F)), never N x K and never a second N x F.

Sources: Lloyd, Least squares quantization in PCM, 1982; Arthur & Vassilvitskii, k-means++, SODA 2007; Dhillon & Modha,
Concept decompositions for large sparse text data using clustering, Machine Learning 2001 (spherical).

Shapes: N samples, F features, K centres, B rows of a block, T draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dan.progress import watched

BLOCK = 2**20  # entries of the largest tensor that a block of rows makes


@dataclass(frozen=True)
class Clusters:
    """What k-means found."""

    labels: Tensor  # (N,) which centre is nearest, the lowest on ties
    centres: Tensor  # (K, F); for cosine of unit length
    distances: Tensor  # (N,) float64, |x_i - c|^2 to the own centre; for cosine of the unit row: 2 (1 - cos)
    inertia: float  # sum_i w_i distances_i

    def order(self) -> Tensor:
        """Clusters that have members, the largest first, the lowest on ties: (<= K,)."""
        size = torch.bincount(self.labels, minlength=len(self.centres))
        order = torch.sort(size, descending=True, stable=True).indices
        return order[size[order] > 0]


@torch.no_grad()
def kmeans(
    x: Tensor,
    count: int,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
    cosine: bool = False,
    start: Tensor | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-4,
) -> Clusters:
    """`count` clusters of the rows of x.

    x: (N, F), float32 or float64 (others are met in float32). weights: (N,), >= 0; a sample of weight 0 is put into a
    cluster and moves none; weights that are all 0 count as equal. start: (K, F), used in place of k-means++.
    Stops when no label changes, when the squared movements of all centres sum to at most `tolerance` times the mean
    variance of a feature, or after max_steps. A cluster without weight moves to the sample of the largest
    w_i |x_i - c|^2; where no sample is off its centre it stays. So the inertia never rises. With count = N and no
    start each row is a cluster. The same generator state, rows and number of threads give the same bits.
    Raises ValueError unless 1 <= count <= N, and on shapes that do not fit, NaN, infinity and negative weights.
    """
    if x.ndim != 2:
        raise ValueError(f"x must be (samples, features), not {tuple(x.shape)}")
    if not 1 <= count <= len(x):
        raise ValueError(f"cannot make {count} clusters of {len(x)} samples")
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"row {row} of x has a NaN or an infinite feature")
    if start is not None and start.shape != (count, x.shape[1]):
        raise ValueError(f"start must be ({count}, {x.shape[1]}), not {tuple(start.shape)}")
    w = _weights(weights, x)  # (N,)
    rows = _Rows(x, w, cosine)

    if start is None:
        if count == len(x):
            labels = torch.arange(count, device=x.device)
            return Clusters(labels, x.clone() if not cosine else rows.at(labels), torch.zeros_like(w), 0.0)
        centres = rows.at(_plus_plus(rows, count, generator))
    else:
        centres = rows.like(start)
    labels, d2 = _assign(rows, centres)
    moved_enough = tolerance * rows.variance
    for _ in watched(range(max_steps), "k-means, at most", max_steps):
        before, old = labels, centres
        centres = _means(rows, labels, d2, old)
        labels, d2 = _assign(rows, centres)
        if torch.equal(labels, before) or float((centres - old).double().square().sum()) <= moved_enough:
            break

    exact = torch.cat([(block - centres[labels[i]]).double().square().sum(dim=1) for i, block in rows.blocks()])
    return Clusters(labels, centres + rows.mean, exact, float((w * exact).sum()))


class _Rows:
    """The rows of x as k-means sees them, a block at a time: about their weighted mean, or at unit length for cosine.

    About the mean, because distances by products lose digits far from the origin.
    """

    def __init__(self, x: Tensor, w: Tensor, cosine: bool) -> None:
        self.x, self.w, self.cosine = x, w, cosine
        self.dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)  # (F,)
        squares = torch.empty(len(x), dtype=torch.float64, device=x.device)  # |row|^2
        self.mean = torch.zeros(x.shape[1], dtype=self.dtype, device=x.device)
        self.length = torch.ones(len(x), 1, dtype=self.dtype, device=x.device)  # what a row is divided by
        if cosine:
            for i, block in self.blocks():
                self.length[i] = torch.linalg.vector_norm(block, dim=1, keepdim=True)
            self.length[self.length == 0] = 1  # a row without direction stays at the origin
        for i, block in self.blocks():
            total += w[i] @ block.double()
        mean = total / w.sum()
        if not cosine:
            self.mean = mean.to(self.dtype)
        for i, block in self.blocks():
            squares[i] = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).square()
        self.squares = squares.to(self.dtype)  # (N,)
        variance = (w @ squares) / w.sum() - (mean.square().sum() if cosine else 0)
        self.variance = max(float(variance), 0.0) / max(x.shape[1], 1)  # of a feature, on average

    def blocks(self, columns: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """(rows, block (B, F)), B such that neither B x F nor B x columns is large."""
        size = max(BLOCK // max(columns, self.x.shape[1], 1), 16)
        for first in range(0, len(self.x), size):
            i = slice(first, min(first + size, len(self.x)))
            yield i, self.at(i)

    def at(self, i: slice | Tensor) -> Tensor:
        """These rows."""
        rows = self.x[i].to(self.dtype)
        return rows / self.length[i] if self.cosine else rows - self.mean

    def like(self, centres: Tensor) -> Tensor:
        """Points of the space of x, brought to where the rows are."""
        centres = centres.to(self.x.device, self.dtype)
        return torch.nn.functional.normalize(centres, dim=1) if self.cosine else centres - self.mean

    def squared_distances(self, i: slice, block: Tensor, centres: Tensor) -> Tensor:
        """|x - c|^2 of the block of rows i to all centres by one product, (B, K), never negative."""
        d2 = torch.addmm(centres.square().sum(dim=1), block, centres.T, alpha=-2)
        return d2.add_(self.squares[i, None]).clamp_(min=0)


def _weights(weights: Tensor | None, x: Tensor) -> Tensor:
    """(N,) float64, not all 0."""
    if weights is None:
        return torch.ones(len(x), dtype=torch.float64, device=x.device)
    if weights.shape != (len(x),):
        raise ValueError(f"weights must be ({len(x)},), not {tuple(weights.shape)}")
    w = weights.to(x.device).double()
    if not bool((torch.isfinite(w) & (w >= 0)).all()):
        row = int((~(torch.isfinite(w) & (w >= 0))).nonzero()[0, 0])
        raise ValueError(f"weight {row} is {float(w[row])}: weights must be finite and 0 or more")
    return w if bool(w.any()) else torch.ones_like(w)


def _assign(rows: _Rows, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Label (N,) of the nearest centre, the first on ties, and the squared distance (N,) to it."""
    labels = torch.empty(len(rows.x), dtype=torch.long, device=centres.device)
    d2 = torch.empty(len(rows.x), dtype=centres.dtype, device=centres.device)
    for i, block in rows.blocks(len(centres)):
        d2[i], labels[i] = rows.squared_distances(i, block, centres).min(dim=1)
    return labels, d2


def _means(rows: _Rows, labels: Tensor, d2: Tensor, old: Tensor) -> Tensor:
    """Weighted means (K, F), of unit length for cosine; clusters without weight go to the worst-served rows."""
    count = len(old)
    total = torch.zeros(old.shape, dtype=torch.float64, device=old.device)
    mass = torch.zeros(count, dtype=torch.float64, device=old.device)
    for i, block in rows.blocks(count if old.is_cuda else 0):
        weighted = block.double() * rows.w[i, None]  # (B, F)
        if old.is_cuda:  # index_add_ on a GPU adds in any order; a product with the one-hot labels does not
            member = torch.nn.functional.one_hot(labels[i], count).T.double()  # (K, B)
            total += member @ weighted
            mass += member @ rows.w[i]
        else:
            total.index_add_(0, labels[i], weighted)
            mass.index_add_(0, labels[i], rows.w[i])
    if rows.cosine:
        length = total.norm(dim=1)
        fine = length > 1e-12 * mass  # rows that cancel out have no direction
        centres = torch.where(fine[:, None], total / length[:, None], old.double())
    else:
        centres = torch.where((mass > 0)[:, None], total / mass[:, None], old.double())
    centres = centres.to(old.dtype)

    empty = (mass == 0).nonzero()[:, 0]
    if len(empty):
        gain = rows.w * d2
        worst = torch.sort(gain, descending=True, stable=True).indices[: len(empty)]
        # What is within rounding of its centre gains nothing, and would let equal rows trade places for ever.
        noise = 1e3 * torch.finfo(rows.dtype).eps * max(rows.variance * rows.x.shape[1], 1e-300)
        worst = worst[(gain[worst] > 0) & (d2[worst] > noise)]
        centres[empty[: len(worst)]] = rows.at(worst)
    return centres


def _plus_plus(rows: _Rows, count: int, generator: torch.Generator) -> Tensor:
    """Rows (K,) to start from: greedy k-means++, 2 + log K draws a centre; never one row twice."""
    device = rows.x.device
    draws = 2 + int(math.log(count))
    chosen = torch.empty(count, dtype=torch.long, device=device)
    free = torch.ones(len(rows.x), dtype=torch.float64, device=device)
    nearest = torch.full((len(rows.x),), torch.inf, dtype=torch.float64, device=device)  # D_i^2
    for k in range(count):
        spread = nearest if k else torch.ones_like(nearest)
        # By weight and distance; where no weight is left, by distance; where all rows are chosen ones' equals, any.
        for chance in (rows.w * spread * free, spread * free, free):
            total = chance.cumsum(0)
            if float(total[-1]) > 0:
                break
        u = torch.rand(draws if k else 1, generator=generator, dtype=torch.float64, device=generator.device).to(device)
        drawn = torch.searchsorted(total, u * total[-1], right=True)  # right: a row of chance 0 is never drawn
        drawn = drawn.clamp(max=int(chance.nonzero()[-1, 0]))  # u * total can round up to the total
        met = torch.empty(len(rows.x), len(drawn), dtype=rows.dtype, device=device)  # (N, T)
        centres = rows.at(drawn)
        for i, block in rows.blocks(draws):
            met[i] = rows.squared_distances(i, block, centres)
        closer = torch.minimum(nearest[:, None], met)  # (N, T)
        best = int((rows.w @ closer).argmin())
        chosen[k], nearest = drawn[best], closer[:, best].contiguous()
        free[drawn[best]] = 0
    return chosen
