"""Kernel weights that maximise the power of the test: min beta'(Q + eps I) beta with d'beta = 1, beta >= 0.

d_u is the linear-time MMD^2 under kernel u; Q its covariance, from differences of neighbouring quadruples:
    Q_uv = (4/n) sum_{i=1}^{n/4} D_u(i) D_v(i),   D_u(i) = g_u(z_{2i-1}) - g_u(z_{2i}).
E[Q_uu] = 2 Var g_u, and the linear-time estimate has variance (2/n) Var g_u = E[Q_uu] / n, whatever P and Q are.

As a non-negative least squares problem: with Q + eps I = R'R, the minimiser of |R b|^2 + (d'b - 1)^2 over b >= 0
is a positive multiple of beta (the objective is homogeneous but for the equality, which only sets the scale), and the
weights are normalised to sum to 1 anyway.

Shapes: N samples; F features; K kernels.
"""

import logging

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from dan.mmd.autograd import refuse_vmap
from dan.mmd.estimators import quadruple_terms
from dan.mmd.kernels import MultiKernel, kernel_of
from dan.mmd.samples import Sample, as_samples

log = logging.getLogger(__name__)


@torch.no_grad()
def optimal_weights(x: Sample, y: Sample, kernel: MultiKernel | None = None, *, ridge: float = 1e-3) -> Tensor:
    """The paper's kernel weights beta (K,), >= 0, summing to 1, for the bandwidths of `kernel`.

    x, y (N, F), N a multiple of 2 and >= 4; kernel: None as in `mmd2`; `ridge` is the paper's eps. If no kernel sees a
    positive discrepancy (no d_u > 0) the program has no feasible point: all weight then goes to the kernel with the
    largest d_u / sigma_u, and a warning is logged.

    Raises ValueError when the sides differ in size, or are odd, or hold fewer than 4 samples, or NaN.
    Source: Gretton et al., NIPS 2012 (optimal kernel choice), equation 11; Long et al., ICML 2015, equation 8.
    """
    x, y = as_samples(x, y)
    kernel = kernel_of(x, y, kernel)
    statistics = PowerStatistics(len(kernel.bandwidths), decay=None).to(x.device)
    statistics.update(x, y, kernel)
    return statistics.weights(ridge=ridge).to(kernel.weights)


class PowerStatistics(torch.nn.Module):
    """Averages of d (K,) and Q (K, K) over batches, from which the weights are solved now and then.

    One batch of 64 gives 16 differences, so a Q of rank 16 at most. Sums fade by `decay` a batch and are divided by the
    sum of what faded likewise, so that the first batches are not biased towards 0:
        s <- decay s + sum_i D(i) D(i)',   c <- decay c + number of D(i),   Q = s / c,        d in the same way.
    decay None: nothing fades, the plain mean over all that was seen; batches of 4, 8, 12 ... samples then give what
    `optimal_weights` gives for all of them put together. A kernel is known by its place: bandwidths may move between
    batches (u = "gamma / 2", say), if only their number stays.

    kernels: K. All sums are buffers in float64, so that a checkpoint of the module keeps them.
    Raises ValueError for a decay outside (0, 1].
    """

    sum_d: Tensor
    sum_q: Tensor
    count_d: Tensor
    count_q: Tensor

    def __init__(self, kernels: int, *, decay: float | None = 0.99) -> None:
        super().__init__()
        if decay is not None and not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], or None for a plain mean, not {decay}")
        self.decay = 1.0 if decay is None else decay
        self.register_buffer("sum_d", torch.zeros(kernels, dtype=torch.float64))
        self.register_buffer("sum_q", torch.zeros(kernels, kernels, dtype=torch.float64))
        self.register_buffer("count_d", torch.zeros((), dtype=torch.float64))  # quadruples
        self.register_buffer("count_q", torch.zeros((), dtype=torch.float64))  # differences of two quadruples

    @property
    def d(self) -> Tensor:
        """The averaged linear-time MMD^2 of each kernel (K,)."""
        return self.sum_d / self.count_d

    @property
    def q(self) -> Tensor:
        """The averaged Q (K, K), without the ridge."""
        return self.sum_q / self.count_q

    @torch.no_grad()
    def update(self, x: Sample, y: Sample, kernel: MultiKernel) -> None:
        """Take in a batch x, y (N, F), N even and >= 4. The weights of `kernel` are not looked at.

        Where N is no multiple of 4 the last quadruple counts in d, but has no partner for Q.
        Raises ValueError for other sizes, another number of kernels, or kernel values that are not finite.
        """
        x, y = as_samples(x, y)
        refuse_vmap(x, y)
        if len(x) < 4:
            raise ValueError(f"kernel weights need at least 4 samples on each side, not {len(x)} and {len(y)}")
        if len(kernel.bandwidths) != len(self.sum_d):
            raise ValueError(f"these statistics are of {len(self.sum_d)} kernels, not {len(kernel.bandwidths)}")
        g = quadruple_terms(x, y, kernel).to(self.sum_d)  # (N/2, K)
        if not bool(g.isfinite().all()):
            raise ValueError("the samples hold NaN or infinite values: kernel weights need finite features")
        pairs = len(g) // 2
        difference = g[0 : 2 * pairs : 2] - g[1 : 2 * pairs : 2]  # (N/4, K)
        # In place, so that whoever holds the buffers sees them move.
        self.sum_d.mul_(self.decay).add_(g.sum(dim=0))
        self.sum_q.mul_(self.decay).add_(difference.T @ difference)
        self.count_d.mul_(self.decay).add_(len(g))
        self.count_q.mul_(self.decay).add_(pairs)

    @torch.no_grad()
    def weights(self, *, ridge: float = 1e-3) -> Tensor:
        """The weights beta (K,), float64, >= 0, summing to 1; as `optimal_weights` in all else.

        Raises ValueError before the first batch, and for a ridge that is not positive.
        """
        if not self.count_q:
            raise ValueError("kernel weights need at least one batch: call update(x, y, kernel) first")
        if not ridge > 0:
            raise ValueError(f"the ridge must be positive, not {ridge}: Q alone may be singular")
        return _solve(self.q, self.d, ridge)


def _solve(q: Tensor, d: Tensor, ridge: float) -> Tensor:
    """q (K, K), d (K,) -> beta (K,)."""
    count = len(d)
    if not bool((d > 0).any()):
        best = int((d / (q.diagonal() + ridge).sqrt()).argmax())
        log.warning("no kernel sees a positive MMD^2: the weights fall back to the single kernel %d", best)
        return torch.nn.functional.one_hot(torch.tensor(best), count).to(d)
    root = torch.linalg.cholesky(q + ridge * torch.eye(count).to(q)).mH  # R with R'R = Q + eps I
    # d is scaled to a largest entry of 1 so that the fixed right-hand side is neither lost nor dominant.
    rows = torch.cat([root / root.abs().amax(), (d / d.abs().amax())[None]]).cpu().numpy()
    solution, _ = nnls(rows, np.append(np.zeros(count), 1.0))
    beta = torch.from_numpy(solution).to(d)
    return beta / beta.sum()
