"""Accuracy by class, and balanced accuracy, on a finite pool: exact bounds from one simple random sample.

    acc_c = (h_c + K_c) / (L_c + u_c)      h_c of the L_c labelled samples of class c are right, K_c of the u_c others
    balanced = (1/C) sum_c acc_c

The sample has n_c audits of class c, k_c of them right. u_c is unknown: n_c bounds it (hypergeometric). Given n_c, the
audits of class c are a simple random sample of its u_c members, and the k_c of different classes are independent.

- One class: for every u_c in its bounds, the hypergeometric bound on K_c; the least and the largest acc_c of these.
- All classes: with weights a_c, S = sum_c a_c k_c / n_c satisfies, for every lambda > 0 (Chernoff; sampling without
  replacement has the smaller moments, Hoeffding, JASA 1963, theorem 4),

      P(S >= s) <= exp(-lambda s) prod_c (1 - p_c + p_c exp(lambda a_c / n_c))^(n_c),       p_c = K_c / u_c

  Vectors p for which that is below alpha are ruled out. The bound is the least balanced accuracy of the others, or a
  number below it: the Lagrangian dual, at the best of a grid of multipliers. Each point of the grid is valid.

A part SHARE of alpha is spent on the u_c, the rest on the hits. Shapes: C classes; u of the numbers u_c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from active.assessment.hypergeometric import Counts, lower_count, upper_count

Floats = NDArray[np.float64]

SHARE = 0.1  # of alpha, for the sizes of the classes
BLOCKS = 256  # of sizes u_c that are looked at together, if there are more


@dataclass(frozen=True)
class ClassCounts:
    """Counts by class, each (C,): audits n_c and right k_c of the answered audits; labelled L_c and labelled_right h_c
    of the labelled samples. skipped: audits without an answer, of unknown class. unlabelled: U, the samples that the
    audits were drawn from."""

    audits: Counts
    right: Counts
    labelled: Counts
    labelled_right: Counts
    skipped: int
    unlabelled: int

    @property
    def drawn(self) -> int:
        """n: all audits, with those that were skipped."""
        return int(self.audits.sum()) + self.skipped

    def wrong(self) -> ClassCounts:
        """The same with right and wrong exchanged."""
        right, labelled_right = self.audits - self.right, self.labelled - self.labelled_right
        return ClassCounts(self.audits, right, self.labelled, labelled_right, self.skipped, self.unlabelled)

    def sizes(self, alpha: float) -> tuple[Counts, Counts]:
        """Bounds (C,), (C,) on the u_c, each pair with error alpha; a skipped audit may be of any class, or of none."""
        low = lower_count(self.audits, self.drawn, self.unlabelled, alpha / 2)
        return low, upper_count(self.audits + self.skipped, self.drawn, self.unlabelled, alpha / 2)

    def estimates(self) -> Floats:
        """acc_c (C,), with u_c = U n_c / sum_c n_c and p_c = k_c / n_c; NaN for a class without any label."""
        sizes = self.unlabelled * self.audits / max(int(self.audits.sum()), 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(self.audits > 0, self.right / np.maximum(self.audits, 1), 0.0)
            estimates: Floats = (self.labelled_right + sizes * shares) / (self.labelled + sizes)
        return estimates


def class_bounds(counts: ClassCounts, alpha: float) -> tuple[Floats, Floats]:
    """Bounds (C,), (C,) on acc_c, two-sided with error alpha for each class by itself; [0, 1] for a class without a
    label. A skipped audit counts as a wrong one of the class for the lower bound, as a right one for the upper."""
    low, high = counts.sizes(SHARE * alpha)
    side = (1 - SHARE) * alpha / 2
    wrong = counts.wrong()
    lower = [_class_lower(counts, c, low[c], high[c], side) for c in range(len(low))]
    upper = [1 - _class_lower(wrong, c, low[c], high[c], side) for c in range(len(low))]
    return np.array(lower), np.array(upper)


def _class_lower(counts: ClassCounts, c: int, low: int, high: int, alpha: float) -> float:
    """The least (h_c + K) / (L_c + u) over the sizes u in low .. high, K the fewest right ones at that size.

    K rises with u, so a block of sizes is bounded by its smallest K and its largest u.
    """
    edges = np.unique(np.linspace(low, high + 1, min(high - low + 1, BLOCKS) + 1).astype(np.int64))
    first, last = edges[:-1], edges[1:] - 1
    right = int(counts.right[c])
    drawn = np.minimum(int(counts.audits[c]) + counts.skipped, first)
    fewest = lower_count(right, drawn, first, alpha)
    members = counts.labelled[c] + last
    with np.errstate(invalid="ignore"):
        shares = np.where(members > 0, (counts.labelled_right[c] + fewest) / members, 0.0)
    return float(shares.min())


def balanced_bounds(counts: ClassCounts, alpha: float) -> tuple[float, float]:
    """Bounds on balanced accuracy, two-sided with error alpha, over the classes that the pool has samples of. A class
    without a label counts as 0 in the lower bound and as 1 in the upper."""
    low, high = counts.sizes(SHARE * alpha / len(counts.audits))
    side = (1 - SHARE) * alpha / 2
    return _balanced_lower(counts, low, high, side), 1 - _balanced_lower(counts.wrong(), low, high, side)


def _balanced_lower(counts: ClassCounts, low: Counts, high: Counts, alpha: float) -> float:
    """max over (lambda, mu) of (1/C) sum_c min_p [acc_c(p) - mu G_c(p)] + (mu / C) log alpha, and at least 0.

    acc_c(p) = min_w (1 - w) h_c / L_c + w p,  w = u_c / (L_c + u_c);     G_c(p) = n_c log(1 + p E_c) - theta_c k_c
    theta_c = lambda a_c / n_c,  E_c = exp(theta_c) - 1;     the least over p is at p = mu n_c / w - 1 / E_c, or at 0, 1
    With skipped audits n_c is not known: the first term of G_c falls with n_c, the second rises, so the first takes
    the answered ones, and the second the skipped ones too.
    """
    known = np.divide(counts.labelled_right, counts.labelled, out=np.zeros(len(low)), where=counts.labelled > 0)
    weights = np.stack([_weights(low, counts.labelled), _weights(high, counts.labelled)])  # (2, C)
    n = np.maximum(counts.audits, min(counts.skipped, 1)).astype(float)
    share = counts.right / np.maximum(counts.audits + counts.skipped, 1)  # k_c / n_c, at the least
    a = np.where(n > 0, weights.mean(0), 0.0)
    unit = np.sqrt(-2 * np.log(alpha) / max(float((a**2 / np.maximum(4 * n, 1)).sum()), 1e-12))
    scale = (unit * np.logspace(-1, 1.5, 26))[:, None, None, None]  # lambda, for axes (lambda, mu, w, C)
    mu = np.logspace(-1.5, 1.5, 31)[:, None, None] / scale
    theta = scale * a / np.maximum(n, 1)
    growth = np.maximum(np.expm1(np.minimum(theta, 500.0)), 1e-300)
    with np.errstate(over="ignore"):
        best = np.clip(mu * n / np.maximum(weights, 1e-12) - 1 / growth, 0.0, 1.0)  # p
    gain = n * np.log1p(best * growth) - theta * n * share
    least = ((1 - weights) * known + weights * best - mu * gain).min(2)  # over w: (lambda, mu, C)
    dual = least.sum(-1) + mu[..., 0, 0] * np.log(alpha)
    return float(max(dual.max() / len(low), 0.0))


def _weights(sizes: Counts, labelled: Counts) -> Floats:
    total = sizes + labelled
    return np.divide(sizes, total, out=np.ones(len(total)), where=total > 0)
