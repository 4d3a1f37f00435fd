"""Class shares of an unlabelled target, estimated from a network's outputs: the weights w of label shift.

    label shift:   p_T(y) != p_S(y), p_T(x | y) = p_S(x | y);      w_c = p_T(c) / p_S(c)
    BBSE           C w = mu,   C_ij = P_S(prediction i, label j),   mu_i = P_T(prediction i)
    RLLS           w = 1 + theta,   theta = argmin |C theta - (mu - C 1)|_2 + delta |theta|_2
    MLLS           q = argmax_q sum_i log sum_c (q_c / p_c) p(c | x_i), by expectation-maximisation; w = q / p

All three assume that only the shares differ. Where the images differ too (domain shift), they are estimates with an
error that their intervals do not hold: use them on a network that was not aligned, and combine them with audit labels
(`posterior_shares`).

Shapes: N held-out source samples, M target samples, C classes, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Estimated class shares of the target, (C,) float64 each, with an interval for each class.

    shares: the estimate, summing to 1. low, high: ends of the interval of each class. weights: shares / source_shares,
    0 for a class that the source does not hold. method: which estimator.
    """

    shares: Tensor
    low: Tensor
    high: Tensor
    source_shares: Tensor
    method: str

    @property
    def weights(self) -> Tensor:
        """w (C,) = shares / source_shares; 0 where the source holds no sample of the class."""
        held = self.source_shares > 0
        return torch.where(held, self.shares / self.source_shares.clamp_min(1e-300), 0.0)

    @property
    def total_variation(self) -> float:
        """(1/2) sum_c |shares_c - source_shares_c|, in [0, 1]."""
        return float((self.shares - self.source_shares).abs().sum() / 2)


def class_shares(labels: Tensor, num_classes: int) -> Tensor:
    """The share of each class in `labels` (N,), N >= 1: (C,) float64, summing to 1."""
    counts = torch.bincount(labels.cpu().long(), minlength=num_classes).double()
    return counts / counts.sum()


def bbse(source_probs: Tensor, source_labels: Tensor, target_probs: Tensor, *, soft: bool = False) -> Tensor:
    """Black-box shift estimation: the solution of C w = mu, negative entries set to 0, as shares (C,) summing to 1.

    source_probs (N, C), source_labels (N,): of held-out source samples. target_probs (M, C). soft: the mean
    probabilities take the place of counted predictions, which varies less.
    C is singular where a class is never predicted: the least-squares solution of smallest norm is taken.
    Source: Lipton, Wang & Smola, "Detecting and correcting for label shift with black box predictors", ICML 2018, eq.
    3.
    """
    joint, mu = _joint(source_probs, source_labels, target_probs, soft)
    weights = torch.linalg.lstsq(joint, mu[:, None], driver="gelsd").solution[:, 0]
    return _shares_from(weights, class_shares(source_labels, joint.shape[1]))


def rlls(
    source_probs: Tensor, source_labels: Tensor, target_probs: Tensor, *, delta: float | None = None, soft: bool = False
) -> Tensor:
    """Regularised learning under label shift: BBSE with theta = w - 1 held small, as shares (C,) summing to 1.

    theta = argmin |C theta - b|_2 + delta |theta|_2, b = mu - C 1. delta: default 1 / sqrt(N), the order of the error
    of C. The larger it is, the nearer w is to 1. Arguments else as in `bbse`.
    Source: Azizzadenesheli et al., "Regularized learning for domain adaptation under label shifts", ICLR 2019, eq. 6.
    """
    joint, mu = _joint(source_probs, source_labels, target_probs, soft)
    b = mu - joint.sum(1)
    delta = len(source_labels) ** -0.5 if delta is None else delta
    theta = torch.zeros_like(b)
    if float((joint.T @ b).norm()) > delta * float(b.norm()):  # else 0 is optimal
        theta = _norm_regularised(joint, b, delta)
    return _shares_from(1 + theta, class_shares(source_labels, joint.shape[1]))


