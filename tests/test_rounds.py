"""The rounds loop with learners of any kind: what it labels, reports, resumes, and refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from active import STRATEGIES, Pool, Query, rounds
from active.learners.dan import run_rounds
from active.learners.rounds_config import RoundsConfig
from dan import DAN, fit
from dan.data.tasks import DomainPair, load_pair
from dan.errors import UserError
from dan.training.trainer import TrainConfig

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()
SOURCE_X = torch.randn(30, 4, generator=GENERATOR, dtype=torch.float64) + 1
SOURCE_Y = (SOURCE_X[:, 1] > 1).long()
# Global ids are not positions: sample i of X has id 500 - 3 i, so that any confusion of the two shows.
IDS = torch.tensor([500 - 3 * i for i in range(60)])
ROW_OF = {int(sample): row for row, sample in enumerate(IDS)}


def rows(ids: Tensor) -> list[int]:
    return [ROW_OF[int(i)] for i in ids]


def fit_logistic(pool: Pool, number: int) -> LogisticRegression:
    x, y = torch.cat([SOURCE_X, X[rows(pool.labelled_ids)]]), torch.cat([SOURCE_Y, pool.labels])
    assert torch.equal(pool.labels, Y[rows(pool.labelled_ids)])
    return LogisticRegression().fit(x.numpy(), y.numpy())


def predict_logistic(model: LogisticRegression, ids: Tensor) -> dict[str, Any]:
    x = X[rows(ids)]
    return {"probs": torch.from_numpy(model.predict_proba(x.numpy())), "features": x, "source_features": SOURCE_X}


def loop(strategy: str = "margin", **options: Any) -> Iterator[dict[str, Any]]:
    options = {"budget": 5, "num_rounds": 3, "seed": 0} | options
    return rounds(Pool(IDS, Y), STRATEGIES[strategy], fit=fit_logistic, predict=predict_logistic, **options)


@pytest.mark.parametrize("strategy", ["random", "margin", "k_center", "mmd_reduction"])
def test_a_scikit_learn_estimator_goes_through_the_rounds(strategy: str) -> None:
    records = list(loop(strategy))
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert [record["labelled"] for record in records] == [0, 5, 10, 15]
    asked = [sample for record in records for sample in record["queried"]]
    assert len(asked) == len(set(asked)) == 15 and set(asked) <= set(IDS.tolist())
    assert records[-1]["queried"] == []


def test_accuracies_are_those_of_all_and_of_the_never_queried() -> None:
    records = list(loop())
    pool = Pool(IDS, Y)
    for record in records:
        model = fit_logistic(pool, record["round"])
        right = torch.from_numpy(model.predict(X.numpy())) == Y
        asked = torch.zeros(60, dtype=torch.bool)
        asked[rows(pool.labelled_ids)] = True
        assert record["accuracy/target"] == pytest.approx(float(right.double().mean()))
        assert record["accuracy/unqueried"] == pytest.approx(float(right[~asked].double().mean()))
        pool.label(
            record["queried"], Y[rows(torch.tensor(record["queried"], dtype=torch.long))], round=record["round"] + 1
        )


def test_the_strategy_sees_what_belongs_to_its_ids() -> None:
    def spy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        assert torch.equal(query.features, X[rows(query.ids)])
        assert torch.equal(query.labelled_features, X[rows(query.labelled_ids)])
        assert torch.equal(query.labelled_targets, Y[rows(query.labelled_ids)])
        assert torch.equal(query.source_features, SOURCE_X)
        assert not set(query.ids.tolist()) & set(query.labelled_ids.tolist())
        return query.ids[[3, 1]]

    pool = Pool(IDS, Y)
    list(rounds(pool, spy, fit=fit_logistic, predict=predict_logistic, budget=2, num_rounds=3, seed=0))
    assert len(pool.labelled_ids) == 6 and pool.round_of(int(pool.labelled_ids[0])) == 1


@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_rounds_resume_with_the_same_records(tmp_path: Path, kill_after: int) -> None:
    expected = [{k: v for k, v in record.items() if k != "seconds"} for record in loop("random")]
    interrupted = loop("random", run=tmp_path)
    for _ in range(kill_after):
        next(interrupted)
    interrupted.close()  # type: ignore[attr-defined]
    again = [{k: v for k, v in record.items() if k != "seconds"} for record in loop("random", run=tmp_path)]
    assert again == expected
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in loop("random", run=tmp_path)] == expected


def test_the_seed_decides_and_a_folder_keeps_one_run(tmp_path: Path) -> None:
    first, second = (list(loop("random", seed=seed))[0]["queried"] for seed in (0, 1))
    assert first != second
    list(loop(run=tmp_path))
    with pytest.raises(UserError, match="its budget is 5, not 4"):
        list(loop(run=tmp_path, budget=4))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda query: query.ids[[0, 0]], "1 of them different"),
        (lambda query: query.ids[:1], "returned 1 ids"),
        (lambda query: torch.tensor([0, 1]), "0 unlabelled"),  # positions in place of ids
    ],
)
def test_a_strategy_that_errs_buys_nothing(answer: Any, words: str) -> None:
    pool = Pool(IDS, Y)
    loop = rounds(
        pool,
        lambda query, budget, *, generator: answer(query),
        fit=fit_logistic,
        predict=predict_logistic,
        budget=2,
        num_rounds=1,
        seed=0,
    )
    with pytest.raises(ValueError, match=words):
        list(loop)
    assert len(pool.labelled_ids) == 0


@pytest.mark.parametrize("options", [{"budget": 0}, {"num_rounds": 0}, {"budget": 31, "num_rounds": 2}])
def test_impossible_budgets(options: dict[str, int]) -> None:
    with pytest.raises(UserError):
        list(loop(**options))


def test_pool_refuses_what_would_corrupt_it() -> None:
    pool = Pool([7, 3, 9], [1, 0, 2])
    pool.label([9, 3], pool.oracle(torch.tensor([9, 3])), round=1)
    assert pool.labelled_ids.tolist() == [9, 3] and pool.labels.tolist() == [2, 0]
    assert pool.unlabelled_ids.tolist() == [7] and pool.round_of(9) == 1
    for ids, words in (([9], "round 1 already"), ([4], "not in the pool"), ([7, 7], "twice")):
        with pytest.raises(ValueError, match=words):
            pool.label(ids, [0] * len(ids), round=2)
    assert pool.unlabelled_ids.tolist() == [7]
    with pytest.raises(ValueError, match="without repeats"):
        Pool([1, 1])
    with pytest.raises(ValueError, match="no simulated oracle"):
        Pool([1, 2]).oracle(torch.tensor([1]))


@pytest.fixture(scope="module")
def task() -> DomainPair:
    return load_pair("rendered2digits")


def test_rounds_with_a_dan_resume_to_the_same_records(tmp_path: Path, task: DomainPair) -> None:
    recipe = TrainConfig(batch_size=8, evaluate_every=100, checkpoint_every=4)
    torch.manual_seed(0)
    start = tmp_path / "start"
    fit(DAN("lenet", 10), task.source, task.target, trade_off=1.0, steps=10, seed=0, config=recipe, run=start)

    def asked(folder: str) -> Iterator[dict[str, Any]]:
        return run_rounds(
            task,
            "mmd_reduction",
            RoundsConfig(budget=3, num_rounds=2, steps_per_round=6, trade_off=1.0),
            start=start,
            seed=1,
            run=tmp_path / folder,
            config=recipe,
        )

    whole = list(asked("a"))
    interrupted = asked("b")
    next(interrupted), next(interrupted)
    interrupted.close()  # type: ignore[attr-defined]
    resumed = list(asked("b"))
    clock = {"seconds"}
    assert [{k: r[k] for k in r.keys() - clock} for r in resumed] == [
        {k: r[k] for k in r.keys() - clock} for r in whole
    ]
    assert [record["labelled"] for record in whole] == [0, 3, 6]
    assert all(0 <= record["accuracy/target_test"] <= 1 for record in whole)
    a, b = (torch.load(tmp_path / f / "round_02" / "model.pt", weights_only=True)["weights"] for f in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert list((tmp_path / "a").glob("events*"))
