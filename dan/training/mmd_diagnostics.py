"""MMD as a curve that means something: on a fixed held sample, with a frozen bandwidth, beside its permutation null.

    gamma_l    = median heuristic of layer l at the first look, then kept
    mmd2/l     = unbiased MMD^2 under the ladder around gamma_l, all kernels weighing the same
    null band  = 2.5 % and 97.5 % quantiles of the same under relabellings of the pooled held sample

A bandwidth that follows the features makes values of different steps incomparable, and weights that are learned would,
too. A frozen one can go stale: features that grow a hundredfold, as fresh layers do in their first steps, leave its
kernels behind. So the same is measured around the median of each look as well, and the ratio of both bandwidths says
how far to trust the frozen curve. A value inside its band can't be told from that of a single domain.

Shapes: N, M held samples; F features; K kernels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dan.mmd import MultiKernel, a_distance, median_bandwidth, mmd2_per_kernel, permutation_test
from dan.training.tensorboard import Band

FEWEST = 4  # held samples a side: two folds of the A-distance need two each


class MMDDiagnostics(nn.Module):
    """Looks at the aligned layers of both domains' held samples; the bandwidths of its first look are its state.

    align: names of the layers. kernels, step: the ladder, as in training. permutations: of the null; the smallest
    p-value is 1 / (1 + permutations). seed: decides the relabellings, which are the same at every look and in every
    layer of N and M samples, so that the band moves with the features alone, and the folds of the A-distance.

    The frozen bandwidths are buffers (0: not looked at yet), so a checkpoint of the module keeps them for a resumed
    run. Raises ValueError for a ladder or a number of permutations that cannot be.
    """

    def __init__(
        self, align: Sequence[str], *, num_kernels: int = 5, step: float = 2.0, permutations: int = 200, seed: int = 0
    ) -> None:
        super().__init__()
        MultiKernel.ladder(1.0, count=num_kernels, step=step)  # refuses what is none
        if permutations < 1:
            raise ValueError(f"the null needs at least one permutation, not {permutations}")
        self.align = tuple(align)
        self.num_kernels, self.step, self.permutations, self.seed = num_kernels, step, permutations, seed
        for name in self.align:
            self.register_buffer(_buffer(name), torch.zeros((), dtype=torch.float64))

    def gamma(self, name: str) -> float | None:
        """The frozen bandwidth of a layer, in squared units of its activations; None before the first look."""
        return float(self.get_buffer(_buffer(name))) or None

    @torch.no_grad()
    def look(
        self,
        source_layers: Mapping[str, Tensor],
        target_layers: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        *,
        draw: bool = True,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """What there is to record of this step, and what else there is to draw: names -> values, none in both.

        source_layers, target_layers: activations (N, F) and (M, F) of the held samples, made comparable, by layer.
        weights: the kernel weights beta that training uses now, by layer, if it has any: they are drawn, and change no
        other value. They are of a ladder with the same step, of as many kernels as there are weights.
        draw: False leaves out what there is to draw besides.

        To record, for each aligned layer LAYER:
            mmd2/LAYER                      unbiased MMD^2, bandwidth frozen, equal weights
            mmd2_null_low/LAYER, mmd2_null_high/LAYER
                                            95 % band of the same under relabellings
            p_value/LAYER                   of that test
            a_distance/LAYER                2 (1 - 2 err) of a linear classifier of domains
        To draw besides (u counts the kernels, W is the bandwidth over the frozen gamma):
            mmd2_current/LAYER, mmd2_current_null_low/LAYER, _high, p_value_current/LAYER
                                            the same, around the median heuristic of this look
            gamma_ratio/LAYER               that bandwidth over the frozen one
            mmd2_per_kernel/LAYER/u_W       as mmd2, under kernel u by itself
            beta/LAYER/u_W                  the weights given

        A layer whose activations are all equal (dead, on both sides) has MMD^2 0 and p-value 1; its bandwidth is frozen
        once it lives. With fewer than 4 held samples on a side nothing is said: both are empty. No global random
        number is drawn.
        Raises ValueError for an aligned layer that is missing, and for activations that are not finite.
        """
        record: dict[str, float] = {}
        scalars: dict[str, float] = {}
        for name in self.align:
            if name not in source_layers or name not in target_layers:
                raise ValueError(f'there are no activations of the aligned layer "{name}" on both sides')
            x, y = source_layers[name].detach(), target_layers[name].detach()
            if min(len(x), len(y)) < FEWEST:
                continue
            if not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
                raise ValueError(f'the activations of layer "{name}" hold NaN or infinite values')
            current = median_bandwidth(x, y)
            frozen = self._frozen(name, x, y, current)
            kernel = self._ladder(frozen)
            record |= self._tested(x, y, kernel, "", name)
            record[f"a_distance/{name}"] = a_distance(x, y, seed=self.seed)
            if not draw:
                continue

            scalars |= self._tested(x, y, self._ladder(float(current)), "_current", name)
            scalars[f"gamma_ratio/{name}"] = float(current) / frozen
            for label, value in zip(
                self._labels(self.num_kernels), mmd2_per_kernel(x, y, kernel).tolist(), strict=True
            ):
                scalars[f"mmd2_per_kernel/{name}/{label}"] = value
            if weights is not None and name in weights:
                beta = weights[name].tolist()
                for label, value in zip(self._labels(len(beta)), beta, strict=True):
                    scalars[f"beta/{name}/{label}"] = value
        return record, scalars

    def charts(self) -> dict[str, dict[str, Band | list[str]]]:
        """The charts for `Monitor.charts`, in three groups: MMD^2 in its null band, the tests, the kernels."""
        bands: dict[str, Band | list[str]] = {}
        tests: dict[str, Band | list[str]] = {}
        kernels: dict[str, Band | list[str]] = {}
        for name in self.align:
            frozen, current = (
                Band(f"mmd2{kind}/{name}", f"mmd2{kind}_null_low/{name}", f"mmd2{kind}_null_high/{name}")
                for kind in ("", "_current")
            )
            bands[f"{name}: MMD^2 and its null band"] = frozen
            tests[f"{name}: p-value"] = [f"p_value/{name}"]
            tests[f"{name}: A-distance"] = [f"a_distance/{name}"]
            kernels[f"{name}: MMD^2 per kernel"] = [f"mmd2_per_kernel/{name}/"]
            kernels[f"{name}: kernel weights"] = [f"beta/{name}/"]
            kernels[f"{name}: current over frozen bandwidth"] = [f"gamma_ratio/{name}"]
            kernels[f"{name}: p-value with the current bandwidth"] = [f"p_value_current/{name}"]
            kernels[f"{name}: MMD^2 with the current bandwidth, and its null band"] = current
        return {
            "MMD: inside its band, a layer's domains can't be told apart": bands,
            "MMD: tests of the domains": tests,
            "MMD: kernels": kernels,
        }

    def _tested(self, x: Tensor, y: Tensor, kernel: MultiKernel, kind: str, name: str) -> dict[str, float]:
        # A generator of its own each time: the same relabellings at every look.
        generator = torch.Generator().manual_seed(self.seed)
        test = permutation_test(x, y, kernel, permutations=self.permutations, generator=generator)
        low, high = test.band
        return {
            f"mmd2{kind}/{name}": test.statistic,
            f"mmd2{kind}_null_low/{name}": low,
            f"mmd2{kind}_null_high/{name}": high,
            f"p_value{kind}/{name}": test.p_value,
        }

    def _frozen(self, name: str, x: Tensor, y: Tensor, current: Tensor) -> float:
        """The layer's bandwidth; this is where it freezes."""
        buffer = self.get_buffer(_buffer(name))
        if not buffer:
            if bool((x == x[0]).all()) and bool((y == x[0]).all()):
                return float(current)  # all distances are 0: every bandwidth gives the same, and none would last
            buffer.fill_(float(current))
        return float(buffer)

    def _ladder(self, gamma: float) -> MultiKernel:
        return MultiKernel.ladder(gamma, count=self.num_kernels, step=self.step)

    def _labels(self, count: int) -> list[str]:
        widths = MultiKernel.ladder(1.0, count=count, step=self.step).bandwidths.tolist()
        return [f"{u}_{width:.3g}_gamma" for u, width in enumerate(widths)]


def _buffer(name: str) -> str:
    """A layer's buffer: torch takes no dots in the name of one. Reversible, so that no two layers share one."""
    return "gamma/" + name.replace("%", "%25").replace(".", "%2E")
