"""The simulation of coverage: its pieces, and a few hundred runs of both kinds."""

import numpy as np
import pytest
import torch

from active.pool import Pool
from experiments import assessment_coverage
from experiments.__main__ import main
from experiments.assessment_coverage.simulation import (
    Outputs,
    clopper_pearson,
    coverage,
    refit,
    simulate_looks,
    simulate_rounds,
)
from experiments.framework.records import read


def outputs_of(count=240, classes=3, seed=0):
    """Outputs of a network that is right on about four of five, and surer where it is."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    features = torch.randn(count, 6, generator=generator) + torch.nn.functional.one_hot(targets, 6)
    logits = 2 * features[:, :classes] + torch.randn(count, classes, generator=generator)
    return Outputs(logits, features, targets)


def test_a_subset_has_the_share_that_was_asked_for():
    outputs = outputs_of(600)
    for share in (0.01, 0.1, 0.5):
        part = outputs.with_share(share, 300, torch.Generator().manual_seed(1))
        assert len(part.targets) <= 300
        assert float((part.targets == 0).double().mean()) == pytest.approx(share, abs=0.005)


def test_the_refitted_head_is_the_ridge_regression_of_the_residuals():
    outputs = outputs_of(60)
    pool = Pool(range(60), outputs.targets)
    assert torch.equal(refit(outputs, pool), outputs.logits)
    ids = torch.arange(0, 60, 3)
    pool.label(ids, outputs.targets[ids], round=1)
    x = torch.nn.functional.normalize(outputs.features.double())
    residuals = torch.nn.functional.one_hot(outputs.targets, 3).double() - outputs.logits.double().softmax(1)
    normal = x[ids].T @ x[ids] + torch.eye(6, dtype=torch.float64)
    weights = torch.linalg.solve(normal, x[ids].T @ residuals[ids])
    assert torch.allclose(refit(outputs, pool), outputs.logits + 10 * (x @ weights).float(), atol=1e-5)


def test_a_run_counts_if_all_of_its_intervals_hold():
    runs = [{"a": [(0.0, 1.0, 0.5), (0.2, 0.6, 0.6)]}, {"a": [(0.5, 0.6, 0.7), (0.5, 0.7, 0.6)]}]
    assert coverage(runs) == {"a": {"coverage": 0.5, "width": pytest.approx(0.3)}}


@pytest.mark.parametrize(("right", "drawn"), [(0, 10), (3, 10), (10, 10)])
def test_clopper_pearson_inverts_the_binomial_tails(right, drawn):
    from scipy.stats import binom

    low, high = clopper_pearson(right, drawn)
    assert low == 0 if right == 0 else binom.sf(right - 1, drawn, low) == pytest.approx(0.025)
    assert high == 1 if right == drawn else binom.cdf(right, drawn, high) == pytest.approx(0.025)


@pytest.mark.parametrize("strategy", ["random", "margin"])
def test_intervals_of_one_network_hold_in_150_runs(strategy):
    found = coverage(simulate_looks(outputs_of(), strategy, 60, 150, torch.Generator().manual_seed(0)))
    assert min(values["coverage"] for values in found.values()) >= 133 / 150  # 0.1 % of the binomial with 150 and 0.95
    widths = {name: values["width"] for name, values in found.items()}
    assert widths["one look"] < widths["clopper-pearson"]
    assert widths["one look"] < widths["all looks"] < 1.6 * widths["clopper-pearson"]


@pytest.mark.parametrize("mode", ["train", "hold"])
def test_intervals_of_all_rounds_hold_at_once_in_40_runs(mode):
    found = coverage(simulate_rounds(outputs_of(), "margin", mode, 40, torch.Generator().manual_seed(0)))
    assert list(found) == ["accuracy", "unlabelled", "balanced"]
    assert min(values["coverage"] for values in found.values()) >= 33 / 40  # 0.1 % of the binomial with 40 and 0.95


def test_hold_measures_the_last_network_with_all_audits_and_train_with_the_last_ones():
    widths = {
        mode: coverage(simulate_rounds(outputs_of(), "random", mode, 10, torch.Generator().manual_seed(0)))
        for mode in ("train", "hold")
    }
    assert widths["hold"]["accuracy"]["width"] < widths["train"]["accuracy"]["width"]


def test_a_run_records_every_setting_and_its_report_the_lowest_coverage(tmp_path, monkeypatch, capsys):
    torch.save(dict(zip(("logits", "features", "y"), outputs_of(), strict=True)), tmp_path / "made.pt")
    monkeypatch.setattr(assessment_coverage.simulation, "SHARES", (0.1, 0.5))
    config = assessment_coverage.AssessmentCoverage(
        outputs=(tmp_path / "made.pt",), strategies=("random",), audits=(20, 500), runs=2
    )
    ((cell),) = assessment_coverage.cells(config)
    (trial,) = cell.trials
    results = {trial.name: trial.function(tmp_path / "run" / trial.name, **trial.arguments)}
    records = assessment_coverage.records_of(cell, trial, results)
    looks = [(r["network"], r["labels"]) for r in records if r["interval"] == "one look"]
    assert looks == [("share 0.1", 20), ("share 0.5", 20)]  # 500 audits are more than the pool
    assert {r["network"] for r in records if r["interval"] == "accuracy"} == {"rounds, train", "rounds, hold"}
    assert all(r["coverage"] in (0, 0.5, 1) and np.isfinite(r["width"]) for r in records)
    wrong = main(["run", "assessment_coverage", "--outputs", str(tmp_path / "none.pt"), "--out", str(tmp_path / "run")])
    assert wrong == 2 and "there is no file" in capsys.readouterr().err


def test_the_command_trains_a_network_on_digits_where_no_outputs_are_named(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["run", "assessment_coverage", "--quick", "--out", str(out), "--quiet", "--workers", "1"]
    assert main(words) == 0
    records = read(out)
    assert {record["task"] for record in records} == {"rendered2digits"}
    lowest = min(record["coverage"] for record in records)
    assert f"{lowest:.1%}" in (out / "table.md").read_text(encoding="utf-8").splitlines()[0]
    assert "| one look | 20 |" in capsys.readouterr().out
