"""How the trade-off grows and the learning rates fall over a training."""

import math


def ramp(progress: float, *, sharpness: float = 10.0) -> float:
    """2 / (1 + exp(-sharpness * p)) - 1: the trade-off's factor, from 0 at p = 0 to about 1 at p = 1.

    Early features are noise, and aligning noise does harm. Source: Ganin & Lempitsky, ICML 2015, section 4.1.
    """
    return 2 / (1 + math.exp(-sharpness * progress)) - 1


def inverse_decay(step: int, *, gamma: float, power: float) -> float:
    """(1 + gamma * step)^-power, the factor on every learning rate: Caffe's "inv" policy, as DAN was trained."""
    return (1 + gamma * step) ** -power
