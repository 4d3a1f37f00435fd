"""How many labels a curve needs to reach an accuracy.

    labels needed = n_i + (n_{i+1} - n_i) (target - a_i) / (a_{i+1} - a_i)     at the first i with a_{i+1} >= target

a_i is the test accuracy at n_i labels. A trial whose accuracy never gets there has no such number and enters no mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from experiments.framework.reporting.tables import difference


class Needed(NamedTuple):
    """Labels that each seed's trial of an arm needed; `never`: seeds that did not get there."""

    by_seed: dict[int, float]
    never: list[int]


def labels_to(target: float, labels: Sequence[int], accuracies: Sequence[float]) -> float | None:
    """Labels at which the line through the points first reaches the target; the first count where it is above already,
    None where it never is. ValueError unless `labels` increase."""
    if not labels or len(labels) != len(accuracies) or any(b <= a for a, b in pairwise(labels)):
        raise ValueError("labels_to needs accuracies at increasing numbers of labels")
    if accuracies[0] >= target:
        return float(labels[0])
    points = zip(labels, accuracies, strict=True)
    for (n, low), (more, high) in pairwise(points):
        if high >= target:
            return n + (more - n) * (target - low) / (high - low)
    return None


def num_trials(need: Needed) -> int:
    """Seeds of the arm."""
    return len(need.by_seed) + len(need.never)


def labels_saved(arm: Needed, base: Needed) -> dict[int, float]:
    """seed -> labels of the base minus labels of the arm, of the seeds that both have."""
    return difference(base.by_seed, arm.by_seed)


def cell_of(need: Needed) -> str:
    """Mean ± deviation in labels; where a trial never got there, that it did not, and what the others needed."""
    values = [f"{value:,.0f}" for value in need.by_seed.values()]
    if need.never:
        others = f"; the others {', '.join(values)}" if values else ""
        return f"not reached by {len(need.never)} of {num_trials(need)}{others}"
    spread = f" ± {statistics.stdev(need.by_seed.values()):,.0f}" if len(values) > 1 else ""
    return f"{statistics.fmean(need.by_seed.values()):,.0f}{spread}"
