"""ActiveLearner: query, teach, predict and score, with estimators, networks and labels of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import TensorDataset

from active import ActiveLearner, Query
from dan import DAN
from dan.errors import UserError

RNG = np.random.default_rng(0)
NAMES = np.array(["ant", "bee", "cow"])
X = RNG.normal(size=(80, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
SOURCE_X = RNG.normal(size=(50, 4)).astype(np.float32) + 0.5
SOURCE_Y = (SOURCE_X[:, 0] > 0).astype(int) + (SOURCE_X[:, 1] > 0)


def learner(model: Any = None, **options: Any) -> ActiveLearner:
    made: dict[str, Any] = {"source": (SOURCE_X, NAMES[SOURCE_Y]), "pool": X, "seed": 0} | options
    return ActiveLearner(model or LogisticRegression(), made.pop("strategy", "hybrid"), **made)


def network(classes: int = 3) -> DAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DAN("features", classes, layers=(8,))
        model(torch.zeros(1, 4))  # its first layer learns its width
        return model


SHORT = {"steps": 40, "steps_per_round": 20}


@pytest.mark.parametrize("model", ["estimator", "DAN", "backbone", "module"])
def test_labels_make_it_better(model: str) -> None:
    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU())

    models: dict[str, Any] = {"estimator": LogisticRegression, "DAN": network, "backbone": lambda: "features"}
    made = [learner(models.get(model, module)(), **SHORT) for _ in range(2)]
    scores = []
    for each in made:
        before = each.score(X, NAMES[Y])
        for _ in range(3):
            ids = each.query(10)
            assert ids.dtype == np.int64 and len(set(ids.tolist())) == 10
            assert np.array_equal(ids, each.query(10))  # the same until labels are taught
            each.teach(ids, NAMES[Y[ids]])
            assert not set(ids.tolist()) & set(each.query(5).tolist())
        scores.append((before, each.score(X, NAMES[Y]), ids.tolist()))
    assert scores[0] == scores[1]  # the seed decides
    assert scores[0][1] > scores[0][0] and scores[0][1] > 0.8
    predicted = made[0].predict(X)
    assert set(predicted.tolist()) <= set(NAMES.tolist()) and np.mean(predicted == NAMES[Y]) == scores[0][1]
    probs = made[0].predict_proba(X[:7])
    assert probs.shape == (7, 3) and np.allclose(probs.sum(1), 1)


def test_the_model_that_was_given_stays_as_it_is() -> None:
    model, estimator = network(), LogisticRegression()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner(model, **SHORT).query(3)
    learner(estimator).query(3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(estimator, "classes_")
    # A model that is trained already is queried as it is.
    trained = learner(model, steps=0)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(X)).logits.double().softmax(1)
    assert np.allclose(trained.predict_proba(X), expected.numpy())


@pytest.mark.parametrize("encode", [lambda y: y, lambda y: y + 1, lambda y: y - 1, lambda y: NAMES[y]])
@pytest.mark.parametrize("model", [LogisticRegression, network])
def test_the_names_of_the_classes_change_nothing(model: Any, encode: Any) -> None:
    made, plain = (
        learner(model(), source=(SOURCE_X, of(SOURCE_Y)), strategy="badge", **SHORT) for of in (encode, lambda y: y)
    )
    for each, of in ((made, encode), (plain, lambda y: y)):
        each.teach(each.query(6), of(Y)[each.query(6)])
    assert np.array_equal(made.query(6), plain.query(6))
    assert np.array_equal(made.predict(X), encode(plain.predict(X)))


def test_inputs_are_arrays_tensors_lists_and_data_sets() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(SOURCE_Y)
    expected = learner(network(), source=(SOURCE_X, SOURCE_Y), **SHORT).query(4).tolist()
    for options in (
        {"source": (torch.from_numpy(SOURCE_X), y), "pool": x},
        {"source": (SOURCE_X.tolist(), SOURCE_Y.tolist()), "pool": X.tolist()},
        {"source": TensorDataset(torch.from_numpy(SOURCE_X), y), "pool": TensorDataset(x)},
        {"source": TensorDataset(torch.from_numpy(SOURCE_X), y), "pool": TensorDataset(x, torch.zeros(80))},
        {"source": (SOURCE_X.astype(np.float64), SOURCE_Y.astype(np.int8)), "pool": X.astype(np.float64)},
    ):
        assert learner(network(), **options, **SHORT).query(4).tolist() == expected


def test_images_and_a_backbone_by_name() -> None:
    images = RNG.normal(size=(20, 1, 28, 28))
    made = learner("lenet", source=(images, NAMES[np.arange(20) % 3]), pool=images, steps=2, steps_per_round=1)
    made.teach(made.query(3), ["ant", "bee", "cow"])
    assert made.predict(images[:2]).shape == (2,)


def test_a_class_that_the_source_lacks() -> None:
    few = SOURCE_Y != 2
    for model in (LogisticRegression(), network()):
        made = learner(model, source=(SOURCE_X[few], NAMES[SOURCE_Y[few]]), classes=NAMES, **SHORT)
        rare = np.flatnonzero(Y == 2)[:8]
        made.teach(rare, ["cow"] * 8)
        assert "cow" in made.predict(X[Y == 2]).tolist()


def test_one_label_at_a_time() -> None:
    made = learner()
    (sample,) = made.query()
    made.teach(sample, NAMES[Y[sample]])
    assert made.pool.labelled_ids.tolist() == [sample]


def test_a_strategy_of_ones_own_sees_positions_in_the_classes() -> None:
    def mine(query: Query, budget: int) -> list[int]:
        assert query.labelled_targets is not None and query.source_targets is not None
        assert query.labelled_targets.tolist() == Y[query.labelled_ids.numpy()].tolist()
        assert query.source_targets.tolist() == SOURCE_Y.tolist()
        return query.ids[:budget].tolist()

    made = learner(strategy=mine)
    made.teach([5, 9], NAMES[Y[[5, 9]]])
    assert made.query(3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda made: made.teach([1, 1], ["ant", "ant"]), "named twice"),
        (lambda made: made.teach([80], ["ant"]), "id 80 is not in the pool"),
        (lambda made: made.teach([2], ["ant"]), "id 2 was labelled in round"),
        (lambda made: made.teach([3, 4], ["ant", "elk"]), "label 'elk' is not one of the classes ant, bee, cow"),
        (lambda made: made.teach([3, 4], ["ant"]), "1 labels for 2 ids"),
        (lambda made: made.teach([3.0], ["ant"]), "ids are whole numbers"),
        (lambda made: made.query(0), "a query is of 1 to 79 samples"),
        (lambda made: made.query(80), "a query is of 1 to 79 samples"),
        (lambda made: made.score(X, NAMES[Y[:3]]), "3 labels for 80 samples"),
        (lambda made: learner(strategy="hybird"), 'did you mean "hybrid"'),
        (lambda made: learner(3), "a int cannot be trained here"),
        (lambda made: learner(source=SOURCE_X), "source is a pair"),
        (lambda made: learner(source=(SOURCE_X, SOURCE_Y[:3])), "source has 50 samples and 3 labels"),
        (lambda made: learner(source=(SOURCE_X, SOURCE_Y * 0)), "at least two"),
        (lambda made: learner(classes=["ant", "bee"]), "classes= must name them all"),
        (lambda made: learner(network(2)), "the model has 2 classes, and the labels 3"),
        (lambda made: learner(network(), pool=np.array(["a", "b"])), "a network takes numbers"),
        (lambda made: learner(pool=[]), "at least one"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(act: Any, words: str) -> None:
    made = learner()
    made.teach([2], ["bee"])
    with pytest.raises(UserError) as caught:
        act(made)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert made.pool.labelled_ids.tolist() == [2]
