"""The fused MMD^2 of training against definitions in float64 and against `mmd2`; nothing is read from the device."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dan.mmd import (
    MultiKernel,
    PairDistances,
    RunningBandwidth,
    adaptive,
    adaptive_mmd2,
    ladder_multiples,
    mean_bandwidth,
    median_bandwidth,
    mmd2,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
KINDS = ("plain", "relu", "far offset", "clusters", "outlier pair", "duplicates", "all equal", "fill value")
LADDERS = [(1, 2.0), (5, 2.0), (33, 2**0.5), (4, 3.0), (5, 4.0)]
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


def samples(kind: str, n: int, m: int, f: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * f)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64) * 1.3 + 0.5
    if kind == "relu":
        x, y = x.relu(), y.relu()
    elif kind == "far offset":
        x, y = x + 1e5, y + 1e5
    elif kind == "clusters":
        x[::2] += 1e4
        y[::3] += 1e4
    elif kind == "outlier pair":
        x[-1] += 1e3
        y[-1] = x[-1] + 0.1
    elif kind == "duplicates":
        x[1:] = x[0].clone()
        y[2:] = x[0]
    elif kind == "all equal":
        x[:], y[:] = 2.5, 2.5
    elif kind == "fill value":
        x[2, 0] = 1e20
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def by_definition(x: Tensor, y: Tensor, kernel: MultiKernel, estimator: str) -> Tensor:
    """In float64 and from differences; differentiable."""
    n, m, less = len(x), len(y), int(estimator == "unbiased")

    def total(a: Tensor, b: Tensor) -> Tensor:
        return kernel.of_squared_distances((a[:, None] - b[None]).square().sum(-1)).sum()

    within = (total(x, x) - less * n) / (n * (n - less)) + (total(y, y) - less * m) / (m * (m - less))
    return within - 2 * total(x, y) / (n * m)


@each_dtype
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_equals_the_definition_under_its_own_median(kind: str, dtype: torch.dtype, estimator: str) -> None:
    for n, m, f in ((9, 7, 3), (16, 16, 20)):
        for count, step in LADDERS:
            x, y = samples(kind, n, m, f, dtype)
            (value,) = adaptive_mmd2([x], [y], multiples=ladder_multiples(count, step), estimator=estimator)
            wide = [z.detach().double().requires_grad_() for z in (x, y)]
            gamma = median_bandwidth(*wide)
            kernel = MultiKernel.ladder(gamma, count, step)
            expected = by_definition(wide[0], wide[1], kernel, estimator)
            assert value.dtype == dtype
            assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=3 * TOLERANCE[dtype])
            roof = 4 / math.sqrt(float(kernel.bandwidths.min()))
            gradients = torch.autograd.grad(expected, wide)
            for got, wanted in zip(torch.autograd.grad(value, (x, y)), gradients, strict=True):
                torch.testing.assert_close(got.double(), wanted, rtol=0, atol=TOLERANCE[dtype] * roof)


@each_dtype
def test_bandwidths_are_the_heuristics(dtype: torch.dtype) -> None:
    for kind in KINDS:
        for n, m in ((9, 7), (8, 8), (1, 2)):
            if (n, m) == (1, 2) and kind not in ("plain", "all equal"):
                continue
            x, y = samples(kind, n, m, 3, dtype)
            pairs = PairDistances([torch.cat([x, y]), torch.cat([x, y]) * 2], n)
            torch.testing.assert_close(pairs.median()[0], median_bandwidth(x, y), rtol=1e-6, atol=0)
            if kind != "fill value":  # the mean of it is too large for float32
                torch.testing.assert_close(pairs.mean()[0], mean_bandwidth(x, y), rtol=1e-5, atol=0)
            if kind != "all equal":
                torch.testing.assert_close(pairs.median()[1], 4 * pairs.median()[0])


def test_layers_are_what_each_is_alone() -> None:
    (x, y), (p, q) = samples("plain", 12, 10, 6, torch.float32), samples("relu", 12, 10, 3, torch.float32)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.25, 0.15], [0.5, 0.0, 0.0, 0.0, 0.5]], dtype=torch.float64)
    for heuristic, bandwidth in (("median", median_bandwidth), ("mean", mean_bandwidth)):
        values = adaptive_mmd2([x, p], [y, q], weights=weights, heuristic=heuristic)
        for value, (a, b), beta in zip(values, ((x, y), (p, q)), weights, strict=True):
            kernel = MultiKernel(MultiKernel.ladder(bandwidth(a, b)).bandwidths, beta)
            torch.testing.assert_close(value, mmd2(a, b, kernel), rtol=1e-4, atol=1e-6)
            gradients = torch.autograd.grad(mmd2(a, b, kernel), (a, b))
            for got, wanted in zip(torch.autograd.grad(value, (a, b), retain_graph=True), gradients, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
    shared = adaptive_mmd2([x, p], [y, q], weights=weights[1])
    torch.testing.assert_close(shared[1], adaptive_mmd2([p], [q], weights=weights[1])[0])


@each_dtype
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_weighted_samples_are_those_of_mmd2(dtype: torch.dtype, estimator: str) -> None:
    x, y = samples("plain", 12, 10, 4, dtype)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    a = torch.linspace(0, 3, 12)
    for b in (None, torch.linspace(2, 0.5, 10)):
        (value,) = adaptive_mmd2([x], [y], estimator=estimator, x_weights=a, y_weights=b)
        expected = mmd2(x, y, kernel, estimator, x_weights=a, y_weights=b)
        close = {"rtol": 1e-4, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-8}
        torch.testing.assert_close(value, expected, **close)
        gradients = torch.autograd.grad(expected, (x, y))
        for got, wanted in zip(torch.autograd.grad(value, (x, y)), gradients, strict=True):
            torch.testing.assert_close(got, wanted, **close)


def test_too_small_an_effective_size_skips_the_term() -> None:
    x, y = samples("plain", 12, 10, 4, torch.float32)
    alone = torch.zeros(12)
    alone[3] = 2.0
    (value,) = adaptive_mmd2([x], [y], x_weights=alone)
    assert float(value.detach()) == 0
    for gradient in torch.autograd.grad(value, (x, y)):
        assert not bool(gradient.any())
    two = alone.clone()
    two[5] = 2.0
    (value,) = adaptive_mmd2([x], [y], x_weights=two)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    torch.testing.assert_close(value, mmd2(x[[3, 5]], y, kernel), rtol=1e-4, atol=1e-6)


class NothingReadBack(TorchDispatchMode):
    """Fails on what makes a host wait for a device: numbers read from it, and shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten.is_nonzero,
            torch.ops.aten.equal,
        ), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_is_read_back(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "READABLE", ())  # as on a GPU
    (x, y), (p, q) = samples("plain", 12, 10, 6, torch.float32), samples("relu", 12, 10, 3, torch.float32)
    running = RunningBandwidth(decay=0.9)
    weights = {"x_weights": torch.rand(12), "y_weights": torch.rand(10)} if weighted else {}
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NothingReadBack():
        float(x.detach().sum())  # so that the line below could fail
    with NothingReadBack():
        pairs = PairDistances([torch.cat([x, y]), torch.cat([p, q])], 12)
        gamma = torch.stack([running.update(new) for new in pairs.median()])
        loss = torch.stack(pairs.mmd2(gamma, ladder_multiples(), torch.full((2, 5), 0.2), **weights)).sum()
        loss = loss + adaptive_mmd2([x, p], [y, q], heuristic="mean", estimator="biased", **weights).sum()
        loss.backward()
    assert x.grad is not None and bool(x.grad.any())


