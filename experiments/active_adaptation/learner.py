"""The learner of active_adaptation: one training with queries at epochs, begun by the trial `begin`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from active.pool import Pool
from dan.training.config import TrainConfig
from experiments.arena.trial import ArenaLearner


class AdaptationLearner(ArenaLearner):
    """One training with queries at epochs, evaluated at each epoch after the last query.

    last: the `TrainConfig` of the part after the last query; the others are not evaluated.
    """

    def __init__(self, *args: Any, last: TrainConfig, **options: Any) -> None:
        super().__init__(*args, **options)
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
