"""The experiment aift: AUC and areas by definition, what the records decide, and the command on a few nuclei."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro

from active.aift_training import TRAINING_CODES
from active.strategies.aift import CODES
from dan.cli.command_line import run
from dan.data.colon import ARCHIVE
from experiments import aift
from experiments.aift import PAPER_CODES, RANDOM, RFT, TRAININGS, Aift
from experiments.aift import report as aift_report
from experiments.aift.report import area, best_of_random, curves_of, findings, labels_to_random, mean_curve
from experiments.aift.trial import evaluate, network, patch_data
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.options import command_of
from experiments.framework.records import read, write
from experiments.framework.reporting.comparison_report import caption_of_tests
from experiments.framework.trials import _work, with_prerequisites
from experiments.tasks import paper_table

# --- measures ---------------------------------------------------------------------------------------------------------


def test_areas_of_straight_curves() -> None:
    line = {0: 0.1, 10: 0.6, 20: 0.7, 40: 0.9}
    assert area(line) == pytest.approx((0.65 * 10 + 0.8 * 20) / 30)  # the point without labels is left out
    assert area({0: 0.1, 10: 0.6}) == 0.6
    assert mean_curve({0: line, 1: {10: 0.8, 20: 0.9}}) == {10: pytest.approx(0.7), 20: pytest.approx(0.8)}


# --- records that are made up -----------------------------------------------------------------------------------------


def record(asks: str, training: str, seed: int, labels: int, auc: float) -> dict[str, Any]:
    kept = {"experiment": "aift", "task": "colon_first", "network": "lenet", "method": aift.method_of(asks, training)}
    kept |= {"asks": asks, "training": training, "seed": seed, "labels": labels, "selection": "last"}
    kept |= {"command": "c", "command_of_all": "python all", "setting": "scratch", "pool": 80, "test": 60, "views": 4}
    kept |= {"budget": 10, "rounds": 2, "steps": 5, "weights": "none"}
    return kept | {"roc_auc/target_test": auc, "accuracy/target_test": 0.5}


def fabricated(gain: float) -> list[dict[str, Any]]:
    """Two seeds and two trainings; random has .6, .7, .8 at 10, 20, 30 labels, D `gain` more, E the same less."""
    records = []
    for seed in (0, 1):
        for training, level in (("AFT(LQ)", 0.0), ("ACFT(Q)", -0.1)):
            for asks, more in ((RANDOM, 0.0), ("D", gain), ("D+M", gain + 0.02), ("E", -gain)):
                for labels, auc in ((0, 0.3), (10, 0.6), (20, 0.7), (30, 0.8)):
                    value = auc if not labels else auc + level + more + 0.01 * seed * (1 if asks == RANDOM else 2)
                    records.append(record(asks, training, seed, labels, value))
    return records


def test_the_table_has_the_papers_layout_and_its_values() -> None:
    curves, paper = curves_of(fabricated(0.05)[::-1]), paper_table("aift_alc")
    headers, lines = aift_report.area_table(curves, paper)
    assert headers == ["ALC", RANDOM, "D", "D+M", "E"]
    rows = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert [name.split(",")[0] for name in rows][:1] == ["colon nuclei"] and len(rows) == 2 + 3 + 3
    ours = rows["colon nuclei, AFT(LQ)"]
    assert ours[RANDOM] == "0.705 ± 0.007" and ours["D"] == "0.760 ± 0.014"
    assert rows["the paper's Polyp, AFT(LQ) (other data)"] == {
        "ALC": "the paper's Polyp, AFT(LQ) (other data)",
        RANDOM: "–",
        "D": "0.9242",
        "D+M": "0.9285",
        "E": "0.9292",
    }
    assert {row.split()[-1] for row in paper.values} == set(TRAININGS)  # the codes of the paper are ours
    assert set(paper.columns) == set(PAPER_CODES)


def test_the_share_of_labels_is_that_of_the_mean_curves() -> None:
    curves = curves_of(fabricated(0.05))
    assert best_of_random(curves, "AFT(LQ)") == (30, pytest.approx(0.805))
    # D's mean curve is .06 + .6, .7, .8 at 10, 20, 30: it has .805 at 24.5 labels of 30.
    assert labels_to_random(curves, ("D", "AFT(LQ)"), "AFT(LQ)") == pytest.approx(24.5)
    assert labels_to_random(curves, ("E", "AFT(LQ)"), "AFT(LQ)") is None
    assert labels_to_random(curves, ("D", "ACFT(Q)"), "ACFT(Q)") == pytest.approx(24.5)
    assert labels_to_random(curves, ("D", "ACFT(Q)"), "AFT(LQ)") is None  # RFT is out of its reach


def test_codes_are_compared_seed_by_seed() -> None:
    selections, trainings = aift_report.comparisons(curves_of(fabricated(0.05)))
    assert (selections.unit, trainings.unit) == ("seed", "seed")
    tests = {(test.a, test.b): test for test in selections.tests}
    assert set(tests) == {("D", RANDOM), ("D+M", RANDOM), ("E", RANDOM)}
    # D is .05 above random in each training, and .01 more in the second seed.
    assert tests["D", RANDOM].mean == pytest.approx(5.5) and tests["D", RANDOM].n == 2
    assert tests["D", RANDOM].cells == 4 and tests["E", RANDOM].mean == pytest.approx(-4.5)
    (test,) = trainings.tests
    assert (test.a, test.b, test.n) == ("AFT(LQ)", "ACFT(Q)", 2) and test.mean == pytest.approx(10)
    assert "The unit is the seed, n of them (most: 2)" in caption_of_tests(selections)[0]
    assert not aift_report.comparisons(curves_of([r for r in fabricated(0.05) if r["method"] == RFT]))


@pytest.mark.parametrize(
    ("gain", "cells", "first"),
    [
        (0.05, "4 of 6 cells (4 by 2 standard errors); below by as much: 2", "D+M"),
        (-0.05, "2 of 6 cells (2 by", "E"),
    ],
)
def test_the_records_decide_what_is_said(gain: float, cells: str, first: str) -> None:
    said = " ".join(findings(curves_of(fabricated(gain))))
    assert cells in said and f" in {first}, AFT(LQ)." in said
    assert "+M +2.00" in said and "+R" not in said
    assert "ACFT(Q) −10.00" in said


def test_a_result_against_the_method_is_said_as_well() -> None:
    records = [made for made in fabricated(-0.05) if made["asks"] in (RANDOM, "D")]
    said = " ".join(findings(curves_of(records)))
    assert "0 of 2 cells (0 by" in said and "as much: 2" in said
    assert "fewer in 0 of 2 cells." in said
    assert not list(findings(curves_of([made for made in records if made["asks"] == RANDOM])))


def test_the_report_is_made_from_records_alone(tmp_path: Path) -> None:
    write(tmp_path, fabricated(0.05))
    assert aift.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        cells = {(row["method"], row["metric"], row["labels"]): row for row in csv.DictReader(file)}
    assert cells[RFT, "roc_auc", "20"]["mean"] == "70.5000" and cells[RFT, "alc", "30"]["n"] == "2"
    assert cells["D, ACFT(Q)", "labels_to_random", "30"]["mean"] == "24.5000"
    assert ("E, ACFT(Q)", "labels_to_random", "30") not in cells
    assert all(row["paper"] == "" for row in cells.values())  # other data: not the same measurement
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("- Largest area under the AUC curve: D+M, AFT(LQ), 0.7")
    assert "not public" in text and "(other data)" in text and (tmp_path / "figures" / "aift.png").stat().st_size > 5000
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACTIVE_DAN_DATA", str(tmp_path))
    return tmp_path


def trials_of(config: Aift) -> list[list[Any]]:
    return [with_prerequisites(part) for part in parts_of(aift.cells(config), config.seeds)]


def test_the_codes_are_those_of_the_strategy_and_of_the_training() -> None:
    assert aift.CODES == CODES and (RFT, *TRAININGS) == tuple(TRAINING_CODES)


def test_the_plan_is_every_cell_of_every_seed(somewhere: Path) -> None:
    parts = trials_of(Aift())
    assert [len(part) for part in parts] == [(len(PAPER_CODES) + 1) * len(TRAININGS)] * 5 == [36] * 5
    names = [trial.name for part in parts for trial in part]
    assert len(set(names)) == len(names)
    for seed, part in enumerate(parts, start=1):
        assert all(trial.arguments["seed"] == seed and trial.after == () for trial in part)
        assert [trial.arguments["training"] for trial in part if trial.arguments["selection"] == RANDOM] == [
            RFT,
            "ACFT(Q)",
            "ACFT(LQ)",
            "ACFT(HQ)",
        ]
    (moved,) = trials_of(Aift(setting="transfer", selections=CODES, seeds=(3,)))
    assert len(moved) == 1 + len(CODES) * len(TRAININGS)
    assert moved[0].name == "start-seed3" and all(trial.after == (moved[0],) for trial in moved[1:])
    assert moved[1].arguments["trade_off"] == 1.0 and moved[0].arguments["steps"] == 500


@pytest.mark.parametrize("cell", [("E+M+R", "ACFT(HQ)"), (RANDOM, "AFT(LQ)")])
def test_the_command_of_a_cell_reads_back_as_that_cell(cell: tuple[str, str]) -> None:
    config = Aift(steps=7, trainings=("ACFT(Q)", "AFT(LQ)"), setting="transfer")
    words = shlex.split(command_of(config, selections=cell[0], trainings=cell[1]))
    assert words[:5] == ["python", "-m", "experiments", "run", "aift"]
    assert tyro.cli(Aift, args=words[5:]) == replace(config, selections=cell[:1], trainings=cell[1:])
    assert "'ACFT(Q)'" in command_of(config)  # a shell would stumble over the parentheses
    quick = running.reduced(Aift(quick=True, rounds=3))
    assert (quick.seeds, quick.rounds, quick.folder) == ((0,), 3, Path("runs/aift_quick"))
    assert command_of(quick) == "python -m experiments run aift --quick --rounds 3"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--selections", "E+RM"], 'there is no "E+RM"'),
        (["--trainings", "RFT"], 'there is no "RFT"'),
        (["--seeds", "1", "1"], "--seeds"),
        (["--budget", "200"], "8 rounds of 200 are more than the pool's 800 nuclei"),
        (["--views", "0"], "--views must be 1 or more"),
        (["--trade-off", "2"], "of --setting transfer"),
        (["--start-steps", "0", "--setting", "transfer"], "--start-steps must be 1 or more"),
        (["--trade-off", "-1", "--setting", "transfer"], "--trade-off must be 0 or more"),
        ([], "the colon nuclei are not in"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    somewhere: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["aift", *flags, "--out", str(somewhere / "run")]
    assert run("experiments", "", {"aift": aift.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (somewhere / "run").exists()


# --- the command itself, on made tissue -------------------------------------------------------------------------------


@pytest.fixture
def tissue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with a small archive of the publisher's layout: 12 + 12 patients with 10 nuclei each."""
    import io
    import tarfile

    from PIL import Image

    from dan.data.colon import PARTS, PATCHES, Part

    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for part, begin in (("first", 1), ("second", 61)):
            monkeypatch.setitem(PARTS, part, Part(PARTS[part].file, 120, 12, 60))
            lines = ["patientID,ImageName,isCancerous"]
            for patient in range(begin, begin + 12):
                for i in range(10):
                    pixels = rng.integers(0, 200, (27, 27, 3))
                    pixels[..., 0] += 55 * (i % 2)  # cancerous ones are redder
                    content = io.BytesIO()
                    Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
                    add(f"{PATCHES}/{10 * patient + i}.png", content.getvalue())
                    lines.append(f"{patient},{10 * patient + i}.png,{i % 2}")
            add(PARTS[part].file, "\n".join(lines).encode())
    monkeypatch.setenv("ACTIVE_DAN_DATA", str(tmp_path))
    patch_data.cache_clear()
    return tmp_path


