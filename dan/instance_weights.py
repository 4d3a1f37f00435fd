"""Instance transfer: source samples weighted, or a subset of them chosen, so that their mean embedding is the target's.

    |(1/N) sum_i w_i phi(x_i) - (1/M) sum_j phi(y_j)|^2 = w'K w / N^2 - 2 a'w / N + constant,
    a_i = (1/M) sum_j k(x_i, y_j)

Under covariate shift the minimum over w estimates the ratio of densities, target over source. The weights go into the
cross-entropy of the source samples.

Shapes: N source samples; M target samples; F features.
"""

import logging
import math

import torch
from torch import Tensor

from dan.mmd import MultiKernel
from dan.mmd.dense import at_least_float32
from dan.mmd.pairwise import kernel_row_sums
from dan.mmd.tiled import kernel_blocks

log = logging.getLogger(__name__)

LARGEST = 10_000  # source samples: their kernel matrix is kept in float64, 800 MB
_PENALTY = 10.0  # of the augmented Lagrangian, five times the largest curvature of the objective: a few rounds suffice
_SETTLED = 1e-6  # how far outside its band the mean may end, before the weights are shifted into it


@torch.no_grad()
def kernel_mean_matching(
    x: Tensor, y: Tensor, kernel: MultiKernel, *, bound: float = 10.0, slack: float = 0.1
) -> Tensor:
    """Weights w (N,) of the source x (N, F) under which its mean embedding is nearest that of the target y (M, F).

        min_w |(1/N) sum_i w_i phi(x_i) - (1/M) sum_j phi(y_j)|^2    s.t.  0 <= w_i <= bound,  |mean(w) - 1| <= slack

    float64, on the device of x. bound: no sample counts for more than so many; the smaller, the more samples are in
    effect (`effective_size`), and the further from the target they may stay. The problem is convex; where the kernel
    matrix is singular (duplicates) several w are optimal, and any of them is returned.

    SciPy's L-BFGS-B solves it under the bounds; the band of the mean is held by an augmented Lagrangian. O(N^2) memory
    and O(N^2) an iteration, after one pass over the pairs.

    Raises ValueError for other shapes, no samples, N > LARGEST, NaN, or a bound that the band does not allow.
    Source: Huang et al., "Correcting Sample Selection Bias by Unlabeled Data", NIPS 2006, equation 12.
    """
    import numpy as np
    from scipy.optimize import minimize

    _check(x, y)
    n = len(x)
    if n > LARGEST:
        raise ValueError(
            f"kernel mean matching keeps the kernel matrix of the source, of at most {LARGEST} samples, not {n}: "
            "weigh a random part of them, or use source_subset, which keeps no matrix"
        )
    if not slack >= 0:
        raise ValueError(f"the slack must be 0 or more, not {slack}")
    low, high = max(0.0, 1 - slack), 1 + slack
    if not low <= bound < math.inf or bound == 0:
        raise ValueError(
            f"weights of at most {bound} cannot have a mean of {low} or more: raise the bound or the slack"
        )

    matrix = np.empty((n, n))
    for rows, columns, block in kernel_blocks(x, kernel):
        values = block.double().cpu().numpy()
        matrix[rows, columns] = values
        matrix[columns, rows] = values.T
    affinity = _affinity(x, y, kernel).cpu().numpy()  # a (N,)
    if not np.isfinite(affinity).all() or not np.isfinite(matrix).all():
        raise ValueError("the samples hold NaN or infinite values: kernel mean matching needs finite features")

    def outside(mean: float) -> float:
        return mean - min(max(mean, low), high)

    def objective(w: np.ndarray, multiplier: float) -> tuple[float, np.ndarray]:
        """N times the distance, with the penalty on the mean; its gradient is of the size of a kernel's value."""
        embedded = matrix @ w / n
        pull = outside(float(w.mean()) + multiplier / _PENALTY)
        value = w @ (embedded - 2 * affinity) + n * _PENALTY / 2 * pull**2
        return float(value), 2 * (embedded - affinity) + _PENALTY * pull

    w, multiplier = np.ones(n).clip(0, bound), 0.0
    for _ in range(50):
        result = minimize(
            objective,
            w,
            args=(multiplier,),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, bound)] * n,
            options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-13, "gtol": 1e-7},
        )
        w, before = result.x, multiplier
        multiplier = _PENALTY * outside(float(w.mean()) + before / _PENALTY)
        if abs(multiplier - before) <= 10 * _SETTLED and abs(outside(float(w.mean()))) <= _SETTLED:
            break
    else:
        log.warning("kernel mean matching stopped before its multiplier settled: the weights may be slightly off")
    if not result.success and result.nit >= 5000:
        log.warning("kernel mean matching stopped after %d iterations: the weights may be slightly off", result.nit)
    return torch.from_numpy(_into_band(w, bound, low, high)).to(x.device)


