"""Rules that try the network out: on mixed target samples, and by training back from target to source.

Higher is better in both.

Shapes: N held-out source samples; M target samples; C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dan.evaluation.metrics import class_accuracies, confusion_matrix
from dan.evaluation.validators.inputs import ValidatorInputs, missing


def mixed_samples(
    inputs: ValidatorInputs, *, share: float = 0.55, partners: Tensor | None = None, seed: int = 0
) -> float:
    """MixVal: how often the prediction for a mix of two target samples is that for its larger part, in [0, 1].

        x_i' = share x_i + (1 - share) x_partner(i);   consistency = mean [prediction(x_i') = prediction(x_i)]

    The mean of two consistencies: over pairs with one predicted class (are clusters dense?) and over pairs with two (is
    the boundary between them in the middle?); of one alone where all pairs are of a kind. A partner of itself is no
    mix, and is left out. partners: (M,) rows; None: a permutation drawn by `seed`. The paper averages the RANKS of the
    two over the networks that are compared; here every network has a score of its own.
    Fails for a collapsed network: all pairs have one class, and it gets 1.
    Raises ValueError for a share outside (0.5, 1), partners of another shape, and without mixed_logits.
    Source: Hu et al., "Mixed samples as probes for unsupervised model selection in domain adaptation", NeurIPS 2023,
    with the share of its code.
    """
    if inputs.mixed_logits is None:
        raise ValueError(missing("mixval", "mixed_logits"))
    if not 0.5 < share < 1:
        raise ValueError(f"the share of the first sample must be above 0.5 and below 1, not {share}")
    predicted = inputs.target_logits.argmax(1).cpu()
    m = len(predicted)
    if partners is None:
        partners = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    if partners.shape != (m,):
        raise ValueError(f"partners must be one target row for each of {m}, not {tuple(partners.shape)}")
    first = (partners != torch.arange(m)).nonzero()[:, 0]
    if not len(first):
        raise ValueError("mixval needs 2 target samples that are mixed with each other")
    second = partners[first]
    kept = inputs.mixed_logits(first, second, share).argmax(1).cpu() == predicted[first]
    same = predicted[first] == predicted[second]
    parts = [float(kept[pairs].double().mean()) for pairs in (same, ~same) if bool(pairs.any())]
    return sum(parts) / len(parts)


def circular(inputs: ValidatorInputs) -> float:
    """The accuracy on held-out source of a classifier trained on the target with its predicted classes, in [0, 1].

    The mean of the accuracies by class, so that a frequent class counts no more than others. Fails where the classes
    have changed places between the domains, as by a shift that the reverse classifier does not undo: a network that is
    wrong everywhere gets 1 then, and the right one 0. The reverse classifier must not read the network's own features.
    Raises ValueError without reverse_prediction, source_logits and source_labels, and for a reverse prediction of
    another shape.
    Source: Bruzzone & Marconcini, "Domain adaptation problems: a DASVM classification technique and a circular
    validation strategy", TPAMI 32, 2010.
    """
    if inputs.reverse_prediction is None or inputs.source_labels is None:
        raise ValueError(missing("circular", "reverse_prediction and source_labels"))
    back = inputs.reverse_prediction(inputs.target_logits.argmax(1).cpu()).cpu()
    labels = inputs.source_labels.cpu()
    if back.shape != labels.shape:
        raise ValueError(f"reverse_prediction must return {tuple(labels.shape)} classes, not {tuple(back.shape)}")
    return float(class_accuracies(confusion_matrix(back, labels, inputs.num_classes)).nanmean())
