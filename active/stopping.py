"""When to stop asking for labels: the known rules, as functions of a run's history.

    rule(history, ...) -> bool       whether to stop after the last state of the history

A rule sees nothing but what is known at that time; accuracies are for `regret`, which judges a rule afterwards. None of
the rules without audits is best everywhere (Pullar-Strecker et al., arXiv 2110.03802); `certified` alone promises
anything: if its lower bounds hold at all rounds at once, the accuracy is at least the goal where it stops.

Shapes: N samples of a fixed set; U unlabelled samples; B samples of a batch; C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What is known after a training, before the next batch is trained on. A rule raises ValueError where it needs a
    field that is None.

    labelled: labels that the network has learned. predictions: its classes (N,) on a set of samples that is the same in
    all states, labelled or not. uncertainty: its entropies (U,) on the unlabelled samples, divided by log C, in [0, 1].
    batch_right: whether it was right (B,) on the batch that was then labelled. low: a lower bound of its accuracy.
    """

    labelled: int
    predictions: Tensor | None = None
    uncertainty: Tensor | None = None
    batch_right: Tensor | None = None
    low: float | None = None


Rule = Callable[[Sequence[State]], bool]


def stabilising_predictions(history: Sequence[State], *, agreement: float = 0.99, window: int = 3) -> bool:
    """The mean of the last `window` kappas is at least `agreement`; kappa of each network's predictions with the one
    before it (`cohen_kappa`).

    Bloodgood and Vijay-Shanker, CoNLL 2009 (0.99 and 3 are theirs), where the set of samples is drawn at random.
    """
    if len(history) <= window:
        return False
    predictions = [_needed(state.predictions, "predictions") for state in history[-window - 1 :]]
    kappas = [cohen_kappa(a, b) for a, b in zip(predictions[:-1], predictions[1:], strict=True)]
    return sum(kappas) / window >= agreement


def overall_uncertainty(history: Sequence[State], *, threshold: float = 0.05) -> bool:
    """The mean uncertainty of the unlabelled samples is at most `threshold`.

    Zhu, Wang and Hovy, Coling 2008 ("overall uncertainty"); the threshold depends on the task.
    """
    uncertainty = _needed(history[-1].uncertainty, "uncertainty")
    return not len(uncertainty) or float(uncertainty.double().mean()) <= threshold


def max_confidence(history: Sequence[State], *, threshold: float = 0.01) -> bool:
    """Even the most uncertain unlabelled sample has an uncertainty of at most `threshold`.

    Zhu and Hovy, EMNLP 2007 ("max-confidence"), with an entropy of 0.001; the threshold depends on the task.
    """
    uncertainty = _needed(history[-1].uncertainty, "uncertainty")
    return not len(uncertainty) or float(uncertainty.max()) <= threshold


def selected_accuracy(history: Sequence[State], *, threshold: float = 0.9) -> bool:
    """The network was right on a share of at least `threshold` of the batch that was labelled next.

    Zhu and Hovy, EMNLP 2007 ("min-error"); Zhu, Wang and Hovy, Coling 2008 ("selected accuracy"). A batch that was
    picked for its uncertainty is harder than the pool.
    """
    right = _needed(history[-1].batch_right, "batch_right")
    return len(right) > 0 and float(right.double().mean()) >= threshold


def certified(history: Sequence[State], *, goal: float) -> bool:
    """A lower bound of the network's accuracy reaches the goal.

    With the bounds of `active.assessment.assess(..., round=t)`, which hold at all rounds at once with the probability
    `level`, the accuracy is at least `goal` where this stops, with that probability.
    """
    low = history[-1].low
    if low is None:
        raise ValueError("this rule needs low, a lower bound of the accuracy: assess the run with audits")
    return low >= goal


# The rules that need no goal, by name.
RULES: dict[str, Rule] = {
    "stabilising_predictions": stabilising_predictions,
    "overall_uncertainty": overall_uncertainty,
    "max_confidence": max_confidence,
    "selected_accuracy": selected_accuracy,
}


def first_stop(rule: Rule, history: Sequence[State]) -> int | None:
    """The first position at which the rule stops, seeing the history up to there; None if it never does."""
    return next((i for i in range(len(history)) if rule(history[: i + 1])), None)


@dataclass(frozen=True)
class Regret:
    """labels: labels at the stop minus labels at the best moment; negative where it stopped too early. accuracy: the
    highest accuracy of the run minus that at the stop. stopped: whether the rule stopped; if not, the run's end
    counts."""

    labels: float
    accuracy: float
    stopped: bool


def regret(labels: Sequence[float], accuracies: Sequence[float], stop: int | None, tolerance: float = 0.01) -> Regret:
    """What a stop costs, in hindsight. The best moment is the first at most `tolerance` below the highest accuracy.

    Raises ValueError for lists that are empty or differ in length.
    """
    if not len(labels) == len(accuracies) > 0:
        raise ValueError(f"{len(labels)} numbers of labels were given for {len(accuracies)} accuracies")
    highest = max(accuracies)
    best = next(i for i, accuracy in enumerate(accuracies) if accuracy >= highest - tolerance)
    end = len(labels) - 1 if stop is None else stop
    return Regret(labels[end] - labels[best], highest - accuracies[end], stop is not None)


def cohen_kappa(first: Tensor, second: Tensor) -> float:
    """(p_o - p_e) / (1 - p_e) of two labellings (N,): p_o the share on which they agree, p_e = sum_c p_c q_c of their
    shares of the classes. 1 where both name one and the same class only.

    Raises ValueError for labellings that are empty or differ in length.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"kappa needs two lists of labels of the same length, not {len(first)} and {len(second)}")
    classes = 1 + int(max(first.max(), second.max()))
    p, q = (torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (first, second))
    chance = float((p * q).sum())
    agreed = float((first == second).double().mean())
    return 1.0 if math.isclose(chance, 1.0, abs_tol=1e-12) else (agreed - chance) / (1 - chance)


def _needed(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"this rule needs {name}, which this history does not have")
    return value
