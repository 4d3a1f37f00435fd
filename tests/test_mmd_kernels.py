"""Bandwidth heuristics and ladders against loops over pairs, at any scale; what runs on keeps its state."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dan.mmd import MultiKernel, RunningBandwidth, mean_bandwidth, median_bandwidth


def sample(n: int, m: int, f: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64)
    y = torch.randn(m, f, generator=generator, dtype=torch.float64)
    return x, y + 0.5


def distances(x: Tensor, y: Tensor) -> list[float]:
    """|z_i - z_j|^2 of all pairs i < j of the pooled sample, sorted; exact fractions, so no scale is too large."""
    z = [[Fraction(value) for value in row] for row in torch.cat([x, y]).double().tolist()]
    pairs = [(a, b) for i, a in enumerate(z) for b in z[:i]]
    return sorted(float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True))) for a, b in pairs)


def median(values: list[float]) -> float:
    half = len(values) // 2
    return values[half] if len(values) % 2 else values[half - 1] / 2 + values[half] / 2


@given(
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    f=st.integers(1, 4),
    power=st.integers(-18, 18),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    copies=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
def test_heuristics_are_their_definitions_at_any_scale(
    n: int, m: int, f: int, power: int, dtype: torch.dtype, copies: int, seed: int
) -> None:
    x, y = sample(n, m, f, seed)
    x = torch.cat([x, x[:1].expand(copies, f)])  # duplicates, up to more than half of all pairs
    x, y = (x * 10.0**power).to(dtype), (y * 10.0**power).to(dtype)
    d2 = distances(x, y)
    apart = [d for d in d2 if d > 0]
    expected = median(d2) or (sum(apart) / len(apart) if apart else 1.0)
    precision = 1e-5 if dtype == torch.float32 else 1e-12
    gamma = median_bandwidth(x, y)
    assert gamma.dtype == dtype and gamma.ndim == 0
    assert float(gamma) == pytest.approx(expected, rel=precision, abs=0)
    mean = mean_bandwidth(x, y)
    assert mean.dtype == dtype and mean.ndim == 0
    assert float(mean) == pytest.approx(sum(d2) / len(d2) if apart else 1.0, rel=precision, abs=0)


def test_a_tiny_cluster_beside_a_far_point_keeps_its_median() -> None:
    """Ten of the fifteen distances are around 1e-36: float32 would take them for zero beside 1e36."""
    x = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]]) * 1e-18
    y = torch.tensor([[1e18]])
    assert float(median_bandwidth(x, y)) == pytest.approx(median(distances(x, y)), rel=1e-5, abs=0)


@pytest.mark.parametrize("heuristic", [median_bandwidth, mean_bandwidth])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_bandwidth_beyond_the_precision(heuristic, scale: float) -> None:  # type: ignore[no-untyped-def]
    """Too large is an error; points whose squared distances underflow are equal for their precision: 1."""
    x, y = (z.float() * scale for z in sample(5, 5, 2))
    if scale < 1:
        assert float(heuristic(x, y)) == 1
    else:
        with pytest.raises(ValueError, match="scale the features"):
            heuristic(x, y)
    assert float(heuristic(x.double(), y.double())) == pytest.approx(
        float(heuristic(x.double() / scale, y.double() / scale)) * scale**2, rel=1e-9, abs=0
    )


@pytest.mark.parametrize("heuristic", [median_bandwidth, mean_bandwidth])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(1, 2), torch.zeros(0, 2), "at least two samples"),
        (torch.zeros(3, 2), torch.zeros(3, 1), r"\(N, F\)"),
        (torch.zeros(3, 0), torch.zeros(3, 0), "at least one feature"),
        (torch.tensor([[math.nan], [1.0]]), torch.zeros(3, 1), "NaN"),
        (torch.zeros(3, 1), torch.tensor([[math.inf], [1.0]]), "infinite"),
    ],
)
def test_bad_samples_are_one_clear_line(heuristic, x: Tensor, y: Tensor, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        heuristic(x, y)


@pytest.mark.parametrize("heuristic", [median_bandwidth, mean_bandwidth])
def test_heuristics_carry_no_gradient_and_lift_half_precision(heuristic) -> None:  # type: ignore[no-untyped-def]
    x, y = sample(6, 5, 3)
    assert not heuristic(x.clone().requires_grad_(), y).requires_grad
    assert heuristic(x.half(), y.half()).dtype == torch.float32
    assert float(heuristic(x.half(), y.half())) == pytest.approx(float(heuristic(x, y)), rel=1e-2)


def test_mean_bandwidth_reads_any_number_of_rows() -> None:
    """More rows than are read at a time, far from the origin: the twin is the matrix of all pairs."""
    x, y = sample(5000, 4100, 2)
    z = torch.cat([x, y])
    expected = 2 * (z - z.mean(0)).square().sum() / (len(z) - 1)
    assert float(mean_bandwidth(x + 1e6, y + 1e6)) == pytest.approx(float(expected), rel=1e-9)


def test_equal_samples_have_bandwidth_one_at_any_offset() -> None:
    x = torch.full((7, 3), 0.1) + 1e5
    assert float(mean_bandwidth(x, x[:2])) == 1.0
    assert float(median_bandwidth(x, x[:2])) == 1.0


def test_the_papers_ladder() -> None:
    kernel = MultiKernel.paper(3.0)
    assert kernel.bandwidths.tolist() == pytest.approx([3 * 2 ** (u / 2) for u in range(-16, 17)], rel=1e-12)
    assert kernel.weights.tolist() == pytest.approx([1 / 33] * 33)


def test_the_running_bandwidth_averages_and_keeps_its_state() -> None:
    running = RunningBandwidth(mean_bandwidth, decay=0.9)
    batches = [sample(8, 6, 3, seed) for seed in range(4)]
    values = [float(mean_bandwidth(x, y)) for x, y in batches]
    expected = values[0]
    assert float(running(*batches[0])) == pytest.approx(expected, rel=1e-6)
    for (x, y), value in zip(batches[1:3], values[1:3], strict=True):
        expected = 0.9 * expected + 0.1 * value
        gamma = running(x.requires_grad_(), y)
        assert float(gamma) == pytest.approx(expected, rel=1e-6) and not gamma.requires_grad
    other = RunningBandwidth(mean_bandwidth, decay=0.9)
    other.load_state_dict(running.state_dict())
    assert int(other.count) == 3
    expected = 0.9 * expected + 0.1 * values[3]
    assert float(other(*batches[3])) == pytest.approx(expected, rel=1e-6)
    other.eval()
    assert float(other(*batches[0])) == pytest.approx(expected, rel=1e-6) and int(other.count) == 4


def test_the_running_bandwidth_refuses_what_it_cannot_know() -> None:
    with pytest.raises(ValueError, match="no batch yet"):
        RunningBandwidth().eval()(*sample(3, 3, 1))
    with pytest.raises(ValueError, match="decay"):
        RunningBandwidth(decay=1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_makes_the_same_ladder(dtype: torch.dtype) -> None:
    """Its fifths and thirds sum to 1 but for a rounding that float32's would not have."""
    gamma = torch.tensor(2.5, dtype=dtype)
    for count in (3, 5, 33):
        kernel = MultiKernel.ladder(gamma, count=count)
        torch.testing.assert_close(kernel.bandwidths, MultiKernel.ladder(gamma.float(), count=count).bandwidths)
        assert float(kernel.weights.double().sum()) == pytest.approx(1, abs=1e-6)
    logits = torch.randn(33, generator=torch.Generator().manual_seed(0))
    weights = logits.to(dtype).softmax(0)
    kernel = MultiKernel(torch.arange(1.0, 34).to(dtype), weights)
    assert float(kernel.weights.double().sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(kernel.weights, weights.float(), rtol=0.01, atol=0)
    with pytest.raises(ValueError, match="sum to 1"):
        MultiKernel(torch.ones(3).to(dtype), torch.full((3,), 0.32).to(dtype))


def test_a_ladder_has_one_centre() -> None:
    assert MultiKernel.ladder(torch.tensor([2.0])).bandwidths.tolist() == [0.5, 1, 2, 4, 8]
    with pytest.raises(ValueError, match=r"one gamma, not a tensor of shape \(5,\)"):
        MultiKernel.ladder(torch.ones(5))
