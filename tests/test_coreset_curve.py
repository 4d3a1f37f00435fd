"""coreset_curve: ResNet-20 as its paper has it, the plan and complaints, sentences from records alone, a tiny run."""

from __future__ import annotations

import csv
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from made_cifar10 import write_made

from active.pool import Query
from active.round_files import read_rounds
from active.strategies import STRATEGIES as KNOWN
from dan.cli.command_line import run
from experiments import coreset_curve
from experiments.cifar10 import HE_2016, NETWORKS
from experiments.cifar10.learner import rate_factor
from experiments.cifar10.networks import Block, network, resnet20
from experiments.coreset_curve import (
    STRATEGIES,
    CoresetCurve,
    captions,
    cells,
    columns_of,
    figure_of,
    findings,
    table_of,
)
from experiments.framework.experiment import parts_of
from experiments.framework.options import command_of, reduced
from experiments.framework.records import read, to_lines, write_text
from experiments.framework.trials import _work


def record(strategy: str, seed: int, labels: int, value: float, name: str = "narrow_cnn") -> dict[str, Any]:
    made: dict[str, Any] = {"experiment": "coreset_curve", "task": "cifar10", "network": name, "method": strategy}
    made |= {"labels": labels, "seed": seed, "selection": "last", "command": "one", "command_of_all": "all"}
    made |= {"how": asdict(NETWORKS[name].training), "pool": 12_000, "test_images": 5_000}
    made |= {"start": 1000, "budget": 1500, "seconds": 2.0, "paper": None}
    return made | {"accuracy/target": value + 0.1, "accuracy/unqueried": value + 0.05, "accuracy/target_test": value}


def fabricated(others: dict[str, float], name: str = "narrow_cnn", last: int = 2500) -> list[dict[str, Any]]:
    """random: 60 % and 62 % on seeds 0 and 1, 50 % at 1,000 labels; the others so many points above it at the last."""
    records = []
    for seed in (0, 1):
        for strategy, above in {"random": 0.0, **others}.items():
            records.append(record(strategy, seed, 1000, 0.5, name))
            records.append(record(strategy, seed, last, 0.60 + 0.02 * seed + above, name))
    return records


# --- the network ------------------------------------------------------------------------------------------------------


def test_resnet20_has_the_papers_weights_and_maps() -> None:
    model = network("resnet20", 0)
    assert sum(weight.numel() for weight in model.parameters()) == 269_722  # "0.27M" in the paper's table 6
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shapes, flow = {}, x
    for name, stage in model.backbone.stages.items():
        flow = stage(flow)
        shapes[name] = tuple(flow.shape[1:])
    assert shapes["layer1"] == (16, 32, 32) and shapes["layer2"] == (32, 16, 16) and shapes["layer3"] == (64, 8, 8)
    assert shapes["pool"] == (64,)
    convolutions = [part for part in model.backbone.modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) == 6 * 3 + 1  # and the logits: 20 layers with weights
    model.eval()
    with torch.no_grad():
        output = model(x)
    assert output.features.shape == (2, 64) and torch.equal(output.features, model.backbone(x))


