"""Ask for the typical: for few labels, the dense places of the feature space are worth more than its edges.

    typiclust   of |L| + b clusters, the largest ones without a label each give their sample of the highest typicality
                    1 / mean distance to the 20 nearest neighbours in the cluster
    probcover   balls of one radius delta around what is labelled and asked for are to hold as many samples as possible:
                    u_t = argmax_i |{j not covered yet: |x_i - x_j| < delta}|
                with delta the largest at which 95 % of the balls are pure, judged by the clusters of k-means

Both on features of unit length, in Euclidean distance.
Sources: Hacohen, Dekel & Weinshall, Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets, ICML
2022 (TypiClust); Yehuda, Dekel, Hacohen & Weinshall, Active Learning Through a Covering Lens, NeurIPS 2022
(ProbCover).

Shapes: N samples, L labelled, M samples of a cluster, F features, B rows of a block.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from active.strategies.coreset import k_center_greedy
from active.strategies.kmeans import kmeans
from active.strategies.validation import how_many
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query

NEIGHBOURS = 20
MAX_CLUSTERS = 500
SMALL_CLUSTER = 5  # clusters of this many samples or fewer come last
PURITY = 0.95
PURITY_SAMPLE = 5000  # balls that the purity is judged by; each is held against all samples
BLOCK = 2**22  # distances that are held at once


@torch.no_grad()
def neighbour_distance(x: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Mean distance of each row of x (M, F) to its nearest other rows, `neighbours` of them or all: (M,); 0 if M is 1.

    Typicality is 1 / this. Memory O(M F + block).
    """
    count = min(neighbours, len(x) - 1)
    mean = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    if count == 0:
        return mean
    x = x - x.mean(dim=0)  # products lose digits far from the origin
    for i, d2 in _squared_distances(x, x):
        d2[torch.arange(len(d2), device=x.device), i] = torch.inf  # a sample is no neighbour of its own
        mean[i] = d2.topk(count, dim=1, largest=False).values.sqrt().mean(dim=1)
    return mean


