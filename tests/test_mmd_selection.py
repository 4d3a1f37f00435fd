"""The median of all pairwise distances by selection against the sorted list of them: the same to the last bit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dan.mmd import median_bandwidth, selection
from dan.mmd.selection import median, median_squared_distance

KINDS = ("plain", "relu", "softmax", "offset", "clusters", "duplicates", "outlier", "all equal")


def features(kind: str, n: int, f: int, dtype: torch.dtype) -> Tensor:
    z = torch.randn(n, f, generator=torch.Generator().manual_seed(n + f), dtype=torch.float64)
    if kind == "relu":
        z = z.relu()
    elif kind == "softmax":
        z = (5 * z).softmax(1)
    elif kind == "offset":
        z = z + 1000
    elif kind == "clusters":
        z[::2] += 50
    elif kind == "duplicates":
        z[n // 5 :] = z[0].clone()
    elif kind == "outlier":
        z[3] = 1e6
    elif kind == "all equal":
        z[:] = 2.5
    return z.to(dtype)


def sorted_median(values: Tensor) -> float:
    ordered = np.sort(values.numpy())
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low if low == high else low / ordered.dtype.type(2) + high / ordered.dtype.type(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "f"), [(301, 3), (402, 64), (640, 10)])
def test_the_same_bits_as_all_distances_sorted(kind: str, n: int, f: int, dtype: torch.dtype) -> None:
    z = features(kind, n, f, dtype)
    assert float(median_squared_distance(z)) == sorted_median(torch.pdist(z).square())


@pytest.mark.parametrize(("kind", "fast"), [("plain", True), ("relu", True), ("all equal", False), ("outlier", False)])
def test_which_samples_take_the_product(kind: str, fast: bool) -> None:
    assert (selection._by_product(features(kind, 640, 64, torch.float32)) is not None) == fast


@pytest.mark.parametrize("count", [1, 2, 3, 4096, 4097, 20_000, 20_001])
def test_the_median_of_any_values(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    for values in (
        torch.rand(count, generator=generator),
        torch.randint(0, 3, (count,), generator=generator).float(),  # ties
        torch.rand(count, generator=generator, dtype=torch.float64).sort().values,
        torch.where(torch.rand(count, generator=generator) < 0.6, torch.inf, 1.0),
    ):
        assert float(median(values)) == sorted_median(values)


def test_the_bandwidth_is_that_median() -> None:
    z = features("plain", 500, 16, torch.float32)
    assert float(median_bandwidth(z[:200], z[200:])) == sorted_median(torch.pdist(z).square())
