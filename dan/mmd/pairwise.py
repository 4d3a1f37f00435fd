"""Sums of a kernel over all pairs: the one seam through which estimators and strategies reach a backend.

Shapes: N, M samples; F features; K kernels.
"""

import torch
from torch import Tensor

from dan.errors import nearest
from dan.mmd import dense
from dan.mmd.dense import at_least_float32, squared_distances
from dan.mmd.kernels import MultiKernel

__all__ = ["BACKENDS", "kernel_row_sums", "kernel_totals", "squared_distances"]

BACKENDS = {"dense": dense.totals}


def kernel_totals(x: Tensor, y: Tensor, bandwidths: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Sums of exp(-|a - b|^2 / gamma_u) over ordered pairs, for each kernel u.

    x (N, F), y (M, F), bandwidths (K,) -> (pairs i != j within x, pairs i != j within y, pairs between), each (K,),
    differentiable in x and y. backend: "auto" or a name of BACKENDS.
    """
    if backend == "auto":
        backend = "dense"
    if backend not in BACKENDS:
        valid = ["auto", *BACKENDS]
        raise ValueError(f'unknown backend "{backend}"{nearest(backend, valid)}: one of {", ".join(valid)}')
    return BACKENDS[backend](x, y, bandwidths)


@torch.no_grad()
def kernel_row_sums(x: Tensor, y: Tensor, kernel: MultiKernel, *, chunk: int = 1024) -> Tensor:
    """sum_j k(x_i, y_j) for x (N, F), y (M, F) -> (N,), streamed: no more than a chunk of rows times M in memory."""
    x, y = at_least_float32(x), at_least_float32(y)
    # Centred on y's mean once, and not on each chunk's, so that the chunk size does not change the rounding.
    centre = y.mean(dim=0)
    x, y = x - centre, y - centre
    y_norms = y.square().sum(1)
    rows = [
        kernel.of_squared_distances(
            torch.addmm(part.square().sum(1)[:, None] + y_norms, part, y.T, alpha=-2).clamp_min(0)
        ).sum(1)
        for part in x.split(chunk)
    ]
    return torch.cat(rows) if rows else x.new_zeros(0)
