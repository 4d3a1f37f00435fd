"""What the parts of the project's own strategy are worth: variants for the arena, each by name.

    python -m experiments run ablations
    python -m experiments run arena --strategies experiments.arena_ablations:margin_power2 ...

Coverage under DAN's own kernel is what is varied (`active.strategies.hybrid`): its weight, the power of it,
how much of the target the source covers, and the kernel. Beside it stand the sum of three that it replaces, its parts
alone and in pairs, and other ways to put the three together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

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
from dan.mmd.kernels import MultiKernel, median_bandwidth
from experiments.ablation_widths import (  # noqa: F401  variants, by their names
    at_reach,
    kernel_of,
    labels_apart,
    reach,
    reach_double,
    reach_half,
    reach_one_kernel,
    reach_power2,
    reach_unit,
    reaching,
    unit,
)

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

PREFIX = "experiments.arena_ablations:"  # of a variant's name as a strategy
# Each variant, and what it is; the first is the one that the others are compared with.
VARIANTS = {
    "margin": "coverage under DAN's kernel, weighed by 1 - (p1 - p2)",
    "ones": "the weight is 1: coverage alone",
    "entropy": "the weight is the entropy",
    "least_confidence": "the weight is 1 - p1",
    "patches": "the weight is AIFT's score of 8 views",
    "patches_4": "of 4 views",
    "patches_2": "of 2 views",
    "margin_half": "the square root of the margin",
    "margin_power2": "the square of the margin",
    "entropy_half": "the square root of the entropy",
    "entropy_narrow": "the entropy, and a quarter of DAN's bandwidths",
    "entropy_source_half": "the entropy, and a source sample covers half as well",
    "source_quarter": "a source sample covers a quarter as well",
    "source_half": "half as well",
    "source_whole": "as well as a label",
    "unit_features": "features of length 1, the ladder at their median",
    "equal_weights": "DAN's bandwidths, equal weights",
    "narrow_kernel": "a quarter of DAN's bandwidths",
    "narrower_kernel": "a sixteenth of DAN's bandwidths",
    "wide_kernel": "four times DAN's bandwidths",
    "reach": "DAN's bandwidths scaled to the reach of a label: N / (labels + batch) samples",
    "entropy_reach": "so, and the entropy",
    "reach_power2": "so, and the square of the margin",
    "reach_one_kernel": "so, but one Gaussian",
    "reach_unit": "so, on features of length 1",
    "reach_half": "half of that reach",
    "reach_double": "twice that reach",
    "reach_uncertain_picks": "so, and the gain times the pick's own margin",
    "reach_joint": "so, on the last hidden layer and the probabilities",
    "labels_apart": "DAN's bandwidths scaled to the smallest distance of two labels, UHerding's rule",
    "vote": "the margin of the network and of a vote of source and labels under the kernel, averaged",
    "reach_vote": "so, and scaled to the reach of a label",
    "all_layers": "all task-specific layers side by side",
    "joint": "the last hidden layer and the probabilities, both of median distance 1",
    "gradients": "BADGE's gradient embeddings in place of the features",
    "uncertain_picks": "the gain of coverage times the pick's own margin",
    "uncertain_plus": "the gain of coverage plus the pick's own margin, each over its maximum",
    "doubt": "the network's confidence counts as far as the source covers the sample",
    "annealed": "typical first: the margin's power grows from 0 to 2",
    "annealed_kernel": "the kernel narrows as labels are bought",
    "sum_of_three": "k-center + MMD reduction + entropy, scaled sum",
    "sum_without_patches": "k-center + MMD reduction",
    "sum_without_transfer": "k-center + entropy",
    "sum_without_diversity": "MMD reduction + entropy",
    "mmd_leaving": "MMD reduction alone; picks join nothing",
    "rank_fusion": "margin, distance and witness of MMD, as ranks, added",
    "staged": "a shortlist by margin, of it one by the witness, of it a core-set",
    "product": "coverage weighed by margin x witness",
}

SHORTLIST = 5  # candidates a pick, where a first stage hands some on to a second

# The sum of three, its parts in pairs; each alone is k_center, mmd_reduction, entropy.
sum_of_three = weighted_sum()
sum_without_patches = weighted_sum(patches=0)
sum_without_transfer = weighted_sum(transfer=0)
sum_without_diversity = weighted_sum(diversity=0)

# Coverage under DAN's kernel. `hybrid` itself is entropy_source_half; here everything is said, whatever its defaults.
margin = hybrid(weight="margin", share=0)
entropy = hybrid(weight="entropy", share=0)
least_confidence = hybrid(weight="least_confidence", share=0)
ones = hybrid(weight="ones", share=0)
margin_half = hybrid(weight="margin", power=0.5, share=0)
margin_power2 = hybrid(weight="margin", power=2, share=0)
entropy_half = hybrid(weight="entropy", power=0.5, share=0)
entropy_source_half = hybrid(weight="entropy", share=0.5)
entropy_reach = reaching(ask=entropy)
source_quarter = hybrid(weight="margin", share=0.25)
source_half = hybrid(weight="margin", share=0.5)
source_whole = hybrid(weight="margin", share=1)
patches = hybrid(weight="patches", share=0)
patches.needs = ("patch_probs",)  # type: ignore[attr-defined]


def of_views(count: int) -> Strategy:
    """Coverage weighed by the patch score of the first so many views."""

    def ask(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        (probs,) = query.need("patch_probs")
        return patches(replace(query, patch_probs=probs[:, :count]), budget, generator=generator)

    ask.needs = ("patch_probs",)  # type: ignore[attr-defined]
    return ask


patches_2 = of_views(2)
patches_4 = of_views(4)


def all_layers(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Coverage on all task-specific layers side by side, under the ladder at their own median."""
    layers, source = query.need("layers", "source_layers")
    shown = replace(
        query, features=layers, source_features=source, labelled_features=query.labelled_layers, kernel=None
    )
    return margin(shown, budget, generator=generator)


