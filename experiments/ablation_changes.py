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
from typing import TYPE_CHECKING

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


def with_kernel(of: Callable[[MultiKernel], MultiKernel]) -> Change:
    """Another kernel, a function of the query's."""
    return lambda query, budget: replace(query, kernel=of(kernel_of(query)))


def narrowed(divisor: float) -> Change:
    """All bandwidths divided."""
    return with_kernel(lambda kernel: MultiKernel(kernel.bandwidths / divisor, kernel.weights))


EQUAL_WEIGHTS = with_kernel(lambda kernel: MultiKernel.of(kernel.bandwidths))
ONE_KERNEL = with_kernel(lambda kernel: MultiKernel.of(kernel.bandwidths.double().median()[None]))


def narrowed_by_labels(query: Query, budget: int) -> Query:
    """Bandwidths divided by 1 + labels a class."""
    return narrowed(1 + num_labelled(query) / query.need("probs")[0].shape[1])(query, budget)


def of_width(query: Query, squared: float | None) -> Query:
    """All bandwidths scaled so that their median is this squared distance; as they are where it is 0 or None."""
    kernel = kernel_of(query)
    bandwidths = kernel.bandwidths.double()
    factor = squared / bandwidths.median() if squared else 1.0
    return replace(query, kernel=MultiKernel(bandwidths * factor, kernel.weights))


def at_reach(factor: float = 1.0) -> Change:
    """The kernel as wide as a label's reach, times the factor. All pairs at once: the pools are small."""

    def change(query: Query, budget: int) -> Query:
        (features,) = query.need("features")
        labels = num_labelled(query) + how_many(budget, len(features))
        count = min(len(features), math.ceil(len(features) / max(1, labels)) + 1)  # a sample is its own nearest
        distances = torch.cdist(features.double(), features.double()).square()
        return of_width(query, factor * float(distances.kthvalue(count, dim=1).values.median()))

    return change


def at_labels_distance(query: Query, budget: int) -> Query:
    """The kernel as wide as the smallest distance of two labelled samples; DAN's own before there are two."""
    known = query.labelled_features
    distance = None if known is None else smallest_distance(known)
    return of_width(query, distance and distance**2)


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
    return embedded(query, lambda hidden, layers: normalize(hidden, dim=1))


def on_all_layers(query: Query, budget: int) -> Query:
    """All task-specific layers of a sample in one vector."""
    return embedded(query, lambda hidden, layers: layers)


def on_joint(query: Query, budget: int) -> Query:
    """The last hidden layer and the class probabilities, both scaled to a median distance of 1, as in a joint MMD."""
    features, source, layers, source_layers, probs = query.need(
        "features", "source_features", "layers", "source_layers", "probs"
    )

    def outputs(layers: Tensor) -> Tensor:
        return layers[:, -probs.shape[1] :].softmax(1)

    hidden_width = median_bandwidth(source, features).sqrt()
    output_width = median_bandwidth(outputs(source_layers), outputs(layers)).sqrt()
    return embedded(query, lambda h, every: torch.cat((h / hidden_width, outputs(every) / output_width), dim=1))


def on_gradients(query: Query, budget: int) -> Query:
    """Gradient embeddings (p - e_y) x h, y the predicted class: what the network is sure of lies at 0."""
    classes = query.need("probs")[0].shape[1]

    def embedding(hidden: Tensor, layers: Tensor) -> Tensor:
        p = layers[:, -classes:].softmax(1)
        error = p - one_hot(p.argmax(1), classes).to(p)
        return (error[:, :, None] * hidden[:, None, :]).flatten(1)

    return embedded(query, embedding)


# --- other weights ----------------------------------------------------------------------------------------------------


def first_views(count: int) -> Change:
    """So many views of each sample."""
    return lambda query, budget: replace(query, patch_probs=query.need("patch_probs")[0][:, :count])


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
