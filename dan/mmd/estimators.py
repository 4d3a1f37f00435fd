"""Estimates of MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y), per kernel and weighted.

biased    mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)      never negative
unbiased  the same with the pairs i = j left out of the first two means                    may be negative
linear    (2/n) sum_i k(x, x') + k(y, y') - k(x, y') - k(x', y) over disjoint quadruples   may be negative, O(n)

Shapes: N, M samples; F features; K kernels.
"""

import torch
from torch import Tensor

from dan.errors import nearest
from dan.mmd.dense import at_least_float32
from dan.mmd.kernels import MultiKernel, kernel_of
from dan.mmd.pairwise import kernel_totals, weighted_total
from dan.mmd.samples import Sample, as_samples

ESTIMATORS = ("unbiased", "biased", "linear")


def mmd2(
    x: Sample,
    y: Sample,
    kernel: MultiKernel | None = None,
    estimator: str = "unbiased",
    backend: str = "auto",
) -> Tensor:
    """The multi-kernel squared discrepancy sum_u beta_u MMD^2_u(x, y).

    x (N, F) and y (M, F) are samples of two distributions, tensors or arrays -> scalar, differentiable in both; the
    kernel carries no gradient. kernel: None is the ladder of five bandwidths around `median_bandwidth(x, y)`.
    estimator: "unbiased" (may be negative, and must be allowed to be), "biased" (never negative; about
    (1/N + 1/M)(1 - E k) when the distributions are the same) or "linear". backend: see `dan.mmd.pairwise`.
    Time O((N + M)^2 (F + K)), and linear O(N K F); memory beside the samples O((N + M)^2) dense, a tile otherwise.

    Raises ValueError for other shapes, or too few samples: unbiased needs 2 a side, biased 1, linear N == M, even.
    Source: Gretton et al., JMLR 2012, equations 3-5 and lemma 14; Long et al., ICML 2015, equations 1 and 6.
    """
    x, y = as_samples(x, y)
    kernel = kernel_of(x, y, kernel)
    if estimator == "linear":
        terms = quadruple_terms(x, y, kernel).mean(dim=0)
        return terms @ kernel.weights.to(terms)
    coefficients, constant = pair_coefficients(estimator, len(x), len(y))
    return weighted_total(x, y, kernel, coefficients, backend=backend) + constant


def mmd2_per_kernel(
    x: Sample, y: Sample, kernel: MultiKernel | None = None, estimator: str = "unbiased", backend: str = "auto"
) -> Tensor:
    """MMD^2 under each kernel by itself, before weighting: x (N, F), y (M, F) -> (K,). As `mmd2` in all else."""
    x, y = as_samples(x, y)
    kernel = kernel_of(x, y, kernel)
    if estimator == "linear":
        return quadruple_terms(x, y, kernel).mean(dim=0)
    (a, b, c), constant = pair_coefficients(estimator, len(x), len(y))
    xx, yy, xy = kernel_totals(x, y, kernel.bandwidths, backend=backend)
    # In float64: what is left of the three sums may be a millionth of each.
    return (a * xx + b * yy + c * xy + constant).to(torch.promote_types(at_least_float32(x[:0]).dtype, y.dtype))


def pair_coefficients(estimator: str, n: int, m: int) -> tuple[tuple[float, float, float], float]:
    """MMD^2 = a xx + b yy + c xy + constant, from the sums over i != j within each sample and over all between."""
    if estimator == "unbiased":
        if min(n, m) < 2:
            raise ValueError(
                f"the unbiased estimate needs at least 2 samples on each side, not {n} and {m}: "
                'use a larger batch, or estimator="biased"'
            )
        return (1 / (n * (n - 1)), 1 / (m * (m - 1)), -2 / (n * m)), 0.0
    if estimator == "biased":
        if min(n, m) < 1:
            raise ValueError(f"the biased estimate needs at least 1 sample on each side, not {n} and {m}")
        return (1 / n**2, 1 / m**2, -2 / (n * m)), 1 / n + 1 / m
    raise ValueError(f'unknown estimator "{estimator}"{nearest(estimator, ESTIMATORS)}: one of {", ".join(ESTIMATORS)}')


def linear_mmd2(x: Sample, y: Sample, kernel: MultiKernel | None = None) -> Tensor:
    """The linear-time estimate on disjoint quadruples: (2/n) sum_i sum_u beta_u g_u(z_i). O(n K F), no matrix.

    z_i = (x_{2i-1}, x_{2i}, y_{2i-1}, y_{2i}), g_u(z) = k_u(x, x') + k_u(y, y') - k_u(x, y') - k_u(x', y).
    x, y (N, F) -> scalar; kernel None as in `mmd2`, whose median takes more time than the estimate itself.
    Raises ValueError unless both sides have the same, even number >= 2 of samples.
    Source: Gretton et al., JMLR 2012, lemma 14; Long et al., ICML 2015, equation 6.
    """
    return mmd2(x, y, kernel, estimator="linear")


def quadruple_terms(x: Sample, y: Sample, kernel: MultiKernel) -> Tensor:
    """g_u(z_i) of every disjoint quadruple, per kernel: x, y (N, F) -> (N/2, K). Formula and errors: `linear_mmd2`."""
    x, y = as_samples(x, y)
    if len(x) != len(y) or len(x) < 2 or len(x) % 2:
        raise ValueError(
            "the linear-time estimate needs the same, even number of samples (at least 2) on both sides, not "
            f"{len(x)} and {len(y)}: drop samples, or use the unbiased estimate"
        )
    x, y = at_least_float32(x), at_least_float32(y)
    gamma = kernel.bandwidths.to(x)

    def k(a: Tensor, b: Tensor) -> Tensor:  # (N/2, F) twice -> (N/2, K)
        return torch.exp((a - b).square().sum(1)[:, None] / -gamma)

    x1, x2, y1, y2 = x[0::2], x[1::2], y[0::2], y[1::2]
    return k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1)
