"""How unsure is the model of one sample? Four scores of its class probabilities, each in [0, 1], higher = ask.

    least confidence      LC = (1 - p1) C / (C - 1)
    margin of confidence  MC = 1 - (p1 - p2)
    ratio of confidence   RC = p2 / p1
    entropy               H  = -sum_c p_c log p_c / log C

p1 >= p2 >= ... are a sample's probabilities in falling order. Each may be taken at a temperature T, softmax(log p / T).
Source: R. Munro, Human-in-the-Loop Machine Learning, 2021, ch. 3.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.validation import check_probabilities, how_many

if TYPE_CHECKING:
    from active.pool import Query


def least_confidence(probs: Tensor) -> Tensor:
    """(1 - p1) C / (C - 1): how far the most likely class is from certain.

    probs: (N, C), C >= 2, each row a distribution. Returns (N,) in [0, 1]: 0 for a one-hot row, 1 for a uniform one.
    Raises ValueError naming the first row that is not a distribution. Source: Munro, 2021, ch. 3.
    """
    p = _falling(probs)  # (N, C)
    classes = p.shape[1]
    return ((1 - p[:, 0]) * (classes / (classes - 1))).clamp(0, 1)


def margin_of_confidence(probs: Tensor) -> Tensor:
    """1 - (p1 - p2): how close the two most likely classes are. Shapes, range, errors, source: `least_confidence`."""
    p = _falling(probs)  # (N, C)
    return (1 - (p[:, 0] - p[:, 1])).clamp(0, 1)


def ratio_of_confidence(probs: Tensor) -> Tensor:
    """p2 / p1: how much of the winner the runner-up has. Shapes, range, errors and source as in `least_confidence`."""
    p = _falling(probs)  # (N, C)
    return p[:, 1] / p[:, 0]  # p1 >= (1 - SUM_TOLERANCE) / C > 0


def entropy(probs: Tensor) -> Tensor:
    """-sum_c p_c log p_c / log C, with 0 log 0 = 0. Shapes, range, errors and source as in `least_confidence`."""
    p = _falling(probs)  # (N, C); in falling order the sum's rounding cannot depend on how the classes are numbered
    return (torch.special.entr(p).sum(dim=1) / math.log(p.shape[1])).clamp(0, 1) + 0.0  # + 0.0: no negative zero


def at_temperature(probs: Tensor, temperature: float) -> Tensor:
    """softmax(log p / T), which is softmax(logits / T) for p = softmax(logits): T > 1 flattens, T < 1 sharpens.

    probs: (N, C), each row a distribution. A probability of 0 stays 0. Returns (N, C), computed in float64, in the type
    of `probs`, float32 at least. What softmax rounded to 0 cannot be had back: pass float64 probabilities if logits lie
    more than a hundred apart.
    Raises ValueError for a temperature that is not positive and finite, and as `least_confidence`.
    """
    _check_temperature(temperature)
    check_probabilities(probs)
    scaled = (probs.double().log() / temperature).softmax(dim=1)  # exp(-inf) = 0, and no row is all zeros
    return scaled.to(torch.promote_types(probs.dtype, torch.float32))


def highest_first(scores: Tensor, budget: int) -> Tensor:
    """Rows of the `budget` highest scores (N,), highest first, ties to the lowest row: LongTensor (min(budget, N),)."""
    count = how_many(budget, len(scores))
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def ask_highest(score: Callable[[Tensor], Tensor], temperature: float = 1.0) -> Callable[..., Tensor]:
    """The strategy that asks for the samples of the highest score(probs), ties to the lowest id.

    temperature: the probabilities are scored `at_temperature`; see there. 1: as they are.
    """
    _check_temperature(temperature)

    def strategy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query = query.by_id()
        (probs,) = query.need("probs")
        check_probabilities(probs, ids=query.ids)
        if temperature != 1:
            probs = at_temperature(probs, temperature)
        return query.ids[highest_first(score(probs), budget)]

    strategy.__name__ = strategy.__qualname__ = f"ask_{score.__name__}"
    strategy.__doc__ = f"Ask for the samples of the highest {score.__name__}; needs probs; draws nothing at random."
    if temperature != 1:
        strategy.__doc__ += f" At temperature {temperature}."
    return strategy


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite, not {temperature}")


def _falling(probs: Tensor) -> Tensor:
    """Each row's probabilities in falling order, (N, C), checked, in float32 or wider."""
    check_probabilities(probs)
    wide = probs if probs.dtype in (torch.float32, torch.float64) else probs.float()
    return wide.sort(dim=1, descending=True).values
