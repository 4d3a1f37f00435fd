"""A share of the batch by a strategy, and the rest at random: how much of a strategy is good for us?

    round(share b) picks of the strategy, ties upward, then b - round(share b) of the other samples, uniformly

The random part keeps the labelled set near the pool's distribution, which a strategy's own picks leave. A name with a
share, "margin@0.3", is what the command line and the experiments call such a mixture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.pool import Query
from active.strategies.random_sampling import ask_random
from active.strategies.validation import how_many
from dan.errors import UserError

if TYPE_CHECKING:
    from active.strategies import Strategy


def mixture(strategy: Strategy, share: float) -> Strategy:
    """The strategy that asks `strategy` for a share of the batch, and draws the rest uniformly among the others.

    share: in [0, 1], of the min(budget, N) picks, rounded half up. The strategy's picks come first. At 0 the strategy
    is not called, and the answer is that of `random` with the same generator; at 1 it is the strategy's own.
    Raises ValueError for another share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of a batch must be in [0, 1], not {share}")

    def ask_mixture(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        count = how_many(budget, len(query.ids))
        of_strategy = math.floor(share * count + 0.5 + 1e-9)  # 0.29 * 50 is 14.499999999999998
        picks = query.ids[:0]
        if of_strategy:
            picks = strategy(query, of_strategy, generator=generator)
        others = Query(ids=query.ids[~torch.isin(query.ids, picks)])
        return torch.cat((picks, ask_random(others, count - of_strategy, generator=generator)))

    name = getattr(strategy, "__name__", "strategy")
    ask_mixture.__name__ = ask_mixture.__qualname__ = f"{name}@{share:g}"
    ask_mixture.__doc__ = f"A share of {share:g} by {name}, the rest at random."
    return ask_mixture


def parse_mixture(name: str) -> tuple[str, float] | None:
    """("margin", 0.3) for "margin@0.3"; None for a name without "@", which is no mixture.

    Raises UserError, in one line, where something is missing, or the share is no number in [0, 1].
    """
    if "@" not in name:
        return None
    strategy, _, text = name.rpartition("@")
    if not strategy or "@" in strategy:
        raise UserError(f'"{name}" is not NAME@SHARE, as in margin@0.3: one strategy and its share of the batch')
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f'"{text}" of "{name}" is no share: a number from 0 to 1, as in margin@0.3 for 30 %')
    return strategy, share
