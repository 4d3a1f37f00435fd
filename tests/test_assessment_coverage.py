"""The simulation of coverage: its pieces, and a few hundred runs of both kinds."""

import json

import numpy as np
import pytest
import torch

from active.pool import Pool
from active.strategies import STRATEGIES
from experiments.assessment_coverage import (
    Outputs,
    Tally,
    main,
    read_outputs,
    refit,
    simulate_looks,
    simulate_rounds,
    with_share,
)


def outputs_of(count=240, classes=3, seed=0):
    """Outputs of a network that is right on about four of five, and surer where it is."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    features = torch.randn(count, 6, generator=generator) + torch.nn.functional.one_hot(targets, 6)
    logits = 2 * features[:, :classes] + torch.randn(count, classes, generator=generator)
    return Outputs("made", logits, features, targets)


def test_a_subset_has_the_share_that_was_asked_for():
    outputs = outputs_of(600)
    for share in (0.01, 0.1, 0.5):
        part = with_share(outputs, share, 300, torch.Generator().manual_seed(1))
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


def test_a_tally_counts_runs_and_averages_widths():
    tally = Tally()
    tally.add(0.2, 0.6, True)
    tally.add(0.5, 0.7, False)
    assert tally.record() == {"runs": 2, "held": 1, "width": pytest.approx(0.3)}


@pytest.mark.parametrize("strategy", ["random", "margin"])
def test_intervals_of_one_network_hold_in_150_runs(strategy):
    generator = torch.Generator().manual_seed(0)
    tallies = simulate_looks(outputs_of(), STRATEGIES[strategy], 60, 150, generator)
    for name, tally in tallies.items():
        assert tally.held >= 133, name  # 0.1 % of the binomial with 150 and 0.95
    widths = {name: tally.width for name, tally in tallies.items()}
    assert widths["exact"] < widths["clopper_pearson"]
    assert widths["exact"] < widths["sequence"] < 1.6 * widths["clopper_pearson"]


@pytest.mark.parametrize("mode", ["train", "hold"])
def test_intervals_of_all_rounds_hold_at_once_in_40_runs(mode):
    tallies = simulate_rounds(outputs_of(), STRATEGIES["margin"], mode, 40, torch.Generator().manual_seed(0))
    for name, tally in tallies.items():
        assert tally.runs == 40 and tally.held >= 33, name  # 0.1 % of the binomial with 40 and 0.95


def test_hold_measures_the_last_network_with_all_audits_and_train_with_the_last_ones():
    widths = {}
    for mode in ("train", "hold"):
        tallies = simulate_rounds(outputs_of(), STRATEGIES["random"], mode, 10, torch.Generator().manual_seed(0))
        widths[mode] = tallies["accuracy"].width
    assert widths["hold"] < widths["train"]


def test_the_command_writes_a_record_for_every_setting(tmp_path, monkeypatch):
    outputs = outputs_of()
    content = {"logits": outputs.logits, "features": outputs.features, "y": outputs.targets}
    torch.save(content, tmp_path / "made.pt")
    assert torch.equal(read_outputs(tmp_path / "made.pt").targets, outputs.targets)
    monkeypatch.setattr("experiments.assessment_coverage.SHARES", (0.1, 0.5))
    monkeypatch.setattr("experiments.assessment_coverage.NAMES", ("random",))
    monkeypatch.setattr("experiments.assessment_coverage.BUDGETS", (20, 500))
    for kind in ("looks", "rounds"):
        main([kind, str(tmp_path / f"{kind}.jsonl"), "2", str(tmp_path / "made.pt")])
    looks = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert [(r["share"], r["audits"]) for r in looks] == [(0.1, 20), (0.5, 20)]  # 500 audits are more than the pool
    assert all(r["exact"]["runs"] == 2 and 0 < r["accuracy"] < 1 for r in looks)
    rounds = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [r["mode"] for r in rounds] == ["train", "hold"]
    assert all(np.isfinite(r["accuracy"]["width"]) for r in rounds)
    with pytest.raises(SystemExit, match=r"looks\|rounds"):
        main(["looks"])
