"""Tests of the experiments on the 10-class set: what is scaled, the plans, tables from records alone."""

from __future__ import annotations

import csv
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import nn
from torch.utils.data import TensorDataset

from dan.cli.command_line import run
from dan.data.domain_pair import DomainPair
from dan.errors import UserError
from dan.mmd import a_distance
from dan.models.dan import DAN as Network
from dan.models.registry import build_backbone
from experiments import a_distance as distance
from experiments import frozen_layers, lambda_sensitivity, mmd_during_training, semi_supervised
from experiments import office_caltech10 as shared
from experiments.framework import options as running
from experiments.framework.experiment import parts_of
from experiments.framework.records import read, write
from experiments.framework.trials import _work, with_prerequisites
from experiments.method_tables import DAN, SOURCE_ONLY
from experiments.office_caltech10.trial import SET, Setup, start_new_layers

MODULES = {
    module.EXPERIMENT.name: module
    for module in (lambda_sensitivity, distance, semi_supervised, frozen_layers, mmd_during_training)
}
SETTINGS: dict[str, Any] = {name: module.EXPERIMENT.options for name, module in MODULES.items()}


def config_of(name: str, **values: Any) -> Any:
    """An experiment's settings, its rate and trade-off chosen."""
    trade_off = {"trade_off": 2.0} if any(f.name == "trade_off" for f in fields(SETTINGS[name])) else {}
    return SETTINGS[name](**{"lr": 1e-3, **trade_off, **values})


def record(name: str, transfer: str, method: str, seed: int, **values: Any) -> dict[str, Any]:
    """A selected record of an experiment, as its trials give it."""
    command = running.command_of(config_of(name))
    made = {"experiment": name, "paper": None, "provenance": "", "command": command, "command_of_all": command}
    made |= {"task": SET + transfer, "network": shared.NETWORK, "method": method, "labels": 0}
    made |= {"image_size": 224, "lr": 1e-3, "steps": 300, "chosen_by": "a test"}
    return made | {"seed": seed, "selection": "last", "trade_off": 2.0, "weights": "w", "seconds": 1.0} | values


# --- what is scaled ---------------------------------------------------------------------------------------------------


def test_scaling_centres_on_the_source_and_gives_it_the_wanted_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = 40 + 7 * torch.randn(50, 5, generator=generator), 30 + torch.randn(20, 5, generator=generator)
    x, y = frozen_layers.scaled(source, target, 3.0)
    assert torch.allclose(x.mean(0), torch.zeros(5), atol=1e-5)
    assert statistics.fmean(float(row @ row) for row in x.double()) == pytest.approx(9.0, rel=1e-5)
    # One shift and one factor for both domains: what tells them apart stays.
    factor = float((x[0] - x[1]).norm() / (source[0] - source[1]).norm())
    assert torch.allclose(y - x.mean(0), factor * (target - source.mean(0)), atol=1e-4)
    unchanged, _ = frozen_layers.scaled(source, target, frozen_layers.spread_of(source))
    assert torch.allclose(unchanged, source - source.mean(0), atol=1e-4)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setup, DomainPair]:
    """SqueezeNet at random weights from a file, and a task of ten random images."""
    folder = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build_backbone("squeezenet1_1").state_dict(), folder / "w.pth")
    data = TensorDataset(torch.randn(10, 3, 32, 32, generator=generator), torch.arange(10))
    classes = tuple("abcdefghij")
    task = DomainPair(name="t", classes=classes, source=data, source_test=None, target=data, target_test=None)
    where = {"backbone": "squeezenet1_1", "frozen": "pool", "weights": str(folder / "w.pth")}
    return Setup(**where, data="", images="", image_size=32), task


def test_a_network_on_features_starts_as_the_one_with_a_backbone(small: tuple[Setup, DomainPair]) -> None:
    where, task = small
    whole = where.network(task, 3)
    model = Network(nn.Flatten(), 10, layers=(256,), dropout=0.5)
    model(torch.zeros(2, 512))
    start_new_layers(model, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_frozen_up_to_nothing_trains_everything_from_the_same_weights(small: tuple[Setup, DomainPair]) -> None:
    where, task = small
    frozen, free = where.network(task, 3), replace(where, frozen="none").network(task, 3)
    assert all(parameter.requires_grad for parameter in free.parameters())
    assert free.cached_stages == 0 and frozen.cached_stages == 10
    for name, value in free.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[name])


