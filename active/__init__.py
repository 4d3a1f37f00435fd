"""Which target samples are worth a label: pools, acquisition strategies, and rounds of training and asking."""

from active.loop import rounds
from active.pool import Pool, Query
from active.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Pool", "Query", "rounds"]
