"""DANClassifier: a Deep Adaptation Network as a scikit-learn estimator, for arrays in memory.

    DANClassifier().fit(X, y, X_target=Xt).predict(Xt)

X, y are the labelled source; X_target is the unlabelled target, to which the network is adapted. Without X_target the
network is trained on (X, y) alone.

Shapes: N, M samples; F features; C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from dan.evaluation.metrics import predict
from dan.models.dan import DAN
from dan.training.config import TrainConfig
from dan.training.trainer import fit


class DANClassifier(ClassifierMixin, BaseEstimator):
    """A network that is trained on a labelled source and adapted to an unlabelled target by multi-kernel MMD.

    backbone: None takes the features as they are (2-D X), or LeNet (4-D X); a name of `dan.models.registry`, or any
        nn.Module to (N, F), which is copied. layers: widths of the hidden task-specific layers.
    trade_off: lambda >= 0, the weight of the alignment. steps: training steps.
    method: what aligns the domains, such as "dan", "dann", "jan"; None: that of `config`.
    config: how to train (`TrainConfig`); a batch is never larger than a domain. None: the defaults.
    device: "cpu", "cuda", "mps" or "auto". random_state: an int gives the same network at every fit.
    verbose: show a progress bar.

    After `fit`: classes_ (C,), the labels as given, in sorted order; model_, the `DAN`; n_features_in_.
    Source: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015.
    """

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        layers: Sequence[int] = (64,),
        trade_off: float = 1.0,
        steps: int = 1000,
        method: str | None = None,
        config: TrainConfig | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.trade_off = trade_off
        self.steps = steps
        self.method = method
        self.config = config
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, X_target: Any = None) -> DANClassifier:
        """Train on source X (N, F) or (N, channels, H, W), labels y (N,) of any kind, and target X_target (M, ...).

        Raises ValueError for NaN, for fewer than two classes, and where X and X_target differ in shape.
        """
        X, y = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_[0]!r}: give at least two classes")
        if X.ndim not in (2, 4):
            raise ValueError(f"X must be features (N, F) or images (N, channels, H, W), not {X.shape}")
        target = X if X_target is None else self._samples(X_target, ensure_min_samples=2)
        if target.shape[1:] != X.shape[1:]:
            raise ValueError(f"X has samples of shape {X.shape[1:]}, and X_target {target.shape[1:]}: make them equal")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.model_ = self._network(X, seed)
        fit(
            self.model_,
            (X, codes),
            target,
            trade_off=0.0 if X_target is None else self.trade_off,
            steps=self.steps,
            seed=seed,
            config=self._config(min(len(X), len(target))),
            log_mmd=False,
            device=self.device,
            verbose=self.verbose,
        )
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Class probabilities (N, C), float32, in the order of `classes_`. Raises NotFittedError before `fit`."""
        check_is_fitted(self)
        output, _ = predict(self.model_, self._samples(X))
        return output.logits.double().softmax(1).float().numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each sample (N,), as y had it. Raises NotFittedError before `fit`."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def _samples(self, X: Any, **options: Any) -> NDArray[Any]:
        """X checked against what was fitted."""
        return validate_data(self, X, reset=False, allow_nd=True, **options)

    def _network(self, X: NDArray[Any], seed: int) -> DAN:
        backbone = copy.deepcopy(self.backbone)
        if backbone is None:
            backbone = "features" if X.ndim == 2 else f"lenet:{X.shape[1]}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return DAN(backbone, len(self.classes_), layers=self.layers)

    def _config(self, smallest: int) -> TrainConfig:
        """The configuration, with a batch of at most `smallest` samples and one evaluation, at the end."""
        config = self.config or TrainConfig()
        return replace(
            config,
            method=self.method or config.method,
            batch_size=min(config.batch_size, smallest),
            evaluate_every=max(1, self.steps),
        )
