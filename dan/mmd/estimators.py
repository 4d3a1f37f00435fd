"""Estimates of MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y), per kernel and weighted.

biased    mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)      never negative
unbiased  the same with the pairs i = j left out of the first two means                    may be negative
linear    (2/n) sum_i k(x, x') + k(y, y') - k(x, y') - k(x', y) over disjoint quadruples   may be negative, O(n)

Shapes: N, M samples; F features; K kernels.
"""

import torch
from torch import Tensor

from dan.errors import nearest
from dan.mmd.distances import at_least_float32, precision_of
from dan.mmd.kernels import MultiKernel, kernel_of
from dan.mmd.pairwise import kernel_totals, weighted_total
from dan.mmd.sample_weights import SampleWeights, as_weights, check_effective_size
from dan.mmd.samples import Sample, as_samples

ESTIMATORS = ("unbiased", "biased", "linear")


def mmd2(
    x: Sample,
    y: Sample,
    kernel: MultiKernel | None = None,
    estimator: str = "unbiased",
    backend: str = "auto",
    x_weights: Sample | None = None,
    y_weights: Sample | None = None,
) -> Tensor:
    """The multi-kernel squared discrepancy sum_u beta_u MMD^2_u(x, y).

    x (N, F) and y (M, F) are samples of two distributions, tensors or arrays -> scalar, differentiable in both; the
    kernel carries no gradient. kernel: None is the ladder of five bandwidths around `median_bandwidth(x, y)`.
    estimator: "unbiased" (may be negative, and must be allowed to be), "biased" (never negative; about
    (1/N + 1/M)(1 - E k) when the distributions are the same) or "linear". backend: see `dan.mmd.pairwise`.
    x_weights (N,), y_weights (M,): how much each sample counts, >= 0 and of any scale, without gradient; None: the same
    for all. With the class ratio p_T(y) / p_S(y) as weights of a labelled source, label shift does not count.
    Time O((N + M)^2 (F + K)), and linear O(N K F); memory beside the samples O((N + M)^2) dense, a tile otherwise.

    Raises ValueError for other shapes, or too few samples: unbiased needs 2 a side, biased 1, linear N == M, even; and
    for weights that are negative, not finite, or count for fewer samples than that (see `dan.mmd.sample_weights`).
    Source: Gretton et al., JMLR 2012, equations 3-5 and lemma 14; Long et al., ICML 2015, equations 1 and 6; weights:
    Tachet des Combes et al., NeurIPS 2020.
    """
    x, y = as_samples(x, y)
    weights = as_weights(x, y, x_weights, y_weights)
    kernel = kernel_of(x, y, kernel)
    if estimator == "linear":
        terms = _linear(x, y, kernel, weights)
        return terms @ kernel.weights.to(terms)
    coefficients, constant = pair_coefficients(estimator, len(x), len(y), weights)
    return weighted_total(x, y, kernel, coefficients, backend=backend, sample_weights=weights) + constant


def mmd2_per_kernel(
    x: Sample,
    y: Sample,
    kernel: MultiKernel | None = None,
    estimator: str = "unbiased",
    backend: str = "auto",
    x_weights: Sample | None = None,
    y_weights: Sample | None = None,
) -> Tensor:
    """MMD^2 under each kernel by itself, before weighting: x (N, F), y (M, F) -> (K,). As `mmd2` in all else."""
    x, y = as_samples(x, y)
    weights = as_weights(x, y, x_weights, y_weights)
    kernel = kernel_of(x, y, kernel)
    if estimator == "linear":
        return _linear(x, y, kernel, weights)
    (a, b, c), constant = pair_coefficients(estimator, len(x), len(y), weights)
    xx, yy, xy = kernel_totals(x, y, kernel.bandwidths, backend=backend, sample_weights=weights)
    # In float64: what is left of the three sums may be a millionth of each.
    return (a * xx + b * yy + c * xy + constant).to(precision_of(x, y))


