"""Which setting or model is kept, judged without a target label.

Shapes: N samples; C classes.
"""

from torch import Tensor


def information(probs: Tensor) -> Tensor:
    """H(mean_i p_i) - mean_i H(p_i): predictions that are sure one by one and spread over the classes together.

    probs (N, C) of unlabelled target samples -> scalar in [0, log C], nats; higher is better. It is the mutual
    information between sample and predicted class; it cannot see a consistent confusion of two classes, and
    assumes that the target holds all classes.
    Source: Bridle et al., NIPS 1991; as a label-free rule for adaptation, Musgrave et al., 2021.
    """

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-30).log()).sum(-1)

    return entropy(probs.mean(0)) - entropy(probs).mean()
