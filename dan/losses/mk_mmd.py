"""DAN's own term: sum over layers of MK-MMD^2(D_s^l, D_t^l), its bandwidths and its kernel weights.

    L = CE(source) + lambda * sum_{l in align} MMD^2(D_s^l, D_t^l)          (Long et al., ICML 2015, equation 4)

Shapes: N, M samples; F features; K kernels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dan.mmd import (
    MultiKernel,
    PairDistances,
    PowerStatistics,
    RunningBandwidth,
    ladder_multiples,
    linear_mmd2,
    mean_bandwidth,
    median_bandwidth,
)
from dan.models.dan import Output

HEURISTICS = {"median": median_bandwidth, "mean": mean_bandwidth}


def comparable(name: str, layer: Tensor, output_space: str = "probabilities") -> Tensor:
    """A layer's activations as they are compared between domains: the logits as probabilities, all else as it is.

    Logits have no scale of their own (training can shrink or stretch them at will), so it is the class probabilities of
    the layer "output" that are compared, as in Long et al., ICML 2017 (JAN); output_space="logits" leaves them as they
    are, as in Long et al., ICML 2015.
    """
    return layer.softmax(1) if name == "output" and output_space == "probabilities" else layer


def pooled(x: Tensor, y: Tensor) -> Tensor:
    """x (N, F) above y (M, F), (N + M, F): without a copy where they are neighbours in one tensor.

    So they are where both domains' batches went through the network as one.
    """
    base = x._base
    if base is None or base is not y._base or base.ndim != 2 or base.shape[1] != x.shape[1]:
        return torch.cat([x, y])
    start, after = (z.storage_offset() - base.storage_offset() for z in (x, y))
    if after - start != x.numel() or not base.is_contiguous() or not x.is_contiguous() or not y.is_contiguous():
        return torch.cat([x, y])
    return base[start // base.shape[1] :][: len(x) + len(y)] if len(base) != len(x) + len(y) else base


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
    module = Alignment(align, num_kernels=num_kernels, bandwidth_ratio=step, estimator=estimator)
    outputs = [Output(layers[align[-1]], dict(layers)) for layers in (source, target)]
    terms: dict[str, Tensor] = module(*outputs)
    return terms


class Alignment(nn.Module):
    """MK-MMD^2 of every aligned layer, with what is learned about its kernels on the way; see `alignment`.

    Weights of the outputs' samples weight their pairs, as in `dan.mmd.mmd2`; a batch whose weights leave fewer than two
    effective samples on a side has the value 0: no unbiased estimate exists, and training skips the term for that step.

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
        self.multiples = ladder_multiples(num_kernels, bandwidth_ratio)
        self.estimator, self.heuristic = estimator, bandwidth
        self.every, self.output_space = kernel_weights_every, output_space
        # Stages may have names that a module may not: the position stands for the layer.
        self.bandwidths = RunningBandwidth(decay=bandwidth_decay, size=len(self.align))
        learned = kernel_weights == "qp"
        self.statistics = nn.ModuleList(PowerStatistics(num_kernels) for _ in self.align if learned)
        self.register_buffer("beta", torch.full((len(self.align), num_kernels), 1 / num_kernels, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        """MMD^2 of every aligned layer, scalars by the layer's name."""
        count = len(source.logits)
        layers = [pooled(source.layers[name], target.layers[name]) for name in self.align]
        layers = [comparable(name, z, self.output_space) for name, z in zip(self.align, layers, strict=True)]
        pairs = PairDistances(layers, count)
        gammas = self._gammas(pairs)
        if self.training:
            self._learn_weights(layers, count, gammas)
            self.batches.add_(1)
        weights = source.weights, target.weights
        if self.estimator == "linear":
            kernels = zip(layers, self._kernels(gammas), strict=True)
            values = tuple(linear_mmd2(z[:count], z[count:], kernel, *weights) for z, kernel in kernels)
        else:
            beta = self.beta if self.statistics else None
            values = pairs.mmd2(gammas, self.multiples, beta, *weights, estimator=self.estimator)
        return dict(zip(self.align, values, strict=True))

    def _gammas(self, pairs: PairDistances) -> Tensor:
        """The bandwidths (L,) that the ladders are built around."""
        if not self.training:
            return self.bandwidths.current()
        return self.bandwidths.update(pairs.median() if self.heuristic == "median" else pairs.mean())

    def _kernels(self, gammas: Tensor) -> list[MultiKernel]:
        """The multi-kernel of every layer."""
        multiples = gammas.new_tensor(self.multiples)
        return [MultiKernel(gamma * multiples, beta) for gamma, beta in zip(gammas, self.beta, strict=True)]

    def _learn_weights(self, layers: Sequence[Tensor], count: int, gammas: Tensor) -> None:
        """Add the batch to the statistics of the quadratic program, and solve it where it is due."""
        if not self.statistics:
            return
        due = (int(self.batches) + 1) % self.every == 0
        for place, (statistics, kernel) in enumerate(zip(self.statistics, self._kernels(gammas), strict=True)):
            assert isinstance(statistics, PowerStatistics)
            z = layers[place].detach()
            statistics.update(z[:count], z[count:], kernel)
            if due:
                self.beta[place] = statistics.weights()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The kernel weights beta (K,) of every aligned layer, as they stand."""
        return dict(zip(self.align, self.beta, strict=True))

    @property
    def ladders(self) -> dict[str, Tensor]:
        """Of every aligned layer: bandwidths over the heuristic's gamma, and weights beta, (2, K)."""
        multiples = self.beta.new_tensor(self.multiples)
        return {name: torch.stack([multiples, beta]) for name, beta in self.weights.items()}
