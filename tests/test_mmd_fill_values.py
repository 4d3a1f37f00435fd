"""Entries far beyond the others, as fill values are: every backend gives what float64 differences give.

The definition here takes every difference in float64; far pairs then count exactly 0, near ones lose nothing.
"""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from dan.mmd import (
    MultiKernel,
    keops,
    mean_bandwidth,
    median_bandwidth,
    mmd2,
    mmd2_per_kernel,
    mmd2_variance,
    permutation_test,
    random_feature_mmd2,
    tiles,
)
from dan.mmd.distances import compress_gaps
from dan.mmd.pairwise import kernel_row_sums
from dan.mmd.tiled import kernel_blocks

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
VALUES = (1e3, 1e6, 1e9, 1e12, 1e15, 1e18, 1e20, 1e25, 1e30, 1e37)
SIZES = ((30, 25, 5), (2, 2, 3), (3, 70, 2))
KINDS = ("entry", "row", "column", "two rows", "all of y", "halves")
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


def backends() -> list[Any]:
    reason = keops.why_not("cpu")
    skip = pytest.mark.skipif(reason is not None, reason=f"KeOps was not run: it does not work here ({reason})")
    return ["dense", "tiled", pytest.param("keops", marks=skip)]


each_backend = pytest.mark.parametrize("backend", backends())


