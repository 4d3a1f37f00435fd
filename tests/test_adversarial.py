"""DANN and CDAN: the reversed gradient, closed forms, the random multilinear map."""

import math

import pytest
import torch
from made_outputs import normal, output
from torch.nn.functional import binary_cross_entropy_with_logits

from dan.losses.adversarial import (
    ConditionalAdversary,
    DomainAdversary,
    RandomMultilinear,
    certainty_weights,
    domain_loss,
    reverse_gradient,
)
from dan.models.dan import Output


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
    torch.manual_seed(0)
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
