"""How good is this network on the whole pool? Its accuracy with a valid interval, from audits.

    accuracy = (h + U acc_U) / N      h right among the N - U labelled samples, counted; acc_U from the audits of the U

The interval of acc_U shrinks by U / N. One look: exact (`hypergeometric`). Repeated looks: `betting`. Over rounds, each
with a network of its own, round t gets alpha_t = alpha / (t (t + 1)), which sum to alpha: all intervals hold at once,
and so at any round that one stops at.

Shapes: N samples of the pool; U unlabelled; L labelled; n audits; C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from active.assessment import betting
from active.assessment.classes import ClassCounts, balanced_bounds, class_bounds
from active.assessment.hypergeometric import lower_count, upper_count
from active.pool import Pool

# Below these many audits, repeated looks do without the confidences f: learning what they are worth costs more.
PREDICTIONS_DRAWS = 50


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds, in [0, 1]. estimate is NaN where there is nothing to estimate it from."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the audits say of one network.

    accuracy, low, high: on the whole pool (labelled samples are in it, and flatter: the network has learned them).
    deviation: of `accuracy` as a measurement, the standard error of simple random sampling (what a forecast weighs
    points by; no interval follows from it), with the share of hits moved to (k + 1) / (n + 2) so that it is never 0.
    unlabelled: on the samples that the audits were drawn from. by_class: on the whole pool, each interval by itself.
    balanced: the mean over classes. level: of each of these intervals. method: hypergeometric, betting, or
    prediction_powered (betting with the network's confidences). audits: answered or skipped; skipped: of them, without
    an answer. pool, labelled, labelled_right: N, L, h.
    """

    accuracy: float
    low: float
    high: float
    deviation: float
    level: float
    method: str
    audits: int
    skipped: int
    pool: int
    labelled: int
    labelled_right: int
    unlabelled: Interval
    balanced: Interval
    by_class: tuple[Interval, ...]

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.accuracy:.1f} % ({low:.1f} to {high:.1f}; {self.audits} audits{skipped})"


def assess(
    pool: Pool,
    probs: Tensor,
    audits: Tensor,
    answers: Sequence[int | None],
    *,
    level: float = 0.95,
    round: int | None = None,
    look: int | None = None,
) -> Assessment:
    """The accuracy of a network on the whole pool, with a valid interval.

    pool: with the labels that the network has learned, and without the audits'; in hold mode held audits are
        unlabelled. Labels of the pool are taken as right.
    probs: the network's class probabilities (N, C) for `pool.ids`, in that order.
    audits: ids (n,) in the order of the draw, all that are planned (`draw_audits`, `HeldAudits.held`).
    answers: class indices of the first audits, one for each; None where the annotator skipped it. Of several
        annotators aggregate first, to one label an item, and None where there is no majority: the accuracy is that
        against aggregated labels. A skipped audit counts as wrong in lower bounds and as right in upper ones.
    level: probability with which each interval holds, on average over draws.
    round: None for a single assessment; t >= 1 for the t-th of several, with alpha_t = alpha / (t (t + 1)).
    look: None where one looks once, after all audits that one wants; j >= 1 for the j-th of repeated looks at one
        network. Then accuracy and unlabelled hold at all looks at once (betting), by_class and balanced with
        alpha_j = alpha / (j (j + 1)).

    The method is chosen from the confidences and the number of audits alone, before any answer. Deterministic.
    Raises ValueError for shapes that do not fit, audits that are labelled, unknown or repeated, answers that are no
    class or more than the audits, none at all, and a level, round or look out of range.
    """
    predicted, confidence = _predictions(probs, len(pool.ids))
    rows = _rows(pool, audits)
    labels = _labels(answers, rows, probs.shape[1])
    alpha = _alpha(level, round, look)
    free = torch.isin(pool.ids, pool.unlabelled_ids).numpy()
    population, size = confidence[free], int(free.sum())
    answered = labels >= 0
    right = answered & (predicted[rows[: len(labels)]] == labels)

    method = _method(population, len(rows), look)
    if method == "hypergeometric":
        low, high, estimate = _exact(right, answered, size, alpha)
    else:
        if method == "betting":
            confidence, population = np.zeros(len(confidence)), np.zeros(size)
        guesses = betting.Guesses.of(population, confidence[rows[: len(labels)]])
        low = betting.lower_bound(right.astype(float), guesses, len(rows), alpha / 2)
        high = betting.upper_bound((right | ~answered).astype(float), guesses, len(rows), alpha / 2)
        kept = betting.Guesses.of(population, guesses.drawn[answered])
        estimate = betting.estimate(right[answered].astype(float), kept) if answered.any() else float("nan")
    unlabelled = Interval(float(np.clip(estimate, low, high)), low, high)

    counts = _class_counts(pool, predicted, probs.shape[1], labels, right, size)
    by_class, balanced = _of_classes(counts, alpha if look is None else alpha / (look * (look + 1)))
    labelled_right = int(counts.labelled_right.sum())
    whole = [(labelled_right + size * v) / len(pool.ids) for v in (unlabelled.estimate, low, high)]
    return Assessment(
        accuracy=whole[0],
        low=whole[1],
        high=whole[2],
        deviation=_deviation(int(right.sum()), int(answered.sum()), size) * size / len(pool.ids),
        level=level,
        method=method,
        audits=len(labels),
        skipped=int((~answered).sum()),
        pool=len(pool.ids),
        labelled=len(pool.ids) - size,
        labelled_right=labelled_right,
        unlabelled=unlabelled,
        balanced=balanced,
        by_class=by_class,
    )


