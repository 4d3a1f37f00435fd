"""Calibration of logits on held-out labelled samples: one temperature, or a temperature and a bias for each class.

    temperature scaling      p = softmax(z / T)
    bias-corrected (BCTS)    p = softmax(z / T + b),   sum_c b_c = 0

Both minimise the mean cross-entropy on the held-out samples. It is convex in (1 / T, b), and 1 / T > 0 is kept.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted map of logits. temperature T > 0; bias (C,) float64, zero for plain temperature scaling."""

    temperature: float
    bias: Tensor

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(z / T + b) of logits (N, C): (N, C) float64."""
        return (logits.detach().cpu().double() / self.temperature + self.bias).softmax(1)


def fit_temperature(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature that minimises the cross-entropy of logits (N, C) and labels (N,) of held-out samples.

    Raises ValueError for shapes that do not fit, no samples, and logits that are not finite.
    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    return _fit(logits, labels, bias=False)


def fit_bias_corrected(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature and the class biases that minimise the cross-entropy: what MLLS needs to be consistent.

    A class without a held-out sample would get a bias of minus infinity: an L2 penalty of 1 / N on b keeps it finite.
    Raises ValueError as `fit_temperature`.
    Source: Alexandari, Kundaje & Shrikumar, "Maximum likelihood with bias-corrected calibration is hard-to-beat at
    label shift adaptation", ICML 2020.
    """
    return _fit(logits, labels, bias=True)


LOG_RANGE = 6.0  # |log T| at most: separable samples would drive T to 0


def _fit(logits: Tensor, labels: Tensor, *, bias: bool) -> Calibration:
    if logits.ndim != 2 or labels.shape != (len(logits),) or not len(labels):
        raise ValueError(f"logits and labels must be (N, C) and (N,), not {tuple(logits.shape)}, {tuple(labels.shape)}")
    z, y = logits.detach().cpu().double(), labels.cpu().long()
    if not bool(z.isfinite().all()):
        raise ValueError("logits must be finite")
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=bias)
    optimizer = torch.optim.LBFGS([log_t, b] if bias else [log_t], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        centred = b - b.mean()
        clamped = LOG_RANGE * torch.tanh(log_t / LOG_RANGE)
        value = cross_entropy(z * torch.exp(-clamped) + centred, y) + centred.square().sum() / len(y)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    temperature = float(torch.exp(LOG_RANGE * torch.tanh(log_t.detach() / LOG_RANGE)))
    return Calibration(temperature, (b - b.mean()).detach())
