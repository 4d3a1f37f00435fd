"""python -m active run: its start, what it takes from one that is there, a frozen backbone's cache, and its
complaints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from active.__main__ import COMMANDS
from active.cli.run import defaults
from active.learners.dan import run_rounds
from active.learners.rounds_config import RoundsConfig
from dan import DAN, fit
from dan.cli.command_line import run
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.models.factory import build_network
from dan.models.model_file import load_model
from dan.run_dir import read_records
from dan.training.trainer import TrainConfig

SMALL = ["--batch-size", "8", "--steps", "6", "--steps-per-round", "4", "--budget", "3", "--rounds", "1", "--quiet"]


def active(*argv: str) -> int:
    return run("python -m active", "", COMMANDS, argv)


def test_a_start_is_trained_once_and_another_run_takes_all_from_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert active("run", *SMALL, "--layers", "16", "--trade-off", "0.5", "--run", str(first)) == 0
    settings = read_records(first / "start" / "records.jsonl")[0]
    assert settings["layers"] == [16] and settings["batch_size"] == 8 and settings["trade_off"] == 0.5
    assert [r["labelled"] for r in read_records(first / "records.jsonl") if r["event"] == "round"] == [0, 3]

    start = str(first / "start")
    assert defaults(["--start", start]).batch_size == 8
    assert defaults(["--start", start]).trade_off == 0.5
    argv = [
        "--start",
        start,
        "--steps-per-round",
        "4",
        "--budget",
        "3",
        "--rounds",
        "1",
        "--quiet",
        "--strategy",
        "entropy",
    ]
    assert active("run", *argv, "--run", str(second)) == 0
    assert not (second / "start").exists()
    of_round = read_records(second / "round_01" / "records.jsonl")[0]
    assert of_round["batch_size"] == 8 and of_round["trade_off"] == 0.5 and of_round["steps"] == 4


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--strategy", "margn"], 'did you mean "margin"'),
        (["--strategy", "margin@2"], "a number from 0 to 1"),
        (["--budget", "0"], "at least 1"),
        (["--start", "nowhere"], "nowhere does not exist"),
        (["--cache-backbone", "--steps", "1"], "nothing to cache"),
        (["--budget", "5.5"], "or a share of the pool, as 5%"),
        (["--budget", "30%"], "lower the budget or the rounds"),
        (["--rounds", "0"], "at least 1"),
        (["--steps-per-round", "0"], "at least 1"),
        (["--retrain", "scracth"], 'did you mean "scratch"'),
        (["--optimizer", "adm"], 'did you mean "adam"'),
        (["--epochs", "3"], "name both, or neither"),
        (["--query-epochs", "2", "1", "--epochs", "3"], "rising epochs"),
        (["--query-epochs", "2", "--epochs", "2"], "epochs must be more than 2"),
        (["--query-epochs", "1", "--epochs", "2", "--rounds", "1"], "--rounds cannot be used with --query-epochs"),
        (
            ["--query-epochs", "1", "--epochs", "2", "--steps-per-round", "1"],
            "--steps-per-round cannot be used with --query-epochs",
        ),
        (["--query-epochs", "1", "--epochs", "2", "--steps", "9"], "--steps cannot be used with --query-epochs"),
        (["--query-epochs", "1", "--epochs", "2", "--retrain", "scratch"], "retrain cannot be scratch"),
        (["--labelled-domain", "source", "--trade-off", "0"], "nothing is aligned"),
        (["--query-epochs", "1", "--epochs", "2", "--run", "/dev/null/run"], "cannot be written"),
        (["--method", "mme", "--layers", "--steps", "1", "--batch-size", "8"], "needs a hidden layer"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert active("run", *argv, "--quiet") == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_share_of_the_pool_and_a_way_to_train_between(tmp_path: Path) -> None:
    """1 % of 1,197 scans is 12, rounded up; what the flags say is what the rounds are trained with."""
    flags = ["--budget", "1%", "--retrain", "continue", "--labelled-domain", "source", "--method", "mme"]
    small = [word for word in SMALL if word not in ("--budget", "3")]
    assert active("run", *small, *flags, "--optimizer", "adam", "--run", str(tmp_path)) == 0
    settings, *records = read_records(tmp_path / "records.jsonl")
    assert (settings["budget"], settings["retrain"], settings["labelled_domain"]) == (12, "continue", "source")
    assert [record["labelled"] for record in records] == [0, 12]
    of_round = read_records(tmp_path / "round_01" / "records.jsonl")[0]
    assert (of_round["optimizer"], of_round["method"], of_round["labelled_domain"]) == ("adam", "mme", "source")
    assert (of_round["steps"], of_round["continue_from"]) == (10, "start")  # 4 more than the start's 6


def test_one_training_that_asks_at_epochs(tmp_path: Path) -> None:
    """Batches of 600 make an epoch of two steps. The start is the network as built, and asks nothing itself."""
    flags = ["--query-epochs", "1", "2", "--epochs", "3", "--budget", "3", "--batch-size", "600", "--quiet"]
    assert active("run", *flags, "--layers", "16", "--run", str(tmp_path)) == 0
    settings, *records = read_records(tmp_path / "records.jsonl")
    assert (settings["query_epochs"], settings["epochs"]) == ([1, 2], 3) and "steps_per_round" not in settings
    assert [record["labelled"] for record in records] == [0, 3, 6]
    steps = [read_records(tmp_path / f"round_0{number}" / "records.jsonl")[0]["steps"] for number in range(3)]
    assert steps == [2, 4, 6]
    start = read_records(tmp_path / "start" / "records.jsonl")[0]
    assert start["steps"] == 0 and start["task"] == "rendered2digits" and start["layers"] == [16]
    built = build_network(load_pair("rendered2digits"), seed=0, layers=(16,)).state_dict()
    kept = load_model(tmp_path / "start").state_dict()
    assert all(torch.equal(kept[name], built[name]) for name in built)
    before = read_records(tmp_path / "records.jsonl")
    assert active("run", *flags, "--layers", "16", "--run", str(tmp_path)) == 0  # done: nothing is made again
    assert read_records(tmp_path / "records.jsonl") == before


def start_of(folder: Path, frozen: tuple[str, ...]) -> Path:
    task = load_pair("rendered2digits")
    torch.manual_seed(0)
    model = DAN("lenet", 10, layers=(16,), frozen=frozen)
    recipe = TrainConfig(batch_size=8, evaluate_every=100, feature_map=False)
    fit(model, task.source, task.target, trade_off=1.0, steps=8, seed=0, config=recipe, run=folder)
    return folder


def test_rounds_on_a_cached_backbone_are_the_rounds_without(tmp_path: Path) -> None:
    start = start_of(tmp_path / "start", ("conv1", "conv2"))

    def rounds(folder: str, **options: Any) -> list[dict[str, Any]]:
        plan, task = (
            RoundsConfig(budget=4, num_rounds=2, steps_per_round=5, trade_off=1.0),
            load_pair("rendered2digits"),
        )
        return list(run_rounds(task, "margin", plan, start=start, seed=0, run=tmp_path / folder, **options))

    plain, kept = rounds("plain"), rounds("kept", cache=tmp_path / "backbones")
    assert [r["queried"] for r in kept] == [r["queried"] for r in plain]
    for a, b in zip(plain, kept, strict=True):
        assert b["accuracy/target_test"] == pytest.approx(a["accuracy/target_test"], abs=0.005)
    weights = [
        torch.load(tmp_path / f / "round_02" / "model.pt", weights_only=True)["weights"] for f in ("plain", "kept")
    ]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])
    assert list((tmp_path / "backbones").glob("*.npy"))


def test_a_start_brings_its_network_and_a_backbone_that_trains_has_no_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_of(tmp_path / "start", ())
    recipe = TrainConfig(batch_size=8)
    with pytest.raises(UserError, match="nothing to cache"):
        next(
            run_rounds(
                load_pair("rendered2digits"),
                "margin",
                RoundsConfig(budget=1, num_rounds=1, steps_per_round=1, trade_off=0.0),
                start=start,
                seed=0,
                run=tmp_path / "run",
                config=recipe,
                cache=True,
            )
        )
    settings = read_records(start / "records.jsonl")[0]
    assert "task" not in settings  # fit() alone does not know the task's name
    assert active("run", "--start", str(start)) == 2
    assert '"task"' in capsys.readouterr().err
    assert active("run", *SMALL, "--run", str(tmp_path / "whole")) == 0
    assert active("run", "--start", str(tmp_path / "whole" / "start"), "--layers", "32") == 2
    assert "--layers describes a new network" in capsys.readouterr().err
