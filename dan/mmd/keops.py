"""KeOps backend: sums over all pairs by a compiled formula, no matrix; on CPU and CUDA. Only this file imports pykeops.

The K bandwidths are parameters of the formula, so ladders of one length share one compiled kernel (seconds the first
time, cached on the disk afterwards). Distances are taken by subtraction, pair by pair.

Shapes: N, M samples; F features; K kernels. Memory O((N + M) F).
"""

import logging
from functools import lru_cache

import torch
from torch import Tensor

from dan.mmd.kernel_powers import scale_of

log = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def why_not(device_type: str) -> str | None:
    """Why KeOps does not work here, in one line, or None if it does: it is tried once on a small formula."""
    try:
        import pykeops

        pykeops.set_verbose(False)
        one = torch.zeros(2, 1, device=device_type)
        value = _row_sums(one, one, one.new_ones(1))
    except Exception as error:  # noqa: BLE001  (no package, no compiler, no CUDA toolkit: each raises what it likes)
        first = str(error).strip().splitlines() or [type(error).__name__]
        return f"{type(error).__name__}: {first[0]}"
    return None if bool((value == 2).all()) else "its first sum came out wrong"


def row_sums(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], y_weights: Tensor | None = None) -> Tensor:
    """sum_j b_j k_u(x_i, y_j) -> (N, K), differentiable, as often as wanted. y_weights: b (M,); None: ones."""
    scale = scale_of(bandwidths)
    # Not centred: differences of what was given lose nothing, and the scale is a power of two.
    x, y = (z * scale**-0.5 for z in (x, y))
    slopes = torch.tensor([scale / gamma for gamma in bandwidths], dtype=x.dtype, device=x.device)
    return _row_sums(x, y, slopes, y_weights)


def totals(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], weights: Tensor | None = None) -> Tensor:
    """As `dan.mmd.dense.totals`, (3, K) in float64, differentiable, as often as wanted."""
    a, b = (None, None) if weights is None else (weights[0, : len(x)], weights[1, len(x) :])
    # The diagonal's distances are differences of equal numbers: exactly 0, so that each adds exactly 1.
    within_x = _weighted_sum(row_sums(x, x, bandwidths, a), a) - (len(x) if a is None else a.double().square().sum())
    within_y = _weighted_sum(row_sums(y, y, bandwidths, b), b) - (len(y) if b is None else b.double().square().sum())
    return torch.stack([within_x, within_y, _weighted_sum(row_sums(x, y, bandwidths, b), a)])


def _weighted_sum(rows: Tensor, weights: Tensor | None) -> Tensor:
    """rows (N, K) -> (K,) in float64."""
    return rows.sum(0, dtype=torch.float64) if weights is None else weights.double() @ rows.double()


def _row_sums(x: Tensor, y: Tensor, slopes: Tensor, y_weights: Tensor | None = None) -> Tensor:
    from pykeops.torch import Pm, Vi, Vj

    d2 = Vi(x.contiguous()).sqdist(Vj(y.contiguous()))
    k = (-d2 * Pm(slopes)).exp()
    return (k if y_weights is None else k * Vj(y_weights[:, None].contiguous())).sum(1)
