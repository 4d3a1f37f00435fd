"""Which target samples are worth a label: pools, acquisition strategies, and rounds of queries and training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from active.loop import rounds
    from active.pool import Pool, Query
    from active.strategies import STRATEGIES

# The module of each public name, imported on first use, so that `--help` does not import PyTorch.
_MODULES = {
    "STRATEGIES": "active.strategies",
    "Pool": "active.pool",
    "Query": "active.pool",
    "rounds": "active.loop",
}

__all__ = ["STRATEGIES", "Pool", "Query", "rounds"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'active' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
