"""A budget for each round: the sums of exact shares, rounded up once, through the loop, the network and the command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from active import STRATEGIES, Pool, rounds
from active.__main__ import COMMANDS
from active.budgets import budget_count, budget_schedule, check_rounds
from active.learners.rounds_config import RoundsConfig, check_rounds_config
from active.round_files import read_rounds
from dan.cli.command_line import run
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.run_dir import read_records
from dan.training.config import TrainConfig

IDS = torch.arange(0, 120, 2)  # 60
X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def loop(**options: Any) -> Iterator[dict[str, Any]]:
    def predict(_model: None, ids: Tensor) -> dict[str, Any]:
        return {"probs": torch.stack([X[ids // 2, 0].sigmoid(), 1 - X[ids // 2, 0].sigmoid()], dim=1)}

    return rounds(Pool(IDS, Y), STRATEGIES["margin"], fit=lambda *_: None, predict=predict, **{"seed": 0} | options)


# --- the sums ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 9999), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 3000),
)
def test_what_was_bought_is_the_exact_sum_rounded_up_once(amounts: list[tuple[int, bool]], pool: int) -> None:
    """Shares in hundredths of a percent, and plain numbers, mixed."""
    told = [f"{n // 100}.{n % 100:02d}%" if share else n for n, share in amounts]
    exact = [Fraction(n, 10_000) * pool if share else Fraction(n) for n, share in amounts]
    sums = [math.ceil(sum(exact[: i + 1])) for i in range(len(exact))]
    wanted = [after - before for before, after in zip([0, *sums], sums, strict=False)]
    if 0 in wanted:
        with pytest.raises(UserError, match="buys nothing"):
            budget_schedule(told, None, pool)
    else:
        assert budget_schedule(told, len(told), pool) == budget_schedule(tuple(told), None, pool) == tuple(wanted)


def test_sums_do_not_drift_and_a_single_budget_is_what_it_was() -> None:
    budgets = budget_schedule(("1%", "1%", "3%", "5%", "10%"), None, 157)
    assert budgets == (2, 2, 4, 8, 16) and sum(budgets) == math.ceil(0.2 * 157)
    # Five times 1 %: rounded once here, five times where one budget stands for each round.
    assert sum(budget_schedule(["1%"] * 5, None, 101)) == 6 and sum(budget_schedule("1%", 5, 101)) == 10
    assert budget_schedule("1%", 5, 101) == (budget_count("1%", 101),) * 5
    assert budget_schedule(7, 2, 100) == (7, 7) and budget_schedule(["7%", 3], 2, 100) == (7, 3)


@pytest.mark.parametrize(
    ("budget", "count", "words"),
    [
        ("5%", None, "name rounds"),
        (5, 0, "at least 1"),
        (("1%", "1%"), 3, "2 budgets are not those of 3 rounds"),
        ((), None, "name one budget for each"),
        (("0.1%", "0.1%"), None, "round 2 with its budget of 0.1% buys nothing"),
        (("1%", "some"), None, 'not "some"'),
        (("1%", 0), None, "at least 1"),
        (("1%", "101%"), None, "100% or less"),
    ],
)
def test_budgets_that_cannot_be(budget: Any, count: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        budget_schedule(budget, count, 100)
    assert "\n" not in str(caught.value)


def test_the_sum_of_all_rounds_has_to_be_there() -> None:
    check_rounds((3, 4, 5), 3, 12)
    with pytest.raises(UserError, match=r"3 rounds of 3 \+ 4 \+ 5 need 12 unlabelled samples, and the pool has 11"):
        check_rounds((3, 4, 5), 3, 11)
    with pytest.raises(UserError, match="2 rounds of 6 need 12"):
        check_rounds(6, 2, 11)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_each_round_buys_its_own_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    whole = list(loop(budget=("5%", "5%", 10)))  # 3, 6 and 16 of 60
    assert [record["labelled"] for record in whole] == [0, 3, 6, 16]
    assert [len(record["queried"]) for record in whole] == [3, 3, 10, 0]
    interrupted = loop(budget=("5%", "5%", 10), run=tmp_path)
    next(interrupted), next(interrupted)
    interrupted.close()  # type: ignore[attr-defined]
    again = list(loop(budget=("5%", "5%", 10), num_rounds=3, run=tmp_path))
    assert [r["queried"] for r in again] == [r["queried"] for r in whole]
    settings = read_records(tmp_path / "records.jsonl")[0]
    assert (settings["budget"], settings["rounds"]) == ([3, 3, 10], 3)
    assert all(file.settings == settings for file in read_rounds(tmp_path))
    with pytest.raises(UserError, match=r"its budget is \[3, 3, 10\], not \[3, 3, 9\]"):
        list(loop(budget=("5%", "5%", 9), run=tmp_path))


def test_the_settings_of_a_single_budget_are_those_of_earlier_runs(tmp_path: Path) -> None:
    list(loop(budget="5%", num_rounds=2, run=tmp_path))
    assert read_records(tmp_path / "records.jsonl")[0] == {"event": "settings", "budget": 3, "rounds": 2, "seed": 0}
    list(loop(budget=3, num_rounds=2, run=tmp_path))  # the same run


# --- with a network ---------------------------------------------------------------------------------------------------


def test_a_plan_counts_all_its_labels() -> None:
    task = load_pair("rendered2digits")  # 1,197 in the pool
    config = TrainConfig(batch_size=32)
    check_rounds_config(task, RoundsConfig(budget=("50%", "50%"), steps_per_round=1, trade_off=1.0), config)
    check_rounds_config(task, RoundsConfig(budget=("1%", 3), query_epochs=(1, 2), epochs=3, trade_off=1.0), config)
    for options, words in (
        ({"budget": ("50%", "51%"), "steps_per_round": 1}, "lower the budget"),
        ({"budget": ("1%", "2%"), "num_rounds": 3, "steps_per_round": 1}, "2 budgets are not those of 3 rounds"),
        ({"budget": ("1%", "2%"), "query_epochs": (1,), "epochs": 3}, "2 budgets are not those of 1 round"),
        ({"budget": ("50%", "48%"), "steps_per_round": 1, "labelled_domain": "source"}, "fewer than a batch of 32"),
        ({"budget": ("1%", "2%")}, "steps_per_round must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            check_rounds_config(task, RoundsConfig(**options, trade_off=1.0), config)  # type: ignore[arg-type]


def test_the_command_takes_a_budget_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["run", "--batch-size", "8", "--steps", "2", "--steps-per-round", "1", "--quiet", "--run", str(tmp_path)]
    assert run("python -m active", "", COMMANDS, [*small, "--budget", "1%", "0.5%", "3"]) == 0
    settings, *records = read_records(tmp_path / "records.jsonl")
    assert (settings["budget"], settings["rounds"]) == ([12, 6, 3], 3)  # 11.97, 17.955 and 20.955 of 1,197, rounded up
    assert [record["labelled"] for record in records] == [0, 12, 18, 21]
    assert run("python -m active", "", COMMANDS, [*small, "--budget", "1%", "2%", "--rounds", "4"]) == 2
    said = capsys.readouterr().err
    assert "2 budgets are not those of 4 rounds" in said and said.count("\n") == 1
