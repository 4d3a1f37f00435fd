"""Variances of the estimates: moments against loops over distinct indices, and their mean against every outcome."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from dan.mmd import MultiKernel, median_bandwidth, mmd2, mmd2_per_kernel, mmd2_variance, mmd2_variance_per_kernel
from dan.mmd.variance import _pair_sums

ESTIMATORS = ("unbiased", "biased", "linear")


def sample(n: int, m: int, f: int, seed: int = 0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64)
    return x, y + shift


def by_loops(x: Tensor, y: Tensor, kernel: MultiKernel, estimator: str) -> float:
    """The variance with each moment as a mean over tuples of distinct indices, one tuple at a time."""

    def gram(a: Tensor, b: Tensor) -> list[list[float]]:
        return kernel.of_squared_distances((a[:, None] - b).square().sum(2)).tolist()

    kx, ky, c = gram(x, x), gram(y, y), gram(x, y)
    n, m = len(x), len(y)

    def tuples(count: int, size: int) -> Sequence[tuple[int, ...]]:
        return list(itertools.permutations(range(count), size))

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def within(k: list[list[float]], size: int) -> float:
        squared_mean = mean([k[i][j] * k[p][q] for i, j, p, q in tuples(size, 4)])
        shared = mean([k[i][j] * k[i][p] for i, j, p in tuples(size, 3)]) - squared_mean
        whole = mean([k[i][j] ** 2 for i, j in tuples(size, 2)]) - squared_mean
        return (4 * (size - 2) * shared + 2 * whole) / (size * (size - 1))

    pairs_x, pairs_y = tuples(n, 2), tuples(m, 2)
    squared_mean = mean([c[i][j] * c[p][q] for i, p in pairs_x for j, q in pairs_y])
    given_x = mean([c[i][j] * c[i][q] for i in range(n) for j, q in pairs_y]) - squared_mean
    given_y = mean([c[i][j] * c[p][j] for i, p in pairs_x for j in range(m)]) - squared_mean
    whole = mean([c[i][j] ** 2 for i in range(n) for j in range(m)]) - squared_mean
    between = ((m - 1) * given_x + (n - 1) * given_y + whole) / (n * m)

    def covariance(k: list[list[float]], c: list[list[float]], n: int, m: int) -> float:
        shared = mean([k[i][j] * c[i][p] for i, j in tuples(n, 2) for p in range(m)])
        apart = mean([k[i][j] * c[q][p] for i, j, q in tuples(n, 3) for p in range(m)])
        return 2 / n * (shared - apart)

    transposed = [list(row) for row in zip(*c, strict=True)]
    a, b = ((n - 1) / n, (m - 1) / m) if estimator == "biased" else (1.0, 1.0)
    return (
        a**2 * within(kx, n)
        + b**2 * within(ky, m)
        + 4 * between
        - 4 * a * covariance(kx, c, n, m)
        - 4 * b * covariance(ky, transposed, m, n)
    )


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize(("n", "m", "count"), [(4, 4, 1), (5, 7, 3), (7, 4, 33)])
def test_equals_loops_over_distinct_indices(estimator: str, n: int, m: int, count: int) -> None:
    x, y = sample(n, m, 3)
    gamma = MultiKernel.ladder(median_bandwidth(x, y), count=count, step=2**0.5).bandwidths
    beta = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel = MultiKernel(gamma, beta / beta.sum())
    assert float(mmd2_variance(x, y, kernel, estimator)) == pytest.approx(
        by_loops(x, y, kernel, estimator), rel=1e-8, abs=1e-12
    )
    some = slice(None, None, 16)
    expected = [by_loops(x, y, MultiKernel.of([u]), estimator) for u in gamma[some].tolist()]
    per_kernel = mmd2_variance_per_kernel(x, y, kernel, estimator)
    assert per_kernel.shape == (count,)
    assert per_kernel[some].tolist() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_more_samples_than_a_tile_equal_the_whole_matrix() -> None:
    x, y = sample(1100, 900, 2)
    kernel = MultiKernel.of([0.5, 4.0])
    k = kernel.of_squared_distances(torch.cdist(torch.cat([x, y]), torch.cat([x, y])).square())
    k.fill_diagonal_(0)
    sums, squares = _pair_sums(x, y, kernel)
    torch.testing.assert_close(sums, torch.stack([k[:, :1100].sum(1), k[:, 1100:].sum(1)], 1), rtol=1e-10, atol=0)
    for i, rows in enumerate((slice(1100), slice(1100, None))):
        for j, columns in enumerate((slice(1100), slice(1100, None))):
            torch.testing.assert_close(squares[i, j], k[rows, columns].square().sum(), rtol=1e-10, atol=0)
    single = mmd2_variance(x.float(), y.float(), kernel)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(mmd2_variance(x, y, kernel)), rel=1e-4)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("same", [True, False])
def test_its_mean_over_every_outcome_is_the_variance(estimator: str, same: bool) -> None:
    """P and Q live on three points, so every sample of 4 and 5 can be drawn: no Monte Carlo error, only rounding."""
    n, m = 4, 5
    points = torch.tensor([[0.0], [1.0], [2.5]], dtype=torch.float64)
    p = (0.5, 0.3, 0.2)
    q = p if same else (0.1, 0.3, 0.6)
    kernel = MultiKernel.of([1.0, 4.0])

    def outcomes(size: int, law: tuple[float, ...]) -> list[tuple[float, Tensor]]:
        """(probability, sample) of every multiset of points; the order of a sample does not matter here."""
        drawn = []
        for chosen in itertools.combinations_with_replacement(range(3), size):
            orders = math.factorial(size)
            for point in range(3):
                orders //= math.factorial(chosen.count(point))
            drawn.append((orders * math.prod(law[point] for point in chosen), points[list(chosen)]))
        return drawn

    chance, values, estimates = [], [], []
    for (px, x), (py, y) in itertools.product(outcomes(n, p), outcomes(m, q)):
        chance.append(px * py)
        values.append(float(mmd2(x, y, kernel, estimator)))
        estimates.append(float(mmd2_variance(x, y, kernel, estimator)))
    weights = np.array(chance)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    mean = weights @ np.array(values)
    variance = weights @ (np.array(values) - mean) ** 2
    assert weights @ np.array(estimates) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("same", [True, False])
def test_the_linear_estimates_variance_has_the_right_mean_over_every_outcome(same: bool) -> None:
    """Two points, samples of 4 in every order: 256 outcomes."""
    p, q = 0.3, 0.3 if same else 0.8
    kernel = MultiKernel.of([1.0])
    chance, values, estimates = [], [], []
    for bits in itertools.product((0, 1), repeat=8):
        x, y = (torch.tensor(half, dtype=torch.float64)[:, None] for half in (bits[:4], bits[4:]))
        chance.append(math.prod(p if b else 1 - p for b in bits[:4]) * math.prod(q if b else 1 - q for b in bits[4:]))
        values.append(float(mmd2(x, y, kernel, "linear")))
        estimates.append(float(mmd2_variance(x, y, kernel, "linear")))
    weights = np.array(chance)
    mean = weights @ np.array(values)
    assert weights @ np.array(estimates) == pytest.approx(weights @ (np.array(values) - mean) ** 2, rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_its_mean_over_repeats_is_the_scatter_of_the_estimate(estimator: str, shift: float) -> None:
    n, m, trials = 12, 12 if estimator == "linear" else 8, 300
    kernel = MultiKernel.of([1.0, 6.0])
    pairs = [sample(n, m, 2, seed, shift) for seed in range(trials)]
    values = np.array([float(mmd2(x, y, kernel, estimator)) for x, y in pairs])
    estimates = np.array([float(mmd2_variance(x, y, kernel, estimator)) for x, y in pairs])
    squares = (values - values.mean()) ** 2 * trials / (trials - 1)
    error = math.hypot(squares.std(), estimates.std()) / math.sqrt(trials)
    assert abs(estimates.mean() - squares.mean()) < 3.5 * error
    assert error < squares.mean() / 4  # so that the line above could fail


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_kernel_alone_and_no_gradient(estimator: str) -> None:
    x, y = sample(10, 10, 3)
    kernel = MultiKernel([0.5, 2.0, 8.0], [0.0, 1.0, 0.0])  # type: ignore[arg-type]
    alone = mmd2_variance(x.requires_grad_(), y, kernel, estimator)
    per_kernel = mmd2_variance_per_kernel(x, y, kernel, estimator)
    assert float(alone) == pytest.approx(float(per_kernel[1]), rel=1e-9)
    assert not alone.requires_grad and not per_kernel.requires_grad
    assert per_kernel.shape == mmd2_per_kernel(x, y, kernel, estimator).shape


@pytest.mark.parametrize(
    ("n", "m", "estimator", "words"),
    [
        (3, 4, "unbiased", "at least 4"),
        (4, 3, "biased", "at least 4"),
        (2, 2, "linear", "at least 4"),
        (6, 4, "linear", "same, even number"),
        (4, 4, "unbased", "unbiased"),
    ],
)
def test_bad_input_is_one_clear_line(n: int, m: int, estimator: str, words: str) -> None:
    x, y = sample(n, m, 2)
    for function in (mmd2_variance, mmd2_variance_per_kernel):
        with pytest.raises(ValueError, match=words):
            function(x, y, MultiKernel.of([1.0]), estimator)