def alpha_of_round(alpha: float, round: int) -> float:
    """alpha / (t (t + 1)) for round t = 1, 2, ...: sums to alpha. Raises ValueError for t < 1."""
    if round < 1:
        raise ValueError(f"rounds and looks are numbered from 1, not {round}")
    return alpha / (round * (round + 1))


def _method(population: NDArray[np.float64], planned: int, look: int | None) -> str:
    """Which bounds to use, from f over the unlabelled samples and the number of audits: fixed before any answer.

    One look counts hits exactly, without f: bets on Z pay about 1.4 times the exact interval's width, so Z would need
    half the variance of the hits, and confidences of networks explain less.
    """
    if look is None:
        return "hypergeometric"
    spread = population.min() < population.max()
    return "prediction_powered" if spread and planned >= PREDICTIONS_DRAWS else "betting"


def _exact(
    right: NDArray[np.bool_], answered: NDArray[np.bool_], size: int, alpha: float
) -> tuple[float, float, float]:
    """(low, high, estimate) of acc_U at one look."""
    hits, drawn, skipped = int(right.sum()), len(right), int((~answered).sum())
    low = int(lower_count(hits, drawn, size, alpha / 2)[0]) / size
    high = int(upper_count(hits + skipped, drawn, size, alpha / 2)[0]) / size
    return low, high, hits / (drawn - skipped) if drawn > skipped else float("nan")


def _deviation(hits: int, answered: int, size: int) -> float:
    """sqrt(p (1 - p) / n (U - n) / (U - 1)), p = (k + 1) / (n + 2): of acc_U; that of a coin where n = 0."""
    share = (hits + 1) / (answered + 2)
    left = (size - answered) / max(size - 1, 1)
    return float((share * (1 - share) * left / max(answered, 1)) ** 0.5)


def _of_classes(counts: ClassCounts, alpha: float) -> tuple[tuple[Interval, ...], Interval]:
    low, high = class_bounds(counts, alpha)
    estimates = counts.estimates()
    by_class = tuple(
        Interval(float(np.clip(e, a, b)), float(a), float(b)) for e, a, b in zip(estimates, low, high, strict=True)
    )
    least, most = balanced_bounds(counts, alpha)
    seen = estimates[~np.isnan(estimates)]
    mean = float(np.clip(seen.mean(), least, most)) if len(seen) else float("nan")
    return by_class, Interval(mean, least, most)


def _class_counts(
    pool: Pool,
    predicted: NDArray[np.int64],
    classes: int,
    labels: NDArray[np.int64],
    right: NDArray[np.bool_],
    size: int,
) -> ClassCounts:
    targets = pool.labels.numpy()
    hits = predicted[torch.searchsorted(pool.ids, pool.labelled_ids).numpy()] == targets
    return ClassCounts(
        audits=np.bincount(labels[labels >= 0], minlength=classes),
        right=np.bincount(labels[right], minlength=classes),
        labelled=np.bincount(targets, minlength=classes),
        labelled_right=np.bincount(targets[hits], minlength=classes),
        skipped=int((labels < 0).sum()),
        unlabelled=size,
    )


def _predictions(probs: Tensor, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The predicted classes (N,) and their probabilities (N,)."""
    if probs.ndim != 2 or len(probs) != count or not bool(probs.isfinite().all()):
        raise ValueError(f"probs must be ({count}, C), finite, a row for each id of the pool, not {tuple(probs.shape)}")
    confidence, predicted = probs.double().cpu().max(1)
    if not 0 <= float(confidence.min()) <= float(confidence.max()) <= 1 + 1e-6:
        raise ValueError("probs must be class probabilities: apply softmax to logits")
    return predicted.numpy(), confidence.clamp(max=1.0).numpy()


def _rows(pool: Pool, audits: Tensor) -> NDArray[np.int64]:
    """Rows of the audits (n,) in tensors over the pool."""
    ids = torch.as_tensor(audits, dtype=torch.long)
    if ids.ndim != 1 or len(ids.unique()) != len(ids):
        raise ValueError("audits must be a list of ids without repeats")
    if not bool(torch.isin(ids, pool.unlabelled_ids).all()):
        raise ValueError("audits must be unlabelled samples of the pool: assess before their labels are trained on")
    return torch.searchsorted(pool.ids, ids).numpy()


def _labels(answers: Sequence[int | None], rows: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The answers (T,) as class indices, -1 for a skipped audit."""
    if not 1 <= len(answers) <= len(rows):
        raise ValueError(f"{len(answers)} answers were given for {len(rows)} audits: give those of the first audits")
    labels = np.array([-1 if answer is None else int(answer) for answer in answers], dtype=np.int64)
    for answer, label in zip(answers, labels, strict=True):
        if answer is not None and not 0 <= label < classes:
            raise ValueError(f"{label} is no class: answers are 0 to {classes - 1}, or None for a skipped audit")
    return labels


def _alpha(level: float, round: int | None, look: int | None) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if look is not None and look < 1:
        raise ValueError(f"rounds and looks are numbered from 1, not {look}")
    return 1 - level if round is None else alpha_of_round(1 - level, round)
