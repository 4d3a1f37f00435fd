"""JAN: MMD^2 between the joint distributions of all aligned layers, by the product of the layers' multi-kernels.

    k(i, j) = prod_{l in align} sum_u beta_u exp(-|z_i^l - z_j^l|^2 / gamma_u^l)          (Long et al., ICML 2017)

Two domains whose layers agree one by one can still disagree on which features go with which classes: the sum over
layers of DAN cannot see that, the product can.

Shapes: N, M samples; F features; K kernels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dan.errors import nearest
from dan.losses.mk_mmd import HEURISTICS, comparable
from dan.mmd import MultiKernel, RunningBandwidth
from dan.mmd.dense import at_least_float32
from dan.mmd.estimators import ESTIMATORS
from dan.mmd.pairwise import squared_distances
from dan.models.dan import Output


def joint_mmd2(
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    kernels: Sequence[MultiKernel],
    estimator: str = "unbiased",
    *,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
) -> Tensor:
    """MMD^2 under the product of one multi-kernel a layer -> scalar, differentiable in all layers.

    x: layers (N, F_l) of the same N samples; y: (M, F_l) of the same M; kernels: one for each layer. The product of
    kernels is a kernel: of the concatenated layers, and with one layer this is `dan.mmd.mmd2`.
    estimator: "biased" (the paper's equation 9), "unbiased", or "linear" on disjoint quadruples (its equation 10).
    x_weights (N,), y_weights (M,): how much each sample counts, as in `dan.mmd.mmd2`.
    O((N + M)^2 (K + F) L) time for L layers, O((N + M)^2) memory: it is for batches.

    Raises ValueError for layers that do not belong together, an unknown estimator, or too few samples for it.
    Source: Long et al., "Deep Transfer Learning with Joint Adaptation Networks", ICML 2017, equations 9 and 10.
    """
    _check(x, y, kernels)
    n, m = len(x[0]), len(y[0])
    if estimator == "linear":
        if n != m or n % 2:
            raise ValueError(
                "the linear-time estimate needs the same, even number of samples (at least 2) on both sides, not "
                f"{n} and {m}: drop samples, or use the unbiased estimate"
            )
        quadruples = [
            _product([a[i::2] for a in one], [b[j::2] for b in other], kernels)
            for one, i, other, j in ((x, 0, x, 1), (y, 0, y, 1), (x, 0, y, 1), (x, 1, y, 0))
        ]
        if x_weights is None and y_weights is None:
            return (quadruples[0] + quadruples[1] - quadruples[2] - quadruples[3]).mean()
        a, b = _weights(x_weights, x[0]), _weights(y_weights, y[0])
        products = (a[::2] * a[1::2], b[::2] * b[1::2], a[::2] * b[1::2], a[1::2] * b[::2])
        means = [(w * k).sum() / w.sum() for w, k in zip(products, quadruples, strict=True)]
        return (means[0] + means[1] - means[2] - means[3]).to(quadruples[0].dtype)
    if estimator not in ESTIMATORS:
        raise ValueError(
            f'unknown estimator "{estimator}"{nearest(estimator, ESTIMATORS)}: one of {", ".join(ESTIMATORS)}'
        )
    if estimator == "unbiased" and min(n, m) < 2:
        raise ValueError(f"the unbiased estimate needs at least 2 samples on each side, not {n} and {m}")
    k: Tensor | float = 1.0
    for of_x, of_y, kernel in zip(x, y, kernels, strict=True):
        z = torch.cat([of_x, of_y])
        k = k * kernel.of_squared_distances(squared_distances(z, z))  # (N + M, N + M)
    assert isinstance(k, Tensor)
    # A sample with itself counts 1 whatever the features, or not at all: either way it has no gradient.
    k = k.masked_fill(torch.eye(n + m, dtype=torch.bool, device=k.device), 1.0 if estimator == "biased" else 0.0)
    k = k.double()  # what is left of the three sums may be a millionth of each
    w, v = (None if each is None else each.to(k.device, torch.float64) for each in (x_weights, y_weights))
    within = _mean_pair(k[:n, :n], w, w, estimator) + _mean_pair(k[n:, n:], v, v, estimator)
    value = within - 2 * _mean_pair(k[:n, n:], w, v, "biased")
    return value.to(torch.promote_types(at_least_float32(x[0][:0]).dtype, y[0].dtype))


def _mean_pair(k: Tensor, a: Tensor | None, b: Tensor | None, estimator: str) -> Tensor:
    """The mean of k (N, M) over pairs, weighted by a_i b_j; unbiased: k is symmetric with a zero diagonal, left out."""
    if a is None and b is None:
        return k.sum() / (len(k) * (k.shape[1] - (estimator == "unbiased")))
    a = k.new_ones(len(k)) if a is None else a
    b = k.new_ones(k.shape[1]) if b is None else b
    pairs = a.sum() * b.sum() - (a.square().sum() if estimator == "unbiased" else 0.0)
    return a @ k @ b / pairs


def _weights(weights: Tensor | None, of: Tensor) -> Tensor:
    """The weights of the rows of a layer, float64; None: 1 each."""
    return of.new_ones(len(of), dtype=torch.float64) if weights is None else weights.to(of.device, torch.float64)


def _product(x: Sequence[Tensor], y: Sequence[Tensor], kernels: Sequence[MultiKernel]) -> Tensor:
    """k(x_i, y_i), row by row: layers (N, F_l) twice -> (N,)."""
    value: Tensor | float = 1.0
    for a, b, kernel in zip(x, y, kernels, strict=True):
        value = value * kernel.of_squared_distances((at_least_float32(a) - at_least_float32(b)).square().sum(1))
    assert isinstance(value, Tensor)
    return value


def _check(x: Sequence[Tensor], y: Sequence[Tensor], kernels: Sequence[MultiKernel]) -> None:
    if not 0 < len(x) == len(y) == len(kernels):
        raise ValueError(f"x, y and kernels must be of the same layers, not {len(x)}, {len(y)} and {len(kernels)}")
    for a, b in zip(x, y, strict=True):
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or (len(a), len(b)) != (len(x[0]), len(y[0])):
            raise ValueError(
                f"each layer must be (N, F) and (M, F) of the same samples, not {tuple(a.shape)} and {tuple(b.shape)}"
            )
    if not len(x[0]) or not len(y[0]):
        raise ValueError("the joint MMD needs at least one sample on each side")


class JointAlignment(nn.Module):
    """`joint_mmd2` of the aligned layers, of which the logits are compared as probabilities: see `comparable`.

    Every layer has a ladder of `num_kernels` equally weighted bandwidths, a factor `bandwidth_ratio` apart, around its
    own heuristic ("median" or "mean") of each batch; bandwidth_decay > 0 takes the heuristic's exponential average.
    """

    def __init__(
        self,
        align: Sequence[str],
        *,
        num_kernels: int = 5,
        bandwidth_ratio: float = 2.0,
        estimator: str = "unbiased",
        bandwidth: str = "median",
        bandwidth_decay: float = 0.0,
        output_space: str = "probabilities",
    ) -> None:
        super().__init__()
        self.align = tuple(align)
        self.num_kernels, self.bandwidth_ratio, self.estimator, self.output_space = (
            num_kernels,
            bandwidth_ratio,
            estimator,
            output_space,
        )
        self.bandwidths = nn.ModuleList(
            RunningBandwidth(HEURISTICS[bandwidth], decay=bandwidth_decay) for _ in self.align
        )

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        x = [comparable(name, source.layers[name], self.output_space) for name in self.align]
        y = [comparable(name, target.layers[name], self.output_space) for name in self.align]
        ladders = [
            MultiKernel.ladder(running(a, b), count=self.num_kernels, step=self.bandwidth_ratio)
            for running, a, b in zip(self.bandwidths, x, y, strict=True)
        ]
        with torch.autocast(device_type=x[0].device.type, enabled=False):
            weights = {"x_weights": source.weights, "y_weights": target.weights}
            return {"joint": joint_mmd2(x, y, ladders, self.estimator, **weights)}
