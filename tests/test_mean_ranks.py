"""Ranks by counting, Friedman by SciPy's, critical values by Demsar's table and his example of four methods."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from experiments.framework.reporting.mean_ranks import critical_difference, friedman, ranks

# Ranks of 4 methods on 14 data sets: Demsar, JMLR 2006, table 6.
DEMSAR = np.array(
    [
        *((4, 3, 2, 1), (1, 2, 3, 4), (4, 1, 2, 3), (4, 1, 3, 2), (4, 2, 3, 1), (1, 2.5, 4, 2.5), (3, 2, 4, 1)),
        *((2.5, 2.5, 4, 1), (4, 3, 2, 1), (2.5,) * 4, (4, 2.5, 1, 2.5), (3, 2, 4, 1), (4, 1, 2, 3), (3, 1, 4, 2)),
    ]
)
SMALL = arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(3, 5)), elements=st.integers(0, 4))


@given(SMALL)
def test_a_rank_is_how_many_are_better_and_half_of_the_equal(scores: np.ndarray) -> None:
    table = ranks(scores)
    for row, own in zip(scores, table, strict=True):
        for score, rank in zip(row, own, strict=True):
            assert rank == sum(row > score) + (sum(row == score) + 1) / 2
    assert (table.sum(axis=1) == scores.shape[1] * (scores.shape[1] + 1) / 2).all()


def test_rounding_makes_no_rank() -> None:
    np.testing.assert_array_equal(ranks(np.array([[0.1 + 0.2, 0.3, 0.2]])), [[1.5, 1.5, 3.0]])
    for bad in (np.zeros(3), np.zeros((0, 3)), np.array([[1.0, math.nan]])):
        with pytest.raises(ValueError, match="finite scores"):
            ranks(bad)


@given(SMALL)
def test_friedman_is_its_formula(scores: np.ndarray) -> None:
    table = ranks(scores)
    (tasks, methods), statistic = table.shape, friedman(table)[0]
    if all(len(set(row)) == 1 for row in scores.tolist()):
        assert friedman(table) == (0.0, 1.0)  # SciPy divides by zero here
        return
    squares = sum((sum(row[k] for row in table) / tasks) ** 2 for k in range(methods))
    ties = sum(list(row).count(rank) ** 3 - list(row).count(rank) for row in table for rank in set(row))
    untied = 1 - ties / (tasks * (methods**3 - methods))
    expected = 12 * tasks / (methods * (methods + 1)) * (squares - methods * (methods + 1) ** 2 / 4) / untied
    assert statistic == pytest.approx(expected, abs=1e-9)
    assert friedman(table)[1] == pytest.approx(float(stats.chi2.sf(expected, methods - 1)), abs=1e-9)


def test_friedman_needs_three_methods() -> None:
    with pytest.raises(ValueError, match="three or more"):
        friedman(ranks(np.zeros((4, 2))))


def test_demsars_example() -> None:
    table = ranks(-DEMSAR)
    np.testing.assert_array_equal(table, DEMSAR)  # ranks of ranks are the ranks
    np.testing.assert_allclose(table.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    # He does not correct for ties: chi^2 = 9.28; 3 rows have two equal, one has four.
    untied = 1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * (4**3 - 4))
    assert friedman(table)[0] * untied == pytest.approx(9.28, abs=0.005)
    # His critical differences of this table: 1.25 at 0.05, 1.12 at 0.10.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=0.005)


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.05, (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)),
        (0.10, (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)),
    ],
)
def test_critical_values_are_those_of_demsars_table(alpha: float, published: tuple[float, ...]) -> None:
    for methods, q in enumerate(published, start=2):
        one_task = critical_difference(methods, 1, alpha=alpha)
        # His table was made from a printed one of two decimals: 2.343 is 3.314 / sqrt 2.
        assert one_task / math.sqrt(methods * (methods + 1) / 6) == pytest.approx(q, abs=1.1e-3)
    assert critical_difference(7, 36, alpha=alpha) == pytest.approx(critical_difference(7, 9, alpha=alpha) / 2)


def test_two_methods_are_a_normal_test() -> None:
    # Mean ranks of two methods differ by 2 S / T - 1, of a binomial S: at most z sqrt(1 / T) for large T.
    assert critical_difference(2, 25) == pytest.approx(float(stats.norm.ppf(0.975)) / 5, rel=1e-6)
    for bad in ((1, 5, 0.05), (3, 0, 0.05), (3, 5, 1.0)):
        with pytest.raises(ValueError, match="critical difference"):
            critical_difference(bad[0], bad[1], alpha=bad[2])
