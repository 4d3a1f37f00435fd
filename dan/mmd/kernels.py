"""The multi-kernel k(x, y) = sum_u beta_u exp(-|x - y|^2 / gamma_u), and the ladders of bandwidths that it is built of.

Shapes: N, M samples; F features; K kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dan.mmd.bandwidths import RunningBandwidth, mean_bandwidth, median_bandwidth
from dan.mmd.distances import at_least_float32
from dan.mmd.samples import Sample

__all__ = ["MultiKernel", "RunningBandwidth", "kernel_of", "mean_bandwidth", "median_bandwidth"]


@dataclass(frozen=True, eq=False)
class MultiKernel:
    """A convex combination of Gaussian kernels, k(x, y) = sum_u beta_u exp(-|x - y|^2 / gamma_u).

    bandwidths: gamma (K,), positive, in units of squared distance. weights: beta (K,), >= 0, summing to 1.
    Weights and bandwidths carry no gradient: both are chosen, not descended (Long et al. 2015, section 3). In half
    precision, whose sums are far from 1, they become float32, and the weights are divided by their sum.

    Raises ValueError when the shapes differ, a bandwidth is not positive and finite, or the weights do not sum to 1.
    """

    bandwidths: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        # The dataclass is frozen; plain lists are welcome and become float64 tensors here.
        bandwidths, weights = _floating(self.bandwidths), _floating(self.weights)
        if bandwidths.ndim != 1 or bandwidths.shape != weights.shape or len(bandwidths) == 0:
            raise ValueError(
                f"bandwidths and weights must be vectors of one length >= 1, not {tuple(bandwidths.shape)} and "
                f"{tuple(weights.shape)}"
            )
        if not bool(((bandwidths > 0) & bandwidths.isfinite()).all()):
            raise ValueError(f"every bandwidth must be positive and finite, not {bandwidths.tolist()}")
        total, rounding = float(weights.double().sum()), _rounding(self.weights)
        if not bool((weights >= 0).all()) or not abs(total - 1) <= max(1e-4, rounding):
            raise ValueError(f"weights must be >= 0 and sum to 1, not {weights.tolist()}")
        if rounding > 1e-4:
            weights = weights / total
        object.__setattr__(self, "bandwidths", bandwidths)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def of(cls, bandwidths: Sequence[float] | Tensor) -> "MultiKernel":
        """Any list of bandwidths gamma (K,), equally weighted."""
        gamma = _floating(bandwidths)
        return cls(gamma, torch.full_like(gamma, 1 / max(1, gamma.numel())))

    @classmethod
    def ladder(cls, gamma: Tensor | float, count: int = 5, step: float = 2.0) -> "MultiKernel":
        """Bandwidths gamma * step^(u - (count - 1)/2), u = 0 .. count - 1, equally weighted.

        The default is the ladder of five that most re-implementations of DAN use; the paper's is `MultiKernel.paper`.
        Raises ValueError for count < 1, step <= 0, and a gamma that is not one number, or gives a bandwidth that is not
        positive and finite.
        """
        if count < 1 or step <= 0:
            raise ValueError(f"a ladder needs count >= 1 and step > 0, not count={count}, step={step}")
        centre = _floating(gamma)
        if centre.numel() != 1:
            raise ValueError(f"a ladder is built around one gamma, not a tensor of shape {tuple(centre.shape)}")
        exponents = torch.arange(count, dtype=torch.float64, device=centre.device) - (count - 1) / 2
        return cls.of(centre * (step**exponents).to(centre.dtype))

    @classmethod
    def paper(cls, gamma: Tensor | float) -> "MultiKernel":
        """The paper's 33 kernels: 2^-8 gamma ... 2^8 gamma in steps of 2^(1/2), equally weighted.

        Source: Long et al., ICML 2015, section 4.1.
        """
        return cls.ladder(gamma, count=33, step=2**0.5)

    def of_squared_distances(self, d2: Tensor) -> Tensor:
        """k at squared distances d2 (any shape) -> same shape: sum_u beta_u exp(-d2 / gamma_u)."""
        value = torch.zeros_like(d2)
        for beta, gamma in zip(self.weights.tolist(), self.bandwidths.tolist(), strict=True):
            value = value + beta * torch.exp(d2 * (-1 / gamma))
        return value


def kernel_of(x: Sample, y: Sample, kernel: MultiKernel | None) -> MultiKernel:
    """`kernel`, or where it is None the ladder of five around `median_bandwidth(x, y)`.

    Raises ValueError for anything else than a MultiKernel, and as `median_bandwidth`.
    """
    if kernel is None:
        return MultiKernel.ladder(median_bandwidth(x, y))
    if not isinstance(kernel, MultiKernel):
        raise ValueError(
            f"kernel must be a MultiKernel, such as MultiKernel.ladder(gamma), or None, not a {type(kernel).__name__}"
        )
    return kernel


def _floating(values: Sequence[float] | float | Tensor) -> Tensor:
    """A detached tensor, float32 at least; what has no floating-point precision of its own becomes float64."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return at_least_float32(values.detach())
    return torch.as_tensor(values, dtype=torch.float64)


def _rounding(values: Sequence[float] | Tensor) -> float:
    """How far the sum of numbers may be from 1 that sum to 1 but for rounding each of them."""
    floating = isinstance(values, Tensor) and values.is_floating_point()
    return torch.finfo(values.dtype).eps if isinstance(values, Tensor) and floating else 0.0
