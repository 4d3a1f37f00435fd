"""A scikit-learn estimator as the learner: cloned and fitted in each round on the source and all labels bought so far.

    probs[n, c] = P(y_n = classes[c])        classes: all labels of source and pool; a class not fitted yet has 0

Shapes: N samples of the pool; S source samples; n samples; C classes; F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from active.pool import Pool
from dan.errors import UserError
from dan.mmd import domain_probabilities

FOLDS = 5  # of the classifier that tells the domains apart


class SklearnLearner:
    """See `active.learner.Learner`; `active.rounds(pool, strategy, learner=SklearnLearner(estimator, X))`.

    estimator: any classifier with predict_proba; it is cloned, and stays as it is.
    X: (N, F) or what the estimator takes; row i is sample i: the pool's ids are rows of X.
    source: (X, y), labelled samples that are learned in each round, too. Labels are those of the pool: numbers as they
        are (1, 2, 3 or -1, +1), texts as texts.
    tests: further data sets (X, y) by name, for "accuracy/NAME" in the records.

    model: the estimator as fitted last. A strategy is given probs and, of numeric X, features and source_features.
    Raises UserError for an estimator without predict_proba, and for samples and labels of different numbers.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        *,
        source: tuple[Any, Any] | None = None,
        tests: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        if not hasattr(estimator, "fit") or not hasattr(estimator, "predict_proba"):
            raise UserError(
                f"{type(estimator).__name__} has no predict_proba, which strategies need: wrap it in "
                "sklearn.calibration.CalibratedClassifierCV, or take another classifier"
            )
        self.estimator, self.X = estimator, np.asarray(X)
        self.source = None if source is None else _pair("source", *source)
        self.tests = {name: _pair(name, *pair) for name, pair in (tests or {}).items()}
        self.model: Any = None
        self.classes: tuple[Any, ...] = ()  # the label of each column of the probs
        self._codes: tuple[int, ...] = ()  # the same as the pool has them

    def make_estimator(self, round: int) -> Any:
        """A fresh estimator for this round: a clone. To be overridden, such as for a random state of each round."""
        from sklearn.base import clone

        return clone(self.estimator)

    def fit(self, pool: Pool, round: int) -> None:
        """Fit a fresh estimator. Raises UserError where nothing is labelled."""
        rows, labels = pool.labelled_ids.numpy(), self._labels_of(pool)
        highest = int(pool.ids.max())
        if highest >= len(self.X) or int(pool.ids.min()) < 0:
            raise UserError(f"id {highest} of the pool is no row of X, which has {len(self.X)}: the ids are rows of X")
        if self.source is not None:
            x, y = self.source
            data = (np.concatenate([x, self.X[rows]]), np.concatenate([y, labels])) if len(rows) else (x, y)
        elif len(rows):
            data = (self.X[rows], labels)
        else:
            raise UserError("round 0 has nothing to learn: give source=(X, y), or label some samples of the pool first")
        self._set_classes(pool, data[1])
        self.model = self.make_estimator(round).fit(*data)

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Any]:
        """probs and classes; of numeric X also features, and with a source source_features and source_targets."""
        x = self.X[ids.numpy()]
        fields: dict[str, Any] = {"probs": self.predict_proba(x), "classes": torch.tensor(self._codes)}
        if np.issubdtype(self.X.dtype, np.number):
            fields["features"] = _features(x)
            if self.source is not None:
                column = {label: i for i, label in enumerate(self.classes)}
                fields["source_features"] = _features(self.source[0])
                fields["source_targets"] = torch.tensor([column[label] for label in self.source[1].tolist()])
                if "domain_probs" in needs:
                    folds = max(2, min(FOLDS, len(ids), len(self.source[1])))
                    pair = fields["source_features"], fields["features"]
                    fields["domain_probs"] = domain_probabilities(*pair, folds=folds)[1]
        return fields

    def evaluate(self) -> dict[str, float]:
        """Accuracy on each of the tests."""
        return {f"accuracy/{name}": float(np.mean(self.predict(x) == y)) for name, (x, y) in self.tests.items()}

    def predict_proba(self, x: Any) -> Tensor:
        """Class probabilities (n, C), float64, a column for each of `classes`."""
        if self.model is None:
            raise UserError("this learner is not trained yet: call its fit(pool, round) first")
        column = {label: i for i, label in enumerate(self.classes)}
        probs = torch.zeros(len(x), len(self.classes), dtype=torch.float64)
        columns = torch.tensor([column[label] for label in np.asarray(self.model.classes_).tolist()])
        probs[:, columns] = torch.as_tensor(np.asarray(self.model.predict_proba(x)), dtype=torch.float64)
        return probs

    def predict(self, x: Any) -> np.ndarray:
        """The most probable class of each sample (n,), as the source and the pool name it."""
        return np.asarray(self.classes)[self.predict_proba(x).argmax(1).numpy()]

    def _labels_of(self, pool: Pool) -> np.ndarray:
        """The pool's labels (L,) as the source has them."""
        labels = pool.labels.numpy()
        return labels if pool.classes is None else np.asarray(pool.classes)[labels]

    def _set_classes(self, pool: Pool, fitted: np.ndarray) -> None:
        """Which label each column stands for: those of the pool, and those that only the source has."""
        if pool.classes is None:
            labels = set(fitted.tolist()) | (set(pool.oracle(pool.ids).tolist()) if pool.has_oracle else set())
            texts = [label for label in labels if isinstance(label, str)]
            if texts:
                raise UserError(
                    f'the source has labels of text ("{min(texts)}"), and the pool has numbers: give Pool the texts'
                )
            fractions = [label for label in labels if label != int(label)]
            if fractions:
                raise UserError(f"label {fractions[0]} is no class: labels are whole numbers or texts")
            self.classes = tuple(sorted(labels))
            self._codes = tuple(int(label) for label in self.classes)
            return
        others = sorted(set(fitted.tolist()) - set(pool.classes))
        self.classes = (*pool.classes, *others)
        self._codes = tuple(range(len(self.classes)))


def _pair(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """(samples, labels) as arrays. Raises UserError for different numbers of them."""
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or y.ndim != 1 or not len(y):
        raise UserError(f"{name} has {len(x)} samples, and labels of shape {y.shape}: give one label for each sample")
    return x, y


def _features(x: np.ndarray | Sequence[Any]) -> Tensor:
    """Samples as vectors (n, F), float64."""
    return torch.as_tensor(np.asarray(x, dtype=np.float64)).flatten(1)
