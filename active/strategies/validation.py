"""What every strategy checks before it asks: how many samples to return, and that probabilities are such.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

SUM_TOLERANCE = 2**-7  # how far a row may be from 1: in bfloat16 each value is off by a share of up to 2^-8


def how_many(budget: int, count: int) -> int:
    """min(budget, count): how many a strategy returns. ValueError unless budget is a whole number >= 0."""
    try:
        whole = operator.index(budget)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(f"budget must be a whole number of samples, 0 or more, not {budget!r}")
    return min(whole, count)


def check_probabilities(probs: Tensor, *, ids: Tensor | None = None) -> None:
    """ValueError unless every row of probs (N, C) is finite, >= 0 and sums to 1 within 2^-7, with C >= 2.

    The message names the first bad row, by its sample id where ids (N,) are given.
    """
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(f"probs must be (samples, classes) with at least 2 classes, not {tuple(probs.shape)}")
    total = probs.double().sum(dim=1)  # (N,)
    fine = torch.isfinite(probs).all(dim=1) & (probs >= 0).all(dim=1) & ((total - 1).abs() <= SUM_TOLERANCE)
    if not bool(fine.all()):
        row = int((~fine).nonzero()[0, 0])
        what = f"row {row} of probs" if ids is None else f"probs of sample {int(ids[row])}"
        values = ", ".join(f"{value:.4g}" for value in probs[row, :8].tolist()) + (
            ", ..." if probs.shape[1] > 8 else ""
        )
        raise ValueError(f"{what}: [{values}] is no distribution; pass softmax(logits), >= 0 and summing to 1")
