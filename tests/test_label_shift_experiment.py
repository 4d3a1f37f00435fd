"""label_shift: gains over the right base by definition, the worst transfer first, and what its trials share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import label_shift as ls
from experiments.framework.trials import with_prerequisites
from experiments.office_caltech10 import trial as office_trial


def record(method: str, transfer: str, seed: int, unqueried: float) -> dict[str, Any]:
    made = {"method": method, "task": f"office_caltech10_{transfer}, last", "seed": seed, "shifted_classes": "last"}
    return made | {"accuracy/unqueried": unqueried}


RECORDS = [
    *(record("source-only", "a2c", seed, 0.80) for seed in (0, 1)),
    *(record("source-only", "c2a", seed, 0.90) for seed in (0, 1)),
    record("DAN", "a2c", 0, 0.85), record("DAN", "a2c", 1, 0.87),
    record("DAN", "c2a", 0, 0.80),
    record("labels-only", "a2c", 0, 0.88), record("DAN with labels", "a2c", 0, 0.84),
]  # fmt: skip


def test_gains_are_over_the_base_of_the_same_seed_and_labels() -> None:
    gains = ls.gains_of(RECORDS, "last", "DAN")
    assert gains == pytest.approx({"office_caltech10_a2c, last": 6.0, "office_caltech10_c2a, last": -10.0})
    assert ls.gains_of(RECORDS, "last", "DAN with labels") == pytest.approx({"office_caltech10_a2c, last": -4.0})
    assert ls.gains_of(RECORDS, "first", "DAN") == {}
    headers, rows = ls.gains_table(RECORDS)
    assert headers == ["method", "last: worst", "last: mean"]
    by_method = {row[0]: row[1:] for row in rows}
    assert by_method["DAN"] == ["−10.0", "−2.0"] and by_method["DAN with labels"] == ["−4.0", "−4.0"]
    assert "−10.0 (c2a)" in ls.findings(RECORDS)[0]


def test_the_rows_of_a_seed_share_one_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ls.LabelShiftOptions(transfers=("d2w",), seeds=(0, 1), lr=1e-3, trade_off=1.0)
    monkeypatch.setattr(ls.office, "setup_of", lambda *_: {"frozen": office_trial.EVERYTHING})
    cells = ls.cells(config)
    assert len(cells) == len(ls.SHIFTS) * len(ls.METHODS)
    trials = with_prerequisites([trial for cell in cells for trial in cell.trials])
    names = [trial.name for trial in trials]
    assert sum(name.endswith(tuple(f"estimate-d2w-seed{s}" for s in (0, 1))) for name in names) == 2 * len(ls.SHIFTS)
    of = {cell.about["method"]: cell.trials[0].arguments for cell in cells if cell.about["shifted_classes"] == "last"}
    assert of["source-only"]["trade_off"] == of["labels-only"]["trade_off"] == 0 and of["DAN"]["trade_off"] == 1
    assert of["DAN+MCC, MLLS weights"]["how"]["method"] == "dan+mcc" and of["DAN, BBSE weights"]["weighted"] == "bbse"
    assert {arguments["estimated"] for arguments in of.values()} == {"last-estimate-d2w-seed0"}


def test_the_source_keeps_a_part_of_five_classes(data_folder: Path, tmp_path: Path) -> None:
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    place = {"backbone": "squeezenet1_1", "frozen": office_trial.EVERYTHING, "weights": str(weights)}
    place |= {"data": str(data_folder), "images": str(tmp_path), "image_size": 32}
    whole, kept = (
        ls.shifted(place, "d2w", shift, 0)[2].tensors[1].bincount(minlength=10) for shift in ("none", "last")
    )
    assert int(whole.sum()) == 157  # the photographs of dslr
    assert whole[:5].tolist() == kept[:5].tolist()
    assert 0.15 < float(kept[5:].sum() / whole[5:].sum()) < 0.45