# --- settings and plans -----------------------------------------------------------------------------------------------


def search(rate: float, trade_off: float, judged_by: float, method: str = DAN) -> dict[str, Any]:
    made = {"phase": "search", "network": shared.NETWORK, "method": method, "lr": rate, "trade_off": trade_off}
    return made | {"judged_by": judged_by}


def test_hyper_parameters_come_from_the_search_unless_they_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "search"
    points = [search(3e-4, 1.0, 0.4), search(3e-4, 1.0, 0.2), search(3e-4, 10.0, 0.2), search(3e-4, 10.0, 0.3)]
    write(path, [*points, search(1e-4, 0.0, 0.1, SOURCE_ONLY)])
    monkeypatch.setattr(shared, "PUBLISHED_SEARCH", tmp_path / "absent")
    shared.searched.cache_clear()
    plain = distance.ADistance()
    config, said = plain.resolve()
    assert (config.lr, config.trade_off) == (shared.RATE, shared.TRADE_OFF) and "defaults" in said["chosen_by"]
    config, said = replace(plain, search=path).resolve()
    assert (config.lr, config.trade_off) == (3e-4, 10.0)  # the lower mean, 0.25 below 0.3
    assert "no target label" in said["chosen_by"] and said["lr"] == 3e-4
    config, _ = replace(plain, search=path, trade_off=0.5).resolve()
    assert (config.lr, config.trade_off) == (3e-4, 0.5)
    monkeypatch.setattr(shared, "PUBLISHED_SEARCH", path)
    shared.searched.cache_clear()
    assert plain.resolve()[0].trade_off == 10.0
    assert lambda_sensitivity.LambdaSensitivity().resolve()[0].lr == 3e-4
    write(path, [search(1e-4, 0.0, 0.1, SOURCE_ONLY)])
    shared.searched.cache_clear()
    with pytest.raises(UserError, match="no search for DAN"):
        plain.resolve()
    shared.searched.cache_clear()


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("lambda_sensitivity", {"trade_offs": (0.4,)}),
    ("a_distance", {"features": ("raw trunk",)}),
    ("mmd_during_training", {"methods": (DAN,)}),
    ("semi_supervised", {"methods": ("semi-supervised DAN",)}),
    ("frozen_layers", {"frozen": (), "cut": ("fire3",), "methods": (DAN,)}),
    ("frozen_layers", {"frozen": ("fire8",), "cut": (), "methods": (SOURCE_ONLY,)}),
]


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_the_command_of_a_cell_reads_back_as_that_cell(name: str, cell: dict[str, Any]) -> None:
    config = config_of(name, seeds=(4, 5), steps=7)
    words = shlex.split(running.command_of(config, transfers="d2w", **cell))
    assert words[:5] == ["python", "-m", "experiments", "run", name]
    assert tyro.cli(SETTINGS[name], args=words[5:]) == replace(config, transfers=("d2w",), **cell)


@pytest.mark.parametrize("name", list(MODULES))
def test_quick_is_small_and_what_was_said_stays(name: str) -> None:
    quick = running.reduced(SETTINGS[name](quick=True, steps=9))
    assert (quick.transfers, quick.seeds, quick.steps) == (("d2w",), (0,), 9)
    assert quick.folder == Path(f"runs/{name}_quick")
    assert running.command_of(quick) == f"python -m experiments run {name} --quick --steps 9"


def test_lambdas_differ_in_the_trade_off_alone(tmp_path: Path) -> None:
    config = config_of("lambda_sensitivity", data=tmp_path, seeds=(0,))
    assert config.trade_offs == (0.0, 0.1, 0.4, 0.7, 1.0, 1.4, 1.7, 2.0)
    trials = [cell.trials[0] for cell in lambda_sensitivity.cells(config) if cell.only["transfers"] == "c2w"]
    assert [trial.arguments.pop("trade_off") for trial in trials] == list(config.trade_offs)
    assert all(trial.arguments == trials[0].arguments for trial in trials)


