"""Exact bounds on a finite population: against sums of fractions, against brute force, and their coverage, exactly."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
import torch

from active.assessment.classes import ClassCounts, balanced_bounds, class_bounds
from active.assessment.hypergeometric import lower_count, upper_count, upper_tail
from experiments.assessment_coverage.simulation import clopper_pearson

ALPHA = 0.05


def probability(x, n, k, u):
    """P(X = x), as a fraction."""
    return Fraction(comb(k, x) * comb(u - k, n - x), comb(u, n)) if 0 <= x <= k and n - x <= u - k else Fraction(0)


def tail(x, n, k, u):
    return float(sum(probability(j, n, k, u) for j in range(x, n + 1)))


def test_the_tail_is_the_sum_of_the_exact_probabilities():
    for u, n in ((7, 3), (12, 12), (9, 1), (30, 11)):
        for x, k in product(range(n + 1), range(u + 1)):
            assert upper_tail(x, n, k, u)[0] == pytest.approx(tail(x, n, k, u), rel=1e-11, abs=1e-300)


def test_the_tail_of_a_large_population():
    assert upper_tail(450, 500, 88_000, 100_000)[0] == pytest.approx(tail(450, 500, 88_000, 100_000), rel=1e-9)


@pytest.mark.parametrize(("u", "n"), [(20, 7), (31, 31), (60, 20), (45, 3)])
def test_bounds_are_the_last_counts_that_the_tails_allow(u, n):
    for x in range(n + 1):
        kept = [k for k in range(x, u - n + x + 1) if tail(x, n, k, u) > ALPHA / 2]
        assert lower_count(x, n, u, ALPHA / 2)[0] == min(kept)
        kept = [k for k in range(x, u - n + x + 1) if 1 - tail(x + 1, n, k, u) > ALPHA / 2]
        assert upper_count(x, n, u, ALPHA / 2)[0] == max(kept)


@pytest.mark.parametrize(("u", "n"), [(40, 10), (120, 30), (300, 50)])
def test_coverage_is_at_least_the_level_for_every_population(u, n):
    """Summed over all samples, not simulated; and a population exists where it is close: the bounds waste little."""
    x = np.arange(n + 1)
    low, high = lower_count(x, n, u, ALPHA / 2), upper_count(x, n, u, ALPHA / 2)
    misses = []
    for k in range(u + 1):
        below = sum(float(probability(int(i), n, k, u)) for i in x[low > k])
        above = sum(float(probability(int(i), n, k, u)) for i in x[high < k])
        assert below <= ALPHA / 2 + 1e-12 and above <= ALPHA / 2 + 1e-12
        misses.append(below + above)
    assert max(misses) > 0.6 * ALPHA


def test_intervals_are_inside_clopper_and_pearsons():
    for u, n in ((200, 40), (1000, 100), (5000, 300)):
        x = np.arange(n + 1)
        low, high = lower_count(x, n, u, ALPHA / 2) / u, upper_count(x, n, u, ALPHA / 2) / u
        wider = np.array([clopper_pearson(int(i), n, ALPHA) for i in x])
        # A bound is a multiple of 1 / U: it may lie that far outside.
        assert (low >= wider[:, 0] - 1 / u).all() and (high <= wider[:, 1] + 1 / u).all()
        assert (high - low).mean() < (wider[:, 1] - wider[:, 0]).mean()


def test_the_interval_of_the_whole_population_is_a_point():
    assert lower_count(3, 8, 8, 0.025)[0] == upper_count(3, 8, 8, 0.025)[0] == 3


def test_bounds_are_vectorised_over_populations():
    u = np.array([30, 50, 400])
    assert lower_count(9, 12, u, 0.05).tolist() == [int(lower_count(9, 12, int(v), 0.05)[0]) for v in u]


def test_impossible_counts_are_refused():
    for x, n, u in ((5, 4, 10), (-1, 4, 10), (1, 11, 10)):
        with pytest.raises(ValueError, match="0 <= right <= drawn <= population"):
            lower_count(x, n, u, 0.05)
    with pytest.raises(ValueError, match="alpha"):
        lower_count(1, 2, 3, 0.0)


# --- classes ----------------------------------------------------------------------------------------------------------


def counts_of(audits, right, labelled, labelled_right, unlabelled, skipped=0):
    arrays = [np.array(v, dtype=np.int64) for v in (audits, right, labelled, labelled_right)]
    return ClassCounts(*arrays, skipped, unlabelled)


def brute_class_lower(n, k, total, labelled, labelled_right, u, alpha):
    """Over all sizes of the class that n of total audits do not rule out, and all right ones that k does not."""
    worst = 1.0
    for size in range(n, u - (total - n) + 1):
        above, below = tail(n, total, size, u), 1 - tail(n + 1, total, size, u)
        if min(above, below) <= 0.1 * alpha / 2:
            continue
        least = min(hits for hits in range(k, size - n + k + 1) if tail(k, n, hits, size) > 0.9 * alpha / 2)
        worst = min(worst, (labelled_right + least) / (labelled + size))
    return worst


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 1), (5, 4), (6, 6), (9, 2)])
def test_the_bound_of_a_class_is_the_worst_over_its_sizes(n, k):
    counts = counts_of([n, 20 - n], [k, 10 - n], [3, 2], [2, 2], 60)
    low, high = class_bounds(counts, ALPHA)
    assert low[0] == pytest.approx(brute_class_lower(n, k, 20, 3, 2, 60, ALPHA), abs=1e-12)
    assert high[0] == pytest.approx(1 - brute_class_lower(n, n - k, 20, 3, 1, 60, ALPHA), abs=1e-12)


def test_blocks_of_sizes_only_widen(monkeypatch):
    counts = counts_of([40, 60], [35, 50], [5, 5], [5, 4], 3000)
    fine = class_bounds(counts, ALPHA)
    monkeypatch.setattr("active.assessment.classes.BLOCKS", 10**6)
    every = class_bounds(counts, ALPHA)
    assert (fine[0] <= every[0]).all() and (fine[1] >= every[1]).all()
    assert np.abs(fine[0] - every[0]).max() < 0.01 and np.abs(fine[1] - every[1]).max() < 0.01


def test_a_class_without_labels_has_no_estimate_and_the_widest_interval():
    counts = counts_of([30, 0], [28, 0], [4, 0], [4, 0], 200)
    low, high = class_bounds(counts, ALPHA)
    assert np.isnan(counts.estimates()[1]) and low[1] == 0 and high[1] == 1


def test_the_balanced_bound_is_close_to_the_best_and_on_its_safe_side():
    """Two classes, nothing labelled: over a grid of (p1, p2), those that Chernoff's bound does not rule out."""
    n, k, alpha = np.array([12, 30]), np.array([11, 24]), 0.9 * ALPHA / 2
    p = np.linspace(0, 1, 201)
    kept = np.ones((201, 201), dtype=bool)
    for scale in np.logspace(-1, 3, 200):
        theta = scale / n
        logs = [n[c] * np.log1p(p * np.expm1(theta[c])) - theta[c] * k[c] for c in range(2)]
        kept &= logs[0][:, None] + logs[1][None] >= np.log(alpha)
    best = ((p[:, None] + p[None]) / 2)[kept].min()
    low, _ = balanced_bounds(counts_of(n, k, [0, 0], [0, 0], 10**6), ALPHA)
    assert best - 0.01 <= low <= best + 0.005


