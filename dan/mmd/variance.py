"""How much MMD^2 scatters from sample to sample: unbiased estimates of the variance of every estimate.

Shapes: N, M samples; F features; K kernels.
"""

import torch
from torch import Tensor

from dan.mmd.distances import precision_of
from dan.mmd.estimators import pair_coefficients, quadruple_terms
from dan.mmd.kernels import MultiKernel, kernel_of
from dan.mmd.samples import Sample, as_samples
from dan.mmd.tiled import kernel_blocks


@torch.no_grad()
def mmd2_variance(x: Sample, y: Sample, kernel: MultiKernel | None = None, estimator: str = "unbiased") -> Tensor:
    """An unbiased estimate of the variance, over samples of this size, of `mmd2(x, y, kernel, estimator)`.

    The variance is exact for finite N and M, whether or not the distributions are the same. With A and B the means of
    k over the pairs i != j within x and within y, and C that between, the unbiased estimate is A + B - 2 C, and
        Var      = Var A + Var B + 4 Var C - 4 Cov(A, C) - 4 Cov(B, C)
        Var A    = [4 (N - 2) Var E[k(X, X') | X] + 2 Var k(X, X')] / (N (N - 1)),      Var B likewise in y and M
        Var C    = [(M - 1) Var E[k(X, Y) | X] + (N - 1) Var E[k(X, Y) | Y] + Var k(X, Y)] / (N M)
        Cov(A, C) = (2/N) Cov(E[k(X, X') | X], E[k(X, Y) | X]),                         Cov(B, C) likewise.
    The biased one is (N - 1)/N A + (M - 1)/M B - 2 C and a constant. Every moment is a mean over distinct indices, so
    unbiased; with r_i = sum_{j != i} k(x_i, x_j), s = sum_i r_i, q = sum_{i != j} k(x_i, x_j)^2, for instance
        E[k(X, X') k(X, X'')] ~ (sum_i r_i^2 - q) / (N (N-1) (N-2))
        (E k(X, X'))^2        ~ (s^2 - 4 sum_i r_i^2 + 2 q) / (N (N-1) (N-2) (N-3)).
    The linear-time estimate is a mean of N/2 independent terms: their sample variance over their number.

    x (N, F), y (M, F) -> scalar, without gradient, in squared units of MMD^2; being unbiased, it may be negative where
    the variance is small. O((N + M)^2) by tiles; linear O(N).
    Raises ValueError as `mmd2`, and for fewer than 4 samples on a side.
    Source: Sutherland et al., "Generative Models and Model Criticism via Optimized MMD", ICLR 2017, in the corrected
    form of Sutherland, "Unbiased estimators for the variance of MMD estimators", arXiv:1906.02104; here for N != M.
    """
    x, y = as_samples(x, y)
    kernel = kernel_of(x, y, kernel)
    n, m = len(x), len(y)
    if estimator == "linear":
        terms = quadruple_terms(x, y, kernel)
        return _variance_of_mean(terms @ kernel.weights.to(terms))
    pair_coefficients(estimator, n, m)  # refuses unknown names
    if min(n, m) < 4:
        raise ValueError(f"the variance needs at least 4 samples on each side, not {n} and {m}")
    sums, squares = _pair_sums(x, y, kernel)
    (xx, xy), (yx, yy) = sums[:n].T, sums[n:].T  # row sums within x (N,), between (N,), between (M,), within y (M,)
    a, b = ((n - 1) / n, (m - 1) / m) if estimator == "biased" else (1.0, 1.0)
    variance = (
        a**2 * _variance_within(xx, squares[0, 0])
        + b**2 * _variance_within(yy, squares[1, 1])
        + 4 * _variance_between(xy, yx, squares[0, 1])
        - 4 * a * _covariance(xx, xy, m)
        - 4 * b * _covariance(yy, yx, n)
    )
    return variance.to(precision_of(x, y))


def mmd2_variance_per_kernel(
    x: Sample, y: Sample, kernel: MultiKernel | None = None, estimator: str = "unbiased"
) -> Tensor:
    """The variance of MMD^2 under each kernel by itself: x (N, F), y (M, F) -> (K,). As `mmd2_variance` in all else."""
    x, y = as_samples(x, y)
    kernel = kernel_of(x, y, kernel)
    if estimator == "linear":
        with torch.no_grad():
            return _variance_of_mean(quadruple_terms(x, y, kernel))
    singles = [MultiKernel.of(gamma[None]) for gamma in kernel.bandwidths]
    return torch.stack([mmd2_variance(x, y, single, estimator) for single in singles])


def _variance_of_mean(terms: Tensor) -> Tensor:
    """Variance of the mean of independent terms (N/2, ...)."""
    if len(terms) < 2:
        raise ValueError("the variance needs at least 4 samples on each side, not 2 and 2")
    return terms.var(dim=0) / len(terms)


def _pair_sums(x: Tensor, y: Tensor, kernel: MultiKernel) -> tuple[Tensor, Tensor]:
    """Row sums of k over the pairs i != j to x and to y (N + M, 2), and totals of k^2 within and between (2, 2)."""
    z = torch.cat([x, y])
    side = torch.zeros(len(z), 2, dtype=torch.float64, device=z.device)
    side[: len(x), 0] = side[len(x) :, 1] = 1
    sums, squares = torch.zeros_like(side), side.new_zeros(2, 2)
    for rows, columns, block in kernel_blocks(z, kernel):
        k = block.double()
        if rows == columns:
            k.fill_diagonal_(0)
        sums[rows] += k @ side[columns]
        totals = side[rows].T @ k.square() @ side[columns]
        squares += totals
        if rows != columns:  # the same pairs the other way round
            sums[columns] += k.T @ side[rows]
            squares += totals.T
    return sums, squares


def _variance_within(r: Tensor, q: Tensor) -> Tensor:
    """Var A from its row sums r (N,) and its sum of squares q."""
    n, s, r2 = len(r), r.sum(), r.square().sum()
    squared_mean = (s**2 - 4 * r2 + 2 * q) / (n * (n - 1) * (n - 2) * (n - 3))
    of_conditional_mean = (r2 - q) / (n * (n - 1) * (n - 2)) - squared_mean
    of_kernel = q / (n * (n - 1)) - squared_mean
    return (4 * (n - 2) * of_conditional_mean + 2 * of_kernel) / (n * (n - 1))


def _variance_between(u: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """Var C from its row sums u (N,), its column sums v (M,) and its sum of squares q."""
    n, m, u2, v2 = len(u), len(v), u.square().sum(), v.square().sum()
    squared_mean = (u.sum() ** 2 - u2 - v2 + q) / (n * (n - 1) * m * (m - 1))
    given_x = (u2 - q) / (n * m * (m - 1)) - squared_mean
    given_y = (v2 - q) / (n * m * (n - 1)) - squared_mean
    of_kernel = q / (n * m) - squared_mean
    return ((m - 1) * given_x + (n - 1) * given_y + of_kernel) / (n * m)


def _covariance(r: Tensor, u: Tensor, m: int) -> Tensor:
    """Cov(A, C) from the row sums r (N,) within x and u (N,) over the M samples of y."""
    n, products = len(r), r @ u
    of_means = (r.sum() * u.sum() - 2 * products) / (n * (n - 1) * (n - 2) * m)
    return (2 / n) * (products / (n * (n - 1) * m) - of_means)
