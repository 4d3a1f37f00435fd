"""What a validator reads of a trained network: outputs for held-out source and for target samples.

No field holds a target label. Whatever a rule needs beyond outputs is a function: a forward pass on mixed target
samples, or a classifier that is trained on the target's predictions.

Shapes: N held-out source samples; M target samples; F features of the last hidden layer; D features of the input;
C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dan.data.batches import fetch
from dan.data.inputs import Input, as_labelled, as_unlabelled, dtype_of
from dan.evaluation.metrics import predict
from dan.evaluation.temperature import fit_temperature
from dan.models.dan import DAN

MixedLogits = Callable[[Tensor, Tensor, float], Tensor]
ReversePrediction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidatorInputs:
    """Outputs of one network. Only target_logits is required; each rule says what else it needs (`VALIDATORS`).

    target_logits: (M, C), M >= 1, C >= 2. source_logits, source_labels: (N, C) and (N,) of source samples that were
    NOT trained on: accuracies of training samples are too high for every rule that reads them. source_features,
    target_features: (N, F) and (M, F), the last hidden layer.
    mixed_logits: called as mixed_logits(first, second, share), where first and second are (K,) target rows; returns the
    logits (K, C) of the samples share x[first] + (1 - share) x[second].
    reverse_prediction: called with classes (M,) of the target; trains a classifier on the target samples with these
    classes, and returns its classes (N,) for the held-out source samples.

    Raises ValueError for shapes that do not fit, values that are not finite, and labels outside 0 .. C - 1.
    """

    target_logits: Tensor
    source_logits: Tensor | None = None
    source_labels: Tensor | None = None
    source_features: Tensor | None = None
    target_features: Tensor | None = None
    mixed_logits: MixedLogits | None = None
    reverse_prediction: ReversePrediction | None = None

    def __post_init__(self) -> None:
        if self.target_logits.ndim != 2 or not len(self.target_logits) or self.num_classes < 2:
            raise ValueError(f"target_logits must be (M, C), M >= 1, C >= 2, not {tuple(self.target_logits.shape)}")
        of_source = next((x for x in (self.source_logits, self.source_labels) if x is not None), None)
        n = None if of_source is None else len(of_source)
        for name, rows, columns in (
            ("target_logits", len(self.target_logits), self.num_classes),
            ("source_logits", n, self.num_classes),
            ("target_features", len(self.target_logits), None),
            ("source_features", n, None if self.target_features is None else self.target_features.shape[-1]),
        ):
            _check_matrix(name, getattr(self, name), rows, columns)
        if self.source_labels is not None:
            _check_labels(self.source_labels, n, self.num_classes)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.target_logits.shape[1]

    def calibrated(self) -> ValidatorInputs:
        """The same with all logits divided by the temperature that fits the held-out source.

        Rules that read confidence (entropy, information, nuclear norm, MaNo, ATC) compare networks better at one scale
        of their logits. Predictions do not change. Raises ValueError without source_logits and source_labels.
        Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
        """
        logits, labels = self.labelled_source("calibration")
        t = fit_temperature(logits, labels).temperature
        return replace(self, source_logits=logits / t, target_logits=self.target_logits / t)

    def labelled_source(self, rule: str) -> tuple[Tensor, Tensor]:
        """source_logits and source_labels. Raises ValueError, with the name of the rule, where one is missing."""
        if self.source_logits is None or self.source_labels is None:
            raise ValueError(missing(rule, "source_logits and source_labels of held-out source samples"))
        return self.source_logits, self.source_labels

    def features(self, rule: str) -> tuple[Tensor, Tensor]:
        """source_features and target_features. Raises ValueError, with the name of the rule, where one is missing."""
        if self.source_features is None or self.target_features is None:
            raise ValueError(missing(rule, "source_features and target_features"))
        return self.source_features, self.target_features


def missing(rule: str, fields: str) -> str:
    """The message of a rule whose input is not there."""
    return f"the validator {rule} needs {fields}: pass them to ValidatorInputs"


def validator_inputs(
    model: DAN,
    source_holdout: Input,
    target: Input,
    *,
    batch_size: int = 500,
    start: int = 0,
    reverse_features: tuple[Tensor, Tensor] | None = None,
) -> ValidatorInputs:
    """What every validator needs of a network, by one evaluation pass over each data set.

    source_holdout: (X, y) or a data set of (x, y), labelled and not trained on. target: X or a data set; its labels are
    not read. start: as in `dan.evaluation.metrics.predict`. reverse_features: (N, D) of the source and (M, D) of the
    target, which do NOT depend on the network, such as the outputs of a frozen backbone; with them `circular` is
    available, by `linear_reverse`. The network's own features would only give its last layer back.
    mixed_logits keeps a reference to the model: ask before it is trained on.
    Raises UserError as `predict`, and ValueError as `ValidatorInputs`.
    """
    dtype = dtype_of(model)
    source = as_labelled(source_holdout, name="source_holdout", dtype=dtype)
    unlabelled = as_unlabelled(target, name="target", dtype=dtype)
    of_source, labels = predict(model, source, batch_size=batch_size, start=start)
    of_target, _ = predict(model, unlabelled, batch_size=batch_size, start=start)

    def mixed_logits(first: Tensor, second: Tensor, share: float) -> Tensor:
        parts = []
        for a, b in zip(first.split(batch_size), second.split(batch_size), strict=True):
            mixed = share * fetch(unlabelled, a)[0] + (1 - share) * fetch(unlabelled, b)[0]
            parts.append(predict(model, mixed, start=start)[0].logits)
        return torch.cat(parts)

    return ValidatorInputs(
        target_logits=of_target.logits,
        source_logits=of_source.logits,
        source_labels=labels,
        source_features=of_source.features,
        target_features=of_target.features,
        mixed_logits=mixed_logits,
        reverse_prediction=None if reverse_features is None else linear_reverse(*reverse_features),
    )


def linear_reverse(source: Tensor, target: Tensor) -> ReversePrediction:
    """A reverse prediction by logistic regression on fixed features source (N, D) and target (M, D).

    Features are standardised by the target, the domain that is trained on (scikit-learn's classifier, C = 1). One class
    alone is predicted everywhere. Raises ValueError for other shapes.
    """
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(f"source and target must be (N, D), (M, D), not {tuple(source.shape)}, {tuple(target.shape)}")

    def reverse_prediction(classes: Tensor) -> Tensor:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(classes.unique()) == 1:
            return classes[:1].expand(len(source)).clone()
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(target.detach().cpu().double().numpy(), classes.cpu().numpy())
        return torch.from_numpy(classifier.predict(source.detach().cpu().double().numpy()))

    return reverse_prediction


def _check_matrix(name: str, values: Tensor | None, rows: int | None, columns: int | None) -> None:
    if values is None:
        return
    if values.ndim != 2 or (rows is not None and len(values) != rows) or columns not in (None, values.shape[1]):
        expected = f"({'N' if rows is None else rows}, {'F' if columns is None else columns})"
        raise ValueError(f"{name} must be {expected}, not {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values: look for a training that diverged")


def _check_labels(labels: Tensor, rows: int | None, num_classes: int) -> None:
    if labels.shape != (rows,) or not len(labels) or labels.is_floating_point():
        raise ValueError(f"source_labels must be class numbers (N,), one a row of source_logits: {tuple(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"source_labels must be classes 0 to {num_classes - 1}")
