"""active_adaptation: its plan, its one training against `run_rounds`, the oracle by definition, its page."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from active.learners.dan import run_rounds
from active.learners.rounds_config import RoundsConfig
from dan.cli.command_line import run
from dan.models.model_file import save_model
from experiments import active_adaptation
from experiments.active_adaptation import (
    NO_LABELS,
    ActiveAdaptation,
    counts_of,
    findings,
    means,
    one_training,
    query_of,
    records_of,
)
from experiments.active_adaptation.trial import OneTraining, begin, query
from experiments.arena.data import Place, load_train_config, network, sides_of
from experiments.framework import options as running
from experiments.framework.experiment import Cell, parts_of
from experiments.framework.records import write
from experiments.framework.trials import Trial, with_prerequisites

TASK = "rendered2digits"
HOW = {"method": "dan", "align": ["fc1", "hidden1", "output"], "lr": 0.01}


def test_the_one_training_on_kept_outputs_of_photographs(data_folder: Path, tmp_path: Path) -> None:
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    if not (data_folder / "office_caltech10").is_dir() or not weights.is_file():
        pytest.skip("needs office_caltech10 and weights/squeezenet1_1_caffe_as_torchvision.pth in the data folder")
    config = ActiveAdaptation(
        data=data_folder, squeezenet_weights=str(weights), image_cache=tmp_path / "images", image_size=32
    )
    config = replace(config, query_epochs=(1, 2), epochs=4)
    task = "office_caltech10_w2d"
    queried = query_of(task, "margin", 0, config)
    for trial in (queried.after[0], queried):
        (tmp_path / trial.name).mkdir()
        made = trial.function(tmp_path / trial.name, **trial.arguments)
    assert made["labels"] == 4 and made["pool"] == 157 and len(made["evaluations"]) == 2
    assert all(0 <= e["accuracy/unqueried"] <= 1 for e in made["evaluations"])


def test_the_one_training_is_that_of_run_rounds(tmp_path: Path) -> None:
    """The same picks and accuracies in every round as `python -m active run --query-epochs`, though the first part of
    the training is made once for all strategies."""
    place = {"data": str(tmp_path), "images": str(tmp_path / "images"), "samples": 130}
    shared: dict[str, Any] = {"place": place, "task": TASK, "how": HOW, "trade_off": 1.0, "seed": 2}
    shared |= {"query_epochs": [1, 2], "epochs": 4}
    begin(tmp_path / "begin", **shared)
    trial = tmp_path / "trial"
    trial.mkdir()
    mine = query(trial, **shared, begun="begin", strategy="margin", budget="3%")
    sides = sides_of(Place(**place), TASK, 2)
    start = tmp_path / "built"
    start.mkdir()
    save_model(start / "model.pt", network(Place(**place), TASK, sides.transfer, 2))
    theirs = run_rounds(
        sides.transfer,
        "margin",
        RoundsConfig(budget="3%", query_epochs=(1, 2), epochs=4, trade_off=1.0),
        start=start,
        seed=2,
        run=tmp_path / "run",
        config=load_train_config(TASK, HOW, 100),
    )
    names = ("round", "labelled", "queried", "accuracy/target", "accuracy/unqueried")
    records = list(theirs)
    assert [{n: r[n] for n in names} for r in mine["rounds"]] == [{n: r[n] for n in names} for r in records]
    assert [r["labelled"] for r in records] == [0, 4, 8] and mine["labels"] == 8 and mine["pool"] == 130
    last = mine["evaluations"][-1]
    for name in ("target", "unqueried", "target_test"):  # evaluated as trained, and as the rounds say
        assert last[f"accuracy/{name}"] == records[-1][f"accuracy/{name}"]
    assert [e["step"] for e in mine["evaluations"]] == [9, 12]  # three batches of 64 an epoch: the third and the fourth
    assert not list(trial.iterdir())
    alone = query(trial, **shared, begun="begin", strategy=None, budget="3%")
    assert (alone["labels"], alone["rounds"]) == (0, []) and len(alone["evaluations"]) == 2


def test_epochs_are_passes_over_the_pool_and_counts_fit_into_half_of_it() -> None:
    shared: dict[str, Any] = {"place": {}, "task": TASK, "how": HOW, "trade_off": 1.0, "seed": 0}
    assert OneTraining(**shared, query_epochs=(1, 2), epochs=4).ends(130) == [3, 6, 12]  # batches of 64
    assert OneTraining(**shared, query_epochs=(), epochs=1).ends(128) == [2]
    assert counts_of(110) == (10, 30, 50) and counts_of(206) == (10, 30, 50, 100) and counts_of(600)[-1] == 300


@pytest.fixture
def config(tmp_path: Path) -> ActiveAdaptation:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    folders: dict[str, Any] = {"data": tmp_path, "squeezenet_weights": str(weights), "image_cache": tmp_path / "images"}
    return ActiveAdaptation(**folders)


def test_the_trials_of_a_seed(config: ActiveAdaptation, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = ("office_caltech10_d2w", TASK)
    monkeypatch.setattr(active_adaptation, "pool_of", lambda task, _: {tasks[0]: 206, TASK: 1000}[task])
    config = replace(config, tasks=tasks, strategies=("random", "aift"), seeds=(0, 1))
    parts = [with_prerequisites(part) for part in parts_of(active_adaptation.cells(config), config.seeds)]
    assert [len(part) for part in parts] == [2 + 1 + 2 * (1 + 3 + 1 + 2)] * 2
    arguments = {trial.name: trial.arguments for trial in parts[0]}
    assert arguments[f"{tasks[0]}-counts-aift-seed0"]["budget"] == ["10", "20", "20", "50"]
    assert arguments[f"{TASK}-counts-random-seed0"]["budget"] == ["10", "20", "20", "50", "100", "100"]
    assert arguments[f"{tasks[0]}-5-aift-seed0"]["place"]["held_out"] == 0.0  # the pool of 5% is the whole target
    assert "held_out" not in arguments[f"{tasks[0]}-start-seed0"]["place"]
    assert arguments[f"{TASK}-5-DAN-seed0"]["strategy"] is None
    only, rest = (replace(config, protocol=name) for name in ("5%", "counts"))  # type: ignore[arg-type]
    for one, words in ((only, "-counts-"), (rest, "-5-")):
        names = [trial.name for cell in active_adaptation.cells(one) for trial in cell.trials]
        assert names and not [name for name in names if words in name]


def test_the_command_of_a_cell_reads_back_as_that_cell() -> None:
    config = ActiveAdaptation(epochs=40, query_epochs=(10, 12, 14, 16, 18))
    words = shlex.split(running.command_of(config, tasks=TASK, protocol="5%", strategies="clue"))
    assert tyro.cli(ActiveAdaptation, args=words[5:]) == replace(
        config, tasks=(TASK,), protocol="5%", strategies=("clue",)
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "rendered2digit"], 'did you mean "rendered2digits"'),
        (["--strategies", "cleu"], 'did you mean "clue"'),
        (["--strategies", "outliers"], "holds out no source"),
        (["--query-epochs", "3", "2"], "rising epochs"),
        (["--epochs", "9"], "more than the last"),
        (["--seeds", "100"], "hyper-parameters"),
        (["--samples", "5"], "--samples must be 100"),
        (["--steps-per-round", "0"], "--steps-per-round"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["active_adaptation", *flags, "--out", str(tmp_path / "run"), "--data", str(tmp_path), "--quiet"]
    assert run("experiments", "", {"active_adaptation": active_adaptation.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def made_records(method: str, seed: int, last: float, best: float, task: str = TASK) -> list[dict[str, Any]]:
    """The records of one training that is evaluated after three epochs."""
    evaluations = [
        {"step": i, **dict.fromkeys(("accuracy/target", "accuracy/unqueried"), value)}
        for i, value in enumerate((best - 0.1, best, last))
    ]
    result = {"evaluations": evaluations, "labels": 0 if method == NO_LABELS else 8, "pool": 130, "cpu_seconds": 1.0}
    trial = Trial("one", query, {"seed": seed})
    about = {"experiment": "active_adaptation", "task": task, "network": "lenet, one training", "method": method}
    about |= {"paper": None, "provenance": "", "protocol": "5%", "command": "one", "command_of_all": "all"}
    return records_of(Cell(about=about, only={}, trials=[trial]), trial, {"one": {**result, "measured_on": {}}})


def fabricated(task: str = TASK) -> list[dict[str, Any]]:
    methods = {NO_LABELS: 0.5, "random": 0.6, "clue": 0.7}
    pairs = [(method, last, seed) for method, last in methods.items() for seed in (0, 1)]
    return [r for method, last, seed in pairs for r in made_records(method, seed, last + 0.02 * seed, 0.8, task)]


def test_the_oracle_is_the_best_epoch_and_is_recorded_beside_the_last() -> None:
    last, oracle = made_records("random", 3, 0.6, 0.8)
    assert (last["selection"], last["step"], last["accuracy/target"], last["seed"]) == ("last", 2, 0.6, 3)
    assert (oracle["selection"], oracle["step"], oracle["accuracy/target"]) == ("oracle", 1, 0.8)
    headers, lines = one_training(fabricated())
    rows = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert list(rows) == [NO_LABELS, "random", "clue"]
    assert rows["clue"]["target"] == "71.0 ± 1.4" and rows["clue"]["over random"] == "+10.0"
    assert rows["clue"]["oracle, target"] == "80.0 ± 0.0" and rows["random"]["over random"] == "–"


def test_means_are_of_seeds_that_have_every_transfer() -> None:
    other = [r for r in fabricated("other") if (r["method"], r["seed"]) != ("clue", 1)]
    found = means([r for r in [*fabricated(), *other] if r["selection"] == "last"], "target")
    assert set(found["random"]) == {0, 1} and set(found["clue"]) == {0}
    assert found["clue"][0] == pytest.approx(70)


def test_the_report_is_made_of_records_alone(tmp_path: Path) -> None:
    write(tmp_path, fabricated())
    assert active_adaptation.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    (said,) = findings(fabricated())
    assert (
        "best clue 71.0" in said
        and "worst random 61.0" in said
        and "random 61.0 (2 of 2)" in said
        and "DAN" not in said
    )
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith(f"- {said}")
    own = [record for seed in (0, 1) for record in made_records("hybrid", seed, 0.65 + 0.02 * seed, 0.8)]
    (with_own,) = findings([*fabricated(), *own])
    assert "hybrid 66.0 (2 of 3), random 61.0 (3 of 3)" in with_own
