"""A contract that all methods hold; each by itself has a file of its own."""

import math
from pathlib import Path

import pytest
import torch
from made_outputs import normal, output
from torch import Tensor
from torch.nn.functional import cross_entropy

from dan.errors import UserError
from dan.losses import METHODS, build_loss
from dan.mmd import MultiKernel, median_bandwidth, mmd2
from dan.models.dan import DAN, Output

NETWORK = DAN(torch.nn.Flatten(), 3, layers=(7, 6))
ALIGN = ["hidden1", "hidden2", "output"]


@pytest.mark.parametrize("method", METHODS)
def test_contract(method: str) -> None:
    """Terms by name: finite scalars; gradients reach the target; the state dict is all there is to remember."""
    torch.manual_seed(0)
    objective = build_loss(method, NETWORK, ALIGN)
    source, target = output(8), output(8, seed=9)
    for tensor in {*source.layers.values(), *target.layers.values()}:
        tensor.requires_grad_()
    terms = objective(source, target)
    assert terms and all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
    sum(terms.values()).backward()
    moved = [tensor for tensor in target.layers.values() if tensor.grad is not None and bool(tensor.grad.any())]
    assert moved and all(bool(tensor.grad.isfinite().all()) for tensor in moved)
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())

    again = build_loss(method, NETWORK, ALIGN)
    again(output(8, seed=20), output(8, seed=30))  # other bandwidths, other initial weights
    again.load_state_dict(objective.state_dict())
    new = output(8, seed=40), output(8, seed=50)
    for one, other in zip(objective.eval()(*new).values(), again.eval()(*new).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_fewest_samples_are_enough_and_one_less_is_not(method: str) -> None:
    fewest = METHODS[method].fewest
    terms = build_loss(method, NETWORK, ALIGN)(output(fewest), output(fewest, seed=9))
    assert all(bool(term.isfinite()) for term in terms.values())
    if fewest > 1:
        with pytest.raises(ValueError, match="at least 2 samples on each side"):
            build_loss(method, NETWORK, ALIGN)(output(fewest - 1), output(4, seed=9))


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

    objective = build_loss(method, NETWORK, ["hidden1"], discriminator_width=32)
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
    objective = build_loss("mcc", NETWORK, ALIGN)
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
        ("jan", "num_kernels", 3),
        ("jan", "bandwidth_ratio", 4.0),
        ("jan", "estimator", "linear"),
        ("jan", "bandwidth", "mean"),
        ("jan", "output_space", "logits"),
    ],
)
def test_what_a_method_takes_changes_it(method: str, option: str, value: object) -> None:
    assert option in METHODS[method].takes
    torch.manual_seed(0)
    plain = build_loss(method, NETWORK, ALIGN)
    torch.manual_seed(0)
    changed = build_loss(method, NETWORK, ALIGN, **{option: value, "no such option": 1})
    source, target = output(8), output(8, seed=9)
    assert not math.isclose(*(float(sum(o(source, target).values()).detach()) for o in (plain, changed)), rel_tol=1e-9)


def test_one_layer_methods_take_the_last_that_is_not_the_logits() -> None:
    for method in ("dann", "cdan", "cdan_e"):
        assert build_loss(method, NETWORK, ALIGN).layer == "hidden2"
        assert build_loss(method, NETWORK, ["hidden1", "output"]).layer == "hidden1"
        assert build_loss(method, NETWORK, ["output"]).layer == "output"
    assert build_loss("ddc", NETWORK, ALIGN).align == ("hidden2",)
    assert build_loss("ddc", NETWORK, ["output"]).align == ("output",)


def test_every_method_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "losses.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


def test_an_unknown_method() -> None:
    with pytest.raises(UserError, match='unknown method "dan2"'):
        build_loss("dan2", NETWORK, ALIGN)


def test_training_by_hand_is_a_few_lines() -> None:
    """The seam is only this: outputs in, terms out; here with DAN's own network and an adversary, for ten steps."""
    torch.manual_seed(0)
    model = DAN(torch.nn.Flatten(), 3, layers=(6,))
    x, y, x_target = (
        normal(24, 4, dtype=torch.float32),
        torch.arange(24) % 3,
        normal(24, 4, seed=1, dtype=torch.float32),
    )
    objective = build_loss("cdan_e", model, ["hidden1", "output"])
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
