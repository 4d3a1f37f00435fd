"""Heuristics for the bandwidth gamma of a kernel, from the squared distances within the pooled samples.

Shapes: N, M samples; F features.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dan.mmd.autograd import refuse_vmap
from dan.mmd.distances import at_least_float32
from dan.mmd.samples import Sample, as_samples, largest_entry
from dan.mmd.selection import median, median_squared_distance

_SAFE = 1e-30  # a median above it, and below its inverse, has lost nothing to float32's range
_ROWS = 4096  # read at a time by mean_bandwidth


def median_bandwidth(x: Sample, y: Sample, max_points: int = 4096) -> Tensor:
    """The median heuristic: median of |z_i - z_j|^2 over the pairs i < j of the pooled sample z = (x, y).

    The zero diagonal is left out. An even number of pairs takes the mean of the middle two. If the median is 0 (many
    duplicates) it is the mean of the non-zero distances; if all points are equal, as they also are where their squared
    distances underflow, it is 1: so it is always positive.

    x (N, F), y (M, F) -> scalar, detached, at least float32. Pools of more than `max_points` samples are thinned evenly
    (every i-th row of each), so that the heuristic stays deterministic and its cost bounded.

    Raises ValueError for fewer than two pooled samples, other shapes than (., F), values that are not finite, or a
    bandwidth that the result's precision cannot hold.
    Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, section 8.
    """
    x, y = _checked(x, y)
    stride = -(-(len(x) + len(y)) // max_points)
    pooled = torch.cat([x.detach()[::stride], y.detach()[::stride]])
    pooled = at_least_float32(pooled)
    if not bool(pooled.isfinite().all()):
        raise ValueError(f"a bandwidth needs finite features, not NaN or infinite ones: {largest_entry(x, y)}")
    middle = median_squared_distance(pooled)
    if _SAFE < middle < 1 / _SAFE:
        return middle
    # Too many duplicates, or squares that leave the precision: a power of two scales the features exactly.
    wide = pooled.double()
    exponent = math.frexp(float(wide.abs().amax()))[1]
    d2 = torch.pdist(_times_power_of_two(wide, -exponent)).square()
    middle = median(d2)
    if not middle > 0:
        apart = d2[d2 > 0]
        if not apart.numel():
            return pooled.new_ones(())
        middle = apart.mean()
    return _representable(_times_power_of_two(middle, 2 * exponent), pooled.dtype, x, y)


def mean_bandwidth(x: Sample, y: Sample) -> Tensor:
    """The mean heuristic: mean of |z_i - z_j|^2 over the pairs i < j of the pooled sample z = (x, y), N in all.

    In closed form 2/(N - 1) sum_i |z_i - mean|^2, so O(N F) over all samples, however many; 1 if all points are equal.
    Most re-implementations of DAN use it in place of the median; they often divide by N^2, diagonal included.

    x (N, F), y (M, F) -> scalar, detached, at least float32; read some thousand rows at a time, summed in float64.
    Raises ValueError as `median_bandwidth`.
    """
    x, y = _checked(x, y)
    rows = [part for sample in (x.detach(), y.detach()) for part in sample.split(_ROWS)]
    largest = 0.0
    for part in rows:
        if not bool(part.isfinite().all()):
            raise ValueError(f"a bandwidth needs finite features, not NaN or infinite ones: {largest_entry(x, y)}")
        largest = max(largest, float(part.abs().amax()) if part.numel() else 0.0)
    exponent = math.frexp(largest)[1]
    # Measured from the first sample, so that equal samples are at exactly 0.
    first = _times_power_of_two(torch.cat([x.detach()[:1], y.detach()[:1]])[0].double(), -exponent)  # (F,)

    def shifted(part: Tensor) -> Tensor:
        return _times_power_of_two(part.double(), -exponent) - first

    count = len(x) + len(y)
    mean = torch.zeros_like(first)
    for part in rows:
        mean += shifted(part).sum(0) / count
    spread = torch.zeros_like(mean.sum())
    for part in rows:
        spread += (shifted(part) - mean).square().sum()
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    if not spread > 0:
        return torch.ones((), dtype=dtype, device=x.device)
    return _representable(_times_power_of_two(spread * (2 / (count - 1)), 2 * exponent), dtype, x, y)


class RunningBandwidth(torch.nn.Module):
    """The exponential average of a bandwidth over batches: gamma <- decay gamma + (1 - decay) heuristic(x, y).

    The first batch sets it. In evaluation mode it is given back as it stands, and not moved. `gamma` and `count` (the
    number of batches seen) are buffers, so a checkpoint of the module keeps them.

    heuristic: `median_bandwidth`, `mean_bandwidth` or any function of (x, y). decay: in [0, 1), share of the old value.
    size: None for one bandwidth, a scalar; L for those of L layers, (L,), which `update` takes.
    Raises ValueError for another decay, and in evaluation mode before the first batch.
    """

    gamma: Tensor
    count: Tensor

    def __init__(
        self,
        heuristic: Callable[[Sample, Sample], Tensor] = median_bandwidth,
        *,
        decay: float = 0.99,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}")
        self.heuristic, self.decay = heuristic, decay
        self.register_buffer("gamma", torch.ones(() if size is None else size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Sample, y: Sample) -> Tensor:
        """x (N, F), y (M, F) -> gamma, a scalar without gradient. Errors: the heuristic's, and those of the class."""
        return self.update(self.heuristic(x, y)) if self.training else self.current()

    def current(self) -> Tensor:
        """gamma as it stands, without gradient. Raises ValueError before the first batch."""
        if not self.count:
            raise ValueError("the running bandwidth has seen no batch yet: call it once in training mode")
        return self.gamma.clone()

    @torch.no_grad()
    def update(self, new: Tensor) -> Tensor:
        """Take in the heuristic's value of a batch -> gamma, of the same shape, without gradient."""
        # In place, and on the device: whoever holds the buffer sees it move, and nothing waits for the count.
        new = new.to(self.gamma)
        if self.decay:
            new = torch.where(self.count == 0, new, self.gamma * self.decay + new * (1 - self.decay))
        self.gamma.copy_(new)
        self.count.add_(1)
        return new


def _checked(x: Sample, y: Sample) -> tuple[Tensor, Tensor]:
    x, y = as_samples(x, y)
    refuse_vmap(x, y)
    if not x.shape[1]:
        raise ValueError("a bandwidth needs at least one feature")
    if len(x) + len(y) < 2:
        raise ValueError("a bandwidth needs at least two samples in x and y together")
    return x, y


def _times_power_of_two(z: Tensor, exponent: int) -> Tensor:
    """z * 2^exponent for z in float64; in steps, since one factor may be out of range where the product is not."""
    while exponent:
        step = max(-1000, min(1000, exponent))
        z, exponent = z * 2.0**step, exponent - step
    return z


def _representable(gamma: Tensor, dtype: torch.dtype, x: Tensor, y: Tensor) -> Tensor:
    """Too large is an error; too small for the precision is what samples have that are equal as far as it can tell: 1.

    Saturated probabilities come to that in training. A bandwidth of 1e-38 would be no better than none: its gradient is
    1e19 times a difference of rounding errors.
    """
    value = gamma.to(dtype)
    if not bool(value.isfinite()):
        raise ValueError(
            f"the bandwidth is too large for {dtype}: {largest_entry(x, y)}; leave the row out, or scale the features"
        )
    return value if bool(value >= torch.finfo(dtype).tiny) else torch.ones_like(value)
