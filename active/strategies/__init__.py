"""Which samples to ask for: one idea a file, each a function of a query, and the one table that names them.

A strategy is `strategy(query, budget, *, generator) -> ids`: a LongTensor (min(budget, N),) of global sample ids, in
the order in which they were picked. It changes nothing, draws only from the generator, and gives the same answer
whatever the order of the pool.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from active.pool import Query
from active.strategies.aada_energy import ask_aada, ask_energy
from active.strategies.active_transfer_learning import ask_atl_representative, ask_atl_uncertainty, ask_atlas
from active.strategies.aift import aift_strategy, ask_aift
from active.strategies.badge import ask_badge
from active.strategies.bald import ask_dropout_disagreement
from active.strategies.clue import ask_clue
from active.strategies.clusters import ask_clusters, ask_uncertain_cluster, ask_uncertain_then_diverse
from active.strategies.coreset import ask_k_center
from active.strategies.hybrid import ask_hybrid
from active.strategies.kernel_herding import ask_kernel_herding
from active.strategies.mixture import mixture, parse_mixture
from active.strategies.mmd_reduction import ask_mmd_reduction
from active.strategies.outliers import ask_outliers
from active.strategies.random_sampling import ask_random, ask_random_balanced
from active.strategies.registry import CARDS, Card
from active.strategies.representative import (
    ask_representative,
    ask_representative_adaptive,
    ask_representative_clusters,
)
from active.strategies.robust_k_center import ask_robust_k_center
from active.strategies.sum_of_three import ask_sum_of_three
from active.strategies.typiclust_probcover import ask_probcover, ask_typiclust
from active.strategies.uherding import ask_uherding
from active.strategies.uncertainty import (
    ask_highest,
    entropy,
    least_confidence,
    margin_of_confidence,
    ratio_of_confidence,
)
from active.strategies.user_function import SIGNATURE, as_strategy
from dan.errors import UserError, nearest

__all__ = ["CARDS", "STRATEGIES", "Card", "Strategy", "get_strategy", "required_fields", "resolve_strategy"]


class Strategy(Protocol):
    """Query, budget and generator in; global ids (min(budget, N),) in pick order out."""

    def __call__(self, query: Query, budget: int, *, generator: torch.Generator) -> Tensor: ...


STRATEGIES: dict[str, Strategy] = {
    "random": ask_random,
    "random_balanced": ask_random_balanced,
    "least_confidence": ask_highest(least_confidence),
    "margin": ask_highest(margin_of_confidence),
    "ratio": ask_highest(ratio_of_confidence),
    "entropy": ask_highest(entropy),
    "outliers": ask_outliers,
    "clusters": ask_clusters,
    "representative": ask_representative,
    "representative_adaptive": ask_representative_adaptive,
    "representative_clusters": ask_representative_clusters,
    "uncertain_then_diverse": ask_uncertain_then_diverse,
    "uncertain_cluster": ask_uncertain_cluster,
    "atl_uncertainty": ask_atl_uncertainty,
    "atl_representative": ask_atl_representative,
    "atlas": ask_atlas,
    "k_center": ask_k_center,
    "robust_k_center": ask_robust_k_center,
    "mmd_reduction": ask_mmd_reduction,
    "aift": ask_aift,
    "hybrid": ask_hybrid,
    "sum_of_three": ask_sum_of_three,
    "badge": ask_badge,
    "clue": ask_clue,
    "aada": ask_aada,
    "energy": ask_energy,
    "typiclust": ask_typiclust,
    "probcover": ask_probcover,
    "uherding": ask_uherding,
    "kernel_herding": ask_kernel_herding,
    "dropout_disagreement": ask_dropout_disagreement,
}


def get_strategy(name: str) -> Strategy:
    """A name of STRATEGIES, a code of AIFT as "aift:E+M+R", the user's own function as "module:function", or a mixture
    of any as "NAME@SHARE".

    Raises UserError, in one line, for an unknown name (with the nearest known one), for a share that is not in [0, 1],
    for a code that is none, for a module that cannot be imported, for a module without that function, and for a
    function that cannot be called as a strategy.
    """
    mixed = parse_mixture(name)
    if mixed is not None:
        return mixture(get_strategy(mixed[0]), mixed[1])
    if name in STRATEGIES:
        return STRATEGIES[name]
    module_name, colon, function_name = name.partition(":")
    if colon and module_name == "aift":
        return aift_strategy(function_name)
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
    return as_strategy(function)


def required_fields(name: str) -> frozenset[str]:
    """The fields of Query that this strategy cannot do without; of a user's own, what its attribute `needs` says.

    A function without that attribute is shown everything that one pass of the network gives.
    """
    mixed = parse_mixture(name)
    if mixed is not None:
        return required_fields(mixed[0])
    if name in CARDS:
        return frozenset(CARDS[name].needs)
    return frozenset(getattr(get_strategy(name), "needs", ()))


def resolve_strategy(strategy: str | Callable[..., object]) -> tuple[Strategy, frozenset[str]]:
    """(the strategy, the fields of Query that it requires) of a name or a function, as `get_strategy` names them."""
    if isinstance(strategy, str):
        return get_strategy(strategy), required_fields(strategy)
    if not callable(strategy):
        raise UserError(f"a strategy is a name or a function, not a {type(strategy).__name__}: {SIGNATURE}")
    name = next((name for name, known in STRATEGIES.items() if known is strategy), None)
    needs = required_fields(name) if name else frozenset(getattr(strategy, "needs", ()))
    return as_strategy(strategy), needs
