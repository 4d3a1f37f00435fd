"""How good a network is, and how far apart its domains are."""

from dan.evaluation.metrics import Evaluation, evaluate, predict

__all__ = ["Evaluation", "evaluate", "predict"]
