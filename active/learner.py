"""The learner of active learning: what is trained in each round, and what a strategy is given of it.

    for each round:  learner.fit(pool, round);  fields = learner.query_fields(pool.ids, needs);  learner.evaluate()

A learner of one's own is a class with these three methods:

    class NearestMean:
        def __init__(self, x):
            self.x = x                                                     # (N, F), row i is sample i of the pool

        def fit(self, pool, round):
            rows, labels = self.x[pool.labelled_ids], pool.labels
            self.means = torch.stack([rows[labels == c].mean(0) for c in range(3)])

        def query_fields(self, ids, needs):
            return {"probs": (-torch.cdist(self.x[ids], self.means)).softmax(1), "features": self.x[ids]}

        def evaluate(self):
            return {}

Shapes: n samples; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from active.pool import Pool
from dan.errors import UserError


class Learner(Protocol):
    """A model that is trained in rounds. `active.rounds(pool, strategy, learner=...)` takes any."""

    def fit(self, pool: Pool, round: int) -> None:
        """Train on `pool.labelled_ids` and `pool.labels` (none in round 0), from scratch or from the last round on."""

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> Mapping[str, Any]:
        """Fields of an `active.Query` for these global ids (n,), in their order: at least "probs" (n, C).

        needs: the fields that the strategy requires; others may be left out. Fields that are not per sample
        ("source_features", "kernel", ...) are of the whole set. Column c of the probs is the label c; where labels are
        others than 0, ..., C - 1, "classes" (C,) names the label of each column.
        """
        ...

    def evaluate(self) -> Mapping[str, float]:
        """More figures for the round's record, such as {"accuracy/target_test": 0.93}; {} if there are none."""
        ...


class FunctionLearner:
    """Three functions as a learner: fit(pool, round) -> model, predict(model, ids) -> fields, evaluate(model)."""

    def __init__(
        self,
        fit: Callable[[Pool, int], Any],
        predict: Callable[[Any, Tensor], Mapping[str, Any]],
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    ) -> None:
        self._fit, self._predict, self._evaluate = fit, predict, evaluate
        self.model: Any = None

    def fit(self, pool: Pool, round: int) -> None:
        """Keep the model that the function returns."""
        self.model = self._fit(pool, round)

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> Mapping[str, Any]:
        """What the function predict returns."""
        return self._predict(self.model, ids)

    def evaluate(self) -> Mapping[str, float]:
        """What the function evaluate returns, if there is one."""
        return {} if self._evaluate is None else self._evaluate(self.model)


def as_learner(
    learner: Learner | None,
    fit: Callable[[Pool, int], Any] | None,
    predict: Callable[[Any, Tensor], Mapping[str, Any]] | None,
    evaluate: Callable[[Any], Mapping[str, float]] | None,
) -> Learner:
    """The learner, or the functions as one. Raises UserError for both, for neither, and for an incomplete learner."""
    if learner is None:
        if fit is None or predict is None:
            raise UserError("rounds trains a learner: give learner=, or the functions fit= and predict=")
        return FunctionLearner(fit, predict, evaluate)
    if fit is not None or predict is not None or evaluate is not None:
        raise UserError("a learner brings its own fit, predict and evaluate: give learner=, or the functions")
    missing = [name for name in ("fit", "query_fields", "evaluate") if not callable(getattr(learner, name, None))]
    if missing:
        hint = ": wrap an estimator in active.learners.sklearn.SklearnLearner" if hasattr(learner, "predict") else ""
        raise UserError(f"{type(learner).__name__} is not a learner, for it has no {missing[0]}(){hint}")
    return learner
