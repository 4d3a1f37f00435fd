"""Cover the pool: ask for the sample farthest from everything labelled or already asked for, again and again.

    u_t = argmax_i min_{c in L u {u_1 .. u_{t-1}}} |x_i - c|

A 2-approximation of the smallest covering radius. Source: Sener & Savarese, Active Learning for Convolutional Neural
Networks: A Core-Set Approach, ICLR 2018, Algorithm 1 (k-Center-Greedy). Algorithm 2, which leaves outliers out, is
`robust_k_center`.

The greedy is lazy and exact. A sample's distance to its nearest centre only falls as centres are added, so an old value
bounds the new one from above, and only samples whose bound is on top need a fresh one. Bounds are refreshed a shortlist
at a time by one product, |x|^2 + |c|^2 - 2 <x, c> plus the most that rounding can have taken away; the few samples that
are then on top get the distance itself, from differences in float64 to those centres that the product leaves in
question. So rounding of the product never decides a pick.

The pool is read in blocks and never copied: it may be a file, torch.from_numpy(numpy.memmap(...)).

Shapes: N pool samples, L given centres, M centres, F features, S shortlist, K front, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from active.strategies.robust_k_center import robust_k_center as robust_k_center  # the other core-set, Algorithm 2
from active.strategies.validation import how_many
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query

SHORTLIST = 1024  # rows of the largest bounds, among which the next picks are looked for; fewer in a small pool
CHUNK = 1024  # rows of the pool and centres that meet in one product
FEW = 4  # rows measured at first; doubled as long as a pick is not settled
FIRST = 128  # given centres that the whole pool meets; the others are met by those rows alone that come to the top


def k_center_greedy(pool: Tensor, centres: Tensor | None, budget: int) -> Tensor:
    """Rows of `pool` picked farthest-first: LongTensor (min(budget, N),), in pick order, distinct, lowest row on ties.

    pool: (N, F); may be a memory-mapped file. centres: (L, F), what is covered already; None or empty is a cold start,
    whose first pick is the row nearest to the pool's mean: the centre that a single l2 ball around all of the pool
    would like, and one that depends neither on the order of the rows nor on chance. Only distances of equal float64
    value tie. Time: at most one product of (N, F) by (F,) a centre, usually a fraction; memory beside the pool:
    O(N + (L + b) F). Raises ValueError on a negative budget, on shapes that do not fit and on NaN or infinity.
    Source: Sener & Savarese, ICLR 2018, Algorithm 1.
    """
    pool, centres = checked(pool, centres)
    total_of(centres, "centres")
    mean = total_of(pool, "pool") / max(1, len(pool))  # (F,)
    budget = how_many(budget, len(pool))
    picks = torch.empty(budget, dtype=torch.long, device=pool.device)
    if budget == 0:
        return picks
    cold = len(centres) == 0
    if cold:
        picks[0], _ = nearest_to(mean, pool)
        centres = pool[picks[:1]]
    farthest = Farthest(pool, centres, mean, room=budget)
    if cold:
        farthest.take(picks[0])
    for t in watched(range(cold, budget), "k-center", budget - cold):
        picks[t], _ = farthest.top()
        farthest.take(picks[t])
        farthest.add(pool[picks[t]])
    return picks


def ask_k_center(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Greedy k-center on the features, around the labelled features where there are some; draws nothing at random."""
    query = query.by_id()
    (features,) = query.need("features")
    centres = None
    if query.labelled_features is not None and len(query.labelled_features):
        (centres,) = query.need("labelled_features")
    return query.ids[k_center_greedy(features, centres, budget)]


