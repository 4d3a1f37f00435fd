"""margin_sweep: labels needed by definition, its plan and complaints, its sentences from records alone, a tiny run."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st
from made_cifar10 import write_made

from active.pool import Pool, Query
from active.round_files import read_rounds
from active.strategies import get_strategy
from dan.cli.command_line import run
from dan.data.cifar10 import Splits
from experiments import margin_sweep
from experiments.cifar10 import NETWORKS, DataPaths, Training
from experiments.cifar10.learner import shifted, started, train
from experiments.cifar10.networks import network
from experiments.framework.experiment import parts_of
from experiments.framework.measurements import labels_to
from experiments.framework.options import command_of, reduced
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.trials import _work
from experiments.margin_sweep import (
    FOREST,
    METHODS,
    SHARES,
    MarginSweep,
    cells,
    findings,
    needed,
    rows_of,
    sweep,
    table_of,
    trend,
)

COUNTS = (1000, 2000, 3000)
HOW = {"epochs": 10, "optimizer": "adam", "lr": 1e-3, "batch_size": 64}


def curve(method: str, seed: int, values: tuple[float, ...]) -> list[dict[str, Any]]:
    """The records of one trial, accuracies in percent at COUNTS labels."""
    records = []
    for labels, value in zip(COUNTS, values, strict=True):
        made: dict[str, Any] = {"experiment": "margin_sweep", "task": "cifar10", "network": "narrow_cnn", "how": HOW}
        made |= {"method": method, "labels": labels, "seed": seed, "selection": "last", "command": "one", "paper": None}
        made |= {"command_of_all": "all", "target_accuracy": 50.0, "pool": 10_000, "test_images": 5_000, "start": 1000}
        made |= {"budget": 1000, "seconds": 2.0, "accuracy/target": value / 100 + 0.1, "accuracy/validation": 0.4}
        records.append(made | {"accuracy/unqueried": value / 100 + 0.05, "accuracy/target_test": value / 100})
    return records


def fabricated() -> list[dict[str, Any]]:
    """random needs 2,500 and 2,700 labels, half margin 2,000 and 2,200, margin 1,500 and 1,700."""
    records = []
    for seed in (0, 1):
        records += curve("margin", seed, (45 - 2 * seed, 55 - 2 * seed, 60.0))
        records += curve("random", seed, (40.0, 45 - 2 * seed, 55 - 2 * seed))
        records += curve("margin@0.5", seed, (40.0, 50 - 2 * seed, 60 - 2 * seed))
    return records


# --- labels needed ----------------------------------------------------------------------------------------------------


def test_labels_needed_by_hand() -> None:
    assert labels_to([1000, 2000, 3000], [40, 45, 55], 50) == 2500
    assert labels_to([1000, 2000], [50, 60], 50) == 1000  # there already
    assert labels_to([1000, 2000], [40, 50], 50) == 2000
    assert labels_to([1000, 2000, 3000, 4000], [40, 60, 45, 70], 50) == 1500  # the first time, though it falls again
    assert labels_to([1000, 2000], [40, 49.9], 50) is None
    for labels, values in (([], []), ([2, 1], [1, 2]), ([1, 2], [1])):
        with pytest.raises(ValueError, match="increasing"):
            labels_to(labels, values, 50)


@given(slope=st.floats(0.001, 1), start=st.floats(0, 49), step=st.integers(1, 500))
def test_on_a_straight_line_the_answer_is_its_own(slope: float, start: float, step: int) -> None:
    """a(n) = start + slope n reaches 50 at (50 - start) / slope, whatever the grid."""
    exact = (50 - start) / slope
    grid = [0, *(step * i for i in range(1, int(exact / step) + 3))][:3000]
    found = labels_to(grid, [start + slope * n for n in grid], 50)
    if grid[-1] < exact - 1e-6:
        assert found is None
    elif grid[-1] > exact + 1e-6:
        assert found == pytest.approx(exact, rel=1e-6, abs=1e-6)


# --- training ---------------------------------------------------------------------------------------------------------


def test_shifts_are_crops_of_the_padded_image_by_a_plain_loop() -> None:
    x = torch.randn(40, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    moved = shifted(x, torch.Generator().manual_seed(1), pad=2)
    again = torch.Generator().manual_seed(1)
    draws = torch.randint(5, (2, 40), generator=again)
    mirrored = torch.randint(2, (40,), generator=again).bool()
    for i in range(40):
        padded = torch.zeros(2, 10, 9)
        padded[:, 2:8, 2:7] = x[i]
        crop = padded[:, draws[0, i] : draws[0, i] + 6, draws[1, i] : draws[1, i] + 5]
        assert torch.equal(moved[i], crop.flip(2) if mirrored[i] else crop)
    assert 5 < int(mirrored.sum()) < 35 and len(set(draws[0].tolist())) == 5


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_made(tmp_path / "data", monkeypatch)


@pytest.fixture
def splits(made: Path, tmp_path: Path) -> Splits:
    return DataPaths(data=str(made), images=str(tmp_path / "images")).splits()


def test_training_learns_and_depends_on_the_seed_alone(splits: Splits) -> None:
    ids, labels = torch.arange(0, 250, 2), splits.train.targets[torch.arange(0, 250, 2)]
    ends = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed + len(ends))  # the global generator has no say
        model = network("narrow_cnn", 5)
        train(model, splits.train, ids, labels, Training(epochs=4, batch_size=20), seed=seed)
        ends.append(model.output.weight.detach())
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    x, y = splits.train.batch(torch.arange(1, 250, 2))
    with torch.no_grad():
        assert float((model(x).logits.argmax(1) == y).double().mean()) > 0.3  # a tenth by chance
    crooked = network("narrow_cnn", 5)
    train(crooked, splits.train, ids, labels, Training(epochs=4, batch_size=20, crop=True), seed=3)
    assert not torch.equal(crooked.output.weight, ends[0])


def test_all_arms_of_a_seed_start_from_the_same_images(splits: Splits) -> None:
    first, same, other = (started(splits, 30, seed) for seed in (1, 1, 2))
    assert torch.equal(first.labelled_ids, same.labelled_ids) and len(first.labelled_ids) == 30
    assert not torch.equal(first.labelled_ids, other.labelled_ids)
    assert torch.equal(first.labels, splits.train.targets[first.labelled_ids])
    assert {first.round_of(i) for i in first.labelled_ids.tolist()} == {0}


def test_a_share_of_none_is_random_and_of_all_is_margin() -> None:
    assert list(SHARES.values()) == pytest.approx([s / 10 for s in range(11)])
    pool = Pool(range(50))
    probs = torch.rand(50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    query = Query(ids=pool.ids, probs=probs / probs.sum(1, keepdim=True))
    for plain, mixed in (("random", "margin@0"), ("margin", "margin@1")):
        picks = [get_strategy(name)(query, 20, generator=torch.Generator().manual_seed(7)) for name in (plain, mixed)]
        assert torch.equal(*picks)
    margin = get_strategy("margin")(query, 6, generator=torch.Generator())
    assert torch.equal(get_strategy("margin@0.3")(query, 20, generator=torch.Generator().manual_seed(7))[:6], margin)


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_plan_has_every_arm_on_every_seed_and_the_forest_once() -> None:
    forests = [cell for cell in cells(MarginSweep()) if cell.about["method"].startswith(FOREST)]
    assert {trial.arguments["seed"] for cell in forests for trial in cell.trials} == {0}
    parts = parts_of(cells(MarginSweep()), (0, 1, 2))
    assert [len(part) for part in parts] == [14, 12, 12]
    names = [trial.name for part in parts for trial in part]
    assert len(set(names)) == len(names)
    for part in parts:
        for trial in part:
            get_strategy(trial.arguments["strategy"])
            assert ("how" in trial.arguments) == (trial.function.__name__ == "curve")
    assert [cell.trials[0].arguments["strategy"] for cell in forests] == ["random", "margin"]


def test_the_full_form_is_one_flag_and_takes_in_every_image() -> None:
    full = reduced(MarginSweep(full=True))
    assert full.start + full.rounds * full.budget == 49_000 and (full.pool, full.test) == (0, 0)
    assert full.network == "small_cnn" and full.folder == Path("runs/margin_sweep_full")
    assert sum(len(cell.trials) for cell in cells(full)) * 49 - 2 * 49 == 12 * 3 * 49  # trainings
    assert command_of(full) == "python -m experiments run margin_sweep --full"
    assert command_of(full, methods="margin").endswith("--full --methods margin")
    config = MarginSweep(epochs=3, target=60.0)
    words = shlex.split(command_of(config, methods=f"{FOREST}margin"))
    assert tyro.cli(MarginSweep, args=words[5:]) == replace(config, methods=(f"{FOREST}margin",))
    words = shlex.split(command_of(reduced(MarginSweep(full=True, rounds=7)), methods="k_center"))
    assert reduced(tyro.cli(MarginSweep, args=words[5:])).rounds == 7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "margine"], 'did you mean "margin"'),
        (["--network", "small_cn"], 'did you mean "small_cnn"'),
        (["--seeds", "1", "1"], "--seeds"),
        (["--epochs", "0"], "--epochs"),
        (["--budget", "0"], "--budget"),
        (["--pool", "10"], "--pool must be 100 or more"),
        (["--target", "100"], "between 0 and 100"),
        (["--device", "gpu"], "unknown device"),
        (["--quick", "--full"], "name one of them"),
        (["--data", "absent"], "absent"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["margin_sweep", *flags, "--out", str(tmp_path / "run")]
    assert run("experiments", "", {"margin_sweep": margin_sweep.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the report, from records alone -----------------------------------------------------------------------------------


def test_the_sentences_say_what_the_records_decide() -> None:
    records = fabricated()
    found = needed(records)
    assert list(found) == ["random", "margin@0.5", "margin"]  # by share, whatever the order of the records
    assert found["random"].by_seed == pytest.approx({0: 2500, 1: 2700})
    assert found["margin"].by_seed == pytest.approx({0: 1500, 1: 1700})
    first, trend_of = findings(records)
    assert all(number in first for number in ("50 %", "fewest margin 1,600 ± 141", "most random 2,600 ± 141"))
    result = trend(found)
    assert result is not None and result[2] == 6 and result[0] == pytest.approx(-0.956, abs=1e-3)
    assert "a larger share needs fewer labels" in trend_of

    flat = [
        r for seed in (0, 1) for m in ("random", "margin@0.5", "margin") for r in curve(m, seed, (40, 48, 52 + seed))
    ]
    assert "no trend" in findings(flat)[-1]


def test_a_trial_that_never_gets_there_is_said_and_enters_no_mean() -> None:
    records = fabricated() + curve("k_center", 0, (40, 45, 49)) + curve("k_center", 1, (40, 45, 55))
    found = needed(records)
    assert found["k_center"].by_seed == pytest.approx({1: 2500}) and found["k_center"].never == [0]
    assert any("50 %" in said and "k_center (not reached by 1 of 2" in said for said in findings(records))
    headers, rows = table_of(records)
    table = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert table["k_center"]["labels to 50 %"] == "not reached by 1 of 2; the others 2,500"
    assert table["margin"]["fewer than random"] == "+1,000" and table["random"]["fewer than random"] == "–"
    assert (table["margin"]["share"], table["k_center"]["share"], table["margin"]["test"]) == (
        "100%",
        "–",
        "60.0 ± 0.0",
    )
    rows_needed = {row.method: row for row in rows_of(records) if row.metric == "labels_to_50"}
    assert set(rows_needed) == {"random", "margin@0.5", "margin"}
    assert (rows_needed["random"].mean, rows_needed["random"].n) == (pytest.approx(2600), 2)
    never = [r for m in METHODS[:3] for r in curve(m, 0, (10, 11, 12))]
    assert sweep(never) is None and trend(needed(never)) is None
    # Of two that never got there none is before the other: they share the last rank.
    assert trend(needed([*fabricated(), *curve("margin@0.1", 0, (1, 2, 3))])) is not None


def test_the_report_is_made_of_records_alone(tmp_path: Path) -> None:
    forest = [r | {"network": "random_forest"} for r in curve(f"{FOREST}margin", 0, (30, 35, 38))]
    for record in forest:
        del record["how"]
    records = fabricated() + forest
    write_text(tmp_path / "records.jsonl", to_lines(records[::-1]))
    assert margin_sweep.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("- Labels to 50 %: fewest margin 1,600") and "`all`" in text
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"sweep.png", "curves_test.png", "curves_unqueried.png"} <= figures
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        cells = {(r["method"], r["split"], r["metric"]): r["mean"] for r in csv.DictReader(file)}
    assert cells["margin", "test", "labels_to_50"] == "1600.0000"
    assert (f"{FOREST}margin", "test", "labels_to_50") not in cells


# --- the experiment itself --------------------------------------------------------------------------------------------


def test_a_tiny_run(tmp_path: Path, made: Path) -> None:
    """The trials as a worker would; then the command, which reads them and trains nothing."""
    out = tmp_path / "run"
    flags = ["--methods", "random", "margin@0.5", "k_center", f"{FOREST}margin", "--seeds", "3", "--epochs", "1"]
    flags += ["--start", "40", "--budget", "80", "--rounds", "2", "--pool", "200", "--test", "100"]
    flags += ["--data", str(made), "--out", str(out), "--image-cache", str(tmp_path / "images"), "--quiet"]
    config = tyro.cli(MarginSweep, args=flags)
    (part,) = parts_of(cells(config), config.seeds)
    assert len(part) == 4
    for trial in part:
        finished, result = _work(trial, out)
        assert finished, result
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert run("experiments", "", {"margin_sweep": margin_sweep.EXPERIMENT.command}, ["margin_sweep", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    records = read(out / "records.jsonl")
    assert [r["labels"] for r in records] == [40, 120, 200] * 4
    assert all("accuracy/unqueried" not in r for r in records if r["labels"] == 200)  # all are in
    starts = {r["accuracy/target_test"] for r in records if r["labels"] == 40 and r["network"] == "narrow_cnn"}
    assert len(starts) == 1  # the same network on the same images, whatever will be asked for
    rounds = read_rounds(out / "margin.0.5-seed3")
    assert [len(file.answers) for file in rounds] == [80, 80, 0]
    assert set(NETWORKS) >= {r["network"] for r in records if not r["method"].startswith(FOREST)}
