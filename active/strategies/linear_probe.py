"""A new last layer for a yes-or-no question: L2-regularised logistic regression on standardised features.

    z(x) = sum_f w_f (x_f - m_f) / s_f + b,     P(yes | x) = 1 / (1 + exp(-z(x)))
    w, b = argmin  sum_i a_i log(1 + exp(-y_i z(x_i))) / sum_i a_i  +  penalty |w|^2 / 2,     y_i = +1 yes, -1 no

m and s are the weighted mean and standard deviation of the rows that it learns from. The problem is convex, with one
answer; L-BFGS finds it from w = 0, and nothing is drawn at random. Rows are read, and made float64, a block at a time:
they may be memory-mapped.

Shapes: N rows asked about, M rows learnt from, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 20  # numbers read at a time: 8 MiB in float64
CONSTANT = 1e-9  # a feature that varies by less than this share of its mean does not vary: it is rounding
PENALTY = 0.01  # strong enough for a hundred rows of a thousand features; no value was the best everywhere
# The gradient falls to 1e-6, so w is within 1e-6 sqrt(F) / penalty of the minimum; the loss decides nothing (ftol 0).
OPTIONS = {"maxiter": 1000, "gtol": 1e-6, "ftol": 0.0}


@dataclass(frozen=True, eq=False)
class Head:
    """z(x) = x . slope + offset, the standardisation folded in: slope (F,) and offset (), float64."""

    slope: Tensor
    offset: Tensor

    def log_odds(self, rows: Tensor) -> Tensor:
        """z of rows (N, F): log P(yes) / P(no), (N,) float64. Equal rows get equal values."""
        # Row sums, not a matrix product: a product may round equal rows differently.
        blocks = [(block.double() * self.slope).sum(dim=1) for block in rows.split(_rows_at_a_time(rows))]
        return (torch.cat(blocks) if blocks else self.slope.new_empty(0)) + self.offset


@torch.no_grad()
def fit_head(
    parts: Sequence[Tensor],
    yes: Tensor,
    *,
    weights: Tensor | None = None,
    penalty: float = PENALTY,
) -> Head:
    """The head that tells yes from no; see the formula atop.

    parts: tensors (M_1, F), (M_2, F), ..., taken as if they were stacked, without a copy. yes: bool (M,), M = sum M_i.
    weights: (M,) >= 0, all 1 by default; a row of weight 0 counts for nothing. penalty: > 0, in units of the mean loss.
    A feature that does not vary in these rows gets slope 0: it was never seen to matter.
    Raises ValueError for shapes that do not fit, a penalty that is not positive, and when one of the two answers has no
    weight: then there is nothing to tell apart.
    """
    import numpy as np
    from scipy.optimize import minimize

    rows = sum(len(part) for part in parts)
    if any(part.ndim != 2 or part.shape[1] != parts[0].shape[1] for part in parts) or yes.shape != (rows,):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(f"rows {shapes} must have the same features, and one answer each, not {tuple(yes.shape)}")
    if not 0 < penalty < math.inf:
        raise ValueError(f"the penalty must be positive, not {penalty}")
    device = parts[0].device
    answers = torch.where(yes.to(device), 1.0, -1.0).double()  # (M,)
    share = torch.ones_like(answers) if weights is None else weights.to(answers)
    share = share / share.sum()
    prior = float(share[answers > 0].sum())
    if not 0 < prior < 1:
        raise ValueError("a head needs rows of both answers, with weight")

    blocks: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, their answers, their shares
    first = 0
    for part in parts:
        for block in part.split(_rows_at_a_time(part)):
            last = first + len(block)
            if bool(share[first:last].any()):
                blocks.append((block, answers[first:last], share[first:last]))
            first = last

    mean = torch.stack([a @ x.double() for x, _, a in blocks]).sum(dim=0)  # (F,)
    std = torch.stack([a @ (x.double() - mean).square() for x, _, a in blocks]).sum(dim=0).sqrt()
    inverse = torch.where(std > CONSTANT * mean.abs(), 1 / std, 0.0)  # (F,)

    def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = torch.from_numpy(theta[:-1]).to(device), float(theta[-1])
        slope = w * inverse
        offset = b - mean @ slope
        loss = penalty / 2 * (w @ w)
        gradient, total = torch.zeros_like(w), torch.zeros_like(offset)
        for x, y, a in blocks:
            x = x.double()
            agreement = y * (x @ slope + offset)
            loss = loss + a @ torch.nn.functional.softplus(-agreement)
            residual = -a * y * torch.sigmoid(-agreement)  # d loss / d z
            gradient += residual @ x
            total += residual.sum()
        gradient = penalty * w + inverse * (gradient - mean * total)
        return float(loss), torch.cat((gradient, total[None])).cpu().numpy()

    start = np.zeros(len(mean) + 1)
    start[-1] = math.log(prior / (1 - prior))
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=OPTIONS)
    theta = torch.from_numpy(found.x).to(device)
    slope = theta[:-1] * inverse
    return Head(slope, theta[-1] - mean @ slope)


def _rows_at_a_time(rows: Tensor) -> int:
    return max(1, BLOCK // max(1, rows.shape[1]))
