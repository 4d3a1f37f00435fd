"""Kernel weights that maximise the power of the test: min beta'(Q + eps I) beta with d'beta = 1, beta >= 0.

d_u is the linear-time MMD^2 under kernel u; Q its covariance, from differences of neighbouring quadruples:
    Q_uv = (4/n) sum_{i=1}^{n/4} D_u(i) D_v(i),   D_u(i) = g_u(z_{2i-1}) - g_u(z_{2i}).

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

from dan.mmd.estimators import quadruple_terms
from dan.mmd.kernels import MultiKernel

log = logging.getLogger(__name__)


@torch.no_grad()
def optimal_weights(x: Tensor, y: Tensor, kernel: MultiKernel, *, ridge: float = 1e-3) -> Tensor:
    """The paper's kernel weights beta (K,), >= 0, summing to 1, for the bandwidths of `kernel`.

    x, y (N, F), N a multiple of 2 and >= 4; `ridge` is the paper's eps. If no kernel sees a positive discrepancy
    (no d_u > 0) the program has no feasible point: all weight then goes to the kernel with the largest
    d_u / sigma_u, and a warning is logged.

    Raises ValueError when the sides differ in size, or are odd, or hold fewer than 4 samples.
    Source: Gretton et al., NIPS 2012 (optimal kernel choice), equation 11; Long et al., ICML 2015, equation 8.
    """
    if len(x) < 4:
        raise ValueError(f"kernel weights need at least 4 samples on each side, not {len(x)} and {len(y)}")
    g = quadruple_terms(x, y, kernel).double()  # (N/2, K)
    d = g.mean(dim=0)
    pairs = len(g) // 2
    difference = g[0 : 2 * pairs : 2] - g[1 : 2 * pairs : 2]  # (N/4, K)
    q = difference.T @ difference / pairs
    return _solve(q, d, ridge).to(kernel.weights)


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
