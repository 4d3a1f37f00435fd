"""Features that do not know their domain: multi-kernel MMD, Deep Adaptation Networks, and their training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dan.data.domain_pair import DomainPair
    from dan.data.tasks import load_pair
    from dan.estimator import DANClassifier
    from dan.evaluation.metrics import Evaluation, evaluate, predict
    from dan.mmd import MultiKernel, linear_mmd2, median_bandwidth, mmd2, mmd2_per_kernel, optimal_weights
    from dan.models.dan import DAN, Output
    from dan.training.config import TrainConfig
    from dan.training.trainer import Trainer, fit

# Where each public name lives. They are imported on first use, so that `--help` does not wait for PyTorch.
_HOMES = {
    "DAN": "dan.models.dan",
    "DANClassifier": "dan.estimator",
    "DomainPair": "dan.data.domain_pair",
    "load_pair": "dan.data.tasks",
    "Output": "dan.models.dan",
    "Evaluation": "dan.evaluation.metrics",
    "evaluate": "dan.evaluation.metrics",
    "predict": "dan.evaluation.metrics",
    "TrainConfig": "dan.training.config",
    "Trainer": "dan.training.trainer",
    "fit": "dan.training.trainer",
    "MultiKernel": "dan.mmd",
    "linear_mmd2": "dan.mmd",
    "median_bandwidth": "dan.mmd",
    "mmd2": "dan.mmd",
    "mmd2_per_kernel": "dan.mmd",
    "optimal_weights": "dan.mmd",
}

__all__ = [
    "DAN",
    "DANClassifier",
    "DomainPair",
    "Evaluation",
    "MultiKernel",
    "Output",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "fit",
    "linear_mmd2",
    "load_pair",
    "median_bandwidth",
    "mmd2",
    "mmd2_per_kernel",
    "optimal_weights",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dan' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