def _into_band(w, bound: float, low: float, high: float):  # type: ignore[no-untyped-def]  # NumPy is imported late
    """w (N,), shifted within its bounds by what the mean is still outside of the band."""
    from scipy.optimize import brentq

    mean = float(w.mean())
    edge = min(max(mean, low), high)
    if mean == edge:
        return w
    shift = brentq(lambda t: float((w + t).clip(0, bound).mean()) - edge, -bound, bound, xtol=1e-15)
    return (w + shift).clip(0, bound)


@torch.no_grad()
def source_subset(x: Tensor, y: Tensor, kernel: MultiKernel, count: int) -> Tensor:
    """Rows of the source x (N, F), (count,) in pick order, whose mean embedding is near that of the target y (M, F).

    Greedy: each pick is the row that leaves the smallest |mean of phi over the picks - mean of phi over y|^2. As
    k(x_i, x_i) = 1, that is the row of the largest
        a_i - r_i / (s + 1),        r_i = sum of k(x_i, .) over the s picks so far,
    which is kernel herding without replacement; equal values go to the lowest row. One pass over all pairs for a, then
    O(N F) a pick: no matrix.

    Raises ValueError for other shapes, a count outside 1 .. N, or NaN.
    Source: Chen, Welling and Smola, "Super-Samples from Kernel Herding", UAI 2010, on the samples of the source.
    """
    _check(x, y)
    if not 1 <= count <= len(x):
        raise ValueError(f"a subset of {len(x)} source samples has 1 to {len(x)} of them, not {count}")
    affinity = _affinity(x, y, kernel)  # (N,)
    if not bool(affinity.isfinite().all()) or not bool(x.isfinite().all()):
        raise ValueError("the samples hold NaN or infinite values: a subset is chosen by finite features")
    features = at_least_float32(x)
    gathered = torch.zeros_like(affinity)  # r (N,)
    free = torch.ones_like(affinity, dtype=torch.bool)
    picks = torch.empty(count, dtype=torch.long, device=x.device)
    for s in range(count):
        pick = (affinity - gathered / (s + 1)).masked_fill(~free, -math.inf).argmax()
        picks[s] = pick
        free[pick] = False
        gathered += kernel.of_squared_distances((features - features[pick]).square().sum(1))
    return picks


def effective_size(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of weights (N,) >= 0: N where they are equal, 1 where one has all. Source: Kish, 1965."""
    w = weights.double()
    return float(w.sum() ** 2 / w.square().sum())


def _affinity(x: Tensor, y: Tensor, kernel: MultiKernel) -> Tensor:
    """a_i = (1/M) sum_j k(x_i, y_j) (N,), float64."""
    return kernel_row_sums(x, y, kernel).double() / len(y)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (N, F) and (M, F), not {tuple(x.shape)} and {tuple(y.shape)}")
    if not len(x) or not len(y):
        raise ValueError("source and target need at least one sample each")
