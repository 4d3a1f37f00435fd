"""Uncertainty coverage: ask for samples that, with what is labelled, cover the pool where the network hesitates.

    argmax_B  1/N sum_n U(x_n) max_{s in L u B} k(x_n, s)        greedily: uncertainty herding

with features scaled to length 1, k(x, y) = exp(-|x - y|^2 / sigma^2), sigma the smallest distance between two labelled
samples, and U = 1 - (p1 - p2) at a temperature at which the network is calibrated. Few labels are far apart, so the
kernel is wide and the picks represent the pool; with many it is narrow, and the picks are the uncertain ones.
Source: Bae, Oliveira & Sutherland, Uncertainty Herding: One Active Learning Method for All Label Budgets, ICLR 2025.
With U = 1 it is MaxHerding (Bae et al., ECCV 2024).

The greedy is lazy and exact. With c_n = max_{s in L u B} k(x_n, s), a pick of x_i gains
    g_i = sum_n U(x_n) max(0, k(x_n, x_i) - c_n),
and as c only grows, g_i only falls: an old gain bounds the new one from above, and only candidates whose bound is on
top need a fresh one (Minoux 1978). At least (1 - 1/e) of the best coverage is reached, since coverage is submodular.

Shapes: N samples; L labelled; V validation; C classes; F features; B candidates of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.mmd_witness import NUMBERS, kernel_rows, mean_row, unit_sum
from active.strategies.uncertainty import margin_of_confidence
from active.strategies.validation import check_probabilities, how_many
from dan.mmd.kernels import MultiKernel, median_bandwidth
from dan.progress import watched

if TYPE_CHECKING:
    from active.pool import Query

TIE = 1e-12  # gains, as a share of the sum of weights, that differ by less are equal
REFRESHED = 8  # gains taken anew at first; doubled as long as a pick is not settled
HOTTEST = 20.0  # temperatures are kept in [1 / HOTTEST, HOTTEST]


@torch.no_grad()
def greedy_coverage(
    features: Tensor, weights: Tensor, kernel: MultiKernel, covered: Tensor | None, budget: int
) -> Tensor:
    """Rows picked so that sum_n weights_n max(covered_n, max_{picks} k(x_n, x_pick)) grows most, one after the other.

    features: (N, F). weights: (N,), >= 0. kernel: any `MultiKernel`. covered: (N,) in [0, 1], how well each sample is
    covered before (see `coverage`), or None: not at all.
    Returns a LongTensor (min(budget, N),), in pick order, distinct; gains within 1e-12 of the sum of the weights tie,
    and ties go to the lowest row. In float64, whatever the features' precision.
    Time O(N^2 F / 2) for the first gains; a pick then costs O(N F) for each gain taken anew: a few for a narrow kernel,
    at worst all N. Memory O(B N) with B N <= 4 million, beside the features.
    Raises ValueError on a negative budget, shapes that do not fit, NaN or infinity, and a negative weight.
    Source: Bae, Oliveira & Sutherland, ICLR 2025; the lazy greedy: Minoux, 1978.
    """
    if features.ndim != 2 or weights.shape != (len(features),):
        raise ValueError(
            f"features and weights must be (N, F) and (N,), not {tuple(features.shape)} and {tuple(weights.shape)}"
        )
    if covered is not None and covered.shape != (len(features),):
        raise ValueError(f"covered must be ({len(features)},), one value a sample, not {tuple(covered.shape)}")
    budget = how_many(budget, len(features))
    if not bool(torch.isfinite(features).all()):
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"row {row} of features has a NaN or an infinite feature")
    weights = weights.to(features.device).double()
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError("every weight must be >= 0 and finite")
    now = torch.zeros_like(weights) if covered is None else covered.to(weights).clone()  # c (N,)
    if not bool(((now >= 0) & (now <= 1)).all()):
        raise ValueError("covered must be in [0, 1], as kernel values are")
    picks = torch.empty(budget, dtype=torch.long, device=features.device)
    if budget == 0:
        return picks

    kernel, centre, count = unit_sum(kernel), mean_row(features), len(features)
    block = max(1, NUMBERS // count)
    tie = TIE * float(weights.sum())

    def rows_of(at: Tensor) -> Tensor:
        values = kernel_rows(features[at], features, kernel, centre)  # (B, N)
        values[torch.arange(len(at), device=at.device), at] = 1
        return values

    bound = _first_gains(features, weights, now, kernel, centre, block)  # (N,) >= g_i; -inf once picked
    fresh = torch.ones(count, dtype=torch.bool, device=features.device)  # whether it is g_i itself
    for t in watched(range(budget), "coverage", budget):
        refreshed = min(REFRESHED, block)
        best, row_of_best = -1, now
        while True:
            # What gains nothing now gains nothing later; and what is bounded below the best so far cannot win.
            known = fresh | (bound <= 0)
            leader = bound.masked_fill(~known, -torch.inf).max()
            open_ = (~known & (bound >= leader - tie)).nonzero()[:, 0]
            if not len(open_):
                break
            at = open_[bound[open_].topk(min(refreshed, len(open_))).indices]
            rows = rows_of(at)
            gains = (rows - now).clamp_(min=0) @ weights  # (B,)
            bound[at], fresh[at] = gains, True
            if best < 0 or gains.max() > bound[best]:
                best, row_of_best = int(at[gains.argmax()]), rows[gains.argmax()].clone()
            refreshed = min(2 * refreshed, block)
        pick = (known & (bound >= leader - tie)).nonzero()[0]  # (1,): the lowest row of those that tie
        picks[t] = pick
        bound[pick] = -torch.inf
        now = torch.maximum(now, row_of_best if int(pick) == best else rows_of(pick)[0])
        fresh.fill_(False)
    return picks


@torch.no_grad()
def coverage(features: Tensor, centres: Tensor | None, kernel: MultiKernel) -> Tensor:
    """max_s k(x_n, s) over centres (L, F), for features (N, F) -> (N,) float64; 0 where there are no centres."""
    covered = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    if centres is None or not len(centres) or not len(features):
        return covered
    kernel, centre = unit_sum(kernel), mean_row(features)
    for block in centres.to(features.device).split(max(1, NUMBERS // len(features))):
        covered = torch.maximum(covered, kernel_rows(block, features, kernel, centre).amax(dim=0))
    return covered.clamp_(max=1)  # the sum of the weights is 1 but for its last bit


@torch.no_grad()
def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T in [1/20, 20] at which softmax(logits / T) gives the targets the highest likelihood.

    logits: (V, C). targets: (V,). The likelihood is convex in b = 1/T, with slope mean_v (E_p z - z_target) at p =
    softmax(b z), so the root of the slope is found by bisection. A network that is right about every sample would be
    cooled without end; hence the bounds.
    Raises ValueError for other shapes, no samples, targets that are no classes, and NaN or infinity.
    Source: Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.
    """
    if logits.ndim != 2 or targets.shape != (len(logits),) or not len(logits):
        raise ValueError(
            f"logits and targets must be (V, C) and (V,), V >= 1, not {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    z = logits.double()
    if not bool(z.isfinite().all()):
        raise ValueError("the validation logits hold NaN or infinite values: has the training diverged?")
    right = targets.to(z.device).long()
    if not bool(((right >= 0) & (right < z.shape[1])).all()):
        raise ValueError(f"validation targets must be classes 0 .. {z.shape[1] - 1}")
    z = z - z.gather(1, right[:, None])  # (V, C): relative to the logit of the target

    def slope(inverse: float) -> float:
        return float(((inverse * z).softmax(dim=1) * z).sum(dim=1).mean())

    low, high = 1 / HOTTEST, HOTTEST  # of 1/T
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return 1 / HOTTEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


@torch.no_grad()
def smallest_distance(x: Tensor) -> float | None:
    """The smallest distance above 0 between two rows of x (L, F); None where there is none. O(L^2 F), in blocks.

    By products; the pairs that may be the nearest, given what a product rounds, from differences, so that equal rows
    are at 0 and not at that rounding.
    """
    least = torch.inf  # squared
    rounding = 4 * (x.shape[1] + 16) * torch.finfo(torch.float64).eps
    for first in range(0, len(x), 1024):
        a = x[first : first + 1024].double()
        for block in x[first:].split(1024):
            b = block.double()
            norms = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
            d2, slack = torch.addmm(norms, a, b.T, alpha=-2), rounding * norms
            surely = torch.where(d2 > slack, d2 + slack, torch.inf).min()  # some pair is apart, and no farther
            maybe = (d2 - slack <= surely.clamp(max=least)).nonzero()
            for pairs in maybe.split(max(1, 2**20 // max(1, x.shape[1]))):
                i, j = pairs.unbind(1)
                exact = (a[i] - b[j]).square().sum(dim=1)
                apart = exact[exact > 0]
                least = min(least, float(apart.min())) if len(apart) else least
    return None if least == torch.inf else least**0.5


def ask_uherding(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Uncertainty herding on unit features; draws nothing at random.

    Temperature: fitted on validation_logits and validation_targets where the query has both, else 1. Width of the
    kernel: the smallest distance between labelled samples; with fewer than two different ones, the median distance
    between all target samples. Where the network is certain of every sample, all weigh alike.
    """
    query = query.by_id()
    probs, features = query.need("probs", "features")
    check_probabilities(probs, ids=query.ids)
    count = how_many(budget, len(query.ids))
    if not count:
        return query.ids[:0]

    temperature = 1.0
    if query.validation_logits is not None and query.validation_targets is not None and len(query.validation_logits):
        temperature = fit_temperature(query.validation_logits, query.validation_targets)
    # softmax(log p / T) is softmax(logits / T); but where probabilities became 0 and 1, only logits know by how much.
    logits = probs.double().log() if query.logits is None else query.need("logits")[0].double()
    weights = margin_of_confidence((logits / temperature).softmax(dim=1))  # (N,)
    if not bool((weights > 0).any()):
        weights = torch.ones_like(weights)

    pool, labelled = _unit(features), None
    if query.labelled_features is not None and len(query.labelled_features):
        labelled = _unit(query.need("labelled_features")[0].to(pool))
    width = None if labelled is None else smallest_distance(labelled)
    if width is not None:
        gamma = torch.tensor(width**2, dtype=torch.float64)
    elif len(pool) + (0 if labelled is None else len(labelled)) < 2:
        return query.ids[:count]  # no pair to measure, and no choice to make
    else:
        gamma = median_bandwidth(pool, pool[:0] if labelled is None else labelled).double()
    kernel = MultiKernel.of(gamma.clamp_min(torch.finfo(torch.float64).tiny)[None])
    return query.ids[greedy_coverage(pool, weights, kernel, coverage(pool, labelled, kernel), count)]


def _first_gains(
    features: Tensor, weights: Tensor, covered: Tensor, kernel: MultiKernel, centre: Tensor, block: int
) -> Tensor:
    """g (N,): every pair of samples is met once, a block of rows against itself and what comes after it."""
    gains = torch.zeros_like(weights)
    for first in watched(range(0, len(features), block), "first gains", -(-len(features) // block)):
        rows = slice(first, min(first + block, len(features)))
        k = kernel_rows(features[rows], features[first:], kernel, centre)  # (B, N - first)
        k.fill_diagonal_(1)
        gains[rows] += (k - covered[first:]).clamp_(min=0) @ weights[first:]
        own = rows.stop - rows.start
        gains[rows.stop :] += weights[rows] @ (k[:, own:] - covered[rows, None]).clamp_(min=0)
    return gains


def _unit(x: Tensor) -> Tensor:
    """Rows of x (N, F) scaled to length 1, in float32 at least; a row of zeros stays as it is."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return torch.nn.functional.normalize(x, dim=1)
