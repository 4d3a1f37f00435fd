"""Variants of the project's own strategy, coverage under DAN's kernel: one part changed, or parts combined otherwise.

    python -m experiments run ablations
    python -m experiments run arena --strategies experiments.arena_ablations:margin_power2 ...

The first is `margin` (`active.strategies.hybrid`); docs/ablations.md says what each is.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from active.strategies.coreset import k_center_greedy
from active.strategies.hybrid import hybrid
from active.strategies.mmd_reduction import greedy_mmd_reduction
from active.strategies.mmd_witness import TIE, kernel_rows, kernel_sums, mean_row, unit_sum
from active.strategies.sum_of_three import sum_of_three as weighted_sum
from active.strategies.uherding import coverage, greedy_coverage
from active.strategies.uncertainty import highest_first, margin_of_confidence
from active.strategies.validation import how_many
from dan.mmd.kernels import MultiKernel
from experiments import ablation_changes as change
from experiments.ablation_changes import MARGIN, at_reach, changed, kernel_of, narrowed, num_labelled

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

SHORTLIST = 5  # candidates a pick, where a first stage hands some on to a second
VIEWS = ("patch_probs",)

# --- the weight -------------------------------------------------------------------------------------------------------

margin = MARGIN
margin_half = hybrid(weight="margin", power=0.5, share=0)
margin_power2 = hybrid(weight="margin", power=2, share=0)
entropy = hybrid(weight="entropy", share=0)
entropy_half = hybrid(weight="entropy", power=0.5, share=0)
least_confidence = hybrid(weight="least_confidence", share=0)
ones = hybrid(weight="ones", share=0)
patches = changed(ask=hybrid(weight="patches", share=0), needs=VIEWS)
patches_4 = changed(change.first_views(4), ask=patches, needs=VIEWS)
patches_2 = changed(change.first_views(2), ask=patches, needs=VIEWS)
vote = changed(change.voted)

# --- how well a source sample covers ----------------------------------------------------------------------------------

source_quarter = hybrid(weight="margin", share=0.25)
source_half = hybrid(weight="margin", share=0.5)
source_whole = hybrid(weight="margin", share=1)
entropy_source_half = hybrid(weight="entropy", share=0.5)

# --- the kernel -------------------------------------------------------------------------------------------------------

equal_weights = changed(change.EQUAL_WEIGHTS)
wide_kernel = changed(narrowed(0.25))
narrow_kernel = changed(narrowed(4))
narrower_kernel = changed(narrowed(16))
entropy_narrow = changed(narrowed(4), ask=entropy)
annealed_kernel = changed(change.narrowed_by_labels)
labels_apart = changed(change.at_labels_distance)
reach = changed(at_reach())
reach_half = changed(at_reach(0.5))
reach_double = changed(at_reach(2.0))
reach_one_kernel = changed(change.ONE_KERNEL, at_reach())
reach_power2 = changed(at_reach(), ask=margin_power2)
entropy_reach = changed(at_reach(), ask=entropy)
reach_vote = changed(at_reach(), change.voted)

# --- the features -----------------------------------------------------------------------------------------------------

unit_features = changed(change.on_unit_features)
reach_unit = changed(change.on_unit_features, at_reach())
all_layers = changed(change.on_all_layers)
joint = changed(change.on_joint)
reach_joint = changed(change.on_joint, at_reach())
gradients = changed(change.on_gradients)

# --- sums and stages --------------------------------------------------------------------------------------------------

sum_of_three = weighted_sum()
sum_without_patches = weighted_sum(patches=0)
sum_without_transfer = weighted_sum(transfer=0)
sum_without_diversity = weighted_sum(diversity=0)


def annealed(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The power of the margin is 0 without labels, 1 with 5 % of the pool labelled, and grows on to 2."""
    share = num_labelled(query) / (num_labelled(query) + len(query.ids))
    return hybrid(weight="margin", power=min(2.0, share / 0.05), share=0)(query, budget, generator=generator)


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
    centres = features.mean(0, keepdim=True)
    if query.labelled_features is not None and len(query.labelled_features):
        centres = query.labelled_features.to(features)
    far = torch.cdist(features.double(), centres.double()).amin(1)
    ranks = [values.argsort().argsort().double() for values in (margins, far, targetness)]
    return query.ids[highest_first(torch.stack(ranks).sum(0), count)]


def staged(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Those with the smallest margins, of them the most target-like, of those a core-set."""
    query, features, margins, targetness, _, count = parts_of(query, budget)
    first = highest_first(margins, min(len(features), SHORTLIST * count))
    second = first[highest_first(targetness[first], min(len(first), -(-SHORTLIST * count // 2)))]
    centres = query.labelled_features if query.labelled_features is not None and len(query.labelled_features) else None
    return query.ids[second[k_center_greedy(features[second], centres, count)]]
