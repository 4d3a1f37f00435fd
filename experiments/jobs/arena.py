"""Old path of `experiments.arena.data`: goes when active_adaptation and asked_pictures import from there."""

from experiments.arena.data import Place as Place
from experiments.arena.data import load_train_config as load_train_config
from experiments.arena.data import network as network
from experiments.arena.data import outputs_of as outputs_of
from experiments.arena.data import sides_of as sides_of
from experiments.arena.data import started as started
from experiments.arena.tasks import BACKBONE as BACKBONE
from experiments.arena.tasks import TEN_CLASS as TEN_CLASS
from experiments.arena.trial import unmet as unmet
