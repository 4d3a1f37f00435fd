"""DANClassifier: scikit-learn's own checks, adaptation to a shifted target, text labels, images, what is refused."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from dan import DANClassifier, TrainConfig

QUICK = TrainConfig(lr=0.02, head_lr_mult=2.0, batch_size=32)


# All of scikit-learn's checks of a classifier apply: there are no exceptions. (It leaves out the one of array-API
# namespaces by itself, unless SCIPY_ARRAY_API is set.)
@parametrize_with_checks([DANClassifier(steps=150, layers=(16,), config=QUICK, random_state=0)])
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def moved(count: int, shift: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two classes on a line, moved by `shift` along the diagonal of it and of an axis that tells nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = 0.5 * rng.normal(size=(count, 2))
    x[:, 0] += 2.0 * y - 1 + shift / 2
    x[:, 1] += shift
    return x, y


def test_it_adapts_to_a_shifted_target() -> None:
    (x, y), (x_target, y_target) = moved(200, 0.0, 0), moved(200, 2.0, 1)
    options: dict[str, Any] = {"steps": 400, "config": QUICK, "random_state": 0, "layers": (32,)}
    plain = DANClassifier(**options).fit(x, y)
    adapted = DANClassifier(trade_off=3.0, **options).fit(x, y, X_target=x_target)
    assert plain.score(x, y) > 0.95 and adapted.score(x, y) > 0.9
    assert adapted.score(x_target, y_target) > plain.score(x_target, y_target) + 0.1


def test_without_a_trade_off_the_target_is_not_looked_at() -> None:
    (x, y), (x_target, _) = moved(60, 0.0, 0), moved(60, 2.0, 1)
    models = [
        DANClassifier(steps=20, trade_off=0.0, random_state=3).fit(x, y, X_target=target) for target in (None, x_target)
    ]
    assert np.array_equal(*(model.predict_proba(x) for model in models))


def test_text_labels_come_back() -> None:
    x, y = moved(80, 0.0, 0)
    names = np.array(["dog", "cat"])[y]
    model = DANClassifier(steps=150, config=QUICK, random_state=0).fit(x, names, X_target=x)
    assert model.classes_.tolist() == ["cat", "dog"]
    assert (model.predict(x) == names).mean() > 0.95 and model.score(x, names) > 0.95
    probs = model.predict_proba(x)
    assert probs.shape == (80, 2) and np.allclose(probs.sum(axis=1), 1)
    assert np.array_equal(model.classes_[probs.argmax(axis=1)], model.predict(x))


def test_images_and_a_module_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(12, 1, 16, 16)).astype(np.float32), np.arange(12) % 3
    assert DANClassifier(steps=2, random_state=0).fit(images, y, X_target=images[::-1]).predict(images).shape == (12,)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(256, 5))
    before = [weight.clone() for weight in backbone.parameters()]
    model = DANClassifier(backbone, steps=3, random_state=0).fit(images, y)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    assert model.predict_proba(images).shape == (12, 3)


def test_a_random_state_gives_the_same_network() -> None:
    x, y = moved(40, 0.0, 0)
    global_state = torch.get_rng_state()
    a, b, c = (DANClassifier(steps=5, random_state=seed).fit(x, y, x + 1).predict_proba(x) for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert torch.equal(global_state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "changed"),
    [({"method": "mcc"}, True), ({"trade_off": 0.1}, True), ({"layers": (8,)}, True), ({"steps": 6}, True)]
    + [({"config": TrainConfig(lr=0.1)}, True), ({"device": "cpu"}, False), ({"method": "dan"}, False)],
)
def test_what_each_argument_changes(options: dict[str, Any], changed: bool) -> None:
    x, y = moved(40, 0.0, 0)
    plain, other = (
        DANClassifier(**{"steps": 5, "random_state": 0} | given).fit(x, y, x + 1).predict_proba(x)
        for given in ({}, options)
    )
    assert np.array_equal(plain, other) != changed


def test_it_is_cloned_searched_and_pickled() -> None:
    x, y = moved(60, 0.0, 0)
    model = make_pipeline(StandardScaler(), DANClassifier(steps=30, config=QUICK, random_state=0))
    search = GridSearchCV(model, {"danclassifier__layers": [(4,), (8,)]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.6
    fitted = clone(search.best_estimator_).fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))


@pytest.mark.parametrize(
    ("x", "y", "target", "message"),
    [
        (np.zeros((6, 2)), np.zeros(6), None, "y holds one class only, .*0.0.*: give at least two classes"),
        (np.zeros((6, 2, 3)), np.arange(6) % 2, None, r"X must be features .N, F. or images"),
        (np.zeros((6, 2)), np.arange(6) % 2, np.zeros((6, 3)), "X has 3 features, but DANClassifier is expecting 2"),
        (np.zeros((6, 1, 4, 4)), np.arange(6) % 2, np.zeros((6, 1, 5, 5)), "X_target .1, 5, 5.: make them equal"),
        (np.zeros((6, 2)), np.arange(6) % 2, np.full((6, 2), np.nan), "NaN"),
        (np.zeros((6, 2)), np.arange(6) / 7, None, "Unknown label type"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: Any, y: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DANClassifier(steps=1).fit(x, y, target)


def test_importing_dan_does_not_import_it() -> None:
    code = "import sys, dan; assert 'sklearn' not in sys.modules and 'torch' not in sys.modules; dan.DANClassifier"
    subprocess.run([sys.executable, "-c", code], check=True)
