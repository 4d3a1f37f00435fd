"""Deep CORAL: features of both domains get the same covariance.

    |C_s - C_t|_F^2 / (4 F^2),    C = (X - mean)'(X - mean) / (N - 1)

With A = (X - mean) / sqrt(N - 1), B likewise of Y, Z = [A; B] and s = (1, ..., 1, -1, ..., -1) over the rows of Z,
    |A'A - B'B|_F^2 = sum_ij s_i s_j <Z_i, Z_j>^2,
so wide layers need the matrix of all pairs of the batch, (N + M)^2, and none of F x F.

Shapes: N, M samples; F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dan.models.dan import Output


def coral(x: Tensor, y: Tensor, *, x_weights: Tensor | None = None, y_weights: Tensor | None = None) -> Tensor:
    """|C_x - C_y|_F^2 / (4 F^2), C the unbiased covariances (F, F) of x (N, F) and y (M, F) -> scalar, differentiable.

    In the unit of the features to the fourth power; 0 if and only if the covariances are equal: means are not looked
    at. By F x F where F <= N + M, else by all pairs, in float64 whatever the features: neither is ever larger than the
    batch needs. Returned in the precision of the features, float32 at least.
    x_weights (N,), y_weights (M,): how much each sample counts, >= 0: C = sum_i w_i d_i d_i' / (A - A2 / A) with
    A = sum w_i, A2 = sum w_i^2 and d_i the difference from the weighted mean, which is unbiased for weights that do not
    depend on the samples; equal weights change nothing.
    Raises ValueError for other shapes, or fewer than 2 samples on a side.
    Source: Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, equations 1-3.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (N, F) and (M, F), not {tuple(x.shape)} and {tuple(y.shape)}")
    n, m, width = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"a covariance needs at least 2 samples on each side, not {n} and {m}: use a larger batch")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(device_type=x.device.type, enabled=False):
        # In float64: the covariances of one network's features differ by little of what they are.
        a, b = _scaled(x, x_weights), _scaled(y, y_weights)
        if width <= n + m:
            total = (a.T @ a - b.T @ b).square().sum()  # (F, F)
        else:
            z = torch.cat([a, b])
            sign = torch.cat([a.new_ones(n), -b.new_ones(m)])
            total = (sign @ (z @ z.T).square() @ sign).clamp_min(0)  # (N + M, N + M); below 0 by rounding only
        return (total / (4 * width**2)).to(dtype)


def _scaled(z: Tensor, weights: Tensor | None) -> Tensor:
    """Rows a_i (N, F), float64, with sum_i a_i a_i' the unbiased covariance of z."""
    z = z.double()
    if weights is None:
        return (z - z.mean(0)) / (len(z) - 1) ** 0.5
    w = weights.to(z)
    total = w.sum()
    centred = z - (w @ z) / total
    return centred * (w / (total - w.square().sum() / total)).sqrt()[:, None]


class Coral(nn.Module):
    """`coral` of every aligned layer, as it is (logits too), by the layer's name."""

    def __init__(self, align: Sequence[str]) -> None:
        super().__init__()
        self.align = tuple(align)

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        weights = {"x_weights": source.weights, "y_weights": target.weights}
        return {name: coral(source.layers[name], target.layers[name], **weights) for name in self.align}
