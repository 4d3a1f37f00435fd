"""The control that every other strategy has to beat: ask at random.

Shapes: N samples.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from active.pool import Query


def how_many(budget: int, count: int) -> int:
    """min(budget, count): how many a strategy returns. ValueError unless budget is a whole number >= 0."""
    try:
        whole = operator.index(budget)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(f"budget must be a whole number of samples, 0 or more, not {budget!r}")
    return min(whole, count)


def ask_random(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """A uniform draw without replacement. The draw is over the sorted ids, so the pool's order does not change it."""
    query = query.by_id()
    count = how_many(budget, len(query.ids))
    order = torch.randperm(len(query.ids), generator=generator, device=generator.device)
    return query.ids[order[:count].to(query.ids.device)]