def test_a_block_is_its_formula() -> None:
    """Option A: every second pixel, new channels zero. With the convolutions at 0 the block is the shortcut alone."""
    for before, width, stride in ((4, 4, 1), (4, 8, 2)):
        block = Block(before, width, stride).eval()
        x = torch.rand(3, before, 6, 6)
        with torch.no_grad():
            torch.nn.init.zeros_(block.conv2.weight)
            out = block(x)
        extra = (width - before) // 2
        expected = torch.zeros(3, width, 6 // stride, 6 // stride)
        expected[:, extra : extra + before] = x[:, :, ::stride, ::stride]
        assert torch.equal(out, expected)
    assert resnet20().out_features == 64


def test_the_recipe_is_that_of_the_paper() -> None:
    assert (HE_2016.optimizer, HE_2016.lr, HE_2016.momentum, HE_2016.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert HE_2016.batch_size == 128 and HE_2016.crop
    # 64,000 steps of 128 on 45,000 images; the rate falls at 32,000 and 48,000.
    assert NETWORKS["resnet20"].epochs == round(64_000 * 128 / 45_000)
    expected = [1.0] * 32_000 + [0.1] * 16_000 + [0.01] * 16_000
    for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999):
        assert rate_factor(step, 64_000) == pytest.approx(expected[step])


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_strategy_of_a_seed_has_the_same_settings() -> None:
    parts = parts_of(cells(CoresetCurve(networks=("narrow_cnn", "resnet20"))), (0, 1, 2))
    assert [len(part) for part in parts] == [len(STRATEGIES)] * 6
    for part in parts:
        assert [trial.arguments["strategy"] for trial in part] == list(STRATEGIES)
        assert len({str({**trial.arguments, "strategy": ""}) for trial in part}) == 1
    names = [trial.name for part in parts for trial in part]
    assert len(set(names)) == len(names) == 36


def test_the_full_form_is_one_flag() -> None:
    full = reduced(CoresetCurve(full=True))
    assert full.start + full.rounds * full.budget == 25_000 and full.networks == ("small_cnn", "resnet20")
    for config, epochs in ((full, 182), (CoresetCurve(networks=("resnet20",)), 20), (replace(full, epochs=3), 3)):
        assert cells(config)[-1].trials[0].arguments["how"]["epochs"] == epochs
    assert command_of(full) == "python -m experiments run coreset_curve --full"
    words = shlex.split(command_of(CoresetCurve(rounds=7), networks="resnet20", strategies="hybrid"))
    read_back = tyro.cli(CoresetCurve, args=words[5:])
    assert read_back == CoresetCurve(rounds=7, networks=("resnet20",), strategies=("hybrid",))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--networks", "resnet18"], 'did you mean "resnet20"'),
        (["--strategies", "badg"], 'did you mean "badge"'),
        (["--strategies", "badge", "badge"], "different names"),
        (["--strategies", "aada"], "aada needs domain_probs"),
        (["--start", "0"], "--start"),
        (["--test", "5"], "--test must be 100 or more"),
        (["--full", "--quick"], "name one of them"),
        (["--data", "absent"], "absent"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["coreset_curve", *flags, "--out", str(tmp_path / "run")]
    assert run("experiments", "", {"coreset_curve": coreset_curve.EXPERIMENT.command}, words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- the report, from records alone -----------------------------------------------------------------------------------


def test_gains_are_over_random_on_the_same_seed() -> None:
    records = fabricated({"badge": 0.05, "k_center": -0.03})
    (said,) = findings(records)
    assert said == (
        "a narrow small CNN, 2,500 labels: random has 61.0 on the test images; best badge, +5.0 points, worst "
        "k_center, −3.0; below random: k_center; above it on every seed: badge."
    )
    headers, rows = table_of(records, "narrow_cnn")
    table = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert list(table) == ["random", "k_center", "badge"]  # in the experiment's order
    assert table["badge"]["2,500"] == "66.0 ± 1.4" and table["badge"]["1,000"] == "50.0 ± 0.0"
    assert table["badge"]["over random"] == "+5.0 ± 0.0" and table["random"]["over random"] == "–"
    assert table["badge"]["ALC test"] == "58.0 ± 0.7"  # the mean of 50 and 65, and of 50 and 67
    assert table["badge"]["unqueried"] == "71.0 ± 1.4" and table["badge"]["s a run"] == "4 ± 0"
    assert findings(fabricated({})) == []
    assert figure_of(records, "narrow_cnn", "test") is not None and figure_of(records, "resnet20", "test") is None
    assert "labelled set nearest" not in " ".join(captions(records))
    assert "nearest to the unlabelled" in " ".join(captions(fabricated({"mmd_reduction": 0.0})))


def test_published_rows_stand_where_the_labels_are_theirs() -> None:
    records = fabricated({"entropy": 0.01}, "resnet20", 25_000)
    headers, rows = table_of(records, "resnet20")
    published = {row[0]: row for row in rows if row[0].startswith("published")}
    assert published["published: Random, 1000 a round (ResNet-18)"][1:3] == ["55.6", "91.0"]
    assert all(len(row) == len(headers) for row in rows)
    assert "ResNet-18" in captions(records)[-1]
    other = fabricated({"entropy": 0.01}, "resnet20", 2500)
    beside = [row[1:3] for row in table_of(other, "resnet20")[1] if row[0].startswith("published")]
    assert beside == [["55.6", "–"]] * 5
    # Of many counts the published ones are shown, if the last is among them.
    many = [record("random", 0, labels, 0.5, "resnet20") for labels in range(1000, 26_000, 1000)]
    assert columns_of(many, "resnet20") == [1000, 7000, 13_000, 19_000, 25_000]
    plain = columns_of([r | {"network": "small_cnn"} for r in many], "small_cnn")
    assert len(plain) == 6 and (plain[0], plain[-1]) == (1000, 25_000)


def test_the_report_is_made_of_records_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "records.jsonl", to_lines(fabricated({"badge": 0.05})[::-1]))
    assert coreset_curve.EXPERIMENT.write_report(tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.startswith("- a narrow small CNN, 2,500 labels: random has 61.0") and "`all`" in text
    assert {"narrow_cnn_test.png", "narrow_cnn_unqueried.png"} <= {p.name for p in (tmp_path / "figures").iterdir()}
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        cells = {(r["method"], r["labels"], r["split"], r["metric"]): r["mean"] for r in csv.DictReader(file)}
    assert cells["badge", "2500", "test", "accuracy"] == "66.0000" and cells["badge", "2500", "test", "alc"]


# --- the experiment itself --------------------------------------------------------------------------------------------


def test_a_tiny_run_shows_mmd_reduction_the_labelled_as_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = write_made(tmp_path / "data", monkeypatch), tmp_path / "run"
    shown: list[Query] = []
    original = KNOWN["mmd_reduction"]

    def watched(query: Query, budget: int, *, generator: torch.Generator) -> torch.Tensor:
        shown.append(query)
        return original(query, budget, generator=generator)

    flags = ["--strategies", "badge", "mmd_reduction", "--seeds", "3", "--epochs", "1", "--networks", "narrow_cnn"]
    flags += ["--start", "40", "--budget", "60", "--rounds", "2", "--pool", "200", "--test", "100"]
    flags += ["--data", str(made), "--out", str(out), "--image-cache", str(tmp_path / "images"), "--quiet"]
    config = tyro.cli(CoresetCurve, args=flags)
    (part,) = parts_of(cells(config), config.seeds)
    for trial in part:
        if trial.arguments["strategy"] == "mmd_reduction":
            monkeypatch.setitem(KNOWN, "mmd_reduction", watched)
        finished, result = _work(trial, out)
        assert finished, result
    assert [len(query.labelled_ids) for query in shown] == [40, 100]  # type: ignore[arg-type]
    for query in shown:
        assert query.source_features is not None and query.labelled_features is not None and query.kernel is not None
        assert torch.equal(query.source_features, query.labelled_features[:1])
    monkeypatch.undo()
    write_made(tmp_path / "data", monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
    assert run("experiments", "", {"coreset_curve": coreset_curve.EXPERIMENT.command}, ["coreset_curve", *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    records = read(out / "records.jsonl")
    assert [r["labels"] for r in records] == [40, 100, 160] * 2
    assert len({r["accuracy/target_test"] for r in records if r["labels"] == 40}) == 1  # the same start for all
    assert [len(file.answers) for file in read_rounds(out / "narrow_cnn-mmd_reduction-seed3")] == [60, 60, 0]


def test_resnet20_trains_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds on a handful of images: batch norm, crops and steps of the rate in one trial."""
    made = write_made(tmp_path / "data", monkeypatch)
    config = CoresetCurve(data=made, image_cache=tmp_path / "images", networks=("resnet20",), strategies=("margin",))
    config = replace(config, seeds=(0,), pool=100, test=100, start=20, budget=20, rounds=1, epochs=2)
    ((trial,),) = parts_of(cells(config), config.seeds)
    assert trial.arguments["how"]["schedule"] == "steps" and trial.arguments["how"]["crop"]
    finished, result = _work(trial, tmp_path / "run")
    assert finished, result
    assert [each["labelled"] for each in result["evaluations"]] == [20, 40]
