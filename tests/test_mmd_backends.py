"""Every backend of the pairwise engine against the definition in float64, forward and backward, however it is called.

The definition here takes every difference explicitly and its gradient by hand; it shares nothing with the engine.
A value may be off by 1e-5 (float32) or 1e-10 (float64) of mean K_xx + K_yy + K_xy, diagonals included. A gradient may
be off by as much of the largest sum of absolute terms among its rows,
    max_i sum_j |c_ij| sum_u beta_u (2 / gamma_u) k_u(z_i, z_j) max(|z_i - z_j|, sqrt(gamma_u)),
which, like the diagonal of K, does not vanish where the samples lie on top of each other.

KeOps compiles a formula for every (F, K, dtype), a quarter of a minute each when its cache is cold: it is met at one
(F, K) a dtype.

Shapes: N, M samples; F features; K kernels.
"""

import json
import logging
import math
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dan.mmd import MultiKernel, keops, mmd2, mmd2_per_kernel, pairwise, tiled, tiles
from dan.mmd.kernel_powers import LONGEST_CHAIN, chains, kernels, scale_of
from dan.mmd.pairwise import choose_backend, kernel_row_sums, kernel_totals, weighted_total

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
KEOPS_SHAPE = {torch.float32: (1, 33), torch.float64: (3, 2)}  # (F, K)


def with_keops(*names: str, long: bool = False) -> list[Any]:
    """Names of backends, "keops" with a skip that says why where it does not work; long: where it compiles for long."""
    reason = keops.why_not("cpu")
    skip = pytest.mark.skipif(reason is not None, reason=f"KeOps was not run: it does not work here ({reason})")
    marks = [skip, pytest.mark.long] if long else [skip]
    return [pytest.param(name, marks=marks) if name == "keops" else name for name in names]


each_backend = pytest.mark.parametrize("backend", with_keops("dense", "tiled", "keops", "auto"))
each_named = pytest.mark.parametrize("backend", with_keops("dense", "tiled", "keops"))
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
few = settings(max_examples=30, derandomize=True, deadline=None)


# The definition


