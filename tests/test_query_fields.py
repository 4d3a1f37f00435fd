"""What a strategy is shown of a trained network: fields of its own ids, and costly ones only if it needs them."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from active import Query
from active.query_fields import PASSES, VIEWS, query_fields
from active.strategies import CARDS, STRATEGIES, required_fields
from dan import DAN
from dan.data.domain_pair import DomainPair
from dan.data.views import Views
from dan.errors import UserError
from dan.evaluation.metrics import dropout_probabilities, predict, view_probabilities
from dan.mmd import domain_probabilities


def small(dropout=0.5, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(0)

    def data(count, shift):
        x = torch.randn(count, *shape, generator=generator) + shift
        return TensorDataset(x, torch.arange(count) % 3)

    task = DomainPair(
        name="small",
        classes=("a", "b", "c"),
        source=data(40, 0.0),
        source_test=data(15, 0.0),
        target=data(30, 0.5),
        target_test=None,
        normalisation="half",
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 12), nn.Tanh())
    backbone.out_features = 12
    return DAN(backbone, 3, layers=(6,), dropout=dropout).eval(), task


IDS = torch.tensor([3, 4, 11, 20, 29])


def test_one_pass_fields_belong_to_their_ids():
    model, task = small()
    said = query_fields(model, task, IDS, needs=frozenset())
    x, _ = task.target.tensors
    output = model(x[IDS])
    assert torch.allclose(said["probs"], output.logits.double().softmax(1))
    assert torch.allclose(said["features"], output.features)
    assert torch.allclose(said["layers"], torch.cat([output.layers["hidden1"], output.logits], 1))
    assert said["source_layers"].shape == (40, 9)
    assert said["validation_features"].shape == (15, 6) and said["validation_layers"].shape == (15, 9)
    assert not {"domain_probs", "dropout_probs", "patch_probs"} & said.keys()


def test_costly_fields_are_made_for_those_that_need_them():
    model, task = small()
    said = query_fields(model, task, IDS, needs=frozenset({"domain_probs", "dropout_probs", "patch_probs"}), seed=4)
    assert said["domain_probs"].shape == (5,)
    assert said["dropout_probs"].shape == (PASSES, 5, 3)
    assert said["patch_probs"].shape == (5, VIEWS, 3)
    assert torch.allclose(said["patch_probs"][:, 0], said["probs"])
    again = query_fields(model, task, IDS, needs=frozenset({"domain_probs", "dropout_probs"}), seed=4)
    assert torch.equal(said["dropout_probs"], again["dropout_probs"])
    assert torch.equal(said["domain_probs"], again["domain_probs"])


def test_dropout_passes_average_to_their_expectation_and_differ():
    """A linear network without hidden ReLU: the mean of the logits under dropout is the logit without; here the
    probabilities of many passes scatter around those of one drop-free pass as far as the passes themselves do."""
    model, task = small()
    before = torch.get_rng_state()
    probs = dropout_probabilities(model, task.target, passes=200, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and not any(part.training for part in model.modules())
    assert torch.allclose(probs.sum(2), torch.ones(200, 30, dtype=torch.float64))
    assert float(probs.var(0).mean()) > 1e-5
    plain = predict(model, task.target)[0].logits.double().softmax(1)
    assert float((probs.mean(0) - plain).abs().mean()) < 0.5 * float(probs.std(0).mean())
    assert not torch.equal(probs[:2], dropout_probabilities(model, task.target, passes=2, seed=2))


def test_a_network_without_dropout_and_a_task_of_vectors_are_refused():
    model, task = small(dropout=0.0)
    with pytest.raises(UserError, match="--dropout"):
        query_fields(model, task, IDS, needs=frozenset({"dropout_probs"}))
    model, task = small(shape=(5,))
    with pytest.raises(UserError, match="views are of images"):
        query_fields(model, task, IDS, needs=frozenset({"patch_probs"}))


def test_views_are_predicted_one_by_one():
    model, task = small()
    views = Views(4, mirror=False, generator=torch.Generator().manual_seed(0))
    probs = view_probabilities(model, task.target, views, batch_size=7)
    x, _ = task.target.tensors
    for number, view in enumerate(views(x)):
        assert torch.allclose(probs[:, number], model(view).logits.double().softmax(1), atol=1e-6)


def test_domain_probabilities_tell_shifted_from_alike():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    alike, shifted = torch.randn(90, 4, generator=generator), torch.randn(90, 4, generator=generator) + 4
    of_x, of_y = domain_probabilities(x, shifted, folds=3)
    assert of_x.shape == (120,) and of_y.shape == (90,)
    assert float(of_x.min()) > 0.5 > float(of_y.max())
    of_x, of_y = domain_probabilities(x, alike, folds=3)
    assert abs(float(of_x.mean()) - 0.5) < 0.05 and abs(float(of_y.mean()) - 0.5) < 0.05
    with pytest.raises(ValueError, match="folds"):
        domain_probabilities(x[:1], alike)


def test_the_needs_of_a_strategy_are_those_of_its_card_or_its_own(tmp_path, monkeypatch):
    assert all(required_fields(name) == frozenset(card.needs) for name, card in CARDS.items())
    (tmp_path / "my_needy_ideas.py").write_text(
        "def plain(query, budget, *, generator):\n    return query.ids[:budget]\n"
        "def needy(query, budget, *, generator):\n    return query.ids[:budget]\n"
        "needy.needs = ('dropout_probs',)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert required_fields("my_needy_ideas:plain") == frozenset()
    assert required_fields("my_needy_ideas:needy") == {"dropout_probs"}
    assert required_fields("dropout_disagreement@0.5") == {"dropout_probs"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_seen_is_enough_for_every_strategy(name):
    model, task = small()
    said = query_fields(model, task, torch.arange(30), needs=required_fields(name))
    query = Query(ids=torch.arange(30), **said)
    picks = STRATEGIES[name](query, 4, generator=torch.Generator().manual_seed(0))
    assert len(set(picks.tolist())) == 4
