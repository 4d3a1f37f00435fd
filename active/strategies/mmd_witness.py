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
    count, kernel = len(target), unit_sum(kernel)
    others = target[:0] if others is None else others
    picks = torch.empty(budget, dtype=torch.long, device=target.device)
    if budget == 0:
        return picks
    p, r = sums.double().clone().unbind(0)
    n, m = len(source), count + len(others)
    sizes = torch.tensor([max(1, n), m], dtype=torch.float64, device=target.device)
    centre = mean_row(target)
    batch = max(1, min(BATCH, NUMBERS // max(count, n), count, max(8, budget)))
    left = torch.ones(count, dtype=torch.bool, device=target.device)
    exact = torch.full_like(left, target.dtype == source.dtype == torch.float64)
    kept = _Kept(batch, p)
    slack = ROUNDING

    def rows_of(at: Tensor) -> Tensor:
        values = kernel_rows(target[at], target, kernel, centre)  # (B, N)
        values[torch.arange(len(at), device=at.device), at] = 1
        return values

    for t in watched(range(budget), "MMD", budget):
        while True:
            if leaves and m == 1:
                pick = int(left.nonzero()[0, 0])
                break
            witness = p / (n + joins) - r / (m - leaves)  # (N,)
            witness = witness.masked_fill_(~left, torch.inf)
            bound = witness.masked_fill(~exact, torch.inf)  # of those that are exact, for now
            least = bound.min() + TIE
            if not bool(exact.all()):
                # p is off by slack n, r by slack m, of the n and m that they were summed over.
                off = slack * (1 + float(sizes[1]) / (m - leaves))
                lowest = (witness - off).masked_fill_(exact | ~left, torch.inf)
                if bool((lowest <= least).any()):
                    at = lowest.topk(min(batch, count), largest=False).indices
                    at = at[lowest[at] < torch.inf]
                    rows = rows_of(at)
                    met = torch.stack(
                        (
                            kernel_rows(target[at], source, kernel, centre).sum(dim=1)
                            + (rows @ (~left).double() if joins else 0),
                            rows @ (left.double() if leaves else torch.ones_like(p))
                            + kernel_rows(target[at], others, kernel, centre).sum(dim=1),
                        )
                    )  # (2, B)
                    seen = (met - torch.stack((p[at], r[at]))).abs() / sizes[:, None]
                    slack = max(slack, CAUTION * float(seen.max()))
                    p[at], r[at] = met
                    exact[at] = True
                    new = ~kept.held[at]
                    kept.add(at[new], rows[new], witness)
                    continue
            pick = int((bound <= least).nonzero()[0, 0])  # the lowest row of those that tie
            break
        picks[t] = pick
        left[pick] = False
        if t + 1 == budget or (leaves and m == 1):
            continue
        if pick not in kept.slot:
            ahead = witness.masked_fill(kept.held, torch.inf)
            ahead[pick] = -torch.inf
            at = ahead.topk(min(batch, count), largest=False).indices
            at = at[ahead[at] < torch.inf]
            kept.add(at, rows_of(at), witness)
        k = kept.buffer[kept.slot[pick]]  # (N,)
        kept.drop(pick)
        if leaves:
            r -= k
            m -= 1
        if joins:
            p += k
            n += 1
    return picks
