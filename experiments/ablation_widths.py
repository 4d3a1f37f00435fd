"""How wide should the kernel of coverage be? Ways to scale DAN's bandwidths to what a label is to speak for.

    gamma_u <- gamma_u c / median(gamma),        c a squared distance: the reach of one label

    reach         median_n |x_n - x_n's K-th nearest|^2, K = ceil(N / (L + b)): L + b labels then tile the pool
    labels_apart  the smallest squared distance between two labelled samples: the rule of uncertainty herding

DAN's own bandwidths are around the median distance between any two samples: under them a sample covers half the pool.

Shapes: N samples, L labelled samples, F features; b is the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from active.strategies.hybrid import hybrid
from active.strategies.uherding import smallest_distance
from active.strategies.validation import how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

margin = hybrid(weight="margin", share=0)


def reach_of(features: Tensor, labels: int) -> float:
    """Median over samples of the squared distance to the ceil(N / labels)-th nearest, itself the first; 0 to 1 label a
    sample. All pairs at once: pools of the arena are small."""
    count = min(len(features), math.ceil(len(features) / max(1, labels)) + 1)
    distances = torch.cdist(features.double(), features.double()).square()
    return float(distances.kthvalue(count, dim=1).values.median())


def of_width(kernel: MultiKernel, squared: float) -> MultiKernel:
    """The kernel with all bandwidths scaled so that their median is this squared distance."""
    if squared <= 0:
        return kernel
    bandwidths = kernel.bandwidths.double()
    return MultiKernel(bandwidths * (squared / bandwidths.median()), kernel.weights)


def kernel_of(query: Query) -> MultiKernel:
    """The query's, or the ladder at the median."""
    features, source = query.need("features", "source_features")
    return query.kernel or MultiKernel.ladder(median_bandwidth(source, features))


def at_reach(
    query: Query, budget: int, factor: float = 1.0, ladder: Callable[[MultiKernel], MultiKernel] = lambda kernel: kernel
) -> Query:
    """The query under its kernel, scaled to the reach of a label, times the factor."""
    (features,) = query.need("features")
    labelled = 0 if query.labelled_ids is None else len(query.labelled_ids)
    squared = reach_of(features, labelled + how_many(budget, len(features)))
    return replace(query, kernel=of_width(ladder(kernel_of(query)), factor * squared))


def unit(query: Query) -> Query:
    """The query with features of length 1, and no kernel of its own."""
    names = ("features", "source_features", "labelled_features")
    rows = {name: getattr(query, name) for name in names}
    scaled: dict[str, Any] = {
        name: None if x is None else torch.nn.functional.normalize(x, dim=1) for name, x in rows.items()
    }
    return replace(query, **scaled, kernel=None)


def reaching(
    factor: float = 1.0,
    ask: Strategy = margin,
    seen: Callable[[Query], Query] = lambda query: query,
    ladder: Callable[[MultiKernel], MultiKernel] = lambda kernel: kernel,
) -> Strategy:
    """Coverage with kernels scaled to the factor of the reach, of the query as `seen` shows it."""

    def asked(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        return ask(at_reach(seen(query), budget, factor, ladder), budget, generator=generator)

    return asked


def labels_apart(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Bandwidths scaled to the smallest squared distance of two labelled samples; DAN's own before there are two."""
    known = query.labelled_features
    width = None if known is None or not len(known) else smallest_distance(known)
    if width is not None:
        query = replace(query, kernel=of_width(kernel_of(query), width**2))
    return margin(query, budget, generator=generator)


reach = reaching()
reach_half = reaching(0.5)
reach_double = reaching(2.0)
reach_power2 = reaching(ask=hybrid(weight="margin", power=2, share=0))
reach_unit = reaching(seen=unit)
reach_one_kernel = reaching(ladder=lambda kernel: MultiKernel.of(kernel.bandwidths.double().median()[None]))
