"""Accuracy as a function of the number of labels: a family of curves, and a prior over it learned from finished runs.

    acc(n) = 1 - e (r + (1 - r) (1 + x / s)^(-c)),    x = n / N        = a + b (n + s N)^(-c), a = 1 - e r, b < 0

e > 0 is the error without labels, r in (0, 1) the share of it that no number of labels removes, s > 0 and c > 0 say how
fast the rest falls: a power law that is finite at n = 0, and never rises in error. N is the size of the pool; a pool
twice as large takes about twice the labels (on the published records, the share of the pool predicts better than n).

    measured error at n_i = (1 - acc(n_i)) + noise,  var_i = (tau h_i)^2 + h_i (1 - h_i) / (k N) + sd_i^2

with h_i the measured error, at least 1 / N; tau and k are how much one training differs from the next, learned with the
prior; sd_i is how exactly the accuracy was measured (0 on the whole pool). The prior is normal in theta = (logit r,
log s, log c), and flat in e, over which the likelihood is integrated in closed form.

Fitted by Monte Carlo EM (Wei and Tanner, JASA 1990), with the posterior of each run by importance sampling from the
present prior. Power laws of learning curves: e.g. Viering and Loog, "The Shape of Learning Curves", TPAMI 2023.

Shapes: T points of a run; M draws of theta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

START_MEAN, START_SD = (-2.0, -3.5, 0.0), (2.0, 1.5, 0.7)  # of the EM
FLOOR = 1e-3  # added to the variances of the prior, so that it never collapses
STEPS = 12
NOISES = tuple((tau, k) for tau in (0.05, 0.1, 0.15) for k in (1.5, 3.0, 6.0))  # that the records choose from


@dataclass(frozen=True)
class Points:
    """What one run measured. labels (T,), ascending; errors (T,) in [0, 1]; pool: N; deviations sd (T,) of the errors
    as measurements, 0 where they are exact."""

    labels: Floats
    errors: Floats
    pool: int
    deviations: Floats

    @classmethod
    def of(
        cls,
        labels: Sequence[float],
        accuracies: Sequence[float],
        pool: int,
        deviations: Sequence[float] | None = None,
    ) -> Points:
        """From lists. Raises ValueError for lists of different lengths, no points, and numbers out of range."""
        sd = [0.0] * len(labels) if deviations is None else deviations
        n, errors, spread = np.array(labels, float), 1 - np.array(accuracies, float), np.array(sd, float)
        if not len(n) or not len(n) == len(errors) == len(spread):
            raise ValueError(
                "labels, accuracies and deviations must be lists of the same length, of at least one point"
            )
        if not (n[0] >= 0 and (np.diff(n) > 0).all() and n[-1] <= pool):
            raise ValueError(f"labels must ascend from 0 or more to at most the pool's {pool} samples")
        if not ((errors >= 0) & (errors <= 1) & (spread >= 0) & np.isfinite(spread)).all():
            raise ValueError("accuracies must lie in [0, 1], and deviations be 0 or more")
        return cls(n, errors, pool, spread)


@dataclass(frozen=True)
class Prior:
    """mean (3,) and covariance (3, 3) of theta; tau and k of the noise; runs: how many it was learned from."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    tau: float
    k: float
    runs: int

    def draws(self, count: int) -> Floats:
        """theta (count, 3): the normal distribution at the points of a Sobol sequence. Deterministic."""
        return np.array(self.mean) + normal_points(count, 3) @ np.linalg.cholesky(np.array(self.covariance)).T


def normal_points(count: int, dimensions: int) -> Floats:
    """Standard normal quantiles (count, dimensions) at the points of a Sobol sequence, count a power of 2."""
    points = torch.quasirandom.SobolEngine(dimensions).draw(count, dtype=torch.float64)
    quantiles: Floats = torch.special.ndtri(points + 0.5 / count).numpy()  # the first point is 0: it has no quantile
    return quantiles


def shape(theta: Floats) -> tuple[Floats, Floats, Floats]:
    """r, s and c, (M,) each, of theta (M, 3)."""
    return 1 / (1 + np.exp(-theta[:, 0])), np.exp(theta[:, 1]), np.exp(theta[:, 2])


def shares(theta: Floats, x: Floats) -> Floats:
    """r + (1 - r) (1 + x / s)^(-c), the share of the first error that is left: (M, T) for theta (M, 3) and x (T,)."""
    r, s, c = shape(theta)
    r, s, c = r[:, None], s[:, None], c[:, None]
    left: Floats = r + (1 - r) * np.exp(-c * np.log1p(x / s))
    return left


def posterior(theta: Floats, points: Points, tau: float, k: float) -> tuple[Floats, Floats, Floats]:
    """log likelihood (M,), with e integrated out; the mean (M,) of e; and its standard deviation (M,), given theta."""
    curve = shares(theta, points.labels / points.pool)
    height = np.maximum(points.errors, 1 / points.pool)
    variance = (tau * height) ** 2 + height * (1 - height) / (k * points.pool) + points.deviations**2
    variance = np.maximum(variance, 1e-12)  # an accuracy of 0 has none
    squares = (curve**2 / variance).sum(1)
    mixed = (curve * points.errors / variance).sum(1)
    rest = (points.errors**2 / variance).sum() - mixed**2 / squares
    logs = -0.5 * (rest + np.log(squares) + np.log(variance).sum())
    return logs, mixed / squares, 1 / np.sqrt(squares)


def fit_prior(runs: Sequence[Points], draws: int = 2048) -> Prior:
    """The prior of these runs; of NOISES the pair (tau, k) under which they are likeliest. Deterministic.

    draws: M, a power of 2. Seconds for a hundred runs. Raises ValueError for fewer than 10 runs.
    """
    if len(runs) < 10:
        raise ValueError(f"a prior needs at least 10 runs, not {len(runs)}")
    return max((_em(runs, tau, k, draws) for tau, k in NOISES), key=lambda fitted: fitted[1])[0]


def _em(runs: Sequence[Points], tau: float, k: float, draws: int) -> tuple[Prior, float]:
    """The prior for this noise, and the log likelihood of the runs under it."""
    mean, covariance = np.array(START_MEAN), np.diag(np.array(START_SD) ** 2)
    for step in range(STEPS + 1):
        prior = Prior(tuple(mean.tolist()), tuple(map(tuple, covariance.tolist())), tau, k, len(runs))
        theta = prior.draws(draws)
        logs = np.stack([posterior(theta, run, tau, k)[0] for run in runs])  # (runs, M)
        evidence = np.logaddexp.reduce(logs, axis=1, keepdims=True)
        if step < STEPS:
            weights = np.exp(logs - evidence).mean(0)
            mean = weights @ theta
            covariance = (weights[:, None] * (theta - mean)).T @ (theta - mean) + FLOOR * np.eye(3)
    return prior, float(evidence.sum())
