"""JAN's joint MMD against its definition in loops, and where it is MMD."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outputs import SIZES, normal, output
from torch import Tensor

from dan.losses.jan import JointAlignment, joint_mmd2
from dan.mmd import MultiKernel, mean_bandwidth, median_bandwidth, mmd2


def joint_by_loops(x: list[Tensor], y: list[Tensor], kernels: list[MultiKernel], estimator: str) -> Tensor:
    """The definition: the kernel of every pair of samples by itself, layer times layer."""

    def k(a: list[Tensor], i: int, b: list[Tensor], j: int) -> Tensor:
        product = torch.ones((), dtype=torch.float64)
        for of_a, of_b, kernel in zip(a, b, kernels, strict=True):
            d2 = (of_a[i] - of_b[j]).square().sum()
            product = product * sum(
                beta * torch.exp(-d2 / gamma) for beta, gamma in zip(kernel.weights, kernel.bandwidths, strict=True)
            )
        return product

    n, m = len(x[0]), len(y[0])
    if estimator == "linear":
        return sum(
            k(x, i, x, i + 1) + k(y, i, y, i + 1) - k(x, i, y, i + 1) - k(y, i, x, i + 1) for i in range(0, n, 2)
        ) * (2 / n)
    off = estimator == "unbiased"
    xx = sum(k(x, i, x, j) for i in range(n) for j in range(n) if i != j or not off) / (n * (n - off))
    yy = sum(k(y, i, y, j) for i in range(m) for j in range(m) if i != j or not off) / (m * (m - off))
    xy = sum(k(x, i, y, j) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


KERNELS = [MultiKernel.of([0.7, 6.0]), MultiKernel(torch.tensor([1.5, 9.0, 30.0]), torch.tensor([0.5, 0.25, 0.25]))]


def layers(n: int, seed: int, shift: float = 0.0) -> list[Tensor]:
    return [(normal(n, f, seed=seed + f) + shift).requires_grad_() for f in (2, 5)]


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
@settings(max_examples=8)
@given(n=SIZES, m=SIZES, seed=st.integers(0, 1000))
def test_joint_mmd_is_its_definition(estimator: str, n: int, m: int, seed: int) -> None:
    if estimator == "linear":
        n = m = 2 * (n // 2)
    x, y = layers(n, seed), layers(m, seed + 100, 0.5)
    fast, plain = joint_mmd2(x, y, KERNELS, estimator), joint_by_loops(x, y, KERNELS, estimator)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(fast, [*x, *y]), torch.autograd.grad(plain, [*x, *y], allow_unused=True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_joint_mmd_of_one_layer_is_mmd2(estimator: str) -> None:
    x, y = normal(8, 3).requires_grad_(), (normal(8, 3, seed=1) + 0.3).requires_grad_()
    one, other = joint_mmd2([x], [y], KERNELS[1:], estimator), mmd2(x, y, KERNELS[1], estimator)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.autograd.grad(one, [x, y]), torch.autograd.grad(other, [x, y]))


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_joint_mmd_of_single_kernels_is_mmd2_of_the_layers_side_by_side(estimator: str) -> None:
    x, y = layers(6, 3), layers(6, 4, 0.5)
    kernels = [MultiKernel.of([0.7]), MultiKernel.of([5.0])]
    side_by_side = [torch.cat([z[0] / 0.7**0.5, z[1] / 5**0.5], dim=1) for z in (x, y)]
    torch.testing.assert_close(
        joint_mmd2(x, y, kernels, estimator), mmd2(*side_by_side, MultiKernel.of([1.0]), estimator)
    )


def test_a_layer_that_says_nothing_changes_nothing() -> None:
    x, y = normal(6, 3), normal(5, 3, seed=1) + 1
    alone = joint_mmd2([x], [y], KERNELS[:1])
    torch.testing.assert_close(joint_mmd2([x, x.new_ones(6, 4)], [y, y.new_ones(5, 4)], KERNELS), alone)


def test_the_joint_sees_what_the_layers_one_by_one_do_not() -> None:
    """Both layers have the same marginals in both domains; which value goes with which is turned round."""
    sign = torch.cat([torch.ones(100, 1), -torch.ones(100, 1)]).double()
    x = [sign + 0.1 * normal(200, 1, seed=1), sign + 0.1 * normal(200, 1, seed=2)]
    y = [sign + 0.1 * normal(200, 1, seed=3), -sign + 0.1 * normal(200, 1, seed=4)]
    kernels = [MultiKernel.of([1.0]), MultiKernel.of([1.0])]
    apart = sum(float(mmd2(a, b, kernel)) for a, b, kernel in zip(x, y, kernels, strict=True))
    assert abs(apart) < 0.01
    assert float(joint_mmd2(x, y, kernels)) > 0.5


def test_joint_alignment_compares_probabilities_under_ladders_of_its_own() -> None:
    source, target = output(8, dtype=torch.float64), output(6, seed=9, dtype=torch.float64)

    def by_hand(
        compare: Callable[[Tensor], Tensor], bandwidth: Callable[[Tensor, Tensor], Tensor], count: int, step: float
    ) -> Tensor:
        x = [source.layers["hidden2"], compare(source.logits)]
        y = [target.layers["hidden2"], compare(target.logits)]
        kernels = [MultiKernel.ladder(bandwidth(a, b).float(), count, step) for a, b in zip(x, y, strict=True)]
        return joint_mmd2(x, y, kernels)

    def value(**options: object) -> Tensor:
        return JointAlignment(["hidden2", "output"], **options)(source, target)["joint"]  # type: ignore[arg-type]

    def softmax(logits: Tensor) -> Tensor:
        return logits.softmax(1)

    torch.testing.assert_close(value(), by_hand(softmax, median_bandwidth, 5, 2.0))
    torch.testing.assert_close(value(output_space="logits"), by_hand(lambda z: z, median_bandwidth, 5, 2.0))
    torch.testing.assert_close(
        value(bandwidth="mean", num_kernels=3, bandwidth_ratio=4.0), by_hand(softmax, mean_bandwidth, 3, 4.0)
    )
    assert value(estimator="biased") > value() - 1e-12


def test_joint_mmd_bad_input() -> None:
    x, y = layers(4, 0), layers(5, 1)
    with pytest.raises(ValueError, match="same layers, not 2, 1 and 2"):
        joint_mmd2(x, y[:1], KERNELS)
    with pytest.raises(ValueError, match=r"of the same samples, not \(3, 5\) and \(5, 5\)"):
        joint_mmd2([x[0], x[1][:3]], y, KERNELS)
    with pytest.raises(ValueError, match="same, even number .* not 4 and 5"):
        joint_mmd2(x, y, KERNELS, "linear")
    with pytest.raises(ValueError, match='did you mean "unbiased"'):
        joint_mmd2(x, y, KERNELS, "unbised")
    with pytest.raises(ValueError, match="at least 2 samples"):
        joint_mmd2(layers(1, 0), y, KERNELS)
    assert float(joint_mmd2(layers(1, 0), y, KERNELS, "biased").detach()) > 0
    assert joint_mmd2([z.half() for z in x], [z.half() for z in y], KERNELS).dtype == torch.float32
