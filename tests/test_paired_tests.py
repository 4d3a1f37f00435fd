"""Signed-rank p-values by all 2^n signs and by SciPy's, Holm by hand, Student's interval by its definition."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.framework.reporting.paired_tests import holm, signed_rank_p, t_interval


def by_all_signs(differences: list[float]) -> float:
    """The definition: of all 2^n signs, the share whose W lies as far from its middle as the observed one."""
    ranks = []
    for d in differences:
        below = sum(abs(o) < abs(d) for o in differences)
        equal = sum(abs(o) == abs(d) for o in differences)
        ranks.append(0.0 if d == 0 else below + (equal + 1) / 2)
    middle = sum(ranks) / 2
    observed = abs(sum(r for r, d in zip(ranks, differences, strict=True) if d > 0) - middle)
    far = 0
    for signs in itertools.product((0, 1), repeat=len(ranks)):
        far += abs(sum(s * r for s, r in zip(signs, ranks, strict=True)) - middle) >= observed
    return far / 2 ** len(ranks)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_p_value_is_exact_with_ties_and_zeros(differences: list[int]) -> None:
    assert signed_rank_p([float(d) for d in differences]) == pytest.approx(by_all_signs(differences), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5, 12, 25, 50])
def test_without_ties_it_is_scipys_exact(count: int) -> None:
    generator = np.random.default_rng(count)
    for shift in (0.0, 0.5, 2.0):
        d = generator.normal(shift, 1.0, count)
        theirs = stats.wilcoxon(d, method="exact").pvalue
        assert signed_rank_p(d.tolist()) == pytest.approx(float(theirs), rel=1e-9)


def test_bounds_and_symmetry_of_the_p_value() -> None:
    assert signed_rank_p([3.0, 1.0, 2.0, 5.0, 9.0]) == 2 / 32  # five of one sign: the least that five can give
    assert signed_rank_p([1.0] * 60) == pytest.approx(2.0**-59, rel=1e-12)
    assert signed_rank_p([0.0, 0.0]) == 1.0
    d = [0.3, -1.2, 2.2, 0.7, 0.7]
    assert (
        signed_rank_p(d)
        == signed_rank_p([-x for x in d])
        == signed_rank_p(d[::-1])
        == signed_rank_p([9 * x for x in d])
    )
    # 0.1 + 0.2 - 0.3 is rounding, and neither a difference nor its sign.
    assert signed_rank_p([0.1 + 0.2 - 0.3, 1.0, 2.0]) == signed_rank_p([0.0, 1.0, 2.0])
    # Pratt: zeros take the lowest ranks, so that the others weigh more alike: W of (2, 3) beside 1, not of (1, 2).
    assert signed_rank_p([0.0, 1.0, -2.0, 3.0]) == by_all_signs([0.0, 1.0, -2.0, 3.0]) == 0.75
    for bad in ([], [math.nan], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            signed_rank_p(bad)


def test_holm_by_hand() -> None:
    # Sorted 0.005 0.01 0.03 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04, and none may fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-15
    for (p, q), (r, s) in itertools.product(zip(p_values, corrected, strict=True), repeat=2):
        assert p >= r or q <= s
    assert min(corrected) == pytest.approx(min(1.0, len(p_values) * min(p_values)))


def test_the_interval_holds_its_mean_with_the_level_it_says() -> None:
    d = [1.0, 2.0, 4.0, 5.0]
    low, high = t_interval(d) or (0.0, 0.0)
    # t of 3 degrees of freedom at 97.5 %: 3.182 in every table.
    half = 3.18244630528 * statistics.stdev(d) / 2
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert t_interval([1.0]) is None
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        ends = t_interval(generator.normal(0.7, 2.0, 6).tolist(), level=0.8)
        inside += ends is not None and ends[0] < 0.7 < ends[1]
    assert inside / 400 == pytest.approx(0.8, abs=0.06)  # three standard errors of a share of 400
    with pytest.raises(ValueError, match="level"):
        t_interval(d, level=1.0)
