"""Ask for samples whose mean embedding is that of the whole target: kernel herding.

    u_{n+1} = argmax_i  1/M sum_{t in T} k(x_i, t)  -  1/(n + 1) sum_{s in L u {picked so far}} k(x_i, s)

T is all of the target, labelled or not, M samples; n counts what is labelled and picked. As k(x, x) is the same for
all x, each pick makes MMD^2(T, L u B), the biased estimate, as small as one pick can. Source: Welling, Herding
dynamical weights to learn, ICML 2009; Chen, Welling & Smola, Super-samples from kernel herding, UAI 2010, equation 8.

One pass over all pairs, streamed, then O(N F) a pick: see active/strategies/mmd_witness.py.

Shapes: N candidates, L labelled samples, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.mmd_witness import kernel_sums, lowest_witness
from active.strategies.validation import how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query


@torch.no_grad()
def kernel_herding(pool: Tensor, labelled: Tensor | None, budget: int, kernel: MultiKernel) -> Tensor:
    """Rows of `pool` that, with what is labelled, best stand for pool and labelled together, greedily.

    pool: (N, F). labelled: (L, F), or None. kernel: best the one that the network was trained with.
    Returns a LongTensor (min(budget, N),), in pick order, distinct; ties (scores within 1e-12) to the lowest row. The
    sums over all pairs are in the precision of the features, the picks those of sums in float64.
    Time O(N F (N / 2 + L + b)), memory O(N) beside the features, for a number of rows of the kernel that is bounded.
    Raises ValueError on a negative budget, shapes that do not fit, and NaN or infinity.
    Source: Chen, Welling & Smola, UAI 2010, equation 8.
    """
    labelled = pool[:0] if labelled is None else labelled
    if pool.ndim != 2 or labelled.ndim != 2 or (len(labelled) and labelled.shape[1] != pool.shape[1]):
        raise ValueError(
            f"pool {tuple(pool.shape)} and labelled {tuple(labelled.shape)} must be (samples, features) with the same "
            "features"
        )
    for name, values in (("pool", pool), ("labelled", labelled)):
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0, 0])
            raise ValueError(f"row {row} of {name} has a NaN or an infinite feature")
    budget = how_many(budget, len(pool))
    if budget == 0:
        return torch.empty(0, dtype=torch.long, device=pool.device)
    labelled = labelled.to(pool.device).reshape(len(labelled), pool.shape[1])
    of_labelled, of_pool = kernel_sums(pool, labelled, kernel)
    sums = torch.stack((of_labelled, of_pool + of_labelled))
    return lowest_witness(pool, labelled, sums, budget, kernel, joins=True, leaves=False, others=labelled)


def ask_kernel_herding(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Kernel herding on the features, on from the labelled ones where there are some; draws nothing at random.

    The kernel is the query's, or the ladder at the median bandwidth of all target features. What is asked for counts
    as the labelled do, so asking twice for b or once for 2 b is the same while the features and the kernel stand.
    """
    query = query.by_id()
    (features,) = query.need("features")
    labelled = None
    if query.labelled_features is not None and len(query.labelled_features):
        (labelled,) = query.need("labelled_features")
    kernel = query.kernel
    if kernel is None:
        if len(features) + (0 if labelled is None else len(labelled)) < 2:
            return query.ids[: how_many(budget, len(features))]  # no pair to measure, and no choice to make
        kernel = MultiKernel.ladder(median_bandwidth(features, features[:0] if labelled is None else labelled))
    return query.ids[kernel_herding(features, labelled, budget, kernel)]
