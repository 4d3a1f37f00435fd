"""The example on 1-D signals: its waves are what they are said to be, and adaptation helps on them."""

import pytest
import torch

from experiments.example_1d import CLASSES, SOURCE, TARGET, WAVES, Instrument, accuracies, main, make_signals


def test_waves_have_one_period_one_mean_and_one_power() -> None:
    cycles = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for wave in WAVES:
        assert float(wave(cycles).mean()) == pytest.approx(0, abs=1e-3)
        assert float(wave(cycles).square().mean()) == pytest.approx(1, abs=1e-3)
        assert torch.allclose(wave(cycles + 3), wave(cycles), atol=1e-6)


def test_signals_are_as_the_instrument_says() -> None:
    data = make_signals(90, Instrument(cycles=(4, 4), gain=(2, 2)), seed=0)
    x, y = data.tensors
    assert x.shape == (90, 1, 128) and x.dtype == torch.float32
    assert torch.bincount(y).tolist() == [30, 30, 30]
    assert torch.allclose(x.square().mean(2), torch.tensor(4.0), atol=0.2)  # gain^2, whatever the shape
    spectrum = torch.fft.rfft(x[:, 0]).abs()
    assert set(spectrum.argmax(1).tolist()) == {4}  # cycles in the signal
    again, other = make_signals(90, TARGET, seed=1).tensors[0], make_signals(90, TARGET, seed=1).tensors[0]
    assert torch.equal(again, other) and not torch.equal(again, make_signals(90, TARGET, seed=2).tensors[0])
    drifting = make_signals(50, Instrument(cycles=(4, 4), gain=(0, 0), drift=1.0), seed=0).tensors[0][:, 0]
    slopes = drifting.diff(dim=1) * 128
    assert torch.allclose(slopes, slopes[:, :1].expand_as(slopes), atol=1e-3) and slopes.abs().max() <= 1.001


def test_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state()
    make_signals(10, SOURCE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_adaptation_helps_on_signals() -> None:
    """Three waves; the source is learned either way, and the target only by DAN. Chance is 1/3."""
    plain, adapted = accuracies(0.0, seed=1, steps=200), accuracies(3.0, seed=1, steps=200)
    assert min(plain["source"], adapted["source"]) > 0.95
    assert adapted["target"] > 0.9 and adapted["target"] > plain["target"] + 0.05


def test_the_script_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    main(steps=2, seeds=(0,))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", "source-only", "DAN"] and len(CLASSES) == 3
