"""How many labels are still missing? A forecast of the labels that a goal takes, from a run's own points and a prior.

    curve = fit_curve(labels, accuracies, pool)
    print(curve.labels_for(0.95))              # about 120 more labels for 95 % (80 %: 60 to 310 more)

The curve is a + b n^(-c) with a shift (`learning_curves`). Its posterior is a weighted sample of curves: draws of the
prior, weighted by the likelihood of the run's points. The labels for a goal g on one curve solve acc(n) = g:

    n = s N (((1 - g) / e - r) / (1 - r))^(-1 / c) - s N,     none if (1 - g) / e <= r, the present number if n is less

`forecast_prior.json` beside this file is the prior: `python -m experiments.forecast_prior` learns it from the published
records of arena and active_adaptation.

Shapes: M curves of the sample; T points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from active.learning_curves import Floats, Points, Prior, normal_points, posterior, shape, shares

Measure = Literal["pool", "held_out"]

FILE = Path(__file__).with_name("forecast_prior.json")
DRAWS = 4096
LEVEL = 0.8
UNLIKELY = 0.15  # a goal that the pool's labels reach with a smaller probability is called not reachable


@dataclass(frozen=True)
class Forecast:
    """The labels that a goal takes, those so far among them.

    labels: the median. low, high: the central interval of that level. Infinite where so many curves never get there.
    present: labels so far. pool: N. probability: that N labels or fewer reach the goal. reachable: whether that is at
    least UNLIKELY.
    """

    goal: float
    labels: float
    low: float
    high: float
    level: float
    present: int
    pool: int
    probability: float

    @property
    def reachable(self) -> bool:
        """Whether the goal is not given up."""
        return self.probability >= UNLIKELY

    def __str__(self) -> str:
        goal = f"{100 * self.goal:g} %"
        if not self.reachable:
            odds = f"probability {100 * self.probability:.0f} %, with all {self.pool} samples labelled"
            return f"{goal} is not reachable with this network ({odds})"
        median, low, high = (self._more(n) for n in (self.labels, self.low, self.high))
        if median == "0":
            return f"{goal} is reached (at most {high} more labels with probability {50 + 50 * self.level:.0f} %)"
        return f"about {median} more labels for {goal} ({100 * self.level:.0f} %: {low} to {high} more)"

    def _more(self, n: float) -> str:
        if n > self.pool:
            return f"over {self.pool - self.present}"
        return str(round(n - self.present))


@dataclass(frozen=True, eq=False)
class FittedCurve:
    """A weighted sample of curves. weights (M,), of sum 1; theta (M, 3) and start e (M,): see `learning_curves`.
    present: labels so far. pool: N."""

    weights: Floats
    theta: Floats
    start: Floats
    present: int
    pool: int

    def labels_for(self, goal: float, level: float = LEVEL) -> Forecast:
        """The labels that accuracy `goal` in (0, 1] takes. Raises ValueError for a goal or level out of range."""
        _check_level(level)
        if not 0 < goal <= 1:
            raise ValueError(f"the goal must be an accuracy between 0 and 1, not {goal}")
        r, s, c = shape(self.theta)
        left = ((1 - goal) / self.start - r) / (1 - r)
        with np.errstate(over="ignore"):
            x = s * np.expm1(-np.log(np.clip(left, 1e-300, 1.0)) / c)
            n = np.maximum(np.where(left > 0, x * self.pool, np.inf), self.present)
        low, median, high = self._quantiles(n, level)
        reached = float(self.weights[n <= self.pool].sum())
        return Forecast(goal, median, low, high, level, self.present, self.pool, reached)

    def accuracy_at(self, labels: Sequence[float], level: float = LEVEL) -> tuple[Floats, Floats, Floats]:
        """(low, median, high), each (T,): the curve's accuracy at these numbers of labels, with a band for each by
        itself. Raises ValueError for a level out of range."""
        _check_level(level)
        curves = 1 - self.start[:, None] * shares(self.theta, np.array(labels, float) / self.pool)
        low, median, high = zip(*(self._quantiles(column, level) for column in curves.T), strict=True)
        return np.array(low), np.array(median), np.array(high)

    def _quantiles(self, values: Floats, level: float) -> tuple[float, float, float]:
        order = values.argsort(kind="stable")
        rising = self.weights[order].cumsum()
        places = np.searchsorted(rising, np.array([1 - level, 1.0, 1 + level]) / 2).clip(max=len(values) - 1)
        low, median, high = values[order][places].tolist()
        return low, median, high


def fit_curve(
    labels: Sequence[float],
    accuracies: Sequence[float],
    pool: int,
    *,
    deviations: Sequence[float] | None = None,
    measure: Measure = "pool",
    prior: Prior | None = None,
) -> FittedCurve:
    """The posterior of a run's curve.

    labels, accuracies: the run's points (T,), one a round, labels ascending. pool: N, samples that could be labelled.
    deviations: standard deviations of the accuracies as measurements; for an interval of level 95 % its width / 3.92.
        None: they are exact.
    measure: what the accuracies are of: "pool" (all target samples, the labelled ones too) or "held_out" (new ones).
        The published prior of that measure is used, unless `prior` is given (`learning_curves.fit_prior`).
    Deterministic. Raises ValueError for lists that do not fit; see `Points.of`.
    """
    points = Points.of(labels, accuracies, pool, deviations)
    prior = published_prior(measure) if prior is None else prior
    theta = prior.draws(DRAWS)
    logs, mean, deviation = posterior(theta, points, prior.tau, prior.k)
    weights = np.exp(logs - logs.max())
    # A quantile a draw for e, by a coordinate of its own.
    start = np.clip(mean + deviation * normal_points(DRAWS, 4)[:, 3], 1e-6, 1.0)
    return FittedCurve(weights / weights.sum(), theta, start, int(points.labels[-1]), pool)


@cache
def published_prior(measure: Measure) -> Prior:
    """The prior that was learned from the published records. Raises ValueError for another measure."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    if measure not in content:
        raise ValueError(f'measure must be one of {", ".join(content)}, not "{measure}"')
    found = content[measure]
    covariance = tuple(tuple(row) for row in found["covariance"])
    return Prior(tuple(found["mean"]), covariance, found["tau"], found["k"], found["runs"])


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
