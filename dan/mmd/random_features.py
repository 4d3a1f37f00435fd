"""MMD^2 of samples too large for all pairs, by random Fourier features: O(N F D) instead of O(N^2 F).

A Gaussian kernel is a mean of waves: exp(-|x - y|^2 / gamma) = E cos(w'(x - y)) over w ~ N(0, (2/gamma) I), and the
multi-kernel is the same mean over w drawn from kernel u with probability beta_u. The wave's own MMD^2 needs no pairs:
with phi_x = sum_i exp(i w'x_i), the sum over i != j of cos(w'(x_i - x_j)) is |phi_x|^2 - N, so
    h(w) = (|phi_x|^2 - N) / (N (N-1)) + (|phi_y|^2 - M) / (M (M-1)) - 2 Re(phi_x conj(phi_y)) / (N M)
is unbiased for the exact unbiased estimate on these samples, and so is its mean over D independent frequencies.

Shapes: N, M samples; F features; K kernels; D frequencies; T rows of a chunk.
"""

import math

import torch
from torch import Tensor

from dan.mmd.distances import at_least_float32
from dan.mmd.kernels import MultiKernel
from dan.mmd.samples import Sample, as_samples, largest_entry

_RADIANS = 1e-2  # rounding of an angle, by which a wave may be wrong
_CHUNK = 2**21  # entries of the (T, D) matrix of angles: 8 MB in float32, and some copies of it


@torch.no_grad()
def random_feature_mmd2(
    x: Sample, y: Sample, kernel: MultiKernel, *, features: int = 4096, generator: torch.Generator
) -> tuple[float, float]:
    """An estimate of the unbiased MMD^2 of x (N, F) and y (M, F), and its standard error.

    The standard error is that of the approximation: the scatter of the exact unbiased estimate on these very samples,
    over `features` = D random frequencies, falling as D^(-1/2). It says nothing of how that estimate scatters over
    samples: see `mmd2_variance`. No gradient.

    Rows are read in chunks of about 2^21 / D, so x and y may be memory-mapped files larger than the memory; angles are
    taken in their precision (at least float32), or in float64 where they are large, sums in float64.

    Raises ValueError for other shapes, fewer than 2 samples on a side or 2 features, NaN, and entries so large that
    float64 cannot tell their angle.
    Source: Rahimi and Recht, "Random features for large-scale kernel machines", NIPS 2007; Zhao and Meng, "FastMMD",
    Neural Computation 2015.
    """
    x, y = as_samples(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"the unbiased estimate needs at least 2 samples on each side, not {n} and {m}")
    if features < 2:
        raise ValueError(f"an estimate with its error needs at least 2 random features, not {features}")
    rows = max(1, _CHUNK // features)
    # Angles are relative to some point near the samples: an offset would cost precision, and changes no difference. A
    # mean would be far from all of them where one has a fill value of 1e20.
    centre = at_least_float32(torch.cat([x[:rows], y[:rows]])).median(0).values
    w = draw_frequencies(kernel, x.shape[1], features, generator).to(centre)
    (cos_x, sin_x), (cos_y, sin_y) = fourier_waves(x, centre, w, rows), fourier_waves(y, centre, w, rows)
    h = (
        (cos_x**2 + sin_x**2 - n) / (n * (n - 1))
        + (cos_y**2 + sin_y**2 - m) / (m * (m - 1))
        - (cos_x * cos_y + sin_x * sin_y) * (2 / (n * m))
    )
    if not bool(h.isfinite().all()):
        raise ValueError(f"MMD^2 needs finite features, not NaN or infinite ones: {largest_entry(x, y)}")
    return float(h.mean()), float(h.std()) / math.sqrt(features)


def draw_frequencies(kernel: MultiKernel, dimension: int, features: int, generator: torch.Generator) -> Tensor:
    """w (F, D), float64, each column from kernel u with probability beta_u, then from N(0, (2 / gamma_u) I)."""
    device = generator.device
    weights, gamma = kernel.weights.to(device).double(), kernel.bandwidths.to(device).double()
    u = torch.multinomial(weights, features, replacement=True, generator=generator)
    w = torch.randn(dimension, features, dtype=torch.float64, device=device, generator=generator)
    return w * (2 / gamma[u]).sqrt()


def fourier_waves(x: Tensor, centre: Tensor, w: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """sum_i cos(w'x_i) and sum_i sin(w'x_i), each (D,) in float64: x (N, F), centre (F,), w (F, D)."""
    cos = torch.zeros(w.shape[1], dtype=torch.float64, device=w.device)
    sin = torch.zeros_like(cos)
    steepest = float(w.square().sum(0).amax().sqrt()) if w.numel() else 0.0
    for chunk, part in enumerate(x.split(rows)):
        offsets = part.to(w) - centre
        angles = torch.linalg.vector_norm(offsets.double(), dim=1) * steepest  # (T,), the largest in radians
        if float(angles.amax()) > _RADIANS / torch.finfo(w.dtype).eps:
            if float(angles.amax()) > _RADIANS / torch.finfo(torch.float64).eps:
                raise ValueError(
                    f"row {chunk * rows + int(angles.argmax())} of a sample is too far from the others for random "
                    "features under this kernel: leave it out, or widen the kernel"
                )
            offsets = part.to(w.device, torch.float64) - centre.double()
        angles = offsets @ w.to(offsets.dtype)  # (T, D)
        cos += angles.cos().sum(0, dtype=torch.float64)
        sin += angles.sin_().sum(0, dtype=torch.float64)
    return cos, sin
