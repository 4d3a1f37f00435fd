"""clue_digits: its plan, its complaints, its sentences from records alone, and a tiny run of its trials."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from active.round_files import read_rounds
from dan.cli.command_line import run
from dan.run_dir import read_records
from experiments import clue_digits
from experiments.__main__ import experiment_named
from experiments.clue_digits import BATCH, STRATEGIES, TASKS, ClueDigits, finding, load_train_config, report_of
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.trials import _work, with_prerequisites


def record(strategy: str, seed: int, labels: int, value: float, task: str = "mnist2usps") -> dict[str, Any]:
    made: dict[str, Any] = {"experiment": "clue_digits", "task": f"digits_{task}", "network": "lenet"}
    made |= {"method": strategy, "labels": labels, "seed": seed, "selection": "last", "command": "one"}
    made |= {"command_of_all": "all", "steps": 500, "steps_per_round": 150, "pool": 7291, "samples": 10_000}
    made |= {"trade_off": 0.0, "adapts": "mme", "seconds": 2.0, "round": labels // 30}
    return made | {"accuracy/target": value + 0.01, "accuracy/unqueried": value, "accuracy/target_test": value - 0.01}


def fabricated(others: dict[str, float]) -> list[dict[str, Any]]:
    """random: 60 % and 62 % on seeds 0 and 1, at 0 labels 50 %; the others so many points above it at 30 labels."""
    records = []
    for seed in (0, 1):
        for strategy, above in {"random": 0.0, **others}.items():
            records += [record(strategy, seed, 0, 0.5), record(strategy, seed, 30, 0.60 + 0.02 * seed + above)]
    return records


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_strategy_of_a_seed_starts_from_the_same_source_model() -> None:
    parts = [with_prerequisites(part) for part in parts_of(clue_digits.cells(ClueDigits()), (0, 1, 2))]
    assert [len(part) for part in parts] == [len(TASKS) * (1 + len(STRATEGIES))] * 3
    names = [trial.name for part in parts for trial in part]
    assert len(set(names)) == len(names) == 60
    for first, *asked in (part[i : i + 10] for part in parts for i in (0, 10)):
        assert all(trial.after == (first,) for trial in asked) and first.after == ()
        assert {trial.arguments["start"] for trial in asked} == {first.name}
        assert {trial.arguments["seed"] for trial in asked} == {first.arguments["seed"]}
        assert [trial.arguments["strategy"] for trial in asked] == list(STRATEGIES)
    assert experiment_named("clue_digits").options is ClueDigits


def test_the_published_training_is_adam_at_a_constant_rate() -> None:
    recipe = load_train_config(7, "mme")
    assert (recipe.optimizer, recipe.lr, recipe.lr_gamma, recipe.schedule) == ("adam", 2e-4, 0.0, "constant")
    assert (recipe.batch_size, recipe.head_lr_mult, recipe.weight_decay) == (BATCH, 1.0, 1e-5) == (128, 1.0, 1e-5)
    assert (recipe.method, recipe.evaluate_every) == ("mme", 7)


def test_the_command_of_a_cell_reads_back_as_that_cell() -> None:
    config = ClueDigits(budget="1%", epochs=2, samples=0)
    words = shlex.split(running.command_of(config, tasks="usps2mnist", strategies="clue"))
    read_back = tyro.cli(ClueDigits, args=words[5:])
    assert read_back == replace(config, tasks=("usps2mnist",), strategies=("clue",))
    quick = running.reduced(ClueDigits(quick=True))
    assert (quick.seeds, quick.samples, quick.strategies) == ((0,), 500, ("random", "margin"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "mnist2ups"], 'did you mean "mnist2usps"'),
        (["--strategies", "cleu"], 'did you mean "clue"'),
        (["--strategies", "clue", "clue"], "different names"),
        (["--method", "mmee"], 'did you mean "mme"'),
        (["--seeds", "1", "1"], "--seeds"),
        (["--steps", "0"], "--steps"),
        (["--steps-per-round", "0"], "--steps-per-round"),
        (["--epochs", "-1"], "--epochs"),
        (["--samples", "10"], "--samples must be 200 or more"),
        (["--budget", "some"], "share of the pool"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["clue_digits", *flags, "--out", str(tmp_path / "run")]
    assert run("experiments", "", {"clue_digits": clue_digits.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the report, from records alone -----------------------------------------------------------------------------------


def test_gains_are_over_random_on_the_same_seed_and_images() -> None:
    (said,) = finding(fabricated({"clue": 0.05, "margin": -0.03}), "mnist2usps")
    assert "30 labels" in said and "random 61.0 %" in said
    assert "best clue +5.0 ± 0.0, worst margin −3.0 ± 0.0; below it: margin." in said
    assert finding(fabricated({}), "mnist2usps") == []  # random alone: nothing to say
    (said,) = finding(fabricated({"badge": 0.01}), "mnist2usps")
    assert "best badge +1.0 ± 0.0, worst badge +1.0 ± 0.0; below it: none." in said


def test_a_report_has_a_table_a_transfer_and_says_how_it_was_measured() -> None:
    records = fabricated(dict.fromkeys(STRATEGIES[1:], 0.01))
    other = [{**each, "task": "digits_usps2mnist"} for each in records]
    made = report_of([*other, *records])
    assert [heading for heading, _ in made.tables] == ["MNIST->USPS, LeNet", "USPS->MNIST, LeNet"]
    assert len(made.findings) == 2
    headers, lines = made.tables[0][1]
    table = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert list(table) == list(STRATEGIES) and table["random"]["unqueried"] == "61.0 ± 1.4"
    (panels,) = {len(drawn.figure.axes) for drawn in made.figures}
    assert panels == 2 and all(len(axes.lines) == 9 for axes in made.figures[0].figure.axes)
    assert "no alignment" in made.captions[1] and "10,000" in made.captions[1]
    aligned = report_of([each | {"trade_off": 0.1} for each in records])
    assert "mme at trade-off 0.1" in aligned.captions[1] and len(aligned.tables) == 1


def test_the_report_is_made_of_records_alone(tmp_path: Path) -> None:
    records = fabricated({"clue": 0.05})
    write_text(tmp_path / "records.jsonl", to_lines(records))
    assert clue_digits.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("- MNIST->USPS, 30 labels") and "`all`" in text
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["test.png", "unqueried.png"]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        cells = {(r["method"], r["labels"], r["split"], r["metric"]): r["mean"] for r in csv.DictReader(file)}
    assert cells["clue", "30", "unqueried", "accuracy"] == "66.0000" and cells["clue", "30", "target", "alc"]
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- the experiment itself --------------------------------------------------------------------------------------------


def test_a_tiny_run_and_a_share_of_epochs(tmp_path: Path, data_folder: Path) -> None:
    """200 images: an epoch of the pool is two batches. The rounds' own files stand in the trial's folder."""
    out = tmp_path / "run"
    flags = ["--tasks", "usps2mnist", "--strategies", "margin", "--seeds", "3", "--steps", "2", "--samples", "200"]
    flags += ["--rounds", "1", "--epochs", "1", "--budget", "2%", "--method", "mme", "--trade-off", "0.1"]
    flags += ["--data", str(data_folder), "--out", str(out), "--image-cache", str(tmp_path / "images"), "--quiet"]
    planned = clue_digits.cells(tyro.cli(ClueDigits, args=flags))
    for trial in with_prerequisites([trial for cell in planned for trial in cell.trials]):  # as a worker would
        finished, result = _work(trial, out)
        assert finished, result
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert len(before) == 2
    assert run("experiments", "", {"clue_digits": clue_digits.EXPERIMENT.command}, ["clue_digits", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    records = read(out / "records.jsonl")
    assert [each["labels"] for each in records] == [0, 4] and {each["steps_per_round"] for each in records} == {2}
    place = out / "usps2mnist-margin-seed3"
    assert [file.record["labelled"] for file in read_rounds(place)] == [0, 4]
    settings = read_records(place / "round_01" / "records.jsonl")[0]
    assert (settings["optimizer"], settings["method"], settings["trade_off"]) == ("adam", "mme", 0.1)
    assert (settings["steps"], settings["labelled"], settings["batch_size"]) == (2, 4, 128)
    assert all(0 <= each[f"accuracy/{split}"] <= 1 for each in records for split in ("target", "unqueried"))
