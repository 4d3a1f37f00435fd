"""Old path of `experiments.arena.tasks`: goes when active_adaptation imports from there."""

from experiments.arena.tasks import BASE as BASE
from experiments.arena.tasks import OWN as OWN
