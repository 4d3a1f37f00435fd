"""--method auto: every candidate is trained, source-only among them, and one rule chooses."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from dan import DAN, TrainConfig, fit
from dan.__main__ import main
from dan.errors import UserError
from dan.evaluation.validators import VALIDATORS
from dan.training.portfolio import FEWEST_AUDITS, PORTFOLIO, SOURCE_ONLY, Candidate, choose_candidate

CONFIG = TrainConfig(batch_size=16)


def blobs(counts: tuple[int, ...], shift: float, seed: int) -> TensorDataset:
    """Three classes at corners of a simplex, so many samples of each, moved by `shift` in a fourth dimension."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    x = 2.0 * torch.eye(4)[y] + torch.randn(len(y), 4, generator=generator)
    x[:, 3] += shift
    return TensorDataset(x, y)


SOURCE, TARGET = blobs((60, 60, 12), 0.0, 0), blobs((15, 15, 60), 1.0, 1)


def build() -> DAN:
    torch.manual_seed(0)
    model = DAN("features", 3, layers=(8,))
    model(torch.zeros(1, 4))
    return model


def chosen(**options: Any) -> Any:
    return choose_candidate(build, SOURCE, TARGET, **{"steps": 40, "config": CONFIG, "trade_off": 2.0} | options)


def test_every_candidate_is_trained_and_the_highest_score_is_chosen(tmp_path: Path) -> None:
    choice = chosen(run=tmp_path)
    assert [record["candidate"] for record in choice.records] == [candidate.name for candidate in PORTFOLIO]
    best = max(choice.records, key=lambda record: record[choice.rule])
    assert choice.candidate.name == best["candidate"] and f"> {best['candidate']} " in choice.table()
    assert [record["trade_off"] for record in choice.records] == [0, 0.2, 2, 2, 2, 2, 2]
    kept = json.loads((tmp_path / "choice.json").read_text(encoding="utf-8"))
    assert kept["chosen"] == best["candidate"] and kept["candidates"] == choice.records
    assert len(list((tmp_path / "candidates").glob("*/model.pt"))) == len(PORTFOLIO)
    again = chosen(run=tmp_path)  # nothing is trained again
    assert again.records == choice.records
    in_memory = chosen()
    assert in_memory.records == choice.records


def test_the_corrected_candidates_have_the_weights_of_the_estimate() -> None:
    choice = chosen(candidates=PORTFOLIO[:4])
    assert choice.shift.shares.total_variation > 0.25 and float(choice.shift.weights[2]) > 1.5
    equal = chosen(candidates=(SOURCE_ONLY, Candidate("a", "dan"), Candidate("b", "dan", corrected=True)))
    plain, corrected = (record[equal.rule] for record in equal.records[1:])
    assert plain != corrected


def test_enough_audit_labels_choose() -> None:
    ids = torch.randperm(len(TARGET), generator=torch.Generator().manual_seed(3))[:FEWEST_AUDITS]
    audits = ids, TARGET.tensors[1][ids]
    choice = chosen(audits=audits)
    best = max(record["audit_accuracy"] for record in choice.records)
    assert choice.rule == "audit_accuracy"
    assert next(r for r in choice.records if r["candidate"] == choice.candidate.name)["audit_accuracy"] == best
    few = chosen(audits=(ids[:-1], TARGET.tensors[1][ids[:-1]]))
    assert few.rule == "information" and "audit_accuracy" in few.records[0]


def test_a_wrong_model_does_not_win_by_audits() -> None:
    """A candidate whose trade-off ruins it: with audit labels source-only is kept."""
    ids = torch.arange(len(TARGET))
    portfolio = (SOURCE_ONLY, Candidate("ruined", "dan", 1e4))
    choice = chosen(audits=(ids, TARGET.tensors[1]), candidates=portfolio)
    assert choice.candidate == SOURCE_ONLY
    assert choice.records[0]["audit_accuracy"] > choice.records[1]["audit_accuracy"]


@pytest.mark.parametrize("validator", [name for name in VALIDATORS if name != "circular"])
def test_any_validator_can_choose(validator: str) -> None:
    choice = chosen(validator=validator, candidates=PORTFOLIO[:2], steps=10)
    assert choice.rule == validator and all(validator in record for record in choice.records)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UserError, match="holds source-only"):
        chosen(candidates=PORTFOLIO[1:])
    with pytest.raises(UserError, match="too few to hold a fifth out"):
        choose_candidate(build, blobs((8, 8, 2), 0.0, 0), TARGET, config=CONFIG, steps=5)
    with pytest.raises(UserError, match="unknown validator"):
        chosen(validator="informative", candidates=PORTFOLIO[:1], steps=2)


def test_the_command_trains_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dan", *words])
        return main()

    words = ["train", "rendered2digits", "--steps", "8", "--batch-size", "16", "--method", "auto"]
    assert run(*words, "--run", str(tmp_path)) == 0
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "choice.json").read_text(encoding="utf-8"))
    assert f"target label was read: {kept['chosen']}" in said and (tmp_path / "model.pt").is_file()
    for wrong in (["--tune", "2"], ["--label-shift", "correct"], ["--trade-off", "0"], ["--source-weights", "kmm"]):
        assert run(*words, *wrong, "--run", str(tmp_path / "wrong")) == 2
        assert "--method auto" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_auto_is_no_method_of_the_library() -> None:
    with pytest.raises(UserError, match="auto"):
        fit(build(), SOURCE, TARGET, config=TrainConfig(method="auto", batch_size=16), steps=1)
