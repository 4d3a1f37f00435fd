"""Model-based outliers: ask for what excites the network less than the validation samples did.

    score(x) = 1 - mean_u rank_u(x)

rank_u(x) is where x's activation of unit u stands among the V validation activations of that unit, in [0, 1]: 0 below
the smallest, 1 at or above the largest, k / (V - 1) at the k-th in rising order (from 0), linear between neighbours,
and for a value that several share (zeros after a ReLU) the mean of their places.
Source: R. Munro, Human-in-the-Loop Machine Learning, 2021, ch. 4.

Shapes: N pool samples, V validation samples, U units, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.uncertainty import highest_first

if TYPE_CHECKING:
    from active.pool import Query

BLOCK = 1 << 20  # activations ranked at a time


@torch.no_grad()
def mean_rank(activations: Tensor, validation: Tensor) -> Tensor:
    """The mean over units of an activation's rank among the validation activations of its unit; see the formula atop.

    activations: (N, U). validation: (V, U), V >= 1, from samples that were not trained on.
    Returns (N,) float64 in [0, 1]. Time O((N + V) U log V); memory that of `validation`, sorted, and of one block.
    Raises ValueError on shapes that do not fit, and when there are no validation samples or no units.
    Source: Munro, 2021, ch. 4, with the deviations of docs/outliers.md.
    """
    if activations.ndim != 2 or validation.ndim != 2 or activations.shape[1] != validation.shape[1]:
        raise ValueError(
            f"activations {tuple(activations.shape)} and validation {tuple(validation.shape)} must be (samples, units) "
            "of the same units"
        )
    count, units = validation.shape
    if count == 0 or units == 0:
        raise ValueError(f"validation {tuple(validation.shape)} has nothing to rank among")
    # One type that holds both exactly, and that can be sorted everywhere.
    dtype = torch.promote_types(torch.promote_types(activations.dtype, validation.dtype), torch.float32)
    ladder = validation.to(activations.device, dtype).T.sort(dim=1).values.contiguous()  # (U, V)
    means = []
    for rows in activations.split(max(1, BLOCK // units)):
        values = rows.to(dtype).T.contiguous()  # (U, rows)
        left = torch.searchsorted(ladder, values)  # how many are smaller
        right = torch.searchsorted(ladder, values, right=True)  # how many are not larger
        below = ladder.gather(1, (left - 1).clamp(min=0)).double()
        above = ladder.gather(1, left.clamp(max=count - 1)).double()
        between = left - 1 + (values.double() - below) / (above - below)  # for values in a gap; NaN elsewhere
        place = torch.where(right > left, (left + right - 1) / 2, between) / max(count - 1, 1)
        place = torch.where(left == right, torch.where(left == 0, 0.0, place), place)
        place = torch.where(right == count, 1.0, place)  # at or above the largest
        means.append(place.T.contiguous().mean(dim=1))  # by rows, so that equal samples round equally
    return torch.cat(means) if means else torch.empty(0, dtype=torch.float64, device=activations.device)


def ask_outliers(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Ask for the lowest mean rank over the logits, and over all hidden units too where the query has `layers`.

    Every unit counts the same, a logit as a hidden unit: the mean is over C units, or over C + H where both `layers`
    and `validation_layers` are there. Ties to the lowest id; draws nothing at random.
    """
    query = query.by_id()
    logits, validation = query.need("logits", "validation_logits")
    ranks = mean_rank(logits, validation)
    if query.layers is not None and query.validation_layers is not None:
        layers, validation_layers = query.need("layers", "validation_layers")
        classes, hidden = logits.shape[1], layers.shape[1]
        ranks = (classes * ranks + hidden * mean_rank(layers, validation_layers)) / (classes + hidden)
    return query.ids[highest_first(1 - ranks, budget)]
