"""Tests of the ways to transfer: the plan, the findings from records alone, and the command itself on a few steps."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from dan.cli.command_line import run
from dan.cli.train import Train, preset
from dan.data.tasks import SOURCE_COUNT
from dan.models.model_file import load_model
from dan.run_dir import read_records
from dan.source_free import read_kept
from experiments import approaches
from experiments.approaches import (
    APPROACHES,
    COUNTS,
    DAN,
    FROZEN,
    FULL,
    KEPT,
    SOURCE,
    SOURCE_ONLY,
    WHOLE,
    Approaches,
    kept_row,
)
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.reporting import markdown
from experiments.framework.reporting.tables import machines, mean_of, signed, told
from experiments.framework.trials import _work, slug, with_prerequisites


def record(method: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    made = {"experiment": "approaches", "task": "rendered2digits", "network": "lenet", "method": method, "labels": 0}
    made |= {"seed": seed, "selection": "last", "command": "c", "command_of_all": "python all", "steps": 5}
    made |= {"trade_off": 3.0, "lr": 0.01, "seconds": 2.0, "accuracy/target": value - 0.1}
    return made | {"accuracy/target_test": value} | more


# --- cells of tables --------------------------------------------------------------------------------------------------


def test_cells_are_mean_and_sample_deviation() -> None:
    assert told({0: 1.0, 1: 3.0}) == "2.0 ± 1.4" and told({0: 1.0, 1: 3.0}, 0) == "2 ± 1"
    assert told({4: 7.25}, 2) == "7.25" and told({}) == told(None) == "–"
    assert mean_of({0: 1.0, 1: 3.0}) == 2.0 and mean_of({}) is mean_of(None) is None
    assert (signed(-1.25), signed(2.0), signed(None)) == ("−1.2", "+2.0", "–")
    assert markdown.table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |\n"


def test_every_machine_and_commit_is_told_once() -> None:
    made = {"torch": "2", "python": "3", "processor": "P"}
    facts = dict(machines([{**made, "commit": "b"}, {**made, "commit": "a"}, {**made, "commit": ""}, {}]))
    assert facts == {"Measured on": "PyTorch 2, Python 3, P; one thread a trial", "Commit": "a, b"}


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_row_is_a_command_line_of_its_own(tmp_path: Path) -> None:
    seen = set()
    for row, made in APPROACHES.items():
        words = ["rendered2digits", *made.options.split(), *made.keep.split()]
        typed = [str(tmp_path) if word == SOURCE else word for word in words]  # a run is a folder
        config = tyro.cli(Train, args=typed, default=preset(typed))
        seen.add(tuple(words))
        assert config.trade_off == (0.0 if row == SOURCE_ONLY else 3.0)
        assert made.starts == (SOURCE in words or KEPT in words)
        assert (KEPT in words) == (config.coreset_size > 0)
    assert len(seen) == len(APPROACHES) == 6 + 2 * (1 + len(COUNTS)) + 3 + 2
    assert WHOLE == SOURCE_COUNT


def test_what_starts_from_a_run_waits_for_it_in_its_own_part() -> None:
    parts = [with_prerequisites(part) for part in parts_of(approaches.cells(Approaches()), (0, 1, 2))]
    assert [len(part) for part in parts] == [len(APPROACHES)] * 3
    for seed, part in enumerate(parts):
        names = {trial.name for trial in part}
        assert len(names) == len(part) and {trial.arguments["seed"] for trial in part} == {seed}
        for trial in part:
            after = (f"source_only-seed{seed}",) if APPROACHES[_row(trial.name)].starts else ()
            assert tuple(before.name for before in trial.after) == after and set(after) <= names
    # A row alone brings the run that it starts from, and DAN alone brings nothing.
    alone = [
        with_prerequisites(approaches.cells(Approaches(methods=(row,), seeds=(4,)))[0].trials) for row in (FROZEN, DAN)
    ]
    assert [[trial.name for trial in part] for part in alone] == [
        ["source_only-seed4", "frozen_trunk-seed4"],
        ["dan-seed4"],
    ]


def _row(name: str) -> str:
    return next(row for row in APPROACHES if slug(row) == name.split("-seed")[0])


@pytest.mark.parametrize("row", [DAN, kept_row("fc1", 50)])
def test_the_command_of_a_cell_reads_back_as_that_cell(row: str) -> None:
    config = Approaches(steps=7)
    words = shlex.split(running.command_of(config, methods=row))
    assert words[:5] == ["python", "-m", "experiments", "run", "approaches"]
    assert tyro.cli(Approaches, args=words[5:]) == replace(config, methods=(row,))
    quick = running.reduced(Approaches(quick=True, steps=9))
    assert (quick.seeds, quick.steps, quick.folder) == ((0,), 9, Path("runs/approaches_quick"))
    assert running.command_of(quick) == "python -m experiments run approaches --quick --steps 9"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "frozen trnk"], 'did you mean "frozen trunk"'),
        (["--methods", DAN, DAN], "twice"),
        (["--seeds", "1", "1"], "--seeds"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["approaches", *flags, "--out", str(tmp_path / "run")]
    assert run("experiments", "", {"approaches": approaches.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the report, from records alone -----------------------------------------------------------------------------------


def fabricated(frozen: float, kept: float) -> list[dict[str, Any]]:
    """Two seeds: source-only 50 and 52 %, DAN 30 points above, full fine-tuning 80 and 84; the rest as said."""
    records = []
    for seed in (0, 1):
        records += [record(SOURCE_ONLY, seed, 0.50 + 0.02 * seed), record(DAN, seed, 0.80 + 0.02 * seed)]
        records += [record(FULL, seed, 0.80 + 0.04 * seed), record(FROZEN, seed, frozen + 0.02 * seed)]
        records.append(record(kept_row("fc1", WHOLE), seed, 0.70 + 0.04 * seed))
        records += [record(kept_row("fc1", count), seed, kept + 0.02 * seed) for count in COUNTS]
    records += [record("1 label a class", 0, 0.9, labels=10, **{"accuracy/unqueried": 0.85})]
    return records


def test_the_report_has_rows_in_order_and_the_options_of_each(tmp_path: Path) -> None:
    write_text(tmp_path / "records.jsonl", to_lines(fabricated(0.70, 0.68)[::-1]))
    assert approaches.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    headers, lines = approaches.accuracy_table(read(tmp_path / "records.jsonl"))
    table = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert list(table) == [row for row in APPROACHES if row in table]
    assert table[SOURCE_ONLY]["test"] == "51.0 ± 1.4" and table[SOURCE_ONLY]["target"] == "41.0 ± 1.4"
    assert (table[SOURCE_ONLY]["worst"], table[SOURCE_ONLY]["n"]) == ("40.0", "2")
    assert (table["1 label a class"]["unqueried"], table[DAN]["unqueried"]) == ("85.0", "–")
    assert table[kept_row("fc1", 50)][headers[-1]] == "--coreset-size 50 --coreset-stage fc1, then --source-free KEPT"
    assert table[DAN][headers[-1]] == "none"
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        cells = {(row["method"], row["split"]): row["mean"] for row in csv.DictReader(file)}
    assert cells[FROZEN, "test"] == "71.0000" and cells["1 label a class", "unqueried"] == "85.0000"
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("- From scratch: source-only 51.0 %; DAN +30.0 ± 0.0 points.\n")
    assert "`python all`" in text and (tmp_path / "figures" / "approaches.png").stat().st_size > 1000
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_records_decide_what_freezing_and_a_core_set_cost() -> None:
    said = approaches.findings(fabricated(0.70, 0.68))
    assert f"{FULL} 82.0 %; frozen trunk −11.0 ± 1.4 points" in said[1]
    assert f"{kept_row('fc1', WHOLE)} 72.0 %; " in said[2] and said[2].count("−3.0 ± 1.4") == len(COUNTS)
    assert "DAN 81.0 %; 1 label a class +10.0 points" in said[3]  # of the one seed that both have
    assert len(said) == 4 and "conv2" not in " ".join(said)


def test_half_a_run_says_only_what_it_has() -> None:
    assert approaches.findings([record(FROZEN, 0, 0.5)]) == approaches.findings([record(FULL, 0, 0.5)]) == []
    only = [record(kept_row("conv2", count), 0, value) for count, value in ((WHOLE, 0.7), (50, 0.6))]
    (said,) = approaches.findings(only)
    assert f"{kept_row('conv2', WHOLE)} 70.0 %; {kept_row('conv2', 50)} −10.0 points" in said


# --- the command itself -----------------------------------------------------------------------------------------------


def test_a_tiny_run_is_the_command_and_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, rows = tmp_path / "run", (FROZEN, kept_row("conv2", 50), "1 label a class")
    flags = ["--seeds", "3", "--steps", "2", "--out", str(out), "--quiet", "--methods", *rows]
    planned = approaches.cells(tyro.cli(Approaches, args=flags))
    for trial in with_prerequisites([trial for cell in planned for trial in cell.trials]):  # as a worker would
        finished, result = _work(trial, out)
        assert finished, result
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert len(before) == 4
    assert run("experiments", "", {"approaches": approaches.EXPERIMENT.command}, ["approaches", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| frozen trunk |" in capsys.readouterr().out

    records = {each["method"]: each for each in read(out / "records.jsonl")}
    assert list(records) == list(rows)  # source-only was trained for the others, and was not asked for
    assert [each["labels"] for each in records.values()] == [0, 0, 10]
    assert "accuracy/unqueried" in records[rows[2]] and "accuracy/unqueried" not in records[FROZEN]
    settings = {row: read_records(out / f"{slug(row)}-seed3" / "records.jsonl")[0] for row in rows}
    assert all((made["steps"], made["seed"], made["trade_off"]) == (2, 3, 3.0) for made in settings.values())

    # The frozen trunk, and the frozen stages of the network that was adapted without the source, are source-only's.
    start = load_model(out / f"{slug(SOURCE_ONLY)}-seed3").state_dict()
    frozen, free = (load_model(out / f"{slug(row)}-seed3").state_dict() for row in rows[:2])
    same = {name for name, value in start.items() if torch.equal(value, frozen[name])}
    assert {name for name in start if name.startswith("backbone.")} <= same and "output.weight" not in same
    kept = read_kept(out / f"{slug(rows[1])}-seed3" / "kept")
    assert (len(kept.y), int(kept.counts.sum()), kept.after_stages) == (50, WHOLE, 2)
    moved = {name.split(".")[1] for name, value in start.items() if "backbone" in name and not value.equal(free[name])}
    assert moved == {"fc1"}
