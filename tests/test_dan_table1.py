"""dan_table1: rows and recipes, complaints, the table beside the published ones, and a tiny run on a made tree."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from dan.cli.command_line import run
from dan.data.benchmarks import BENCHMARKS
from dan.run_dir import read_records
from dan.training.config import RECIPES
from experiments import dan_table1
from experiments.dan_table1 import (
    NETWORKS,
    ROWS,
    TRANSFERS,
    UNIFORM,
    DanTable1,
    Setup,
    cells,
    load_train_config,
    report,
    rows_of,
    setup_of,
    trials_of,
)
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.trials import _work, with_prerequisites
from experiments.method_tables import DAN, SOURCE_ONLY
from experiments.office_caltech10.trial import start_new_layers
from experiments.tasks import paper_table

COUNTS = {"a": 3, "d": 3, "w": 3}  # images a class of the made tree; the real counts are 2,817, 498 and 795 in all


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Office-31's folders and classes with a few tiny images, whose number is then the one that is expected."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    known = BENCHMARKS["office31"]
    for letter, count in COUNTS.items():
        for k in range(known.classes):
            folder = root / "office31" / known.domains[letter].folders[0] / f"class{k:02d}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    domains = {c: replace(known.domains[c], images=known.classes * count) for c, count in COUNTS.items()}
    monkeypatch.setitem(BENCHMARKS, "office31", replace(known, domains=domains))
    return root


def record(network: str, method: str, transfer: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"experiment": "dan_table1", "task": f"office31_{transfer}", "network": network}
    made |= {"method": method, "labels": 0, "seed": seed, "selection": "last", "paper": None, "provenance": ""}
    made |= {"command": "one", "command_of_all": "all", "steps": 20_000, "weights": "w"}
    return made | {"trade_off": 0.0 if method == SOURCE_ONLY else 1.0, "accuracy/target": value} | more


def fabricated(network: str = "alexnet") -> list[dict[str, Any]]:
    """source-only 60 and 62 %, uniform weights 1 point above, DAN 4 above, but 2 below on D->W."""
    records = []
    for seed in (0, 1):
        for transfer in TRANSFERS:
            base = 0.60 + 0.02 * seed
            gain = -0.02 if transfer == "d2w" else 0.04
            for method, value in ((SOURCE_ONLY, base), (DAN, base + gain), (UNIFORM, base + 0.01)):
                records.append(record(network, method, transfer, seed, value))
                records.append(record(network, method, transfer, seed, value + 0.01, selection="oracle"))
    return records


# --- rows and recipes -------------------------------------------------------------------------------------------------


def test_every_row_is_trained_on_every_transfer_and_source_only_differs_in_the_trade_off_alone() -> None:
    config = DanTable1(data=Path("/"))
    parts = [with_prerequisites(part) for part in parts_of(cells(config), config.seeds)]
    # A backbone that is computed once beside the rows where one is frozen.
    assert [len(part) for part in parts] == [1 + 6 * len(ROWS)] * 3 + [6 * len(ROWS)] * 3
    for part in parts:
        assert {before.name for trial in part for before in trial.after} <= {trial.name for trial in part}
    names = {trial.name for part in parts for trial in part}
    assert len(names) == 2 * 3 * 6 * 7 + 1 and len(ROWS) == 7
    for network in NETWORKS:
        base, dan = (trials_of(network, "a2w", row, config)[0].arguments for row in (SOURCE_ONLY, DAN))
        assert (base["trade_off"], dan["trade_off"]) == (0, 1)
        assert base["steps"] == RECIPES[NETWORKS[network].recipe].steps
        assert {k: v for k, v in base.items() if k not in ("how", "trade_off")} == {
            k: v for k, v in dan.items() if k not in ("how", "trade_off")
        }


def test_the_paper_rows_are_the_papers_recipe() -> None:
    rows = {row: load_train_config("dan-2015", how, 20_000) for row, how in rows_of("alexnet").items()}
    recipe = RECIPES["dan-2015"].recipe
    assert rows[DAN] == replace(recipe, feature_map=False)  # the recipe as it is named: 33 kernels, QP, linear-time
    assert rows[UNIFORM] == replace(rows[DAN], kernel_weights="uniform")
    assert rows["DAN_7"] == replace(rows[DAN], align=("fc7",)) and rows["DAN_8"] == replace(
        rows[DAN], align=("output",)
    )
    assert rows["DAN_SK"] == replace(rows[UNIFORM], num_kernels=1)
    assert (rows["DDC"].method, rows["DDC"].align) == ("ddc", ("fc7",))
    assert RECIPES["dan-2015"].network["frozen"][-1] == NETWORKS["alexnet"].frozen
    resnet = {row: load_train_config("dan-resnet", how, 100) for row, how in rows_of("resnet50").items()}
    assert resnet[DAN].align == ("hidden1", "output") and resnet["DAN_7"].align == ("hidden1",)
    assert resnet[UNIFORM] == replace(resnet[DAN], kernel_weights="uniform")
    assert "frozen" not in RECIPES["dan-resnet"].network and not NETWORKS["resnet50"].frozen


def test_the_published_rows_and_columns_are_there() -> None:
    for made in NETWORKS.values():
        table = paper_table(made.paper.table)
        assert {"->".join(transfer.upper().split("2")) for transfer in TRANSFERS} <= set(table.columns)
        assert set(made.paper.rows.values()) <= set(table.values) and set(made.paper.rows) <= set(ROWS)
        assert set(made.paper.columns.values()) <= set(table.columns) and SOURCE_ONLY in made.paper.rows
    paper = paper_table("dan2015_table1_office31").values
    assert (paper["CNN"]["Avg"], paper["DAN"]["Avg"], paper["DAN"]["A->W"]) == (70.1, 72.9, 68.5)


def test_the_command_of_a_cell_reads_back_as_that_cell() -> None:
    config = DanTable1(steps=9, trade_off=0.5)
    words = shlex.split(running.command_of(config, networks="resnet50", transfers="d2a", methods=UNIFORM))
    read_back = tyro.cli(DanTable1, args=words[5:])
    assert read_back == replace(config, networks=("resnet50",), transfers=("d2a",), methods=(UNIFORM,))
    assert running.reduced(DanTable1(quick=True)).methods == (SOURCE_ONLY, DAN)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--transfers", "a2c"], 'there is no "a2c"'),
        (["--methods", "DAM"], 'did you mean "DAN"'),
        (["--networks", "alexnt"], 'did you mean "alexnet"'),
        (["--seeds", "1", "1"], "--seeds"),
        (["--steps", "0"], "--steps"),
        (["--trade-off", "0"], "--trade-off must be above 0"),
        (["--device", "gpu"], "unknown device"),
        (["--alexnet-weights", "absent.pth"], "absent.pth"),
        (["--data", "absent"], "absent"),
        ([], "Office-31 needs"),  # the images, in the tree that is told, and where to fetch them
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    where = [] if "--data" in flags else ["--data", str(tmp_path)]
    words = ["dan_table1", *flags, *where, "--out", str(tmp_path / "run")]
    assert run("experiments", "", {"dan_table1": dan_table1.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the report, from records alone -----------------------------------------------------------------------------------


def test_the_table_has_the_paper_below_ours(tmp_path: Path) -> None:
    made = report(fabricated())
    ((_, (headers, lines)),) = made.tables
    table = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    theirs = "published DAN (AlexNet)"
    assert list(table) == [SOURCE_ONLY, "published CNN (AlexNet)", DAN, theirs, UNIFORM]
    assert headers[1:7] == ["A->W", "D->W", "W->D", "A->D", "D->A", "W->A"]
    assert table[DAN]["A->W"] == "65.0 ± 1.4"
    assert (table[DAN]["mean"], table[DAN]["gain"]) == ("64.0 ± 1.4", "+3.0")  # (5 * 4 - 2) / 6
    assert table[DAN]["worst gain"] == "−2.0 (D->W)" and table[DAN]["oracle mean"] == "65.0"
    assert (table[theirs]["mean"], table[theirs]["gain"]) == ("72.9", "+2.8")
    numbers = [re.findall(r"[+−]?\d+\.\d", finding) for finding in made.findings]
    assert numbers == [["+3.0", "61.0", "+2.8", "−2.0"], ["+2.0"]] and "D->W" in made.findings[0]

    # ResNet-50's published rows were chosen by target labels: said in the row and in the caption.
    of_resnet = report(fabricated("resnet50"))
    ((_, (_, lines)),) = of_resnet.tables
    assert [line[0] for line in lines if line[0].startswith("published")] == [
        "published ERM (ResNet-50, best epoch by target labels)",
        "published DAN (ResNet-50, best epoch by target labels)",
    ]
    assert any("best epoch by target labels" in caption for caption in of_resnet.captions)

    write_text(tmp_path / "records.jsonl", to_lines(fabricated()))
    assert dan_table1.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    (mean,) = [r for r in listed if (r["task"], r["method"], r["selection"]) == ("mean", DAN, "last")]
    assert (mean["mean"], mean["n"], mean["paper"]) == ("64.0000", "2", "72.9") and "Table 1" in mean["provenance"]
    assert (tmp_path / "figures" / "gains.png").stat().st_size > 1000


def test_half_a_run_makes_a_table_with_gaps() -> None:
    made = report([record("alexnet", DAN, "a2w", 0, 0.5)])
    ((_, (headers, ((*cells,), *_))),) = made.tables
    assert (cells[headers.index("A->W")], cells[headers.index("mean")]) == ("50.0", "–") and made.findings == []


# --- on a made tree of the same layout --------------------------------------------------------------------------------


def test_new_layers_start_the_same_for_a_seed(tree: Path, tmp_path: Path) -> None:
    flags = ["--data", str(tree), "--image-cache", str(tmp_path / "images"), "--image-size", "32", "--device", "cpu"]
    config = tyro.cli(DanTable1, args=[*flags, "--resnet50-weights", "none"])
    where = Setup(**setup_of("resnet50", config))
    task = where.task("w2d")
    one, other = (where.network(task, seed) for seed in (0, 1))
    before = one.hidden[0][0].weight.detach().clone()
    assert not torch.equal(before, other.hidden[0][0].weight)
    torch.nn.init.zeros_(one.hidden[0][0].weight)
    start_new_layers(one, 0)
    assert torch.equal(before, one.hidden[0][0].weight)  # of the seed alone
    assert float(one.hidden[0][0].weight.detach().std()) == pytest.approx(0.005, rel=0.02)
    assert one.layer_names == ["hidden1", "output"] and one.cached_stages == 0
    assert (len(task.source), len(task.target), len(task.classes)) == (93, 93, 31)


@pytest.mark.parametrize(
    ("network", "size", "kernels"),
    [pytest.param("alexnet", 64, 33, marks=pytest.mark.long), ("resnet50", 32, 5)],  # AlexNet has 57 million weights
)
def test_a_tiny_run(tree: Path, tmp_path: Path, network: str, size: int, kernels: int) -> None:
    """Two steps of DAN, as a worker would; then the command, which reads them and trains nothing."""
    out = tmp_path / "run"
    flags = ["--data", str(tree), "--out", str(out), "--image-cache", str(tmp_path / "cache" / "images"), "--quiet"]
    flags += ["--networks", network, "--alexnet-weights", "none", "--resnet50-weights", "none", "--transfers", "w2d"]
    flags += ["--methods", DAN, "--steps", "2", "--seeds", "0", "--image-size", str(size), "--device", "cpu"]
    config = tyro.cli(DanTable1, args=flags)
    for part in map(with_prerequisites, parts_of(cells(config), config.seeds)):
        for trial in part:
            finished, result = _work(trial, out)
            assert finished, result
    kept = list((tmp_path / "cache").glob("backbones/*.npy"))
    assert len(kept) == (2 if NETWORKS[network].frozen else 0)  # AlexNet's conv1-3 of both domains, computed once
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert run("experiments", "", {"dan_table1": dan_table1.EXPERIMENT.command}, ["dan_table1", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (record,) = read(out / "records.jsonl")
    assert (record["network"], record["method"], record["step"], record["device"]) == (network, DAN, 2, "cpu")
    settings = read_records(out / f"{network}-w2d-dan-seed0" / "records.jsonl")[0]
    assert (settings["num_kernels"], settings["kernel_weights"], settings["trade_off"]) == (kernels, "qp", 1.0)
    assert settings["task"] == "office31_w2d" and settings["align"] == list(NETWORKS[network].every)
