"""Squared distances that lose no pair that counts, however far the samples lie from each other or from zero.

The Gram form |z_i|^2 + |z_j|^2 - 2 <z_i, z_j> is one product, and its rounding is about eps (|z_i|^2 + |z_j|^2). Where
this shows in a kernel, float64 takes over. Where it still shows, there are gaps between groups of samples that no
kernel reaches across (one entry with a fill value of 1e20 is such a group): `compress_gaps` brings the groups nearer.

Shapes: N, M samples; F features.
"""

import math

import torch
from torch import Tensor

from dan.mmd.kernel_powers import scale_of

# How far |z|^2 may exceed a bandwidth before the Gram form's rounding, eps |z|^2 / gamma in the exponent, shows.
TOLERATED = {torch.float32: 3.0, torch.float64: 1e5}
UNDERFLOW = 800.0  # exp(-UNDERFLOW) is 0 in float64


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision cannot hold a squared distance; everything else stays as it is."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x


def precision_of(x: Tensor, y: Tensor) -> torch.dtype:
    """That in which both are computed: the higher of the two, float32 at least."""
    return torch.promote_types(at_least_float32(x[:0]).dtype, at_least_float32(y[:0]).dtype)


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


def gram_is_inexact(negative_d2: Tensor, mean_norm: float, bandwidths: tuple[float, ...], *norms: Tensor) -> bool:
    """Whether -d2 (N, M), from a Gram form, is too inexact for some pair that matters.

    With r_u = mean |z|^2 / gamma_u, the error of k_u is about eps r_u exp(-d2 / gamma_u): it is tolerated below
    eps TOLERATED, so only pairs nearer than gamma_u log(r_u / TOLERATED) ask for more; those are few or none, for the
    common ladders of bandwidths, and then one comparison says so. Where rounding exceeds that very distance, nothing
    that was computed says which pairs are near.
    mean_norm: mean |z|^2 in the unit of d2, `scale_of(bandwidths)`; the larger one, of two samples that count alike.
    norms: |z|^2 of every sample, in one tensor or several.
    """
    if not mean_norm < float("inf"):
        return True
    scale, tolerated = scale_of(bandwidths), TOLERATED[negative_d2.dtype]
    norm = mean_norm * scale
    limits = [g / scale * math.log(norm / g / tolerated) for g in bandwidths if norm > tolerated * g]
    if not limits:
        return False
    limit, rounding = max(limits), 16 * torch.finfo(negative_d2.dtype).eps
    if any(not float(part.max()) * rounding < limit for part in norms):
        return True
    return not bool((negative_d2 < -limit).all())


def by_subtraction(x: Tensor, y: Tensor) -> Tensor:
    """-|x_i - y_j|^2 with every difference taken before it is squared: slower than the Gram form, and exact."""
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


@torch.no_grad()
def compress_gaps(z: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """z (N, F) moved so that all kernels of all pairs stay as they are and no feature has a wide gap; float64.

    In each feature the sorted values keep their steps, but none is wider than g = sqrt(UNDERFLOW max_u gamma_u). Pairs
    without such a step between them keep their difference; the others differ by g or more, before and after, and
    exp(-g^2 / gamma_u) is 0. Gradients stay, too, being made of differences. Values that are not finite become NaN.
    """
    ordered, order = z.double().sort(dim=0)
    widest = math.sqrt(UNDERFLOW * max(bandwidths))
    steps = torch.zeros_like(ordered)
    steps[1:] = (ordered[1:] - ordered[:-1]).clamp_max(widest)
    moved = torch.zeros_like(ordered).scatter_(0, order, steps.cumsum(0))
    moved -= moved.mean(0)
    return torch.where(z.isfinite(), moved, torch.nan)