def drawn_counts(targets, right, labelled, size, generator):
    free = np.setdiff1d(np.arange(len(targets)), labelled)
    drawn = free[torch.randperm(len(free), generator=generator).numpy()[:size]]
    classes = targets.max() + 1

    def of(rows):
        return np.bincount(targets[rows], minlength=classes)

    return ClassCounts(of(drawn), of(drawn[right[drawn]]), of(labelled), of(labelled[right[labelled]]), 0, len(free))


def test_coverage_by_class_and_balanced_where_labels_were_not_bought_at_random():
    """Four classes of 2 to 60 %; the labelled samples are mostly right ones, as after training on them."""
    rng = np.random.default_rng(0)
    targets = rng.choice(4, 400, p=[0.02, 0.1, 0.28, 0.6])
    right = rng.random(400) < np.array([0.6, 0.7, 0.9, 0.95])[targets]
    labelled = np.concatenate([np.flatnonzero(right)[:50], np.flatnonzero(~right)[:3]])
    truths = np.array([right[targets == c].mean() for c in range(4)])
    generator = torch.Generator().manual_seed(0)
    runs, misses, narrow = 250, np.zeros(5), 0.0
    for _ in range(runs):
        counts = drawn_counts(targets, right, labelled, 80, generator)
        low, high = class_bounds(counts, ALPHA)
        misses[:4] += (truths < low - 1e-12) | (truths > high + 1e-12)
        least, most = balanced_bounds(counts, ALPHA)
        misses[4] += not least <= truths.mean() <= most
        narrow += (most - least) / runs
    assert (misses <= 24).all()  # 0.1 % of the binomial with 250 and 0.05
    assert narrow < 0.5


def test_skipped_audits_widen_both_sides():
    answered = counts_of([10, 20], [9, 15], [0, 0], [0, 0], 300)
    skipped = counts_of([10, 20], [9, 15], [0, 0], [0, 0], 300, skipped=3)
    worst = counts_of([13, 20], [9, 15], [0, 0], [0, 0], 300)
    low, high = class_bounds(skipped, ALPHA)
    assert (low < class_bounds(answered, ALPHA)[0]).all() and (high >= class_bounds(answered, ALPHA)[1]).all()
    assert low[0] <= class_bounds(worst, ALPHA)[0][0] + 1e-12
    assert balanced_bounds(skipped, ALPHA)[0] < min(
        balanced_bounds(worst, ALPHA)[0], balanced_bounds(answered, ALPHA)[0]
    )
