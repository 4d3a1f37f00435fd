"""A user's own function as a strategy: ids in any form of list are taken, and a generator is passed where it is wanted.

def strategy(query, budget, *, generator) -> ids        # budget ids of query.ids, in pick order
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dan.errors import UserError

if TYPE_CHECKING:
    from active.pool import Query
    from active.strategies import Strategy

SIGNATURE = "def strategy(query, budget, *, generator)"


def as_strategy(function: Callable[..., Any]) -> Strategy:
    """The function as a `Strategy`: called with or without `generator`, as its signature has it, and its ids a tensor.

    Attributes such as `needs` are kept. A function that draws at random without taking the generator is not
    reproducible: that is its author's choice.
    Raises UserError for a signature that takes neither (query, budget, generator=...) nor (query, budget).
    """
    if getattr(function, "is_adapted", False):
        return function
    name = getattr(function, "__qualname__", type(function).__name__)
    takes_generator = _takes_generator(function, name)

    @functools.wraps(function, updated=())
    def strategy(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        options = {"generator": generator} if takes_generator else {}
        return as_ids(function(query, budget, **options), name)

    vars(strategy).update({**getattr(function, "__dict__", {}), "is_adapted": True})
    return strategy


def as_ids(picks: Any, name: str = "the strategy") -> Tensor:
    """Ids (B,) as a LongTensor, from a tensor, an array, or a list of integers. Raises UserError for anything else."""
    try:
        ids = torch.as_tensor([int(i) for i in picks] if isinstance(picks, (list, tuple)) else picks)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(1, 1)
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.ndim != 1 or not (whole or not len(ids)):
        kind = f"{type(picks).__name__} of {ids.dtype}" if isinstance(picks, Tensor) else type(picks).__name__
        raise UserError(f"{name} returned a {kind}: a strategy returns a list of sample ids, taken from query.ids")
    return ids.long()


def _takes_generator(function: Callable[..., Any], name: str) -> bool:
    """Whether the function is called with generator=. Raises UserError where it cannot be called as a strategy."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some builtins: called as the protocol says
        return True
    for takes, options in ((True, {"generator": None}), (False, {})):
        try:
            signature.bind(None, 1, **options)
        except TypeError:
            continue
        return takes
    raise UserError(f"{name}{signature} is not a strategy: define it as {SIGNATURE}, returning ids")
