"""How far from the source domain does a sample lie, as one network tells? Weighed with how unsure it is.

    aada    (1 - d) / d * H(p),    d = P(source | x) of a domain discriminator
    energy  highest free energy  F = -T log sum_c exp(logit_c / T)  first, the smallest gap of two class energies then

Sources: Su et al., Active Adversarial Domain Adaptation, WACV 2020; Xie et al., Active Learning for Domain Adaptation:
An Energy-Based Approach (EADA), AAAI 2022.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.uncertainty import entropy, highest_first
from active.strategies.validation import check_probabilities, how_many

if TYPE_CHECKING:
    from active.pool import Query


def aada(probs: Tensor, domain_probs: Tensor, *, eps: float = 1e-6) -> Tensor:
    """(1 - d) / d * H(p): how much rarer x is in the source than in the target, times how unsure the network is of it.

    probs: (N, C) class probabilities. domain_probs: d = P(source | x), (N,), clamped to [eps, 1 - eps]: a discriminator
    that is certain would make the score infinite, or 0 whatever the entropy.
    H is divided by log C, which changes no order. Returns (N,) float64, >= 0, higher = ask.
    Raises ValueError for rows that are no distribution, for d outside [0, 1], and for eps outside (0, 0.5).
    Source: Su et al., Active Adversarial Domain Adaptation, WACV 2020.
    """
    if not 0 < eps < 0.5:
        raise ValueError(f"eps must be between 0 and 0.5, not {eps}")
    if domain_probs.shape != probs.shape[:1]:
        raise ValueError(
            f"domain_probs {tuple(domain_probs.shape)} must be one number a row of probs {tuple(probs.shape)}"
        )
    _check_domain_probabilities(domain_probs)
    d = domain_probs.double().clamp(eps, 1 - eps)
    return (1 - d) / d * entropy(probs.double())


def ask_aada(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Ask for the samples of the highest `aada`; ties to the lowest id; draws nothing at random."""
    query = query.by_id()
    probs, domain_probs = query.need("probs", "domain_probs")
    check_probabilities(probs, ids=query.ids)
    _check_domain_probabilities(domain_probs, ids=query.ids)
    return query.ids[highest_first(aada(probs, domain_probs), budget)]


def free_energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """F = -T log sum_c exp(logit_c / T), a class's energy being -logit_c: high where the network knows no class for x.

    logits: (N, C). Returns (N,) float64. Raises ValueError for a temperature that is not positive.
    Source: Xie et al., AAAI 2022; LeCun et al., A Tutorial on Energy-Based Learning, 2006.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    return -temperature * torch.logsumexp(logits.double() / temperature, dim=1)


def highest_energy_then_smallest_gap(
    logits: Tensor, budget: int, *, share: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Rows of logits (N, C) by the two steps of EADA: LongTensor (min(budget, N),), ties to the lowest row.

    1. Keep the `share` of the rows with the highest free energy, rounded up, and never fewer than the budget.
    2. Of these, the smallest gap between the two lowest class energies, logit_(1) - logit_(2), first.
    Raises ValueError on a bad budget, fewer than two classes, a share outside (0, 1] and a temperature <= 0.
    Source: Xie et al., AAAI 2022; share and temperature are those of the authors' configurations.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share kept by free energy must be in (0, 1], not {share}")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (samples, classes) with at least 2 classes, not {tuple(logits.shape)}")
    budget = how_many(budget, len(logits))
    energy = free_energy(logits, temperature=temperature)
    # 0.07 of 100 is 7, though 0.07 * 100 is a little more.
    kept = highest_first(energy, max(budget, math.ceil(share * len(logits) - 1e-9))).sort().values
    two = logits[kept].double().topk(2, dim=1).values
    return kept[highest_first(two[:, 1] - two[:, 0], budget)]


def ask_energy(
    query: Query, budget: int, *, generator: torch.Generator, share: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Ask by `highest_energy_then_smallest_gap`; the share is of the unlabelled pool. Draws nothing at random."""
    query = query.by_id()
    (logits,) = query.need("logits")
    return query.ids[highest_energy_then_smallest_gap(logits, budget, share=share, temperature=temperature)]


def _check_domain_probabilities(domain_probs: Tensor, *, ids: Tensor | None = None) -> None:
    fine = (domain_probs >= 0) & (domain_probs <= 1)
    if not bool(fine.all()):
        row = int((~fine).nonzero()[0, 0])
        what = f"row {row} of domain_probs" if ids is None else f"domain_probs of sample {int(ids[row])}"
        raise ValueError(f"{what}: {float(domain_probs[row]):.4g} is no probability; pass P(source | x), in [0, 1]")