def test_rows_of_the_semi_supervised_table_differ_as_their_names_say(tmp_path: Path) -> None:
    config = config_of("semi_supervised", data=tmp_path, seeds=(0,))
    found = {(c.about["task"], c.about["method"]): c.trials[0].arguments for c in semi_supervised.cells(config)}
    cells = {method: found["office_caltech10_a2w", method] for method in semi_supervised.METHODS}
    told = {m: (a["how"]["method"], a["trade_off"], a["labelled"]) for m, a in cells.items()}
    assert list(told.values()) == [
        ("dan", 0.0, False),
        ("ddc", 2.0, False),
        ("dan", 2.0, False),
        ("dan", 0.0, True),
        ("ddc", 2.0, True),
        ("dan", 2.0, True),
    ]
    assert {a["source_per_class"] for a in cells.values()} == {20}
    assert found["office_caltech10_w2d", "unsupervised DAN"]["source_per_class"] == 8


def test_every_way_of_freezing_is_trained_once_and_waits_for_its_own_part(tmp_path: Path) -> None:
    config = config_of("frozen_layers", data=tmp_path, frozen=frozen_layers.FROZEN)
    parts = parts_of(frozen_layers.cells(config), config.seeds)
    assert len(parts) == 3
    once = {"stages", *(f"trunk-{stage}" for stage in frozen_layers.FROZEN if stage != "none")}
    cells = [trial.name for part in parts for trial in part if trial.name not in once]
    assert len(cells) == len(set(cells)) == 3 * 2 * 2 * (9 + 10)
    for trial in (trial for part in parts for trial in part):
        assert {before.name for before in trial.after} <= once
    free = [trial for trial in parts[0] if trial.name.startswith("squeezenet1_1-frozen-to-none")]
    assert len(free) == 4 and not any(trial.after for trial in free)