def _seen_as(query: Query, embedding: Callable[[Tensor, Tensor], Tensor]) -> Query:
    """The query with embedding(features (., F), layers (., H)) for features; the kernel is that of the strategy."""
    features, source, layers, source_layers = query.need("features", "source_features", "layers", "source_layers")
    known = None
    if query.labelled_features is not None and len(query.labelled_features):
        known = embedding(*query.need("labelled_features", "labelled_layers"))
    return replace(
        query,
        features=embedding(features, layers),
        source_features=embedding(source, source_layers),
        labelled_features=known,
        kernel=None,
    )


def _joined(query: Query) -> Query:
    """The last hidden layer and the class probabilities side by side, both scaled to a median distance of 1."""
    features, source, probs, layers, source_layers = query.need(
        "features", "source_features", "probs", "layers", "source_layers"
    )
    classes = probs.shape[1]
    outputs = (source_layers[:, -classes:].softmax(1), layers[:, -classes:].softmax(1))
    widths = (median_bandwidth(source, features).sqrt(), median_bandwidth(*outputs).sqrt())

    def side_by_side(hidden: Tensor, every: Tensor) -> Tensor:
        return torch.cat((hidden / widths[0], every[:, -classes:].softmax(1) / widths[1]), dim=1)

    return _seen_as(query, side_by_side)


