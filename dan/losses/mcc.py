"""MCC: the target's predictions should not be torn between classes; nothing is aligned, and no source is needed.

With y_i the class probabilities of target sample i at temperature T, H their entropy, and w_i = 1 + exp(-H(y_i)),
    C_jk = sum_i w_i y_ij y_ik,      loss = (1/C) sum_j sum_{k != j} C_jk / sum_k' C_jk'
Rows of y sum to 1, so sum_k' C_jk' = sum_i w_i y_ij, and the loss is 1 - (1/C) sum_j sum_i a_ij y_ij, with
a_ij = w_i y_ij / sum_i' w_i' y_i'j: a softmax over the samples, which no class without any probability can divide by 0.

Shapes: M samples; C classes.
"""

import torch
from torch import Tensor, nn

from dan.models.dan import Output


def class_confusion(logits: Tensor, *, temperature: float = 2.5) -> Tensor:
    """The minimum class confusion loss of target logits (M, C) -> scalar in [0, 1 - 1/C], differentiable.

    0: every class that is predicted at all is predicted without any other; 1 - 1/C: all samples are equally unsure of
    all classes. The weights w carry no gradient. O(M C), without the C x C matrix; a common factor of w cancels, and
    the paper's normalisation of w with it. float32 at least.
    Raises ValueError for another shape, no samples, fewer than 2 classes, or a temperature that is not positive.
    Source: Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020, equations 2-6.
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"logits must be (M, C) with M >= 1 and C >= 2, not {tuple(logits.shape)}")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    log_y = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(1)  # (M, C)
    y = log_y.exp()
    with torch.no_grad():
        log_w = (1 + (y * log_y.clamp_min(-1e30)).sum(1).exp()).log()  # (M,); clamped: 0 * -inf is 0 here
    a = (log_w[:, None] + log_y).softmax(0)  # (M, C)
    return 1 - (a * y).sum() / logits.shape[1]


class ClassConfusion(nn.Module):
    """`class_confusion` of the target batch; the source batch is not looked at."""

    def __init__(self, *, temperature: float = 2.5) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, source: Output, target: Output) -> dict[str, Tensor]:
        return {"confusion": class_confusion(target.logits, temperature=self.temperature)}
