"""Ask for what looks like the target and not like what was trained on: the samples that the source speaks for least.

    representative           cos(x, mean of T) - cos(x, mean of S u L)
    representative_adaptive  the same, pick by pick: a pick leaves T and joins S u L, and both means are taken anew
    representative_clusters  max_k cos(x, t_k) - max_k cos(x, s_k), with the centres of cosine k-means on each side

T are the unlabelled target samples, S the source, L the labelled target samples; the highest is asked for.
Source: R. Munro, Human-in-the-Loop Machine Learning, 2021, ch. 4 (representative sampling) and ch. 5 (with clusters).

Shapes: N target samples, M training samples, F features, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.clusters import in_turns
from active.strategies.kmeans import kmeans
from active.strategies.uncertainty import highest_first
from active.strategies.validation import how_many
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query

BLOCK = 4096  # rows that are met in one product
SIDE_CLUSTERS = 20  # on each side, as in the book's code
TIE = 1e-9  # scores that differ by less are equal: they are differences of two cosines, in [-2, 2]


def representativeness(target: Tensor, training: Tensor | Sequence[Tensor]) -> Tensor:
    """cos(x, mean of target) - cos(x, mean of training) of each target sample: (N,) float64 in [-2, 2].

    target: (N, F). training: (M, F), or several such parts; M >= 1 in all. The cosine with a vector of length 0 is 0.
    Raises ValueError on shapes that do not fit, an empty training side, NaN and infinity.
    """
    training = _checked(target, training)
    sums = torch.stack((_sum([target]), _sum(training)))  # (2, F): a cosine is the same with the sum as with the mean
    length = _lengths(target)
    return _cosine_gap(_products(target, sums), length, sums)


def adaptive_representatives(target: Tensor, training: Tensor | Sequence[Tensor], budget: int) -> Tensor:
    """Rows of target of the highest `representativeness`, one at a time, each pick moved from target to training.

    Returns a LongTensor (min(budget, N),), in pick order, distinct; ties (within 1e-9) to the lowest row. Arguments
    and errors as in `representativeness`, and a ValueError on a negative budget. Time O(N F) a pick, memory O(N).
    """
    training = _checked(target, training)
    budget = how_many(budget, len(target))
    picks = torch.empty(budget, dtype=torch.long, device=target.device)
    sums = torch.stack((_sum([target]), _sum(training)))  # (2, F)
    length = _lengths(target)  # (N,)
    products = _products(target, sums)  # (N, 2)
    left = torch.ones(len(target), dtype=torch.bool, device=target.device)
    for t in watched(range(budget), "representatives", budget):
        score = _cosine_gap(products, length, sums).masked_fill(~left, -torch.inf)
        pick = (score >= score.max() - TIE).nonzero()[0, 0]  # the lowest row of those that tie
        picks[t] = pick
        left[pick] = False
        moved = target[pick].double() * sums.new_tensor([[-1.0], [1.0]])  # (2, F)
        sums += moved
        # <x, mean> follows from <x, pick>. Its rounding is that of one row among the sum of all.
        with_pick = target @ target[pick]  # (N,)
        products += with_pick.double()[:, None] * sums.new_tensor([-1.0, 1.0])
    return picks


def cluster_representatives(
    target: Tensor,
    training: Tensor | Sequence[Tensor],
    budget: int,
    *,
    generator: torch.Generator,
    count: int = SIDE_CLUSTERS,
) -> Tensor:
    """Rows of target by max_k cos(x, t_k) - max_k cos(x, s_k), the target's clusters taking turns.

    The best of every target cluster comes first, the cluster with the highest one in front; then the second of each,
    and so on. count: clusters on each side, at most the samples there. Returns a LongTensor (min(budget, N),), in
    pick order, distinct; ties to the lowest row. Other arguments and errors as in `adaptive_representatives`.
    """
    training = _checked(target, training)
    budget = how_many(budget, len(target))
    if budget == 0:
        return torch.empty(0, dtype=torch.long, device=target.device)
    of_training = training[0] if len(training) == 1 else torch.cat([part.to(target) for part in training])
    own = kmeans(target, min(count, len(target)), generator=generator, cosine=True)
    other = kmeans(of_training.to(target), min(count, len(of_training)), generator=generator, cosine=True)
    score = nearest_cosine(target, own.centres) - nearest_cosine(target, other.centres)  # (N,)
    best_first = highest_first(score, len(score))
    labels = own.labels[best_first]
    position = torch.arange(len(labels), device=labels.device)
    first = torch.full((len(own.centres),), len(labels), dtype=torch.long, device=labels.device)
    first.scatter_reduce_(0, labels, position, "amin")  # (K,) where each cluster's best sample stands
    return best_first[in_turns(labels, first.argsort(stable=True).argsort())][:budget]


def nearest_cosine(x: Tensor, centres: Tensor) -> Tensor:
    """Largest cosine of each of x (N, F) with one of centres (K, F): (N,) float64. With length 0 it is 0."""
    directions = torch.nn.functional.normalize(centres.double(), dim=1)
    return torch.cat(
        [(torch.nn.functional.normalize(rows.double(), dim=1) @ directions.T).amax(dim=1) for rows in x.split(BLOCK)]
    )


def ask_representative(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The highest cos(x, mean of the pool) - cos(x, mean of source and labelled); draws nothing at random."""
    query = query.by_id()
    (features,) = query.need("features")
    return query.ids[highest_first(representativeness(features, _training(query)), budget)]