def typiclust(features: Tensor, labelled: Tensor | None, budget: int, *, generator: torch.Generator) -> Tensor:
    """Rows of features by TypiClust: LongTensor (min(budget, N),), in pick order, distinct; ties to the lowest row.

    features: (N, F). labelled: (L, F) or None. They are clustered together into min(L + budget, 500) clusters, l2
    k-means. Each pick is from the cluster of the fewest labelled and picked samples, of those the largest; clusters
    of 5 samples or fewer only when the others are used up. Within it the highest typicality among its free samples is
    taken, over the 20 nearest of them, or half of them if that is fewer.
    Time: that of k-means, and O(M^2 F) a pick in a cluster of M; memory a block of distances.
    Raises ValueError on a negative budget, and on what `kmeans` refuses. Source: Hacohen et al., ICML 2022.
    """
    budget = how_many(budget, len(features))
    picks = torch.empty(budget, dtype=torch.long, device=features.device)
    if budget == 0:
        return picks
    given = 0 if labelled is None else len(labelled)
    rows = features if labelled is None or given == 0 else torch.cat((labelled.to(features), features))
    labels = kmeans(rows, min(given + budget, len(rows), MAX_CLUSTERS), generator=generator).labels
    size = labels.bincount().tolist()
    covered = labels[:given].bincount(minlength=len(size)).tolist()
    by_cluster = torch.sort(labels[given:], stable=True).indices
    # Rows of `features` that each cluster can still give.
    free = list(by_cluster.split(labels[given:].bincount(minlength=len(size)).tolist()))
    queue = [(size[k] <= SMALL_CLUSTER, covered[k], -size[k], k) for k in range(len(size)) if len(free[k])]
    heapq.heapify(queue)
    for t in watched(range(budget), "typical samples", budget):
        small, have, minus_size, k = heapq.heappop(queue)
        members = free[k]
        best = int(neighbour_distance(features[members], max(1, min(NEIGHBOURS, len(members) // 2))).argmin())
        picks[t] = members[best]
        free[k] = torch.cat((members[:best], members[best + 1 :]))
        if len(free[k]):
            heapq.heappush(queue, (small, have + 1, minus_size, k))
    return picks


@torch.no_grad()
def pure_radius(x: Tensor, labels: Tensor, *, purity: float = PURITY, rows: Tensor | None = None) -> float:
    """The largest delta at which `purity` of the balls {y: |x_i - y| < delta} hold one label only; inf if all may be
    any size.

    x: (N, F), N >= 1. labels: (N,). rows: the balls that are judged, each against all of x; default all. Exact, for
    these rows: a ball is pure up to the distance of the nearest sample of another label, so delta is a quantile of
    that distance.
    """
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    nearest = torch.empty(len(rows), dtype=x.dtype, device=x.device)
    x = x - x.mean(dim=0)
    for i, d2 in _squared_distances(x[rows], x):
        nearest[i] = d2.masked_fill_(labels[rows[i], None] == labels, torch.inf).amin(dim=1).sqrt()
    impure = int((1 - purity) * len(rows) + 1e-9)  # how many balls may be impure
    return float(nearest.sort().values[min(impure, len(rows) - 1)])


@torch.no_grad()
def probcover(features: Tensor, labelled: Tensor | None, budget: int, delta: float) -> Tensor:
    """Rows of features that greedily cover most of what is not covered: LongTensor (<= budget,), in pick order,
    distinct.

    features: (N, F). labelled: (L, F) or None, whose balls cover already. delta: radius, > 0; a ball is open, and
    holds its own centre. Ties to the lowest row. Fewer than budget rows come back when these cover everything. Every
    sample is covered once, and then all counts that it was part of fall by one: two passes over all pairs at most,
    O(N^2 F) time, and O(N F + block) memory, as no neighbour list is kept. Raises ValueError on a negative budget.
    Source: Yehuda et al., NeurIPS 2022.
    """
    budget = how_many(budget, len(features))
    origin = features.mean(dim=0)
    x = features - origin
    squares = x.square().sum(dim=1)
    everything = torch.arange(len(x), device=x.device)
    uncovered = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if labelled is not None and len(labelled):
        for i, d2 in _squared_distances(x, labelled.to(x) - origin):
            uncovered[i] = ~(d2 < delta**2).any(dim=1)
    gain = _in_balls(x, squares, everything[uncovered], delta)  # (N,) uncovered samples within delta of each row
    picks: list[int] = []
    while len(picks) < budget:
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        ((_, d2),) = _squared_distances(x[best][None], x, squares)
        ball = d2[0] < delta**2
        ball[best] = True
        new = everything[ball & uncovered]
        if len(new) == 0:  # the same distance, rounded differently in two products, on the edge of the ball
            gain[best] = 0
            continue
        picks.append(best)
        uncovered[new] = False
        gain -= _in_balls(x, squares, new, delta)
    return torch.tensor(picks, dtype=torch.long, device=x.device)


def ask_typiclust(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """`typiclust` on unit features, the labelled samples clustered with them."""
    query = query.by_id()
    features, labelled = _unit_features(query)
    return query.ids[typiclust(features, labelled, budget, generator=generator)]


def ask_probcover(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """`probcover` on unit features, at the radius of 95 % purity; when all is covered, farthest first (k-center).

    The pseudo-labels are as many clusters as there are classes, by the query's probs, logits or targets; where it has
    none, as many as there will be labels, at least 2 and at most 500.
    """
    query = query.by_id()
    features, labelled = _unit_features(query)
    budget = how_many(budget, len(features))
    if budget == 0:
        return query.ids[:0]
    rows = features if labelled is None else torch.cat((features, labelled))
    classes = _classes(query) or min(len(rows) - len(features) + budget, MAX_CLUSTERS)
    labels = kmeans(rows, min(max(classes, 2), len(rows)), generator=generator).labels
    judged = torch.randperm(len(rows), generator=generator, device=generator.device)[:PURITY_SAMPLE]
    delta = pure_radius(rows, labels, rows=judged.to(rows.device))
    picks = probcover(features, labelled, budget, delta)
    if len(picks) < budget:
        rest = torch.ones(len(features), dtype=torch.bool, device=features.device)
        rest[picks] = False
        left = rest.nonzero()[:, 0]
        centres = features[picks] if labelled is None else torch.cat((labelled, features[picks]))
        picks = torch.cat((picks, left[k_center_greedy(features[left], centres, budget - len(picks))]))
    return query.ids[picks]


def _unit_features(query: Query) -> tuple[Tensor, Tensor | None]:
    """Features (N, F) and labelled features (L, F) or None, of unit length; a row of zeros stays."""
    (features,) = query.need("features")
    if query.labelled_features is None or len(query.labelled_features) == 0:
        return normalize(features, dim=1), None
    (labelled,) = query.need("labelled_features")
    return normalize(features, dim=1), normalize(labelled.to(features), dim=1)


def _classes(query: Query) -> int:
    """How many classes there are, 0 if the query does not show."""
    for scores in (query.probs, query.logits):
        if scores is not None:
            return scores.shape[1]
    known = [targets for targets in (query.source_targets, query.labelled_targets) if targets is not None]
    return max((len(targets.unique()) for targets in known), default=0)


def _squared_distances(x: Tensor, y: Tensor, y_squares: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows of x (B,), |x_i - y_j|^2 (B, len(y))) a block at a time, by products: best given about their mean."""
    y_squares = y.square().sum(dim=1) if y_squares is None else y_squares
    for i in torch.arange(len(x), device=x.device).split(max(BLOCK // max(len(y), 1), 1)):
        block = x[i]
        d2 = torch.addmm(y_squares, block, y.T, alpha=-2)
        yield i, d2.add_(block.square().sum(dim=1)[:, None]).clamp_(min=0)


def _in_balls(x: Tensor, squares: Tensor, centres: Tensor, delta: float) -> Tensor:
    """How many of the rows `centres` of x are within delta of each row of x, itself included: (N,) long."""
    count = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for i, d2 in _squared_distances(x[centres], x, squares):
        near = d2 < delta**2
        near[torch.arange(len(i), device=x.device), centres[i]] = True
        count += near.sum(dim=0)
    return count
