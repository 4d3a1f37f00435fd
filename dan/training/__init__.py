"""Training: the configuration of a run, the one training loop, and what it writes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dan.training.config import TrainConfig, get_recipe
    from dan.training.trainer import Diverged, fit

# Imported on first use: the configuration is read by `--help`, which does not wait for PyTorch.
_HOMES = {
    "Diverged": "dan.training.trainer",
    "TrainConfig": "dan.training.config",
    "fit": "dan.training.trainer",
    "get_recipe": "dan.training.config",
}

__all__ = ["Diverged", "TrainConfig", "fit", "get_recipe"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dan.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
