"""Coverage under DAN's own kernel: ask for samples that, with what is labelled, cover the target where it is uncertain.

    argmax_B  sum_n U_n max( share max_j k(x_n, s_j),  max_{i in L u B} k(x_n, x_i) )        greedily

    k        the multi-kernel that aligned the domains, on the layer it aligned: near under k is near for the network
    U_n      how uncertain the network is of x_n, to a power: where it is sure, nothing needs to be covered
    share    in [0, 1]: how well a source sample covers what is near it; 0: the source says nothing of the target

One kernel for alignment and for asking: coverage is core-set diversity that counts how many samples a label speaks for;
share takes away what the source covers already, the samples that MMD reduction leaves; and U may be AIFT's patch score.
The defaults, entropy and 1/2, are what `python -m experiments run ablations` chose on its development transfers.
With U = 1 - (p1 - p2), share = 0, unit features and one width set by the labels it is uncertainty herding
(coverage.py); with U = 1 and share = 0 it is MaxHerding, and close to kernel herding.
Source: this project's own; the greedy is that of Bae et al., ICLR 2025, lazy and exact (coverage.py).

Shapes: N samples, S source samples, L labelled samples, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from active.strategies.aift import candidate_scores, patch_scores
from active.strategies.uherding import coverage, greedy_coverage
from active.strategies.uncertainty import entropy, least_confidence, margin_of_confidence
from active.strategies.validation import check_probabilities, how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

Weight = Literal["margin", "entropy", "least_confidence", "patches", "ones"]
SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "margin": margin_of_confidence,
    "entropy": entropy,
    "least_confidence": least_confidence,
    "ones": lambda probs: torch.ones(len(probs), dtype=torch.float64, device=probs.device),
}


def hybrid(*, weight: Weight = "entropy", power: float = 1.0, share: float = 0.5) -> Strategy:
    """The strategy of these options.

    weight: which U: "margin" 1 - (p1 - p2), "entropy", "least_confidence", "patches" (AIFT's score of a sample's views,
    scaled to [0, 1]; of a query without views, that of its one prediction, its entropy), or "ones". power: U to this
    power, >= 0. share: in [0, 1]; a query without a source has nothing that covers so.
    The kernel is the query's, or the ladder at the median bandwidth of target and source, if there is one. Where U is
    0 everywhere, all samples weigh alike. Draws nothing at random; ties go to the lowest id.
    Cost: O(N F (N / 2 + S + L)) once, then O(N F) for each gain taken anew; see `coverage.greedy_coverage`.
    Raises ValueError for other options, and what the query's fields refuse.
    """
    if weight not in (*SCORES, "patches"):
        raise ValueError(f"weight must be one of {', '.join((*SCORES, 'patches'))}, not {weight!r}")
    if not 0 <= share <= 1 or not 0 <= power < float("inf"):
        raise ValueError(f"share must be in [0, 1] and power >= 0, not {share} and {power}")

    def ask_hybrid(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query = query.by_id()
        features, probs = query.need("features", "probs")
        check_probabilities(probs, ids=query.ids)
        count = how_many(budget, len(query.ids))
        if not count:
            return query.ids[:0]
        weights = _weights(query, weight).pow(power) if power else torch.ones(len(probs), dtype=torch.float64)
        if not bool((weights > 0).any()):
            weights = torch.ones_like(weights)
        source = features[:0] if query.source_features is None else query.need("source_features")[0]
        kernel = query.kernel
        if kernel is None:
            if len(features) + len(source) < 2:
                return query.ids[:count]  # no pair to measure, and no choice to make
            kernel = MultiKernel.ladder(median_bandwidth(source, features))
        labelled = None
        if query.labelled_features is not None and len(query.labelled_features):
            (labelled,) = query.need("labelled_features")
        covered = coverage(features, labelled, kernel)
        if share and len(source):
            covered = torch.maximum(covered, share * coverage(features, source, kernel))
        return query.ids[greedy_coverage(features, weights, kernel, covered, count)]

    return ask_hybrid


def _weights(query: Query, weight: Weight) -> Tensor:
    """U (N,), >= 0, float64."""
    (probs,) = query.need("probs")
    if weight != "patches":
        return SCORES[weight](probs.double())
    scores = candidate_scores(probs[:, None]) if query.patch_probs is None else patch_scores(query)
    scores = scores.double()
    top = scores.max()
    return scores / top if bool(top > 0) else torch.zeros_like(scores)


ask_hybrid = hybrid()
