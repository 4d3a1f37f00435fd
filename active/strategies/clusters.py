"""Cluster the pool and ask across clusters: of all, of the uncertain samples, or in the most uncertain cluster.

    clusters                 of each cluster: the sample nearest to its centre, the farthest one, and random members
    uncertain_then_diverse   the same, among the samples of the highest margin of confidence
    uncertain_cluster        random members of the cluster of the highest mean margin of confidence, then of the next

Clusters are those of cosine k-means. Source: R. Munro, Human-in-the-Loop Machine Learning, 2021, ch. 4 (cluster-based
sampling) and ch. 5 (uncertainty with clustering; the most uncertain cluster).

Shapes: N samples, F features, K clusters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.kmeans import Clusters, kmeans
from active.strategies.uncertainty import highest_first, margin_of_confidence
from active.strategies.validation import check_probabilities, how_many

if TYPE_CHECKING:
    from active.pool import Query

KINDS = 3  # of samples that a cluster gives: a central one, an outlier, a random one
UNCERTAIN_SHARE = 0.1  # of the pool that counts as uncertain; the book's code takes this tenth
CHOICE = 3  # uncertain samples for each one asked for, at least: with no more than the budget there is no choice
MOST_UNCERTAIN_OF = 20  # clusters among which the most uncertain is sought, as in the book's code


def cluster_sample(features: Tensor, budget: int, *, generator: torch.Generator, count: int | None = None) -> Tensor:
    """Rows of features (N, F) by cluster: LongTensor (min(budget, N),), in pick order, distinct.

    First the sample of the largest cosine to its centre, of every cluster, the largest cluster first; then of every
    cluster the one of the smallest cosine; then a random member of each, again and again. A cluster with nobody left
    is passed over.
    count: clusters, of cosine k-means; default a third of the budget, rounded up, so that each gives one of each kind.
    Equal cosines go to the lowest row. Raises ValueError on a negative budget, and on what `kmeans` refuses.
    """
    budget = how_many(budget, len(features))
    if budget == 0:
        return torch.empty(0, dtype=torch.long, device=features.device)
    count = min(math.ceil(budget / KINDS) if count is None else count, len(features))
    clusters = kmeans(features, count, generator=generator, cosine=True)
    central = _first_of_each(clusters, clusters.distances)
    farthest = _first_of_each(clusters, -clusters.distances)
    order = torch.randperm(len(features), generator=generator, device=generator.device).to(features.device)
    picked = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    picked[central] = True
    farthest = farthest[~picked[farthest]]  # the only member of a cluster is its centre and its outlier
    picked[farthest] = True
    members = order[~picked[order]]
    members = members[in_turns(clusters.labels[members], ranks(clusters.order(), count))]
    return torch.cat((central, farthest, members))[:budget]


def in_turns(groups: Tensor, place: Tensor) -> Tensor:
    """The order (n,) in which groups (n,) take turns: each group's first entry, then each group's second, and so on.

    place: (K,), the order of the groups within one turn, without repeats. A group that has no entry left is passed
    over.
    """
    by_group = torch.sort(groups, stable=True).indices  # (n,)
    size = torch.bincount(groups, minlength=len(place))  # (K,)
    first = size.cumsum(0) - size  # (K,) where each group begins
    turn = torch.empty_like(groups)
    turn[by_group] = torch.arange(len(groups), device=groups.device) - first[groups[by_group]]
    return (turn * len(place) + place[groups]).argsort()


def ranks(order: Tensor, count: int) -> Tensor:
    """Where each of `count` things stands in `order` (n,), distinct; those not in it come last: (count,)."""
    place = torch.full((count,), len(order), dtype=torch.long, device=order.device)
    place[order] = torch.arange(len(order), device=order.device)
    return place


def uncertain_rows(scores: Tensor, budget: int) -> Tensor:
    """Rows that count as uncertain, highest score (N,) first: a tenth of them, or three times the budget if more."""
    count = max(math.ceil(UNCERTAIN_SHARE * len(scores)), CHOICE * how_many(budget, len(scores)))
    return highest_first(scores, count)


def by_uncertain_cluster(scores: Tensor, labels: Tensor, order: Tensor) -> Tensor:
    """All rows, those of the cluster of the highest mean score first, within a cluster as in `order`: (N,).

    scores: (N,). labels: (N,), the cluster of each. order: (N,), a permutation of the rows. Ties to the lowest cluster.
    """
    count = int(labels.max()) + 1 if len(labels) else 0
    size = torch.bincount(labels, minlength=count)
    mean = torch.bincount(labels, weights=scores.double(), minlength=count) / size.clamp(min=1)  # (K,)
    place = ranks(torch.sort(mean, descending=True, stable=True).indices, count)
    return order[torch.sort(place[labels[order]], stable=True).indices]


def ask_clusters(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The centre, the outlier and random members of each of budget / 3 clusters of the features."""
    query = query.by_id()
    (features,) = query.need("features")
    return query.ids[cluster_sample(features, budget, generator=generator)]


def ask_uncertain_then_diverse(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """`cluster_sample` among the tenth (or three times the budget) of the highest margin of confidence."""
    query = query.by_id()
    probs, features = query.need("probs", "features")
    check_probabilities(probs, ids=query.ids)
    rows = uncertain_rows(margin_of_confidence(probs), budget).sort().values
    return query.ids[rows[cluster_sample(features[rows], budget, generator=generator)]]


def ask_uncertain_cluster(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Random members of the cluster of the highest mean margin of confidence; when it is exhausted, of the next."""
    query = query.by_id()
    probs, features = query.need("probs", "features")
    check_probabilities(probs, ids=query.ids)
    count = how_many(budget, len(features))
    if count == 0:
        return query.ids[:0]
    clusters = kmeans(features, min(MOST_UNCERTAIN_OF, len(features)), generator=generator, cosine=True)
    order = torch.randperm(len(features), generator=generator, device=generator.device).to(features.device)
    return query.ids[by_uncertain_cluster(margin_of_confidence(probs), clusters.labels, order)[:count]]


def _first_of_each(clusters: Clusters, score: Tensor) -> Tensor:
    """Of each cluster that has members, the largest first, the row of the lowest score (N,), the lowest row on ties."""
    by_score = torch.sort(score, stable=True).indices
    by_cluster = by_score[torch.sort(clusters.labels[by_score], stable=True).indices]
    size = torch.bincount(clusters.labels, minlength=len(clusters.centres))
    return by_cluster[(size.cumsum(0) - size)[clusters.order()]]
