"""Variants of the project's own strategy, coverage under DAN's kernel: one part changed, or parts combined otherwise.

    python -m experiments run ablations
    python -m experiments run arena --strategies experiments.arena_ablations:margin_power2 ...

The first is `margin` (`active.strategies.hybrid`); docs/ablations.md says what each is. Kernels can be as wide as the
reach of one label; DAN's own, at the median distance, cover half of the pool:

    gamma_u <- gamma_u c / median(gamma),    c = median_n |x_n - x_n's K-th nearest|^2,    K = ceil(N / (L + b))

Shapes: N samples, S source samples, L labelled samples, F features, H units of all layers; b is the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from active.strategies.coreset import k_center_greedy
from active.strategies.hybrid import hybrid
from active.strategies.mmd_reduction import greedy_mmd_reduction
from active.strategies.mmd_witness import TIE, kernel_rows, kernel_sums, mean_row, unit_sum
from active.strategies.sum_of_three import sum_of_three as weighted_sum
from active.strategies.uherding import coverage, greedy_coverage, smallest_distance
from active.strategies.uncertainty import highest_first, margin_of_confidence
from active.strategies.validation import how_many
from dan.mmd import kernels
from dan.mmd.kernels import MultiKernel, median_bandwidth

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

SHORTLIST = 5  # candidates a pick, where a first stage hands some on to a second
VIEWS = ("patch_probs",)
margin = hybrid(weight="margin", share=0)
margin_power2 = hybrid(weight="margin", power=2, share=0)
entropy = hybrid(weight="entropy", share=0)

Change = Callable[["Query", int], "Query"]  # of a query, given the budget


def changed(*changes: Change, ask: Strategy = margin, needs: tuple[str, ...] = ()) -> Strategy:
    """`ask` on a query that went through the changes, in this order."""

    def strategy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        for change in changes:
            query = change(query, budget)
        return ask(query, budget, generator=generator)

    strategy.needs = needs  # type: ignore[attr-defined]
    return strategy


def kernel_of(query: Query) -> MultiKernel:
    """The query's, or the ladder at the median."""
    features, source = query.need("features", "source_features")
    return kernels.kernel_of(source, features, query.kernel)


def num_labelled(query: Query) -> int:
    """L."""
    return 0 if query.labelled_ids is None else len(query.labelled_ids)


def known_of(query: Query) -> Tensor | None:
    """The labelled features; None where there are none."""
    return query.need("labelled_features")[0] if num_labelled(query) else None


# --- the kernel -------------------------------------------------------------------------------------------------------


def with_kernel(of: Callable[[MultiKernel], MultiKernel]) -> Change:
    """Another kernel, a function of the query's."""
    return lambda query, budget: replace(query, kernel=of(kernel_of(query)))


def narrowed(divisor: float) -> Change:
    """All bandwidths divided."""
    return with_kernel(lambda kernel: MultiKernel(kernel.bandwidths / divisor, kernel.weights))


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


equal_weights = changed(with_kernel(lambda kernel: MultiKernel.of(kernel.bandwidths)))
wide_kernel = changed(narrowed(0.25))
narrow_kernel = changed(narrowed(4))
narrower_kernel = changed(narrowed(16))
entropy_narrow = changed(narrowed(4), ask=entropy)
annealed_kernel = changed(narrowed_by_labels)
labels_apart = changed(at_labels_distance)
reach = changed(at_reach())
reach_half = changed(at_reach(0.5))
reach_double = changed(at_reach(2.0))
reach_one_kernel = changed(
    with_kernel(lambda kernel: MultiKernel.of(kernel.bandwidths.double().median()[None])), at_reach()
)
reach_power2 = changed(at_reach(), ask=margin_power2)
entropy_reach = changed(at_reach(), ask=entropy)

# --- the weight, and how well a source sample covers ------------------------------------------------------------------


def first_views(count: int) -> Change:
    """So many views of each sample."""
    return lambda query, budget: replace(query, patch_probs=query.need("patch_probs")[0][:, :count])


def voted(query: Query, budget: int) -> Query:
    """Probabilities (p + q) / 2, q the vote of source and labelled samples for a class, each by its kernel."""
    query = query.by_id()
    features, known, probs, classes = query.need("features", "source_features", "probs", "source_targets")
    kernel = kernel_of(query)
    if num_labelled(query):
        mine, labels = query.need("labelled_features", "labelled_targets")
        known, classes = torch.cat((known, mine.to(known))), torch.cat((classes, labels.to(classes)))
    shares = one_hot(classes.long(), probs.shape[1]).double()  # (S + L, C)
    votes = kernel_rows(features, known, unit_sum(kernel), mean_row(features)) @ (shares / shares.sum(0).clamp_min(1))
    q = votes / votes.sum(1, keepdim=True).clamp_min(1e-300)
    return replace(query, probs=(probs.double() + q) / 2)


