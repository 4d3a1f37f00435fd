"""The control that every other strategy has to beat: ask at random, of the whole pool or evenly over predicted classes.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.validation import check_probabilities, how_many

if TYPE_CHECKING:
    from active.pool import Query


def ask_random(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """A uniform draw without replacement. The draw is over the sorted ids, so the pool's order does not change it."""
    query = query.by_id()
    count = how_many(budget, len(query.ids))
    order = torch.randperm(len(query.ids), generator=generator, device=generator.device)
    return query.ids[order[:count].to(query.ids.device)]


def balanced_order(groups: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """A random order (N,) of all rows in which every beginning holds each group as often as any other, or all of it.

    groups: (N,), in 0 .. count - 1. In each turn every group that has a row left gives one at random, in a new
    random order of the groups; so how often two groups stand in the first b rows differs by at most one while both
    last.
    """
    device = groups.device
    order = torch.randperm(len(groups), generator=generator, device=generator.device).to(device)
    by_group = order[torch.sort(groups[order], stable=True).indices]  # (N,) group by group, at random within one
    size = torch.bincount(groups, minlength=count)  # (count,)
    first = size.cumsum(0) - size  # where each group begins
    turn = torch.arange(len(groups), device=device) - first[groups[by_group]]
    # A second shuffle, then a stable sort by turn: within a turn the groups come at random.
    again = torch.randperm(len(groups), generator=generator, device=generator.device).to(device)
    return by_group[again[torch.sort(turn[again], stable=True).indices]]


def ask_random_balanced(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Equal shares of the predicted classes, argmax of probs, as far as the pool has them; at random within a class."""
    query = query.by_id()
    (probs,) = query.need("probs")
    check_probabilities(probs, ids=query.ids)
    count = how_many(budget, len(query.ids))
    return query.ids[balanced_order(probs.argmax(dim=1), probs.shape[1], generator=generator)[:count]]
