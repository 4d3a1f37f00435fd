"""Dense backend: one Gram matrix gives every squared distance, |z_i - z_j|^2 = |z_i|^2 + |z_j|^2 - 2 <z_i, z_j>.

Shapes: N, M samples; F features; K kernels. Memory O((N + M)^2), whatever F and K; best at batch size.
"""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision cannot hold a squared distance; everything else stays as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 for x (N, F), y (M, F) -> (N, M), differentiable, never negative.

    Both are first centred on their common mean (distances do not change), so that a large offset costs no precision.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    centre = torch.cat([x.detach(), y.detach()]).mean(dim=0)
    x, y = x - centre, y - centre  # (N, F), (M, F)
    norms = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]  # (N, M)
    # Rounding can push a tiny distance below zero, and exp would then exceed 1.
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_min(0)


def totals(x: Tensor, y: Tensor, bandwidths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of each kernel over the pairs within x, within y (diagonals left out), and between: three tensors (K,)."""
    n = len(x)
    z = torch.cat([x, y])  # (N + M, F)
    with torch.autocast(device_type=z.device.type, enabled=False):
        d2 = squared_distances(z, z)
        # The diagonal is zero by definition; filling it also stops its (rounding-sized) gradient.
        d2 = d2.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0)
        within_x, within_y, between = [], [], []
        for gamma in bandwidths.tolist():
            k = torch.exp(d2 * (-1 / gamma))
            within_x.append(k[:n, :n].sum() - n)
            within_y.append(k[n:, n:].sum() - (len(z) - n))
            between.append(k[:n, n:].sum())
        return torch.stack(within_x), torch.stack(within_y), torch.stack(between)
