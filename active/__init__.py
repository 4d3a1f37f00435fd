"""Which target samples are worth a label: pools, acquisition strategies, and rounds of training and queries."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from active.interactive import ActiveLearner
    from active.loop import rounds
    from active.pool import Pool, Query
    from active.strategies import STRATEGIES, get_strategy

# Where each public name is defined. They are imported on first use, so that `--help` does not wait for PyTorch.
_MODULES = {
    "ActiveLearner": "active.interactive",
    "Pool": "active.pool",
    "Query": "active.pool",
    "STRATEGIES": "active.strategies",
    "get_strategy": "active.strategies",
    "rounds": "active.loop",
}

__all__ = ["STRATEGIES", "ActiveLearner", "Pool", "Query", "get_strategy", "rounds"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'active' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
