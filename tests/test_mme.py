"""MME against its definition in loops, and a gradient that pulls the classifier one way and the rest the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dan import DAN, fit
from dan.errors import UserError
from dan.losses import build_loss
from dan.losses.mme import MinimaxEntropy, negative_entropy
from dan.models.dan import Output
from dan.training.trainer import TrainConfig


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy_by_loops(logits: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in logits:
        weights = [torch.exp(value) for value in row]
        for weight in weights:
            p = weight / sum(weights)
            total = total - p * torch.log(p)
    return total / len(logits)


def outputs(features: Tensor, classifier: nn.Module) -> Output:
    logits = classifier(features)
    return Output(logits, {"hidden1": features, "output": logits})


@settings(max_examples=20)
@given(m=st.integers(1, 6), c=st.integers(2, 5), seed=st.integers(0, 1000))
def test_it_is_its_definition_and_the_gradient_is_turned_below_the_classifier(m: int, c: int, seed: int) -> None:
    features = normal(m, 4, seed=seed).requires_grad_()
    torch.manual_seed(seed)
    classifier = nn.Linear(4, c).double()
    target = outputs(features, classifier)
    (term,) = MinimaxEntropy(classifier, "hidden1")(target, target).values()
    torch.testing.assert_close(term, -entropy_by_loops(target.logits), rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(term, [features, *classifier.parameters()])
    plain = torch.autograd.grad(entropy_by_loops(classifier(features)), [features, *classifier.parameters()])
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-8, atol=1e-12)  # descent of the term lowers H
    for got, entropy in zip(ours[1:], plain[1:], strict=True):
        torch.testing.assert_close(got, -entropy, rtol=1e-8, atol=1e-12)  # and raises it here


def test_bounds_symmetries_and_extremes() -> None:
    assert float(negative_entropy(torch.zeros(5, 7))) == pytest.approx(-math.log(7))
    logits = normal(6, 4)
    value = negative_entropy(logits)
    assert -math.log(4) < float(value) < 0
    torch.testing.assert_close(negative_entropy(logits.flip(0)[:, [2, 0, 3, 1]] + 50), value)
    far = torch.tensor([[1e4, -1e4], [-3e4, 3e4]], requires_grad=True)
    sure = negative_entropy(far)
    sure.backward()
    assert float(sure.detach()) == 0 and far.grad is not None and bool(far.grad.isfinite().all())
    assert negative_entropy(logits.half()).dtype == torch.float32
    for wrong in (torch.zeros(0, 3), torch.zeros(3, 1), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"must be \(M, C\)"):
            negative_entropy(wrong)


@pytest.mark.parametrize(("part", "rises"), [("classifier", True), ("features", False)])
def test_each_player_alone_moves_the_entropy_its_way(part: str, rises: bool) -> None:
    torch.manual_seed(0)
    classifier, features = nn.Linear(3, 4).double(), normal(30, 3).requires_grad_()
    objective = MinimaxEntropy(classifier, "hidden1")
    optimizer = torch.optim.SGD(classifier.parameters() if part == "classifier" else [features], 0.5)
    before = float(negative_entropy(classifier(features)).detach())
    for _ in range(50):
        optimizer.zero_grad()
        out = outputs(features, classifier)
        objective(out, out)["negative_entropy"].backward()
        optimizer.step()
    after = float(negative_entropy(classifier(features)).detach())
    assert (-after > -before + 0.01) if rises else (-after < -before - 0.01)


def test_the_source_is_not_seen_and_the_classifier_stays_the_networks() -> None:
    model = DAN(nn.Flatten(), 3, layers=(5, 4))
    objective = build_loss("mme", model, ["hidden1"])
    assert list(objective.parameters()) == [] and objective.state_dict() == {} and objective.layer == "hidden2"
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    target = model(x)
    assert torch.equal(*(objective(model(s), target)["negative_entropy"] for s in (x + 1, 5 * x)))
    torch.testing.assert_close(objective(target, target)["negative_entropy"], negative_entropy(target.logits))
    with torch.no_grad():
        model.output.weight.mul_(3)  # it is the same layer, not a copy
    torch.testing.assert_close(objective(target, target)["negative_entropy"], negative_entropy(model(x).logits))
    with pytest.raises(UserError, match="needs a hidden layer"):
        build_loss("mme", DAN(nn.Flatten(), 3, layers=()), ["output"])


def test_fit_trains_by_it() -> None:
    """With labels for the source alone, MME makes the target's predictions surer than source-only training does."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    x = 0.5 * torch.randn(64, 3, generator=generator)
    x[:, 0] += 2.0 * y - 1
    source, target = TensorDataset(x, y), TensorDataset(0.5 * x + torch.tensor([0.0, 1.0, 0.0]), y)

    def entropy(trade_off: float) -> float:
        torch.manual_seed(0)
        model = DAN(nn.Sequential(nn.Linear(3, 16), nn.ReLU()), 2, layers=(8,))
        recipe = TrainConfig(method="mme", batch_size=16, lr=0.05, head_lr_mult=1, evaluate_every=100)
        records = fit(model, source, target, trade_off=trade_off, steps=100, seed=0, config=recipe)
        assert math.isfinite(records[-1]["loss"])
        return -float(negative_entropy(model(target.tensors[0]).logits).detach())

    assert entropy(0.3) < entropy(0.0)
