"""A confidence sequence for the share of right answers in a finite population: bounds that hold at all looks at once.

Item t is drawn uniformly from those left. X_t in {0, 1} is whether the network is right on it, and f_t in [0, 1] is a
guess of that (its confidence). U items in all; if their mean is m, those left before draw t have the mean

    mu_t(m) = (U m - sum_{s<t} X_s) / (U - t + 1),        and g_t = mean of f over those left, which is known.

    Z_t = X_t - rho_t (f_t - g_t)                      prediction-powered: E[Z_t | past] = mu_t(m), whatever f is worth
    W_t(m) = mean_j prod_{s<=t} (1 + lambda_js (Z_s - mu_s(m)))             with rho_t, lambda_jt chosen before draw t

Under the true m, W is a nonnegative martingale that starts at 1, so P(max_t W_t >= 1 / alpha) <= alpha (Ville). The
lower bound after t draws is min {m : max_{s<=t} W_s(m) < 1 / alpha}; the upper one is that of the wrong answers.

Sources: Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement", NeurIPS 2020, and
"Estimating means of bounded random variables by betting", JRSS-B 2024 (sections 4 and 5); the control variate is that
of prediction-powered inference (Angelopoulos et al., Science 2023) with a coefficient learned from earlier draws only.

Shapes: T draws; J bets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# All of these change widths only; the bounds are valid with any of them.
BETS = (1.5, 3.0)  # lambda, in units of 1 / (sd of Z sqrt(planned draws)); sqrt(2 log(2 / 0.05)) = 2.7 is one look's
PRIOR_DRAWS, PRIOR_SHARE = 4.0, 0.8  # what the share of right answers is guessed from before there are draws
SLOPE_DRAWS, PRIOR_SLOPE = 10.0, 0.5  # likewise rho: a half, until the draws say how much f is worth
SPREAD_DRAWS, PRIOR_VARIANCE, PRIOR_RATIO = 10.0, 0.1, 0.8  # likewise var(X), and var(Z) / var(X)
REACH = 2.7  # normal quantiles from the guessed share to the m at which a bound is expected
STEPS = 32  # of bisection: the bound to 1e-9, on the safe side


@dataclass(frozen=True)
class Guesses:
    """What is known of f before any answer. drawn: f (T,) of the items in the order of the draw; the others describe f
    over the whole population of `size` items: its sum, its variance, its range."""

    drawn: Floats
    size: int
    total: float
    variance: float
    least: float
    most: float

    @classmethod
    def of(cls, population: Floats, drawn: Floats) -> Guesses:
        """From f of every item of the population (U,), and of those that were drawn (T,)."""
        least, most = float(population.min()), float(population.max())
        variance = float(population.var()) if least < most else 0.0
        return cls(drawn, len(population), float(population.sum()), variance, least, most)

    def flipped(self) -> Guesses:
        """1 - f: the guesses that the network is wrong."""
        total = self.size - self.total
        return Guesses(1 - self.drawn, self.size, total, self.variance, 1 - self.most, 1 - self.least)


@dataclass(frozen=True)
class Bets:
    """What was bet before each draw. z (T,): Z. stakes (J, T): lambda. least (T,): the least value that Z could take.
    before (T,): right answers of the earlier draws. size: U."""

    z: Floats
    stakes: Floats
    least: Floats
    before: Floats
    size: int

    def log_wealth(self, m: float) -> Floats:
        """log W_t(m), (T,); no stake is above 1 / (mu - least), so that wealth is never negative. It falls with m."""
        left = self.size - np.arange(len(self.z))  # U - t + 1
        mu = np.clip((self.size * m - self.before) / left, 0.0, 1.0)
        factors = 1 + np.minimum(self.stakes, 1 / np.maximum(mu - self.least, 1e-12)) * (self.z - mu)  # (J, T)
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(factors, 0.0)).cumsum(1)
        wealth: Floats = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))
        return wealth


def lower_bound(right: Floats, guesses: Guesses, planned: int, alpha: float, *, prior: float = PRIOR_SHARE) -> float:
    """The bound m_low in [0, 1] after T draws: P(m < m_low at any look) <= alpha.

    right: X (T,), 0 or 1, in the order of the draw. guesses: f; constant f gives the bound without predictions.
    planned: how many draws are planned, fixed before the first; the bound is valid at every number, and narrowest near
    that one. prior: a guess of m. Deterministic. Raises ValueError where right and guesses.drawn differ in length.
    """
    if right.shape != guesses.drawn.shape or right.ndim != 1:
        raise ValueError(f"{len(right)} answers were given for {len(guesses.drawn)} draws")
    if not right.any():
        return 0.0
    bets = place_bets(right, guesses, planned, prior)
    low, high = (right.sum() - 1e-9) / guesses.size, 1.0  # no population with fewer right ones gives this sample
    for _ in range(STEPS):
        middle = (low + high) / 2
        ruled_out = bets.log_wealth(middle).max() >= -np.log(alpha)
        low, high = (middle, high) if ruled_out else (low, middle)
    return float(low)


def upper_bound(right: Floats, guesses: Guesses, planned: int, alpha: float) -> float:
    """The bound m_high in [0, 1]: 1 - `lower_bound` of the wrong answers, with 1 - f for f."""
    return 1 - lower_bound(1 - right, guesses.flipped(), planned, alpha, prior=1 - PRIOR_SHARE)


def estimate(right: Floats, guesses: Guesses) -> float:
    """mean(X) - rho (mean f over the draws - mean f over the population), rho from all draws; in [0, 1]."""
    rho = _slopes(np.append(right, 0.0), np.append(guesses.drawn, 0.0), guesses, PRIOR_SHARE)[-1]
    return float(np.clip(right.mean() - rho * (guesses.drawn.mean() - guesses.total / guesses.size), 0.0, 1.0))


def place_bets(right: Floats, guesses: Guesses, planned: int, prior: float) -> Bets:
    """The bets against small m; those before draw t depend on the draws before t only."""
    f, size = guesses.drawn, guesses.size
    mean_left = (guesses.total - _before(f)) / (size - np.arange(len(right)))  # g_t
    rho = _slopes(right, f, guesses, prior)
    z = right - rho * (f - mean_left)
    share = _shares(right, prior)  # guess of m
    spread_x = SPREAD_DRAWS * PRIOR_VARIANCE + _before((right - share) ** 2)
    spread_z = SPREAD_DRAWS * PRIOR_VARIANCE * PRIOR_RATIO + _before((z - _shares(z, prior)) ** 2)
    ratio = np.clip(spread_z / spread_x, 0.3, 2.0) if guesses.variance > 0 else np.ones(len(right))
    # The m at which the bound is expected, as in Wilson's interval; var(X) is m (1 - m) there.
    widened = REACH**2 / planned
    centre, reach = share + widened / 2, np.sqrt(share * (1 - share) * widened + widened**2 / 4)
    m = (centre - reach) / (1 + widened)
    stakes = np.array(BETS)[:, None] / np.sqrt(m * (1 - m) * ratio * planned)
    return Bets(z, stakes, -rho * (guesses.most - mean_left), _before(right), size)


def _slopes(right: Floats, f: Floats, guesses: Guesses, prior: float) -> Floats:
    """rho (T,): the regression of X on f over the draws before t, shrunk to PRIOR_SLOPE; 0 for constant f."""
    if guesses.variance <= 0:
        return np.zeros(len(right))
    centred = f - guesses.total / guesses.size
    weight = SLOPE_DRAWS * guesses.variance
    both = PRIOR_SLOPE * weight + _before((right - _shares(right, prior)) * centred)
    slopes: Floats = np.clip(both / (weight + _before(centred**2)), 0.0, 2.0)
    return slopes


def _shares(values: Floats, prior: float) -> Floats:
    """Means (T,) of the values before t, with PRIOR_DRAWS draws of `prior` among them."""
    means: Floats = (_before(values) + PRIOR_DRAWS * prior) / (np.arange(len(values)) + PRIOR_DRAWS)
    return means


def _before(values: Floats) -> Floats:
    """Sums (T,) of the values before t."""
    return np.concatenate([[0.0], np.cumsum(values)[:-1]])
