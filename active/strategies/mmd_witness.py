"""Where does the target's mass most exceed that of a second sample? The lowest value of MMD's witness, again and again.

    w_i = p_i / n - r_i / m,        p_i = sum_{s in S} k(t_i, s),        r_i = sum_{t in T} k(t_i, t)

What MMD reduction and kernel herding share: they differ in whether a pick joins S and whether it leaves T, and so in n
and m.

Exact and cheap. The sums over all pairs are taken once, in the precision of the features (`kernel_sums`), and a pick's
row of the kernel corrects them. Sums in float32 are within some bound of the true ones; so only candidates that may be
the lowest, given that bound, have their sums taken anew, in float64, a batch at a time by one product; and the rows of
the kernel that this gives are the very ones that the next picks need. From then on such a sum is exact, because the
corrections are. So rounding in float32 decides no pick.

Shapes: N candidates; S samples of the second sample; F features; B candidates of a batch; K kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dan.mmd.kernel_powers import kernels, scale_of
from dan.mmd.kernels import MultiKernel
from dan.mmd.pairwise import kernel_row_sums
from dan.mmd.tiled import kernel_blocks
from dan.progress import watched

TIE = 1e-12  # values of w that differ by less are equal: they are differences of kernel means, in [0, 1], in float64
ROUNDING = 2e-5  # a kernel mean in float32 is assumed to be this near to the true one, or nearer
CAUTION = 8.0  # and if one is seen to be off by more than ROUNDING / CAUTION, the bound becomes CAUTION times as much
BATCH = 64  # candidates whose rows of the kernel are computed in one product
NUMBERS = 2**22  # of float64 in a batch of rows: of very large pools fewer candidates meet in one product
ROWS = 1024  # of a tile of pairs
COLUMNS = 4096  # samples read at a time, and converted to float64
NEAR = 0.01  # pairs nearer than this share of their norms are measured by differences


def unit_sum(kernel: MultiKernel) -> MultiKernel:
    """The kernel in float64 with weights that sum to 1 but for its last bit, so that k(x, x) = 1."""
    weights = kernel.weights.double()
    return MultiKernel(kernel.bandwidths.double(), weights / weights.sum())


def mean_row(x: Tensor) -> Tensor:
    """The mean of x (N, F), read in blocks: (F,) float64. Zero if there are no rows."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in x.split(COLUMNS):
        total += rows.sum(dim=0, dtype=torch.float64)
    return total / max(1, len(x))


