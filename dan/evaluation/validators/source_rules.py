"""Rules that read labelled source samples held out from training, alone or carried over to the target.

Higher is better in all of them; a risk is given as its negative.

Shapes: N held-out source samples; M target samples; F features; C classes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from dan.evaluation.validators.inputs import ValidatorInputs

Loss = Literal["error", "cross_entropy"]


def two_sample_error(source_features: Tensor, target_features: Tensor, *, seed: int = 0) -> float:
    """The held-out error of a linear classifier that tells source (N, F) from target (M, F): (1 - A / 2) / 2.

    In [0, 1], the domains counting the same: 0 where they are told apart without error, 1/2 by chance, around which it
    scatters. A is `dan.mmd.a_distance`, in two halves of which each is held out once. Raises ValueError as that does.
    """
    from dan.mmd import a_distance

    return (1 - a_distance(source_features, target_features, folds=2, seed=seed) / 2) / 2


def label_free_score(source_error: float, two_sample_error: float) -> float:
    """err_source + max(0, 1 - 2 err_two_sample), in [0, 2]; lower is better.

    source_error: of the class labels, on source samples held out from training; two_sample_error: of the domains, on
    samples held out from the domain classifier. The paper "jointly assesses" both errors and gives no formula. A plain
    sum has the wrong sign: domains that cannot be told apart have the high two-sample error of 1/2. So it is the half
    of their A-distance that is added. Errors above 1/2 are chance, and no better than 1/2.

    Raises ValueError for errors outside [0, 1].
    Source: Long et al., ICML 2015, section 4.1; the sign is our reading.
    """
    for name, error in (("source", source_error), ("two-sample", two_sample_error)):
        if not 0 <= error <= 1:
            raise ValueError(f"the {name} error must be in [0, 1], not {error}")
    return source_error + max(0.0, 1 - 2 * two_sample_error)


def source_risk(inputs: ValidatorInputs, *, loss: Loss = "error") -> float:
    """-(1/N) sum_i l_i on held-out source: in [-1, 0] for the error, l_i = 1 where the prediction is wrong.

    loss: "cross_entropy" (nats) moves in finer steps and also judges confidence. Right where the domains are the same.
    Fails under domain shift: it does not look at the target, and prefers a network without adaptation.
    """
    return -float(_losses(inputs, "source_risk", loss).mean())


def two_sample(inputs: ValidatorInputs, *, seed: int = 0) -> float:
    """-`label_free_score` of the error on held-out source and of `two_sample_error` on the features, in [-2, 0].

    Fails where classes of the target lie on other classes of the source: the features cannot be told apart then
    either. Raises ValueError for fewer than 4 samples of a domain.
    """
    error = float(_losses(inputs, "two_sample", "error").mean())
    return -label_free_score(error, two_sample_error(*inputs.features("two_sample"), seed=seed))


def importance_weighted(inputs: ValidatorInputs, *, loss: Loss = "error", seed: int = 0) -> float:
    """IWCV: -(1/N) sum_i w_i l_i, w_i = `density_ratios` of the features of the held-out source; loss as `source_risk`.

    Unbiased for the target's risk if the labels depend on the features alike in both domains (covariate shift) and w is
    exact. Its variance grows with that of w: few samples decide where the domains are apart.
    Source: Sugiyama, Krauledat & Mueller, "Covariate shift adaptation by importance weighted cross validation", JMLR 8,
    2007.
    """
    losses = _losses(inputs, "iwcv", loss)
    return -float((density_ratios(*inputs.features("iwcv"), seed=seed) * losses).mean())


def deep_embedded(inputs: ValidatorInputs, *, loss: Loss = "error", seed: int = 0) -> float:
    """DEV: -(mean(w l) + eta (mean(w) - 1)), eta = -Cov(w l, w) / Var(w): IWCV with the control variate w.

    E w = 1 is known, so what mean(w) is off by tells what mean(w l) is off by. Arguments as `importance_weighted`.
    Covariances are unbiased (N - 1); eta is 0 where w is constant. Fails where classes of the target lie on other
    classes of the source. Where the features do not overlap, mean(w) is far below 1, and the estimate extrapolates
    along eta: it may leave [-1, 0].
    Source: You et al., "Towards accurate model selection in deep unsupervised domain adaptation", ICML 2019; the
    domain classifier is linear here and cross-fitted, a small network there.
    """
    losses = _losses(inputs, "dev", loss)
    return -control_variate_risk(density_ratios(*inputs.features("dev"), seed=seed), losses)


def control_variate_risk(weights: Tensor, losses: Tensor) -> float:
    """mean(w l) + eta mean(w) - eta of weights and losses (N,), N >= 2: see `deep_embedded`."""
    w, weighted = weights.double(), weights.double() * losses.double()
    variance = float(w.var())
    centred = (weighted - weighted.mean()) * (w - w.mean())
    eta = -float(centred.sum()) / (len(w) - 1) / variance if variance > 0 else 0.0
    return float(weighted.mean()) + eta * (float(w.mean()) - 1)


def density_ratios(source: Tensor, target: Tensor, *, folds: int = 2, seed: int = 0) -> Tensor:
    """w (N,) float64 = P(target | x) / P(source | x) at the source samples, by a linear classifier of the domains.

    source (N, F), target (M, F): features. Both domains weigh the same in the classifier (`dan.mmd.two_sample`'s
    domain_probabilities), so w is p_T(x) / p_S(x); each w is by a classifier that was not trained on its sample.
    Raises ValueError as that does.
    """
    from dan.mmd.two_sample import domain_probabilities

    of_source = domain_probabilities(source, target, folds=folds, seed=seed)[0].clamp_min(1e-12)
    return (1 - of_source) / of_source


def thresholded_confidence(inputs: ValidatorInputs, *, score: Literal["entropy", "confidence"] = "entropy") -> float:
    """ATC: an estimate of the target's accuracy, in [0, 1]: the share of target samples with s(x) >= t.

        t: the share of held-out source samples with s(x) < t is the error on them

    score: s is the negative entropy of the probabilities, or the largest of them. It is the source's accuracy if the
    target is the source. Fails where the network is sure and wrong in the target; calibrate both sides alike.
    Source: Garg et al., "Leveraging unlabeled data to predict out-of-distribution performance", ICLR 2022.
    """
    errors = int(_losses(inputs, "atc", "error").sum())
    logits, _ = inputs.labelled_source("atc")
    of_source, of_target = (_scores(z, score) for z in (logits, inputs.target_logits))
    if errors == len(of_source):
        return 0.0
    threshold = of_source.sort().values[errors]  # `errors` samples lie below it
    return float((of_target >= threshold).double().mean())


def _scores(logits: Tensor, score: str) -> Tensor:
    log_p = logits.detach().cpu().double().log_softmax(1)
    return (log_p.exp() * log_p).sum(1) if score == "entropy" else log_p.amax(1).exp()


def _losses(inputs: ValidatorInputs, rule: str, loss: Loss) -> Tensor:
    """l (N,), float64."""
    logits, labels = inputs.labelled_source(rule)
    logits, labels = logits.detach().cpu().double(), labels.cpu().long()
    if loss == "cross_entropy":
        return cross_entropy(logits, labels, reduction="none")
    return (logits.argmax(1) != labels).double()
