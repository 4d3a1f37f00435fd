"""Dense backend: one Gram matrix gives every squared distance, |z_i - z_j|^2 = |z_i|^2 + |z_j|^2 - 2 <z_i, z_j>.

With V_ij = c_ij sum_u (beta_u / gamma_u) k_u(z_i, z_j), symmetric, the gradient of S = sum_ij c_ij k(z_i, z_j) is
    dS/dz_i = -4 sum_j V_ij (z_i - z_j) = 4 (V z - rowsum(V) z)_i,
so one more product gives it for both samples at once, while the kernel's values are at hand.

Shapes: N, M samples; F features; K kernels. Memory O((N + M)^2), whatever F and K; best at batch size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dan.mmd.distances import at_least_float32, by_subtraction, compress_gaps, gram_is_inexact, squared_distances
from dan.mmd.kernel_powers import kernels, scale_of

__all__ = ["at_least_float32", "row_sums", "squared_distances", "totals", "weighted"]


def _larger_mean(norms: Tensor, n: int) -> float:
    """The larger of the mean |z|^2 of the first n rows and of the rest: few samples far away weigh as much as many."""
    if 2 * n == len(norms):
        return float(norms.mean())  # at least half of it, and sooner known
    return max(float(norms[:n].mean()), float(norms[n:].mean()))


def _not_above_zero(negative_d2: Tensor) -> Tensor:
    """Rounding cut off, and not the gradient with it: two points that all but coincide still pull at each other."""
    return negative_d2 - negative_d2.detach().clamp_min(0)


def totals(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], weights: Tensor | None = None) -> Tensor:
    """Sums of each kernel over ordered pairs: within x, within y (i != j), and between -> (3, K).

    weights: those of the samples, (2, N + M), `SampleWeights.rows`; a pair counts as their product. None: ones.
    Plain differentiable operations, so that it can be differentiated twice; the twin of all that is faster.
    """
    n = len(x)
    scale = scale_of(bandwidths)
    z = torch.cat([x, y])  # (N + M, F)
    z = (z - z.detach().mean(0)) * scale**-0.5
    norms = z.square().sum(1)
    negative = torch.addmm(-(norms[:, None] + norms[None, :]), z, z.T, alpha=2)
    diagonal = torch.eye(len(z), dtype=torch.bool, device=z.device)
    off_diagonal = negative.detach().masked_fill(diagonal, -torch.inf)
    if gram_is_inexact(off_diagonal, _larger_mean(norms.detach(), n), bandwidths, norms.detach()):
        if z.dtype == torch.float32:
            return totals(x.double(), y.double(), bandwidths, weights)
        z = _compressed(torch.cat([x, y]), bandwidths) * scale**-0.5
        # Not cdist: its gradient at coinciding points is that of a root, and cannot be differentiated twice.
        negative = -torch.stack([(row - z).square().sum(1) for row in z])
    # The diagonal is zero by definition; filling it also stops its (rounding-sized) gradient.
    negative = _not_above_zero(negative).masked_fill(diagonal, 0)
    sums = []
    for gamma in bandwidths:
        k = torch.exp(negative * (scale / gamma))
        if weights is None:
            sums.append(torch.stack([k[:n, :n].sum() - n, k[n:, n:].sum() - (len(z) - n), k[:n, n:].sum()]))
        else:
            blocks = _block_sums(k.masked_fill(diagonal, 0), weights.to(k.dtype))
            sums.append(torch.stack([blocks[0, 0], blocks[1, 1], blocks[0, 1]]))
    return torch.stack(sums, dim=1)


def _gram(z: Tensor, n: int, bandwidths: tuple[float, ...]) -> tuple[Tensor, bool]:
    """-|z_i - z_j|^2 (N + M, N + M) in units of the bandwidths' scale, and whether it is inexact.

    z (N + M, F), centred, is divided by the root of the scale in place; n: rows of the first sample.
    """
    z.mul_(scale_of(bandwidths) ** -0.5)
    norms = torch.linalg.vecdot(z, z)
    negative = torch.addmm(norms[:, None] + norms, z, z.T, beta=-1, alpha=2).fill_diagonal_(-torch.inf)
    return negative, gram_is_inexact(negative, _larger_mean(norms, n), bandwidths, norms)


def _compressed(z: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """`compress_gaps`, through which the gradient passes unchanged."""
    return compress_gaps(z.detach(), bandwidths) + (z - z.detach())


def _block_sums(k: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums of k (N + M, N + M), symmetric: [[within x, between], [between, within y]]."""
    return (weights @ k) @ weights.T


