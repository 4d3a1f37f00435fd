"""Weighted samples against loops over pairs in float64, value and gradient, on every backend; and what weights mean."""

import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dan.mmd import MultiKernel, keops, linear_mmd2, mmd2, mmd2_per_kernel, tiles

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
ESTIMATORS = ("unbiased", "biased", "linear")


def backends() -> list[Any]:
    reason = keops.why_not("cpu")
    skip = pytest.mark.skipif(reason is not None, reason=f"KeOps was not run: it does not work here ({reason})")
    return ["dense", "tiled", pytest.param("keops", marks=skip), "auto"]


each_backend = pytest.mark.parametrize("backend", backends())
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def pair_weights(a: list[float], b: list[float], estimator: str) -> tuple[dict[tuple[int, int], float], ...]:
    """What each k(x_i, x_j), k(y_i, y_j) and k(x_i, y_j) is multiplied by, from the definition."""
    n, m = len(a), len(b)
    if estimator == "linear":
        rows = range(0, n, 2)
        within = [{(i, i + 1): w[i] * w[i + 1] for i in rows} for w in (a, b)]
        straight, crossed = {(i, i + 1): a[i] * b[i + 1] for i in rows}, {(i + 1, i): a[i + 1] * b[i] for i in rows}
        between: dict[tuple[int, int], float] = {}
        for part in (straight, crossed):
            between |= {pair: -w / sum(part.values()) for pair, w in part.items()}
        return (*({pair: w / sum(part.values()) for pair, w in part.items()} for part in within), between)
    result = []
    for w in (a, b):
        size = range(len(w))
        products = {(i, j): w[i] * w[j] for i in size for j in size if i != j or estimator == "biased"}
        result.append({pair: product / sum(products.values()) for pair, product in products.items()})
    between = {(i, j): -2 * a[i] * b[j] / (sum(a) * sum(b)) for i in range(n) for j in range(m)}
    return (*result, between)


def by_loops(
    x: Tensor, y: Tensor, gammas: list[float], a: list[float], b: list[float], estimator: str
) -> tuple[list[float], Tensor, Tensor]:
    """MMD^2 of each kernel, and the gradients of their sum, one pair at a time in float64."""
    samples = [x.detach().double().tolist(), y.detach().double().tolist()]
    gradients = [[[0.0] * x.shape[1] for _ in rows] for rows in samples]
    values = [0.0] * len(gammas)
    for table, (p, q) in zip(pair_weights(a, b, estimator), ((0, 0), (1, 1), (0, 1)), strict=True):
        for (i, j), weight in table.items():
            difference = [s - t for s, t in zip(samples[p][i], samples[q][j], strict=True)]
            d2 = sum(d * d for d in difference)
            for u, gamma in enumerate(gammas):
                k = weight * math.exp(-d2 / gamma)
                values[u] += k
                for f, d in enumerate(difference):
                    gradients[p][i][f] -= 2 * d / gamma * k
                    gradients[q][j][f] += 2 * d / gamma * k
    return values, *(torch.tensor(g, dtype=torch.float64) for g in gradients)


def drawn(n: int, m: int, f: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y and weights with some zeros; of n_eff >= 2."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64) * 1.3 + 0.5
    a, b = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.2 for size in (n, m))
    if n > 5:
        a[3], b[1] = 0.0, 4.0
    return x, y, a, b


def assert_is_the_loop(x: Tensor, y: Tensor, a: Any, b: Any, kernel: MultiKernel, estimator: str, backend: str) -> None:
    tolerance = TOLERANCE[x.dtype]
    lists = [[1.0] * len(z) if w is None else torch.as_tensor(w).double().tolist() for z, w in ((x, a), (y, b))]
    gammas, beta = kernel.bandwidths.tolist(), kernel.weights
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    each = mmd2_per_kernel(x, y, kernel, estimator, backend, x_weights=a, y_weights=b)
    values, of_x, of_y = by_loops(x, y, gammas, *lists, estimator)
    wanted_values = torch.tensor(values, dtype=torch.float64)
    roof = sum(4 / math.sqrt(gamma) for gamma in gammas)
    assert each.dtype == x.dtype
    torch.testing.assert_close(each.detach().double(), wanted_values, rtol=0, atol=3 * tolerance)
    for got, wanted in zip(torch.autograd.grad(each.sum(), (x, y)), (of_x, of_y), strict=True):
        assert got.dtype == x.dtype
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=tolerance * roof)
    value = mmd2(x, y, kernel, estimator, backend, a, b)
    assert float(value.detach()) == pytest.approx(float(beta @ wanted_values), abs=3 * tolerance)
    singles = [by_loops(x, y, [gamma], *lists, estimator)[1:] for gamma in gammas]
    for side, got in enumerate(torch.autograd.grad(-3 * value, (x, y))):
        wanted = sum(weight * single[side] for weight, single in zip(beta.tolist(), singles, strict=True))
        torch.testing.assert_close(got.double() / -3, wanted, rtol=0, atol=tolerance * roof)
    with torch.no_grad():
        torch.testing.assert_close(mmd2(x, y, kernel, estimator, backend, a, b), value.detach())


