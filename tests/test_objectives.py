"""Each method against its definition in loops, its closed forms and symmetries; and a contract that all hold."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from dan.errors import UserError
from dan.mmd import MultiKernel, mean_bandwidth, median_bandwidth, mmd2
from dan.networks.dan import DAN, Output
from dan.objectives import METHODS, build_objective
from dan.objectives.adversarial import (
    ConditionalAdversary,
    DomainAdversary,
    RandomMultilinear,
    certainty_weights,
    domain_loss,
    reverse_gradient,
)
from dan.objectives.confusion import ClassConfusion, class_confusion
from dan.objectives.coral import coral
from dan.objectives.joint import JointAlignment, joint_mmd2

SIZES = st.integers(2, 6)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def output(n: int, *, seed: int = 0, features: int = 6, classes: int = 3, dtype: torch.dtype = torch.float32) -> Output:
    logits = normal(n, classes, seed=seed + 1, dtype=dtype)
    layers = {"hidden1": normal(n, features + 1, seed=seed + 2, dtype=dtype)}
    layers |= {"hidden2": normal(n, features, seed=seed, dtype=dtype), "output": logits}
    return Output(logits, layers)


def gradients(value: Callable[[], Tensor], *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value(), inputs))


# Deep CORAL


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


# JAN


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
    torch.testing.assert_close(value(compare="logits"), by_hand(lambda z: z, median_bandwidth, 5, 2.0))
    torch.testing.assert_close(
        value(bandwidth="mean", kernels=3, kernel_step=4.0), by_hand(softmax, mean_bandwidth, 3, 4.0)
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


# DANN and CDAN


def test_the_gradient_is_reversed_and_nothing_else() -> None:
    x = normal(3, 2).requires_grad_()
    assert torch.equal(reverse_gradient(x), x)
    (gradient,) = torch.autograd.grad((reverse_gradient(x) ** 2).sum(), x)
    torch.testing.assert_close(gradient, -2 * x)


@pytest.mark.parametrize("build", [DomainAdversary, ConditionalAdversary])
def test_the_discriminator_descends_what_the_features_climb(build: type[DomainAdversary]) -> None:
    source, target = output(5, dtype=torch.float64), output(4, seed=7, dtype=torch.float64)
    module = build("hidden2", discriminator_width=8).double()
    module(source, target)  # widths
    x = source.layers["hidden2"].requires_grad_()
    loss = module(source, target)["domain"]
    of_x, *of_discriminator = torch.autograd.grad(loss, [x, *module.parameters()])

    plain = [module.discriminator(module.seen(o)).squeeze(1) for o in (source, target)]
    truth = [torch.ones(5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]
    without = sum(binary_cross_entropy_with_logits(a, b) for a, b in zip(plain, truth, strict=True)) / 2
    torch.testing.assert_close(loss, without)
    expected, *others = torch.autograd.grad(without, [x, *module.parameters()])
    torch.testing.assert_close(of_x, -expected)
    torch.testing.assert_close(of_discriminator, others)
    torch.testing.assert_close(module.domain_probability(source), plain[0].sigmoid())


def test_domain_loss_closed_forms() -> None:
    zero = torch.zeros(3)
    assert float(domain_loss(zero, torch.zeros(7))) == pytest.approx(math.log(2))
    assert float(domain_loss(zero + 50, torch.full((7,), -50.0))) == pytest.approx(0, abs=1e-6)
    assert float(domain_loss(zero - 1e4, torch.full((7,), 1e4))) == pytest.approx(1e4)  # finite where D is wrong
    x, y = normal(4), normal(6, seed=1)
    torch.testing.assert_close(domain_loss(x, y), domain_loss(x, torch.cat([y, y])))  # domains weigh the same
    torch.testing.assert_close(domain_loss(x, y), domain_loss(-y, -x))
    weights = normal(4, seed=2).exp(), normal(6, seed=3).exp()
    plain = sum(
        float(sum(w * -math.log(1 / (1 + math.exp(-s * v))) for w, v in zip(weight, values, strict=True)) / sum(weight))
        for weight, values, s in ((weights[0], x.tolist(), 1), (weights[1], y.tolist(), -1))
    )
    assert float(domain_loss(x, y, weights)) == pytest.approx(plain / 2, rel=1e-12)
    torch.testing.assert_close(
        domain_loss(x, y, weights), domain_loss(x, y, (3 * weights[0], weights[1] / 7))
    )  # within a domain only
    assert domain_loss(zero.half(), zero.half()).dtype == torch.float32


def test_certainty_weights() -> None:
    assert certainty_weights(torch.tensor([[1.0, 0.0, 0.0]])).item() == 2  # sure, and no NaN
    assert certainty_weights(torch.full((1, 4), 0.25)).item() == pytest.approx(1.25)
    p = normal(5, 3).softmax(1)
    entropy = [-sum(v * math.log(v) for v in row) for row in p.tolist()]
    torch.testing.assert_close(certainty_weights(p), torch.tensor([1 + math.exp(-h) for h in entropy]).double())


def test_cdan_sees_the_outer_product_and_not_its_gradient_in_the_classes() -> None:
    source, target = output(5, dtype=torch.float64), output(4, seed=7, dtype=torch.float64)
    module = ConditionalAdversary("hidden2", discriminator_width=8).double()
    f, p = source.layers["hidden2"], source.logits.softmax(1)
    plain = torch.stack([torch.outer(f[i], p[i]).flatten() for i in range(5)])
    torch.testing.assert_close(module.seen(source), plain)
    source.logits.requires_grad_()
    loss = module(source, target)["domain"]
    assert loss.requires_grad and torch.autograd.grad(loss, source.logits, allow_unused=True) == (None,)


def test_cdan_e_weighs_sure_predictions_more() -> None:
    source, target = output(5, dtype=torch.float64), output(4, seed=7, dtype=torch.float64)
    plain = ConditionalAdversary("hidden2", discriminator_width=8).double()
    entropic = ConditionalAdversary("hidden2", discriminator_width=8, entropy_weighted=True).double()
    value = plain(source, target)["domain"]
    entropic(source, target)
    entropic.load_state_dict(plain.state_dict())
    logits = [plain.discriminator(plain.seen(o)).squeeze(1) for o in (source, target)]
    weights = [certainty_weights(o.logits.softmax(1)) for o in (source, target)]
    weighted = entropic(source, target)["domain"]
    torch.testing.assert_close(weighted, domain_loss(logits[0], logits[1], (weights[0], weights[1])))
    assert not torch.isclose(weighted, value)


def test_the_random_map_keeps_inner_products() -> None:
    torch.manual_seed(0)
    wide = RandomMultilinear(dimensions=40_000, exact_up_to=10)
    f, g = normal(3, 7, dtype=torch.float32), normal(3, 4, seed=1, dtype=torch.float32)
    seen = wide(f, g)
    assert seen.shape == (3, 40_000)
    exact = (f @ f.T) * (g @ g.T)
    scale = (f.norm(dim=1)[:, None] * f.norm(dim=1)) * (g.norm(dim=1)[:, None] * g.norm(dim=1))
    # The scatter of a term is at most 3 scale: N(0, 1) has a fourth moment of 3.
    assert bool(((seen @ seen.T - exact).abs() < 5 * 3 * scale / 200).all())


def test_the_random_map_begins_where_the_product_is_too_wide_and_is_kept() -> None:
    torch.manual_seed(0)
    exact, mapped = RandomMultilinear(), RandomMultilinear()
    g = normal(2, 8, seed=1, dtype=torch.float32).softmax(1)
    assert exact(normal(2, 512, dtype=torch.float32), g).shape == (2, 4096)
    f = normal(2, 513, dtype=torch.float32)
    seen = mapped(f, g)
    assert seen.shape == (2, 1024)
    again = RandomMultilinear()
    again.load_state_dict(mapped.state_dict())  # before its first batch
    assert torch.equal(again(f, g), seen)
    assert torch.equal(mapped(f, g), seen)  # drawn once


def test_cdan_sees_classes_that_have_changed_places_and_dann_does_not() -> None:
    """The features have one distribution in both domains; the classes on them are turned round in the target."""
    torch.manual_seed(0)
    side = torch.cat([torch.ones(100), -torch.ones(100)])

    def domain(flip: float, seed: int) -> Output:
        features = side[:, None] + 0.2 * normal(200, 2, seed=seed, dtype=torch.float32)
        logits = torch.stack([4 * flip * side, -4 * flip * side], dim=1)
        return Output(logits, {"hidden1": features, "output": logits})

    source, target = domain(1, 0), domain(-1, 1)
    loss = {}
    for module in (DomainAdversary("hidden1", discriminator_width=32), ConditionalAdversary("hidden1")):
        module(source, target)
        optimizer = torch.optim.Adam(module.parameters(), 5e-3)
        for _ in range(25):
            optimizer.zero_grad()
            module(source, target)["domain"].backward()
            optimizer.step()
        loss[type(module).__name__] = float(module(source, target)["domain"].detach())
        if isinstance(module, ConditionalAdversary):
            assert float(module.domain_probability(source).min()) > 0.9
            assert float(module.domain_probability(target).max()) < 0.1
    assert loss["DomainAdversary"] > 0.6 and loss["ConditionalAdversary"] < 0.1


# MCC


def confusion_by_loops(logits: Tensor, temperature: float) -> Tensor:
    """The definition, its weights normalised to a mean of 1, and without gradient."""
    m, c = logits.shape
    y = [[torch.exp(v / temperature) / torch.exp(row / temperature).sum() for v in row] for row in logits]
    raw = [1 + math.exp(sum(float(p.detach()) * math.log(float(p.detach())) for p in row)) for row in y]
    w = [m * value / sum(raw) for value in raw]
    matrix = [[sum(w[i] * y[i][j] * y[i][k] for i in range(m)) for k in range(c)] for j in range(c)]
    return sum(matrix[j][k] / sum(matrix[j]) for j in range(c) for k in range(c) if k != j) / c  # type: ignore[return-value]


@settings(max_examples=15)
@given(m=st.integers(1, 6), c=st.integers(2, 5), temperature=st.sampled_from([0.5, 2.5]), seed=st.integers(0, 1000))
def test_class_confusion_is_its_definition(m: int, c: int, temperature: float, seed: int) -> None:
    logits = (3 * normal(m, c, seed=seed)).requires_grad_()
    fast, plain = class_confusion(logits, temperature=temperature), confusion_by_loops(logits, temperature)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(fast, logits), torch.autograd.grad(plain, logits), rtol=1e-9, atol=1e-12
    )


def test_class_confusion_bounds_and_symmetries() -> None:
    c = 4
    sure = torch.eye(c).repeat(3, 1) * 1000
    assert float(class_confusion(sure)) == pytest.approx(0, abs=1e-6)
    assert float(class_confusion(torch.zeros(6, c))) == pytest.approx(1 - 1 / c)
    logits = normal(9, c)
    value = class_confusion(logits)
    torch.testing.assert_close(class_confusion(logits.flip(0)), value)
    torch.testing.assert_close(class_confusion(logits.flip(1)), value)
    torch.testing.assert_close(class_confusion(logits + normal(9, 1, seed=1)), value)
    torch.testing.assert_close(class_confusion(2 * logits, temperature=5.0), value)
    assert 0 < float(value) < 1 - 1 / c


def test_class_confusion_of_classes_without_any_probability_is_finite() -> None:
    logits = torch.tensor([[1e5, 0.0, -1e5], [1e5, 0.0, -3e4]]).requires_grad_()
    loss = class_confusion(logits)
    loss.backward()
    assert bool(loss.isfinite()) and bool(logits.grad.isfinite().all())
    assert class_confusion(torch.zeros(2, 3).half()).dtype == torch.float32


def test_class_confusion_looks_at_the_target_alone() -> None:
    source, target = output(5), output(4, seed=7)
    source.logits.requires_grad_()
    terms = ClassConfusion(temperature=1.5)(source, target)
    assert not terms["confusion"].requires_grad
    torch.testing.assert_close(terms["confusion"], class_confusion(target.logits, temperature=1.5))


def test_class_confusion_bad_input() -> None:
    with pytest.raises(ValueError, match="the temperature must be positive, not 0"):
        class_confusion(normal(3, 2), temperature=0)
    with pytest.raises(ValueError, match="C >= 2"):
        class_confusion(normal(3, 1))


# All methods

NETWORK = DAN(torch.nn.Flatten(), 3, layers=(7, 6))
ALIGN = ["hidden1", "hidden2", "output"]


@pytest.mark.parametrize("method", METHODS)
def test_contract(method: str) -> None:
    """Terms by name: finite scalars; gradients reach the target; the state dict is all there is to remember."""
    torch.manual_seed(0)
    objective = build_objective(method, NETWORK, ALIGN)
    source, target = output(8), output(8, seed=9)
    for tensor in {*source.layers.values(), *target.layers.values()}:
        tensor.requires_grad_()
    terms = objective(source, target)
    assert terms and all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
    sum(terms.values()).backward()
    moved = [tensor for tensor in target.layers.values() if tensor.grad is not None and bool(tensor.grad.any())]
    assert moved and all(bool(tensor.grad.isfinite().all()) for tensor in moved)
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())

    again = build_objective(method, NETWORK, ALIGN)
    again(output(8, seed=20), output(8, seed=30))  # other bandwidths, other initial weights
    again.load_state_dict(objective.state_dict())
    new = output(8, seed=40), output(8, seed=50)
    for one, other in zip(objective.eval()(*new).values(), again.eval()(*new).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_fewest_samples_are_enough_and_one_less_is_not(method: str) -> None:
    fewest = METHODS[method].fewest
    terms = build_objective(method, NETWORK, ALIGN)(output(fewest), output(fewest, seed=9))
    assert all(bool(term.isfinite()) for term in terms.values())
    if fewest > 1:
        with pytest.raises(ValueError, match="at least 2 samples on each side"):
            build_objective(method, NETWORK, ALIGN)(output(fewest - 1), output(4, seed=9))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("mcc", "mme")])
def test_descent_brings_the_domains_together(method: str) -> None:
    """The target is stretched and (but for CORAL) shifted against the source; an affine map learns to undo it."""
    torch.manual_seed(0)
    x = normal(150, 2, dtype=torch.float32) * torch.tensor([2.0, 0.5])
    raw = normal(150, 2, seed=1, dtype=torch.float32) * torch.tensor([1.0, 1.5])
    start = raw + (0.0 if method == "deep_coral" else torch.tensor([2.0, -1.0]))
    undo = torch.nn.Linear(2, 2)
    with torch.no_grad():
        undo.weight.copy_(torch.eye(2))
        undo.bias.zero_()

    def seen(features: Tensor) -> Output:
        logits = torch.cat([features, -features.sum(1, keepdim=True)], dim=1)  # a classifier that is not trained
        return Output(logits, {"hidden1": features, "output": logits})

    objective = build_objective(method, NETWORK, ["hidden1"], discriminator_width=32)
    objective(seen(x), seen(start))
    learned = list(objective.parameters())
    groups: list[dict] = [{"params": undo.parameters(), "lr": 0.01 if learned else 0.03}]
    if learned:  # two players who chase each other in circles come to rest by little momentum and some weight decay
        groups.append({"params": learned, "lr": 0.01, "weight_decay": 0.01})
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.9))
    for _ in range(250 if learned else 120):
        optimizer.zero_grad()
        sum(objective(seen(x), seen(undo(start))).values()).backward()
        optimizer.step()
    kernel = MultiKernel.ladder(median_bandwidth(x, start))
    before, after = float(mmd2(x, start, kernel)), float(mmd2(x, undo(start).detach(), kernel))
    assert after < before / 5, (before, after)


def test_descent_of_mcc_settles_the_predictions() -> None:
    x = normal(60, 2, dtype=torch.float32) + torch.tensor([[2.0, 0.0]]) * torch.arange(60)[:, None].remainder(2)
    layer = torch.nn.Linear(2, 3)
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    objective = build_objective("mcc", NETWORK, ALIGN)
    values = []
    for _ in range(100):
        logits = layer(x)
        loss = objective(output(4), Output(logits, {"output": logits}))["confusion"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] / 3


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("mcc", "temperature", 1.0),
        ("dann", "discriminator_width", 16),
        ("cdan", "discriminator_width", 16),
        ("cdan_e", "discriminator_width", 16),
        ("jan", "kernels", 3),
        ("jan", "kernel_step", 4.0),
        ("jan", "estimator", "linear"),
        ("jan", "bandwidth", "mean"),
        ("jan", "compare", "logits"),
    ],
)
def test_what_a_method_takes_changes_it(method: str, option: str, value: object) -> None:
    assert option in METHODS[method].takes
    torch.manual_seed(0)
    plain = build_objective(method, NETWORK, ALIGN)
    torch.manual_seed(0)
    changed = build_objective(method, NETWORK, ALIGN, **{option: value, "no such option": 1})
    source, target = output(8), output(8, seed=9)
    assert not math.isclose(*(float(sum(o(source, target).values()).detach()) for o in (plain, changed)), rel_tol=1e-9)


def test_one_layer_methods_take_the_last_that_is_not_the_logits() -> None:
    for method in ("dann", "cdan", "cdan_e"):
        assert build_objective(method, NETWORK, ALIGN).layer == "hidden2"
        assert build_objective(method, NETWORK, ["hidden1", "output"]).layer == "hidden1"
        assert build_objective(method, NETWORK, ["output"]).layer == "output"
    assert build_objective("ddc", NETWORK, ALIGN).align == ("hidden2",)
    assert build_objective("ddc", NETWORK, ["output"]).align == ("output",)


def test_every_method_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


def test_an_unknown_method() -> None:
    with pytest.raises(UserError, match='unknown method "dan2"'):
        build_objective("dan2", NETWORK, ALIGN)


def test_training_by_hand_is_a_few_lines() -> None:
    """The seam is only this: outputs in, terms out; here with DAN's own network and an adversary, for ten steps."""
    torch.manual_seed(0)
    model = DAN(torch.nn.Flatten(), 3, layers=(6,))
    x, y, x_target = (
        normal(24, 4, dtype=torch.float32),
        torch.arange(24) % 3,
        normal(24, 4, seed=1, dtype=torch.float32),
    )
    objective = build_objective("cdan_e", model, ["hidden1", "output"])
    objective(model(x), model(x_target))
    before = [p.detach().clone() for p in (*model.parameters(), *objective.parameters())]
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], 0.05, momentum=0.9)
    for _ in range(10):
        source, target = model(x), model(x_target)
        loss = cross_entropy(source.logits, y) + sum(objective(source, target).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = (*model.parameters(), *objective.parameters())
    assert all(bool((a != b).any()) for a, b in zip(before, after, strict=True))
