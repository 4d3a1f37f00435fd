"""The confidence sequence: wealth is a fair game under the truth, exactly; coverage at all looks; widths."""

from itertools import permutations

import numpy as np
import pytest
import torch

from active.assessment.betting import Guesses, estimate, lower_bound, place_bets, upper_bound
from active.assessment.hypergeometric import lower_count, upper_count
from experiments.assessment_coverage.simulation import clopper_pearson

ALPHA = 0.05


def bounds(right, guess, drawn, planned, alpha=ALPHA):
    guesses = Guesses.of(guess, guess[drawn])
    x = right[drawn].astype(float)
    return lower_bound(x, guesses, planned, alpha / 2), upper_bound(x, guesses, planned, alpha / 2)


@pytest.mark.parametrize("guess", [[0.5] * 6, [0.9, 0.8, 0.7, 0.6, 0.2, 0.1], [0.1, 0.2, 0.3, 0.9, 0.99, 1.0]])
@pytest.mark.parametrize("right", [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
def test_wealth_is_fair_under_the_truth_whatever_the_guesses_are_worth(right, guess):
    """Its mean over all 720 orders of six items is 1 after every draw: no bet uses what comes later."""
    x, f = np.array(right, float), np.array(guess)
    wealth = []
    for order in permutations(range(6)):
        rows = list(order)
        bets = place_bets(x[rows], Guesses.of(f, f[rows]), 5, 0.8)
        wealth.append(np.exp(bets.log_wealth(x.mean())))
    means = np.mean(wealth, axis=0)
    assert np.abs(means - 1).max() < 1e-9
    assert np.std(wealth) > 0.1  # something was bet


def test_wealth_falls_with_the_mean_that_is_bet_against():
    rng = np.random.default_rng(3)
    right, guess = rng.random(200) < 0.8, rng.random(200)
    drawn = rng.permutation(200)[:60]
    bets = place_bets(right[drawn].astype(float), Guesses.of(guess, guess[drawn]), 60, 0.8)
    wealth = np.stack([bets.log_wealth(m) for m in np.linspace(right[drawn].sum() / 200, 1, 100)])
    assert (np.diff(wealth, axis=0)[:, np.isfinite(wealth[:-1]).all(0)] <= 1e-9).all()


def test_coverage_at_all_looks_where_a_single_looks_interval_fails():
    """The last interval is inside all earlier ones, so its coverage is that of all looks. The control, the exact
    interval looked at after every draw, misses far more often: the bound on misses can tell."""
    population = np.zeros(300, dtype=bool)
    population[:252] = True
    rng = np.random.default_rng(0)
    guess = np.clip(0.3 + 0.5 * population + 0.4 * rng.random(300), 0, 1)
    generator = torch.Generator().manual_seed(0)
    t = np.arange(1, 101)
    misses = {"plain": 0, "guesses": 0, "shuffled": 0, "one look": 0}
    runs = 200
    for _ in range(runs):
        drawn = torch.randperm(300, generator=generator).numpy()[:100]
        hits = population[drawn].cumsum()
        low, high = lower_count(hits, t, 300, ALPHA / 2), upper_count(hits, t, 300, ALPHA / 2)
        misses["one look"] += bool(((low > 252) | (high < 252)).any())
        for name, f in (("plain", np.zeros(300)), ("guesses", guess), ("shuffled", guess[::-1].copy())):
            low, high = bounds(population, f, drawn, 100)
            misses[name] += not low <= 0.84 <= high
    allowed = 20  # 0.1 % of the binomial with 200 and 0.05
    assert misses["one look"] > 2 * allowed
    assert max(misses["plain"], misses["guesses"], misses["shuffled"]) <= allowed


def test_the_last_interval_is_inside_the_earlier_ones():
    rng = np.random.default_rng(5)
    right, guess = rng.random(150) < 0.7, rng.random(150)
    drawn = rng.permutation(150)[:50]
    looks = np.array([bounds(right, guess, drawn[:count], 50) for count in range(1, 51)])
    assert (np.diff(looks[:, 0]) >= -1e-9).all() and (np.diff(looks[:, 1]) <= 1e-9).all()


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("draws", [20, 100, 500])
def test_widths_are_at_most_1_6_times_clopper_and_pearsons(share, draws):
    rng = np.random.default_rng(7)
    right = np.arange(5000) < share * 5000
    widths, exact = 0.0, 0.0
    for _ in range(12):
        drawn = rng.permutation(5000)[:draws]
        low, high = bounds(right, np.zeros(5000), drawn, draws)
        a, b = clopper_pearson(int(right[drawn].sum()), draws, ALPHA)
        widths, exact = widths + high - low, exact + b - a
    assert widths <= 1.6 * exact


def test_guesses_that_are_worth_something_narrow_and_worthless_ones_cost_little():
    rng = np.random.default_rng(2)
    right = rng.random(3000) < 0.85
    good = np.clip(np.where(right, 0.95, 0.45) + 0.05 * rng.standard_normal(3000), 0, 1)
    worthless = good[rng.permutation(3000)]
    widths = {"none": 0.0, "good": 0.0, "worthless": 0.0}
    for _ in range(15):
        drawn = rng.permutation(3000)[:200]
        for name, f in (("none", np.zeros(3000)), ("good", good), ("worthless", worthless)):
            low, high = bounds(right, f, drawn, 200)
            widths[name] += high - low
    assert widths["good"] < 0.75 * widths["none"]
    assert widths["worthless"] < 1.12 * widths["none"]


def test_right_and_wrong_are_symmetric():
    rng = np.random.default_rng(4)
    right, guess = rng.random(120) < 0.6, rng.random(120)
    drawn = rng.permutation(120)[:40]
    x = right[drawn].astype(float)
    upper = upper_bound(x, Guesses.of(guess, guess[drawn]), 40, 0.025)
    mirrored = lower_bound(1 - x, Guesses.of(1 - guess, 1 - guess[drawn]), 40, 0.025, prior=1 - 0.8)
    assert upper == pytest.approx(1 - mirrored, abs=1e-9)


def test_a_population_that_is_drawn_to_the_end_is_known():
    right = np.array([True, True, False, True, False, True, True, True])
    low, high = bounds(right, np.linspace(0, 1, 8), np.arange(8)[::-1].copy(), 8)
    assert low <= 0.75 <= high and high - low < 1e-6


def test_the_estimate_is_the_regression_estimator():
    guess = np.linspace(0, 1, 50)
    right = guess > 0.3
    drawn = np.arange(20, 50)  # too confident a sample: 30 of its 30 are right, 35 of 50 in the population
    plain = estimate(right[drawn].astype(float), Guesses.of(np.zeros(50), np.zeros(30)))
    assert plain == right[drawn].mean()
    assert estimate(right[drawn].astype(float), Guesses.of(guess, guess[drawn])) < plain


def test_nothing_right_has_the_lower_bound_0_and_no_draws_are_no_knowledge():
    assert lower_bound(np.zeros(5), Guesses.of(np.zeros(20), np.zeros(5)), 5, 0.05) == 0
    assert lower_bound(np.zeros(0), Guesses.of(np.zeros(20), np.zeros(0)), 5, 0.05) == 0
    with pytest.raises(ValueError, match="5 answers were given for 4 draws"):
        lower_bound(np.zeros(5), Guesses.of(np.zeros(20), np.zeros(4)), 5, 0.05)
