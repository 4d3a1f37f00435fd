"""DAN's own term: sum over layers of MK-MMD^2(D_s^l, D_t^l), its bandwidths and its kernel weights.

    L = CE(source) + lambda * sum_{l in align} MMD^2(D_s^l, D_t^l)          (Long et al., ICML 2015, equation 4)

Shapes: N, M samples; F features; K kernels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dan.mmd import MultiKernel, PowerStatistics, RunningBandwidth, mean_bandwidth, median_bandwidth, mmd2
from dan.models.dan import Output

HEURISTICS = {"median": median_bandwidth, "mean": mean_bandwidth}


def comparable(name: str, layer: Tensor, output_space: str = "probabilities") -> Tensor:
    """A layer's activations as they are compared between domains: the logits as probabilities, all else as it is.

    Logits have no scale of their own (training can shrink or stretch them at will), so it is the class probabilities of
    the layer "output" that are compared, as in Long et al., ICML 2017 (JAN); output_space="logits" leaves them as they
    are, as in Long et al., ICML 2015.
    """
    return layer.softmax(1) if name == "output" and output_space == "probabilities" else layer


def alignment(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    align: Sequence[str],
    *,
    num_kernels: int = 5,
    step: float = 2.0,
    estimator: str = "unbiased",
) -> dict[str, Tensor]:
    """MK-MMD^2 between source and target, for each aligned layer by itself, with nothing kept between calls.

    source, target: layers by name, (N, F) and (M, F). The kernels are a ladder of `num_kernels` bandwidths, a factor
    `step`
    apart, around the median heuristic of this batch, detached, equally weighted. Unbiased values may be negative:
    nothing is added to hide it. Raises ValueError for fewer samples than the estimator needs.
    Source: Long et al., ICML 2015, equation 4, with the deviations of docs/dan.md.
    """
    result = {}
    for name in align:
        x, y = comparable(name, source[name]), comparable(name, target[name])
        kernel = MultiKernel.ladder(median_bandwidth(x, y), count=num_kernels, step=step)
        result[name] = mmd2(x, y, kernel, estimator=estimator)
    return result


def weighted_mmd2(
    x: Tensor, y: Tensor, kernel: MultiKernel, source: Output, target: Output, *, estimator: str
) -> Tensor:
    """`mmd2` of a layer x (N, F), y (M, F) under the weights of the two outputs' samples, if they have any.

    0 for a batch whose weights leave fewer than two effective samples on a side: no unbiased estimate exists then, and
    a training skips the term for that step.
    """
    for weights in (source.weights, target.weights):
        if weights is not None and not float(effective_samples(weights)) >= 2:
            return (x.sum() + y.sum()) * 0
    return mmd2(x, y, kernel, estimator=estimator, x_weights=source.weights, y_weights=target.weights)


def effective_samples(weights: Tensor) -> Tensor:
    """n_eff = (sum_i w_i)^2 / sum_i w_i^2 of weights (N,): N for equal ones; NaN where all are 0."""
    return weights.sum().square() / weights.square().sum()


class Alignment(nn.Module):
    """MK-MMD^2 of every aligned layer, with what is learned about its kernels on the way; see `alignment`.

    bandwidth: the heuristic that the ladder is built around, "median" or "mean", of each batch; bandwidth_decay > 0
        takes its exponential average instead, decay * old + (1 - decay) * new.
    kernel_weights: "uniform", or "qp": the paper's quadratic program, solved every `kernel_weights_every` batches from
        running averages of its statistics (one batch alone is rank-deficient), alternating with the network's steps.
        It needs the same, even number of samples, at least 4, from both domains.
    output_space: see `comparable`.

    In evaluation mode nothing is updated.
    """

    beta: Tensor  # (layers, K)
    batches: Tensor

    def __init__(
        self,
        align: Sequence[str],
        *,
        num_kernels: int = 5,
        bandwidth_ratio: float = 2.0,
        estimator: str = "unbiased",
        bandwidth: str = "median",
        bandwidth_decay: float = 0.0,
        kernel_weights: str = "uniform",
        kernel_weights_every: int = 50,
        output_space: str = "probabilities",
    ) -> None:
        super().__init__()
        self.align = tuple(align)
        self.num_kernels, self.bandwidth_ratio, self.estimator = num_kernels, bandwidth_ratio, estimator
        self.every, self.output_space = kernel_weights_every, output_space
        # Stages may have names that a module may not: the position stands for the layer.
        self.bandwidths = nn.ModuleList(
            RunningBandwidth(HEURISTICS[bandwidth], decay=bandwidth_decay) for _ in self.align
        )
        learned = kernel_weights == "qp"
        self.statistics = nn.ModuleList(PowerStatistics(num_kernels) for _ in self.align if learned)
        self.register_buffer("beta", torch.full((len(self.align), num_kernels), 1 / num_kernels, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        terms = {}
        for place, name in enumerate(self.align):
            x = comparable(name, source.layers[name], self.output_space)
            y = comparable(name, target.layers[name], self.output_space)
            ladder = MultiKernel.ladder(self.bandwidths[place](x, y), count=self.num_kernels, step=self.bandwidth_ratio)
            if self.training:
                for statistics in self.statistics[place : place + 1]:  # none, where the weights stay equal
                    assert isinstance(statistics, PowerStatistics)
                    statistics.update(x.detach(), y.detach(), ladder)
                    if (int(self.batches) + 1) % self.every == 0:
                        self.beta[place] = statistics.weights()
            kernel = MultiKernel(ladder.bandwidths, self.beta[place])
            terms[name] = weighted_mmd2(x, y, kernel, source, target, estimator=self.estimator)
        if self.training:
            self.batches += 1
        return terms

    @property
    def weights(self) -> dict[str, Tensor]:
        """The kernel weights beta (K,) of every aligned layer, as they stand."""
        return dict(zip(self.align, self.beta, strict=True))

    @property
    def ladders(self) -> dict[str, Tensor]:
        """Of every aligned layer: bandwidths over the heuristic's gamma, and weights beta, (2, K)."""
        multiples = MultiKernel.ladder(1.0, count=self.num_kernels, step=self.bandwidth_ratio).bandwidths.to(self.beta)
        return {name: torch.stack([multiples, beta]) for name, beta in self.weights.items()}
