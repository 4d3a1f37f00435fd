"""Variants of the project's own strategy, for the arena: one part changed at a time, or its parts combined otherwise.

    python -m experiments run ablations
    python -m experiments run arena --strategies experiments.arena_ablations:margin_power2 ...

The first is coverage under DAN's kernel (`active.strategies.hybrid`); what is changed is in ablation_changes.py.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from experiments.ablation_changes import MARGIN, changed, kernel_of, num_labelled

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

PREFIX = f"{__name__}:"  # of a variant's name as a strategy
SHORTLIST = 5  # candidates a pick, where a first stage hands some on to a second


def annealed(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The power of the margin is 0 without labels, 1 with 5 % of the pool labelled, and grows on to 2."""
    share = num_labelled(query) / (num_labelled(query) + len(query.ids))
    return hybrid(weight="margin", power=min(2.0, share / 0.05), share=0)(query, budget, generator=generator)


# --- other sums -------------------------------------------------------------------------------------------------------


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


UNCERTAIN_PICKS = own_margin(lambda gains, margins: gains * margins)


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


# --- the variants -----------------------------------------------------------------------------------------------------

ENTROPY, PATCHES = hybrid(weight="entropy", share=0), hybrid(weight="patches", share=0)
VIEWS = ("patch_probs",)
# name -> (what it is, the strategy); the first is the one that the others are compared with.
VARIANTS: dict[str, tuple[str, Strategy]] = {
    "margin": ("coverage under DAN's kernel, weighed by 1 - (p1 - p2)", MARGIN),
    "ones": ("the weight is 1: coverage alone", hybrid(weight="ones", share=0)),
    "entropy": ("the weight is the entropy", ENTROPY),
    "least_confidence": ("the weight is 1 - p1", hybrid(weight="least_confidence", share=0)),
    "patches": ("the weight is AIFT's score of 8 views", changed(ask=PATCHES, needs=VIEWS)),
    "patches_4": ("of 4 views", changed(partial(change.first_views, count=4), ask=PATCHES, needs=VIEWS)),
    "patches_2": ("of 2 views", changed(partial(change.first_views, count=2), ask=PATCHES, needs=VIEWS)),
    "margin_half": ("the square root of the margin", hybrid(weight="margin", power=0.5, share=0)),
    "margin_power2": ("the square of the margin", hybrid(weight="margin", power=2, share=0)),
    "entropy_half": ("the square root of the entropy", hybrid(weight="entropy", power=0.5, share=0)),
    "entropy_narrow": (
        "the entropy, and a quarter of DAN's bandwidths",
        changed(partial(change.narrowed, divisor=4), ask=ENTROPY),
    ),
    "entropy_source_half": (
        "the entropy, and a source sample covers half as well",
        hybrid(weight="entropy", share=0.5),
    ),
    "source_quarter": ("a source sample covers a quarter as well", hybrid(weight="margin", share=0.25)),
    "source_half": ("half as well", hybrid(weight="margin", share=0.5)),
    "source_whole": ("as well as a label", hybrid(weight="margin", share=1)),
    "unit_features": ("features of length 1, the ladder at their median", changed(change.on_unit_features)),
    "equal_weights": ("DAN's bandwidths, equal weights", changed(change.with_equal_weights)),
    "narrow_kernel": ("a quarter of DAN's bandwidths", changed(partial(change.narrowed, divisor=4))),
    "narrower_kernel": ("a sixteenth of DAN's bandwidths", changed(partial(change.narrowed, divisor=16))),
    "wide_kernel": ("four times DAN's bandwidths", changed(partial(change.narrowed, divisor=0.25))),
    "reach": (
        "DAN's bandwidths scaled to the reach of a label: N / (labels + batch) samples",
        changed(change.at_reach),
    ),
    "entropy_reach": ("so, and the entropy", changed(change.at_reach, ask=ENTROPY)),
    "reach_power2": (
        "so, and the square of the margin",
        changed(change.at_reach, ask=hybrid(weight="margin", power=2, share=0)),
    ),
    "reach_one_kernel": ("so, but one Gaussian", changed(change.one_kernel, change.at_reach)),
    "reach_unit": ("so, on features of length 1", changed(change.on_unit_features, change.at_reach)),
    "reach_half": ("half of that reach", changed(partial(change.at_reach, factor=0.5))),
    "reach_double": ("twice that reach", changed(partial(change.at_reach, factor=2.0))),
    "reach_uncertain_picks": (
        "so, and the gain times the pick's own margin",
        changed(change.at_reach, ask=UNCERTAIN_PICKS),
    ),
    "reach_joint": ("so, on the last hidden layer and the probabilities", changed(change.on_joint, change.at_reach)),
    "labels_apart": (
        "DAN's bandwidths scaled to the smallest distance of two labels, UHerding's rule",
        changed(change.at_labels_distance),
    ),
    "vote": (
        "the margin of the network and of a vote of source and labels under the kernel, averaged",
        changed(change.voted),
    ),
    "reach_vote": ("so, and scaled to the reach of a label", changed(change.at_reach, change.voted)),
    "all_layers": ("all task-specific layers side by side", changed(change.on_all_layers)),
    "joint": ("the last hidden layer and the probabilities, both of median distance 1", changed(change.on_joint)),
    "gradients": ("BADGE's gradient embeddings in place of the features", changed(change.on_gradients)),
    "uncertain_picks": ("the gain of coverage times the pick's own margin", UNCERTAIN_PICKS),
    "uncertain_plus": (
        "the gain of coverage plus the pick's own margin, each over its maximum",
        own_margin(lambda g, u: g / g.max().clamp_min(TIE) + u / u.max().clamp_min(TIE)),
    ),
    "doubt": ("the network's confidence counts as far as the source covers the sample", doubt),
    "annealed": ("typical first: the margin's power grows from 0 to 2", annealed),
    "annealed_kernel": ("the kernel narrows as labels are bought", changed(change.with_annealed_kernel)),
    "sum_of_three": ("k-center + MMD reduction + entropy, scaled sum", weighted_sum()),
    "sum_without_patches": ("k-center + MMD reduction", weighted_sum(patches=0)),
    "sum_without_transfer": ("k-center + entropy", weighted_sum(transfer=0)),
    "sum_without_diversity": ("MMD reduction + entropy", weighted_sum(diversity=0)),
    "mmd_leaving": ("MMD reduction alone; picks join nothing", mmd_leaving),
    "rank_fusion": ("margin, distance and witness of MMD, as ranks, added", rank_fusion),
    "staged": ("a shortlist by margin, of it one by the witness, of it a core-set", staged),
    "product": ("coverage weighed by margin x witness", product),
}


def __getattr__(name: str) -> Strategy:
    """A variant, as `--strategies experiments.arena_ablations:NAME` names it."""
    if name not in VARIANTS:
        raise AttributeError(f"module {__name__} has no {name}")
    return VARIANTS[name][1]