def pair_coefficients(
    estimator: str, n: int, m: int, weights: SampleWeights | None = None
) -> tuple[tuple[float, float, float], float]:
    """MMD^2 = a xx + b yy + c xy + constant, from the sums over i != j within each sample and over all between."""
    (a, b), (a2, b2) = ((n, m), (n, m)) if weights is None else (weights.sums, weights.squares)
    if estimator == "unbiased":
        if min(n, m) < 2:
            raise ValueError(
                f"the unbiased estimate needs at least 2 samples on each side, not {n} and {m}: "
                'use a larger batch, or estimator="biased"'
            )
        check_effective_size(weights)
        return (1 / (a * a - a2), 1 / (b * b - b2), -2 / (a * b)), 0.0
    if estimator == "biased":
        if min(n, m) < 1:
            raise ValueError(f"the biased estimate needs at least 1 sample on each side, not {n} and {m}")
        return (1 / a**2, 1 / b**2, -2 / (a * b)), a2 / a**2 + b2 / b**2
    raise ValueError(f'unknown estimator "{estimator}"{nearest(estimator, ESTIMATORS)}: one of {", ".join(ESTIMATORS)}')


def linear_mmd2(
    x: Sample,
    y: Sample,
    kernel: MultiKernel | None = None,
    x_weights: Sample | None = None,
    y_weights: Sample | None = None,
) -> Tensor:
    """The linear-time estimate on disjoint quadruples: (2/n) sum_i sum_u beta_u g_u(z_i). O(n K F), no matrix.

    z_i = (x_{2i-1}, x_{2i}, y_{2i-1}, y_{2i}), g_u(z) = k_u(x, x') + k_u(y, y') - k_u(x, y') - k_u(x', y).
    With weights each of the four means over i is weighted by its pair's product, a a', b b', a b' and a' b.
    x, y (N, F) -> scalar; kernel None as in `mmd2`, whose median takes more time than the estimate itself.
    Raises ValueError unless both sides have the same, even number >= 2 of samples, and as `mmd2` for weights; those
    must also leave at least one pair of each kind.
    Source: Gretton et al., JMLR 2012, lemma 14; Long et al., ICML 2015, equation 6.
    """
    return mmd2(x, y, kernel, estimator="linear", x_weights=x_weights, y_weights=y_weights)


def quadruple_terms(x: Sample, y: Sample, kernel: MultiKernel) -> Tensor:
    """g_u(z_i) of every disjoint quadruple, per kernel: x, y (N, F) -> (N/2, K). Formula and errors: `linear_mmd2`."""
    xx, yy, xy, yx = _quadruple_kernels(*as_samples(x, y), kernel)
    return xx + yy - xy - yx


def _quadruple_kernels(x: Tensor, y: Tensor, kernel: MultiKernel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k(x, x'), k(y, y'), k(x, y') and k(x', y) of every disjoint quadruple: x, y (N, F) -> (N/2, K) each."""
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
    return k(x1, x2), k(y1, y2), k(x1, y2), k(x2, y1)


def _linear(x: Tensor, y: Tensor, kernel: MultiKernel, weights: SampleWeights | None) -> Tensor:
    """The linear-time estimate per kernel: x, y (N, F) -> (K,)."""
    terms = _quadruple_kernels(x, y, kernel)
    if weights is None:
        return (terms[0] + terms[1] - terms[2] - terms[3]).mean(dim=0)
    check_effective_size(weights)
    a, b = weights.rows[0, : len(x)], weights.rows[1, len(x) :]
    products = torch.stack([a[0::2] * a[1::2], b[0::2] * b[1::2], a[0::2] * b[1::2], a[1::2] * b[0::2]])  # (4, N/2)
    sums = products.sum(1, keepdim=True)
    if not bool((sums > 0).all()):
        raise ValueError(
            "the weights leave no pair for the linear-time estimate: every pair of neighbours has a weight of 0; "
            "shuffle the samples, or use the unbiased estimate"
        )
    xx, yy, xy, yx = (w @ k for w, k in zip((products / sums).to(terms[0]), terms, strict=True))
    return xx + yy - xy - yx