def _norm_regularised(a: Tensor, b: Tensor, delta: float) -> Tensor:
    """argmin_t |a t - b| + delta |t|, where it is not 0: the ridge solution t(s) with s |t| = delta |a t - b|.

    s |t(s)| - delta |a t(s) - b| grows with s: bisection, in the eigenvectors of a^T a.
    """
    values, vectors = torch.linalg.eigh(a.T @ a)
    right, rest = vectors.T @ (a.T @ b), float(b.square().sum())
    values, right_square = values.clamp_min(0), right.square()

    def residual_and_norm(s: float) -> tuple[float, float]:
        scaled = right / (values + s)
        residual2 = rest - 2 * float((right * scaled).sum()) + float((values * scaled.square()).sum())
        return max(residual2, 0.0) ** 0.5, float((right_square / (values + s).square()).sum()) ** 0.5

    low, high = -12.0, 6.0  # log10 s
    for _ in range(40):
        middle = (low + high) / 2
        residual, norm = residual_and_norm(10.0**middle)
        low, high = (middle, high) if 10.0**middle * norm < delta * residual else (low, middle)
    return vectors @ (right / (values + 10.0 ** ((low + high) / 2)))


def mlls(target_probs: Tensor, source_shares: Tensor, *, steps: int = 1000, tolerance: float = 1e-9) -> Tensor:
    """Maximum-likelihood shares q (C,) of the target, by expectation-maximisation from q = p_S.

    q_c <- mean_i r_ic,   r_ic = (q_c / p_c) p(c | x_i) / sum_k (q_k / p_k) p(k | x_i)

    target_probs (M, C): calibrated on the source (`dan.evaluation.calibration.bias_corrected`): the likelihood is that
    of
    the probabilities. source_shares p_S (C,): of the samples that they were calibrated on; a class of share 0 keeps 0.
    Source: Saerens, Latinne & Decaestecker, Neural Computation 14, 2002; Alexandari et al., ICML 2020.
    """
    p = source_shares.double()
    ratio = torch.where(p > 0, target_probs.double() / p.clamp_min(1e-300), 0.0)  # (M, C)
    q = p.clone()
    for _ in range(steps):
        joint = ratio * q
        new = (joint / joint.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
        new = new / new.sum()
        done = float((new - q).abs().max()) < tolerance
        q = new
        if done:
            break
    return q


def estimate_shares(
    source_probs: Tensor,
    source_labels: Tensor,
    target_probs: Tensor,
    *,
    method: str = "mlls",
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Shares:
    """The shares by one estimator, with a bootstrap interval for each class.

    method: one of ESTIMATORS. draws: bootstrap draws of source and of target samples. level: of the interval, between
    the quantiles (1 - level) / 2 and (1 + level) / 2 of the draws. Arguments else as in `bbse`.
    Raises ValueError for an unknown method, and for shapes that do not fit.
    """
    if method not in ESTIMATORS:
        raise ValueError(f'unknown estimator "{method}": one of {", ".join(ESTIMATORS)}')
    _check(source_probs, source_labels, target_probs)
    estimate = ESTIMATORS[method]
    s, y, t = source_probs.detach().cpu().double(), source_labels.cpu().long(), target_probs.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(draws):
        rows = torch.randint(len(y), (len(y),), generator=generator)
        columns = torch.randint(len(t), (len(t),), generator=generator)
        drawn.append(estimate(s[rows], y[rows], t[columns]))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.stack(drawn), tails, dim=0)
    return Shares(
        shares=estimate(s, y, t), low=low, high=high, source_shares=class_shares(y, t.shape[1]), method=method
    )


def _mlls_of(source_probs: Tensor, source_labels: Tensor, target_probs: Tensor) -> Tensor:
    """The prior of the likelihood is the one that the probabilities imply: their mean over the source."""
    return mlls(target_probs, source_probs.double().mean(0), steps=200, tolerance=1e-6)


ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"bbse": bbse, "rlls": rlls, "mlls": _mlls_of}


