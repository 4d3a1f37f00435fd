"""The uncertainty maps: all distributions once, corners in their place, and a picture that is one."""

import math

import pytest
import torch

from experiments.__main__ import main
from experiments.framework.records import read
from experiments.uncertainty_maps import CORNERS, POINTS, discordant, distributions, scores


def test_every_distribution_of_the_grid_is_there_once():
    probs = distributions(6)
    assert probs.shape == (28, 3)
    assert torch.allclose(probs.sum(1), torch.ones(28, dtype=torch.float64))
    assert len(probs.unique(dim=0)) == 28
    assert bool((probs >= 0).all())


def test_corners_are_certain_and_the_centre_is_asked_for():
    probs = distributions(6)
    for value in scores(probs).values():
        assert set(value[probs.max(1).values == 1].tolist()) == {0.0}
        centre = (probs == 1 / 3).all(1) | ((probs - 1 / 3).abs() < 1e-12).all(1)
        assert float(value[centre]) == pytest.approx(1)
        assert int((value > 1 - 1e-12).sum()) >= 1
    sides = [math.dist(CORNERS[i], CORNERS[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert sides == pytest.approx([1, 1, 1])


def test_orders_are_compared_pair_by_pair():
    first, second = torch.tensor([0.0, 1.0, 2.0, 2.0]), torch.tensor([3.0, 2.0, 5.0, 6.0])
    pairs = [(i, j) for i in range(4) for j in range(i)]
    sign = [[float((v[i] - v[j]).sign()) for i, j in pairs] for v in (first, second)]
    expected = sum(abs(a - b) / 2 for a, b in zip(*sign, strict=True)) / len(pairs)
    assert discordant(first, second) == pytest.approx(expected) == pytest.approx(1.5 / 6)
    assert discordant(first, first) == 0 and discordant(second, -second) == 1


def test_the_command_reports_and_refuses_what_cannot_be(tmp_path, capsys):
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--resolution", "12"]) == 0
    picture = tmp_path / "figures" / "maps.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    records = read(tmp_path / "records.jsonl")
    assert len(records) == 2 * 4 * len(POINTS)
    found = {(r["method"], r["temperature"], r["at"]): r["score"] for r in records}
    assert found["margin", 1.0, "one ahead"] == pytest.approx(1 - 0.4)
    assert found["ratio", 3.0, "one ahead"] == pytest.approx((0.2 / 0.6) ** (1 / 3))
    text = (tmp_path / "table.md").read_text()
    assert "| margin | 0.000 | 0.600 | 1.000 | 1.000 | 0.900 | 1.000 |" in text and "--resolution 12" in text
    assert "Selection of the model" not in text  # there is none
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert main(["report", "uncertainty_maps", "--out", str(tmp_path)]) == 0
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--resolution", "2"]) == 2
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--temperatures", "0"]) == 2
    assert "at least 3" in (said := capsys.readouterr().err) and "must be positive" in said