def pairs(a: Tensor, b: Tensor, gammas: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (N, M, F) and kernels (N, M, K), all in float64."""
    delta = a[:, None] - b[None]
    return delta, torch.exp(-delta.square().sum(-1)[..., None] / gammas)


def pull(a: Tensor, b: Tensor, gammas: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of sum_ij sum_u c_iu k_u(a_i, b_j) in a (N, F), and the sum of its absolute terms (N,). c (N, K)."""
    delta, k = pairs(a, b, gammas)
    weights = 2 * c[:, None] / gammas * k  # (N, M, K)
    lengths = torch.maximum(delta.norm(dim=-1)[..., None], gammas.sqrt())
    return -(weights.sum(-1)[..., None] * delta).sum(1), (weights.abs() * lengths).sum((1, 2))


@dataclass
class Expected:
    sums: Tensor  # (3, K): within x and within y without the diagonal, between
    mean: Tensor  # (K,) mean K_xx + K_yy + K_xy, diagonals included
    of_x: Tensor  # gradient of sum_bu cotangent_bu sums_bu
    of_y: Tensor
    roof: float  # largest sum of absolute terms among the rows of the gradient


def definition(x: Tensor, y: Tensor, gammas: Tensor, cotangent: Tensor) -> Expected:
    """From x (N, F), y (M, F), gammas (K,), cotangent (3, K)."""
    x, y, gammas = x.detach().double(), y.detach().double(), gammas.double()
    (_, xx), (_, yy), (_, xy) = (pairs(a, b, gammas) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    totals = [k.sum((0, 1)) for k in (xx, yy, xy)]
    sums = torch.stack([totals[0] - n, totals[1] - m, totals[2]])
    mean = totals[0] / n**2 + totals[1] / m**2 + totals[2] / (n * m)
    a, b, c = cotangent.double()
    # Within a sample every k(x_i, x_j) stands twice, as (i, j) and as (j, i).
    own_x, roof_x = pull(x, x, gammas, (2 * a).expand(n, -1))
    own_y, roof_y = pull(y, y, gammas, (2 * b).expand(m, -1))
    to_y, roof_xy = pull(x, y, gammas, c.expand(n, -1))
    to_x, roof_yx = pull(y, x, gammas, c.expand(m, -1))
    roof = max(float((roof_x + roof_xy).max()), float((roof_y + roof_yx).max()))
    return Expected(sums, mean, own_x + to_y, own_y + to_x, roof)


def coefficients(estimator: str, n: int, m: int) -> tuple[Tensor, float]:
    """What the three sums are multiplied by, (3,), and the constant that the diagonals add."""
    if estimator == "unbiased":
        return torch.tensor([1 / (n * (n - 1)), 1 / (m * (m - 1)), -2 / (n * m)], dtype=torch.float64), 0.0
    return torch.tensor([1 / n**2, 1 / m**2, -2 / (n * m)], dtype=torch.float64), 1 / n + 1 / m


def assert_within(actual: Tensor, expected: Tensor, allowed: Tensor | float) -> None:
    assert actual.shape == expected.shape
    assert bool(actual.isfinite().all())
    error = (actual.detach().double() - expected).abs()
    worst = float((error / allowed).max())
    assert worst <= 1, f"off by {worst:.3g} times what is allowed"


def assert_gradients(got: tuple[Tensor, ...], x: Tensor, y: Tensor, expected: Expected, tolerance: float) -> None:
    for gradient, of, wanted in zip(got, (x, y), (expected.of_x, expected.of_y), strict=True):
        assert gradient.dtype == of.dtype
        allowed = tolerance * expected.roof + torch.zeros_like(wanted)
        if of.dtype in (torch.float16, torch.bfloat16):  # rounded once more, to the precision of the input
            info = torch.finfo(of.dtype)
            allowed = allowed + info.eps / 2 * wanted.abs() + info.tiny * info.eps
        assert_within(gradient, wanted, allowed)


# Who ran

REGISTRIES = ("BACKENDS", "WITH_GRADIENT", "ROW_SUMS")


@contextmanager
def counted() -> Iterator[Counter[tuple[str, str]]]:
    """Counts the calls of every entry of every registry: (registry, name) -> calls."""
    calls: Counter[tuple[str, str]] = Counter()

    def wrapped(key: tuple[str, str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[key] += 1
            return function(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for registry in REGISTRIES:
            entries: dict[str, Callable[..., Any]] = getattr(pairwise, registry)
            stack.enter_context(mock.patch.dict(entries, {n: wrapped((registry, n), f) for n, f in entries.items()}))
        yield calls


def assert_ran(calls: Counter[tuple[str, str]], registry: str, backend: str, x: Tensor, y: Tensor, count: int) -> None:
    """Exactly one entry was called, once, and it is the named one; of "auto", the one it says it chooses."""
    if backend == "auto":
        high = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        backend = choose_backend("auto", x.to(high), y.to(high), count)
    if registry == "WITH_GRADIENT" and backend == "keops":
        registry = "BACKENDS"
    assert calls == {(registry, backend): 1}


# What it meets

KINDS = ["plain", "offset", "far offset", "huge", "tiny", "duplicates", "dead feature", "all equal"]
FAR_KINDS = ["clusters", "clusters in both", "one outlier pair"]
LAYOUTS = ["contiguous", "transposed", "strided", "expanded"]


@dataclass
class Case:
    x: Tensor
    y: Tensor
    kernel: MultiKernel
    estimator: str
    tile: int
    seed: int
    kind: str = ""

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)

    def small_tiles(self) -> Any:
        return mock.patch.dict(tiles.TILE, cpu=self.tile)


def laid_out(z: Tensor, layout: str) -> Tensor:
    """The same numbers (but for "expanded": its first row again and again), another way in memory."""
    if layout == "transposed":
        return z.T.contiguous().T
    if layout == "strided":
        wide = z.new_full((2 * z.shape[0], 3 * z.shape[1]), math.nan)
        wide[::2, 1::3] = z
        return wide[::2, 1::3]
    return z[:1].expand_as(z) if layout == "expanded" else z


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype, backend: str, kinds: tuple[str, ...] = (*KINDS, *FAR_KINDS)) -> Case:
    kind = draw(st.sampled_from(kinds))
    estimator = draw(st.sampled_from(["unbiased", "biased"]))
    least = 2 if estimator == "unbiased" else 1
    n, m = draw(st.integers(least, 17)), draw(st.integers(least, 17))
    f, count = draw(st.sampled_from([1, 2, 3, 20])), draw(st.sampled_from([1, 2, 5, 33]))
    if backend == "keops":
        f, count = KEOPS_SHAPE[dtype]
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64) * 1.3 + 0.5
    length = 1.0  # a typical one
    if kind == "offset":
        x, y = x + 1000, y + 1000
    elif kind == "far offset":
        x, y = x + 1e5, y + 1e5
    elif kind in ("huge", "tiny"):
        length = 1e15 if kind == "huge" else 1e-15
        x, y = x * length, y * length
    elif kind == "duplicates":
        x[n // 2 :] = x[0].clone()
        y[m // 2 :] = x[0]
    elif kind == "dead feature":
        x[:, 0] = y[:, 0] = 7.0
    elif kind == "all equal":
        x[:], y[:] = 2.5, 2.5
    elif kind == "clusters":
        y = y + 1e4
    elif kind == "clusters in both":
        x[::2] += 1e4
        y[::3] += 1e4
    elif kind == "one outlier pair":
        x[-1] += 100
        y[-2:] = x[-1] + 0.1 * torch.randn(f, generator=generator, dtype=torch.float64)
    x, y = (laid_out(z.to(dtype), draw(st.sampled_from(LAYOUTS))) for z in (x, y))
    # In units of a typical squared distance between rows.
    centre = 2 * f * length**2 * draw(st.sampled_from([0.01, 1.0, 30.0]))
    ladder = draw(st.sampled_from(["powers of two", "powers of its root", "any"]))
    if ladder == "any":
        bandwidths = centre * torch.exp(2 * torch.randn(count, generator=generator, dtype=torch.float64))
    else:
        bandwidths = MultiKernel.ladder(centre, count, 2.0 if ladder == "powers of two" else 2**0.5).bandwidths
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01
    kernel = MultiKernel(bandwidths, weights / weights.sum())
    return Case(x, y, kernel, estimator, draw(st.sampled_from([3, 8, 1024])), seed, kind)


def check_mmd2(case: Case, backend: str, tolerance: float) -> None:
    x, y, kernel = case.x.requires_grad_(), case.y.requires_grad_(), case.kernel
    c, constant = coefficients(case.estimator, len(x), len(y))
    expected = definition(x, y, kernel.bandwidths, c[:, None] * kernel.weights)
    with counted() as calls, case.small_tiles():
        value = mmd2(x, y, kernel, case.estimator, backend=backend)
        gradients = torch.autograd.grad(-4 * value, (x, y))
    assert_ran(calls, "WITH_GRADIENT", backend, x, y, len(kernel.weights))
    assert_within(
        value, c @ expected.sums @ kernel.weights + constant, tolerance * float(expected.mean @ kernel.weights)
    )
    assert_gradients(tuple(g / -4 for g in gradients), x, y, expected, tolerance)
    with torch.no_grad(), case.small_tiles():
        torch.testing.assert_close(mmd2(x, y, kernel, case.estimator, backend=backend), value.detach())


def check_per_kernel(case: Case, backend: str, tolerance: float) -> None:
    x, y, kernel = case.x.requires_grad_(), case.y.requires_grad_(), case.kernel
    c, constant = coefficients(case.estimator, len(x), len(y))
    cotangent = case.random(len(kernel.weights))
    expected = definition(x, y, kernel.bandwidths, c[:, None] * cotangent)
    with counted() as calls, case.small_tiles():
        value = mmd2_per_kernel(x, y, kernel, case.estimator, backend=backend)
        gradients = torch.autograd.grad(value, (x, y), cotangent.to(value.dtype))
    assert_ran(calls, "BACKENDS", backend, x, y, len(kernel.weights))
    assert_within(value, c @ expected.sums + constant, tolerance * expected.mean)
    assert_gradients(gradients, x, y, expected, tolerance)


def check_row_sums(case: Case, backend: str, tolerance: float, per_kernel: bool) -> None:
    """Values are held to the largest of the row sums, or to 1, the kernel's own largest value."""
    x, y, kernel = case.x.requires_grad_(), case.y.requires_grad_(), case.kernel
    gammas, beta = kernel.bandwidths, kernel.weights
    cotangent = case.random(len(x), len(beta)) if per_kernel else case.random(len(x))
    of_each = cotangent if per_kernel else cotangent[:, None] * beta  # (N, K)
    with counted() as calls, case.small_tiles():
        value = kernel_row_sums(x, y, kernel, backend=backend, per_kernel=per_kernel)
        gradients = torch.autograd.grad(value, (x, y), cotangent.to(value.dtype))
    assert_ran(calls, "ROW_SUMS", backend, x, y, len(beta))
    a, b = x.detach().double(), y.detach().double()
    delta, k = pairs(a, b, gammas)
    sums = k.sum(1) if per_kernel else k.sum(1) @ beta
    assert_within(value, sums, tolerance * max(1.0, float(sums.max())))
    of_x, roof_x = pull(a, b, gammas, of_each)
    weights = (2 * of_each[:, None] / gammas * k).sum(-1)  # (N, M)
    of_y = (weights[..., None] * delta).sum(0)
    lengths = torch.maximum(delta.norm(dim=-1)[..., None], gammas.sqrt())
    roof_y = (2 * of_each[:, None].abs() / gammas * k * lengths).sum((0, 2))
    roof = max(float(roof_x.max()), float(roof_y.max()))
    # The kernel's own steepest slope, where no pair is near.
    roof = max(roof, float((of_each.abs() / gammas.sqrt()).sum(1).max()))
    assert_gradients(gradients, x, y, Expected(sums, sums, of_x, of_y, roof), tolerance)


@each_dtype
@each_backend
@few
@given(data=st.data())
def test_mmd2_is_the_definition(backend: str, dtype: torch.dtype, data: st.DataObject) -> None:
    check_mmd2(data.draw(cases(dtype, backend)), backend, TOLERANCE[dtype])


@each_dtype
@each_backend
@few
@given(data=st.data())
def test_mmd2_per_kernel_is_the_definition(backend: str, dtype: torch.dtype, data: st.DataObject) -> None:
    check_per_kernel(data.draw(cases(dtype, backend)), backend, TOLERANCE[dtype])


@pytest.mark.parametrize("per_kernel", [False, True], ids=["weighted", "per kernel"])
@each_dtype
@each_backend
@few
@given(data=st.data())
def test_row_sums_are_the_definition(backend: str, dtype: torch.dtype, per_kernel: bool, data: st.DataObject) -> None:
    check_row_sums(data.draw(cases(dtype, backend)), backend, TOLERANCE[dtype], per_kernel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@each_backend
@settings(few, max_examples=15)
@given(data=st.data())
def test_half_precision_is_the_definition_of_the_rounded_inputs(
    backend: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    kinds = ("plain", "duplicates", "dead feature", "all equal")  # what else there is, float16 cannot hold
    case = data.draw(cases(torch.float32, backend, kinds))
    case.x, case.y = case.x.to(dtype), case.y.to(dtype)
    data.draw(st.sampled_from([check_mmd2, check_per_kernel]))(case, backend, 1e-5)


@each_backend
def test_mixed_precisions_meet_in_the_higher(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator)
    y = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    kernel = MultiKernel([2.0, 6.5], [0.3, 0.7])  # type: ignore[arg-type]
    case = Case(x.requires_grad_(), y.requires_grad_(), kernel, "unbiased", 4, 0)
    assert mmd2(x, y, kernel, backend=backend).dtype == torch.float64
    assert mmd2_per_kernel(x, y, kernel, backend=backend).dtype == torch.float64
    c, _ = coefficients("unbiased", 6, 9)
    expected = definition(x, y, kernel.bandwidths, c[:, None] * kernel.weights)
    value = mmd2(x, y, kernel, backend=backend)
    assert_within(value, c @ expected.sums @ kernel.weights, 1e-10)
    of_x, of_y = torch.autograd.grad(value, (x, y))
    assert (of_x.dtype, of_y.dtype) == (torch.float32, torch.float64)
    assert_within(of_x, expected.of_x, 1e-7 * expected.roof)
    assert_within(of_y, expected.of_y, 1e-10 * expected.roof)
    check_per_kernel(Case(y.detach(), y.detach() + 1, kernel, "biased", 4, case.seed), backend, 1e-10)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_few_samples_far_away_weigh_as_much_as_many(backend: str) -> None:
    """The two of one domain all but coincide, thirty kernel widths from the thousand of the other."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1000, 1, generator=generator)
    y = 60 + 0.3 * torch.randn(2, 1, generator=generator)
    for check in (check_mmd2, check_per_kernel):
        check(Case(x.detach(), y.detach(), MultiKernel.of([4.0]), "unbiased", 1024, 0), backend, 1e-5)


@pytest.mark.parametrize("tile", [7, 16, 40, 1000])
@each_dtype
def test_tiles_of_any_size_add_up(dtype: torch.dtype, tile: int) -> None:
    """Several tiles, ragged last ones, diagonal ones and one for all: totals, weighted totals and row sums."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64).to(dtype)
    y = (torch.randn(37, 4, generator=generator, dtype=torch.float64) + 0.5).to(dtype)
    kernel = MultiKernel.ladder(8.0, count=3)
    bandwidths = tuple(kernel.bandwidths.tolist())
    cotangent = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    expected = definition(x, y, kernel.bandwidths, cotangent)
    counts = torch.tensor([50.0**2, 37**2, 50 * 37], dtype=torch.float64)[:, None]
    sums = tiled.totals(x.requires_grad_(), y.requires_grad_(), bandwidths, tile=tile)
    assert_within(sums, expected.sums, TOLERANCE[dtype] * counts)
    assert_gradients(torch.autograd.grad(sums, (x, y), cotangent), x, y, expected, TOLERANCE[dtype])

    c = (0.3, -2.0, 1.1)
    weights = kernel.weights.tolist()
    expected = definition(x, y, kernel.bandwidths, torch.tensor(c, dtype=torch.float64)[:, None] * kernel.weights)
    value, of_x, of_y = tiled.weighted(x, y, bandwidths, weights, c, gradients=True, tile=tile)
    assert of_x is not None and of_y is not None
    whole = torch.tensor(c, dtype=torch.float64) @ expected.sums @ kernel.weights
    assert_within(value, whole, TOLERANCE[dtype] * float(counts.max()))
    assert_gradients((of_x, of_y), x, y, expected, TOLERANCE[dtype])
    assert tiled.weighted(x, y, bandwidths, weights, c, gradients=False, tile=tile)[1:] == (None, None)

    rows = tiled.row_sums(x, y, bandwidths, tile=tile)
    assert_within(
        rows, pairs(x.detach().double(), y.detach().double(), kernel.bandwidths)[1].sum(1), 37 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize("tile", [1, 16, 1000])
@each_dtype
def test_kernel_blocks_are_the_upper_triangle(dtype: torch.dtype, tile: int) -> None:
    generator = torch.Generator().manual_seed(5)
    z = (torch.randn(43, 3, generator=generator, dtype=torch.float64) + 1000).to(dtype)
    kernel = MultiKernel([1.0, 3.0, 20.0], [0.2, 0.5, 0.3])  # type: ignore[arg-type]
    gram = torch.full((43, 43), math.nan, dtype=dtype)
    for rows, columns, block in tiled.kernel_blocks(z.requires_grad_(), kernel, tile=tile):
        assert block.dtype == dtype and not block.requires_grad
        assert rows.start <= columns.start
        assert bool(gram[rows, columns].isnan().all())  # no pair twice
        gram[rows, columns] = block
    wanted = pairs(z.detach().double(), z.detach().double(), kernel.bandwidths)[1] @ kernel.weights
    upper = torch.ones(43, 43).triu().bool()
    assert_within(gram[upper], wanted[upper], TOLERANCE[dtype])
    assert torch.equal(gram.diagonal(), torch.ones(43, dtype=dtype))


@each_named
def test_a_sample_against_itself(backend: str) -> None:
    """One tensor in both places gathers both gradients; the biased estimate and its gradient are zero."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    kernel = MultiKernel.of([1.0, 4.0])
    for value in (mmd2(x, x, kernel, "biased", backend), mmd2_per_kernel(x, x, kernel, "biased", backend).sum()):
        assert abs(float(value.detach())) < 1e-12
        assert float(torch.autograd.grad(value, x)[0].abs().max()) < 1e-12


# How it is called


def calls_of(backend: str, kernel: MultiKernel) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {
        "mmd2": lambda x, y: mmd2(x, y, kernel, backend=backend),
        "biased": lambda x, y: mmd2(x, y, kernel, "biased", backend=backend),
        "weighted_total": lambda x, y: weighted_total(x, y, kernel, (0.1, -0.2, 0.3), backend=backend),
        "per kernel": lambda x, y: mmd2_per_kernel(x, y, kernel, backend=backend),
        "totals": lambda x, y: torch.stack(kernel_totals(x, y, kernel.bandwidths, backend=backend)),
        "row sums": lambda x, y: kernel_row_sums(x, y, kernel, backend=backend),
        "row sums per kernel": lambda x, y: kernel_row_sums(x, y, kernel, backend=backend, per_kernel=True),
    }


def three_features(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, MultiKernel]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(4, 3, generator=generator, dtype=torch.float64) + 0.5
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_(), MultiKernel.of([3.0, 7.0])


@each_named
def test_gradcheck(backend: str) -> None:
    x, y, kernel = three_features()
    with mock.patch.dict(tiles.TILE, cpu=3):
        for call in calls_of(backend, kernel).values():
            assert torch.autograd.gradcheck(call, (x, y))


@pytest.mark.parametrize("backend", with_keops("dense", "keops", long=True))
def test_second_derivatives_where_they_are_promised(backend: str) -> None:
    x, y, kernel = three_features()
    for name in ("per kernel", "row sums"):
        assert torch.autograd.gradgradcheck(calls_of(backend, kernel)[name], (x, y))


@pytest.mark.parametrize(
    ("backend", "name"),
    [("dense", "mmd2"), ("tiled", "mmd2"), ("tiled", "per kernel"), ("tiled", "totals"), ("tiled", "row sums")],
)
def test_second_derivatives_are_refused_where_they_are_not(backend: str, name: str) -> None:
    x, y, kernel = three_features()
    call = calls_of(backend, kernel)[name]
    for of in ((x, y), (x,), (y,)):
        gradients = torch.autograd.grad(call(x, y).sum(), of, create_graph=True)
        with pytest.raises(RuntimeError, match=r"cannot be differentiated again.*dense"):
            torch.stack([g.square().sum() for g in gradients]).sum().backward()
        # Nor is a gradient penalty beside the loss left out without a word.
        loss = call(x, y).sum()
        gradients = torch.autograd.grad(loss, of, create_graph=True)
        with pytest.raises(RuntimeError, match=r"cannot be differentiated again"):
            (loss + torch.stack([g.square().sum() for g in gradients]).sum()).backward()
    # The first derivative is not spoilt by the possibility of a second.
    plain = torch.autograd.grad(call(x, y).sum(), (x, y))
    torch.testing.assert_close(torch.autograd.grad(call(x, y).sum(), (x, y), create_graph=True), plain)


@each_named
def test_one_side_may_be_constant(backend: str) -> None:
    x, y, kernel = three_features()
    for call in calls_of(backend, kernel).values():
        of_x, of_y = torch.autograd.grad(call(x, y).sum(), (x, y))
        for one, other in ((x, y), (y, x)):
            constant = other.detach()
            value = call(one, constant) if one is x else call(constant, one)
            (gradient,) = torch.autograd.grad(value.sum(), one)
            torch.testing.assert_close(gradient, of_x if one is x else of_y)
            assert constant.grad is None
            unwanted = torch.autograd.grad(call(x, y).sum(), one)[0]  # both require one, one is asked for
            torch.testing.assert_close(unwanted, gradient)


@each_named
def test_vmap_is_one_clear_line(backend: str) -> None:
    x, y, kernel = three_features()
    batch = torch.stack([x.detach(), x.detach() + 1])
    for call in calls_of(backend, kernel).values():
        for mapped in (call, torch.func.grad(lambda a, b, call=call: call(a, b).sum())):
            with pytest.raises(ValueError, match=r"cannot be mapped by torch\.vmap: loop over the batch") as caught:
                torch.vmap(mapped, in_dims=(0, None))(batch, y.detach())
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"cannot be mapped by torch\.vmap"):
        torch.vmap(lambda w: mmd2(x.detach(), y.detach(), kernel, x_weights=w))(torch.rand(2, 5))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in forward mode
@pytest.mark.parametrize(
    ("backend", "name"),
    [("dense", "mmd2"), ("tiled", "mmd2"), ("tiled", "per kernel"), ("tiled", "totals"), ("tiled", "row sums")],
)
def test_transforms_of_gradients_in_closed_form_are_one_clear_line(backend: str, name: str) -> None:
    x, y, kernel = three_features()
    call, a, b = calls_of(backend, kernel)[name], x.detach(), y.detach()
    for transformed in (
        lambda: torch.func.grad(lambda z: call(z, b).sum())(a),
        lambda: torch.func.grad(lambda z: call(a, z).sum())(b),
        lambda: torch.func.jvp(lambda z: call(z, b), (a,), (a,)),
    ):
        with pytest.raises(ValueError, match=r"not with torch\.func.*mmd2_per_kernel.*dense") as caught:
            transformed()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", with_keops("dense", "keops"))
def test_transforms_of_plain_operations(backend: str) -> None:
    """What the message names works: the derivatives of `torch.func` are those of `torch.autograd`."""
    x, y, kernel = three_features()

    def twin(z: Tensor) -> Tensor:
        return mmd2_per_kernel(z, y.detach(), kernel, backend=backend) @ kernel.weights

    (expected,) = torch.autograd.grad(mmd2(x, y, kernel), x)
    torch.testing.assert_close(torch.func.grad(twin)(x.detach()), expected)


@each_dtype
@each_named
def test_the_result_has_the_precision_of_the_samples(backend: str, dtype: torch.dtype) -> None:
    x, y, kernel = three_features(dtype)
    if backend == "keops" and dtype == torch.float32:
        x, y, kernel = x[:, :1], y[:, :1], MultiKernel.ladder(2.0, 33)  # the formula that is compiled already
    for name, call in calls_of(backend, kernel).items():
        wanted = torch.float64 if name == "totals" else dtype  # sums of pairs, before they cancel
        assert call(x, y).dtype == wanted, name
        assert call(x.detach(), y.detach()).dtype == wanted, name


@each_named
def test_without_gradients(backend: str) -> None:
    x, y, kernel = three_features()
    for call in calls_of(backend, kernel).values():
        value = call(x, y)
        assert value.requires_grad
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                again = call(x, y)
                of_constants = call(x.detach().clone(), y.detach().clone())
            assert not again.requires_grad
            torch.testing.assert_close(again, value.detach(), rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(of_constants.clone(), value.detach(), rtol=1e-12, atol=1e-14)


@each_dtype
@each_named
def test_autocast_changes_nothing(backend: str, dtype: torch.dtype) -> None:
    f, count = KEOPS_SHAPE[dtype]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(9, f, generator=generator).to(dtype).requires_grad_()
    y = torch.randn(8, f, generator=generator).to(dtype).requires_grad_()
    kernel = MultiKernel.ladder(2.0 * f, count)
    with mock.patch.dict(tiles.TILE, cpu=4):
        for call in calls_of(backend, kernel).values():
            value = call(x, y)
            gradients = torch.autograd.grad(value.sum(), (x, y))
            with torch.autocast("cpu", torch.bfloat16):
                cast = call(x, y)
            assert cast.dtype == value.dtype and torch.equal(cast, value)
            for got, wanted in zip(torch.autograd.grad(cast.sum(), (x, y)), gradients, strict=True):
                assert torch.equal(got, wanted)
            if backend != "dense":  # whose products are torch's own, and follow torch's rule: no backward in autocast
                with torch.autocast("cpu", torch.bfloat16):
                    within = torch.autograd.grad(call(x, y).sum(), (x, y))
                torch.testing.assert_close(within, gradients)


def test_half_features_of_an_autocast_network_are_taken_in_float32() -> None:
    x, y, kernel = three_features(torch.float32)
    layer = torch.nn.Linear(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = layer(x), layer(y)
        assert a.dtype == torch.bfloat16
        value = mmd2(a, b, kernel)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, mmd2(a.float(), b.float(), kernel))


@pytest.mark.parametrize("name", ["dnse", "tild", "kops", "atuo"])
def test_an_unknown_backend_is_refused_by_name(name: str) -> None:
    x, y, kernel = three_features()
    near = {"dnse": "dense", "tild": "tiled", "kops": "keops", "atuo": "auto"}[name]
    for call in calls_of(name, kernel).values():
        with pytest.raises(
            ValueError, match=f'unknown backend "{name}".*mean.*{near}.*one of auto, dense, tiled, keops'
        ):
            call(x, y)


# Ladders


@few
@given(data=st.data())
def test_powers_make_every_kernel_once_and_as_the_exponential_does(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    count = data.draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    step = data.draw(st.sampled_from([1.0, 2**0.25, 2**0.5, 2.0, 4.0, 2.0**5, 1.3]))
    bandwidths = 3.7 * step ** (torch.arange(count, dtype=torch.float64) - count // 2)
    if data.draw(st.booleans()):
        bandwidths = bandwidths.to(dtype)  # as a kernel in float32 has them
    if data.draw(st.booleans()):
        bandwidths = bandwidths * torch.exp(torch.randn(count, generator=generator))
    gammas = tuple(bandwidths[torch.randperm(count, generator=generator)].tolist())

    eps = torch.finfo(dtype).eps
    order = chains(gammas, 4 * eps)
    assert sorted(u for chain in order for u, _ in chain) == list(range(count))
    for chain in order:
        assert chain[0][1] == 0
        done = 0
        for u, squarings in chain:
            done += squarings
            assert gammas[u] == pytest.approx(gammas[chain[0][0]] / 2**done, rel=4 * eps)
        assert done <= LONGEST_CHAIN

    scale = scale_of(gammas)
    d2 = torch.rand(4, 6, generator=generator, dtype=torch.float64) * 8
    d2[0, 0] = 0
    negative = -d2.to(dtype)
    made = {u: k.clone() for u, k in kernels(negative.clone(), gammas)}
    assert sorted(made) == list(range(count))
    for u, k in made.items():
        exponents = -negative.double() * (scale / gammas[u])
        wanted = torch.exp(-exponents)
        # A rounding of the exponent counts by its size; one of the root by as often as it is multiplied with itself.
        allowed = eps * wanted * (2**LONGEST_CHAIN + 8 * exponents) + torch.finfo(dtype).tiny
        assert_within(k, wanted, allowed)
        assert float(k[0, 0]) == 1


@pytest.mark.parametrize(("count", "step", "exponentials"), [(1, 2.0, 1), (5, 2.0, 1), (33, 2**0.5, 8), (5, 3.0, 5)])
@each_dtype
def test_ladders_need_few_exponentials(dtype: torch.dtype, count: int, step: float, exponentials: int) -> None:
    for gamma in (1.0, 0.3, 517.7):
        gammas = tuple(MultiKernel.ladder(gamma, count, step).bandwidths.tolist())
        assert len(chains(gammas, 4 * torch.finfo(dtype).eps)) == exponentials


# Size


def in_fresh_python(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in another process, of one thread, where nothing was allocated or imported yet."""
    prelude = "import sys, torch; torch.set_num_threads(1)\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


ANONYMOUS = """
    import threading

    def anonymous():  # bytes that are in memory and not a page of some file
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024

    class Peak:
        def __enter__(self):
            self.start = self.most = anonymous()
            self.over = threading.Event()
            self.thread = threading.Thread(target=self.watch)
            self.thread.start()
            return self
        def watch(self):
            while not self.over.wait(0.002):
                self.most = max(self.most, anonymous())
        def __exit__(self, *_):
            self.over.set()
            self.thread.join()
            self.beyond = max(self.most, anonymous()) - self.start
"""
proc = pytest.mark.skipif(
    not Path("/proc/self/status").is_file() or "RssAnon" not in Path("/proc/self/status").read_text(encoding="utf-8"),
    reason="this system does not say (in /proc/self/status) how much memory is anonymous",
)


@proc
def test_tiles_bound_the_memory() -> None:
    """Forward and backward at n = m = 4096, where one matrix of all pairs alone would take 268 MB."""
    code = """
    from dan.mmd import MultiKernel, mmd2
    kernel = MultiKernel.ladder(128.0)
    x, y = (torch.randn(4096, 64, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    mmd2(x[:8], y[:8], kernel, backend="tiled").backward()
    x.grad = y.grad = None
    with Peak() as peak:
        mmd2(x, y, kernel, backend="tiled").backward()
    assert x.grad.abs().sum() > 0
    print(peak.beyond)
    """
    done = in_fresh_python(textwrap.dedent(ANONYMOUS) + textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    beyond = int(done.stdout)
    assert 1e6 < beyond < 60e6  # something was measured, and it is little


@proc
def test_domains_larger_than_the_memory_they_may_take(tmp_path: Path) -> None:
    """Memory-mapped feature files, very wide ones here, are read a tile at a time: neither is ever held."""
    n, f = 500, 62_500  # 125 MB a file: far more than the tiles, which stay as they are however many samples there are
    generator = np.random.default_rng(0)
    samples = []
    for name, shift in (("x.npy", 0.0), ("y.npy", 0.02)):
        z = generator.standard_normal((n, f), dtype=np.float32) + np.float32(shift)
        np.save(tmp_path / name, z)
        samples.append(torch.from_numpy(z))
    kernel = MultiKernel.ladder(2.0 * f)
    code = """
    import numpy
    from dan.mmd import MultiKernel, mmd2
    kernel = MultiKernel.ladder(2.0 * 62_500)
    x, y = (torch.from_numpy(numpy.lib.format.open_memmap(path, mode="c")) for path in sys.argv[1:])
    with torch.no_grad():
        mmd2(x[:4, :9], y[:4, :9], kernel, backend="tiled")
        with Peak() as peak:
            value = mmd2(x, y, kernel, backend="tiled")
    print(peak.beyond, float(value))
    """
    done = in_fresh_python(textwrap.dedent(ANONYMOUS) + textwrap.dedent(code), tmp_path / "x.npy", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    beyond, value = done.stdout.split()
    assert 1e6 < int(beyond) < (tmp_path / "x.npy").stat().st_size
    assert float(value) == pytest.approx(float(mmd2(samples[0], samples[1], kernel, backend="dense")), abs=1e-6)


def test_float32_sums_of_800_million_pairs() -> None:
    """20,000 points a side, of 150 and 130 distinct places: the sums are then known exactly by their counts."""
    generator = torch.Generator().manual_seed(0)
    places_x = torch.randn(150, 2, generator=generator)
    places_y = torch.randn(130, 2, generator=generator) + 1
    at_x, at_y = (torch.randint(0, places, (20_000,), generator=generator) for places in (150, 130))
    kernel = MultiKernel.of([4.0])
    p = torch.bincount(at_x, minlength=150).double() / 20_000
    q = torch.bincount(at_y, minlength=130).double() / 20_000

    def mean(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> float:
        return float(first @ pairs(a.double(), b.double(), kernel.bandwidths)[1][..., 0] @ second)

    exact = mean(places_x, places_x, p, p) + mean(places_y, places_y, q, q) - 2 * mean(places_x, places_y, p, q)
    value = mmd2(places_x[at_x], places_y[at_y], kernel, "biased", backend="tiled")
    assert exact > 0.1
    assert float(value) == pytest.approx(exact, rel=1e-6)


# What is at hand


def test_without_a_compiler_keops_gives_way_and_says_so(tmp_path: Path) -> None:
    x, y, kernel = three_features()
    code = """
    import logging
    logging.basicConfig(level=logging.WARNING, format="LOG %(levelname)s %(name)s %(message)s")
    from dan.mmd import MultiKernel, mmd2, mmd2_per_kernel
    from dan.mmd.pairwise import kernel_row_sums
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(4, 3, generator=generator, dtype=torch.float64) + 0.5
    kernel = MultiKernel.of([3.0, 7.0])
    mmd2_per_kernel(x, y, kernel, backend="keops")
    kernel_row_sums(x, y, kernel, backend="keops")
    print("VALUE", float(mmd2(x, y, kernel, backend="keops")))
    """
    done = in_fresh_python(
        code,
        PATH=str(tmp_path / "empty"),
        CXX=str(tmp_path / "no compiler"),
        KEOPS_CACHE_FOLDER=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    (value,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VALUE")]
    assert float(value) == pytest.approx(float(mmd2(x.detach(), y.detach(), kernel, backend="dense")), rel=1e-10)
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("LOG")]  # once, not at every step
    assert "WARNING dan.mmd.pairwise KeOps does not work here" in warning and "tiled" in warning
    assert "Traceback" not in done.stderr


def test_auto_follows_the_table(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def case(dtype: str, features: int, count: int, tiled_from: int | None, keops_from: int | None) -> dict[str, Any]:
        return {
            "dtype": dtype, "features": features, "kernels": count, "tiled_from": tiled_from, "keops_from": keops_from,
        }  # fmt: skip

    table = {
        "cpu": [
            case("float32", 4, 5, 30, 60),
            case("float32", 256, 5, 100, None),
            case("float32", 256, 33, None, None),
            case("float64", 256, 5, 10, None),
        ]
    }
    monkeypatch.setattr(pairwise, "_crossovers", lambda: table)
    monkeypatch.setattr(keops, "why_not", lambda device: None)
    pairwise._fastest.cache_clear()

    def chosen(n: int, m: int, f: int, count: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> str:
        x, y = (torch.empty(rows, f, dtype=dtype, device=device) for rows in (n, m))
        return choose_backend("auto", x, y, count)

    try:
        assert chosen(29, 30, 4, 5) == "dense"
        assert chosen(30, 30, 4, 5) == chosen(1, 59, 3, 5) == "tiled"
        assert chosen(60, 60, 4, 5) == chosen(119, 1, 1, 1) == "keops"
        assert chosen(99, 99, 256, 5) == "dense" and chosen(100, 100, 300, 4) == "tiled"
        assert chosen(500, 500, 256, 33) == "dense"
        assert chosen(10, 10, 256, 5, torch.float64) == "tiled"
        # Not measured there: by the CPU's sizes, and never KeOps, which would begin by compiling.
        assert chosen(60, 60, 4, 5, device="meta") == "tiled"
        x, y, kernel = three_features(torch.float32)
        table["cpu"][0]["tiled_from"] = 1
        pairwise._fastest.cache_clear()
        with counted() as calls:
            mmd2(x, y, kernel)
        assert calls == {("WITH_GRADIENT", "tiled"): 1}
        # Chosen by the table, refused by the machine.
        monkeypatch.setattr(keops, "why_not", lambda device: "no compiler for this test")
        with caplog.at_level(logging.WARNING):
            assert chosen(60, 60, 4, 5) == "tiled"
        assert "no compiler for this test" in caplog.text
    finally:
        pairwise._fastest.cache_clear()


def test_the_shipped_table_is_well_formed() -> None:
    text = (Path(pairwise.__file__).parent / "crossovers.json").read_text(encoding="utf-8")
    table = json.loads(text)
    assert pairwise._crossovers() == table
    assert "cpu" in table
    for device, rows in table.items():
        assert device in ("cpu", "cuda")
        assert {row["dtype"] for row in rows} == {"float32", "float64"}
        assert len({(row["dtype"], row["features"], row["kernels"]) for row in rows}) == len(rows)
        for row in rows:
            assert set(row) == {"dtype", "features", "kernels", "tiled_from", "keops_from"}
            assert all(type(row[name]) is int and row[name] > 0 for name in ("features", "kernels"))
            assert all(
                row[name] is None or type(row[name]) is int and row[name] > 0 for name in ("tiled_from", "keops_from")
            )
    for dtype in TOLERANCE:  # whatever comes, something answers
        for n, f, count in ((2, 1, 1), (10**6, 1, 33), (100, 10**5, 5)):
            x = torch.empty(n, f, dtype=dtype, device="meta")
            assert choose_backend("auto", x, x, count) in pairwise.BACKENDS
