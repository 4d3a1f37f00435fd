"""Ask for the samples whose removal brings the rest of the target closest to the source, in squared MMD.

    B = argmin_B MMD^2(S, T \\ B)          or, when what is asked for joins the source,
    B = argmin_B MMD^2(S u B, T \\ B)      both greedily, with the biased estimate

Of S and T as they are at the moment: n = |S|, m = |T|, p_i = sum_{s in S} k(t_i, s), r_i = sum_{j in T} k(t_i, t_j),
P = sum_i p_i, R = sum_i r_i, Q = sum_{s, s' in S} k(s, s'), and k_0 = k(t, t), one number for a Gaussian kernel.

Taking t_i out of T leaves
    Q / n^2 + (R - 2 r_i + k_0) / (m - 1)^2 - 2 (P - p_i) / (n (m - 1)),
whose part that depends on i is 2 / (m - 1) times
    w_i = p_i / n - r_i / (m - 1).
Moving t_i from T to S leaves
    (Q + 2 p_i + k_0) / (n + 1)^2 + (R - 2 r_i + k_0) / (m - 1)^2 - 2 (P - p_i + r_i - k_0) / ((n + 1) (m - 1)),
whose part that depends on i is 2 (1 / (n + 1) + 1 / (m - 1)) times
    w_i = p_i / (n + 1) - r_i / (m - 1).
So both ask for the lowest w_i: where the target's mass most exceeds the source's (the witness function of MMD).
Then m falls by one and r_j by k(t_j, t_i); if t_i joins the source, n grows by one and p_j by k(t_j, t_i).

One pass over all pairs, streamed, then O(N F) a pick: see active/strategies/mmd_witness.py, which is exact whatever the
precision of the features. Source: this project's own; the witness function is in Gretton et al., A Kernel Two-Sample
Test, JMLR 2012, section 2.3. Relatives: kernel herding, MMD-critic, BMDR.

Shapes: N target samples, S source samples, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.mmd_witness import TIE, kernel_sums, lowest_witness
from active.strategies.validation import how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query

__all__ = ["TIE", "ask_mmd_reduction", "greedy_mmd_reduction", "kernel_sums"]


@torch.no_grad()
def greedy_mmd_reduction(
    target: Tensor,
    source: Tensor,
    budget: int,
    kernel: MultiKernel,
    *,
    joins_source: bool = False,
    sums: Tensor | None = None,
) -> Tensor:
    """Rows of `target` picked greedily so that the biased MMD^2 between source and the rest of target is least.

    target: (N, F). source: (S, F), S >= 1. kernel: best the one that the network was trained with.
    joins_source: what is picked counts as source from then on, MMD^2(S u B, T \\ B); otherwise MMD^2(S, T \\ B).
    sums: (2, N), what `kernel_sums(target, source, kernel)` gives, where it was computed already or in shards.
    Returns a LongTensor (min(budget, N),), in pick order, distinct; ties (values of w within 1e-12) to the lowest row.
    When one row is left and asked for it is taken as it is: MMD to nothing is not defined. The sums over all pairs are
    in the precision of the features, the picks those of sums in float64.
    Time: the pass over all pairs, O(N (N / 2 + S) F), and O(N F) a pick; memory beside the features O(N + S), for a
    number of rows of the kernel that is bounded.
    Raises ValueError on a negative budget, an empty source, shapes that do not fit, and NaN or infinity.
    Source: this project's own; the witness function: Gretton et al., JMLR 2012, section 2.3.
    """
    if target.ndim != 2 or source.ndim != 2 or target.shape[1] != source.shape[1]:
        raise ValueError(
            f"target {tuple(target.shape)} and source {tuple(source.shape)} must be (samples, features) with the same "
            "features"
        )
    if len(source) == 0:
        raise ValueError("source has no samples: there is nothing to bring the target closer to")
    for name, values in (("target", target), ("source", source)):
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0, 0])
            raise ValueError(f"row {row} of {name} has a NaN or an infinite feature")
    budget = how_many(budget, len(target))
    if sums is None:
        sums = kernel_sums(target, source, kernel) if budget else target.new_zeros(2, len(target))
    elif sums.shape != (2, len(target)):
        raise ValueError(f"sums must be (2, {len(target)}), as kernel_sums gives them, not {tuple(sums.shape)}")
    source = source.to(target.device)
    return lowest_witness(target, source, sums, budget, kernel, joins=joins_source, leaves=True)


def ask_mmd_reduction(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """argmin_B MMD^2(S u L u B, T \\ B) on features: labelled samples, and what is asked for, count as source.

    Because the picks join as the labelled do, asking twice for b or once for 2 b is the same while the features stand.
    The kernel is the query's, or the ladder at the median bandwidth of source and target. Draws nothing at random.
    """
    query = query.by_id()
    features, source = query.need("features", "source_features")
    kernel = query.kernel
    if kernel is None:
        if len(features) + len(source) < 2:
            return query.ids[: how_many(budget, len(features))]  # no pair to measure, and no choice to make
        kernel = MultiKernel.ladder(median_bandwidth(source, features))
    if query.labelled_features is not None and len(query.labelled_features):
        (labelled,) = query.need("labelled_features")
        source = torch.cat((source, labelled.to(source)))
    return query.ids[greedy_mmd_reduction(features, source, budget, kernel, joins_source=True)]
