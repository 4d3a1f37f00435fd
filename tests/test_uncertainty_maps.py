"""The uncertainty maps: all distributions once, corners in their place, and a picture that is one."""

import pytest
import torch

from experiments.__main__ import main
from experiments.uncertainty_maps import CORNERS, SCORES, distributions


def test_every_distribution_of_the_grid_is_there_once():
    probs = distributions(6)
    assert probs.shape == (28, 3)
    assert torch.allclose(probs.sum(1), torch.ones(28, dtype=torch.float64))
    assert len(probs.unique(dim=0)) == 28
    assert bool((probs >= 0).all())


def test_corners_are_certain_and_the_centre_is_asked_for():
    probs = distributions(6)
    for _, score in SCORES.values():
        value = score(probs)
        assert set(value[probs.max(1).values == 1].tolist()) == {0.0}
        centre = (probs == 1 / 3).all(1) | ((probs - 1 / 3).abs() < 1e-12).all(1)
        assert float(value[centre]) == pytest.approx(1)
        assert int((value > 1 - 1e-12).sum()) >= 1
    sides = [float((CORNERS[i] - CORNERS[j]).norm()) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert sides == pytest.approx([1, 1, 1])


def test_the_command_draws_a_picture_and_refuses_what_cannot_be(tmp_path, capsys):
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--resolution", "12"]) == 0
    picture = tmp_path / "figures" / "maps.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--resolution", "2"]) == 2
    assert main(["run", "uncertainty_maps", "--out", str(tmp_path), "--temperatures", "0"]) == 2
    assert "at least 3" in (said := capsys.readouterr().err) and "must be positive" in said