def ask_representative_adaptive(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """As `ask_representative`, with both means taken anew after each pick; draws nothing at random."""
    query = query.by_id()
    (features,) = query.need("features")
    return query.ids[adaptive_representatives(features, _training(query), budget)]


def ask_representative_clusters(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """As `ask_representative`, with the nearest of 20 clusters on each side in place of the mean."""
    query = query.by_id()
    (features,) = query.need("features")
    return query.ids[cluster_representatives(features, _training(query), budget, generator=generator)]


def _training(query: Query) -> list[Tensor]:
    """The features of the source and, where there are some, of the labelled samples."""
    (source,) = query.need("source_features")
    if query.labelled_features is None or len(query.labelled_features) == 0:
        return [source]
    return [source, *query.need("labelled_features")]


def _checked(target: Tensor, training: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The parts of the training side that have samples. ValueError for what `representativeness` refuses."""
    parts = [training] if isinstance(training, Tensor) else list(training)
    if target.ndim != 2 or any(part.ndim != 2 or part.shape[1] != target.shape[1] for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(
            f"target {tuple(target.shape)} and training {shapes} must be (samples, features) with the same features"
        )
    if sum(len(part) for part in parts) == 0:
        raise ValueError("the training side has no samples: there is nothing that the target could be unlike")
    for name, values in (("target", target), *(("training", part) for part in parts)):
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0, 0])
            raise ValueError(f"row {row} of {name} has a NaN or an infinite feature")
    return [part.to(target.device) for part in parts if len(part)]


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum (F,) float64 of all rows."""
    return torch.stack([part.sum(dim=0, dtype=torch.float64) for part in parts]).sum(dim=0)


def _lengths(x: Tensor) -> Tensor:
    """|x| of each row: (N,) float64."""
    return torch.cat([torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for rows in x.split(BLOCK)])


def _products(x: Tensor, sums: Tensor) -> Tensor:
    """<x, sum of each side>: (N, 2) float64."""
    return torch.cat([rows.double() @ sums.T for rows in x.split(BLOCK)])


def _cosine_gap(products: Tensor, length: Tensor, sums: Tensor) -> Tensor:
    """cos with the first sum - cos with the second: (N,)."""
    scale = length[:, None] * torch.linalg.vector_norm(sums, dim=1)  # (N, 2)
    cosine = torch.where(scale > 0, products / scale, 0.0)
    return cosine[:, 0] - cosine[:, 1]
