"""The permutation test against MMD^2 of explicitly relabelled samples, its level under the null, and the A-distance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dan.mmd import MultiKernel, TwoSampleTest, a_distance, median_bandwidth, mmd2, permutation_test


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int, m: int, f: int, seed: int = 0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64)
    return x, y + shift


def by_relabelling(x: Tensor, y: Tensor, kernel: MultiKernel, permutations: int, seed: int) -> TwoSampleTest:
    """The plain twin: the pooled rows are shuffled, and MMD^2 is computed anew from its own loop over pairs."""
    n, m, z, generator = len(x), len(y), torch.cat([x, y]), seeded(seed)
    k = kernel.of_squared_distances((z[:, None] - z).square().sum(2))

    def value(rows: Tensor) -> float:
        inside = set(rows.tolist())
        xx = yy = xy = 0.0
        for i in range(n + m):
            for j in range(n + m):
                if i != j:
                    both, none = i in inside and j in inside, i not in inside and j not in inside
                    xx, yy = xx + both * float(k[i, j]), yy + none * float(k[i, j])
                    xy += (i in inside and j not in inside) * float(k[i, j])
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    observed = value(torch.arange(n))
    null = [value(torch.randperm(n + m, generator=generator)[:n]) for _ in range(permutations)]
    extreme = sum(one >= observed - 1e-12 for one in null)
    return TwoSampleTest(observed, (1 + extreme) / (1 + permutations), torch.tensor(null, dtype=torch.float64))


@settings(max_examples=15)
@given(n=st.integers(2, 7), m=st.integers(2, 7), f=st.integers(1, 3), seed=st.integers(0, 1000))
def test_equals_mmd2_of_relabelled_samples(n: int, m: int, f: int, seed: int) -> None:
    x, y = sample(n, m, f, seed)
    kernel = MultiKernel([0.5, 4.0], [0.3, 0.7])  # type: ignore[arg-type]
    test = permutation_test(x, y, kernel, permutations=9, generator=seeded(seed))
    twin = by_relabelling(x, y, kernel, 9, seed)
    torch.testing.assert_close(test.null, twin.null, rtol=1e-10, atol=1e-12)
    assert test.statistic == pytest.approx(twin.statistic, rel=1e-10, abs=1e-12)
    assert test.statistic == pytest.approx(float(mmd2(x, y, kernel)), rel=1e-10, abs=1e-12)
    assert test.p_value == twin.p_value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_more_samples_than_a_tile(dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in sample(1300, 900, 4, shift=0.05))
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    test = permutation_test(x, y, kernel, permutations=5, generator=seeded(3))
    z, generator = torch.cat([x, y]).double(), seeded(3)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-7
    assert test.statistic == pytest.approx(float(mmd2(z[:1300], z[1300:], kernel)), abs=tolerance)
    for value in test.null.tolist():
        order = torch.randperm(2200, generator=generator)
        assert value == pytest.approx(float(mmd2(z[order[:1300]], z[order[1300:]], kernel)), abs=tolerance)


def test_level_under_the_null_and_the_unbiased_estimate_averages_to_zero() -> None:
    """1,000 repeats at level 5 %: a binomial count, of which 99 % lie in [33, 69]."""
    repeats = 1000
    rejections, values, inside = 0, [], 0
    for seed in range(repeats):
        x, y = sample(20, 16, 2, seed, shift=0.0)
        test = permutation_test(
            x, y, MultiKernel.ladder(median_bandwidth(x, y)), permutations=99, generator=seeded(seed)
        )
        rejections += test.p_value <= 0.05
        values.append(test.statistic)
        low, high = test.band
        inside += low <= test.statistic <= high
    assert 33 <= rejections <= 69
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(repeats)
    # With 99 relabellings the quantiles lie between their order statistics, at ranks 3.45 and 96.55 of 100: 93.1 %.
    assert 910 <= inside <= 951


def test_power_against_a_difference() -> None:
    x, y = sample(40, 40, 2, shift=1.0)
    test = permutation_test(x, y, MultiKernel.ladder(median_bandwidth(x, y)), permutations=199, generator=seeded(0))
    assert test.p_value == 1 / 200 and test.statistic > test.band[1]


def test_equal_values_count_against_a_difference() -> None:
    """When all points are equal, or all far apart, no labelling is more extreme than another: p is 1, not luck."""
    x = torch.full((6, 3), 0.1)
    far = torch.arange(11, dtype=torch.float32)[:, None] * 1e3
    for a, b in ((x, x[:5]), (far[:6], far[6:])):
        test = permutation_test(a, b, MultiKernel.of([0.3, 1.0]), permutations=50, generator=seeded(0))
        assert test.p_value == 1.0
        assert test.statistic == pytest.approx(0, abs=1e-12)
    # Two against two: x | y and y | x have the same MMD^2, a third of all labellings.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [6.0]])
    p = permutation_test(x, y, MultiKernel.of([4.0]), permutations=2000, generator=seeded(0)).p_value
    assert p == pytest.approx(1 / 3, abs=0.05)


def test_the_generator_alone_decides() -> None:
    x, y = sample(10, 8, 2)
    kernel = MultiKernel.of([2.0])
    first, again, other = (permutation_test(x, y, kernel, permutations=20, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.null, again.null) and not torch.equal(first.null, other.null)
    quantiles = np.quantile(first.null.numpy(), [0.025, 0.975])
    assert first.band == pytest.approx(tuple(quantiles))


def test_a_distance_of_separated_domains_is_two() -> None:
    x, y = sample(50, 30, 4, shift=50.0)
    assert a_distance(x, y) == 2.0
    assert a_distance(x.float() * 1e-6 + 1, y.float() * 1e-6 + 1) == 2.0  # standardised: neither unit nor offset count


def test_a_distance_of_one_distribution_scatters_around_zero() -> None:
    """Held-out errors of unequal domains that are the same average to one half: neither memory nor imbalance shows."""
    values = [a_distance(*sample(60, 20, 10, seed, shift=0.0), seed=seed) for seed in range(60)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert error < 0.06 and min(values) < 0 < max(values)


def test_a_distance_of_two_gaussians_is_that_of_the_best_line() -> None:
    """N(0, 1) and N(s, 1): the best threshold errs with probability Phi(-s/2)."""
    shift = 1.5
    x, y = sample(4000, 2000, 1, shift=shift)
    best = 0.5 * math.erfc(shift / 2 / math.sqrt(2))
    scatter = 4 * math.sqrt(best * (1 - best) * (1 / 4000 + 1 / 2000) / 4)
    assert a_distance(x, y) == pytest.approx(2 * (1 - 2 * best), abs=4 * scatter)
    assert a_distance(x, y, folds=5) == pytest.approx(2 * (1 - 2 * best), abs=4 * scatter)
    assert a_distance(x, y, seed=0) == a_distance(x, y) != a_distance(x, y, seed=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y, k: permutation_test(x[:1], y, k, generator=seeded(0)), "at least 2 samples"),
        (lambda x, y, k: permutation_test(x, y[:1], k, generator=seeded(0)), "at least 2 samples"),
        (lambda x, y, k: permutation_test(x, y[:, :1], k, generator=seeded(0)), r"\(N, F\)"),
        (lambda x, y, k: permutation_test(x, y, k, permutations=0, generator=seeded(0)), "at least one"),
        (lambda x, y, k: permutation_test(x * math.nan, y, k, generator=seeded(0)), "NaN"),
        (lambda x, y, k: a_distance(x[:3], y), "at least 4 samples"),
        (lambda x, y, k: a_distance(x, y[:5], folds=3), "at least 6 samples"),
        (lambda x, y, k: a_distance(x, y, folds=1), "at least 2 folds"),
        (lambda x, y, k: a_distance(x, y[0]), r"\(N, F\)"),
        (lambda x, y, k: a_distance(x * math.inf, y), "infinite"),
    ],
)
def test_bad_input_is_one_clear_line(call, words: str) -> None:  # type: ignore[no-untyped-def]
    x, y = sample(8, 8, 2)
    with pytest.raises(ValueError, match=words) as caught:
        call(x, y, MultiKernel.of([1.0]))
    assert "\n" not in str(caught.value)
