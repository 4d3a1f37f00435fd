"""The multi-kernel k(x, y) = sum_u beta_u exp(-|x - y|^2 / gamma_u) and the heuristic that gives its bandwidth.

Shapes: N, M samples; F features; K kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MultiKernel:
    """A convex combination of Gaussian kernels, k(x, y) = sum_u beta_u exp(-|x - y|^2 / gamma_u).

    bandwidths: gamma (K,), positive, in units of squared distance. weights: beta (K,), >= 0, summing to 1.
    Weights and bandwidths carry no gradient: both are chosen, not descended (Long et al. 2015, section 3).

    Raises ValueError when the shapes differ, a bandwidth is not positive and finite, or the weights do not sum to 1.
    """

    bandwidths: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        # The dataclass is frozen; plain lists are welcome and become float64 tensors here.
        bandwidths = torch.as_tensor(self.bandwidths).detach()
        weights = torch.as_tensor(self.weights).detach()
        if not bandwidths.is_floating_point():
            bandwidths = bandwidths.double()
        if not weights.is_floating_point():
            weights = weights.double()
        if bandwidths.ndim != 1 or bandwidths.shape != weights.shape or len(bandwidths) == 0:
            raise ValueError(
                f"bandwidths and weights must be vectors of one length >= 1, not {tuple(bandwidths.shape)} and "
                f"{tuple(weights.shape)}"
            )
        if not bool(((bandwidths > 0) & bandwidths.isfinite()).all()):
            raise ValueError(f"every bandwidth must be positive and finite, not {bandwidths.tolist()}")
        if not bool((weights >= 0).all()) or abs(float(weights.double().sum()) - 1) > 1e-4:
            raise ValueError(f"weights must be >= 0 and sum to 1, not {weights.tolist()}")
        object.__setattr__(self, "bandwidths", bandwidths)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def of(cls, bandwidths: Sequence[float] | Tensor) -> "MultiKernel":
        """Any list of bandwidths gamma (K,), equally weighted."""
        gamma = torch.as_tensor(bandwidths)
        if not gamma.is_floating_point():
            gamma = gamma.double()
        return cls(gamma, torch.full_like(gamma, 1 / max(1, gamma.numel())))

    @classmethod
    def ladder(cls, gamma: Tensor | float, count: int = 5, step: float = 2.0) -> "MultiKernel":
        """Bandwidths gamma * step^(u - (count - 1)/2), u = 0 .. count - 1, equally weighted.

        The default is the ladder of five that most re-implementations of DAN use;
        `ladder(gamma, count=33, step=2**0.5)` is the paper's, 2^-8 gamma ... 2^8 gamma (Long et al. 2015, section 4.1).
        """
        if count < 1 or step <= 0:
            raise ValueError(f"a ladder needs count >= 1 and step > 0, not count={count}, step={step}")
        centre = torch.as_tensor(gamma).detach()
        if not centre.is_floating_point() or not isinstance(gamma, Tensor):
            centre = centre.double()
        exponents = torch.arange(count, dtype=torch.float64, device=centre.device) - (count - 1) / 2
        return cls.of(centre * (step**exponents).to(centre.dtype))

    def of_squared_distances(self, d2: Tensor) -> Tensor:
        """k at squared distances d2 (any shape) -> same shape: sum_u beta_u exp(-d2 / gamma_u)."""
        value = torch.zeros_like(d2)
        for beta, gamma in zip(self.weights.tolist(), self.bandwidths.tolist(), strict=True):
            value = value + beta * torch.exp(d2 * (-1 / gamma))
        return value


def median_bandwidth(x: Tensor, y: Tensor, max_points: int = 4096) -> Tensor:
    """The median heuristic: median of |z_i - z_j|^2 over the pairs i < j of the pooled sample z = (x, y).

    The zero diagonal is left out. If the median is 0 (many duplicates) it is the mean of the non-zero distances; if all
    points are equal, 1: so the result is always positive. An even number of pairs takes the mean of the middle two.

    x (N, F), y (M, F) -> scalar, detached, at least float32. Pools of more than `max_points` samples are thinned evenly
    (every i-th row of each), so that the heuristic stays deterministic and its cost bounded.

    Raises ValueError for fewer than two pooled samples, other shapes than (., F), or values that are not finite.
    Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, section 8.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (N, F) and (M, F), not {tuple(x.shape)} and {tuple(y.shape)}")
    n, m = len(x), len(y)
    if n + m < 2:
        raise ValueError("a bandwidth needs at least two samples in x and y together")
    stride = -(-(n + m) // max_points)
    pooled = torch.cat([x.detach()[::stride], y.detach()[::stride]])
    if pooled.dtype in (torch.float16, torch.bfloat16):
        pooled = pooled.float()
    # pdist subtracts before it squares: exact zeros for duplicates, at any offset from the origin.
    d2 = torch.pdist(pooled.contiguous()).square()
    if not bool(d2.isfinite().all()):
        raise ValueError("the samples hold NaN or infinite values, or distances too large for their precision")
    pairs = d2.numel()
    middle = (d2.kthvalue((pairs + 1) // 2).values + d2.kthvalue(pairs // 2 + 1).values) / 2
    if middle > 0:
        return middle
    apart = d2[d2 > 0]
    return apart.mean() if apart.numel() else torch.ones_like(middle)