def filled(kind: str, value: float, n: int, m: int, f: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64) + 0.5
    if kind == "entry":
        x[1, 0] = value
    elif kind == "row":
        x[-1] = value
    elif kind == "column":
        x[::2, 0] = y[::3, 0] = value
    elif kind == "two rows":
        x[0], x[1] = value, value * (1 + 1e-6)
    elif kind == "all of y":
        y = y + value
    elif kind == "halves":
        x[: n // 2, 1] = value
        y[: m // 2, 0] = -value
    return x.to(dtype), y.to(dtype)


def gram(x: Tensor, y: Tensor, kernel: MultiKernel) -> Tensor:
    d2 = (x[:, None] - y[None]).square().sum(-1)
    return kernel.of_squared_distances(d2)


def definition(x: Tensor, y: Tensor, kernel: MultiKernel) -> Tensor:
    n, m = len(x), len(y)
    within = [(gram(z, z, kernel).sum() - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return within[0] + within[1] - 2 * gram(x, y, kernel).sum() / (n * m)


@each_backend
@each_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_mmd2_is_the_definition(backend: str, dtype: torch.dtype, kind: str) -> None:
    kernel = MultiKernel([2.0, 6.5], [0.3, 0.7])  # type: ignore[arg-type]
    tolerance = TOLERANCE[dtype]
    for n, m, f in SIZES:
        if backend == "keops" and f != 3:
            continue  # KeOps compiles a formula for every f
        for value in VALUES:
            x, y = (z.requires_grad_() for z in filled(kind, value, n, m, f, dtype))
            wide = [z.detach().double().requires_grad_() for z in (x, y)]
            expected = definition(wide[0], wide[1], kernel)
            gradients = torch.autograd.grad(expected, wide)
            with mock.patch.dict(tiles.TILE, cpu=16):
                for call in (mmd2, mmd2_per_kernel):
                    found = call(x, y, kernel, backend=backend)
                    found = found @ kernel.weights.to(dtype) if call is mmd2_per_kernel else found
                    assert found.dtype == dtype
                    case = f"{call.__name__} of {kind} {value:g}, {(n, m, f)}"
                    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=3 * tolerance), case
                    for got, wanted in zip(torch.autograd.grad(found, (x, y)), gradients, strict=True):
                        assert float((got.double() - wanted).abs().max()) < tolerance, case


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@each_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_samples_and_row_sums_are_the_definition(backend: str, dtype: torch.dtype, kind: str) -> None:
    kernel, tolerance = MultiKernel([2.0, 6.5], [0.3, 0.7]), TOLERANCE[dtype]  # type: ignore[arg-type]
    for value in VALUES:
        x, y = (z.requires_grad_() for z in filled(kind, value, 30, 25, 5, dtype))
        a, b = torch.linspace(0.2, 2, 30, dtype=torch.float64), torch.linspace(3, 0.5, 25, dtype=torch.float64)
        wide = [z.detach().double().requires_grad_() for z in (x, y)]
        kxx, kyy, kxy = gram(wide[0], wide[0], kernel), gram(wide[1], wide[1], kernel), gram(*wide, kernel)
        expected = (a @ kxx @ a) / a.sum() ** 2 + (b @ kyy @ b) / b.sum() ** 2 - 2 * (a @ kxy @ b) / (a.sum() * b.sum())
        with mock.patch.dict(tiles.TILE, cpu=16):
            found = mmd2(x, y, kernel, "biased", backend, a, b)
            sums = kernel_row_sums(x, y, kernel, backend=backend)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=3 * tolerance)
        gradients = torch.autograd.grad(expected, wide, retain_graph=True)
        for got, wanted in zip(torch.autograd.grad(found, (x, y)), gradients, strict=True):
            assert float((got.double() - wanted).abs().max()) < tolerance
        torch.testing.assert_close(sums.detach().double(), kxy.sum(1).detach(), rtol=0, atol=25 * tolerance)
        gradients = torch.autograd.grad(sums @ a.to(dtype), (x, y))
        for got, wanted in zip(gradients, torch.autograd.grad(kxy.sum(1) @ a, wide), strict=True):
            assert float((got.double() - wanted).abs().max()) < 60 * tolerance


def test_second_derivatives_are_those_without_the_far_row() -> None:
    """A row that no kernel reaches changes the estimate by a factor alone; so also where it is differentiated twice."""
    kernel = MultiKernel.of([3.0, 7.0])
    x, y = filled("row", 1e25, 7, 5, 3, torch.float64)

    def curvature(x: Tensor, n: int) -> Tensor:
        def within(x: Tensor) -> Tensor:
            return mmd2_per_kernel(x, y, kernel, backend="dense").sum()

        (gradient,) = torch.autograd.grad(within(x.requires_grad_()), x, create_graph=True)
        return torch.autograd.grad(gradient[0].square().sum(), x)[0][: len(x) - n]

    reference = [z.detach().clone().requires_grad_() for z in (x, y)]
    expected = 2 * definition(*reference, kernel)  # sum over two kernels of equal weight
    (gradient,) = torch.autograd.grad(expected, reference[0], create_graph=True)
    (wanted,) = torch.autograd.grad(gradient[0].square().sum(), reference[0])
    torch.testing.assert_close(curvature(x, 1), wanted[:-1], rtol=1e-8, atol=1e-10)


@each_dtype
def test_tests_of_two_samples_see_the_same_kernel(dtype: torch.dtype) -> None:
    kernel = MultiKernel.of([3.0, 7.0])
    x, y = filled("entry", 1e20, 30, 25, 5, dtype)
    expected = float(definition(x.double(), y.double(), kernel))
    found = permutation_test(x, y, kernel, permutations=9, generator=torch.Generator().manual_seed(0)).statistic
    assert found == pytest.approx(expected, abs=3 * TOLERANCE[dtype])
    z = torch.cat([x, y])
    for rows, columns, block in kernel_blocks(z, kernel, tile=16):
        wanted = gram(z[rows].double(), z[columns].double(), kernel)
        torch.testing.assert_close(block.double(), wanted, rtol=0, atol=TOLERANCE[dtype])
    near = x.clone()
    near[1] = -100.0  # as far for these kernels, and no trouble
    assert float(mmd2_variance(x, y, kernel)) == pytest.approx(float(mmd2_variance(near, y, kernel)), rel=1e-4)


def test_infinite_entries_and_nan_are_not_taken_for_far_ones() -> None:
    for bad in (math.inf, -math.inf, math.nan):
        x, y = filled("entry", bad, 30, 25, 5, torch.float32)
        for backend in ("dense", "tiled"):
            assert math.isnan(float(mmd2(x, y, MultiKernel.of([3.0]), backend=backend)))
            assert bool(mmd2_per_kernel(x, y, MultiKernel.of([3.0]), backend=backend).isnan())


def test_compressed_gaps_keep_near_pairs_and_their_kernels() -> None:
    x, _ = filled("column", 1e20, 40, 5, 3, torch.float64)
    x[7, 2] = -1e300
    moved = compress_gaps(x, (0.5, 2.0))
    assert float(moved.abs().max()) < 500
    for gamma in (0.5, 2.0):
        kernel = MultiKernel.of([gamma])
        torch.testing.assert_close(gram(moved, moved, kernel), gram(x, x, kernel), rtol=1e-11, atol=1e-13)
    x[3, 1] = math.inf
    assert bool(compress_gaps(x, (2.0,))[3, 1].isnan()) and int(compress_gaps(x, (2.0,)).isnan().sum()) == 1


@each_dtype
@pytest.mark.parametrize(("kind", "row"), [("entry", 1), ("column", 0)])
def test_random_features_agree_or_name_the_row(dtype: torch.dtype, kind: str, row: int) -> None:
    kernel = MultiKernel.of([3.0, 7.0])
    for value in VALUES:
        x, y = filled(kind, value, 30, 25, 5, dtype)
        generator = torch.Generator().manual_seed(1)
        if value < 1e13:  # the angle is then known to 0.01 in float64
            found, error = random_feature_mmd2(x, y, kernel, features=4000, generator=generator)
            assert found == pytest.approx(float(definition(x.double(), y.double(), kernel)), abs=4.5 * error)
        else:
            with pytest.raises(ValueError, match=f"row {row} of a sample is too far from the others"):
                random_feature_mmd2(x, y, kernel, features=4000, generator=generator)


@pytest.mark.parametrize("heuristic", [median_bandwidth, mean_bandwidth])
def test_a_bandwidth_that_cannot_be_names_the_row(heuristic: Any) -> None:
    x, y = filled("row", 1.0, 6, 5, 2, torch.float32)
    y[1:] = -3e30
    y[3, 1] = -4e30
    with pytest.raises(ValueError, match=r"too large for torch.float32: row 3 of y holds -4e\+30"):
        heuristic(x * 0, y)
    x[4, 1] = math.nan
    with pytest.raises(ValueError, match="not NaN or infinite ones: row 4 of x holds nan"):
        heuristic(x, y)


def test_the_median_does_not_see_one_fill_value() -> None:
    x, y = filled("entry", 1e20, 30, 25, 5, torch.float32)
    plain, _ = filled("plain", 0.0, 30, 25, 5, torch.float32)
    assert float(median_bandwidth(x, y)) == pytest.approx(float(median_bandwidth(plain, y)), rel=0.1)
    wide = MultiKernel.ladder(median_bandwidth(x.double(), y.double()))
    assert float(mmd2(x, y)) == pytest.approx(float(definition(x.double(), y.double(), wide)), abs=3e-5)