def joint(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Coverage on features and probabilities under the ladder at their median: near is what is near for the features
    and for the answer, as in a joint MMD."""
    return margin(_joined(query), budget, generator=generator)


reach_joint = reaching(seen=_joined)


def gradients(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Coverage of gradient embeddings (p - e_y) x h, y the predicted class, under the ladder at their median: what the
    network is sure of lies at 0, and one label covers it all."""
    classes = query.need("probs")[0].shape[1]

    def embedded(hidden: Tensor, every: Tensor) -> Tensor:
        p = every[:, -classes:].softmax(1)
        error = p - torch.nn.functional.one_hot(p.argmax(1), classes).to(p)
        return (error[:, :, None] * hidden[:, None, :]).flatten(1)

    return margin(_seen_as(query, embedded), budget, generator=generator)


def _own_doubt(join: Callable[[Tensor, Tensor], Tensor]) -> Strategy:
    """Coverage whose gains are joined with the picks' own margins: join(gains (N,), margins (N,)) -> (N,)."""

    def ask(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query, features, margins, _ = _parts(query)
        count = how_many(budget, len(features))
        kernel = kernel_of(query)
        # (N, N): pools of the arena are small.
        pairs = kernel_rows(features, features, unit_sum(kernel), mean_row(features))
        covered = coverage(features, query.labelled_features, kernel)
        left, picks = torch.ones(len(features), dtype=torch.bool), []
        for _ in range(count):
            gains = join((pairs - covered).clamp(min=0) @ margins, margins).masked_fill(~left, -1.0)
            picks.append(int((gains >= gains.max() - TIE).nonzero()[0, 0]))  # the lowest row of those that tie
            left[picks[-1]] = False
            covered = torch.maximum(covered, pairs[picks[-1]])
        return query.ids[torch.tensor(picks, dtype=torch.long)]

    return ask


# A sample that the network is sure of teaches it little: the gain times the pick's own margin, or the two added.
uncertain_picks = _own_doubt(lambda gains, margins: gains * margins)
uncertain_plus = _own_doubt(
    lambda gains, margins: gains / gains.max().clamp_min(TIE) + margins / margins.max().clamp_min(TIE)
)
reach_uncertain_picks = reaching(ask=uncertain_picks)


def vote(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """U is the margin of (p + q) / 2, where q is the vote of source and labelled samples for a sample's class, each by
    its kernel: where the network and its own kernel disagree, one of them is wrong."""
    query = query.by_id()
    features, source, probs, targets = query.need("features", "source_features", "probs", "source_targets")
    kernel = kernel_of(query)
    known, classes = source, targets
    if query.labelled_features is not None and len(query.labelled_features):
        mine, answers = query.need("labelled_features", "labelled_targets")
        known, classes = torch.cat((source, mine.to(source))), torch.cat((targets, answers.to(targets)))
    shares = torch.nn.functional.one_hot(classes.long(), probs.shape[1]).double()  # (S + L, C)
    votes = kernel_rows(features, known, unit_sum(kernel), mean_row(features)) @ (shares / shares.sum(0).clamp_min(1))
    q = votes / votes.sum(1, keepdim=True).clamp_min(1e-300)
    return margin(replace(query, probs=(probs.double() + q) / 2), budget, generator=generator)


reach_vote = reaching(ask=vote)


def doubt(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """U_n = 1 - t_n (p1 - p2), with t_n = max_j k(x_n, s_j) over its maximum: where the source has nothing like a
    sample, the network's confidence says little, and the sample counts as uncertain."""
    query, features, margins, _ = _parts(query)
    count = how_many(budget, len(features))
    (source,) = query.need("source_features")
    kernel = kernel_of(query)
    trust = coverage(features, source, kernel)
    weights = 1 - trust / trust.max().clamp_min(1e-300) * (1 - margins)
    covered = coverage(features, query.labelled_features, kernel)
    return query.ids[greedy_coverage(features, weights, kernel, covered, count)]


def mmd_leaving(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """MMD reduction whose picks leave the target and join nothing; labels bought earlier have left it, too."""
    query = query.by_id()
    features, source = query.need("features", "source_features")
    kernel = kernel_of(query)
    return query.ids[greedy_mmd_reduction(features, source, how_many(budget, len(features)), kernel)]


def of_kernel(change: str, ask: Strategy = margin) -> Strategy:
    """Coverage under another kernel: "unit" features of length 1 with the ladder at their median; all bandwidths a
    sixteenth ("narrower"), a quarter ("narrow") or four times ("wide") what they are; DAN's in "equal" weights."""

    def changed(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        kernel = kernel_of(query)
        if change == "unit":
            query = unit(query)  # without a kernel, which is then the ladder at their median
        elif change == "equal":
            query = replace(query, kernel=MultiKernel.of(kernel.bandwidths))
        else:
            factor = {"narrower": 1 / 16, "narrow": 0.25, "wide": 4.0}[change]
            query = replace(query, kernel=MultiKernel(kernel.bandwidths * factor, kernel.weights))
        return ask(query, budget, generator=generator)

    return changed


unit_features = of_kernel("unit")
equal_weights = of_kernel("equal")
narrow_kernel = of_kernel("narrow")
narrower_kernel = of_kernel("narrower")
wide_kernel = of_kernel("wide")
entropy_narrow = of_kernel("narrow", entropy)


def annealed(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Typical first, uncertain later: the power of the margin is 0 without labels, 1 with 5 % of the pool labelled, and
    grows on to 2."""
    labelled = 0 if query.labelled_ids is None else len(query.labelled_ids)
    share = labelled / (labelled + len(query.ids))
    return hybrid(weight="margin", power=min(2.0, share / 0.05), share=0)(query, budget, generator=generator)


def annealed_kernel(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The kernel narrows as labels are bought: its bandwidths shrink as 1 / (1 + labels per class)."""
    (probs,) = query.need("probs")
    labelled = 0 if query.labelled_ids is None else len(query.labelled_ids)
    kernel = kernel_of(query)
    kernel = MultiKernel(kernel.bandwidths / (1 + labelled / probs.shape[1]), kernel.weights)
    return margin(replace(query, kernel=kernel), budget, generator=generator)


def _parts(query: Query) -> tuple[Query, Tensor, Tensor, Tensor]:
    """(query by id, features, margins, how much more target than source there is at each sample)."""
    query = query.by_id()
    features, source, probs = query.need("features", "source_features", "probs")
    kernel = kernel_of(query)
    p, r = kernel_sums(features, source, kernel)
    return query, features, margin_of_confidence(probs).double(), r / max(1, len(features) - 1) - p / len(source)


def rank_fusion(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """The three as ranks, added: those of the margin, the distance to the nearest label, and the witness of MMD."""
    query, features, margins, targetness = _parts(query)
    count = how_many(budget, len(features))
    centres = features.mean(0, keepdim=True)
    if query.labelled_features is not None and len(query.labelled_features):
        centres = query.labelled_features.to(features)
    far = torch.cdist(features.double(), centres.double()).amin(1)
    ranks = [values.argsort().argsort().double() for values in (margins, far, targetness)]
    return query.ids[highest_first(torch.stack(ranks).sum(0), count)]


def staged(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Stage by stage: those with the smallest margins, of them what is most the target's, of those a core-set."""
    query, features, margins, targetness = _parts(query)
    count = how_many(budget, len(features))
    first = highest_first(margins, min(len(features), SHORTLIST * count))
    second = first[highest_first(targetness[first], min(len(first), -(-SHORTLIST * count // 2)))]
    centres = query.labelled_features if query.labelled_features is not None and len(query.labelled_features) else None
    return query.ids[second[k_center_greedy(features[second], centres, count)]]


def product(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Margin times how much more target than source there is, covered: U_n of the coverage is their product."""
    query, features, margins, targetness = _parts(query)
    low, high = targetness.min(), targetness.max()
    scaled = (targetness - low) / (high - low).clamp_min(1e-300)
    kernel = kernel_of(query)
    labelled = query.labelled_features if query.labelled_features is not None else features[:0]
    covered = coverage(features, labelled, kernel)
    return query.ids[greedy_coverage(features, margins * scaled, kernel, covered, how_many(budget, len(features)))]
