"""Deep CORAL against its definition in loops, its symmetries and its memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outputs import gradients, normal
from torch import Tensor

from dan.losses.coral import coral


def coral_by_loops(x: Tensor, y: Tensor) -> Tensor:
    """The definition: every entry of both covariances by itself."""

    def covariance(z: Tensor, a: int, b: int) -> Tensor:
        mean_a = sum(z[i, a] for i in range(len(z))) / len(z)
        mean_b = sum(z[i, b] for i in range(len(z))) / len(z)
        return sum((z[i, a] - mean_a) * (z[i, b] - mean_b) for i in range(len(z))) / (len(z) - 1)

    f = x.shape[1]
    return sum((covariance(x, a, b) - covariance(y, a, b)) ** 2 for a in range(f) for b in range(f)) / (4 * f**2)


@settings(max_examples=15)
@given(n=st.integers(2, 4), m=st.integers(2, 4), f=st.integers(1, 10), seed=st.integers(0, 1000))
def test_coral_is_its_definition_on_either_side_of_the_switch(n: int, m: int, f: int, seed: int) -> None:
    x, y = normal(n, f, seed=seed).requires_grad_(), (2 * normal(m, f, seed=seed + 1) + 5).requires_grad_()
    torch.testing.assert_close(coral(x, y), coral_by_loops(x, y), rtol=1e-9, atol=1e-12)
    for fast, plain in zip(
        gradients(lambda: coral(x, y), x, y), gradients(lambda: coral_by_loops(x, y), x, y), strict=True
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("f", [4, 40])
def test_coral_symmetries(f: int) -> None:
    x, y = normal(7, f), 3 * normal(9, f, seed=1)
    value = coral(x, y)
    torch.testing.assert_close(coral(y, x), value)
    torch.testing.assert_close(coral(x.flip(0) + 100, y - 7), value)  # means are not looked at
    rotation = torch.linalg.qr(normal(f, f, seed=2)).Q
    torch.testing.assert_close(coral(x @ rotation, y @ rotation), value)
    torch.testing.assert_close(coral(2 * x, 2 * y), 16 * value)
    assert float(coral(x, x + 1)) == pytest.approx(0, abs=1e-25)
    assert float(coral(x, torch.cat([x, x]))) > 0  # N - 1 and 2 N - 1 are no multiples


def test_coral_of_one_feature_is_the_squared_difference_of_variances() -> None:
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [4.0], [8.0]])  # variances 2 and 16
    assert float(coral(x, y)) == pytest.approx((2 - 16) ** 2 / 4)


def test_coral_never_holds_a_matrix_of_features() -> None:
    x, y = normal(3, 300_000, dtype=torch.float32), normal(4, 300_000, seed=1, dtype=torch.float32)  # F x F: 720 GB
    assert float(coral(x, y)) > 0


def test_coral_keeps_small_differences_of_large_features() -> None:
    x = 1000 + normal(8, 20, dtype=torch.float32)
    y = x.clone()
    y[:, 0] *= 1 + 1e-3
    assert float(coral(x, y)) == pytest.approx(float(coral_by_loops(x.double(), y.double())), rel=1e-5)
    half = coral(normal(8, 20).half(), 2 * normal(8, 20, seed=1).half())
    assert half.dtype == torch.float32 and float(half) > 0


def test_coral_bad_input() -> None:
    with pytest.raises(ValueError, match="at least 2 samples on each side, not 1 and 5"):
        coral(normal(1, 2), normal(5, 2))
    with pytest.raises(ValueError, match=r"must be \(N, F\)"):
        coral(normal(3, 2), normal(3, 4))
