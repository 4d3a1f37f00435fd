"""MMD against loops written from the definition in float64, closed forms, symmetries and its own gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dan import MultiKernel, linear_mmd2, median_bandwidth, mmd2, mmd2_per_kernel, optimal_weights
from dan.mmd.pairwise import kernel_row_sums, kernel_totals
from dan.mmd.tiled import row_sums

ESTIMATORS = ("unbiased", "biased")


def sample(n: int, m: int, f: int, seed: int = 0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64)
    return x, y + shift


def by_loops(x: Tensor, y: Tensor, gamma: float, estimator: str) -> float:
    """The definition, one pair at a time, in Python floats."""

    def k(a: list[float], b: list[float]) -> float:
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / gamma)

    xs, ys = x.double().tolist(), y.double().tolist()
    n, m = len(xs), len(ys)
    left_out = estimator == "unbiased"
    xx = sum(k(a, b) for i, a in enumerate(xs) for j, b in enumerate(xs) if not (left_out and i == j))
    yy = sum(k(a, b) for i, a in enumerate(ys) for j, b in enumerate(ys) if not (left_out and i == j))
    xy = sum(k(a, b) for a in xs for b in ys)
    return xx / (n * (n - left_out)) + yy / (m * (m - left_out)) - 2 * xy / (n * m)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "m", "f", "count"), [(2, 2, 1, 1), (7, 4, 3, 5), (3, 9, 6, 33), (12, 12, 2, 5)])
def test_equals_the_definition_in_loops(estimator: str, n: int, m: int, f: int, count: int) -> None:
    x, y = sample(n, m, f)
    kernel = MultiKernel.ladder(median_bandwidth(x, y), count=count, step=2**0.5)
    expected = [by_loops(x, y, gamma, estimator) for gamma in kernel.bandwidths.tolist()]
    torch.testing.assert_close(
        mmd2_per_kernel(x, y, kernel, estimator), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12
    )
    beta = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weighted = MultiKernel(kernel.bandwidths, beta / beta.sum())
    assert float(mmd2(x, y, weighted, estimator)) == pytest.approx(
        sum(b * e for b, e in zip(weighted.weights.tolist(), expected, strict=True)), rel=1e-10, abs=1e-12
    )


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "linear"])
def test_gradients_in_both_arguments(estimator: str) -> None:
    x, y = sample(6, 6, 3)
    kernel = MultiKernel.ladder(median_bandwidth(x, y), count=3)
    assert torch.autograd.gradcheck(
        lambda a, b: mmd2(a, b, kernel, estimator), (x.requires_grad_(), y.requires_grad_())
    )


def test_linear_estimate_equals_its_quadruples() -> None:
    x, y = sample(10, 10, 4)
    kernel = MultiKernel.of([2.0, 9.0])

    def k(a: Tensor, b: Tensor) -> float:
        return sum(0.5 * math.exp(-float((a - b).square().sum()) / g) for g in (2.0, 9.0))

    terms = [k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i]) for i in range(0, len(x), 2)]
    assert float(linear_mmd2(x, y, kernel)) == pytest.approx(2 / len(x) * sum(terms), rel=1e-12)


def test_closed_form_between_gaussians() -> None:
    """E k(a, b) for a - b ~ N(mu, s I) is (gamma / (gamma + 2 s))^(F/2) exp(-|mu|^2 / (gamma + 2 s))."""
    f, gamma, shift, trials = 3, 4.0, 0.7, 200
    kernel = MultiKernel.of([gamma])

    def expected_k(mu2: float) -> float:
        return (gamma / (gamma + 4)) ** (f / 2) * math.exp(-mu2 / (gamma + 4))

    truth = 2 * expected_k(0.0) - 2 * expected_k(f * shift**2)
    values = [float(mmd2(*sample(40, 30, f, seed, shift), kernel)) for seed in range(trials)]
    error = np.std(values) / math.sqrt(trials)
    assert abs(np.mean(values) - truth) < 4 * error
    assert error < truth / 20  # so that the line above could fail


def test_unbiased_averages_to_zero_under_the_null_and_biased_does_not() -> None:
    kernel, n, trials = MultiKernel.of([6.0]), 16, 300
    pairs = [sample(n, n, 3, seed, shift=0.0) for seed in range(trials)]
    unbiased = [float(mmd2(x, y, kernel)) for x, y in pairs]
    biased = [float(mmd2(x, y, kernel, "biased")) for x, y in pairs]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / math.sqrt(trials)
    assert min(unbiased) < 0 < min(biased)
    floor = 2 / n * (1 - (6 / (6 + 4)) ** 1.5)  # (1/N + 1/M)(1 - E k)
    assert abs(np.mean(biased) - floor) < 4 * np.std(biased) / math.sqrt(trials)


@settings(max_examples=40)
@given(
    n=st.integers(2, 9),
    m=st.integers(2, 9),
    f=st.integers(1, 5),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 1000),
)
def test_symmetry_permutation_translation_scale_and_sign(
    n: int, m: int, f: int, scale: float, offset: float, seed: int
) -> None:
    x, y = sample(n, m, f, seed)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    value = mmd2(x, y, kernel)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(mmd2(y, x, kernel), value, **close)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(mmd2(x[order], y, kernel), value, **close)
    torch.testing.assert_close(mmd2(x + offset, y + offset, kernel), value, **close)
    rescaled = MultiKernel.ladder(median_bandwidth(x * scale, y * scale))
    torch.testing.assert_close(mmd2(x * scale, y * scale, rescaled), value, **close)
    assert float(mmd2(x, y, kernel, "biased")) >= -1e-12
    # The two quadratic estimates differ by their diagonals only.
    xx, yy, xy = kernel_totals(x, y, kernel.bandwidths)
    biased = (xx + n) / n**2 + (yy + m) / m**2 - 2 * xy / (n * m)
    torch.testing.assert_close(mmd2_per_kernel(x, y, kernel, "biased"), biased, **close)


def test_identical_samples_are_at_distance_zero() -> None:
    x, _ = sample(8, 8, 3)
    assert float(mmd2(x, x.clone(), MultiKernel.of([1.0, 5.0]), "biased")) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_float32_agrees_with_float64_at_an_offset(offset: float) -> None:
    x, y = sample(40, 30, 64)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    x32, y32 = (x + offset).float(), (y + offset).float()
    exact = mmd2(x32.double() - offset, y32.double() - offset, kernel)
    assert abs(float(mmd2(x32, y32, kernel)) - float(exact)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in sample(20, 20, 8))
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    value = mmd2(x, y, kernel)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, mmd2(x.float(), y.float(), kernel))


def test_dead_features_give_finite_value_and_gradient() -> None:
    x = torch.full((4, 3), 2.5, requires_grad=True)
    y = torch.full((5, 3), 2.5, requires_grad=True)
    gamma = median_bandwidth(x, y)
    assert float(gamma) == 1.0
    value = mmd2(x, y, MultiKernel.ladder(gamma))
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_median_bandwidth_is_the_off_diagonal_median_and_detached() -> None:
    x, y = sample(5, 4, 3)
    z = torch.cat([x, y])
    squared = [float((z[i] - z[j]).square().sum()) for i in range(9) for j in range(i)]
    gamma = median_bandwidth(x.requires_grad_(), y)
    assert float(gamma) == pytest.approx(float(np.median(squared)), rel=1e-12)
    assert not gamma.requires_grad
    three = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)  # squared distances 1, 4, 9
    assert float(median_bandwidth(three[:1], three[1:])) == pytest.approx(4.0)


def test_median_bandwidth_of_duplicates_is_the_mean_of_the_rest() -> None:
    x = torch.zeros(6, 1)
    y = torch.tensor([[0.0], [2.0]])
    assert float(median_bandwidth(x, y)) == pytest.approx(4.0)


def test_thinned_bandwidth_is_close_to_the_full_one() -> None:
    x, y = sample(600, 500, 8)
    assert float(median_bandwidth(x, y, max_points=200)) == pytest.approx(float(median_bandwidth(x, y)), rel=0.1)


def test_ladders() -> None:
    five = MultiKernel.ladder(3.0)
    torch.testing.assert_close(five.bandwidths, 3.0 * torch.tensor([0.25, 0.5, 1, 2, 4], dtype=torch.float64))
    assert float(five.weights.sum()) == pytest.approx(1)
    paper = MultiKernel.ladder(1.0, count=33, step=2**0.5)
    assert float(paper.bandwidths[0]) == pytest.approx(2.0**-8)
    assert float(paper.bandwidths[-1]) == pytest.approx(2.0**8)


def test_row_sums_equal_the_loop_whatever_the_tile() -> None:
    x, y = sample(11, 7, 3)
    kernel = MultiKernel.ladder(2.0, count=3)
    expected = torch.stack([sum(kernel.of_squared_distances((a - b).square().sum()) for b in y) for a in x])  # type: ignore[misc]
    torch.testing.assert_close(kernel_row_sums(x, y, kernel), expected)
    for tile in (1, 4, 100):
        sums = row_sums(x, y, tuple(kernel.bandwidths.tolist()), tile=tile)  # (N, K)
        torch.testing.assert_close(sums @ kernel.weights, expected)


def test_optimal_weights_solve_the_quadratic_program() -> None:
    """Compared with a search over the simplex: for two kernels the whole feasible set is one line."""
    x, y = sample(400, 400, 2, shift=0.4)
    kernel = MultiKernel.of([0.05, 5.0])
    beta = optimal_weights(x, y, kernel)
    assert float(beta.sum()) == pytest.approx(1) and bool((beta >= 0).all())

    def g(gamma: float) -> Tensor:
        def k(a: Tensor, b: Tensor) -> Tensor:
            return torch.exp(-(a - b).square().sum(1) / gamma)

        a, b, c, d = x[::2], x[1::2], y[::2], y[1::2]
        return k(a, b) + k(c, d) - k(a, d) - k(b, c)

    terms = torch.stack([g(0.05), g(5.0)], 1)
    means, differences = terms.mean(0), terms[::2] - terms[1::2]
    q = differences.T @ differences / len(differences) + 1e-3 * torch.eye(2, dtype=torch.float64)

    def objective(share: float) -> float:  # b'Qb at d'b = 1: scale-free in the direction of b
        b = torch.tensor([share, 1 - share], dtype=torch.float64)
        gain = float(means @ b)
        return float(b @ q @ b) / gain**2 if gain > 0 else math.inf

    best = min(objective(i / 2000) for i in range(2001))
    assert objective(float(beta[0])) <= best * (1 + 1e-6)


def test_infeasible_weights_fall_back_to_one_kernel_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.tensor([[0.0], [9.0]] * 4, dtype=torch.float64)
    y = torch.tensor([[9.0], [0.0]] * 4, dtype=torch.float64)  # neighbours within a side differ, across they agree
    beta = optimal_weights(x, y, MultiKernel.of([1.0, 4.0, 16.0]))
    assert sorted(beta.tolist()) == [0.0, 0.0, 1.0]
    assert "fall back" in caplog.text


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y, k: mmd2(x[:1], y, k), "at least 2 samples"),
        (lambda x, y, k: mmd2(x[:0], y, k, "biased"), "at least 1 sample"),
        (lambda x, y, k: linear_mmd2(x, y[:2], k), "same, even number"),
        (lambda x, y, k: linear_mmd2(x[:3], y[:3], k), "same, even number"),
        (lambda x, y, k: mmd2(x, y[:, :1], k), r"\(N, F\)"),
        (lambda x, y, k: mmd2(x, y, k, "unbased"), "unbiased"),
        (lambda x, y, k: mmd2(x, y, k, backend="dnse"), "dense"),
        (lambda x, y, k: mmd2(x.long(), y, k), "floating-point"),
        (lambda x, y, k: optimal_weights(x[:2], y[:2], k), "at least 4"),
        (lambda x, y, k: median_bandwidth(x[:1], y[:0]), "at least two"),
        (lambda x, y, k: median_bandwidth(x * math.nan, y), "NaN"),
        (lambda x, y, k: MultiKernel.of([1.0, 0.0]), "positive"),
        (lambda x, y, k: MultiKernel(torch.ones(2), torch.ones(2)), "sum to 1"),
        (lambda x, y, k: MultiKernel(torch.ones(2), torch.ones(1)), "one length"),
    ],
)
def test_bad_input_is_one_clear_line(call, words: str) -> None:  # type: ignore[no-untyped-def]
    x, y = sample(4, 4, 2)
    with pytest.raises(ValueError, match=words) as caught:
        call(x, y, MultiKernel.of([1.0]))
    assert "\n" not in str(caught.value)
