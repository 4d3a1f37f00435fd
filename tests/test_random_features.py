"""Random Fourier features against the exact estimate, and their standard error against their own scatter."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dan.mmd import MultiKernel, median_bandwidth, mmd2, random_feature_mmd2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(n: int, m: int, f: int, seed: int = 0, shift: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64)
    return x, y + shift


def uneven(x: Tensor, y: Tensor) -> MultiKernel:
    gamma = median_bandwidth(x, y)
    return MultiKernel(gamma * torch.tensor([0.25, 1.0, 4.0, 99.0]).to(gamma), torch.tensor([0.5, 0.3, 0.2, 0.0]))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_scatters_around_the_exact_value_by_its_standard_error(shift: float) -> None:
    trials = 200
    x, y = sample(70, 50, 5, shift=shift)
    kernel = uneven(x, y)
    exact = float(mmd2(x, y, kernel))
    found = [random_feature_mmd2(x, y, kernel, features=400, generator=seeded(seed)) for seed in range(trials)]
    z = np.array([(estimate - exact) / error for estimate, error in found])
    assert abs(z.mean()) < 3.5 / math.sqrt(trials)
    assert abs(z.std() - 1) < 3.5 / math.sqrt(2 * trials)
    assert np.abs(z).max() < 4.5


def test_more_features_are_closer_to_the_exact_value() -> None:
    x, y = sample(300, 200, 8)
    kernel = uneven(x, y)
    exact = float(mmd2(x, y, kernel))
    few, many = (random_feature_mmd2(x, y, kernel, features=d, generator=seeded(0)) for d in (500, 50_000))
    assert many[1] == pytest.approx(few[1] / 10, rel=0.2)
    assert abs(many[0] - exact) < 4 * many[1] and many[1] < exact / 50


def test_each_wave_equals_its_pairs() -> None:
    """The closed form of |phi|^2 against loops over pairs of cos(w'(a - b)), with the very same frequencies."""
    x, y = sample(6, 4, 3)
    kernel = MultiKernel.of([2.0])
    w = torch.randn(3, 7, dtype=torch.float64, generator=_after_multinomial(7, seed=5)) * math.sqrt(2 / 2.0)
    waves = []
    for frequency in w.T:

        def k(a: Tensor, b: Tensor, frequency: Tensor = frequency) -> float:
            return math.cos(float(frequency @ (a - b)))

        xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (6 * 5)
        yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (4 * 3)
        waves.append(xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (6 * 4))
    estimate, error = random_feature_mmd2(x, y, kernel, features=7, generator=seeded(5))
    assert estimate == pytest.approx(np.mean(waves), rel=1e-10)
    assert error == pytest.approx(np.std(waves, ddof=1) / math.sqrt(7), rel=1e-10)


def _after_multinomial(features: int, seed: int) -> torch.Generator:
    generator = seeded(seed)
    torch.multinomial(torch.ones(1, dtype=torch.float64), features, replacement=True, generator=generator)
    return generator


def test_chunks_precision_and_offset_do_not_change_it() -> None:
    x, y = sample(3000, 2500, 4)
    kernel = uneven(x, y)
    exact, error = random_feature_mmd2(x, y, kernel, features=2048, generator=seeded(0))  # chunks of 1,024 rows
    plain = random_feature_mmd2(x[:900], y[:900], kernel, features=2048, generator=seeded(0))[0]
    assert plain != exact  # all rows are read, not a chunk of them
    shuffled = random_feature_mmd2(x.flip(0), y.flip(0), kernel, features=2048, generator=seeded(0))
    assert shuffled == pytest.approx((exact, error), rel=1e-9)
    far = random_feature_mmd2(x + 1000, y + 1000, kernel, features=2048, generator=seeded(0))
    assert far == pytest.approx((exact, error), rel=1e-7)
    single = random_feature_mmd2((x + 100).float(), (y + 100).float(), kernel, features=2048, generator=seeded(0))
    assert single[0] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_huge_and_tiny_scales(scale: float) -> None:
    x, y = sample(50, 40, 3)
    unit = random_feature_mmd2(x, y, MultiKernel.of([3.0]), features=64, generator=seeded(0))
    x, y = (x * scale).float(), (y * scale).float()
    kernel = MultiKernel.of([3.0 * scale**2])
    assert random_feature_mmd2(x, y, kernel, features=64, generator=seeded(0)) == pytest.approx(unit, rel=1e-4)


def test_reads_memory_mapped_files(tmp_path: Path) -> None:
    x, y = sample(3000, 2000, 4)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    kernel = uneven(x, y)
    expected = random_feature_mmd2(x, y, kernel, features=128, generator=seeded(0))
    assert random_feature_mmd2(mapped, y, kernel, features=128, generator=seeded(0)) == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y, k, g: random_feature_mmd2(x[:1], y, k, generator=g), "at least 2 samples"),
        (lambda x, y, k, g: random_feature_mmd2(x, y[:, :1], k, generator=g), r"\(N, F\)"),
        (lambda x, y, k, g: random_feature_mmd2(x, y, k, features=1, generator=g), "at least 2 random features"),
        (lambda x, y, k, g: random_feature_mmd2(x, y * math.nan, k, generator=g), "NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call, words: str) -> None:  # type: ignore[no-untyped-def]
    x, y = sample(8, 8, 2)
    with pytest.raises(ValueError, match=words):
        call(x, y, MultiKernel.of([1.0]), seeded(0))