def test_a_given_bandwidth_has_the_gradient_of_its_value() -> None:
    x, y = samples("plain", 5, 4, 3, torch.float64)
    p, q = samples("relu", 5, 4, 2, torch.float64)
    gamma = torch.tensor([3.0, 0.7], dtype=torch.float64)

    def value(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        return PairDistances([torch.cat([x, y]), torch.cat([p, q])], 5).mmd2(gamma, (0.5, 1.0, 3.0))

    assert torch.autograd.gradcheck(value, (x, y, p, q))


def test_pairs_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = samples("plain", 12, 10, 6, torch.float64)
    whole = adaptive_mmd2([x], [y], multiples=ladder_multiples(33, 2**0.5))
    expected = torch.autograd.grad(whole.sum(), (x, y))
    monkeypatch.setitem(adaptive.NUMBERS, "cpu", 500)
    parts = adaptive_mmd2([x], [y], multiples=ladder_multiples(33, 2**0.5))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    for got, wanted in zip(torch.autograd.grad(parts.sum(), (x, y)), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_median_is_the_same_where_nothing_can_be_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = samples(kind, 9, 8, 3, torch.float32)
    pairs = PairDistances([torch.cat([x, y]), torch.cat([x, y + 2])], 9)
    here = pairs.median()
    monkeypatch.setattr(adaptive, "READABLE", ())
    assert torch.equal(pairs.median(), here)


def test_a_subsample_of_pairs_is_near_the_median_and_asked_for() -> None:
    x, y = samples("plain", 60, 60, 8, torch.float32)
    pairs = PairDistances([torch.cat([x, y])], 60)
    exact, some = float(pairs.median()[0]), float(pairs.median(most_pairs=500)[0])
    assert exact == pytest.approx(float(np.median(torch.pdist(torch.cat([x, y]).detach()).square())), rel=1e-6)
    assert some != exact and some == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_and_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = (z.detach().to(dtype) for z in samples("plain", 12, 10, 6, torch.float32))
    (expected,) = adaptive_mmd2([x.float()], [y.float()])
    x, y = x.requires_grad_(), y.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (value,) = adaptive_mmd2([x], [y], weights=torch.full((5,), 0.2))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert all(g.dtype == dtype for g in torch.autograd.grad(value, (x, y)))


def test_a_second_derivative_is_refused() -> None:
    x, y = samples("plain", 6, 5, 3, torch.float64)
    loss = adaptive_mmd2([x], [y]).sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (loss + gradient.square().sum()).backward()


def test_features_that_are_not_finite_reach_the_value() -> None:
    for bad in (math.nan, math.inf):
        x, y = samples("plain", 6, 5, 3, torch.float32)
        (value,) = adaptive_mmd2([torch.cat([x[:1] * bad, x[1:]])], [y])
        assert not bool(value.isfinite())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: adaptive_mmd2([x, x], [y]), "same layers"),
        (lambda x, y: adaptive_mmd2([], []), r"must be \(N \+ M, F\)"),
        (lambda x, y: adaptive_mmd2([x], [y[:, :1]]), r"\(N, F\)"),
        (lambda x, y: adaptive_mmd2([x, x[1:]], [y, y[1:]]), "of the same samples"),
        (lambda x, y: adaptive_mmd2([x[:1]], [y]), "at least 2 samples"),
        (lambda x, y: adaptive_mmd2([x[:0]], [y], estimator="biased"), "at least 1 sample"),
        (lambda x, y: adaptive_mmd2([x], [y], estimator="linear"), '"unbiased" or "biased"'),
        (lambda x, y: adaptive_mmd2([x], [y], heuristic="max"), '"median" or "mean"'),
        (lambda x, y: ladder_multiples(0), "count >= 1"),
        (lambda x, y: ladder_multiples(5, 0.0), "step > 0"),
    ],
)
def test_bad_input_is_one_clear_line(call: Any, words: str) -> None:
    x, y = samples("plain", 6, 5, 3, torch.float32)
    with pytest.raises(ValueError, match=words) as caught:
        call(x, y)
    assert "\n" not in str(caught.value)


@each_dtype
def test_distances_without_pdist_are_the_same(dtype: torch.dtype) -> None:
    x, y = samples("duplicates", 7, 5, 4, dtype)
    z = torch.cat([x, y, x * 1e4 + 3]).detach().requires_grad_()
    mine, theirs = adaptive.differences(z), torch.pdist(z)
    torch.testing.assert_close(mine, theirs)
    weights = torch.linspace(-1, 1, len(mine), dtype=dtype)
    gradients = [torch.autograd.grad(weights @ found, z)[0] for found in (mine, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
