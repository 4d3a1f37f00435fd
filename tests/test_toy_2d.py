"""The picture of picks in the plane: its domains are what the text says, and the picks are the strategies'."""

from pathlib import Path

import pytest
import torch

from active.strategies import STRATEGIES as KNOWN
from active.strategies.coreset import k_center_greedy
from active.strategies.uncertainty import margin_of_confidence
from experiments.toy_2d import OF_CLASS, SHARE, STRATEGIES, main, plane


def test_the_classifier_is_right_on_the_source_and_surely_wrong_on_the_second_group() -> None:
    domains = plane()
    assert (domains.logits(domains.source).argmax(1) == domains.source_classes).double().mean() > 0.97
    second = slice(2 * OF_CLASS - round(SHARE * OF_CLASS), 2 * OF_CLASS)
    assert (domains.target_classes[second] == 1).all()
    logits = domains.logits(domains.target[second])
    assert (logits.argmax(1) == 0).double().mean() > 0.9
    assert margin_of_confidence(logits.softmax(1)).median() < 0.1


def test_the_picks_are_the_strategies() -> None:
    domains = plane(3)
    margins = margin_of_confidence(domains.logits(domains.target).softmax(1))
    assert domains.picks("margin", 5).tolist() == margins.topk(5).indices.tolist()
    assert torch.equal(domains.picks("k_center", 5), k_center_greedy(domains.target, None, 5))
    assert set(STRATEGIES) <= set(KNOWN)
    for strategy in STRATEGIES:
        assert len(set(domains.picks(strategy, 12).tolist())) == 12


def test_the_command_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "picks.png"
    assert main(["--out", str(out), "--strategies", "margin", "--budget", "3"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and str(out) in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "picks.gif")]) == 2
    assert main(["--out", str(out), "--budget", "0"]) == 2
    assert main(["--out", str(out), "--strategies", "margn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "did you mean" in lines[2]
