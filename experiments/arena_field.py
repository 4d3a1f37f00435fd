"""Old path of `experiments.arena.tasks`: goes when active_adaptation imports from there."""

from experiments.arena.tasks import STRATEGIES as STRATEGIES
from experiments.arena.tasks import TASKS as TASKS
