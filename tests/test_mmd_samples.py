"""What may stand as a sample: arrays or tensors, in any layout of memory; no kernel; the rest is one clear line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dan.mmd import (
    MultiKernel,
    PowerStatistics,
    RunningBandwidth,
    a_distance,
    linear_mmd2,
    mean_bandwidth,
    median_bandwidth,
    mmd2,
    mmd2_per_kernel,
    mmd2_variance,
    mmd2_variance_per_kernel,
    optimal_weights,
    permutation_test,
    random_feature_mmd2,
)

KERNEL = MultiKernel.of([2.0, 9.0])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sample(n: int = 12, m: int = 12, f: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    return x, torch.randn(m, f, generator=generator, dtype=torch.float64) + 0.5


def statistics_of(x: Any, y: Any) -> Tensor:
    statistics = PowerStatistics(2)
    statistics.update(x, y, KERNEL)
    return statistics.q


# Each gives a number or a tensor.
FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "mmd2": lambda x, y: mmd2(x, y, KERNEL),
    "mmd2 without kernel": mmd2,
    "mmd2_per_kernel": lambda x, y: mmd2_per_kernel(x, y, KERNEL),
    "mmd2_per_kernel without kernel": mmd2_per_kernel,
    "linear_mmd2": lambda x, y: linear_mmd2(x, y, KERNEL),
    "linear_mmd2 without kernel": linear_mmd2,
    "mmd2_variance": mmd2_variance,
    "mmd2_variance_per_kernel": mmd2_variance_per_kernel,
    "median_bandwidth": median_bandwidth,
    "mean_bandwidth": mean_bandwidth,
    "RunningBandwidth": lambda x, y: RunningBandwidth()(x, y),
    "optimal_weights": lambda x, y: optimal_weights(x, y, KERNEL),
    "optimal_weights without kernel": optimal_weights,
    "PowerStatistics": statistics_of,
    "a_distance": a_distance,
    "permutation_test": lambda x, y: permutation_test(x, y, KERNEL, permutations=9, generator=seeded()).null,
    "random_feature_mmd2": lambda x, y: random_feature_mmd2(x, y, KERNEL, features=16, generator=seeded())[0],
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


@each_function
def test_arrays_give_what_tensors_give(name: str) -> None:
    x, y = sample()
    call = FUNCTIONS[name]
    expected = call(x, y)
    for one, other in ((x.numpy(), y.numpy()), (x.numpy(), y), (x, y.numpy()), (x.tolist(), y.numpy())):
        torch.testing.assert_close(call(one, other), expected, rtol=0, atol=0)


@each_function
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool, ">f8", ">f4", np.longdouble])
def test_arrays_of_any_number_type(name: str, dtype: Any) -> None:
    """Integers become float64; a byte order that torch does not know is turned round."""
    x, y = ((10 * z.abs()).numpy().astype(dtype) for z in sample())
    if dtype is bool:
        x, y = (np.random.default_rng(seed).random((12, 3)) < 0.5 for seed in (0, 1))
    keeps = np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize <= 4
    as_torch = [torch.from_numpy(z.astype(np.dtype(dtype).newbyteorder("=") if keeps else np.float64)) for z in (x, y)]
    torch.testing.assert_close(FUNCTIONS[name](x, y), FUNCTIONS[name](*as_torch), rtol=0, atol=0)


def test_arrays_of_any_memory_layout(tmp_path: Path) -> None:
    x, y = (z.numpy() for z in sample())
    expected = mmd2(x, y, KERNEL)
    records = np.zeros(12, dtype=[("flag", "i1"), ("features", "f8", 3)])  # rows that start between two numbers
    records["features"] = x
    np.save(tmp_path / "x.npy", x)
    read_only = x.copy()
    read_only.setflags(write=False)
    layouts = {
        "Fortran": np.asfortranarray(x),
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "strided": np.repeat(x, 2, axis=0)[::2],
        "records": records["features"],
        "mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "read-only": read_only,
        "masked nowhere": np.ma.masked_greater(x, 1e9),
    }
    for layout, array in layouts.items():
        before = np.array(array)
        assert float(mmd2(array, y, KERNEL)) == pytest.approx(float(expected), rel=1e-12), layout
        assert np.array_equal(array, before)


def test_a_tensor_beside_an_array_keeps_its_gradient() -> None:
    x, y = sample()
    (expected,) = torch.autograd.grad(mmd2(x.requires_grad_(), y), x)
    (gradient,) = torch.autograd.grad(mmd2(x, y.numpy()), x)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_no_kernel_is_the_ladder_of_five_at_the_median(estimator: str) -> None:
    x, y = sample()
    gamma = float(median_bandwidth(x, y))
    kernel = MultiKernel.of([gamma / 4, gamma / 2, gamma, 2 * gamma, 4 * gamma])
    torch.testing.assert_close(mmd2(x, y, estimator=estimator), mmd2(x, y, kernel, estimator))
    torch.testing.assert_close(mmd2_per_kernel(x, y, estimator=estimator), mmd2_per_kernel(x, y, kernel, estimator))
    torch.testing.assert_close(mmd2_variance(x, y, estimator=estimator), mmd2_variance(x, y, kernel, estimator))
    torch.testing.assert_close(optimal_weights(x, y), optimal_weights(x, y, kernel))
    # The bandwidth is chosen, not descended.
    x.requires_grad_()
    given, none = (torch.autograd.grad(mmd2(x, y, k, estimator), x)[0] for k in (kernel, None))
    torch.testing.assert_close(none, given)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(4), r"must be \(N, F\).*x\[:, None\]"),
        (np.zeros((4, 2, 2)), r"must be \(N, F\)"),
        (np.array([["a", "b", "c"]]), "must hold numbers"),
        (np.array([[1.0, None, 2.0]]), "must hold numbers"),
        (np.zeros((4, 3), dtype=complex), "must hold numbers"),
        (np.ma.masked_equal([[1.0, 2.0, 3.0], [1.0, 1e20, 3.0]], 1e20), "row 1 of x has masked"),
        (torch.zeros(4, 3, dtype=torch.long), r"floating-point.*x\.float\(\)"),
        (torch.zeros(4, 3, dtype=torch.complex64), "floating-point"),
        (torch.zeros(4, 3).to_sparse(), r"dense.*x\.to_dense\(\)"),
        (torch.zeros(4, 3, device="meta"), r"x is on meta and y on cpu"),
    ],
)
@each_function
def test_what_is_no_sample_is_one_clear_line(name: str, x: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        FUNCTIONS[name](x, torch.zeros(4, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kernel", [2.0, "biased", torch.ones(5), [1.0, 2.0]])
def test_what_is_no_kernel_is_one_clear_line(kernel: Any) -> None:
    x, y = sample()
    for function in (mmd2, mmd2_per_kernel, linear_mmd2, mmd2_variance, optimal_weights):
        with pytest.raises(ValueError, match="must be a MultiKernel, such as MultiKernel.ladder"):
            function(x, y, kernel)
