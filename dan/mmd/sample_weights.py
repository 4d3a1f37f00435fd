"""Weighted samples: what the sums over pairs are divided by, and when there are too few of them.

With a_i the weights of x and b_j those of y, A = sum a_i, A2 = sum a_i^2, and B, B2 likewise,
    xx = sum_{i != j} a_i a_j k(x_i, x_j),     yy likewise in b,     xy = sum_{ij} a_i b_j k(x_i, y_j),
    unbiased  xx / (A^2 - A2) + yy / (B^2 - B2) - 2 xy / (A B)
    biased    (xx + A2) / A^2 + (yy + B2) / B^2 - 2 xy / (A B)                     (k(z, z) = 1)
Constant weights give the unweighted estimates. The unbiased one is so for weights that do not depend on the samples;
for weights that do (importance weights, class weights) it is a ratio estimate with a bias of order 1 / n_eff,
n_eff = A^2 / A2.

Shapes: N, M samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dan.mmd.autograd import refuse_vmap
from dan.mmd.samples import Sample, to_tensor


@dataclass(frozen=True, eq=False)
class SampleWeights:
    """Weights of two samples; their sums A and B, and their sums of squares A2 and B2.

    rows: (2, N + M), float64; the first holds the weights of x and then M zeros, the second N zeros and those of y.
    """

    rows: Tensor
    sums: tuple[float, float]
    squares: tuple[float, float]


def as_weights(x: Tensor, y: Tensor, x_weights: Sample | None, y_weights: Sample | None) -> SampleWeights | None:
    """The weights of x (N, F) and y (M, F), on their device; None where neither sample has any.

    x_weights (N,), y_weights (M,): tensors or arrays, >= 0, of any scale; None: ones.
    Raises ValueError for other shapes, weights that are negative, not finite or all 0, and tensors that require a
    gradient, which weights do not have here.
    """
    if x_weights is None and y_weights is None:
        return None
    n = len(x)
    rows = torch.zeros(2, n + len(y), dtype=torch.float64, device=x.device)
    for part, name, weights in ((rows[0, :n], "x", x_weights), (rows[1, n:], "y", y_weights)):
        part.copy_(_checked(name, len(part), weights, x.device))
    sums = rows.sum(1).tolist()
    if not (float(rows.amin()) >= 0 and all(1e-15 < total < 1e15 for total in sums)):
        sums = _rescaled(rows, n)
    return SampleWeights(rows, tuple(sums), tuple(torch.linalg.vecdot(rows, rows).tolist()))


def _checked(name: str, count: int, weights: Sample | None, device: torch.device) -> Tensor:
    if weights is None:
        return torch.ones((), device=device)
    w = to_tensor(f"{name}_weights", weights, device)
    refuse_vmap(w)
    if w.shape != (count,):
        raise ValueError(f"{name}_weights must be ({count},), one for each row of {name}, not {tuple(w.shape)}")
    if w.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}_weights have no gradient here: pass {name}_weights.detach()")
    return w.detach()


def _rescaled(rows: Tensor, n: int) -> list[float]:
    """Makes the largest weight of each sample 1, so that no sum leaves the range of floats: the sums; or an error."""
    for part, name in ((rows[0, :n], "x"), (rows[1, n:], "y")):
        bad = ~((part >= 0) & part.isfinite())
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise ValueError(f"{name}_weights must be finite and >= 0: row {row} is {float(part[row])}")
        if len(part) and not bool(part.any()):
            raise ValueError(f"{name}_weights must not be all 0")
        part /= part.max() if len(part) else 1
    return rows.sum(1).tolist()


def check_effective_size(weights: SampleWeights | None) -> None:
    """Raises ValueError where the weights of a sample count for fewer than 2 samples, n_eff = A^2 / A2 < 2."""
    if weights is None:
        return
    for name, total, squares in zip("xy", weights.sums, weights.squares, strict=True):
        if total**2 < (2 - 1e-9) * squares:
            raise ValueError(
                f"{name}_weights leave an effective size of {total**2 / squares:.2f} samples, and 2 are needed: cap "
                "the largest weights, or use more samples"
            )