@torch.no_grad()
def kernel_rows(x: Tensor, y: Tensor, kernel: MultiKernel, centre: Tensor) -> Tensor:
    """k(x_i, y_j) for x (B, F), y (M, F) -> (B, M) in float64, whatever the precision of the features.

    centre: (F,) float64, anything near the middle of the samples; y is read in blocks. By one product a block,
    |x|^2 + |y|^2 - 2 <x, y>, whose rounding is about eps (|x|^2 + |y|^2); where that shows, for pairs that are near
    each other but far from the centre, from differences. Values are within about 1e-13, so equal rows tie within TIE.
    """
    bandwidths, weights = tuple(kernel.bandwidths.tolist()), kernel.weights.tolist()
    scale, narrowest = scale_of(bandwidths), min(bandwidths)
    a = x.double() - centre  # (B, F)
    a_sq = a.square().sum(dim=1)
    values = a.new_empty(len(x), len(y))
    at = 0
    for block in y.split(COLUMNS):
        b = block.to(x.device).double() - centre  # (columns, F)
        norms = a_sq[:, None] + b.square().sum(dim=1)  # (B, columns)
        d2 = torch.addmm(norms, a, b.T, alpha=-2).clamp_(min=0)
        # exp(-d2 / gamma) is off by at most (error of d2) / (e d2), and by (error of d2) / gamma.
        near = (d2 <= NEAR * (norms - narrowest)).nonzero()
        for pairs in near.split(max(1, 2**20 // max(1, a.shape[1]))):
            i, j = pairs.unbind(1)
            d2[i, j] = (a[i] - b[j]).square().sum(dim=1)
        total = torch.zeros_like(d2)
        for u, k in kernels(d2.mul_(-1 / scale), bandwidths):
            total.add_(k, alpha=weights[u])
        values[:, at : at + len(block)] = total
        at += len(block)
    return values


@torch.no_grad()
def kernel_sums(target: Tensor, source: Tensor, kernel: MultiKernel, *, shard: int = 0, shards: int = 1) -> Tensor:
    """p_i = sum_{s in S} k(t_i, s) and r_i = sum_{j in T} k(t_i, t_j) for target (N, F), source (S, F): (2, N) float64.

    Summed in the precision of the features; streamed. With `shards` processes, each gives its own `shard`, the share of
    all pairs that it adds up, and the sum of what they return (one all_reduce) is the whole.
    Raises ValueError unless 0 <= shard < shards.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard must be in 0 .. {shards - 1}, not {shard}")
    kernel = unit_sum(kernel)
    sums = torch.zeros(2, len(target), dtype=torch.float64, device=target.device)
    if len(target) == 0:
        return sums
    if shards == 1:
        if len(source):
            sums[0] = kernel_row_sums(target, source.to(target.device), kernel).double()
        blocks = -(-len(target) // ROWS)
        tiles = kernel_blocks(target, kernel, tile=ROWS)  # every pair once: half of what row sums would compute
        for rows, columns, k in watched(tiles, "kernel sums", blocks * (blocks + 1) // 2):
            sums[1, rows] += k.sum(dim=1).double()
            if rows != columns:
                sums[1, columns] += k.sum(dim=0).double()
        return sums
    for which, others in enumerate((source, target)):
        share = others[len(others) * shard // shards : len(others) * (shard + 1) // shards]
        if len(share):
            sums[which] = kernel_row_sums(target, share.to(target.device), kernel).double()
    return sums


class _Kept:
    """Rows of the kernel, k(t_i, .) (N,), of candidates that are likely to be picked next; some hundred at most."""

    def __init__(self, batch: int, like: Tensor) -> None:
        self.buffer = like.new_empty(4 * batch, len(like))
        self.free = list(range(4 * batch))
        self.slot: dict[int, int] = {}
        self.held = torch.zeros(len(like), dtype=torch.bool, device=like.device)

    def add(self, at: Tensor, rows: Tensor, witness: Tensor) -> None:
        """Rows (B, N) of candidates `at` (B,). Those of the highest witness make place where there is none."""
        if len(self.free) < len(at):
            held = self.held.nonzero()[:, 0]
            for row in held[witness[held].argsort(descending=True)][: len(at) - len(self.free)].tolist():
                self.drop(row)
        for row, values in zip(at.tolist(), rows, strict=True):
            self.slot[row] = self.free.pop()
            self.buffer[self.slot[row]] = values
        self.held[at] = True

    def drop(self, row: int) -> None:
        self.free.append(self.slot.pop(row))
        self.held[row] = False


class _Candidates:
    """The candidates of T and their witness, as picks join S and leave T.

    p, r: (N,) float64, sums over the present S and T. n, m: the present |S| and |T|. w: (N,), the witness as last
    computed, infinite for what is picked. left, exact: (N,) bool, not picked yet, and with sums taken in float64.
    slack: the assumed error of a kernel mean that is not exact.
    """

    def __init__(
        self, target: Tensor, source: Tensor, others: Tensor, sums: Tensor, kernel: MultiKernel, batch: int
    ) -> None:
        self.target, self.source, self.others = target, source, others
        self.kernel, self.centre, self.batch = unit_sum(kernel), mean_row(target), batch
        self.p, self.r = sums.double().clone().unbind(0)
        self.w = torch.zeros_like(self.p)
        self.n, self.m = len(source), len(target) + len(others)
        self.sizes = torch.tensor([max(1, self.n), self.m], dtype=torch.float64, device=target.device)
        self.left = torch.ones(len(target), dtype=torch.bool, device=target.device)
        self.exact = torch.full_like(self.left, target.dtype == source.dtype == torch.float64)
        self.kept = _Kept(batch, self.p)
        self.slack = ROUNDING

    def lowest(self, *, joins: bool, leaves: bool) -> int:
        """The candidate of the lowest w, the lowest row of those that tie; sums that might matter become exact."""
        if leaves and self.m == 1:
            return int(self.left.nonzero()[0, 0])
        while True:
            self.w = self.p / (self.n + joins) - self.r / (self.m - leaves)
            self.w.masked_fill_(~self.left, torch.inf)
            certain = self.w.masked_fill(~self.exact, torch.inf)
            least = certain.min() + TIE
            doubtful = self._doubtful(least, self.m - leaves)
            if len(doubtful) == 0:
                return int((certain <= least).nonzero()[0, 0])
            self._sum_exactly(doubtful, joins=joins, leaves=leaves)

    def take(self, pick: int, *, joins: bool, leaves: bool) -> None:
        """Remove a candidate, and let it join S and leave T."""
        self.left[pick] = False
        if pick not in self.kept.slot:
            ahead = self.w.masked_fill(self.kept.held, torch.inf)
            ahead[pick] = -torch.inf
            at = self._first(ahead)
            self.kept.add(at, self._rows(at), self.w)
        k = self.kept.buffer[self.kept.slot[pick]]  # (N,)
        self.kept.drop(pick)
        if leaves:
            self.r -= k
            self.m -= 1
        if joins:
            self.p += k
            self.n += 1

    def _doubtful(self, least: Tensor, m: int) -> Tensor:
        """A batch of candidates whose w, over m of T, may be `least` or lower, for all that is known; (0,) if none."""
        nothing = torch.empty(0, dtype=torch.long, device=self.w.device)
        if bool(self.exact.all()):
            return nothing
        # p is off by slack n, r by slack m, of the n and m that they were summed over.
        off = self.slack * (1 + float(self.sizes[1]) / m)
        lower = (self.w - off).masked_fill_(self.exact | ~self.left, torch.inf)
        return self._first(lower) if bool((lower <= least).any()) else nothing

    def _sum_exactly(self, at: Tensor, *, joins: bool, leaves: bool) -> None:
        """Take p and r of candidates `at` (B,) in float64, and widen the slack if they are further off than assumed."""
        rows = self._rows(at)
        of_target = self.target[at]
        p = kernel_rows(of_target, self.source, self.kernel, self.centre).sum(dim=1)
        p = p + (rows @ (~self.left).double() if joins else 0)
        r = rows @ (self.left.double() if leaves else torch.ones_like(self.p))
        r = r + kernel_rows(of_target, self.others, self.kernel, self.centre).sum(dim=1)
        sums = torch.stack((p, r))  # (2, B)
        seen = (sums - torch.stack((self.p[at], self.r[at]))).abs() / self.sizes[:, None]
        self.slack = max(self.slack, CAUTION * float(seen.max()))
        self.p[at], self.r[at] = sums
        self.exact[at] = True
        new = ~self.kept.held[at]
        self.kept.add(at[new], rows[new], self.w)

    def _first(self, values: Tensor) -> Tensor:
        """The candidates of the lowest finite values, a batch at most, in order."""
        at = values.topk(min(self.batch, len(values)), largest=False).indices
        return at[values[at] < torch.inf]

    def _rows(self, at: Tensor) -> Tensor:
        """k(t_i, .) of candidates `at` (B,): (B, N) float64, with k(t_i, t_i) = 1."""
        rows = kernel_rows(self.target[at], self.target, self.kernel, self.centre)
        rows[torch.arange(len(at), device=at.device), at] = 1
        return rows


@torch.no_grad()
def lowest_witness(
    target: Tensor,
    source: Tensor,
    sums: Tensor,
    budget: int,
    kernel: MultiKernel,
    *,
    joins: bool,
    leaves: bool,
    others: Tensor | None = None,
) -> Tensor:
    """Rows of target (N, F) of the lowest w_i, greedily: LongTensor (budget,), in pick order, ties to the lowest row.

    w_i = p_i / (n + 1) if a pick joins S, else p_i / n;  less r_i / (m - 1) if a pick leaves T, else r_i / m. Then
    n grows by one and p_j by k(t_j, t_i) if it joins; m falls by one and r_j by k(t_j, t_i) if it leaves. When it
    leaves and only one is left, that one is taken as it is.
    source: S (S, F). others: (O, F), samples of T that are no candidates. sums: (2, N), p and r, in whatever precision
    the features have; those of float64 features are taken as exact. budget: <= N.
    Time: O(B (N + S) F) for each batch of B candidates, most of which are picked in time; memory O(B (N + S)).
    """
    others = target[:0] if others is None else others
    picks = torch.empty(budget, dtype=torch.long, device=target.device)
    if budget == 0:
        return picks
    count = len(target)
    batch = max(1, min(BATCH, NUMBERS // max(count, len(source)), count, max(8, budget)))
    candidates = _Candidates(target, source, others, sums, kernel, batch)
    for t in watched(range(budget), "MMD", budget):
        pick = candidates.lowest(joins=joins, leaves=leaves)
        picks[t] = pick
        if t + 1 < budget:
            candidates.take(pick, joins=joins, leaves=leaves)
    return picks
