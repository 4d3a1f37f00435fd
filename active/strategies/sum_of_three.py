"""Diversity, transfer and patches in one greedy pass: a weighted sum of three parts, scaled to [0, 1] at each pick.

    u = argmax_i  diversity [d_i] + transfer [-w_i] + patches [a_i],        [v_i] = (v_i - min v) / (max v - min v)

    d_i  distance to the nearest labelled or picked sample on the last layer: greedy k-center (coreset.py)
    w_i  the witness of MMD, how far the source's mass exceeds the target's at x_i: MMD reduction (mmd_reduction.py)
    a_i  a score of the sample by itself: that of its patches (patches.py)

Minimum and maximum are over the samples that are left, anew at each pick: the parts have different units, and d and w
shrink as picks are made. A part that has no spread says nothing. With one part only it is that part's own strategy.
Source: this project's own.

Shapes: N samples, S source samples, L labelled samples, F features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.aift import candidate_scores, patch_scores
from active.strategies.coreset import k_center_greedy
from active.strategies.mmd_reduction import greedy_mmd_reduction
from active.strategies.mmd_witness import TIE, kernel_sums, mean_row, unit_sum
from active.strategies.uncertainty import highest_first
from active.strategies.validation import check_probabilities, how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

ROWS = 4096  # samples that are converted to float64 at a time
FLAT = {torch.float32: 1e-6, torch.float64: TIE}  # a spread of w up to this is that of rounding in the sums over pairs


@torch.no_grad()
def sum_of_three_picks(
    features: Tensor,
    source: Tensor,
    scores: Tensor,
    budget: int,
    kernel: MultiKernel,
    *,
    labelled: Tensor | None = None,
    diversity: float = 1.0,
    transfer: float = 1.0,
    patches: float = 1.0,
) -> Tensor:
    """Rows of `features` of the highest weighted sum of the three parts, one after the other.

    features: (N, F). source: (S, F), S >= 1. scores: (N,), a_i. labelled: (L, F) or None; it counts as centre and as
    source, and so does each pick. diversity, transfer, patches: the parts' weights, >= 0, not all 0.
    Returns a LongTensor (min(budget, N),), in pick order, distinct; sums within 1e-12 tie: then it is the lowest row.
    With one weight above 0, exactly what k_center_greedy(features, labelled, ...), greedy_mmd_reduction(features,
    source and labelled, ..., joins_source=True) or highest_first(scores, ...) return. With more, w comes from sums over
    pairs in the precision of the features. Without labelled samples the first d_i is minus the distance to the pool's
    mean, as in k-center.
    Time O(N F (N / 2 + S + L + b)), memory O(N) beside the features.
    Raises ValueError for weights that cannot be, and all that the three functions refuse.
    """
    weights = {"diversity": diversity, "transfer": transfer, "patches": patches}
    for name, weight in weights.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {name} must be >= 0 and finite, not {weight}")
    used = [name for name, weight in weights.items() if weight]
    if not used:
        raise ValueError("at least one of diversity, transfer and patches must have a weight above 0")
    if scores.shape != (len(features),) or not bool(scores.isfinite().all()):
        raise ValueError(f"scores must be ({len(features)},), finite, one a sample, not {tuple(scores.shape)}")
    budget = how_many(budget, len(features))
    labelled = features[:0] if labelled is None or not len(labelled) else labelled.to(features)
    k_center_greedy(features, labelled, 0)  # both refuse what they cannot work with
    greedy_mmd_reduction(features, source, 0, kernel)
    known = torch.cat((source.to(features), labelled))
    if used == ["patches"]:
        return highest_first(scores, budget)
    if used == ["diversity"]:
        return k_center_greedy(features, labelled, budget)
    if used == ["transfer"]:
        return greedy_mmd_reduction(features, known, budget, kernel, joins_source=True)

    picks = torch.empty(budget, dtype=torch.long, device=features.device)
    if budget == 0:
        return picks
    kernel = unit_sum(kernel)
    centres = labelled if len(labelled) else mean_row(features)[None]
    nearest = torch.cat([_distances(rows, centres).amin(dim=1) for rows in features.split(ROWS)])  # (N,)
    cold = not len(labelled)
    p, r = kernel_sums(features, known, kernel) if transfer else torch.zeros(2, len(features)).to(nearest)
    n, m = len(known), len(features)
    noise = TIE * float(features.abs().max())  # of distances
    flat = FLAT.get(features.dtype, FLAT[torch.float32])
    a = scores.double()
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)

    for t in watched(range(budget), "sum of three", budget):
        total = torch.zeros_like(nearest)
        if diversity:
            total += diversity * _scaled(-nearest if cold and t == 0 else nearest, left, noise)
        if transfer and m > 1:
            total += transfer * _scaled(r / (m - 1) - p / (n + 1), left, flat)
        if patches:
            total += patches * _scaled(a, left, 0.0)
        total = total.masked_fill_(~left, -torch.inf)
        pick = (total >= total.max() - TIE).nonzero()[0, 0]  # the lowest row of those that tie
        picks[t] = pick
        left[pick] = False
        far = torch.cat([_distances(rows, features[pick][None])[:, 0] for rows in features.split(ROWS)])  # (N,)
        nearest = far if cold and t == 0 else torch.minimum(nearest, far)
        k = kernel.of_squared_distances(far.square())
        p, r = p + k, r - k
        n, m = n + 1, m - 1
    return picks


def sum_of_three(*, diversity: float = 1.0, transfer: float = 1.0, patches: float = 1.0) -> Strategy:
    """The strategy of these weights.

    A sample is scored by its patch_probs, `candidate_scores` with its defaults. Where the query has none, a sample is a
    candidate of one patch, its probs: the score is then the entropy of the prediction. The kernel is the query's, or
    the ladder at the median bandwidth of source and target. Draws nothing at random.
    """

    def ask_sum_of_three(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query = query.by_id()
        features, source, probs = query.need("features", "source_features", "probs")
        check_probabilities(probs, ids=query.ids)
        scores = candidate_scores(probs[:, None]) if query.patch_probs is None else patch_scores(query)
        labelled = None
        if query.labelled_features is not None and len(query.labelled_features):
            (labelled,) = query.need("labelled_features")
        kernel = query.kernel
        if kernel is None:
            if len(features) + len(source) < 2:
                return query.ids[: how_many(budget, len(features))]  # no pair to measure, and no choice to make
            kernel = MultiKernel.ladder(median_bandwidth(source, features))
        picks = sum_of_three_picks(
            features,
            source,
            scores,
            budget,
            kernel,
            labelled=labelled,
            diversity=diversity,
            transfer=transfer,
            patches=patches,
        )
        return query.ids[picks]

    return ask_sum_of_three


ask_sum_of_three = sum_of_three()


def _scaled(values: Tensor, left: Tensor, noise: float) -> Tensor:
    """Values (N,) scaled to [0, 1] over those that are left; 0 where they do not differ by more than the noise."""
    rest = values[left]
    low, high = rest.min(), rest.max()
    if not bool(high - low > noise):
        return torch.zeros_like(values)
    return (values - low) / (high - low)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| for x (n, F), y (M, F) -> (n, M) float64; from differences, so that equal rows tie."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