@torch.no_grad()
def weighted(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    betas: Sequence[float],
    coefficients: tuple[float, float, float],
    weights: Tensor | None = None,
    *,
    gradients: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """a xx + b yy + c xy, where xx = sum_u beta_u totals[0, u] and so on; and its gradients in x and y if wanted.

    betas: (K,); coefficients: (a, b, c); weights: those of the samples, as of `totals`.
    """
    n, count = len(x), len(x) + len(y)
    scale = scale_of(bandwidths)
    z = torch.cat([x, y])
    z.sub_(z.mean(0))
    negative, inexact = _gram(z, n, bandwidths)
    if inexact and z.dtype == torch.float32:
        wide = None if weights is None else weights.double()
        value, of_x, of_y = weighted(x.double(), y.double(), bandwidths, betas, coefficients, wide, gradients=gradients)
        return value, None if of_x is None else of_x.float(), None if of_y is None else of_y.float()
    if inexact:
        z = compress_gaps(torch.cat([x, y]), bandwidths)
        negative, inexact = _gram(z, n, bandwidths)
    if inexact:
        negative = by_subtraction(z, z)
    negative.clamp_max_(0).fill_diagonal_(0)

    # The three blocks share their weights, and are told apart once, at the end.
    total = torch.zeros_like(negative)
    slope = torch.zeros_like(negative) if gradients else None
    for u, k in kernels(negative, bandwidths):
        total.add_(k, alpha=betas[u])
        if slope is not None:
            slope.add_(k, alpha=betas[u] * scale / bandwidths[u])
    ones = sum(betas)
    a, b, c = coefficients
    if weights is None:
        within_x, within_y = total[:n, :n].sum() - n * ones, total[n:, n:].sum() - (count - n) * ones
        value = within_x * a + within_y * b + total[:n, n:].sum() * c
    else:
        blocks = _block_sums(total.fill_diagonal_(0), weights)
        value = blocks.flatten() @ blocks.new_tensor([a, c / 2, c / 2, b])
    if slope is None:
        return value, None, None
    slope.fill_diagonal_(0)  # nothing pulls at itself: but for rounding, which the narrowest kernel would blow up
    slope[:n, :n] *= a
    slope[n:, n:] *= b
    slope[:n, n:] *= c / 2
    slope[n:, :n] *= c / 2
    factor = 4 * scale**-0.5
    if weights is None:
        gradient = torch.addmm(z * slope.sum(1, keepdim=True), slope, z, beta=-factor, alpha=factor)
    else:
        # V_ij = w_i slope_ij w_j: the weights scale rows of z and of the result, and no matrix.
        w = weights.sum(0)[:, None]  # (N + M, 1)
        gradient = torch.addmm(z * (slope @ w), slope, z * w, beta=-factor, alpha=factor).mul_(w)
    return value, gradient[:n], gradient[n:]


def row_sums(x: Tensor, y: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """sum_j k_u(x_i, y_j) -> (N, K), by plain differentiable operations."""
    scale = scale_of(bandwidths)
    centre = y.detach().mean(0)
    x_given, y_given = x, y
    x, y = (x - centre) * scale**-0.5, (y - centre) * scale**-0.5
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    negative = torch.addmm(-(x_norms[:, None] + y_norms), x, y.T, alpha=2)
    mean_norm = float(x_norms.detach().mean() + y_norms.detach().mean()) / 2
    if gram_is_inexact(negative.detach(), mean_norm, bandwidths, x_norms.detach(), y_norms.detach()):
        if negative.dtype == torch.float32:
            return row_sums(x_given.double(), y_given.double(), bandwidths).float()
        z = _compressed(torch.cat([x_given, y_given]), bandwidths) * scale**-0.5
        x, y = z[: len(x)], z[len(x) :]
        negative = -torch.stack([(row - y).square().sum(1) for row in x])
    negative = _not_above_zero(negative)
    return torch.stack([torch.exp(negative * (scale / gamma)).sum(1) for gamma in bandwidths], dim=1)
