"""Adaptation of 1-D signals through the API: nothing in it assumes images.

    x_i(t) = gain * wave_y(cycles * t + phase) + drift * (t - 1/2) + noise,    t = 0, 1/L, ..., (L - 1)/L

Source: sine, square and sawtooth by a clean instrument. Target: the same three by a cheap one that samples less often
(so more cycles in L samples), with a small gain, drift and more noise.

Shapes: N signals; L time steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # python experiments/example_1d.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

CLASSES = ("sine", "square", "sawtooth")
LENGTH = 128

# Functions of the phase in cycles, of period 1, mean 0 and root mean square 1: the shape alone tells them apart.
WAVES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda cycles: math.sqrt(2) * torch.sin(2 * math.pi * cycles),
    lambda cycles: 1 - 2 * (2 * (cycles % 1)).floor(),
    lambda cycles: math.sqrt(3) * (2 * (cycles % 1) - 1),
)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """How a domain records the waves. cycles, uniform: in the L samples, the wave's frequency over the sampling rate;
    gain, uniform: factor on the wave; drift: largest rise or fall over the L samples; noise: its standard deviation."""

    cycles: tuple[float, float]
    gain: tuple[float, float]
    drift: float = 0.0
    noise: float = 0.0


SOURCE = Instrument(cycles=(3, 5), gain=(0.8, 1.2), noise=0.05)
TARGET = Instrument(cycles=(6, 9), gain=(0.5, 0.8), drift=0.5, noise=0.15)


def make_signals(count: int, instrument: Instrument, *, seed: int) -> TensorDataset:
    """`count` signals (N, 1, L) in float32 with their classes (N,), as balanced as `count` allows, in random order."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % len(CLASSES)
    time = torch.arange(LENGTH) / LENGTH
    cycles = uniform(*instrument.cycles) * time + uniform(0, 1)  # (N, L)
    shapes = torch.stack([wave(cycles) for wave in WAVES])  # (classes, N, L)
    x = uniform(*instrument.gain) * shapes[labels, torch.arange(count)]
    x = x + uniform(-instrument.drift, instrument.drift) * (time - 0.5)
    x = x + instrument.noise * torch.randn(count, LENGTH, generator=generator)
    return TensorDataset(x[:, None], labels)


def accuracies(trade_off: float, *, seed: int = 0, steps: int = 300) -> dict[str, float]:
    """Train a DAN on the signals, and return its accuracy, in [0, 1], on new signals of either domain."""
    from dan import DAN, evaluate, fit

    source, target = make_signals(1200, SOURCE, seed=3 * seed), make_signals(1200, TARGET, seed=3 * seed + 1)
    tests = {"source": make_signals(600, SOURCE, seed=10_001), "target": make_signals(600, TARGET, seed=10_002)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DAN("conv1d", len(CLASSES), layers=(32,))
    fit(model, source, target, trade_off=trade_off, steps=steps, seed=seed)
    return {name: evaluate(model, data).accuracy for name, data in tests.items()}


def main(steps: int = 300, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Train source-only and DAN for each seed, and print their accuracies."""
    print(f"{'method':<12} {'seed':>4}  {'source':>9}  {'target':>9}")
    for method, trade_off in (("source-only", 0.0), ("DAN", 3.0)):
        for seed in seeds:
            found = accuracies(trade_off, seed=seed, steps=steps)
            print(f"{method:<12} {seed:>4}  {100 * found['source']:7.2f} %  {100 * found['target']:7.2f} %", flush=True)


if __name__ == "__main__":
    main()
