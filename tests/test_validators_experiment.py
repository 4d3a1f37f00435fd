"""The experiment `validators`: regret and rank correlation of fabricated scores, and one trial on few images."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Subset

from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.evaluation.validators import VALIDATORS
from experiments import validators
from experiments.framework.measurements import to_csv
from experiments.framework.trials import Trial
from experiments.validators import SCALED, Validators, candidate, cells, judged


def record(
    method: str, step: int, accuracy: float, *, seed: int = 0, task: str = "a", **scores: float
) -> dict[str, Any]:
    made = {"experiment": "validators", "task": task, "network": "lenet", "method": method, "labels": 0, "seed": seed}
    made |= {"selection": "last" if step == 2 else "", "command": "one", "command_of_all": "all", "step": step}
    return made | {"accuracy/target": accuracy} | {f"validator/{name}": value for name, value in scores.items()}


# seed 0: perfect orders as the accuracies, reverse the other way round, flat says nothing.
POOL = [
    record("source-only", 1, 0.50, perfect=1, reverse=4, flat=0),
    record("source-only", 2, 0.60, perfect=2, reverse=3, flat=0),
    record("DAN 3", 1, 0.90, perfect=4, reverse=1, flat=0),
    record("DAN 3", 2, 0.70, perfect=3, reverse=2, flat=0),
]


def test_regret_gain_and_rank_correlation() -> None:
    found = judged(POOL)
    assert list(found) == ["perfect", "reverse", "flat"]  # the least worst regret first
    assert found["perfect"] == [pytest.approx((0, 30, 1))]
    assert found["reverse"] == [pytest.approx((40, -10, -1))]
    assert found["flat"] == [pytest.approx((40, -10, 0))]  # of equal scores the first: nothing was told apart


def test_pools_are_of_one_task_and_seed_and_the_worst_decides_the_order() -> None:
    second = [
        record("source-only", 2, 0.80, seed=1, perfect=2, reverse=1, flat=1),
        record("DAN 3", 2, 0.20, seed=1, perfect=3, reverse=0, flat=0),
    ]
    found = judged(POOL + second)
    assert found["perfect"] == [pytest.approx((0, 30, 1)), pytest.approx((60, -60, -1))]
    assert list(found) == ["reverse", "flat", "perfect"]
    page = validators.report(POOL + second)
    lines = {line[0]: line[1:] for line in page.tables[0][1][1]}
    assert lines["perfect"] == ["60.0", "30.0", "−60.0", "−15.0", "-1.00", "0.00"]
    assert [row.mean for row in page.rows or () if row.metric == "regret" and row.method == "perfect"] == [30]
    assert "regret" in to_csv(page.rows or ()) and len(page.findings) == 4


def test_a_trial_scores_every_checkpoint_by_every_validator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = load_pair("rendered2digits")
    few = replace(
        pair,
        source=Subset(pair.source, range(0, len(pair.source), len(pair.source) // 150)),
        target=Subset(pair.target, range(60)),
        target_test=None,
    )
    monkeypatch.setattr(validators, "transfer_named", lambda task, **_: few)
    config = Validators(tasks=("rendered2digits",), methods=("source-only",), seeds=(0,), steps=5)
    (cell,) = cells(config)
    (trial,) = cell.trials
    evaluations = candidate(tmp_path, **trial.arguments)["evaluations"]
    assert [evaluation["step"] for evaluation in evaluations] == [1, 2, 3, 4, 5]
    names = {*VALIDATORS, *(f"{name}, calibrated" for name in SCALED)}
    for evaluation in evaluations:
        scores = {k.removeprefix("validator/"): v for k, v in evaluation.items() if k.startswith("validator/")}
        assert set(scores) == names and all(math.isfinite(value) for value in scores.values())
        assert scores["source_risk"] == pytest.approx(evaluation["accuracy/source_test"] - 1)


def test_names_of_trials_are_their_own_and_options_are_checked(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.touch()
    config = Validators(squeezenet_weights=str(weights), seeds=(0,))
    listed: list[Trial] = [trial for cell in cells(config) for trial in cell.trials]
    assert len({trial.name for trial in listed}) == len(listed) == 13 * 7
    for bad, message in (
        (replace(config, methods=("DAN 3",)), "must hold source-only"),
        (replace(config, steps=7), "multiple of 5"),
        (replace(config, tasks=("digits",)), "--tasks"),
    ):
        with pytest.raises(UserError, match=message):
            bad.check()
