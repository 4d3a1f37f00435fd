"""What a network is trained on: cross-entropy on labelled samples + trade_off * sum over layers of MK-MMD^2.

    L = CE(source) + lambda * sum_{l in align} MMD^2(D_s^l, D_t^l)          (Long et al., ICML 2015, equation 4)

Shapes: N, M samples; F features.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dan.mmd import MultiKernel, median_bandwidth, mmd2


def alignment(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    align: Sequence[str],
    *,
    kernels: int = 5,
    step: float = 2.0,
    estimator: str = "unbiased",
) -> dict[str, Tensor]:
    """MK-MMD^2 between source and target, for each aligned layer by itself; the loss adds them up.

    source, target: layers by name, (N, F) and (M, F). Logits have no scale of their own (training can shrink or stretch
    them at will), so it is the class probabilities of the layer "output" that are compared, as in Long et al., ICML
    2017 (JAN). The kernels are a ladder of `kernels` bandwidths, a factor `step` apart, around the median heuristic of
    this batch, detached. Unbiased values may be negative: nothing is added to hide it.
    Raises ValueError for fewer samples than the estimator needs.
    """
    result = {}
    for name in align:
        x, y = comparable(name, source[name]), comparable(name, target[name])
        kernel = MultiKernel.ladder(median_bandwidth(x, y), count=kernels, step=step)
        result[name] = mmd2(x, y, kernel, estimator=estimator)
    return result


def comparable(name: str, layer: Tensor) -> Tensor:
    """A layer's activations as they are compared between domains: the logits as probabilities, all else as it is."""
    return layer.softmax(1) if name == "output" else layer


def ramp(progress: float, *, sharpness: float = 10.0) -> float:
    """2 / (1 + exp(-sharpness * p)) - 1: the trade-off's factor, from 0 at p = 0 to about 1 at p = 1.

    Early features are noise, and aligning noise does harm. Source: Ganin & Lempitsky, ICML 2015, section 4.1.
    """
    return 2 / (1 + math.exp(-sharpness * progress)) - 1


def inverse_decay(step: int, *, gamma: float, power: float) -> float:
    """(1 + gamma * step)^-power, the factor on every learning rate: Caffe's "inv" policy, as DAN was trained."""
    return (1 + gamma * step) ** -power