@each_backend
@each_estimator
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
def test_equals_the_loop(backend: str, estimator: str, dtype: torch.dtype) -> None:
    kernel = MultiKernel([2.0, 6.5], [0.3, 0.7])  # type: ignore[arg-type]  # one (F, K): KeOps compiles each
    sizes = [(6, 6), (12, 12)] if estimator == "linear" else [(2, 7), (9, 5), (11, 12)]
    for seed, (n, m) in enumerate(sizes):
        x, y, a, b = drawn(n, m, 3, seed)
        if n == 2:
            a[:] = 0.3
        x, y = x.to(dtype), y.to(dtype)
        with mock.patch.dict(tiles.TILE, cpu=4):
            for some in ((a, b), (a.float(), None), (None, b.numpy())):
                assert_is_the_loop(x, y, *some, kernel, estimator, backend)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    n=st.integers(6, 14),
    m=st.integers(6, 14),
    f=st.sampled_from([1, 2, 20]),
    estimator=st.sampled_from(["unbiased", "biased"]),
    kind=st.sampled_from(["plain", "far offset", "duplicates", "clusters"]),
    dtype=st.sampled_from(list(TOLERANCE)),
    scale=st.sampled_from([1e-30, 1.0, 1e300]),
    seed=st.integers(0, 1000),
)
def test_equals_the_loop_at_any_offset_and_any_scale_of_the_weights(
    backend: str,
    n: int,
    m: int,
    f: int,
    estimator: str,
    kind: str,
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    x, y, a, b = drawn(n, m, f, seed)
    if kind == "far offset":
        x, y = x + 1e4, y + 1e4
    elif kind == "duplicates":
        x[n // 2 :] = x[0].clone()
    elif kind == "clusters":
        y = y + 1e4
    x, y = x.to(dtype), y.to(dtype)
    gamma = 2.0 * f
    plain = by_loops(x, y, [gamma], a.tolist(), b.tolist(), estimator)
    x, y = x.requires_grad_(), y.requires_grad_()
    with mock.patch.dict(tiles.TILE, cpu=5):
        value = mmd2(x, y, MultiKernel.of([gamma]), estimator, backend, a * scale, b * scale)
    assert float(value.detach()) == pytest.approx(plain[0][0], abs=3 * TOLERANCE[dtype])
    for got, wanted in zip(torch.autograd.grad(value, (x, y)), plain[1:], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=TOLERANCE[dtype] * 8 / math.sqrt(gamma))


@each_backend
@each_estimator
def test_constant_weights_are_none(backend: str, estimator: str) -> None:
    x, y, _, _ = drawn(10, 10, 3, 0)
    kernel = MultiKernel([2.0, 6.5], [0.3, 0.7])  # type: ignore[arg-type]
    x, y = x.requires_grad_(), y.requires_grad_()
    expected = mmd2(x, y, kernel, estimator, backend)
    for a, b in ((torch.full((10,), 0.1), None), (np.full(10, 3), [7] * 10), (torch.ones(10, dtype=torch.bool), None)):
        value = mmd2(x, y, kernel, estimator, backend, a, b)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        gradients = torch.autograd.grad(value, (x, y))
        for got, wanted in zip(gradients, torch.autograd.grad(expected, (x, y), retain_graph=True), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)
        each = mmd2_per_kernel(x, y, kernel, estimator, backend, a, b)
        torch.testing.assert_close(each, mmd2_per_kernel(x, y, kernel, estimator, backend), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_a_weight_of_zero_leaves_a_sample_out(backend: str, estimator: str) -> None:
    x, y, _, _ = drawn(9, 8, 3, 0)
    kernel = MultiKernel.of([2.0, 9.0])
    keep = torch.tensor([True, True, False, True, False, True, True, True, True])
    value = mmd2(x, y, kernel, estimator, backend, x_weights=keep.double() * 2)
    torch.testing.assert_close(value, mmd2(x[keep], y, kernel, estimator, backend), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_biased_integer_weights_are_repetitions(backend: str) -> None:
    x, y, _, _ = drawn(7, 6, 3, 0)
    kernel = MultiKernel.of([2.0, 9.0])
    times = torch.tensor([1, 3, 2, 0, 1, 1, 5])
    value = mmd2(x, y, kernel, "biased", backend, x_weights=times)
    repeated = mmd2(x.repeat_interleave(times, 0), y, kernel, "biased", backend)
    torch.testing.assert_close(value, repeated, rtol=1e-11, atol=1e-13)


def test_the_unbiased_estimate_averages_to_its_expectation_whatever_the_weights() -> None:
    """Weights that do not depend on the samples: 0 on the mean under the null; the biased one is above."""
    kernel, trials = MultiKernel.of([6.0]), 300
    a, b = torch.linspace(0.1, 3, 12), torch.linspace(2, 0.5, 9)
    drawings = []
    for seed in range(trials):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(21, 3, generator=generator, dtype=torch.float64)
        drawings.append([float(mmd2(z[:12], z[12:], kernel, e, x_weights=a, y_weights=b)) for e in ESTIMATORS[:2]])
    unbiased, biased = np.array(drawings).T
    error = unbiased.std() / math.sqrt(trials)
    assert abs(unbiased.mean()) < 4 * error
    assert biased.mean() > 10 * error


def test_the_class_ratio_takes_label_shift_out() -> None:
    """Two classes with shares 0.8 : 0.2 in x and 0.3 : 0.7 in y: with w = p_T / p_S nothing is left on the mean."""
    kernel = MultiKernel.of([4.0])
    ratio = torch.tensor([0.3 / 0.8, 0.7 / 0.2])
    plain, corrected = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        of_x, of_y = (torch.rand(80, generator=generator) < share for share in (0.2, 0.7))
        x, y = (torch.randn(80, 2, generator=generator) + 3 * labels[:, None].float() for labels in (of_x, of_y))
        plain.append(float(mmd2(x, y, kernel)))
        corrected.append(float(mmd2(x, y, kernel, x_weights=ratio[of_x.long()])))
    assert np.mean(plain) > 0.1
    assert abs(np.mean(corrected)) < 0.02


@each_estimator
def test_too_small_an_effective_size_is_refused(estimator: str) -> None:
    x, y, _, _ = drawn(6, 6, 2, 0)
    kernel = MultiKernel.of([2.0])
    for weights, effective in (([1, 0, 0, 0, 0, 0], "1.00"), ([10, 1, 1, 1, 0, 0], "1.64")):
        for side in ("x", "y"):
            given_weights: dict[str, Any] = {f"{side}_weights": weights}
            for function in (mmd2, mmd2_per_kernel):
                if estimator == "biased":
                    assert bool(function(x, y, kernel, estimator, **given_weights).isfinite().all())
                    continue
                with pytest.raises(ValueError, match=f"{side}_weights leave an effective size of {effective}.*cap"):
                    function(x, y, kernel, estimator, **given_weights)
    if estimator != "linear":  # two samples of the same weight are enough, whatever rounding says
        value = mmd2(x[:2], y, kernel, estimator, x_weights=torch.full((2,), 1 / 3))
        torch.testing.assert_close(value, mmd2(x[:2], y, kernel, estimator))


def test_the_linear_estimate_needs_a_pair_of_each_kind() -> None:
    x, y, _, _ = drawn(6, 6, 2, 0)
    with pytest.raises(ValueError, match="no pair for the linear-time estimate"):
        linear_mmd2(x, y, MultiKernel.of([2.0]), x_weights=[1, 0, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, 1, -0.5, 1, 1, 1], r"x_weights must be finite and >= 0: row 2 is -0.5"),
        ([1.0, 1, 1, 1, math.nan, 1], r"row 4 is nan"),
        ([1.0, math.inf, 1, 1, 1, 1], r"row 1 is inf"),
        ([1.0] * 5, r"x_weights must be \(6,\), one for each row of x, not \(5,\)"),
        (torch.ones(6, 1), r"not \(6, 1\)"),
        (1.0, r"not \(\)"),
        ([0] * 6, "must not be all 0"),
        (["a"] * 6, "x_weights must hold numbers"),
        (torch.ones(6, requires_grad=True), r"no gradient here: pass x_weights\.detach\(\)"),
    ],
)
def test_bad_weights_are_one_clear_line(weights: Any, words: str) -> None:
    x, y, _, _ = drawn(6, 6, 2, 0)
    for function in (mmd2, mmd2_per_kernel, linear_mmd2):
        with pytest.raises(ValueError, match=words) as caught:
            function(x, y, MultiKernel.of([2.0]), x_weights=weights)
        assert "\n" not in str(caught.value)


def test_weights_that_require_a_gradient_pass_where_none_is_taken() -> None:
    x, y, a, _ = drawn(6, 6, 2, 0)
    expected = mmd2(x, y, x_weights=a)
    with torch.no_grad():
        torch.testing.assert_close(mmd2(x, y, x_weights=a.requires_grad_()), expected)