class Farthest:
    """Which row of a pool is farthest from its nearest centre? Centres are added one by one, rows taken out.

    pool: (N, F). centres: (L, F), L >= 1. mean: (F,), about which products are taken: it decides how fast an answer
    comes, never which. room: how many centres may be added.

    `bound` is no less than a row's distance to its nearest centre; of the centres, in the order in which they came, it
    has met the first `met`; `exact` is the distance itself among the first `exact_to`. The shortlist, the S rows of the
    largest bounds, meets every centre at once, and as long as its top exceeds all that is `behind`, the others cannot
    win and need not meet it. What the shortlist learns is written back when it is made anew.
    """

    def __init__(self, pool: Tensor, centres: Tensor, mean: Tensor, *, room: int) -> None:
        n, given = len(pool), len(centres)
        self.pool = pool
        # Products lose digits far from the origin, so they are taken about the mean; what matters is that it is the
        # same for all, not its own digits. In float64 where a setting of torch may shorten products of float32.
        narrow = pool.dtype in (torch.float32, torch.float16, torch.bfloat16) and full_precision(pool.device)
        self.work = torch.float32 if narrow else torch.float64
        self.mean = mean.to(self.work)
        self.origin = torch.empty(  # all centres: the given ones, then what is added
            given + room, pool.shape[1], dtype=torch.promote_types(pool.dtype, centres.dtype), device=pool.device
        )
        self.c = torch.empty_like(self.origin, dtype=self.work)  # the same about the mean
        self.c_sq = self.c.new_empty(len(self.c))
        self.count = 0
        self._append(centres)

        first = min(FIRST, given)
        order = _spread_first(self.c[:given], self.c_sq[:given], first)
        for values in (self.origin, self.c, self.c_sq):
            values[:given] = values[order]
        c, c_sq = self.c[:first], self.c_sq[:first]
        x_sq = self.c.new_empty(n)
        bound = torch.empty(n, dtype=torch.float64, device=pool.device)
        for low in watched(range(0, n, CHUNK), "first distances", -(-n // CHUNK)):
            block = slice(low, low + CHUNK)
            x = self._about_mean(pool[block])
            x_sq[block] = x.square().sum(dim=1)
            bound[block] = _upper_bounds(x, x_sq[block], c, c_sq)
        exact = torch.full_like(bound, torch.inf)
        met = torch.full((n,), first, dtype=torch.long, device=pool.device)
        self.all = _Rows(x_sq, bound, met, exact, torch.zeros_like(met))
        self.size = min(SHORTLIST, 1 + n // 16)
        self._make_shortlist()

    def add(self, centre: Tensor) -> None:
        """One centre (F,) more."""
        self._append(centre[None])
        self._meet(slice(None))

    def take(self, row: Tensor) -> None:
        """This row is out from now on."""
        self.all.bound[row] = -torch.inf
        self.short.bound[self.rows == row] = -torch.inf

    def top(self) -> tuple[Tensor, Tensor]:
        """The farthest row that is not out, the lowest of several, and its distance; -inf where all are out."""
        few = FEW
        while True:
            # The first of the largest bounds. Once it is exact it wins: every other row is at most as far, and an
            # equal one on the shortlist has a higher number.
            short = self.short
            place = short.bound.argmax()
            bound = float(short.bound[place])
            if bound <= self.behind and self.behind > -torch.inf:
                self._write_back()
                self._make_shortlist()
            elif bound == -torch.inf or int(short.exact_to[place]) == self.count:
                return self.rows[place], short.bound[place]
            else:
                places = _top(short.bound, few, place)
                self._measure(places[(short.exact_to[places] < self.count) & (short.bound[places] >= 0)])
                few = min(2 * few, CHUNK)

    def _append(self, centres: Tensor) -> None:
        new = slice(self.count, self.count + len(centres))
        self.origin[new] = centres
        self.c[new] = (centres.double() - self.mean).to(self.work)
        self.c_sq[new] = self.c[new].square().sum(dim=1)
        self.count = new.stop

    def _make_shortlist(self) -> None:
        """The rows of the largest bounds, in their order, with all that tie with the last of them."""
        bound = self.all.bound
        ahead = bound >= bound.topk(min(self.size, len(bound))).values[-1:]
        self.rows = ahead.nonzero()[:, 0]
        self.behind = float(bound.masked_fill(ahead, -torch.inf).max())
        self.short = _Rows(*(values[self.rows] for values in self.all))
        self.x = self._about_mean(self.pool[self.rows])
        # Rows that were listed long ago meet many centres, the others few: not in one product.
        lag = self.count - self.short.met
        for low, high in ((0, 8), (8, 64), (64, self.count)):
            places = ((lag > low) & (lag <= high) & (self.short.bound >= 0)).nonzero()[:, 0]
            if len(places):
                self._meet(places)
        self.short.met.fill_(self.count)  # what is out need not meet any

    def _write_back(self) -> None:
        for values, new in zip(self.all, self.short, strict=True):
            values[self.rows] = new

    def _meet(self, places: Tensor | slice) -> None:
        """Rows at these places of the shortlist meet the centres that they have not met."""
        short = self.short
        x, x_sq, bound, met, exact, exact_to = (values[places] for values in (self.x, *short))
        still, share = exact_to == met, _share(x)
        for low in range(int(met.min()), self.count, CHUNK):
            block = slice(low, min(low + CHUNK, self.count))
            new = _upper_bounds(x, x_sq, self.c[block], self.c_sq[block])
            # An exact distance stays exact where no new centre can be as near.
            least = new.square() * (1 - 1e-12) - 2 * (share * (x_sq.double() + self.c_sq[block].max()) + _lost(x))
            still = still & (least > exact.square())
            bound = torch.minimum(bound, new)
        short.bound[places] = bound
        short.met[places] = self.count
        short.exact_to[places] = torch.where(still, self.count, exact_to)

    def _measure(self, places: Tensor) -> None:
        """Distances to the nearest of all centres, from differences where the product leaves a centre in question."""
        x, x_sq, _, _, exact, exact_to = (values[places] for values in (self.x, *self.short))
        raw, share, lost = self.pool[self.rows[places]], _share(x), _lost(x)
        for low in range(int(exact_to.min()), self.count, CHUNK):
            block = slice(low, min(low + CHUNK, self.count))
            c, c_sq = self.c[block], self.c_sq[block]
            least = _squares(x, x_sq * (1 - share), c, c_sq * (1 - share)) - lost  # (S, M), no more than |x - c|^2
            most = (least + 2 * share * c_sq).amin(dim=1) + 2 * share * x_sq + 2 * lost  # (S,)
            nearest = torch.minimum(most, exact.square() * (1 + 1e-12))
            i, j = (~(least > nearest[:, None])).nonzero(as_tuple=True)  # NaN, of squares that overflow, is in question
            for pairs in torch.arange(len(i), device=i.device).split(CHUNK):
                d = _distances(raw[i[pairs]][:, None], self.origin[low + j[pairs]][:, None])[:, 0]
                exact = exact.scatter_reduce(0, i[pairs], d, "amin")
        self.short.exact[places] = self.short.bound[places] = exact
        self.short.exact_to[places] = self.count

    def _about_mean(self, x: Tensor) -> Tensor:
        """Rows of the pool, (S, F), minus the mean."""
        return x.to(self.work) - self.mean


class _Rows(NamedTuple):
    """What `Farthest` knows of some rows."""

    x_sq: Tensor  # |x|^2 about the mean
    bound: Tensor
    met: Tensor
    exact: Tensor
    exact_to: Tensor


def checked(pool: Tensor, centres: Tensor | None) -> tuple[Tensor, Tensor]:
    """pool (N, F) and centres (L, F), detached and on one device. Raises ValueError for shapes that do not fit."""
    if pool.ndim != 2:
        raise ValueError(f"pool must be (samples, features), not {tuple(pool.shape)}")
    if centres is None:
        centres = pool[:0]
    if centres.ndim != 2 or (len(centres) and centres.shape[1] != pool.shape[1]):
        raise ValueError(f"centres {tuple(centres.shape)} must have the features of pool {tuple(pool.shape)}")
    return pool.detach(), centres.detach().to(pool.device) if len(centres) else pool[:0].detach()


def total_of(rows: Tensor, name: str) -> Tensor:
    """The sum of rows (N, F) in float64: (F,). Raises ValueError naming the first row with a NaN or an infinity."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for low in range(0, len(rows), CHUNK):
        part = rows[low : low + CHUNK].sum(dim=0, dtype=torch.float64)
        if not bool(torch.isfinite(part).all()):  # a bad row, or a sum beyond float64
            fine = torch.isfinite(rows[low : low + CHUNK]).all(dim=1)
            if not bool(fine.all()):
                row = low + int((~fine).nonzero()[0, 0])
                raise ValueError(f"row {row} of {name} has a NaN or an infinite feature")
        total += part
    return total


def nearest_to(point: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """The row of pool (N, F) nearest to a point (F,), the lowest on ties, and its distance."""
    distances = torch.cat([_distances(rows, point[None]) for rows in pool.split(CHUNK)])  # (N,)
    return distances.argmin(), distances.min()


def _distances(x: Tensor, c: Tensor) -> Tensor:
    """Distance of each of x (S, F) to the nearest of c (M, F): (S,). From differences, so that equal rows tie.

    Or, in P problems side by side, of x (P, S, F) and c (P, M, F): (P, S).
    """
    return torch.cdist(x.double(), c.double(), compute_mode="donot_use_mm_for_euclid_dist").min(dim=-1).values


def _squares(x: Tensor, x_sq: Tensor, c: Tensor, c_sq: Tensor) -> Tensor:
    """|x - c|^2 of x (S, F) and c (M, F), give or take `_share` of |x|^2 + |c|^2, by one product: (S, M)."""
    return torch.addmm(c_sq, x, c.T, alpha=-2) + x_sq[:, None]


def _share(x: Tensor) -> float:
    """By how much of |x|^2 + |c|^2 `_squares` can be off, for x (S, F).

    The rounding of a dot product of F terms is at most about F eps |x| |c|; centring and the norms add a few eps.
    """
    return 2 * (x.shape[1] + 16) * torch.finfo(x.dtype).eps


def _lost(x: Tensor) -> float:
    """What is lost besides where squares are too small for the precision."""
    return 2 * (x.shape[1] + 16) * torch.finfo(x.dtype).tiny


def _upper_bounds(x: Tensor, x_sq: Tensor, c: Tensor, c_sq: Tensor) -> Tensor:
    """No less than the distance of each of x (S, F) to the nearest of c (M, F), by one product: (S,) float64."""
    more = 1 + _share(x)
    d2 = torch.addmm(c_sq * more, x, c.T, alpha=-2).amin(dim=1).double() + x_sq * more  # (S,)
    return torch.nan_to_num(d2.clamp(min=0) + _lost(x), nan=torch.inf, posinf=torch.inf).sqrt()  # none if it overflows


def _spread_first(c: Tensor, c_sq: Tensor, count: int) -> Tensor:
    """An order of the rows of c (M, F) whose first `count` lie far apart: (M,). Where they do not, nothing is lost."""
    near, row = torch.full_like(c_sq, torch.inf), 0
    first = []
    for _ in range(count):
        first.append(row)
        near = torch.minimum(near, c_sq - 2 * (c @ c[row]) + c_sq[row])
        near[first] = -torch.inf
        row = int(near.argmax())
    rest = torch.ones_like(near, dtype=torch.bool)
    rest[first] = False
    return torch.cat((torch.tensor(first, device=c.device), rest.nonzero()[:, 0]))


def full_precision(device: torch.device) -> bool:
    """Whether products of float32 are what `_share` takes them for: settings of torch may shorten them to half."""
    x = torch.full((64, 64), 1 + 2.0**-12, device=device)  # bfloat16 and TF32 would make it 1
    x_sq = x.square().sum(dim=1)
    return bool((_squares(x, x_sq, x, x_sq).abs() <= _share(x) * (x_sq + x_sq[0])[:, None]).all())


def _top(bound: Tensor, count: int, first: Tensor) -> Tensor:
    """Places of the `count` largest bounds, `first` among them whatever ties there are."""
    places = bound.topk(min(count, len(bound))).indices
    return places if bool((places == first).any()) else torch.cat((places, first[None]))
