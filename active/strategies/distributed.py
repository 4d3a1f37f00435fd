"""Selection over processes: the same picks as one process makes.

Greedy k-center, where each process holds a share of the rows: each names the farthest of its own rows with its
exact distance; the farthest of all of them, the lowest row on ties, is the pick, and its features go to all. So a pick
costs one message of F + 2 numbers a process, and a row is met by centres as lazily as in `k_center_greedy`, whose
source this has.

MMD reduction, where each process adds up its share of all pairs; the sums are one message, and the picks that follow
are made alike in all.

Shapes: N samples (of a share), L given centres, S source samples, F features, W processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from active.strategies.coreset import Farthest, checked, nearest_to, total_of
from active.strategies.mmd_reduction import greedy_mmd_reduction, kernel_sums
from active.strategies.validation import how_many
from dan.mmd.kernels import MultiKernel


@torch.no_grad()
def sharded_k_center(
    share: Tensor, centres: Tensor | None, budget: int, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Rows of the whole pool picked farthest-first, the same LongTensor (min(budget, N of all),) in every process.

    share: (N, F), this process's rows; the pool is the shares one after the other by rank, and a row's number counts
    from the first row of the first. A share may be empty, (0, F). centres: (L, F), the same in every process, or None.
    group: a torch.distributed process group (default: all); every process of it must make this call.

    The picks are those of `k_center_greedy` on the whole pool: distances are exact in float64 wherever they are taken.
    Only the cold start's mean depends on the shares, in its last digit: a first pick that two rows are equally entitled
    to could fall to the other one. Time and memory: those of `k_center_greedy` on the share, and O(W F) a pick.
    Raises ValueError in every process when one of them has bad input.
    """
    problem, total = None, torch.empty(0)
    try:
        share, centres = checked(share, centres)
        total_of(centres, "centres")
        total = total_of(share, "this process's share")  # (F,)
        how_many(budget, 0)
    except ValueError as error:
        problem = error
    facts = (-1,) * 4 if problem or centres is None else (budget, share.shape[1], len(centres), share.element_size())
    everyones = _gather(torch.tensor(facts, dtype=torch.float64, device=share.device), group)  # (W, 4)
    if problem is not None:
        raise problem
    if bool((everyones < 0).any()):
        raise ValueError("another process of the group has bad input: its own error says what")
    if bool((everyones != everyones[0]).any()):
        raise ValueError("the processes differ in the budget, the features, the centres or the precision")
    assert centres is not None

    counts = _gather(total.new_tensor([len(share)]), group)[:, 0].long()  # (W,)
    first, everything = int(counts[: dist.get_rank(group)].sum()), int(counts.sum())
    mean = _gather(total, group).sum(dim=0) / max(1, everything)  # (F,)
    picks = torch.empty(how_many(budget, everything), dtype=torch.long, device=share.device)
    farthest = None
    for t in range(len(picks)):
        proposal = torch.full((2 + share.shape[1],), -torch.inf, dtype=torch.float64, device=share.device)
        if len(share):
            if len(centres) == 0:
                row, distance = nearest_to(mean, share)
                distance = -distance  # the nearest is proposed, not the farthest
            else:
                farthest = farthest or Farthest(share, centres, mean, room=len(picks))
                row, distance = farthest.top()
            proposal[0], proposal[1], proposal[2:] = distance, first + row, share[row]
        proposals = _gather(proposal, group)  # (W, 2 + F)
        # Ranks are in the order of their rows: the first of those that tie is the lowest row.
        best = proposals[proposals[:, 0].argmax()]
        picks[t] = best[1].long()
        centre = best[2:].to(share.dtype)
        if len(centres) == 0:
            centres = centre[None]
            if len(share):
                farthest = Farthest(share, centres, mean, room=len(picks))
        elif farthest is not None:
            farthest.add(centre)
        if farthest is not None and 0 <= picks[t] - first < len(share):
            farthest.take(picks[t] - first)
    return picks


@torch.no_grad()
def sharded_mmd_reduction(
    target: Tensor,
    source: Tensor,
    budget: int,
    kernel: MultiKernel,
    *,
    joins_source: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """`greedy_mmd_reduction`, whose sums over all pairs the processes share: the same picks in every one of them.

    All arguments are to be the same in every process of the group, and all of them must make this call; all that it
    says of them holds here, its errors too. Time: the pass over all pairs, O(N (N + S) F), falls by the number of
    processes; what a pick costs does not.
    """
    sums = kernel_sums(target, source, kernel, shard=dist.get_rank(group), shards=dist.get_world_size(group))
    dist.all_reduce(sums, group=group)
    return greedy_mmd_reduction(target, source, budget, kernel, joins_source=joins_source, sums=sums)


def _gather(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The values (...) of every process: (W, ...)."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group)
    return torch.stack(parts)
