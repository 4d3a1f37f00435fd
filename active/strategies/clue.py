"""CLUE: as many clusters of the features as there are labels to buy, weighted by uncertainty; ask at each centre.

    minimise  sum_i H_i(T) min_k |x_i - c_k|^2,      H_i(T) = -sum_c p_ic log p_ic,   p_i = softmax(logits_i / T)

The weights pull the centres to where the network is unsure, the clustering keeps them apart; the temperature T trades
the two: a high T makes all entropies alike (diversity), a low T leaves only the unsurest (uncertainty).
Source: Prabhu, Chandrasekaran, Saenko & Hoffman, Active Domain Adaptation via Clustering Uncertainty-weighted
Embeddings, ICCV 2021, equation 4.

Shapes: N samples, C classes, F features, K centres.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.kmeans import kmeans
from active.strategies.validation import check_probabilities, how_many

if TYPE_CHECKING:
    from active.pool import Query

BLOCK = 2**20  # entries of the largest tensor that a block of rows makes


def tempered_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-sum_c p_c log p_c with p = softmax(logits / temperature), in nats: (N,) float64 in [0, log C].

    logits: (N, C); log-probabilities do as well, -inf where a class has none. Raises ValueError unless temperature > 0.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, not {temperature}")
    return torch.special.entr((logits.double() / temperature).softmax(dim=1)).sum(dim=1)


def clue(features: Tensor, weights: Tensor, budget: int, *, generator: torch.Generator) -> Tensor:
    """Rows of features nearest to the centres of weighted k-means: (min(budget, N),) in pick order, distinct.

    features: (N, F). weights: (N,), >= 0, such as entropies; all 0 count as equal. The centre of the heaviest cluster
    picks first, and each takes its nearest row that is still free, the lowest on ties. With a budget of N or more:
    all rows by weight. Time O(N K F) a step of k-means, K the budget; memory beside the features O(N log K + K F).
    Raises ValueError on a negative budget, and on what `kmeans` refuses.
    Source: Prabhu et al., ICCV 2021, equation 4.
    """
    budget = how_many(budget, len(features))
    if budget == 0:
        return torch.empty(0, dtype=torch.long, device=features.device)
    weights = weights if bool(weights.any()) else torch.ones_like(weights)
    clusters = kmeans(features, budget, generator=generator, weights=weights)
    mass = torch.bincount(clusters.labels, weights=weights.double(), minlength=budget)
    return nearest_free(features, clusters.centres[torch.sort(mass, descending=True, stable=True).indices])


@torch.no_grad()
def nearest_free(x: Tensor, centres: Tensor) -> Tensor:
    """Each centre's nearest row of x (N, F) that no centre before it took: (K,), distinct; K <= N. In float64.

    One pass finds the nearest row of every centre; one more pass for each centre that comes too late for its own.
    Raises ValueError for more centres than rows.
    """
    if len(centres) > len(x):
        raise ValueError(f"{len(centres)} centres cannot have a row each of {len(x)}")
    centres = centres.double()
    nearest = torch.zeros(len(centres), dtype=torch.long, device=x.device)
    least = torch.full((len(centres),), torch.inf, dtype=torch.float64, device=x.device)
    origin = centres.mean(dim=0)  # products lose digits far from the origin
    c = centres - origin
    size = max(BLOCK // max(len(c), x.shape[1], 1), 1)
    for first in range(0, len(x), size):
        rows = x[first : first + size].double() - origin  # (B, F)
        d2 = torch.addmm(rows.square().sum(dim=1), c, rows.T, alpha=-2)  # (K, B), but for |c|^2
        value, row = d2.min(dim=1)
        closer = value < least
        nearest[closer], least[closer] = row[closer] + first, value[closer]
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    picks = nearest.clone()
    for k, pick in enumerate(nearest.tolist()):
        if bool(taken[pick]):
            d2 = torch.cat([(rows.double() - centres[k]).square().sum(dim=1) for rows in x.split(size)])
            pick = int(d2.masked_fill(taken, torch.inf).argmin())
            picks[k] = pick
        taken[pick] = True
    return picks


def ask_clue(query: Query, budget: int, *, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """`clue` on the features, weighted by the entropy at this temperature, of the logits where there are some.

    The paper takes 1.0 for digits and 0.1 for DomainNet. Without logits, log probs are tempered: the same, but for what
    probabilities near 0 and 1 have lost to rounding.
    """
    query = query.by_id()
    probs, features = query.need("probs", "features")
    check_probabilities(probs, ids=query.ids)
    logits = query.need("logits")[0] if query.logits is not None else probs.double().log()
    return query.ids[clue(features, tempered_entropy(logits, temperature), budget, generator=generator)]
