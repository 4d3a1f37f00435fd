"""Training: the configuration of a run, the one training loop, and what it writes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dan.training.callbacks import Callback
    from dan.training.config import TrainConfig, get_recipe
    from dan.training.guards import Diverged
    from dan.training.options import TrainOptions
    from dan.training.trainer import Trainer, fit

# Imported on first use: the configuration is read by `--help`, which does not wait for PyTorch.
_MODULES = {
    "Callback": "dan.training.callbacks",
    "Diverged": "dan.training.guards",
    "TrainConfig": "dan.training.config",
    "TrainOptions": "dan.training.options",
    "Trainer": "dan.training.trainer",
    "fit": "dan.training.trainer",
    "get_recipe": "dan.training.config",
}

__all__ = ["Callback", "Diverged", "TrainConfig", "TrainOptions", "Trainer", "fit", "get_recipe"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dan.training' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
