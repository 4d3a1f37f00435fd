"""Changes of a query, from which the ablations' variants are made: its kernel, its features, its weights.

The kernel can be as wide as the reach of one label:

    gamma_u <- gamma_u c / median(gamma),    c = median_n |x_n - x_n's K-th nearest|^2,    K = ceil(N / (L + b))

L + b labels of this reach tile the pool; DAN's own bandwidths, at the median distance, cover half of it.

Shapes: N samples, S source samples, L labelled samples, F features, H units of all layers; b is the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from active.strategies.hybrid import hybrid
from active.strategies.mmd_witness import kernel_rows, mean_row, unit_sum
from active.strategies.uherding import smallest_distance
from active.strategies.validation import how_many
from dan.mmd import kernels
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

MARGIN = hybrid(weight="margin", share=0)

Change = Callable[["Query", int], "Query"]  # of a query, given the budget


def changed(*changes: Change, ask: Strategy = MARGIN, needs: tuple[str, ...] = ()) -> Strategy:
    """`ask` on a query that went through the changes, in this order."""

    def strategy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        for change in changes:
            query = change(query, budget)
        return ask(query, budget, generator=generator)

    strategy.needs = needs  # type: ignore[attr-defined]
    return strategy


# --- other kernels ----------------------------------------------------------------------------------------------------


def kernel_of(query: Query) -> MultiKernel:
    """The query's, or the ladder at the median."""
    features, source = query.need("features", "source_features")
    return kernels.kernel_of(source, features, query.kernel)


def num_labelled(query: Query) -> int:
    """L."""
    return 0 if query.labelled_ids is None else len(query.labelled_ids)


def of_width(query: Query, squared: float | None) -> Query:
    """All bandwidths scaled so that their median is this squared distance."""
    kernel = kernel_of(query)
    if not squared:
        return replace(query, kernel=kernel)
    bandwidths = kernel.bandwidths.double()
    return replace(query, kernel=MultiKernel(bandwidths * (squared / bandwidths.median()), kernel.weights))


def reach_of(features: Tensor, labels: int) -> float:
    """c for so many labels, a sample itself the first of its nearest. All pairs at once: the pools are small."""
    count = min(len(features), math.ceil(len(features) / max(1, labels)) + 1)
    distances = torch.cdist(features.double(), features.double()).square()
    return float(distances.kthvalue(count, dim=1).values.median())


def at_reach(query: Query, budget: int, factor: float = 1.0) -> Query:
    """The kernel as wide as a label's reach, times the factor."""
    (features,) = query.need("features")
    return of_width(query, factor * reach_of(features, num_labelled(query) + how_many(budget, len(features))))


def at_labels_distance(query: Query, budget: int) -> Query:
    """The kernel as wide as the smallest distance of two labelled samples; DAN's own before there are two."""
    known = query.labelled_features
    distance = None if known is None or not len(known) else smallest_distance(known)
    return of_width(query, None if distance is None else distance**2)


def narrowed(query: Query, budget: int, divisor: float) -> Query:
    """All bandwidths divided."""
    kernel = kernel_of(query)
    return replace(query, kernel=MultiKernel(kernel.bandwidths / divisor, kernel.weights))


def with_annealed_kernel(query: Query, budget: int) -> Query:
    """Bandwidths divided by 1 + labels a class."""
    (probs,) = query.need("probs")
    return narrowed(query, budget, 1 + num_labelled(query) / probs.shape[1])


def with_equal_weights(query: Query, budget: int) -> Query:
    """The same bandwidths."""
    return replace(query, kernel=MultiKernel.of(kernel_of(query).bandwidths))


def one_kernel(query: Query, budget: int) -> Query:
    """The median bandwidth alone."""
    return replace(query, kernel=MultiKernel.of(kernel_of(query).bandwidths.double().median()[None]))


# --- other features: the kernel is then the ladder at their median ----------------------------------------------------


def embedded(query: Query, embedding: Callable[[Tensor, Tensor], Tensor]) -> Query:
    """The query with embedding(features (., F), layers (., H)) as its features."""
    features, source, layers, source_layers = query.need("features", "source_features", "layers", "source_layers")
    known = None
    if query.labelled_features is not None and len(query.labelled_features):
        known = embedding(*query.need("labelled_features", "labelled_layers"))
    rows = {"features": embedding(features, layers), "source_features": embedding(source, source_layers)}
    return replace(query, **rows, labelled_features=known, kernel=None)


def on_unit_features(query: Query, budget: int) -> Query:
    """Features of length 1."""
    names = ("features", "source_features", "labelled_features")
    rows: dict[str, Any] = {
        name: None if (x := getattr(query, name)) is None else normalize(x, dim=1) for name in names
    }
    return replace(query, **rows, kernel=None)


def on_all_layers(query: Query, budget: int) -> Query:
    """All task-specific layers of a sample in one vector."""
    layers, source = query.need("layers", "source_layers")
    rows: dict[str, Any] = {"features": layers, "source_features": source, "labelled_features": query.labelled_layers}
    return replace(query, **rows, kernel=None)


def on_joint(query: Query, budget: int) -> Query:
    """The last hidden layer and the class probabilities, both scaled to a median distance of 1, as in a joint MMD."""
    features, source, probs, layers, source_layers = query.need(
        "features", "source_features", "probs", "layers", "source_layers"
    )
    classes = probs.shape[1]
    outputs = (source_layers[:, -classes:].softmax(1), layers[:, -classes:].softmax(1))
    widths = (median_bandwidth(source, features).sqrt(), median_bandwidth(*outputs).sqrt())
    return embedded(query, lambda h, all_: torch.cat((h / widths[0], all_[:, -classes:].softmax(1) / widths[1]), dim=1))


def on_gradients(query: Query, budget: int) -> Query:
    """Gradient embeddings (p - e_y) x h, y the predicted class: what the network is sure of lies at 0."""
    classes = query.need("probs")[0].shape[1]

    def embedding(hidden: Tensor, layers: Tensor) -> Tensor:
        p = layers[:, -classes:].softmax(1)
        error = p - one_hot(p.argmax(1), classes).to(p)
        return (error[:, :, None] * hidden[:, None, :]).flatten(1)

    return embedded(query, embedding)


# --- other weights ----------------------------------------------------------------------------------------------------


def first_views(query: Query, budget: int, count: int) -> Query:
    """So many views of each sample."""
    (probs,) = query.need("patch_probs")
    return replace(query, patch_probs=probs[:, :count])


def voted(query: Query, budget: int) -> Query:
    """Probabilities (p + q) / 2, q the vote of source and labelled samples for a class, each by its kernel."""
    query = query.by_id()
    features, known, probs, classes = query.need("features", "source_features", "probs", "source_targets")
    kernel = kernel_of(query)
    if query.labelled_features is not None and len(query.labelled_features):
        mine, labels = query.need("labelled_features", "labelled_targets")
        known, classes = torch.cat((known, mine.to(known))), torch.cat((classes, labels.to(classes)))
    shares = one_hot(classes.long(), probs.shape[1]).double()  # (S + L, C)
    votes = kernel_rows(features, known, unit_sum(kernel), mean_row(features)) @ (shares / shares.sum(0).clamp_min(1))
    q = votes / votes.sum(1, keepdim=True).clamp_min(1e-300)
    return replace(query, probs=(probs.double() + q) / 2)
