"""Which samples to ask for: one idea a file, each a function of a query, and the one table that names them.

A strategy is `strategy(query, budget, *, generator) -> ids`: a LongTensor (min(budget, N),) of global sample ids, in
the order in which they were picked. It changes nothing, draws only from the generator, and gives the same answer
whatever the order of the pool.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from active.pool import Query
from active.strategies.chance import ask_random
from active.strategies.coreset import ask_k_center
from active.strategies.mmd_reduction import ask_mmd_reduction
from active.strategies.uncertainty import (
    ask_highest,
    entropy,
    least_confidence,
    margin_of_confidence,
    ratio_of_confidence,
)
from dan.errors import UserError, nearest


class Strategy(Protocol):
    """Query, budget and generator in; global ids (min(budget, N),) in pick order out."""

    def __call__(self, query: Query, budget: int, *, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Card:
    """What `python -m active strategies` says of one strategy."""

    name: str
    line: str  # the idea, in one line
    source: str  # where it was published
    cost: str  # time, in N unlabelled, L labelled and S source samples, C classes, F features, budget b
    needs: tuple[str, ...] = ()  # the fields of Query without which it refuses


STRATEGIES: dict[str, Strategy] = {
    "random": ask_random,
    "least_confidence": ask_highest(least_confidence),
    "margin": ask_highest(margin_of_confidence),
    "ratio": ask_highest(ratio_of_confidence),
    "entropy": ask_highest(entropy),
    "k_center": ask_k_center,
    "mmd_reduction": ask_mmd_reduction,
}

_BOOK = "Munro, Human-in-the-Loop Machine Learning, 2021, ch. 3"
_SORT = "O(N C log C + N log N)"

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card("random", "a uniform draw: the control that every other strategy has to beat", "-", "O(N)"),
        Card("least_confidence", "the lowest probability of the most likely class", _BOOK, _SORT, ("probs",)),
        Card("margin", "the smallest gap between the two most likely classes", _BOOK, _SORT, ("probs",)),
        Card("ratio", "the runner-up's probability nearest to the winner's, as a ratio", _BOOK, _SORT, ("probs",)),
        Card("entropy", "the flattest distribution over all classes", _BOOK, _SORT, ("probs",)),
        Card(
            "k_center",
            "farthest from all that is labelled or asked for: covers the pool with the smallest radius, greedily",
            "Sener & Savarese, ICLR 2018, Algorithm 1",
            "O(N F (L + b)) at most",
            ("features",),
        ),
        Card(
            "mmd_reduction",
            "those whose move from target to source brings the two closest in MMD, greedily",
            "this project",
            "O(N F (N + S + L + b))",
            ("features", "source_features"),
        ),
    )
}


def strategy_named(name: str) -> Strategy:
    """A name of STRATEGIES, or the user's own function as "module:function".

    Raises UserError, in one line, for an unknown name (with the nearest known one), for a module that cannot be
    imported, and for a module without that function.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        known = ", ".join(STRATEGIES)
        raise UserError(
            f'no strategy "{name}"{nearest(name, STRATEGIES)}; there are {known}, or your own module:function'
        )
    if not module_name or module_name.startswith(".") or not function_name:
        raise UserError(f'"{name}" is not module:function, as in my_project.strategies:my_strategy')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's file: importing it can raise anything
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f'cannot import "{module_name}" of "{name}": {type(error).__name__}: {reason}') from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise UserError(f'module "{module_name}" has no function "{function_name}"{nearest(function_name, functions)}')
    return cast(Strategy, function)


def needs_of(name: str) -> frozenset[str]:
    """The fields of Query that this strategy cannot do without; of a user's own, what its attribute `needs` says.

    A function without that attribute is shown everything that one pass of the network gives.
    """
    if name in CARDS:
        return frozenset(CARDS[name].needs)
    return frozenset(getattr(strategy_named(name), "needs", ()))
