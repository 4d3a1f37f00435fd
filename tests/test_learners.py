"""Learners: a user's own in a few lines, scikit-learn's with any labels, and the DAN in memory and with folders."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor
from torch.utils.data import TensorDataset

from active import STRATEGIES, Pool, Query, get_strategy, rounds
from active.learners.dan import DANLearner, run_rounds
from active.learners.rounds_config import RoundsConfig, round_training
from active.learners.sklearn import SklearnLearner
from active.loop import run_loop
from dan import DAN, fit
from dan.data.batches import derived_seed
from dan.data.domain_pair import DomainPair
from dan.errors import UserError
from dan.models.model_file import load_model
from dan.training.config import TrainConfig

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)  # 0, 1, 2
SOURCE_X = RNG.normal(size=(60, 3)) + 0.3
SOURCE_Y = (SOURCE_X[:, 0] > 0).astype(int) + (SOURCE_X[:, 1] > 0)


def without_clock(records: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


# --- a learner of one's own -------------------------------------------------------------------------------------------


class NearestMean:
    """15 lines, with all that the protocol asks for."""

    def __init__(self, x: Tensor, guess: Tensor) -> None:
        self.x, self.guess = x, guess  # (N, F), (C, F)

    def fit(self, pool: Pool, round: int) -> None:
        x, y = self.x[pool.labelled_ids], pool.labels
        self.means = torch.stack([(g + x[y == c].sum(0)) / (1 + (y == c).sum()) for c, g in enumerate(self.guess)])

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> Mapping[str, Any]:
        x = self.x[ids]
        return {"probs": (-torch.cdist(x, self.means)).softmax(1), "features": x}

    def evaluate(self) -> Mapping[str, float]:
        return {"spread": float(self.means.std())}


def test_a_learner_of_ones_own_is_the_same_as_its_functions() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    guess = torch.eye(3, dtype=torch.float64)
    learner = NearestMean(x, guess)
    by_learner = list(rounds(Pool(range(90), y), "badge", learner=learner, budget=5, num_rounds=3, seed=1))

    def fit_means(pool: Pool, round: int) -> NearestMean:
        model = NearestMean(x, guess)
        model.fit(pool, round)
        return model

    def predict_means(model: NearestMean, ids: Tensor) -> Mapping[str, Any]:
        # Arrays are taken as well.
        return {name: value.numpy() for name, value in model.query_fields(ids, frozenset()).items()}

    functions: dict[str, Any] = {"fit": fit_means, "predict": predict_means, "evaluate": NearestMean.evaluate}
    by_functions = rounds(Pool(range(90), y), STRATEGIES["badge"], **functions, budget=5, num_rounds=3, seed=1)
    assert without_clock(by_functions) == without_clock(by_learner)
    assert by_learner[-1]["labelled"] == 15 and by_learner[-1]["spread"] == float(learner.means.std())


def test_the_learner_is_told_what_the_strategy_requires() -> None:
    needed: list[frozenset[str]] = []

    class Spy(NearestMean):
        def query_fields(self, ids: Tensor, needs: frozenset[str]) -> Mapping[str, Any]:
            needed.append(needs)
            return super().query_fields(ids, needs)

    def mine(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        return query.ids[:budget]

    mine.needs = ("dropout_probs",)  # type: ignore[attr-defined]
    for strategy in ("badge", STRATEGIES["badge"], "badge@0.5", mine):
        learner = Spy(torch.from_numpy(X), torch.eye(3, dtype=torch.float64))
        next(rounds(Pool(range(90), Y), strategy, learner=learner, budget=5, num_rounds=1, seed=1))
    assert needed == [{"probs", "features"}] * 3 + [{"dropout_probs"}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give learner=, or the functions"),
        ({"fit": lambda pool, round: 0}, "give learner=, or the functions"),
        ({"learner": LogisticRegression()}, "wrap an estimator in active.learners.sklearn.SklearnLearner"),
        ({"learner": NearestMean(torch.zeros(1, 1), torch.zeros(1, 1)), "fit": print}, "give learner=, or"),
        ({"fit": lambda pool, round: 0, "predict": lambda model, ids: {"features": ids}}, 'must give "probs"'),
        ({"fit": lambda pool, round: 0, "predict": lambda model, ids: {"probs": torch.zeros(3, 3)}}, "must be (90, C)"),
        (
            {"fit": lambda pool, round: 0, "predict": lambda m, ids: {"probs": torch.ones(90, 3), "classes": [1, 2]}},
            "2 classes do not name the 3 columns",
        ),
    ],
)
def test_learners_that_cannot_be_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        list(rounds(Pool(range(90), Y), "margin", budget=5, num_rounds=1, seed=0, **options))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- strategies of one's own ------------------------------------------------------------------------------------------


def first_ids(query: Query, budget: int) -> list[int]:
    """Without a generator, and a list."""
    return [int(i) for i in query.ids[:budget]]


def first_array(query: Query, budget: int, generator: torch.Generator) -> np.ndarray:
    return query.ids[:budget].numpy()


@pytest.mark.parametrize("strategy", [first_ids, first_array, f"{__name__}:first_ids"])
def test_a_strategy_may_return_a_list_or_an_array_and_leave_out_the_generator(strategy: Any) -> None:
    learner = NearestMean(torch.from_numpy(X), torch.eye(3, dtype=torch.float64))
    records = list(rounds(Pool(range(90), Y), strategy, learner=learner, budget=3, num_rounds=2, seed=0))
    assert [record["queried"] for record in records] == [[0, 1, 2], [3, 4, 5], []]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (lambda query: [0], "is not a strategy: define it as def strategy(query, budget, *, generator)"),
        (lambda query, budget, *, seed: [0], "is not a strategy"),
        (lambda query, budget: None, "returned a NoneType: a strategy returns a list of sample ids"),
        (lambda query, budget: query.probs[:budget, 0], "returned a Tensor of torch.float64"),
        (lambda query, budget: query.ids < 3, "returned a Tensor of torch.bool"),
        (3, "a strategy is a name or a function, not a int"),
        ("margn", 'did you mean "margin"'),
    ],
)
def test_strategies_that_cannot_be_are_one_line(strategy: Any, words: str) -> None:
    learner = NearestMean(torch.from_numpy(X), torch.eye(3, dtype=torch.float64))
    with pytest.raises(UserError) as caught:
        list(rounds(Pool(range(90), Y), strategy, learner=learner, budget=3, num_rounds=1, seed=0))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_strategy_keeps_its_attributes_and_its_own_errors() -> None:
    def broken(query: Query, budget: int) -> list[int]:
        raise TypeError("of the strategy itself")

    learner = NearestMean(torch.from_numpy(X), torch.eye(3, dtype=torch.float64))
    with pytest.raises(TypeError, match="of the strategy itself"):
        list(rounds(Pool(range(90), Y), broken, learner=learner, budget=3, num_rounds=1, seed=0))
    assert get_strategy(f"{__name__}:first_ids").__doc__ == first_ids.__doc__


# --- scikit-learn -----------------------------------------------------------------------------------------------------

NAMES = np.array(["ant", "bee", "cow"])
ENCODINGS: dict[str, Any] = {
    "from 0": lambda y: y,
    "from 1": lambda y: y + 1,
    "signed": lambda y: y - 1,
    "apart": lambda y: 10 * y - 7,
    "text": lambda y: NAMES[y],
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("missing", [None, 0, 1, 2])
def test_the_labels_of_an_estimator_are_mapped(encoding: str, missing: int | None) -> None:
    """Records do not depend on what the classes are called, nor on a class that the source lacks."""
    keep, encode = missing != SOURCE_Y, ENCODINGS[encoding]
    source = (SOURCE_X[keep], encode(SOURCE_Y)[keep])
    learner = SklearnLearner(LogisticRegression(), X, source=source, tests={"test": (X, encode(Y))})
    records = list(rounds(Pool(range(90), encode(Y)), "badge", learner=learner, budget=9, num_rounds=2, seed=0))
    plain = SklearnLearner(LogisticRegression(), X, source=(SOURCE_X[keep], SOURCE_Y[keep]), tests={"test": (X, Y)})
    expected = list(rounds(Pool(range(90), Y), "badge", learner=plain, budget=9, num_rounds=2, seed=0))
    assert without_clock(records) == without_clock(expected)
    # By hand: the estimator's own predictions, in its own labels.
    pool, labels = Pool(range(90), Y), encode(Y)
    for record in records:
        ids = pool.labelled_ids.numpy()
        model = LogisticRegression().fit(np.r_[source[0], X[ids]], np.r_[source[1], labels[ids]])
        assert record["accuracy/target"] == record["accuracy/test"] == np.mean(model.predict(X) == labels)
        pool.label(record["queried"], Y[record["queried"]], round=record["round"] + 1)
    assert set(learner.predict(X)) <= set(labels.tolist())


def test_a_perfect_model_is_reported_as_perfect() -> None:
    for encode in ENCODINGS.values():
        tree = SklearnLearner(DecisionTreeClassifier(random_state=0), X, source=(X, encode(Y)))
        pool = Pool(range(90), encode(Y))
        assert next(rounds(pool, "margin", learner=tree, budget=1, num_rounds=1, seed=0))["accuracy/target"] == 1.0


@pytest.mark.parametrize(("encoding", "label"), [("from 1", "3"), ("signed", "-1"), ("text", None)])
def test_columns_that_do_not_fit_the_labels_name_the_label(encoding: str, label: str | None) -> None:
    labels = ENCODINGS[encoding](Y)

    def predict(model: Any, ids: Tensor) -> dict[str, Any]:
        return {"probs": model.predict_proba(X[ids])}

    options: dict[str, Any] = {"budget": 3, "num_rounds": 1, "seed": 0}
    options["fit"] = lambda pool, round: DecisionTreeClassifier(random_state=0).fit(X, labels)
    loop = rounds(Pool(range(90), labels), "margin", predict=predict, **options)
    if label is None:  # the sorted texts are the columns
        assert next(loop)["accuracy/target"] == 1.0
        return
    with pytest.raises(UserError, match=f"label {label} of sample .* has no column in the probs"):
        next(loop)
    options["predict"] = lambda model, ids: {**predict(model, ids), "classes": model.classes_}
    assert next(rounds(Pool(range(90), labels), "margin", **options))["accuracy/target"] == 1.0


def test_a_class_that_a_function_never_learned_is_named() -> None:
    few = Y != 2

    def predict(model: Any, ids: Tensor) -> dict[str, Any]:
        return {"probs": model.predict_proba(X[ids])}

    loop = rounds(
        Pool(range(90), Y),
        "margin",
        fit=lambda pool, round: LogisticRegression().fit(X[few], Y[few]),
        predict=predict,
        budget=3,
        num_rounds=1,
        seed=0,
    )
    with pytest.raises(UserError, match="label 2 of sample .* whose 2 columns"):
        next(loop)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SklearnLearner(Perceptron(), X), "Perceptron has no predict_proba"),
        (lambda: SklearnLearner(LogisticRegression(), X, source=(X, Y[:3])), "source has 90 samples"),
        (lambda: SklearnLearner(LogisticRegression(), X), "round 0 has nothing to learn"),
        (lambda: SklearnLearner(LogisticRegression(), X[:40], source=(X, Y)), "is no row of X"),
        (lambda: SklearnLearner(LogisticRegression(), X, source=(X, NAMES[Y])), "labels of text"),
        (lambda: SklearnLearner(LogisticRegression(), X, source=(X, Y + 0.5)), "is no class"),
    ],
)
def test_estimators_that_cannot_learn_are_one_line(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        list(rounds(Pool(range(90), Y), "random", learner=make(), budget=60, num_rounds=1, seed=0))


def test_an_estimator_is_cloned_and_goes_on_in_a_run_folder(tmp_path: Path) -> None:
    estimator = LogisticRegression()

    def loop(run: Path | str | None) -> Any:
        learner = SklearnLearner(estimator, X, source=(SOURCE_X, NAMES[SOURCE_Y]))
        return rounds(Pool(range(90), NAMES[Y]), "clue", learner=learner, budget="5%", num_rounds=3, seed=0, run=run)

    whole, part = list(loop(None)), loop(str(tmp_path))
    next(part), next(part)
    part.close()
    assert without_clock(loop(str(tmp_path))) == without_clock(whole)
    assert not hasattr(estimator, "classes_")


# --- the DAN ----------------------------------------------------------------------------------------------------------


def vectors(count: int, seed: int, shift: float = 0.0) -> TensorDataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + shift
    return TensorDataset(x, (x[:, 0] > shift).long() + (x[:, 1] > shift))


TASK = DomainPair(
    name="vectors",
    classes=("a", "b", "c"),
    source=vectors(40, 1),
    source_test=None,
    target=vectors(44, 2, 0.5),
    target_test=vectors(20, 3, 0.5),
    kind="vector",
)
SMALL = TrainConfig(batch_size=8, evaluate_every=100, checkpoint_every=3, feature_map=False)


def network() -> DAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DAN("features", 3, layers=(8,), dropout=0.3)
        model(torch.zeros(1, 4))  # its first layer learns its width
        return model


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "start"
    fit(network(), TASK.source, TASK.target, trade_off=1.0, steps=7, seed=0, config=SMALL, run=folder)
    return folder


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, kernel_weights="qp", kernel_weights_every=2, num_kernels=3)])
@pytest.mark.parametrize(
    "plan",
    [
        {"num_rounds": 2, "steps_per_round": 4},
        {"num_rounds": 2, "steps_per_round": 4, "retrain": "scratch", "labelled_domain": "source"},
        {"query_epochs": (1, 2), "epochs": 3},
    ],
)
def test_in_memory_as_in_a_folder(start: Path, tmp_path: Path, plan: dict[str, Any], config: TrainConfig) -> None:
    rounds_config = RoundsConfig(budget=3, trade_off=1.0, **plan)
    made: dict[str, Any] = {"seed": 1, "config": config}
    in_folder = run_rounds(TASK, "mmd_reduction", rounds_config, start=str(start), run=str(tmp_path / "run"), **made)
    before = load_model(start)
    learner = DANLearner(TASK, before, rounds_config, **made)
    weights = copy.deepcopy(before.state_dict())
    pool = Pool(range(44), TASK.target.tensors[1])  # type: ignore[attr-defined]
    in_memory = run_loop(pool, "mmd_reduction", learner, budget=3, num_rounds=2, seed=1)
    assert without_clock(in_memory) == without_clock(in_folder)
    last = load_model(tmp_path / "run" / "round_02").state_dict()
    assert all(torch.equal(value, last[name]) for name, value in learner.trained.state_dict().items())
    assert all(torch.equal(value, weights[name]) for name, value in before.state_dict().items())  # as it was


def test_what_is_not_in_memory_is_one_line(start: Path, tmp_path: Path) -> None:
    plan = RoundsConfig(budget=3, num_rounds=2, steps_per_round=2, trade_off=1.0)
    learner = DANLearner(TASK, network(), plan, seed=0, config=SMALL)
    with pytest.raises(UserError, match="not trained yet"):
        learner.evaluate()
    pool = Pool(range(44))
    with pytest.raises(UserError, match="round 2 trains on from round 1, which is not in memory"):
        learner.fit(pool, 2)
    continued = DANLearner(TASK, network(), replace(plan, retrain="continue"), seed=0, config=SMALL)
    with pytest.raises(UserError, match="no optimiser to continue with"):
        continued.fit(pool, 1)
    with pytest.raises(UserError, match="rounds need a budget"):
        list(run_rounds(TASK, "margin", replace(plan, budget=None), start=start, seed=0, run=tmp_path / "run"))


def test_the_training_of_each_round() -> None:
    config = RoundsConfig(trade_off=1.0, steps_per_round=5)
    fine_tuned = round_training(config, 2, epoch_steps=6, seed=3)
    scratch = round_training(replace(config, retrain="scratch"), 2, epoch_steps=6, seed=3)
    assert (fine_tuned.from_start, fine_tuned.continues, fine_tuned.steps) == (False, False, 5)
    assert scratch == replace(fine_tuned, from_start=True) and scratch.seed == derived_seed(3, 2)
    went_on = round_training(replace(config, retrain="continue"), 2, epoch_steps=6, start_steps=7, seed=3)
    assert (went_on.continues, went_on.steps, went_on.seed) == (True, 7 + 2 * 5, derived_seed(3, 0))
    one = RoundsConfig(trade_off=1.0, query_epochs=(1, 3), epochs=4)
    parts = [round_training(one, number, epoch_steps=6, seed=3) for number in range(3)]
    assert [part.steps for part in parts] == [6, 18, 24] and {part.total_steps for part in parts} == {24}
    assert [part.from_start for part in parts] == [True, False, False]
    assert [part.continues for part in parts] == [False, True, True]
