"""Ask where the network, with dropout left on, contradicts itself: what it could learn, not what is noise.

    I = H(mean_t p_t) - mean_t H(p_t),    H(p) = -sum_c p_c log p_c

p_t is the class distribution of dropout pass t. I is the mutual information between the label and the weights: 0 where
all passes say the same, however unsure; high where each is sure, of different classes. Source: Houlsby et al., Bayesian
Active Learning for Classification and Preference Learning (BALD), 2011; with dropout: Gal, Islam & Ghahramani, Deep
Bayesian Active Learning with Image Data, ICML 2017.

Shapes: T passes, N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.uncertainty import highest_first
from active.strategies.validation import check_probabilities

if TYPE_CHECKING:
    from active.pool import Query

BLOCK = 1 << 20  # probabilities taken at a time
ROUNDING = 1e-12  # an I below this is 0: it is the difference of two entropies, each rounded


def mutual_information(dropout_probs: Tensor) -> Tensor:
    """H(mean_t p_t) - mean_t H(p_t), in nats. dropout_probs: (T, N, C), T >= 2. Returns (N,) float64 in [0, log C].

    Raises ValueError for fewer than two passes or classes, and for rows that are no distribution.
    Source: Houlsby et al., arXiv 2011.
    """
    _check_passes(dropout_probs)
    passes, _, classes = dropout_probs.shape
    information = []
    for block in dropout_probs.split(max(1, BLOCK // (passes * classes)), dim=1):
        p = block.double()  # (T, rows, C)
        of_mean = torch.special.entr(p.mean(dim=0)).sum(dim=1)  # (rows,)
        information.append(of_mean - torch.special.entr(p).sum(dim=2).mean(dim=0))
    total = torch.cat(information)
    return torch.where(total > ROUNDING, total, 0.0)


def ask_dropout_disagreement(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Ask for the samples of the highest mutual information; ties to the lowest id; draws nothing at random."""
    query = query.by_id()
    (dropout_probs,) = query.need("dropout_probs")
    _check_passes(dropout_probs, ids=query.ids)
    return query.ids[highest_first(mutual_information(dropout_probs), budget)]


def _check_passes(dropout_probs: Tensor, *, ids: Tensor | None = None) -> None:
    if dropout_probs.ndim != 3 or len(dropout_probs) < 2:
        raise ValueError(
            f"dropout_probs {tuple(dropout_probs.shape)} must be (passes, samples, classes) with at least 2 passes: "
            "one cannot disagree"
        )
    for probs in dropout_probs:
        check_probabilities(probs, ids=ids)
