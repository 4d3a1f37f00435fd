"""Kernel weights against other solvers of the same program, their statistics over batches, and the power they buy."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from dan.mmd import MultiKernel, PowerStatistics, linear_mmd2, median_bandwidth, mmd2_variance, optimal_weights
from dan.mmd.estimators import quadruple_terms
from dan.mmd.weights import _solve


def sample(n: int, f: int, seed: int = 0, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, f, generator=generator, dtype=torch.float64) + shift


def statistics_by_loops(x: Tensor, y: Tensor, gammas: list[float]) -> tuple[Tensor, Tensor]:
    """d and Q from the paper's definition, one quadruple and one difference at a time."""

    def g(i: int, gamma: float) -> float:
        def k(a: Tensor, b: Tensor) -> float:
            return math.exp(-float((a - b).square().sum()) / gamma)

        a, b, c, d = x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]
        return k(a, b) + k(c, d) - k(a, d) - k(b, c)

    half = len(x) // 2
    terms = [[g(i, gamma) for gamma in gammas] for i in range(half)]
    d = [sum(terms[i][u] for i in range(half)) / half for u in range(len(gammas))]
    differences = [[terms[2 * i][u] - terms[2 * i + 1][u] for u in range(len(gammas))] for i in range(half // 2)]
    q = [
        [sum(row[u] * row[v] for row in differences) / len(differences) for v in range(len(gammas))]
        for u in range(len(gammas))
    ]
    return torch.tensor(d, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)


def objective(beta: Tensor, q: Tensor, d: Tensor, ridge: float = 1e-3) -> float:
    """b'(Q + eps I)b where d'b = 1, for any multiple of b: what the program minimises."""
    gain = float(d @ beta)
    return float(beta @ q @ beta + ridge * beta @ beta) / gain**2 if gain > 0 else math.inf


def random_program(kernels: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(kernels, max(1, kernels // 2), generator=generator, dtype=torch.float64) * 0.1  # rank-deficient
    d = torch.randn(kernels, generator=generator, dtype=torch.float64) * 0.05
    d[0] = d[0].abs()
    return root @ root.T, d


@given(kernels=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_no_point_of_the_simplex_does_better(kernels: int, seed: int) -> None:
    q, d = random_program(kernels, seed)
    beta = _solve(q, d, 1e-3)
    assert bool((beta >= 0).all()) and float(beta.sum()) == pytest.approx(1)
    best = objective(beta, q, d)
    generator = torch.Generator().manual_seed(seed)
    corners = torch.eye(kernels, dtype=torch.float64)
    others = -torch.rand(300, kernels, generator=generator, dtype=torch.float64).log()
    nearby = (beta + 0.01 * others[:100]) / (1 + 0.01 * others[:100].sum(1, keepdim=True))
    for other in torch.cat([corners, others, nearby]):
        assert best <= objective(other, q, d) * (1 + 1e-9)


def test_equals_a_grid_over_the_simplex_of_three_kernels() -> None:
    for seed in range(5):
        q, d = random_program(3, seed)
        beta = _solve(q, d, 1e-3)
        steps = 200
        grid = [(i / steps, j / steps, 1 - (i + j) / steps) for i in range(steps + 1) for j in range(steps + 1 - i)]
        b = torch.tensor(grid, dtype=torch.float64).clamp_min(0)
        gains = b @ d
        values = torch.where(gains > 0, ((b @ (q + 1e-3 * torch.eye(3))) * b).sum(1) / gains**2, math.inf)
        torch.testing.assert_close(b[values.argmin()], beta, rtol=0, atol=2 / steps)


def test_equals_a_solver_of_the_program_as_it_is_written() -> None:
    """SLSQP on min b'(Q + eps I)b with d'b = 1 and b >= 0 itself, on statistics of real samples."""
    x, y = sample(400, 3, shift=0.4)
    kernel = MultiKernel.ladder(median_bandwidth(x, y), count=5, step=4.0)
    d, q = statistics_by_loops(x, y, kernel.bandwidths.tolist())
    assert float(d.max()) > 0
    program, gain = (q + 1e-3 * torch.eye(5, dtype=torch.float64)).numpy(), d.numpy()
    found = minimize(
        lambda b: b @ program @ b,
        np.full(5, 1 / gain.sum()),
        jac=lambda b: 2 * program @ b,
        bounds=[(0, None)] * 5,
        constraints={"type": "eq", "fun": lambda b: gain @ b - 1, "jac": lambda b: gain},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    beta = optimal_weights(x, y, kernel)
    np.testing.assert_allclose(beta.numpy(), found.x / found.x.sum(), atol=1e-4)
    assert objective(beta, q, d) <= objective(torch.from_numpy(found.x), q, d) * (1 + 1e-9)


@pytest.mark.parametrize("n", [4, 6, 40])
def test_statistics_equal_the_definition(n: int) -> None:
    x, y = sample(n, 2)
    kernel = MultiKernel.of([0.5, 3.0, 20.0])
    statistics = PowerStatistics(3)
    statistics.update(x, y, kernel)
    d, q = statistics_by_loops(x, y, kernel.bandwidths.tolist())
    torch.testing.assert_close(statistics.d, d)
    torch.testing.assert_close(statistics.q, q)


def test_the_papers_factor_q_is_twice_the_variance_of_a_term() -> None:
    """E Q_uu = 2 Var g_u, so the linear-time estimate of n samples has the variance Q_uu / n."""
    n, trials = 40, 400
    kernel = MultiKernel.of([0.5, 3.0])
    q, terms, values = [], [], []
    for seed in range(trials):
        x, y = sample(n, 2, seed)
        statistics = PowerStatistics(2)
        statistics.update(x, y, kernel)
        q.append(statistics.q)
        terms.append(quadruple_terms(x, y, kernel))
        values.append(float(linear_mmd2(x, y, MultiKernel.of([3.0]))))
    diagonals = torch.stack([one.diagonal() for one in q])
    error = diagonals.std(0) / math.sqrt(trials)
    twice = 2 * torch.cat(terms).var(0)
    assert bool(((diagonals.mean(0) - twice).abs() < 4 * error).all())
    assert bool((error < twice / 20).all())  # so that the line above could fail
    covariance = 2 * torch.cat(terms).T.cov()[0, 1]
    assert float(torch.stack(q)[:, 0, 1].mean()) == pytest.approx(float(covariance), rel=0.15)
    assert np.var(values) == pytest.approx(float(diagonals.mean(0)[1]) / n, rel=0.25)


def test_many_batches_without_fading_equal_all_of_them_at_once() -> None:
    kernel = MultiKernel.of([0.3, 2.0, 10.0, 50.0])
    sizes = [8, 64, 4, 32, 12]
    x, y = sample(sum(sizes), 3)
    statistics = PowerStatistics(4, decay=None)
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        statistics.update(a, b, kernel)
    torch.testing.assert_close(statistics.weights(), optimal_weights(x, y, kernel))
    d, q = statistics_by_loops(x, y, kernel.bandwidths.tolist())
    torch.testing.assert_close(statistics.d, d)
    torch.testing.assert_close(statistics.q, q)


def test_fading_is_an_exponential_mean_without_its_bias() -> None:
    kernel = MultiKernel.of([1.0, 9.0])
    batches = [sample(16, 2, seed) for seed in range(6)]
    statistics = PowerStatistics(2, decay=0.7)
    for x, y in batches:
        statistics.update(x, y, kernel)
    single = [statistics_by_loops(x, y, [1.0, 9.0]) for x, y in batches]
    fading = [0.7 ** (5 - i) for i in range(6)]
    torch.testing.assert_close(statistics.d, sum(w * d for w, (d, _) in zip(fading, single, strict=True)) / sum(fading))
    torch.testing.assert_close(statistics.q, sum(w * q for w, (_, q) in zip(fading, single, strict=True)) / sum(fading))


def test_one_batch_has_too_low_a_rank_and_several_do_not() -> None:
    statistics = PowerStatistics(6, decay=0.99)
    ranks = []
    for seed in range(4):
        statistics.update(*sample(16, 8, seed), MultiKernel.ladder(16.0, count=6))  # 4 differences
        ranks.append(int(torch.linalg.matrix_rank(statistics.q, hermitian=True)))
    assert ranks[0] == 4 and ranks[-1] == 6


def test_statistics_travel_with_the_state_dict() -> None:
    kernel = MultiKernel.of([1.0, 9.0])
    statistics = PowerStatistics(2, decay=0.9)
    for seed in range(3):
        statistics.update(*sample(16, 2, seed), kernel)
    other = PowerStatistics(2, decay=0.9)
    other.load_state_dict(statistics.state_dict())
    for one in (statistics, other):
        one.update(*sample(16, 2, 3), kernel)
    assert torch.equal(other.weights(), statistics.weights())
    assert sum(1 for _ in statistics.parameters()) == 0


def test_an_infeasible_program_falls_back_to_the_best_kernel(caplog: pytest.LogCaptureFixture) -> None:
    q, _ = random_program(4, 0)
    d = torch.tensor([-0.3, -0.02, -0.1, -0.04], dtype=torch.float64)
    best = max(range(4), key=lambda u: float(d[u]) / math.sqrt(float(q[u, u]) + 1e-3))
    with caplog.at_level(logging.WARNING):
        beta = _solve(q, d, 1e-3)
    assert beta.tolist() == [float(u == best) for u in range(4)]
    assert f"fall back to the single kernel {best}" in caplog.text


@settings(max_examples=20)
@given(scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 100))
def test_weights_do_not_depend_on_the_units(scale: float, seed: int) -> None:
    x, y = sample(32, 3, seed)
    gamma = median_bandwidth(x, y)
    torch.testing.assert_close(
        optimal_weights(x * scale, y * scale, MultiKernel.ladder(gamma * scale**2)),
        optimal_weights(x, y, MultiKernel.ladder(gamma)),
        rtol=1e-6,
        atol=1e-9,
    )


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Nine clusters on a wide grid: round in P, stretched along the diagonal in Q. Only a small bandwidth can tell."""
    generator = torch.Generator().manual_seed(seed)

    def centres() -> Tensor:
        return torch.randint(3, (n, 2), generator=generator).double() * 10

    stretch = torch.tensor([[5**0.5, 5**0.5], [0.5**0.5, -(0.5**0.5)]], dtype=torch.float64)  # variances 10 and 1
    x = centres() + torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y = centres() + torch.randn(n, 2, generator=generator, dtype=torch.float64) @ stretch
    return x, y


def rejects(x: Tensor, y: Tensor, kernel: MultiKernel) -> bool:
    """The linear-time test at level 5 %: a mean of independent terms against its standard error."""
    return float(linear_mmd2(x, y, kernel)) > 1.645 * math.sqrt(float(mmd2_variance(x, y, kernel, "linear")))


def test_learned_weights_raise_the_power_of_the_test() -> None:
    """Nine bandwidths over four orders of magnitude, of which one or two are right; weights from separate samples."""
    repeats, batch = 100, 64
    kernel = MultiKernel.ladder(median_bandwidth(*blobs(500, 0)), count=9, step=4.0)
    learned_rejects, uniform_rejects, false_alarms = 0, 0, 0
    for seed in range(repeats):
        statistics = PowerStatistics(9, decay=None)
        x, y = blobs(125 * batch, 1000 + seed)
        statistics.update(x, y, kernel)
        learned = MultiKernel(kernel.bandwidths, statistics.weights())
        x, y = blobs(2000, 2000 + seed)
        learned_rejects += rejects(x, y, learned)
        uniform_rejects += rejects(x, y, kernel)
        false_alarms += rejects(x, blobs(2000, 3000 + seed)[0], learned)
    assert learned_rejects >= uniform_rejects + repeats // 4, (learned_rejects, uniform_rejects)
    assert false_alarms <= 12  # 5 are expected, and more than 12 less than once in 500 times


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, x, y, k: s.weights(), "at least one batch"),
        (lambda s, x, y, k: s.update(x[:2], y[:2], k), "at least 4"),
        (lambda s, x, y, k: s.update(x, y[:4], k), "same, even number"),
        (lambda s, x, y, k: s.update(x[:5], y[:5], k), "same, even number"),
        (lambda s, x, y, k: s.update(x, y, MultiKernel.of([1.0])), "of 2 kernels, not 1"),
        (lambda s, x, y, k: s.update(x * math.nan, y, k), "NaN"),
        (lambda s, x, y, k: (s.update(x, y, k), s.weights(ridge=0.0)), "ridge"),
        (lambda s, x, y, k: optimal_weights(x * math.nan, y, k), "NaN"),
        (lambda s, x, y, k: PowerStatistics(2, decay=1.5), "decay"),
    ],
)
def test_bad_input_is_one_clear_line(call, words: str) -> None:  # type: ignore[no-untyped-def]
    x, y = sample(8, 2)
    with pytest.raises(ValueError, match=words) as caught:
        call(PowerStatistics(2), x, y, MultiKernel.of([1.0, 4.0]))
    assert "\n" not in str(caught.value)
