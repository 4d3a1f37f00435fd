"""Rules that read the target's outputs alone: how sure, how varied and how clustered the predictions are.

They cannot see a prediction that is sure and wrong. Higher is better in all of them.

Shapes: M target samples; C classes. p: softmax of the logits, float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dan.evaluation.validators.inputs import ValidatorInputs


def entropy(inputs: ValidatorInputs) -> float:
    """-(1/M) sum_i H(p_i), in [-log C, 0], nats.

    Right where errors are unsure. Fails for a collapsed network, which is sure of one class everywhere: it gets 0, the
    best value.
    Source: Grandvalet & Bengio, "Semi-supervised learning by entropy minimization", NIPS 2004; as a validator, Morerio
    et al., ICLR 2018.
    """
    return -float(_entropies(_target_probs(inputs)).mean())


def information(probs: Tensor) -> Tensor:
    """H(mean_i p_i) - mean_i H(p_i): predictions that are sure one by one and spread over the classes together.

    probs (N, C) of unlabelled target samples -> scalar in [0, log C], nats; higher is better. It is the mutual
    information between sample and predicted class; it cannot see a consistent confusion of two classes, and
    assumes that the target holds all classes.
    Source: Bridle et al., NIPS 1991; as a label-free rule for adaptation, Musgrave et al., 2021.
    """
    return _entropies(probs.mean(0)) - _entropies(probs).mean()


def information_maximisation(inputs: ValidatorInputs) -> float:
    """`information` of the target's probabilities, in [0, log C], nats.

    Fails where two classes have changed places, and for a target of unequal class shares: there the network that
    spreads its predictions evenly scores higher than the one that is right.
    """
    return float(information(_target_probs(inputs)))


def nuclear_norm(inputs: ValidatorInputs) -> float:
    """|P|_* / sqrt(M min(M, C)), P (M, C) the target's probabilities: in (0, 1], 1 for sure and evenly spread ones.

    The sum of the singular values of P grows with confidence and with the number of classes in use. Fails as
    `information_maximisation` does: it assumes equal class shares.
    Source: Cui et al., "Towards discriminability and diversity: batch nuclear-norm maximization", CVPR 2020; as an
    estimate of accuracy, Deng et al., "Confidence and dispersity speak", ICML 2023.
    """
    p = _target_probs(inputs)
    return float(torch.linalg.matrix_norm(p, "nuc")) / (len(p) * min(p.shape)) ** 0.5


def soft_neighbourhood_density(inputs: ValidatorInputs, *, temperature: float = 0.05, rows: int = 1024) -> float:
    """SND: (1/M) sum_i H(q_i), q_ij = softmax over j != i of (z_i . z_j / temperature), z_i = p_i / |p_i|, nats.

    In [0, log(M - 1)]: high where every sample has many equally near neighbours, hence dense clusters. It needs no
    source. rows: so many of the similarity matrix are held at once; memory is O(rows M).
    Fails for a collapsed network, where every sample is everybody's neighbour: it gets the maximum log(M - 1). The same
    holds for too few clusters in general.
    Raises ValueError for fewer than 2 samples and a temperature that is not positive.
    Source: Saito et al., "Tune it the right way: unsupervised validation of domain adaptation via soft neighborhood
    density", ICCV 2021, with the temperature of its equation 2.
    """
    p = _target_probs(inputs)
    if len(p) < 2 or not temperature > 0:
        raise ValueError(f"snd needs 2 target samples and a positive temperature, not {len(p)} and {temperature}")
    z = p / p.norm(dim=1, keepdim=True)
    total = 0.0
    for begin in range(0, len(z), rows):
        part = z[begin : begin + rows]
        similar = part @ z.T / temperature
        similar[torch.arange(len(part)), torch.arange(begin, begin + len(part))] = -torch.inf  # not oneself
        total += float(_entropies(similar.softmax(1)).sum())
    return total / len(z)


def matrix_norm(inputs: ValidatorInputs, *, p: float = 4.0, threshold: float = 5.0) -> float:
    """MaNo: ((1/(M C)) sum_ic s_ic^p)^(1/p), s_i the normalised logits q_i, in [0, 1].

        criterion = -(1/(M C)) sum_ic log softmax(q_i)_c       large for sure predictions
        s_i = softmax(q_i)                                     where criterion > threshold
        s_i = v_i / sum_c v_ic,  v_i = t_i - min_c t_ic,  t_i = 1 + q_i + q_i^2 / 2      otherwise

    A row of equal logits has s_ic = 1 / C. Fails with 2 classes below the threshold, where s_i is 0 and 1 whatever the
    logits are; and it changes if a constant is added to the logits, since t has its minimum at -1: do not compare
    networks whose logits are centred differently.
    Raises ValueError for p <= 0.
    Source: Xie et al., "MaNo: exploiting matrix norm for unsupervised accuracy estimation under distribution shifts",
    NeurIPS 2024, equations 2, 5 and 6 and their footnote, with p = 4 and a threshold of 5 as there.
    """
    if not p > 0:
        raise ValueError(f"the order of mano's norm must be positive, not {p}")
    logits = inputs.target_logits.detach().cpu().double()
    if float(-logits.log_softmax(1).mean()) > threshold:
        normalised = logits.softmax(1)
    else:
        taylor = 1 + logits + logits.square() / 2
        above = taylor - taylor.amin(1, keepdim=True)
        total = above.sum(1, keepdim=True)
        normalised = torch.where(total > 0, above / total.clamp_min(1e-300), 1 / inputs.num_classes)
    return float(normalised.pow(p).mean() ** (1 / p))


def _target_probs(inputs: ValidatorInputs) -> Tensor:
    return inputs.target_logits.detach().cpu().double().softmax(1)


def _entropies(p: Tensor) -> Tensor:
    """H of the last dimension."""
    return -(p * p.clamp_min(1e-30).log()).sum(-1)