def test_depth_counts_the_frozen_stages_that_have_weights() -> None:
    stages = build_backbone("squeezenet1_1").stages
    with_weights = [name for name, stage in stages.items() if list(stage.parameters())]
    assert tuple(with_weights) == frozen_layers.STAGES
    for stage in frozen_layers.FROZEN:
        frozen = [] if stage == "none" else list(stages)[: list(stages).index(stage) + 1]
        expected = sum(name in with_weights for name in frozen)
        assert frozen_layers.Cut(stage, False).depth == expected, stage


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("lambda_sensitivity", ["--transfers", "c2x"], 'no "c2x"'),
        ("lambda_sensitivity", ["--trade-offs", "1", "1"], "--trade-offs"),
        ("lambda_sensitivity", ["--trade-offs", "-1"], "--trade-offs"),
        ("a_distance", ["--features", "DAM"], 'did you mean "DAN"'),
        ("a_distance", ["--seeds", "100"], "seed 100"),
        ("mmd_during_training", ["--every", "301"], "--every"),
        ("mmd_during_training", ["--steps", "0"], "--steps"),
        ("semi_supervised", ["--transfers", "c2w"], "there are: a2w, d2w, w2d"),
        ("semi_supervised", ["--labels-per-class", "8"], "8 mugs"),
        ("frozen_layers", ["--cut", "pool"], 'no "pool"'),
        ("frozen_layers", ["--frozen", "--cut"], "nothing is left"),
        ("frozen_layers", ["--squeezenet-weights", "absent.pth"], "absent.pth"),
        ("frozen_layers", ["--search", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("experiments", "", {name: MODULES[name].EXPERIMENT.command}, [name, *flags]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- reports from records alone ---------------------------------------------------------------------------------------


def reported(name: str, records: Sequence[dict[str, Any]], folder: Path) -> tuple[str, list[dict[str, str]]]:
    """table.md and the rows of table.csv that a report makes; the page and the figures are there."""
    write(folder, records)
    assert MODULES[name].EXPERIMENT.write_report(folder) == folder / "report.html"
    assert "http" not in (folder / "report.html").read_text(encoding="utf-8")
    assert all(path.stat().st_size > 1000 for path in (folder / "figures").glob("*.png"))
    assert list((folder / "figures").glob("*.png"))
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert "10-class" in text and f"python -m experiments run {name}" in text
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return text, list(csv.DictReader(file))


@pytest.mark.parametrize(("values", "end"), [((0.8, 0.9, 0.85), "85.0 at 2"), ((0.8, 0.85, 0.9), "the end of")])
def test_lambda_says_where_the_top_is_and_whether_it_falls_again(
    tmp_path: Path, values: tuple[float, ...], end: str
) -> None:
    name, method_of = "lambda_sensitivity", lambda_sensitivity.method_of
    records = [
        record(name, "c2w", method_of(value), seed, trade_off=value, **{"accuracy/target": accuracy + 0.02 * seed})
        for seed in (-1, 1)
        for value, accuracy in zip((0.0, 0.4, 1.0, 2.0), (0.7, *values), strict=True)
    ]
    text, rows = reported(name, records, tmp_path)
    best = "1" if "85" in end else "2"
    assert f"90.0 at lambda {best} (source-only 70.0), {end}" in text and "lowest 80.0" in text
    assert "| source-only | 70.0 ± 2.8 |" in text
    accuracies = {row["method"]: row["mean"] for row in rows if row["metric"] == "accuracy"}
    assert accuracies["DAN, lambda 0.4"] == "80.0000" and SOURCE_ONLY in accuracies


def test_a_distances_are_ordered_and_kept_as_their_own_metric(tmp_path: Path) -> None:
    values = {"raw trunk": 1.9, SOURCE_ONLY: 1.5, DAN: 1.6}
    records = [
        record("a_distance", "a2w", method, seed, a_distance=value + 0.1 * seed, seconds=None)
        for method, value in values.items()
        for seed in (-1, 1)
    ]
    text, rows = reported("a_distance", records, tmp_path)
    assert "raw trunk 1.90, source-only 1.50, DAN 1.60" in text
    assert [(row["method"], row["metric"], row["mean"]) for row in rows] == [
        ("raw trunk", "a_distance", "1.9000"),
        (SOURCE_ONLY, "a_distance", "1.5000"),
        (DAN, "a_distance", "1.6000"),
    ]
    assert {row["spread"] for row in rows} == {"0.1414"}


def test_the_semi_supervised_table_has_the_paper_below_ours_and_means_of_whole_rows(tmp_path: Path) -> None:
    name, records = "semi_supervised", []
    for i, method in enumerate(semi_supervised.METHODS):
        for column, base in zip(semi_supervised.COLUMNS, (0.60, 0.90, 0.90), strict=True):
            for seed in (0, 1):
                if (method, column, seed) != ("unsupervised DAN", "w2d", 1):  # one run is missing
                    value = {"accuracy/target": base + 0.01 * i, "accuracy/unqueried": base + 0.01 * i - 0.03}
                    labels = 30 * semi_supervised.METHODS[method][1]
                    about = {**semi_supervised.PAPER.record(method, column), "labels": labels}
                    records.append({**record(name, column, method, seed), **about, **value})
    text, rows = reported(name, records, tmp_path)
    headers, lines = semi_supervised.accuracy_table(records)
    table = {line[0]: dict(zip(headers, line, strict=True)) for line in lines}
    assert list(table)[1:3] == ["unsupervised DDC", "published unsupervised DDC (AlexNet, 31 classes)"]
    # (57 + 87 + 87) / 3 = 77, and DAN two points above it, from the one seed that has all columns.
    assert table["unsupervised source-only"]["mean"] == "77.0 ± 0.0"
    assert table["unsupervised DAN"]["mean"] == "79.0" and table["unsupervised DAN"]["n"] == "1/2"
    assert table["published semi-supervised DAN (AlexNet, 31 classes)"]["mean"] == "93.1"
    assert table["semi-supervised DAN"]["target labels"] == "30"
    numbers = [re.findall(r"\d\d\.\d", line) for line in semi_supervised.findings(records)]
    assert numbers == [["77.0", "78.0", "79.0"], ["80.0", "81.0", "82.0"]]
    # The paper scores a method with labels on the images that have none.
    papers = {(r["method"], r["task"], r["split"]): r["paper"] for r in rows if r["paper"]}
    assert papers["semi-supervised DAN", "mean", "unqueried"] == "93.1"
    assert papers["unsupervised DDC", "office_caltech10_a2w", "target"] == "59.4"
    assert len(papers) == 2 * 4 * 2


def test_the_end_of_mmd_is_told_for_each_layer(tmp_path: Path) -> None:
    name, records = "mmd_during_training", []
    for method, end in ((SOURCE_ONLY, 0.04), (DAN, 0.01)):
        for step, factor in ((10, 0.5), (20, 1.0)):
            values = {"step": step, "selection": "last" if step == 20 else "", "accuracy/target": 0.8}
            for layer in mmd_during_training.LAYERS:
                for kind in ("mmd2", "mmd2_current"):
                    values |= {f"{kind}/{layer}": end * factor, f"{kind}_null_high/{layer}": 0.005}
                values |= {f"p_value_current/{layer}": 0.005, f"gamma_ratio/{layer}": 3.0}
            records.append(record(name, "c2w", method, 0, **values))
    text, rows = reported(name, records, tmp_path)
    assert "C->W, 10-class, bottleneck" in text and "source-only 0.040, DAN 0.010" in text
    found = mmd_during_training.curve(records, "c2w", DAN, "mmd2_current/output")
    assert found == {10: [0.005], 20: [0.01]}
    kept = {(row["method"], row["metric"]): row["mean"] for row in rows}
    assert kept[DAN, "mmd2_current_hidden1"] == "0.0100"


def test_the_best_depth_is_told_for_both_treatments(tmp_path: Path) -> None:
    name, records = "frozen_layers", []
    accuracies = {("fire5", False): 0.8, ("fire7", False): 0.85, ("pool", False): 0.82}
    accuracies |= {("fire8", True): 0.7, ("fire9", True): 0.81}
    for (stage, left_out), value in accuracies.items():
        cut = frozen_layers.Cut(stage, left_out)
        about = {"network": cut.network, "stage": stage, "left_out": left_out, "accuracy/target": value}
        records.append(record(name, "c2w", DAN, 0, **about))
    text, rows = reported(name, records, tmp_path)
    (finding,) = frozen_layers.findings(records)
    assert re.findall(r"(\d\d\.\d) \((\d) of 9", finding) == [("85.0", "7"), ("70.0", "8")]
    assert finding.index("fine-tuned") < finding.index("left out")
    assert finding in text
    assert "Not fine-tuned from: none, conv1, fire2, fire3, fire4, fire6, fire8." in text
    assert {row["network"] for row in rows} >= {"squeezenet1_1-frozen-to-fire7", "squeezenet1_1-cut-after-fire9"}


# --- end to end, on the real images -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flags(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny run: one transfer of few images, 32 pixels a side, 4 steps; decoded images are shared by all tests."""
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    if not (data_folder / "office_caltech10").is_dir() or not weights.is_file():
        pytest.skip("needs office_caltech10 and weights/squeezenet1_1_caffe_as_torchvision.pth in the data folder")
    made = ["--data", str(data_folder), "--squeezenet-weights", str(weights), "--quick", "--steps", "4", "--quiet"]
    made += ["--image-size", "32", "--lr", "0.001", "--workers", "1"]
    return [*made, "--image-cache", str(tmp_path_factory.mktemp("cache") / "images")]


QUICK = {
    "lambda_sensitivity": ["--trade-offs", "0", "2"],
    "a_distance": ["--trade-off", "2"],
    "mmd_during_training": ["--trade-off", "2", "--every", "2"],
    "semi_supervised": ["--trade-off", "2", "--methods", "unsupervised DAN", "semi-supervised DAN"],
    "frozen_layers": ["--trade-off", "2", "--frozen", "none", "fire8", "--cut", "fire9", "--methods", DAN],
}


def done_here(name: str, words: list[str]) -> None:
    """Do an experiment's trials in this process, as a worker would: most need no process of their own to be tested."""
    experiment: Any = MODULES[name].EXPERIMENT
    config, _ = experiment.settled(tyro.cli(SETTINGS[name], args=words))
    for trial in with_prerequisites([trial for cell in experiment.cells(config) for trial in cell.trials]):
        finished, result = _work(trial, config.folder)
        assert finished, result


SLOW = ("mmd_during_training", "frozen_layers")  # what they share is tried by the others


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in MODULES]
)
def test_a_tiny_run_on_real_images(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = [name, *flags, *QUICK[name], "--out", str(tmp_path / "run")]
    commands = {name: MODULES[name].EXPERIMENT.command}
    if name not in SLOW:
        done_here(name, words[1:])
    assert run("experiments", "", commands, words) == 0
    first = capsys.readouterr().out
    records = read(tmp_path / "run" / "records.jsonl")
    last = {(r["network"], r["method"]): r for r in records if r["selection"] == "last"}
    assert all(r["task"] == "office_caltech10_d2w" and r["lr"] == 1e-3 for r in records)
    results = {path.parent.name: path for path in (tmp_path / "run").glob("*/trial.json")}

    if name == "lambda_sensitivity":
        assert {method for _, method in last} == {SOURCE_ONLY, "DAN, lambda 2"}
    if name == "a_distance":
        # Against the same measure on the same features, had another way.
        where = Setup(**shared.setup_of(tyro.cli(distance.ADistance, args=words[1:])))
        task = where.task("d2w")
        model = where.network(task, 5)
        raw = [where.outputs(data, model, keep=False).tensors[0] for data in (task.source, task.target)]
        assert last[shared.NETWORK, "raw trunk"]["a_distance"] == pytest.approx(a_distance(*raw, seed=0), abs=0.03)
        assert -2 <= last[shared.NETWORK, DAN]["a_distance"] <= 2
    if name == "mmd_during_training":
        steps = [r["step"] for r in records if r["method"] == DAN]
        assert steps == [2, 4]
        for r in (r for r in records if r["step"] == 2):  # the first look's bandwidth is the current one
            assert r["gamma_ratio/hidden1"] == 1
            assert r["mmd2_current/hidden1"] == pytest.approx(r["mmd2/hidden1"], rel=1e-5)
    if name == "semi_supervised":
        for r in last.values():
            assert (r["source_samples"], r["unqueried_samples"]) == (80, 295 - 30)
            right, of_rest = 295 * r["accuracy/target"], 265 * r["accuracy/unqueried"]
            assert right == pytest.approx(round(right)) and of_rest == pytest.approx(round(of_rest))
            assert 0 <= round(right) - round(of_rest) <= 30  # the others are the labelled ones
        assert last[shared.NETWORK, "semi-supervised DAN"]["labels"] == 30
        assert (
            last[shared.NETWORK, "semi-supervised DAN"]["loss"] > last[shared.NETWORK, "unsupervised DAN"]["loss"]
        )  # a term more
    if name == "frozen_layers":
        assert {network for network, _ in last} == {
            "squeezenet1_1-frozen-to-none",
            "squeezenet1_1-frozen-to-fire8",
            "squeezenet1_1-cut-after-fire9",
        }
        kept = torch.load(tmp_path / "run" / "stages" / "features.pt", weights_only=True)
        where = Setup(**shared.setup_of(tyro.cli(frozen_layers.FrozenLayers, args=words[1:])))
        task = where.task("d2w")
        outputs = where.outputs(task.target, where.network(task, 0), keep=False)
        assert torch.allclose(kept["w"]["pool"], outputs.tensors[0], atol=1e-4)
        assert torch.allclose(kept["w"]["fire9"], kept["w"]["pool"], atol=1e-4)  # the pool averages over positions
        assert torch.equal(kept["w"]["y"], outputs.tensors[1])

    before = {path: path.stat().st_mtime_ns for path in results.values()}
    assert run("experiments", "", commands, words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().out.split("took:")[0] == first.split("took:")[0]