def test_all_trials_of_a_seed_share_patients_pool_and_views(tissue: Path) -> None:
    shared: dict[str, Any] = {"data": str(tissue), "images": str(tissue / "images"), "pool": 30, "test": 20, "views": 3}
    one, other = (patch_data(**shared, setting="scratch", seed=seed) for seed in (0, 1))
    assert one is not other and len(one.pool) == 30 and len(one.test) == 20 and one.source is None
    assert not set(one.pool.groups) & set(one.test.groups)
    again = patch_data(**shared, setting="scratch", seed=0)
    assert (
        torch.equal(one.pool.patches.tensors[0], again.pool.patches.tensors[0]) and one.pool.names == again.pool.names
    )
    assert one.pool.groups != other.pool.groups
    moved = patch_data(**shared, setting="transfer", seed=0)
    assert {int(group) > 60 for group in moved.pool.groups} == {True}
    assert {int(group) > 60 for group in moved.source.groups} == {False} and len(moved.source) == 120
    first, second = network(0).state_dict(), network(0).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_auc_is_the_share_of_pairs_in_the_right_order(tissue: Path) -> None:
    from active.learners.candidates import candidate_query_fields

    sizes = {"pool": 30, "test": 20, "views": 3}
    test = patch_data(data=str(tissue), images=str(tissue), setting="scratch", seed=0, **sizes).test  # type: ignore[arg-type]
    model = network(0)
    found = evaluate(model, test)
    probs, positive = candidate_query_fields(model, test)["probs"], test.targets == 1
    pairs = [(a, b) for a in probs[positive, 1].tolist() for b in probs[~positive, 1].tolist()]
    expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert found["roc_auc/target_test"] == pytest.approx(expected, rel=1e-12)
    assert found["accuracy/target_test"] == pytest.approx(float((probs.argmax(1) == test.targets).double().mean()))


