"""python -m active run: its start, what it takes from one that is there, a frozen trunk's cache, and its complaints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from active.__main__ import COMMANDS
from active.doors.run import defaults
from active.with_dan import run_rounds
from dan import DAN, fit
from dan.cli import run
from dan.domains.tasks import load_task
from dan.errors import UserError
from dan.run_folder import read_records
from dan.training import Recipe

SMALL = ["--batch-size", "8", "--steps", "6", "--round-steps", "4", "--budget", "3", "--rounds", "1", "--quiet"]


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
        "--round-steps",
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
        (["--cache-trunk", "--steps", "1"], "nothing to cache"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert active("run", *argv, "--quiet") == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def start_of(folder: Path, frozen: tuple[str, ...]) -> Path:
    task = load_task("rendered2digits")
    torch.manual_seed(0)
    model = DAN("lenet", 10, layers=(16,), frozen=frozen)
    recipe = Recipe(batch_size=8, evaluate_every=100, feature_map=False)
    fit(model, task.source, task.target, trade_off=1.0, steps=8, seed=0, recipe=recipe, run=folder)
    return folder


def test_rounds_on_a_cached_trunk_are_the_rounds_without(tmp_path: Path) -> None:
    start = start_of(tmp_path / "start", ("conv1", "conv2"))

    def rounds(folder: str, **options: Any) -> list[dict[str, Any]]:
        plan: dict[str, Any] = {"budget": 4, "rounds": 2, "round_steps": 5, "trade_off": 1.0, "seed": 0}
        task = load_task("rendered2digits")
        return list(run_rounds(task, "margin", start=start, run=tmp_path / folder, **plan, **options))

    plain, kept = rounds("plain"), rounds("kept", cache=tmp_path / "trunks")
    assert [r["asked"] for r in kept] == [r["asked"] for r in plain]
    for a, b in zip(plain, kept, strict=True):
        assert b["accuracy/target_test"] == pytest.approx(a["accuracy/target_test"], abs=0.005)
    weights = [
        torch.load(tmp_path / f / "round_02" / "model.pt", weights_only=True)["weights"] for f in ("plain", "kept")
    ]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])
    assert list((tmp_path / "trunks").glob("*.npy"))


def test_a_start_brings_its_network_and_a_trunk_that_trains_has_no_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_of(tmp_path / "start", ())
    recipe = Recipe(batch_size=8)
    with pytest.raises(UserError, match="nothing to cache"):
        next(
            run_rounds(
                load_task("rendered2digits"),
                "margin",
                start=start,
                budget=1,
                rounds=1,
                round_steps=1,
                trade_off=0.0,
                seed=0,
                run=tmp_path / "run",
                recipe=recipe,
                cache=True,
            )
        )
    settings = read_records(start / "records.jsonl")[0]
    assert "task" not in settings  # fit() alone does not know the task's name
    assert active("run", "--start", str(start)) == 2
    assert '"task"' in capsys.readouterr().err
    assert active("run", *SMALL, "--run", str(tmp_path / "whole")) == 0
    assert active("run", "--start", str(tmp_path / "whole" / "start"), "--layers", "32") == 2
    assert "--layers is of a new network" in capsys.readouterr().err
