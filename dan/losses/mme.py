"""MME: the classifier climbs the entropy of the target's predictions, and the features below it descend it.

    H = -(1/M) sum_j sum_c p_jc log p_jc,    p_j = softmax(W f_j + b)          f_j: the last hidden layer
    W, b descend CE - lambda H: towards the target, where its features are         the rest descends CE + lambda H

One backward pass does both: the term is -H, and between f and (W, b) its gradient is multiplied by -1.

Shapes: M target samples; F features; C classes.
"""

import torch
from torch import Tensor, nn

from dan.losses.adversarial import reverse_gradient
from dan.models.dan import Output


def negative_entropy(logits: Tensor) -> Tensor:
    """-H: mean over samples of sum_c p_c log p_c, p = softmax(logits): (M, C) -> scalar in [-log C, 0], nats.

    float32 at least; finite, with a finite gradient, for logits that are -inf-like far apart.
    Raises ValueError for another shape, no samples, or fewer than 2 classes.
    Source: Saito et al., ICCV 2019, equation 2.
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"logits must be (M, C) with M >= 1 and C >= 2, not {tuple(logits.shape)}")
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)  # (M, C)
    return (log_p.exp() * log_p).sum(1).mean()


class MinimaxEntropy(nn.Module):
    """-H of the target batch, through the network's own classifier behind a gradient reversal; the source is not seen.

    classifier: the layer from the features (M, F) to the logits (M, C). It stays the network's: its weights are no
    parameters of this module. layer: the name of the layer that it is fed from.
    Source: Saito et al., "Semi-supervised Domain Adaptation via Minimax Entropy", ICCV 2019, equations 2-5.
    """

    def __init__(self, classifier: nn.Module, layer: str) -> None:
        super().__init__()
        self._classifier = (classifier,)  # in a tuple: a module as an attribute would be registered, and trained twice
        self.layer = layer

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        features = target.layers[self.layer].flatten(1)
        return {"negative_entropy": negative_entropy(self._classifier[0](reverse_gradient(features)))}