@pytest.mark.parametrize("setting", ["scratch", "transfer"])
def test_a_tiny_run_is_not_made_again(tissue: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    out = tissue / "run"
    flags = ["--quick", "--setting", setting, "--pool", "20", "--test", "12", "--steps", "2", "--out", str(out)]
    flags += ["--image-cache", str(tissue / "images"), "--quiet", "--seeds", "2"]
    flags += ["--start-steps", "3"] if setting == "transfer" else []
    config = running.reduced(tyro.cli(Aift, args=flags))
    for trial in trials_of(config)[0]:  # as a worker would
        finished, result = _work(trial, out)
        assert finished, result
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert len(before) == 4 + (setting == "transfer")
    assert run("experiments", "", {"aift": aift.EXPERIMENT.command}, ["aift", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| colon nuclei, ACFT(HQ) |" in capsys.readouterr().out
    records = read(out / "records.jsonl")
    assert [record["labels"] for record in records] == [0, 5, 10] * 4
    assert {record["method"] for record in records} == {RFT, "random, ACFT(HQ)", "E+M+R, AFT(LQ)", "E+M+R, ACFT(HQ)"}
    starts = {record["roc_auc/target_test"] for record in records if not record["labels"]}
    assert len(starts) == 1  # M_0 is one for all
    once = {record["roc_auc/target_test"] for record in records if record["labels"] == 5 and record["asks"] == RANDOM}
    assert len(once) == 1  # and after the first purchase every training has done the same
    assert all(record["setting"] == setting and record["task"].startswith("colon_first") for record in records)
