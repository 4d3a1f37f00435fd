"""The learners of the arena and of active_adaptation: a `DANLearner` in memory, with the fields that `shown_to` gives.

ArenaLearner        rounds: fine-tunes the start
AdaptationLearner   one training with queries at epochs, which the trial `begin` took to the first query
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from active.learners.dan import DANLearner
from active.learners.rounds_config import RoundsConfig
from active.pool import Pool, Query
from active.strategies import resolve_strategy
from dan.data.batches import num_samples
from dan.training.config import TrainConfig
from experiments.jobs.arena import Place, shown_to, started


class ArenaLearner(DANLearner):
    """A learner of one task, from the network in the folder `start`. seconds: CPU time of the last `query_fields`."""

    def __init__(
        self, place: Place, task: str, start: Path, strategy: str, rounds: RoundsConfig, config: TrainConfig, seed: int
    ) -> None:
        model, _, data = started(place, task, start, seed)
        super().__init__(data, model, rounds, seed=seed, config=config)
        self.place, self.name, self.begun, self.strategy = place, task, start, strategy
        self.seconds = 0.0

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Any]:
        """See `experiments.jobs.arena.shown_to`."""
        assert len(ids) == num_samples(self.task.target)  # the loop queries the whole pool
        began = time.process_time()
        fields = shown_to(self.strategy, self.trained, self.place, self.name, self.begun, self.seed)
        self.seconds = time.process_time() - began
        return fields


class AdaptationLearner(ArenaLearner):
    """One training with queries at epochs, evaluated at each epoch after the last query.

    last: the `TrainConfig` of the part after the last query; the others are not evaluated.
    """

    def __init__(self, *args: Any, last: TrainConfig) -> None:
        super().__init__(*args)
        self.last = last

    def fit(self, pool: Pool, round: int) -> None:
        """The network as it was begun in round 0; else the next part of the training."""
        if round:
            super().fit(pool, round)
        else:
            self.model = self._started()

    def previous(self, round: int) -> Path:
        """The part before, or the begun training where there is none."""
        folder = self.folder(round - 1)
        return folder if folder.is_dir() else self.begun

    def fit_options(self, pool: Pool, round: int) -> Mapping[str, Any]:
        """Evaluations in the last part only, on the never-queried samples, too."""
        options: dict[str, Any] = {"log_mmd": False}
        if round == len(self.rounds.query_epochs):
            unqueried = Subset(self.task.target, pool.unlabelled_ids.tolist())
            options |= {"config": self.last, "tests": {**self.task.splits, "unqueried": unqueried}}
        return options

    def evaluate(self) -> dict[str, float]:
        """Nothing: the last part has evaluations of its own."""
        return {}


class Timed:
    """A strategy that notes the CPU seconds of its last query."""

    def __init__(self, strategy: str) -> None:
        self._strategy, self.needs = resolve_strategy(strategy)
        self.seconds: dict[str, float] = {}

    def __call__(self, query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        began = time.process_time()
        ids = self._strategy(query, budget, generator=generator)
        self.seconds = {"seconds/query": time.process_time() - began}
        return ids