def posterior_shares(
    audit_labels: Tensor,
    centres: Tensor,
    source_shares: Tensor,
    *,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Shares:
    """The shares after labels of uniformly drawn target samples: a mixture of Dirichlet posteriors.

        prior:      q ~ Dirichlet(1/C + kappa m),   m one of `centres`,   kappa one of KAPPAS, all equally likely
        posterior:  each component by its marginal likelihood of the audit counts

    So an estimate that the audits contradict loses its weight, and one that they bear out keeps it.
    audit_labels (n,), n >= 0: classes of samples drawn UNIFORMLY from the pool whose shares are wanted; picks of a
    strategy are no such sample. centres (K, C): estimates, such as of MLLS and the source's shares (no shift).
    Raises ValueError for no centre, and for labels outside 0..C-1.
    """
    c = len(source_shares)
    if centres.ndim != 2 or centres.shape[1] != c or not len(centres):
        raise ValueError(f"centres must be (K, {c}) with K >= 1, not {tuple(centres.shape)}")
    if len(audit_labels) and not 0 <= int(audit_labels.min()) <= int(audit_labels.max()) < c:
        raise ValueError(f"audit labels must be classes 0 to {c - 1}")
    counts = torch.bincount(audit_labels.long(), minlength=c).double()  # (C,)
    kappas = torch.tensor(KAPPAS, dtype=torch.float64)
    prior = 1 / c + kappas[None, :, None] * centres.double()[:, None, :]  # (K, kappas, C)
    prior = prior.flatten(0, 1)
    after = prior + counts
    evidence = _log_beta(after) - _log_beta(prior)  # the multinomial coefficient is the same for all
    weight = evidence.softmax(0)  # (components,)
    mean = (weight[:, None] * after / after.sum(1, keepdim=True)).sum(0)
    sampled = _sample_dirichlets(after, weight, draws, seed)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(sampled, tails, dim=0)
    return Shares(shares=mean, low=low, high=high, source_shares=source_shares.double(), method="audits")


KAPPAS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # audits that an estimate counts for


def _log_beta(alpha: Tensor) -> Tensor:
    return torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))


def _sample_dirichlets(alpha: Tensor, weight: Tensor, draws: int, seed: int) -> Tensor:
    """`draws` samples (draws, C) of the mixture, from a generator of their own."""
    import numpy as np

    rng = np.random.default_rng(seed)
    which = rng.choice(len(weight), size=draws, p=(weight / weight.sum()).numpy())
    gammas = rng.standard_gamma(alpha.numpy()[which]) + 1e-300
    return torch.from_numpy(gammas / gammas.sum(1, keepdims=True))


def _joint(source_probs: Tensor, source_labels: Tensor, target_probs: Tensor, soft: bool) -> tuple[Tensor, Tensor]:
    """C (C, C), prediction by label, and mu (C,), float64."""
    _check(source_probs, source_labels, target_probs)
    c = target_probs.shape[1]

    def predicted(probs: Tensor) -> Tensor:
        probs = probs.detach().cpu().double()
        return probs if soft else torch.nn.functional.one_hot(probs.argmax(1), c).double()

    labels = torch.nn.functional.one_hot(source_labels.cpu().long(), c).double()  # (N, C)
    return predicted(source_probs).T @ labels / len(labels), predicted(target_probs).mean(0)


def _shares_from(weights: Tensor, source_shares: Tensor) -> Tensor:
    shares = weights.clamp_min(0) * source_shares
    total = shares.sum()
    return shares / total if float(total) > 0 else source_shares


def _check(source_probs: Tensor, source_labels: Tensor, target_probs: Tensor) -> None:
    if source_probs.ndim != 2 or target_probs.ndim != 2 or source_probs.shape[1] != target_probs.shape[1]:
        raise ValueError(
            "source_probs and target_probs must be (N, C) and (M, C), not "
            f"{tuple(source_probs.shape)} and {tuple(target_probs.shape)}"
        )
    if not len(target_probs) or source_labels.shape != (len(source_probs),) or not len(source_labels):
        raise ValueError(f"source_labels must be one class a row of source_probs, not {tuple(source_labels.shape)}")
    c = target_probs.shape[1]
    if not 0 <= int(source_labels.min()) <= int(source_labels.max()) < c:
        raise ValueError(f"source_labels must be classes 0 to {c - 1}")
