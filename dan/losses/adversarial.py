"""DANN and CDAN: a discriminator learns to tell the domains apart, and the features learn that it cannot.

    loss = -(1/2) [ mean_source log D(h(x)) + mean_target log (1 - D(h(x))) ],     D = P(source)
    DANN   h = f, the features                        CDAN   h = f (x) g, features by class probabilities

The discriminator descends the loss and the network below it climbs it, in one backward pass: between the two the
gradient is multiplied by -1.

Shapes: N samples; F features; C classes; D random dimensions; W width of the discriminator.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

# torch.nn has no public name for the lazy mixin and its buffers.
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer

from dan.models.dan import Output


class _Reversal(torch.autograd.Function):
    """Identity forward, gradient times -1 backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        return -outputs[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """x itself, whose gradient comes back with its sign turned. Source: Ganin and Lempitsky, ICML 2015, section 3."""
    return _Reversal.apply(x)


def domain_loss(source: Tensor, target: Tensor, weights: tuple[Tensor | None, Tensor | None] = (None, None)) -> Tensor:
    """Binary cross-entropy of a domain discriminator, source 1 and target 0, both domains counting one half.

    source (N,), target (M,): the discriminator's logits. weights: (N,) and (M,) >= 0, of the samples within their
    domain; None: equal. -> scalar, nats, float32 at least: log 2 is that of a coin.
    Source: Ganin and Lempitsky, ICML 2015.
    """
    source, target = (logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in (source, target))
    parts = []
    for value, weight in zip((logsigmoid(source), logsigmoid(-target)), weights, strict=True):
        parts.append(value.mean() if weight is None else (weight * value).sum() / weight.sum())
    return -(parts[0] + parts[1]) / 2


def certainty_weights(probs: Tensor) -> Tensor:
    """1 + exp(-H(p)) of class probabilities (N, C) -> (N,) in (1, 2], without gradient; H the entropy in nats.

    What the classifier is sure of counts up to twice what it guesses.
    Source: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, section 3.3.
    """
    p = probs.detach()
    return 1 + (p * p.clamp_min(1e-30).log()).sum(1).exp()


def sample_weights(output: Output, *, by_certainty: bool = False) -> Tensor | None:
    """The weights (N,) of an output's samples, times `certainty_weights` if wanted; None where all are equal."""
    certain = certainty_weights(output.logits.softmax(1)) if by_certainty else None
    if output.weights is None or certain is None:
        return certain if output.weights is None else output.weights
    return output.weights * certain


class _Discriminator(nn.Sequential):
    """(N, F) -> logit of P(source) (N, 1); F is read off the first batch."""

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"the discriminator's width must be at least 1, not {width}")
        super().__init__(nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


class DomainAdversary(nn.Module):
    """DANN: a discriminator of two hidden layers on one layer of the network, behind a gradient reversal.

    layer: the name of that layer. discriminator_width: W, of both hidden layers.
    Source: Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015, equations 1-6.
    """

    def __init__(self, layer: str, *, discriminator_width: int = 256) -> None:
        super().__init__()
        self.layer = layer
        self.discriminator = _Discriminator(discriminator_width)

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        weights = sample_weights(source), sample_weights(target)
        return {"domain": domain_loss(self._logits(source), self._logits(target), weights)}

    def seen(self, output: Output) -> Tensor:
        """What the discriminator is shown of each sample (N, ...)."""
        return output.layers[self.layer]

    def _logits(self, output: Output) -> Tensor:
        return self.discriminator(reverse_gradient(self.seen(output))).squeeze(1)

    @torch.no_grad()
    def domain_probability(self, output: Output) -> Tensor:
        """P(source) of each sample (N,), in [0, 1], as the discriminator sees it; without gradient."""
        return self._logits(output).sigmoid()


class ConditionalAdversary(DomainAdversary):
    """CDAN: the discriminator sees the outer product of a layer f (N, F) and the class probabilities g (N, C).

    So it can tell the domains apart class by class. Where F C > 4096 a random map stands for the product: see
    `RandomMultilinear`. g is shown as it is, without gradient. entropy_weighted: CDAN+E: see `certainty_weights`.
    Source: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, equations 4-8.
    """

    def __init__(self, layer: str, *, discriminator_width: int = 256, entropy_weighted: bool = False) -> None:
        super().__init__(layer, discriminator_width=discriminator_width)
        self.product = RandomMultilinear()
        self.entropy_weighted = entropy_weighted

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        certain = self.entropy_weighted
        weights = sample_weights(source, by_certainty=certain), sample_weights(target, by_certainty=certain)
        return {"domain": domain_loss(self._logits(source), self._logits(target), weights)}

    def seen(self, output: Output) -> Tensor:
        """f (x) g of each sample, (N, F C), or its random map (N, D)."""
        return self.product(output.layers[self.layer], output.logits.detach().softmax(1))


class RandomMultilinear(LazyModuleMixin, nn.Module):
    """f (x) g, flattened, (N, F C) while F C <= exact_up_to; beyond it (R_f f) * (R_g g) / sqrt(D), (N, D).

    R_f (D, F) and R_g (D, C) have entries of N(0, 1), drawn once at the first batch, as initial weights are, and kept
    in the state dict: inner products of the maps are unbiased for those of the outer products.
    Source: Long et al., NeurIPS 2018, equations 5 and 6.
    """

    cls_to_become = None
    of_f: Tensor
    of_g: Tensor

    def __init__(self, *, dimensions: int = 1024, exact_up_to: int = 4096) -> None:
        super().__init__()
        self.dimensions, self.exact_up_to = dimensions, exact_up_to
        self.register_buffer("of_f", UninitializedBuffer())
        self.register_buffer("of_g", UninitializedBuffer())

    def initialize_parameters(self, f: Tensor, g: Tensor) -> None:
        """Draw both maps, or leave them empty (0, F) and (0, C) where the product is exact."""
        if not self.has_uninitialized_params():
            return
        rows = self.dimensions if f.shape[1] * g.shape[1] > self.exact_up_to else 0
        with torch.no_grad():
            for matrix, width in ((self.of_f, f.shape[1]), (self.of_g, g.shape[1])):
                assert isinstance(matrix, UninitializedBuffer)
                matrix.materialize((rows, width), device=f.device)
                matrix.normal_()

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        if len(self.of_f):
            return (f @ self.of_f.T) * (g @ self.of_g.T) / self.dimensions**0.5
        return (f[:, :, None] * g[:, None, :]).flatten(1)