def annealed(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The power of the margin is 0 without labels, 1 with 5 % of the pool labelled, and grows on to 2."""
    share = num_labelled(query) / (num_labelled(query) + len(query.ids))
    return hybrid(weight="margin", power=min(2.0, share / 0.05), share=0)(query, budget, generator=generator)


margin_half = hybrid(weight="margin", power=0.5, share=0)
entropy_half = hybrid(weight="entropy", power=0.5, share=0)
least_confidence = hybrid(weight="least_confidence", share=0)
ones = hybrid(weight="ones", share=0)
patches = changed(ask=hybrid(weight="patches", share=0), needs=VIEWS)
patches_4 = changed(first_views(4), ask=patches, needs=VIEWS)
patches_2 = changed(first_views(2), ask=patches, needs=VIEWS)
vote = changed(voted)
reach_vote = changed(at_reach(), voted)
source_quarter = hybrid(weight="margin", share=0.25)
source_half = hybrid(weight="margin", share=0.5)
source_whole = hybrid(weight="margin", share=1)
entropy_source_half = hybrid(weight="entropy", share=0.5)

# --- the features: the kernel is then the ladder at their median ------------------------------------------------------


def embedded(query: Query, embedding: Callable[[Tensor, Tensor], Tensor]) -> Query:
    """The query with embedding(features (., F), layers (., H)) as its features."""
    features, source, layers, source_layers = query.need("features", "source_features", "layers", "source_layers")
    known = embedding(*query.need("labelled_features", "labelled_layers")) if num_labelled(query) else None
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


unit_features = changed(on_unit_features)
reach_unit = changed(on_unit_features, at_reach())
all_layers = changed(on_all_layers)
joint = changed(on_joint)
reach_joint = changed(on_joint, at_reach())
gradients = changed(on_gradients)

# --- sums and stages --------------------------------------------------------------------------------------------------

sum_of_three = weighted_sum()
sum_without_patches = weighted_sum(patches=0)
sum_without_transfer = weighted_sum(transfer=0)
sum_without_diversity = weighted_sum(diversity=0)


class Parts(NamedTuple):
    """query: by id. margins (N,). targetness (N,): how much more target than source there is at each sample."""

    query: Query
    features: Tensor
    margins: Tensor
    targetness: Tensor
    kernel: MultiKernel
    budget: int

    def cover(self, weights: Tensor) -> Tensor:
        """The ids of coverage with these weights (N,)."""
        covered = coverage(self.features, self.query.labelled_features, self.kernel)
        return self.query.ids[greedy_coverage(self.features, weights, self.kernel, covered, self.budget)]


def parts_of(query: Query, budget: int) -> Parts:
    """What the sums are made of."""
    query = query.by_id()
    features, source, probs = query.need("features", "source_features", "probs")
    kernel = kernel_of(query)
    p, r = kernel_sums(features, source, kernel)
    targetness = r / max(1, len(features) - 1) - p / len(source)
    return Parts(
        query, features, margin_of_confidence(probs).double(), targetness, kernel, how_many(budget, len(features))
    )


def own_margin(join: Callable[[Tensor, Tensor], Tensor]) -> Strategy:
    """Coverage whose gains are joined with the picks' own margins: join(gains (N,), margins (N,)) -> (N,)."""

    def strategy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query, features, margins, _, kernel, count = parts_of(query, budget)
        pairs = kernel_rows(features, features, unit_sum(kernel), mean_row(features))  # (N, N)
        covered = coverage(features, query.labelled_features, kernel)
        left, picks = torch.ones(len(features), dtype=torch.bool), []
        for _ in range(count):
            gains = join((pairs - covered).clamp(min=0) @ margins, margins).masked_fill(~left, -1.0)
            picks.append(int((gains >= gains.max() - TIE).nonzero()[0, 0]))  # the lowest row of those that tie
            left[picks[-1]] = False
            covered = torch.maximum(covered, pairs[picks[-1]])
        return query.ids[torch.tensor(picks, dtype=torch.long)]

    return strategy


uncertain_picks = own_margin(lambda gains, margins: gains * margins)
uncertain_plus = own_margin(lambda g, u: g / g.max().clamp_min(TIE) + u / u.max().clamp_min(TIE))
reach_uncertain_picks = changed(at_reach(), ask=uncertain_picks)


def doubt(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """U_n = 1 - t_n (p1 - p2), t_n = max_j k(x_n, s_j) over its maximum: trust where the source covers the sample."""
    parts = parts_of(query, budget)
    (source,) = parts.query.need("source_features")
    trust = coverage(parts.features, source, parts.kernel)
    return parts.cover(1 - trust / trust.max().clamp_min(1e-300) * (1 - parts.margins))


def product(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """U_n is the margin times the targetness, scaled to [0, 1]."""
    parts = parts_of(query, budget)
    low, high = parts.targetness.min(), parts.targetness.max()
    return parts.cover(parts.margins * ((parts.targetness - low) / (high - low).clamp_min(1e-300)))


def mmd_leaving(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """MMD reduction whose picks leave the target and join nothing; labelled samples have left it, too."""
    query = query.by_id()
    features, source = query.need("features", "source_features")
    return query.ids[greedy_mmd_reduction(features, source, how_many(budget, len(features)), kernel_of(query))]


def rank_fusion(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The ranks of the margin, of the distance to the nearest label, and of the witness of MMD, added."""
    query, features, margins, targetness, _, count = parts_of(query, budget)
    centres = features.mean(0, keepdim=True) if (known := known_of(query)) is None else known
    far = torch.cdist(features.double(), centres.double()).amin(1)
    ranks = [values.argsort().argsort().double() for values in (margins, far, targetness)]
    return query.ids[highest_first(torch.stack(ranks).sum(0), count)]


def staged(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Those with the smallest margins, of them the most target-like, of those a core-set."""
    query, features, margins, targetness, _, count = parts_of(query, budget)
    first = highest_first(margins, min(len(features), SHORTLIST * count))
    second = first[highest_first(targetness[first], min(len(first), -(-SHORTLIST * count // 2)))]
    return query.ids[second[k_center_greedy(features[second], known_of(query), count)]]
